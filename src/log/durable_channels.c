/*-------------------------------------------------------------------------
 *
 * durable_channels.c
 *	  Which channels are durable: the table pgpubsub.channel, as a session
 *	  sees it.
 *
 * 1. Each row of the table is a rule.  The rule with a channel's own name
 *	  decides, also if it says that the channel is not durable.  If there is
 *	  none, the channel is durable if a durable rule's pattern matches it.
 *
 * 2. A session keeps all rules in private memory.  Whoever writes the table
 *	  sends an invalidation of it, by the table's trigger; DDL sends one anyway.
 *	  An invalidation grows the version.  The rules are valid while they were
 *	  read under the version that is current; so one that comes while they are
 *	  read, or an error then, has them read again.
 *
 * 3. They are read with a snapshot of that moment, not with the transaction's:
 *	  what is durable now is what matters, also to a transaction that keeps its
 *	  snapshot.  What this transaction itself has written counts already.
 *
 * 4. While there is no table (the extension is of version 1.0, or the schema is
 *	  somebody else's), there are no rules, and any invalidation may mean that
 *	  there is one now.
 *
 * The table is scanned, not queried: no code of anybody's runs.
 *
 *-------------------------------------------------------------------------
 */
#include "log/log.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "registry/registry.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* Longer than this, in us, is as long as can be: about 9000 years. */
#define MOST_RETAIN_US	(INT64CONST(1) << 58)

/* What a row of the table says. */
typedef struct Rule
{
	char		name[NAMEDATALEN];
	bool		durable;
	Interval	retain;
} Rule;

/* Rules, sorted by name. */
typedef struct RuleList
{
	Rule	   *rules;
	int			count;
	int			room;
} RuleList;

/* The rules as this session has read them. */
typedef struct Rules
{
	uint64		version;		/* grows with each invalidation */
	uint64		loaded_version; /* the version that the rules are of, or 0 */
	Oid			table;			/* InvalidOid if there is none */
	MemoryContext context;		/* what the lists are in; NULL at first */
	RuleList	names;
	RuleList	patterns;
} Rules;

static Rules rules = {.version = 1};

/* A relation's cache entry was invalidated; InvalidOid stands for all. */
static void
relation_invalidated(Datum arg, Oid relation)
{
	if (!OidIsValid(relation) || !OidIsValid(rules.table) ||
		relation == rules.table)
		rules.version++;
}

/* A schema was changed: that of the table may have another owner. */
static void
schema_invalidated(Datum arg, int cache, uint32 hash)
{
	rules.version++;
}

/* Have the caches call us, once per session. */
static void
watch_caches(void)
{
	static bool done = false;

	if (done)
		return;
	CacheRegisterRelcacheCallback(relation_invalidated, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, schema_invalidated, (Datum) 0);
	done = true;
}

/* Raise 55000 unless the table's first columns are those that it was made with. */
static void
check_columns(Relation table)
{
	static const struct
	{
		const char *name;
		Oid			type;
	}			expected[] = {
		{"channel", TEXTOID}, {"durable", BOOLOID}, {"retain", INTERVALOID}
	};
	TupleDesc	desc = RelationGetDescr(table);

	for (int i = 0; i < (int) lengthof(expected); i++)
	{
		if (i < desc->natts &&
			!TupleDescAttr(desc, i)->attisdropped &&
			TupleDescAttr(desc, i)->atttypid == expected[i].type &&
			namestrcmp(&TupleDescAttr(desc, i)->attname,
					   expected[i].name) == 0)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table pgpubsub.channel was altered"),
				 errdetail("Its column %d is not \"%s\" of type %s.",
						   i + 1, expected[i].name,
						   format_type_be(expected[i].type)),
				 errhint("Undo that, or create the extension again.")));
	}
}

/* Add a rule to the list, in the current memory context. */
static void
add_rule(RuleList *list, const Rule *rule)
{
	if (list->count == list->room)
	{
		list->room = Max(16, list->room * 2);
		list->rules = list->rules == NULL ?
			palloc(list->room * sizeof(Rule)) :
			repalloc(list->rules, list->room * sizeof(Rule));
	}
	list->rules[list->count++] = *rule;
}

/*
 * Add the row in the slot to the list that it belongs to.  A row that names
 * nothing that a channel can be called, written by hand, is passed over.
 */
static void
add_row(TupleTableSlot *slot, RuleList *names, RuleList *patterns)
{
	Rule		rule = {.durable = false};
	char	   *name;
	Datum		value;
	bool		isnull;

	value = slot_getattr(slot, 1, &isnull);
	if (isnull)
		return;
	name = TextDatumGetCString(value);
	if (pgpubsub_check_channel_name(name, DEBUG2))
	{
		strlcpy(rule.name, name, NAMEDATALEN);
		value = slot_getattr(slot, 2, &isnull);
		rule.durable = !isnull && DatumGetBool(value);
		value = slot_getattr(slot, 3, &isnull);
		if (!isnull)
			rule.retain = *DatumGetIntervalP(value);
		add_rule(registry_is_pattern(rule.name) ? patterns : names, &rule);
	}
	pfree(name);
}

/* Order of rules by name. */
static int
compare_rules(const void *a, const void *b)
{
	return strcmp(((const Rule *) a)->name, ((const Rule *) b)->name);
}

/* Put the rules in the order in which find_rule() looks for them. */
static void
sort_rules(RuleList *list)
{
	if (list->count > 1)
		qsort(list->rules, list->count, sizeof(Rule), compare_rules);
}

/* Read the table's rules into the lists, in the current memory context. */
static void
read_table(Relation table, RuleList *names, RuleList *patterns)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(table, NULL);
	TableScanDesc scan = PGPUBSUB_BEGINSCAN(table, snapshot);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		add_row(slot, names, patterns);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	sort_rules(names);
	sort_rules(patterns);
}

/*
 * Open the table and lock it for reading; NULL if there is none.  Sets
 * rules.table, so that invalidations of it are heeded from then on.
 */
static Relation
open_table(void)
{
	for (;;)
	{
		Relation	table;

		rules.table = own_relation_find("channel", RELKIND_RELATION);
		if (!OidIsValid(rules.table))
			return NULL;
		table = try_table_open(rules.table, AccessShareLock);

		/* another table may have the name when we have the lock */
		if (table != NULL &&
			own_relation_find("channel", RELKIND_RELATION) == rules.table)
			return table;
		if (table != NULL)
			table_close(table, AccessShareLock);
	}
}

/*
 * Read the rules, unless those that we have are valid.  If that fails, or they
 * are invalidated meanwhile, they are read again next time.  Needs a
 * transaction.  Raises 55000 if the table was altered.
 */
static void
load_rules(void)
{
	MemoryContext context;
	MemoryContext old;
	RuleList	names = {NULL};
	RuleList	patterns = {NULL};
	Relation	table;
	uint64		version;

	if (rules.loaded_version == rules.version)
		return;
	Assert(IsTransactionState());
	watch_caches();
	table = open_table();
	version = rules.version;

	/* until all is read the memory is the caller's, in case of an error */
	context = AllocSetContextCreate(CurrentMemoryContext,
									"pgpubsub durable channels",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	if (table != NULL)
	{
		check_columns(table);
		read_table(table, &names, &patterns);
		table_close(table, AccessShareLock);
	}
	MemoryContextSwitchTo(old);

	MemoryContextSetParent(context, TopMemoryContext);
	if (rules.context != NULL)
		MemoryContextDelete(rules.context);
	rules.context = context;
	rules.names = names;
	rules.patterns = patterns;
	rules.loaded_version = version;
}

/* The rule of exactly that name, or NULL. */
static const Rule *
find_rule(const RuleList *list, const char *name)
{
	Rule		key = {.durable = false};

	if (list->count == 0)
		return NULL;
	strlcpy(key.name, name, NAMEDATALEN);
	return bsearch(&key, list->rules, list->count, sizeof(Rule),
				   compare_rules);
}

/*
 * The durable rule that has the longest retain among those whose patterns match
 * the name, or NULL.  In the name a wildcard stands for itself.
 */
static const Rule *
find_pattern(const char *name)
{
	const Rule *found = NULL;

	for (int i = 0; i < rules.patterns.count; i++)
	{
		const Rule *rule = &rules.patterns.rules[i];

		if (rule->durable && registry_pattern_matches(rule->name, name) &&
			(found == NULL ||
			 DatumGetBool(DirectFunctionCall2(interval_gt,
											  IntervalPGetDatum(&rule->retain),
											  IntervalPGetDatum(&found->retain)))))
			found = rule;
	}
	return found;
}

/* The rule by which the channel is durable, or NULL if it is not. */
static const Rule *
durable_rule(const char *channel)
{
	const Rule *rule;

	load_rules();
	if (strcmp(channel, PGPUBSUB_FRAME_CHANNEL) == 0)
		return NULL;
	rule = find_rule(&rules.names, channel);
	if (rule != NULL)
		return rule->durable ? rule : NULL;
	return find_pattern(channel);
}

/*
 * A number that has grown when the rules may have changed.  Who remembers what
 * the functions below say of a channel remembers the number from before, and
 * asks again when it is another.  No catalog is looked at.
 */
uint64
durable_rules_version(void)
{
	watch_caches();
	return rules.version;
}

/*
 * Is any channel durable, or may one become so by its name?  Like all of the
 * following, to be called in a transaction; raises 55000 if the table was
 * altered.
 */
bool
durable_rules_any(void)
{
	load_rules();
	for (int i = 0; i < rules.names.count; i++)
		if (rules.names.rules[i].durable)
			return true;
	for (int i = 0; i < rules.patterns.count; i++)
		if (rules.patterns.rules[i].durable)
			return true;
	return false;
}

/* Is the channel durable now, as this transaction has it? */
bool
durable_rules_match(const char *channel)
{
	return durable_rule(channel) != NULL;
}

/* Is the channel durable by a pattern, whatever is said of its name? */
bool
durable_rules_match_pattern(const char *channel)
{
	load_rules();
	return find_pattern(channel) != NULL;
}

/*
 * Is each channel durable that the pattern, or name, matches?  So it is if a
 * durable rule's pattern matches everything that this one does, and no rule
 * excepts a name that this one matches.
 */
bool
durable_rules_cover(const char *pattern)
{
	if (!registry_is_pattern(pattern))
		return durable_rules_match(pattern);
	load_rules();
	if (find_pattern(pattern) == NULL)
		return false;
	for (int i = 0; i < rules.names.count; i++)
	{
		const Rule *rule = &rules.names.rules[i];

		if (!rule->durable && registry_pattern_matches(pattern, rule->name))
			return false;
	}
	return true;
}

/*
 * For how long events of the channel are to be kept at least, in the current
 * memory context; NULL if the channel is not durable.
 */
Interval *
durable_rules_retain(const char *channel)
{
	const Rule *rule = durable_rule(channel);
	Interval   *retain;

	if (rule == NULL)
		return NULL;
	retain = palloc(sizeof(Interval));
	*retain = rule->retain;
	return retain;
}

/*
 * For how long, in us, any rule has events kept at least.  Months count as 30
 * days.
 */
int64
durable_rules_longest_retain(void)
{
	const RuleList *lists[] = {&rules.names, &rules.patterns};
	int64		longest = 0;

	load_rules();
	for (int i = 0; i < (int) lengthof(lists); i++)
	{
		for (int j = 0; j < lists[i]->count; j++)
		{
			const Rule *rule = &lists[i]->rules[j];
			double		us = (double) rule->retain.time +
				((double) rule->retain.month * DAYS_PER_MONTH +
			 rule->retain.day) * USECS_PER_DAY;

			if (rule->durable)
				longest = Max(longest,
							  us > MOST_RETAIN_US ? MOST_RETAIN_US : (int64) us);
		}
	}
	return longest;
}

/* What the row with exactly that name or pattern says; false if there is none. */
bool
durable_rules_find(const char *name, bool *durable, Interval *retain)
{
	const Rule *rule;

	load_rules();
	rule = find_rule(registry_is_pattern(name) ? &rules.patterns : &rules.names,
					 name);
	if (rule == NULL)
		return false;
	*durable = rule->durable;
	*retain = rule->retain;
	return true;
}
