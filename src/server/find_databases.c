/*-------------------------------------------------------------------------
 *
 * find_databases.c
 *	  How the launcher finds the databases that are to have a relay.
 *
 * 1.  When the launcher starts it goes through the databases, one at a time,
 *	  and has a relay look into each, the probe: one that does not find the
 *	  extension there leaves at once; one that finds it takes a slot and stays,
 *	  and is then watched over by launcher.c like any other.
 *
 * 2. The order is that of pgpubsub.databases; among those that one item of the
 *	  setting lets in, templates come last, and else the oldest first.  So if
 *	  there are more databases than slots, the same ones get them each time.
 *
 * 3. If databases were found that could get no slot, the launcher goes through
 *	  all of them again when a slot may have become free.
 *
 * 4. When pgpubsub.databases has changed, all databases are gone through again
 *	  too.  One that could get no slot is left out then, while none is free.
 *
 *-------------------------------------------------------------------------
 */
#include "server/server_internal.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "lib/stringinfo.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/varlena.h"

/* So many databases are named in one warning. */
#define NAMES_IN_WARNING	20

/* A database to be looked into. */
typedef struct Candidate
{
	Oid			oid;
	char		name[NAMEDATALEN];
	int			rank;			/* the item of the setting that lets it in */
	bool		is_template;
	bool		again;			/* the first look failed */
	bool		refused;		/* has the extension, but could get no slot */
} Candidate;

/* How far the launcher has come. */
typedef struct Search
{
	Candidate  *candidates;
	int			count;
	int			max;			/* candidates that there is room for */
	int			next;			/* candidate to be looked into */

	/* the relay that looks into the candidate before next; NULL: none */
	BackgroundWorkerHandle *probe;
	TimestampTz probe_started_at;

	char	   *listed_by;		/* pgpubsub.databases as of the list */
	bool		list_wanted;	/* the list is to be made again */

	/* a database was found that could get no slot */
	bool		none_free;
	uint32		none_free_version;	/* control->version then */
	TimestampTz list_not_before;	/* when to make the list again for that */
	int			list_delay;		/* ms, from the last time to that one */

	TimestampTz no_worker_at;	/* last warning that no worker slot is free */
} Search;

static Search search = {.max = 64};

/* May a relay run in the database of that row? */
static Refusal
find_refusal(HeapTuple tuple)
{
	Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

	if (!form->datallowconn)
		return REFUSAL_NO_CONNECTIONS;
	if (database_is_invalid_form(form))
		return REFUSAL_INVALID;
	if (!registry_database_allowed(NameStr(form->datname)))
		return REFUSAL_LEFT_OUT;
	return REFUSAL_NONE;
}

/*
 * The refusal as a sentence, for the detail of a message.
 */
const char *
describe_refusal(Refusal refusal)
{
	static const char *const sentences[] = {
		[REFUSAL_NONE] = "",
		[REFUSAL_NO_CONNECTIONS] = "It does not allow connections (ALLOW_CONNECTIONS).",
		[REFUSAL_INVALID] = "It is invalid: DROP DATABASE was interrupted.",
		[REFUSAL_LEFT_OUT] = "The setting pgpubsub.databases leaves it out."
	};

	return sentences[refusal];
}

/* The first of the setting's items that lets in a database of that name. */
static int
find_item(List *items, const char *name)
{
	int			index = 0;
	ListCell   *cell;

	foreach(cell, items)
	{
		const char *item = (const char *) lfirst(cell);

		if (strcmp(item, "*") == 0 || strcmp(item, name) == 0)
			break;
		index++;
	}
	return index;
}

/* In what order databases are looked into; for qsort(). */
static int
compare_candidates(const void *a, const void *b)
{
	const Candidate *left = a;
	const Candidate *right = b;

	if (left->rank != right->rank)
		return left->rank < right->rank ? -1 : 1;
	if (left->is_template != right->is_template)
		return left->is_template ? 1 : -1;
	return left->oid < right->oid ? -1 : left->oid > right->oid ? 1 : 0;
}

/* A candidate more; what is pointed to before may move. */
static Candidate *
new_candidate(void)
{
	if (search.count == search.max)
	{
		search.max *= 2;
		search.candidates = repalloc(search.candidates,
									 search.max * sizeof(Candidate));
	}
	return &search.candidates[search.count++];
}

/* Make the list of databases to look into, from all of pg_database. */
static void
list_candidates(void)
{
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;
	List	   *items;

	search.candidates = MemoryContextAlloc(TopMemoryContext,
										   search.max * sizeof(Candidate));
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	(void) GetTransactionSnapshot();

	/* the setting's check hook has made sure that this succeeds */
	(void) SplitGUCList(pstrdup(pgpubsub_databases), ',', &items);
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		Candidate  *candidate;

		if (find_refusal(tuple) != REFUSAL_NONE)
			continue;
		candidate = new_candidate();
		memset(candidate, 0, sizeof(Candidate));
		candidate->oid = form->oid;
		strlcpy(candidate->name, NameStr(form->datname), NAMEDATALEN);
		candidate->rank = find_item(items, NameStr(form->datname));
		candidate->is_template = form->datistemplate;
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
	qsort(search.candidates, search.count, sizeof(Candidate),
		  compare_candidates);
}

/*
 * Copies the name of the database into name, and sets *refusal to why it may
 * not have a relay.  Returns false if the database does not exist.  Must not be
 * in a transaction.
 */
bool
look_up_database(Oid oid, char *name, Refusal *refusal)
{
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	*refusal = REFUSAL_NONE;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while (!found && (tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (form->oid != oid)
			continue;
		found = true;
		strlcpy(name, NameStr(form->datname), NAMEDATALEN);
		*refusal = find_refusal(tuple);
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
	return found;
}

/*
 * Warn now and then that no worker slot is free to look into databases, and
 * name all that are still to come: any may have the extension.
 */
static void
warn_no_probe(void)
{
	StringInfoData names;
	int			count = 0;

	if (!launcher_time_to_warn(&search.no_worker_at))
		return;
	initStringInfo(&names);
	for (int i = search.next; i < search.count; i++)
	{
		if (registry_find_database(search.candidates[i].oid) != NULL)
			continue;
		if (++count > NAMES_IN_WARNING)
		{
			appendStringInfoString(&names, ", ...");
			break;
		}
		appendStringInfo(&names, "%s\"%s\"", count > 1 ? ", " : "",
						 search.candidates[i].name);
	}
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("no background worker slot is free to look for databases that want a relay"),
			 errdetail("These have none, and may want one: %s.", names.data),
			 errhint("Raise max_worker_processes (%d) and restart the server.",
					 max_worker_processes)));
	pfree(names.data);
}

/* Is every slot taken?  If so, notes for search_timeout() that it was. */
static bool
note_none_free(void)
{
	bool		found;

	LWLockAcquire(pgpubsub_control->lock, LW_SHARED);
	found = registry_lookup_database(InvalidOid) != NULL;
	if (!found)
	{
		search.none_free = true;
		search.none_free_version =
			pg_atomic_read_u32(&pgpubsub_control->version);
	}
	LWLockRelease(pgpubsub_control->lock);
	return !found;
}

/* Go through all databases again, whether or not the list is at its end. */
static void
list_again(void)
{
	Candidate  *old = search.candidates;
	int			num_old = search.count;

	Assert(search.probe == NULL);
	search.list_wanted = false;
	search.count = search.next = 0;
	search.none_free = false;
	list_candidates();
	for (int i = 0; i < search.count; i++)
	{
		for (int j = 0; j < num_old; j++)
		{
			if (old[j].oid == search.candidates[i].oid)
				search.candidates[i].refused |= old[j].refused;
		}
	}
	pfree(old);
}

/*
 * The probe has ended.  If the database has no slot now, although the extension
 * was not found missing, then no slot was left for it, as the probe has warned;
 * or the probe failed: look into the database once more at the end.
 */
static void
end_probe(void)
{
	Candidate  *candidate = &search.candidates[search.next - 1];

	pfree(search.probe);
	search.probe = NULL;
	candidate->refused = false;

	/* no lock: the probe alone has written probed, and has ended */
	if (pgpubsub_control->probed == candidate->oid ||
		registry_find_database(candidate->oid) != NULL)
		return;
	candidate->refused = note_none_free();
	if (candidate->refused || candidate->again)
		return;
	candidate = new_candidate();
	*candidate = search.candidates[search.next - 1];
	candidate->again = true;
}

/*
 * Look into the next database, when the last was looked into.
 */
void
search_advance(void)
{
	Candidate  *candidate;

	if (launcher_worker_alive(search.probe))
		return;
	if (search.probe)
		end_probe();
	if (search.list_wanted)
		list_again();
	while (search.next < search.count)
	{
		candidate = &search.candidates[search.next];

		/* it may have its slot by now, or would only be refused again */
		if (registry_find_database(candidate->oid) != NULL ||
			(candidate->refused && note_none_free()))
		{
			search.next++;
			continue;
		}
		search.probe_started_at = GetCurrentTimestamp();
		search.probe = launcher_start_relay(candidate->oid, candidate->name);
		if (search.probe)
			search.next++;
		else
			warn_no_probe();
		return;
	}
}

/*
 * The database has a slot now.  If the probe looks into it, the probe is the
 * slot's relay, or about to find that there is one: the caller is to wait for
 * its end, as for any relay's.  NULL if it does not.
 */
BackgroundWorkerHandle *
search_give_probe(Oid database, TimestampTz *started_at)
{
	BackgroundWorkerHandle *probe = search.probe;

	if (probe == NULL ||
		search.candidates[search.next - 1].oid != database)
		return NULL;
	*started_at = search.probe_started_at;
	search.probe = NULL;
	return probe;
}

/*
 * The configuration was read: see 4 at the head of this file.
 */
void
search_follow_setting(void)
{
	if (search.listed_by != NULL &&
		strcmp(search.listed_by, pgpubsub_databases) == 0)
		return;
	if (search.listed_by != NULL)
	{
		pfree(search.listed_by);
		search.list_wanted = true;
		pg_atomic_fetch_add_u32(&pgpubsub_control->version, 1);
	}
	search.listed_by = MemoryContextStrdup(TopMemoryContext, pgpubsub_databases);
}

/*
 * Go through the databases again as 3 at the head of this file says.  Returns
 * how long the launcher may sleep until that is due, in ms; -1 for ever.
 */
static long
look_for_refused(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!search.none_free || search.list_wanted ||
		search.next < search.count || search.probe != NULL ||
		pg_atomic_read_u32(&pgpubsub_control->version) ==
		search.none_free_version)
		return -1;
	if (search.list_not_before > now)
		return TimestampDifferenceMilliseconds(now, search.list_not_before) + 1;

	/* slots that come and go must not fill the log */
	if (TimestampDifferenceExceeds(search.list_not_before, now, LAST_DELAY_MS))
		search.list_delay = 0;
	search.list_delay = Min(Max(2 * search.list_delay, FIRST_DELAY_MS),
							LAST_DELAY_MS);
	search.list_not_before = TimestampTzPlusMilliseconds(now,
														 search.list_delay);
	list_again();
	return 0;
}

/*
 * Begin: all databases are to be looked into.
 */
void
search_begin(void)
{
	list_candidates();
	search_follow_setting();
}

/*
 * How long the launcher may sleep before search_advance() has to be called
 * again, in ms; -1 for ever.
 */
long
search_timeout(void)
{
	long		timeout = look_for_refused();

	if (search.next < search.count && (timeout < 0 || timeout > RETRY_MS))
		return RETRY_MS;
	return timeout;
}
