/*-------------------------------------------------------------------------
 *
 * database_hooks.h
 *	  How databases, the extension in them, and roles come and go.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_DATABASE_HOOKS_H
#define PGPUBSUB_DATABASE_HOOKS_H

#include "base/pgpubsub.h"

extern void database_hooks_init(void);

#endif							/* PGPUBSUB_DATABASE_HOOKS_H */
