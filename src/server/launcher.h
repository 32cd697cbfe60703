/*-------------------------------------------------------------------------
 *
 * launcher.h
 *	  Which databases have a relay.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_LAUNCHER_H
#define PGPUBSUB_LAUNCHER_H

#include "base/pgpubsub.h"

extern void launcher_init(void);
extern PGDLLEXPORT void pgpubsub_launcher_main(Datum arg);

#endif							/* PGPUBSUB_LAUNCHER_H */
