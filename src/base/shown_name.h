/*-------------------------------------------------------------------------
 *
 * shown_name.h
 *	  Names from other databases, in this one's encoding.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_SHOWN_NAME_H
#define PGPUBSUB_SHOWN_NAME_H

#include "base/pgpubsub.h"

/* The encoding of names that are shown as they are. */
#define SHOWN_AS_IS		(-1)

extern int	shown_name_encoding(Oid database);
extern const char *shown_name(const char *name, int encoding);

#endif							/* PGPUBSUB_SHOWN_NAME_H */
