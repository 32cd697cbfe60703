/*-------------------------------------------------------------------------
 *
 * reader.h
 *	  Being a subscription's reader: claim, position, commit.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_READER_H
#define PGPUBSUB_READER_H

#include "base/pgpubsub.h"
#include "registry/registry.h"

#include "datatype/timestamp.h"
#include "fmgr.h"

/* This transaction's position in one of the subscription's channels. */
typedef struct Cursor
{
	Binding    *binding;
	int			channel;
	uint64		number;			/* of the last event consumed */
	RingPos		pos;			/* of it or one before, or RING_NONE */
	uint64		delivered;		/* consumed by this transaction */
	uint64		lost;			/* found missing by this transaction */
} Cursor;

/* All that a rollback to a savepoint has to bring back. */
typedef struct Position
{
	Cursor	   *cursors;		/* to read, then kept ones */
	int			ncursors;		/* to read */
	int			nkept;			/* moved, of channels that are being dropped */
	uint64		gap_seen;
	uint64		seq;
	uint64		delivered_bytes;
	bool		consumed;		/* anything that commit has to write */
} Position;

typedef struct SavedPosition
{
	int			level;			/* nesting level that moved away from it */
	Position	position;
	struct SavedPosition *upper;
} SavedPosition;

/* A subscription that this transaction reads, until it ends. */
typedef struct Claim
{
	Database   *database;
	uint32		database_generation;
	Subscription *subscription;
	uint32		generation;
	int			level;			/* nesting level that claimed it */
	int			changing_level; /* that subscribed or unsubscribed, or 0 */
	uint32		bindings_version;	/* that cursors reflect ... */
	uint64		gap_epoch;		/* that their numbers reflect ... */
	bool		synced;			/* ... if this is true */
	bool		handed_out;		/* poll() has consumed, for the client */
	Position	position;
	SavedPosition *saved;		/* innermost first */
	struct Claim *next;
} Claim;

extern const char *reader_name(FunctionCallInfo fcinfo);
extern const char *reader_text_name(FunctionCallInfo fcinfo);
extern void reader_check_name(const char *name);
extern Database *reader_database(const char *function);
extern bool reader_relay_left(Database *database);
extern void reader_expect_relay(Database *database);
extern void reader_wait_for_relay(Database *database, TimestampTz deadline);
extern bool reader_visible(Subscription *subscription);
extern int64 reader_timeout(const Interval *timeout);
extern void reader_no_subscription(const char *name);
extern Subscription *reader_find_replacing(Database *database,
										   const char *name, int *pid);
extern void reader_check_owner(const char *name, Oid owner);
extern Oid	reader_subscription_owner(Database *database, const char *name);
extern Oid	reader_wanted_owner(Database *database, const char *name);
extern Claim *reader_claim(Database *database, const char *name,
						   TimestampTz deadline, bool change);
extern void reader_sync(Claim *claim);
extern void reader_save(Claim *claim);
extern bool reader_claim_valid(Claim *claim);
extern bool reader_shall_step_aside(Claim *claim);
extern bool reader_step_aside(Claim *claim);
extern void reader_consume(Claim *claim);
extern void reader_note_call(void);

/* for the ends of transactions, see subscribe.c */
extern void reader_pre_prepare(void);
extern void reader_pre_commit(void);
extern void reader_publish_at_commit(void);
extern void reader_at_commit(void);
extern void reader_at_abort(void);
extern void reader_at_subcommit(int level);
extern void reader_at_subabort(int level);

#endif							/* PGPUBSUB_READER_H */
