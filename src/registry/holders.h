/*-------------------------------------------------------------------------
 *
 * holders.h
 *	  Which subscriptions hold the queue, and how far they are behind.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_HOLDERS_H
#define PGPUBSUB_HOLDERS_H

#include "base/pgpubsub.h"
#include "registry/registry.h"

/* What a subscription, or one of its bindings, has not consumed. */
typedef struct Backlog
{
	uint64		pending;		/* events in the queue */
	uint64		unlogged;		/* those of them that are not in the log */
	uint64		bytes;			/* their payloads */
	uint64		lost;			/* events gone, not reported yet */
	TimestampTz oldest_at;		/* if pending > 0 */
	bool		in_log;			/* the log may have more, or was read further */
	bool		next_in_log;	/* and is to be asked for the next event */
} Backlog;

/* A subscription that holds the queue, for messages. */
typedef struct Holder
{
	char		name[NAMEDATALEN];
	OnFull		on_full;
	int			reader_pid;		/* 0: none */
	Backlog		backlog;
} Holder;

/*
 * A subscription whose reader this transaction is.  The list own_readings, the
 * newest first, is kept by read/claim.c.
 */
typedef struct OwnReading
{
	slist_node	node;
	Subscription *subscription;
	bool		uncommitted;	/* commit will write a position or a change */
} OwnReading;

extern slist_head own_readings;
extern bool transaction_may_be_awaited(void);

/* database->lock held, exclusive if it says so */
extern void hold_add_backlog(Database *database, Binding *binding,
							 Backlog *backlog);
extern void hold_start(Database *database, Subscription *subscription); /* exclusive */
extern void hold_start_binding(Database *database, Binding *binding);	/* exclusive */

/* these take the lock */
extern bool hold_recompute(Database *database, int channel, uint64 number);
extern bool hold_evict(Database *database, int channel, uint64 number,
					   bool whatever, Holder *evicted);
extern bool hold_mark(Database *database, int channel, uint64 number);
extern void hold_unmark_all(Database *database);
extern bool hold_find_holder(Database *database, int channel, uint64 number,
							 Holder *holder);
extern bool hold_find_awaited(Database *database, bool block, Holder *holder);
extern void hold_again(Database *database, Subscription *subscription,
					   uint32 generation);
extern char *hold_describe(const Holder *holder);

#endif							/* PGPUBSUB_HOLDERS_H */
