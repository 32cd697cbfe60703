/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  What the launcher and the relays have in common.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_WORKER_H
#define PGPUBSUB_WORKER_H

#include "base/pgpubsub.h"

extern void worker_exit_if_terminated(int code);

#endif							/* PGPUBSUB_WORKER_H */
