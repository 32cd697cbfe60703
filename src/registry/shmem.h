/*-------------------------------------------------------------------------
 *
 * shmem.h
 *	  Shared memory: how much, and what outlives the server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_SHMEM_H
#define PGPUBSUB_SHMEM_H

#include "base/pgpubsub.h"

extern void shmem_init(void);

#endif							/* PGPUBSUB_SHMEM_H */
