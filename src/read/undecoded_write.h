/*-------------------------------------------------------------------------
 *
 * undecoded_write.h
 *	  Writing a table without logical decoding seeing it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_UNDECODED_WRITE_H
#define PGPUBSUB_UNDECODED_WRITE_H

#include "base/pgpubsub.h"

#include "utils/relcache.h"

extern bool undecoded_begin(Relation relation);
extern void undecoded_end(void);

#endif							/* PGPUBSUB_UNDECODED_WRITE_H */
