/*-------------------------------------------------------------------------
 *
 * staging_stress.c
 *	  The async queue's protocol under several processes, outside the server.
 *
 * Writers change rows as transactions do: they lock some, take a place in the
 * queue with an event for each, copy the events, and commit or roll back; the
 * rows are released before the place is marked, as in a server.  A relay
 * takes, appends and notifies as relay/staged.c and relay/append.c do; at times
 * there is no room to append, batches fail, and the relay dies and comes back
 * at any point.  While it has nothing to do, writers append and notify at
 * commit, as commit_append.c does.  What is checked:
 *
 * - Each row's committed versions are appended in ascending order, none left
 *	 out, none twice; and, independently, are notified so.
 * - Numbers are given without a gap, restarts of the relay included.
 * - An event's payload is a stream that begins with a hash of its row,
 *	 version, number of bytes and writer: nothing torn or freed is read.
 * - When a pass is over that began after a commit, its event is notified; and
 *	 so is one whose row was free to be locked before.
 * - What it costs to take does not grow with what is behind transactions that
 *	 stay pending; that is counted, in one process.
 * - Who queues up for room has its turn, also if it wants much, and others
 *	 little; that is tried step by step, in one process.
 *
 * usage: staging_stress [SECONDS [SEED]]
 *
 *-------------------------------------------------------------------------
 */
#include "steps.h"

#include "base/compat.h"

/* What the server tells of the process's PGPROC. */
static int	my_process;

#undef PGPUBSUB_MY_PROCNO
#define PGPUBSUB_MY_PROCNO my_process

/* What it costs to take: reads of atomic words, and looks at processes. */
static uint64 looks;

static inline uint32
counted_read_u32(volatile pg_atomic_uint32 *word)
{
	looks++;
	return pg_atomic_read_u32(word);
}

#undef pg_atomic_read_u32
#define pg_atomic_read_u32(word) counted_read_u32(word)
#undef GetPGProcByNumber
#define GetPGProcByNumber(n) (looks++, &ProcGlobal->allProcs[n])

#include "queue/staging.c"
#include "queue/staging_take.c"

#include "harness.h"

#define MAX_ROWS		16
#define MAX_WRITERS		8
#define MAX_EVENTS		4		/* of a transaction */
#define BATCH_EVENTS	20

PROC_HDR   *ProcGlobal;
PGPROC	   *MyProc;
int			MyProcPid;

/* When a transaction has ended, which is not looked at here. */
TimestampTz
GetCurrentTimestamp(void)
{
	return 0;
}
int			MaxBackends = 32;

/* What is tried. */
typedef struct Config
{
	const char *name;
	Size		bytes;			/* of the queue */
	int			nwriters;
	int			nrows;
	uint64		start;			/* first position; 0: as it is */
	uint64		number;			/* before the first */
	int			max_payload;
} Config;

/* Multiples of 8 near the ends of narrower integers. */
#define BEFORE(bits, bytes) ((UINT64CONST(1) << (bits)) - (bytes))

static const Config configs[] = {
	{"staging: one row", 2000, 4, 1, 0, 0, 100},
	{"staging: 4 kB", 4096, 6, 6, 0, 0, 200},
	{"staging: not a power of two", 7777, 6, 4, 0, 0, 500},
	{"staging: many rows", 30000, MAX_WRITERS, MAX_ROWS, 0, 0, 300},
	{"staging: large events", 40008, 4, 8, 0, 0, 4000},
	{"staging: positions over 2^32", 3000, 4, 4, BEFORE(32, 40000), BEFORE(32, 100), 200},
	{"staging: positions over 2^63", 3000, 4, 4, BEFORE(63, 40000), BEFORE(62, 100), 200},
};

/* A row, that transactions lock and change. */
typedef struct Row
{
	int			owner;			/* process + 1, or 0 */
	uint64		version;		/* by the owner */
	uint64		notified;		/* by the relay */
	uint64		appended;		/* by the relay */
} Row;

typedef struct Shared
{
	Row			rows[MAX_ROWS];
	uint64		writers;		/* still running */
	int			turn;			/* 0: free; else whose, process + 1 */
	uint64		last_notified;	/* number */
	uint64		last_appended;	/* number */
	uint64		committed;
	uint64		rolled_back;
	uint64		full;			/* no room at first */
	uint64		waited;			/* got their place in the queue for room */
	uint64		too_full;		/* gave up */
	uint64		passes;			/* waited for */
	uint64		at_commit;		/* transactions appended then */
	uint64		restarts;
	uint64		recovered;		/* events that were taken by a relay that died */
	uint64		ahead;			/* times one mark was beyond the other ... */
	uint64		behind;			/* ... and the other way round */
	uint64		failed;			/* batches */
	uint64		soon;			/* times the relay waited for a mark */
	uint64		overtaken;		/* pending places passed over */
} Shared;

/* What an event says; its payload goes on with a stream. */
typedef struct Body
{
	uint64		hash;
	uint64		version;
	int32		row;
	int32		writer;
} Body;

static const Config *config;
static Staging *staging;
static Shared *shared;
static double deadline;

static uint64
body_hash(const Body *body, Size len)
{
	uint64		h = stress_hash(body->row, body->version);

	return stress_hash(stress_hash(h, body->writer), len);
}

/* The byte at i of a payload. */
static inline char
payload_byte(uint64 hash, Size i)
{
	return (char) ((hash >> (i % 57)) + i);
}

/* Nothing that the relay has to cope with was left out. */
static bool
covered(void)
{
	return shared->committed > 0 && shared->rolled_back > 0 &&
		shared->passes > 0 && shared->restarts > 0 &&
		shared->at_commit > 0 &&
		shared->recovered > 0 && shared->failed > 0 &&
		shared->ahead > 0 && shared->behind > 0 &&
		(config->nrows == 1 || shared->overtaken > 0);
}

/*
 * Writers
 */

typedef struct Change
{
	int			row;
	uint64		version;
	Size		len;			/* of the payload */
} Change;

/* Lock the row, and see its version. */
static void
lock_row(int row)
{
	int			nobody = 0;

	while (!__atomic_compare_exchange_n(&shared->rows[row].owner, &nobody,
										my_process + 1, false,
										__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
	{
		nobody = 0;
		stress_yield();
	}
	steps_drain();
}

/* Choose rows, in ascending order, and lock them. */
static int
choose_changes(Change *changes)
{
	int			count = 0;

	for (int row = (int) stress_random(config->nrows);
		 row < config->nrows && count < MAX_EVENTS;
		 row += 1 + (int) stress_random(config->nrows))
	{
		Change	   *change = &changes[count++];

		lock_row(row);
		change->row = row;
		change->version = shared->rows[row].version + 1;
		change->len = sizeof(Body) + stress_random(config->max_payload);
	}
	return count;
}

/* The channel's name is the row's, so that it has to agree. */
static void
row_name(int row, char *name)
{
	name[0] = 'r';
	name[1] = (char) ('a' + row);
	name[2] = '\0';
}

static Size
event_length(const Change *change)
{
	return staged_event_length(2, 1, change->len, 0);
}

static void
write_event(StagedEvent *event, const Change *change)
{
	char		payload[sizeof(Body) + 8192];
	char		channel[3];
	Body		body = {.version = change->version,.row = change->row,
	.writer = my_process};

	body.hash = body_hash(&body, change->len);
	memmove(payload, &body, sizeof(Body));
	for (Size i = sizeof(Body); i < change->len; i++)
		payload[i] = payload_byte(body.hash, i);
	row_name(change->row, channel);
	staged_event_write(event, channel, "i", payload, change->len, NULL);
}

/*
 * As reserve_place() in publish_async.c.  Some do not wait, some give up when a
 * pass is over, others wait until they have a place.
 */
static StagedTransaction *
reserve(Size len, int nevents)
{
	StagedTransaction *place = staging_reserve(staging, len, nevents, 7, 0);
	int			patience = (int) stress_random(8);
	uint64		pass;

	if (place)
		return place;
	stress_add(&shared->full, 1);
	pass = staging_next_pass(staging);
	staging_queue_up(staging, len);
	for (;;)
	{
		place = staging_reserve_queued(staging, nevents, 7, 0);
		if (place)
		{
			stress_add(&shared->waited, 1);
			return place;
		}
		if (patience == 0 ||
			(patience < 4 && staging_pass_done(staging, pass)))
			break;
		stress_yield();
	}
	staging_leave_queue(staging);
	return NULL;
}

/* As ProcArrayEndTransaction(): from here on others see and get the rows. */
static void
end_in_procarray(const Change *changes, int count, bool commit)
{
	if (commit)
	{
		for (int i = 0; i < count; i++)
			shared->rows[changes[i].row].version = changes[i].version;
	}
	steps_drain();
	PGPUBSUB_LXID(MyProc) = InvalidLocalTransactionId;
	steps_drain();
	for (int i = 0; i < count; i++)
		__atomic_store_n(&shared->rows[changes[i].row].owner, 0,
						 __ATOMIC_SEQ_CST);
}

/*
 * As wait_until_notified(): then the versions of these rows that others can see
 * are notified.  mine: those are of this transaction, which has committed;
 * else it has locked the rows, and is going to send by other means.
 */
static void
wait_until_notified(const Change *changes, int count, bool mine)
{
	uint64		pass = staging_next_pass(staging);

	while (!staging_pass_done(staging, pass) && !staging_idle(staging))
		stress_yield();
	steps_drain();
	for (int i = 0; i < count; i++)
	{
		uint64		notified = stress_get(&shared->rows[changes[i].row].notified);
		uint64		version = changes[i].version - (mine ? 0 : 1);

		if (notified < version)
			stress_fail("row %d: the pass is over, and version %llu is not notified but %llu",
						changes[i].row, (unsigned long long) version,
						(unsigned long long) notified);
	}
	stress_add(&shared->passes, 1);
}

/* Check that the event is whole; returns its row's entry. */
static Row *
check_event(const StagedEvent *event, uint64 *version)
{
	const char *payload = staged_event_payload(event);
	Body		body;
	char		channel[3];

	if (event->payload_len < sizeof(Body) ||
		event->payload_len > sizeof(Body) + config->max_payload)
		stress_fail("an event has %u bytes", event->payload_len);
	memmove(&body, payload, sizeof(Body));
	if (body.row < 0 || body.row >= config->nrows ||
		body.hash != body_hash(&body, event->payload_len))
		stress_fail("an event is torn at its beginning");
	for (Size i = sizeof(Body); i < event->payload_len; i++)
	{
		if (payload[i] != payload_byte(body.hash, i))
			stress_fail("row %d version %llu: the event is torn at byte %zu",
						body.row, (unsigned long long) body.version,
						(size_t) i);
	}
	row_name(body.row, channel);
	if (strcmp(staged_event_channel(event), channel) != 0)
		stress_fail("row %d: the event's channel is %s", body.row,
					staged_event_channel(event));
	*version = body.version;
	return &shared->rows[body.row];
}

/* It is the next version of its row, and the next number. */
static void
check_order(const StagedEvent *event, uint64 number, bool append)
{
	uint64		version;
	Row		   *row = check_event(event, &version);
	uint64	   *last = append ? &row->appended : &row->notified;
	uint64	   *last_number = append ? &shared->last_appended :
		&shared->last_notified;

	if (version != *last + 1)
		stress_fail("row %d: version %llu is %s after %llu",
					(int) (row - shared->rows), (unsigned long long) version,
					append ? "appended" : "notified",
					(unsigned long long) *last);
	if (number != *last_number + 1)
		stress_fail("number %llu is %s after %llu",
					(unsigned long long) number,
					append ? "appended" : "notified",
					(unsigned long long) *last_number);
	stress_set(last_number, number);
	stress_set(last, version);
}

/* As take_free_turn() in commit_append.c. */
static bool
take_free_turn(void)
{
	int			nobody = 0;
	bool		taken;

	steps_drain();
	taken = __atomic_compare_exchange_n(&shared->turn, &nobody, my_process + 1,
										false, __ATOMIC_SEQ_CST,
										__ATOMIC_SEQ_CST);
	steps_drain();
	return taken;
}

/* As commit_append_give_turn(). */
static void
give_turn(void)
{
	steps_drain();
	__atomic_store_n(&shared->turn, 0, __ATOMIC_SEQ_CST);
	steps_drain();
}

/*
 * As commit_append().  Some leave it to the relay, for want of room, say, when
 * they know already whether they come next.
 */
static void
append_at_commit(StagedTransaction *place)
{
	StagedView	view;

	if (!take_free_turn())
		return;
	if (staging_comes_next(staging, place, &view) && stress_random(4) != 0)
	{
		StagedEvent *event = view.events;

		staging_take_next(staging, &view);
		for (uint32 i = 0; i < view.nevents; i++)
		{
			check_order(event, view.first + i, true);
			check_order(event, view.first + i, false);
			event = staged_event_next(event);
		}
		staging_set_appended(staging, staging_numbered(staging));
		staging_set_notified(staging, staging_numbered(staging));
		staging_free(staging);
		stress_add(&shared->at_commit, 1);
	}
	give_turn();
}

static void
run_transaction(void)
{
	static LocalTransactionId next_lxid = 1;
	Change		changes[MAX_EVENTS];
	StagedTransaction *place;
	int			count;
	Size		bytes = 0;
	bool		commit = stress_random(5) != 0;

	PGPUBSUB_LXID(MyProc) = next_lxid++;
	steps_drain();
	count = choose_changes(changes);

	/* one that is not to be staged, because it is too large, say */
	if (stress_random(10) == 0)
	{
		wait_until_notified(changes, count, false);
		end_in_procarray(changes, count, false);
		return;
	}
	for (int i = 0; i < count; i++)
		bytes += event_length(&changes[i]);
	if (bytes > staging_max_transaction(staging))
		place = NULL;
	else
		place = reserve(bytes, count);
	if (place)
	{
		char	   *p = staging_data(place);

		for (int i = 0; i < count; i++)
		{
			write_event((StagedEvent *) p, &changes[i]);
			p += event_length(&changes[i]);
		}
	}
	else
	{
		stress_add(&shared->too_full, 1);
		commit = false;
	}

	/* now and then a transaction takes long */
	if (stress_random(100) == 0)
		stress_sleep((int) stress_random(2000));
	end_in_procarray(changes, count, commit);
	stress_pause();
	if (stress_random(200) == 0)
		stress_sleep((int) stress_random(500));
	if (place)
		staging_mark(place, commit);
	steps_drain();

	/* the place may be another's before it goes on */
	if (stress_random(200) == 0)
		stress_sleep((int) stress_random(500));
	if (place && commit)
		append_at_commit(place);
	stress_add(commit ? &shared->committed : &shared->rolled_back, 1);
	if (commit && stress_random(5) == 0)
		wait_until_notified(changes, count, true);
}

static void
writer_main(int index)
{
	my_process = index;
	MyProc = &ProcGlobal->allProcs[index];
	MyProcPid = 1000 + index;
	while (stress_goes_on(deadline, covered))
	{
		run_transaction();
		if (stress_random(4) == 0)
			stress_yield();
	}
	stress_add(&shared->writers, -1);
}

/*
 * The relay
 */

/* A relay's own memory: gone when it dies. */
typedef struct Relay
{
	StagedWalk	append;
	StagedWalk	notify;
	StagedTake	take_result;
	uint64		last_pos;
	uint64		pass_end;
	bool		pass_taken;
	uint64		pass_number;
} Relay;

/* The relay dies here, now and then. */
#define DIES() (stress_random(300) == 0)

/* A new relay. */
static void
relay_init(Relay *relay)
{
	StagedWalk	walk;

	memset(relay, 0, sizeof(Relay));
	steps_drain();
	staging_recover(staging, &relay->append, &relay->notify);
	for (walk = relay->append; walk.view.transaction != NULL;)
	{
		stress_add(&shared->recovered, 1);
		staging_walk_advance(staging, &walk);
	}
}

/* As check_pass(). */
static void
check_pass(Relay *relay)
{
	if (relay->pass_end == 0)
		return;
	if (!relay->pass_taken && (relay->take_result == TAKE_NOTHING ||
							   relay->last_pos >= relay->pass_end))
	{
		relay->pass_taken = true;
		relay->pass_number = staging_numbered(staging);
	}
	if (relay->pass_taken &&
		staging_notified(staging) >= relay->pass_number)
	{
		staging_end_pass(staging);
		relay->pass_end = 0;
	}
}

/* As relay_staged_take(); false if the relay dies. */
static bool
take(Relay *relay)
{
	int			limit = 1 + (int) stress_random(BATCH_EVENTS);
	uint64		end;

	staging_free(staging);
	relay->take_result = TAKE_NOTHING;
	if (staging_idle(staging) && relay->pass_end == 0)
	{
		stress_yield();
		return true;
	}
	if (relay->pass_end == 0)
	{
		relay->pass_end = staging_begin_pass(staging);
		relay->pass_taken = false;
		relay->last_pos = 0;
	}
	end = staging_head(staging);
	while (limit-- > 0)
	{
		StagedView	view;

		relay->take_result = staging_take(staging, end, &relay->append,
										  &relay->notify, &view);
		if (relay->take_result != TAKE_FOUND)
			break;
		if (staging->pending.first != 0 && view.pos > staging->pending.first)
			stress_add(&shared->overtaken, 1);
		if (view.generation != 7 || view.nevents < 1 ||
			view.nevents > MAX_EVENTS)
			stress_fail("a place is torn");
		if (view.pos >= end)
			stress_fail("a place from the end on is taken");
		relay->last_pos = view.pos;
		if (DIES())
			return false;
	}
	if (relay->take_result == TAKE_SOON)
		stress_add(&shared->soon, 1);
	if (relay->take_result != TAKE_FOUND)
		stress_yield();
	check_pass(relay);
	return true;
}

/* As append_staged(), with room for some; false if the relay dies. */
static bool
append(Relay *relay)
{
	uint64		room = stress_random(3) == 0 ? stress_random(5) : UINT64_MAX;

	while (relay->append.view.transaction != NULL && room-- > 0)
	{
		uint64		number = staging_walk_number(&relay->append);

		if (DIES())
			return false;
		check_order(relay->append.event, number, true);
		staging_walk_advance(staging, &relay->append);
		staging_set_appended(staging, number);
		if (stress_random(8) == 0)
			staging_free(staging);
	}
	if (staging_appended(staging) > staging_notified(staging))
		stress_add(&shared->ahead, 1);
	return true;
}

/* As relay_staged_notify(); false if the relay dies. */
static bool
notify(Relay *relay)
{
	StagedWalk	walk = relay->notify;
	uint64		last = 0;
	int			limit = 1 + (int) stress_random(BATCH_EVENTS);

	if (walk.view.transaction == NULL || stress_random(4) == 0)
		return true;
	while (walk.view.transaction != NULL && limit-- > 0)
	{
		uint64		version;

		(void) check_event(walk.event, &version);
		last = staging_walk_number(&walk);
		staging_walk_advance(staging, &walk);
	}
	if (DIES())
		return false;
	if (stress_random(10) == 0)
	{
		stress_add(&shared->failed, 1);
		return true;
	}

	/* commit */
	walk = relay->notify;
	while (walk.view.transaction != NULL && staging_walk_number(&walk) <= last)
	{
		check_order(walk.event, staging_walk_number(&walk), false);
		staging_walk_advance(staging, &walk);
	}
	staging_set_notified(staging, last);
	if (DIES())
		return false;
	relay->notify = walk;
	if (staging_notified(staging) > staging_appended(staging))
		stress_add(&shared->behind, 1);
	check_pass(relay);
	return true;
}

/* Nothing is left, and all that was committed has come through. */
static void
check_end(void)
{
	steps_drain();
	if (staging_used(staging) != 0)
		stress_fail("%zu bytes are left", (size_t) staging_used(staging));
	for (int i = 0; i < config->nrows; i++)
	{
		Row		   *row = &shared->rows[i];

		if (row->notified != row->version || row->appended != row->version)
			stress_fail("row %d: of %llu versions %llu were notified, %llu appended",
						i, (unsigned long long) row->version,
						(unsigned long long) row->notified,
						(unsigned long long) row->appended);
	}
}

static void
relay_main(int index)
{
	static Relay relay;

	my_process = index;
	MyProc = &ProcGlobal->allProcs[index];
	while (!take_free_turn())
		stress_yield();
	relay_init(&relay);
	for (;;)
	{
		bool		last = stress_get(&shared->writers) == 0;

		if (!take(&relay) || !append(&relay) || !notify(&relay))
		{
			stress_add(&shared->restarts, 1);
			relay_init(&relay);
		}
		else if (last && staging_idle(staging))
			break;

		/* as when it sleeps */
		if (relay.take_result == TAKE_NOTHING &&
			relay.append.view.transaction == NULL &&
			relay.notify.view.transaction == NULL)
		{
			give_turn();
			stress_yield();
			if (stress_random(4) == 0)
				stress_sleep((int) stress_random(200));
			while (!take_free_turn())
				stress_yield();
		}

		/* what transactions that take long leave pending */
		if (stress_random(50) == 0)
			stress_sleep((int) stress_random(200));
	}
	check_end();
}

/*
 * What it costs to take
 */

#define COST_BYTES		(4 * 1024 * 1024)
#define COST_PENDING	20		/* transactions that stay pending */
#define COST_BEHIND		20000	/* behind them, committed */
#define COST_AT_ONCE	1000

/* The walks of the relay of these tests, which never dies. */
static StagedWalk to_append;
static StagedWalk to_notify;

/* Take the next transaction. */
static StagedTake
take_next(StagedView *view)
{
	return staging_take(staging, staging_head(staging), &to_append, &to_notify,
						view);
}

/* All that was taken is in the ring and notified. */
static void
pass_all_taken(void)
{
	memset(&to_append, 0, sizeof(StagedWalk));
	memset(&to_notify, 0, sizeof(StagedWalk));
	staging_set_appended(staging, staging->numbered);
	staging_set_notified(staging, staging->numbered);
	staging_free(staging);
}

/* Reserve, as that process, a place for an event; leaves it in progress. */
static StagedTransaction *
cost_reserve(int process, LocalTransactionId lxid)
{
	my_process = process;
	MyProc = &ProcGlobal->allProcs[process];
	PGPUBSUB_LXID(MyProc) = lxid;
	steps_drain();
	return staging_reserve(staging, 64, 1, 7, 0);
}

/* A transaction that commits at once. */
static void
cost_commit(LocalTransactionId lxid)
{
	StagedTransaction *place = cost_reserve(COST_PENDING, lxid);

	if (place == NULL)
		stress_fail("the queue is full");
	PGPUBSUB_LXID(MyProc) = InvalidLocalTransactionId;
	staging_mark(place, true);
	steps_drain();
}

/* Take that many, with at most so many looks; then nothing is left. */
static void
cost_take(int count, uint64 most)
{
	uint64		before = looks;
	StagedView	view;

	for (int i = 0; i < count; i++)
		if (take_next(&view) != TAKE_FOUND)
			stress_fail("there is nothing to take");
	if (take_next(&view) != TAKE_NOTHING)
		stress_fail("there is more to take");
	if (looks - before > most)
		stress_fail("it took %llu looks to take %d transactions",
					(unsigned long long) (looks - before), count);
}

static void
cost_main(int index)
{
	StagedTransaction *pending[COST_PENDING];
	StagedTake	result;
	StagedView	view;

	for (int i = 0; i < COST_PENDING; i++)
		pending[i] = cost_reserve(i, 1);
	for (int i = 0; i < COST_BEHIND / 2; i++)
	{
		cost_commit(i + 1);

		/*
		 * the first finds those that are pending, then each is looked at
		 * twice
		 */
		cost_take(1, (i == 0 ? 6 : 4) * COST_PENDING + 10);
	}
	for (int i = 0; i < COST_BEHIND / 2; i++)
	{
		cost_commit(i + 1);
		if ((i + 1) % COST_AT_ONCE == 0)
			cost_take(COST_AT_ONCE, 10 * COST_AT_ONCE);
	}

	/* those that were overtaken come in the order of their places */
	for (int i = COST_PENDING - 1; i >= 0; i--)
	{
		PGPUBSUB_LXID(&ProcGlobal->allProcs[i]) = InvalidLocalTransactionId;
		staging_mark(pending[i], i % 3 != 0);
	}
	steps_drain();
	for (int i = 0; i < COST_PENDING; i++)
	{
		if (i % 3 == 0)
			continue;
		if (take_next(&view) != TAKE_FOUND ||
			view.transaction != pending[i])
			stress_fail("another transaction than %d was taken", i);
	}
	result = take_next(&view);
	if (result != TAKE_NOTHING)
		stress_fail("there is more to take: %d", (int) result);
	pass_all_taken();
	if (staging_used(staging) != 0)
		stress_fail("%zu bytes are left", (size_t) staging_used(staging));
}

/*
 * Turns
 */

#define TURN_BYTES		4096
#define TURN_LARGE		1984
#define TURN_SMALL		100

/* Go on as this process. */
static void
turn_of(int process)
{
	my_process = process;
	MyProc = &ProcGlobal->allProcs[process];
	MyProcPid = 1000 + process;
	steps_drain();
}

/* What has just been tried. */
static void
expect(bool good, const char *what)
{
	steps_drain();
	if (!good)
		stress_fail("%s", what);
}

/* Can a newcomer reserve?  Its transaction commits if so. */
static bool
newcomer(Size len)
{
	StagedTransaction *place;

	turn_of(0);
	place = staging_reserve(staging, len, 1, 7, 0);
	if (place)
		staging_mark(place, true);
	steps_drain();
	return place != NULL;
}

/* Can that process, which has queued up?  Likewise. */
static bool
queued(int process)
{
	StagedTransaction *place;

	turn_of(process);
	place = staging_reserve_queued(staging, 1, 7, 0);
	if (place)
		staging_mark(place, true);
	steps_drain();
	return place != NULL;
}

static void
queue_up(int process, Size len)
{
	turn_of(process);
	staging_queue_up(staging, len);
	steps_drain();
}

/* The relay does with so many transactions. */
static void
relay_does(int count)
{
	StagedView	view;

	while (count-- > 0 && take_next(&view) == TAKE_FOUND)
		continue;
	pass_all_taken();
	steps_drain();
}

static void
turns_main(int index)
{
	while (newcomer(TURN_SMALL))
		;
	queue_up(1, TURN_LARGE);
	relay_does(2);
	expect(!newcomer(TURN_SMALL), "a newcomer goes before who waits");
	queue_up(2, TURN_SMALL);
	expect(!queued(2), "a small one goes before a large one that waits");
	expect(!queued(1), "a large one finds room where there is none");
	relay_does(INT_MAX);
	expect(!queued(2), "a small one takes what a large one may need");
	expect(queued(1), "a large one has no turn");
	expect(queued(2), "a small one has no turn after a large one");
	expect(newcomer(TURN_SMALL), "a newcomer waits for nobody");
	relay_does(INT_MAX);

	/* with room for all, nobody waits for who is not scheduled */
	queue_up(1, TURN_SMALL);
	queue_up(2, TURN_SMALL);
	queue_up(3, TURN_LARGE);
	queue_up(4, TURN_SMALL);
	expect(queued(2), "one that leaves enough waits");
	expect(!queued(4), "one that does not leave enough goes");

	/* whoever leaves is in nobody's way */
	turn_of(3);
	staging_leave_queue(staging);
	expect(queued(4), "one waits for who has left");
	expect(queued(1), "the first has no turn");
	expect(newcomer(TURN_SMALL), "a newcomer waits for nobody");
	relay_does(INT_MAX);
	expect(staging_used(staging) == 0, "not all is free");
}

/*
 * The relay takes a transaction, and another has its place, before it looks
 * whether it comes next.
 */
static void
reused_main(int index)
{
	StagedTransaction *mine;
	StagedTransaction *other;
	StagedView	view;

	turn_of(1);
	mine = staging_reserve(staging, TURN_SMALL, 1, 7, 0);
	staging_mark(mine, true);
	steps_drain();
	expect(take_next(&view) == TAKE_FOUND, "there is nothing to take");
	staging_set_appended(staging, staging->numbered);
	staging_set_notified(staging, staging->numbered);
	staging_recover(staging, &to_append, &to_notify);
	expect(!staging_comes_next(staging, mine, &view),
		   "one that a relay took, which then died, comes next");
	relay_does(INT_MAX);
	turn_of(2);
	while ((other = staging_reserve(staging, TURN_SMALL, 1, 7, 0)) != mine)
	{
		staging_mark(other, true);
		relay_does(INT_MAX);
	}
	turn_of(1);
	expect(!staging_comes_next(staging, mine, &view),
		   "one that was taken comes next, as another that is in progress");
	staging_mark(other, true);
	expect(!staging_comes_next(staging, mine, &view),
		   "one that was taken comes next, as another");
	turn_of(2);
	expect(staging_comes_next(staging, other, &view),
		   "one that comes next does not");
	relay_does(INT_MAX);
	expect(staging_used(staging) == 0, "not all is free");
}

/* What was tried has succeeded, or that has failed. */
static bool
all_covered(void)
{
	return true;
}

/* A test in one process, with a queue of so many bytes. */
static bool
run_alone(const char *name, StressMain alone, Size bytes)
{
	Size		size = staging_shmem_size(bytes);
	void	   *space = stress_map(size);
	bool		good;

	ProcGlobal = stress_map(sizeof(PROC_HDR));
	ProcGlobal->allProcs = stress_map(MaxBackends * sizeof(PGPROC));
	staging = staging_init(space, bytes);
	steps_weak_reads(staging, staging->data);
	steps_shared_memory(staging->data, staging->data + staging->size);
	steps_drain();
	good = stress_run(name, &alone, 1, 0, all_covered);
	stress_unmap(ProcGlobal->allProcs, MaxBackends * sizeof(PGPROC));
	stress_unmap(ProcGlobal, sizeof(PROC_HDR));
	stress_unmap(space, size);
	return good;
}

/*
 * The tests
 */

static bool
run_config(double seconds)
{
	Size		size = staging_shmem_size(config->bytes);
	void	   *space = stress_map(size);
	StressMain	mains[MAX_WRITERS + 1];
	int			n = 0;
	bool		good;

	shared = stress_map(sizeof(Shared));
	ProcGlobal = stress_map(sizeof(PROC_HDR));
	ProcGlobal->allProcs = stress_map((MAX_WRITERS + 1) * sizeof(PGPROC));
	staging = staging_init(space, config->bytes);
	if (config->start != 0)
	{
		pg_atomic_write_u64(&staging->head, config->start);
		pg_atomic_write_u64(&staging->tail, config->start);
		staging_forget_looks(staging);
	}
	pg_atomic_write_u64(&staging->notified, config->number);
	pg_atomic_write_u64(&staging->appended, config->number);
	staging->numbered = config->number;
	shared->last_notified = shared->last_appended = config->number;
	shared->writers = config->nwriters;
	steps_weak_reads(staging, staging->data);
	steps_shared_memory(staging->data, staging->data + staging->size);
	steps_drain();

	deadline = stress_now() + seconds;
	for (int i = 0; i < config->nwriters; i++)
		mains[n++] = writer_main;
	mains[n++] = relay_main;
	good = stress_run(config->name, mains, n, seconds, covered);
	printf("#   %llu committed, %llu of them appended then, %llu rolled back, full %llu times, %llu waited, %llu gave up, %llu passes, %llu restarts, %llu recovered, %llu batches failed, appended ahead %llu and behind %llu times, %llu overtaken, %llu soon\n",
		   (unsigned long long) shared->committed,
		   (unsigned long long) shared->at_commit,
		   (unsigned long long) shared->rolled_back,
		   (unsigned long long) shared->full,
		   (unsigned long long) shared->waited,
		   (unsigned long long) shared->too_full,
		   (unsigned long long) shared->passes,
		   (unsigned long long) shared->restarts,
		   (unsigned long long) shared->recovered,
		   (unsigned long long) shared->failed,
		   (unsigned long long) shared->ahead,
		   (unsigned long long) shared->behind,
		   (unsigned long long) shared->overtaken,
		   (unsigned long long) shared->soon);
	stress_unmap(ProcGlobal->allProcs, (MAX_WRITERS + 1) * sizeof(PGPROC));
	stress_unmap(ProcGlobal, sizeof(PROC_HDR));
	stress_unmap(shared, sizeof(Shared));
	stress_unmap(space, size);
	return good;
}

int
main(int argc, char **argv)
{
	double		seconds;

	stress_init(argc, argv, &seconds);
	if (!run_alone("staging: costs", cost_main, COST_BYTES) ||
		!run_alone("staging: turns", turns_main, TURN_BYTES) ||
		!run_alone("staging: a reused place", reused_main, TURN_BYTES))
		return stress_summary();
	for (size_t i = 0; i < lengthof(configs); i++)
	{
		config = &configs[i];
		if (!run_config(seconds / lengthof(configs)))
			break;
	}
	return stress_summary();
}
