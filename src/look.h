/*-------------------------------------------------------------------------
 *
 * look.h
 *	  What the last look of this session has shown.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_LOOK_H
#define PGPUBSUB_LOOK_H

#include "reader.h"

extern void look_begin(Subscription *subscription, int max_messages);
extern void look_remember(int channel, uint64 seq, uint64 number, bool missed);
extern void look_end(uint64 number);
extern bool look_remembered(Claim *claim);
extern uint64 look_count_shown(Cursor *cursor, uint64 seq, uint64 number,
							   uint64 *last);

#endif							/* PGPUBSUB_LOOK_H */
