/*-------------------------------------------------------------------------
 *
 * log.h
 *	  The log of durable channels: what this room offers to the others.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_LOG_H
#define PGPUBSUB_LOG_H

#include "base/pgpubsub.h"
#include "registry/registry.h"

#include "access/htup.h"
#include "access/xlogdefs.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"
#include "utils/timestamp.h"

/* The user and security context before own_relation_become_owner(). */
typedef struct OwnRelationUser
{
	Oid			user;
	int			sec_context;
} OwnRelationUser;

/* The relations of the log. */
typedef enum LogKind
{
	LOG_ROWS,					/* of a segment: the events */
	LOG_NOTES,					/* of a segment: which seqs they have */
	LOG_POSITION				/* how far subscriptions have read */
} LogKind;

#define LOG_KINDS	(LOG_POSITION + 1)

/* Columns of LOG_ROWS, in order. */
enum
{
	LOG_ROW_XID = 1,			/* the transaction, with its epoch */
	LOG_ROW_LSN,				/* where the WAL ended when it began to write */
	LOG_ROW_NUMBER,				/* of the event in its transaction */
	LOG_ROW_PID,
	LOG_ROW_AT,
	LOG_ROW_NOTIFIED,			/* native listeners got it already */
	LOG_ROW_CHANNEL,
	LOG_ROW_ID,
	LOG_ROW_PAYLOAD,
	LOG_ROW_NATIVE,				/* what native listeners get instead, or NULL */
	LOG_ROW_COLUMNS = LOG_ROW_NATIVE
};

/* Columns of LOG_NOTES, in order. */
enum
{
	LOG_NOTE_CHANNEL = 1,
	LOG_NOTE_FIRST_SEQ,
	LOG_NOTE_LAST_SEQ,
	LOG_NOTE_EVENTS_BEFORE,		/* of the channel, ever */
	LOG_NOTE_BYTES_BEFORE,		/* of their payloads */
	LOG_NOTE_EVENTS,
	LOG_NOTE_BYTES,
	LOG_NOTE_AT,
	LOG_NOTE_RUNS,				/* of LogRun */
	LOG_NOTE_COLUMNS = LOG_NOTE_RUNS
};

/* Columns of LOG_POSITION, in order. */
enum
{
	LOG_POSITION_ID = 1,		/* the subscription's; 0: the highest seq that
								 * may be used */
	LOG_POSITION_VERSION,		/* the highest one counts */
	LOG_POSITION_SEQ,			/* up to which it has consumed */
	LOG_POSITION_LOST,			/* events lost and not told yet; -1: so many
								 * that it is not known */
	LOG_POSITION_CHANNELS,		/* channels that are elsewhere, ... */
	LOG_POSITION_SEQS,			/* ... and where */
	LOG_POSITION_COLUMNS = LOG_POSITION_SEQS
};

/*
 * Rows of one transaction and one channel that lie one after the other on a
 * page of a segment, and have seqs one after the other.
 */
typedef struct LogRun
{
	uint64		seq;			/* the first row's */
	TransactionId xid;
	BlockNumber block;
	OffsetNumber offset;		/* the first row's */
	uint16		count;
} LogRun;

/*
 * The rows of a transaction that are in the log and not in the staging queue:
 * all that have its xid from the first to the last.  In shared memory as the
 * payload of a StagedEvent.
 */
typedef struct LogReference
{
	/* constant */
	uint64		rows;
	BlockNumber first_block;
	BlockNumber last_block;
	OffsetNumber first_offset;
	OffsetNumber last_offset;

	/* the relay alone: the next row to be noted, and to be notified */
	BlockNumber note_block;
	OffsetNumber note_offset;
	BlockNumber notify_block;
	OffsetNumber notify_offset;
} LogReference;

/* An event to be written to the log, and where it was put. */
typedef struct LogEntry
{
	const char *channel;
	const char *id;
	const char *payload;
	Size		payload_len;
	const char *native;			/* or NULL */
} LogEntry;

/* A row of LOG_ROWS; strings are in the current memory context. */
typedef struct LogRow
{
	BlockNumber block;
	OffsetNumber offset;
	TransactionId xid;
	uint64		lsn;
	int			pid;
	bool		notified;
	char	   *channel;
	Size		payload_len;	/* bytes */
	char	   *payload;		/* these two only if they were asked for */
	char	   *native;
	char	   *id;
} LogRow;

/* A row of LOG_NOTES; runs are in the current memory context. */
typedef struct LogNote
{
	char		channel[NAMEDATALEN];
	uint64		first_seq;
	uint64		last_seq;
	uint64		events_before;
	uint64		bytes_before;
	uint32		events;
	uint64		bytes;
	TimestampTz at;
	LogRun	   *runs;			/* none where there are no events */
	int			nruns;
} LogNote;

/* Runs that one note has at most: it must fit on a page. */
#define LOG_MAX_RUNS	300

/* A position, as it is in the log. */
typedef struct LogPosition
{
	int64		id;
	uint64		version;
	uint64		seq;
	uint64		lost;			/* or LOG_LOST_UNKNOWN */
	int			nchannels;
	char	  **channels;
	uint64	   *seqs;
} LogPosition;

/* own_relation.c */
extern Oid	own_relation_find(const char *name, char relkind);
extern bool own_relation_schema_endangers(Oid schema, Oid role);
extern void own_relation_become_owner(Oid relation, OwnRelationUser *before);
extern void own_relation_become_user(const OwnRelationUser *before);

/* undecoded_write.c */
extern bool undecoded_begin(Relation relation);
extern void undecoded_end(void);

/* durable_channels.c */
extern uint64 durable_rules_version(void);
extern bool durable_rules_any(void);
extern bool durable_rules_match(const char *channel);
extern bool durable_rules_cover(const char *pattern);
extern Interval *durable_rules_retain(const char *channel);
extern int64 durable_rules_longest_retain(void);
extern bool durable_rules_match_pattern(const char *channel);
extern bool durable_rules_find(const char *name, bool *durable,
							   Interval *retain);

/* set_durable.c */
extern bool set_durable_writing(void);
extern void set_durable_attached(const char *channel, bool durable);
extern bool set_durable(const char *channel, bool durable, Interval *retain);

/* relations.c */
extern bool log_installed(void);
extern Relation log_open(LogKind kind, int index, LOCKMODE mode);
extern Relation log_try_open(LogKind kind, int index, LOCKMODE mode);
extern void log_lock_unplaced(LOCKMODE mode);
extern void log_unlock_unplaced(LOCKMODE mode);
#ifdef USE_ASSERT_CHECKING
extern bool log_locked_by_writer(void);
#endif
extern Oid	log_oid(LogKind kind, int index);
extern uint64 log_segment_bytes(int segment, uint64 *rows);
extern bool log_row_committed(HeapTupleHeader header);

/* empty.c */
extern bool log_is_empty(LogKind kind, int index);
extern bool log_is_writable(LogKind kind, int index);
extern uint64 log_relation_bytes(LogKind kind, int index);
extern bool log_lock_to_empty(LogKind kind, int index, int patience);
extern void log_empty(LogKind kind, int index);

/* Rows, and bytes of payloads, that are inserted into the log at a time. */
#define LOG_FLUSH_ROWS	400
#define LOG_FLUSH_BYTES	((Size) 256 * 1024)

/* turn.c */
extern uint64 log_share(Database *database);
extern int	log_current(Database *database);
extern bool log_can_turn(Database *database);
extern uint64 log_limit(Database *database, int segment);
extern bool log_turn(Database *database, int from);
extern bool log_show_empty(Database *database, int segment, bool is_empty,
						   uint32 turn);
extern void log_add_rows(Database *database, int segment, BlockNumber last);
extern bool log_has_room(Database *database, int segment, Relation rel);
extern void log_add_long(Database *database, int segment, Size bytes);

/* write.c */
typedef struct LogWriter LogWriter;
extern LogWriter *log_writer_begin(Database *database, bool notified,
								   uint32 nevents, Size bytes, bool over,
								   int *segment);
extern int	log_writer_segment(LogWriter *writer);
extern void log_writer_add(LogWriter *writer, const LogEntry *entry,
						   ItemPointer place);
extern void log_writer_flush(LogWriter *writer);
extern void log_writer_range(LogWriter *writer, LogReference *reference);
extern void log_writer_end(LogWriter *writer);

/* rows.c */
typedef struct LogScan LogScan;
extern LogScan *log_scan_begin(int segment, TransactionId xid, bool payloads);
extern void log_scan_from(LogScan *scan, BlockNumber block,
						  OffsetNumber offset, BlockNumber last_block,
						  OffsetNumber last_offset);
extern bool log_scan_next(LogScan *scan, LogRow *row);
extern void log_scan_end(LogScan *scan);

/* notes.c */
extern void log_note_insert(Relation rel, const LogNote *note);
extern void log_note_parse(Relation rel, HeapTuple tuple, LogNote *note);
extern bool log_note_last(const char *channel, LogNote *note);
extern uint64 log_note_last_seq(int segment, const char *channel);

/* counts.c */
#define LOG_LOST_UNKNOWN	PG_UINT64_MAX
extern bool log_keep_counts(Database *database, int segment);
extern void log_show_counts(Database *database, const LogNote *note);
extern uint64 log_lost(Database *database, const char *channel, uint64 seq,
					   bool *before);

/* reader.c */
typedef struct LogReader LogReader;
typedef struct LogChannel LogChannel;

/* An event that was read back. */
typedef struct LogEvent
{
	uint64		seq;
	int			pid;
	TimestampTz at;
	Size		payload_len;	/* bytes */
	struct varlena *payload;	/* until the channel's next event is read */
} LogEvent;

extern LogReader *log_reader_create(Database *database);
extern LogChannel *log_reader_channel(LogReader *reader, const char *name);
extern bool log_reader_next(LogReader *reader, LogChannel *channel,
							uint64 after, uint64 upto, LogEvent *event);
extern uint64 log_reader_count(LogReader *reader, const char *name,
							   uint64 after, uint64 upto, uint64 *bytes,
							   TimestampTz *oldest_at);
extern uint64 log_reader_since(LogReader *reader, const char *name,
							   TimestampTz time);
extern uint64 log_oldest_seq(Database *database);
extern void log_reader_close(LogReader *reader);

/* positions.c */
extern void log_position_insert(Database *database,
								const LogPosition *position);
extern void log_position_put(Relation rel, const LogPosition *position);
extern List *log_positions_read(int skip);

#endif							/* PGPUBSUB_LOG_H */
