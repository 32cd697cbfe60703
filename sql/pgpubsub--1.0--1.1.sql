/* sql/pgpubsub--1.0--1.1.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION pgpubsub UPDATE TO '1.1'" to load this file. \quit

--
-- The schema
--
-- It becomes a part of the extension, which is dropped with it and is not in
-- pg_dump's output.  No extension can be in a schema that is its part, so it is
-- in pg_catalog from now on, as far as anybody asks.
--

SET LOCAL search_path TO pg_catalog, pg_temp;

DO $$
DECLARE
    extension  oid := (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'pgpubsub');
    namespace  oid := 'pgpubsub'::regnamespace;
    privileges aclitem[] := (SELECT p.initprivs FROM pg_init_privs AS p
                              WHERE p.classoid = 'pg_namespace'::regclass AND p.objoid = namespace);
BEGIN
    UPDATE pg_extension SET extnamespace = 'pg_catalog'::regnamespace WHERE oid = extension;
    DELETE FROM pg_depend
     WHERE classid = 'pg_extension'::regclass AND objid = extension
       AND refclassid = 'pg_namespace'::regclass;
    IF NOT EXISTS (SELECT FROM pg_depend AS d
                    WHERE d.classid = 'pg_namespace'::regclass AND d.objid = namespace
                      AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = extension) THEN
        ALTER EXTENSION pgpubsub ADD SCHEMA pgpubsub;

        -- pg_dump leaves out what was granted by the extension, nothing more
        UPDATE pg_init_privs SET initprivs = privileges
         WHERE classoid = 'pg_namespace'::regclass AND objoid = namespace
           AND privileges IS NOT NULL;
    END IF;
END $$;

--
-- Publish
--

COMMENT ON FUNCTION pgpubsub.notify_change() IS
'AFTER trigger that publishes an event for the changed row or, as a statement trigger, for all rows that the statement changed. pgpubsub.attach() installs it; it can also be given to a trigger by hand. A statement trigger for INSERT, UPDATE or DELETE must name its transition tables with REFERENCING.
The trigger''s arguments each have the form ''name=value'':
channel: the channel to publish on. Default: the name of the table.
columns, watch: column names with commas between them, quoted as in SQL; see pgpubsub.attach().
old_values: none, key, changed or full. Default: changed.
format: plain, debezium or cloudevents. Default: plain.
publish_mode: transactional or async. Default: the setting pgpubsub.publish_mode at the time of the event.
The trigger does nothing while the setting pgpubsub.muted is on. An event that exceeds pgpubsub.max_payload bytes is published in its short form, which has the key at most.
Errors: 0A000 format debezium in a statement trigger; 22023 a bad argument; 39P01 not called as an AFTER trigger; 42939 the channel is reserved; 53400 the queue stayed full for pgpubsub.publish_timeout; 55000 a statement trigger without transition tables.';

-- A function whose arguments change becomes a new function.  What was made with
-- the one of version 1.0, a view say, goes on with that one, which is out of the
-- way under another name.  See Privileges for what the new one takes over.
ALTER FUNCTION pgpubsub.attach(regclass, text, text[], name[], name[], text, text, text, text, text) RENAME TO attach_1_0;

COMMENT ON FUNCTION pgpubsub.attach_1_0(regclass, text, text[], name[], name[], text, text, text, text, text) IS
'The function attach() of version 1.0, for views and functions that were made with it. Call pgpubsub.attach() instead, which has the same arguments, one more, and the same errors.';

CREATE FUNCTION pgpubsub.attach(
    relation     regclass,
    channel      text    DEFAULT NULL,
    operations   text[]  DEFAULT '{insert,update,delete}',
    columns      name[]  DEFAULT NULL,
    watch        name[]  DEFAULT NULL,
    condition    text    DEFAULT NULL,
    old_values   text    DEFAULT 'changed',
    level        text    DEFAULT 'row',
    format       text    DEFAULT 'plain',
    publish_mode text    DEFAULT NULL,
    durable      boolean DEFAULT NULL
) RETURNS text
    AS 'MODULE_PATHNAME', 'pgpubsub_attach_1_1'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.attach(regclass, text, text[], name[], name[], text, text, text, text, text, boolean) IS
'Creates triggers on the table that publish its changes on the channel, and drops those that it has for this channel. Returns the channel. If the table has exactly these triggers already, nothing changes, and no lock on the table is kept. The user needs the privilege TRIGGER on the table; to replace triggers, the user must own the table.
relation: the table, partitioned table or foreign table.
channel: a name of 1 to 63 bytes without *. NULL: the name of the table.
operations: which of insert, update, delete and truncate make events.
columns: which columns an event shows of a row. NULL: all. The key is shown in any case.
watch: columns of which an UPDATE must change one, in its stored value, to make an event. NULL: every UPDATE makes one.
condition: a boolean expression over NEW and OLD, as in CREATE TRIGGER ... WHEN; only rows for which it is true make events. NULL: all rows.
old_values: what an event shows of the old row: none, key, changed (after an UPDATE the columns that changed, after a DELETE the whole row) or full.
level: row (one event per row) or statement (one event per statement, or more if it is too large for one).
format: plain, debezium or cloudevents.
publish_mode: transactional or async. NULL: the setting pgpubsub.publish_mode at the time of the event.
durable: whether the channel is durable from now on, as with pgpubsub.set_durable(), which keeps how long its events are retained if it is durable already; false, where the channel is durable, needs EXECUTE on that function, true does not. NULL: the channel is left as it is.
Errors: 0A000 level statement with a condition, with format debezium, for a hypertable, or for a foreign table, also as a partition or child; a virtual generated column; a temporary table of another session; or a condition that pg_dump would not keep. 22004 a null. 2202E an array of more than one dimension. 22023 a bad value, or an array that is empty or has duplicates. 25006 on a standby, or in a read-only transaction. 42501 a missing privilege. 42601 the condition is not one expression. 42703 and 42P10 a column that does not exist, or a system column. 42710 the table is attached through its parent, or a partition is attached to the channel by itself. 42809 not a table. 42939 the channel is reserved. 42P01 the relation does not exist. 42P17 the condition names OLD or NEW, which an operation does not have. 40001 and 55000 as with pgpubsub.set_durable().';

COMMENT ON FUNCTION pgpubsub.detach(regclass, text) IS
'Drops the triggers that publish the table''s changes on the channel, and their clones on partitions and on the chunks of hypertables; other triggers stay. Returns how many triggers it dropped, without the clones. The user must own the table.
relation: the table.
channel: the channel. NULL: all channels.
Errors: 22004 relation is null; 25006 on a standby, or in a read-only transaction; 2BP01 the table is attached through its parent; 42501 the user does not own the table; 42809 not a table; 42P01 the relation does not exist.';

-- Operators below are found by exact types, so in pg_catalog: somebody may have
-- made the schema, with operators in it, before the extension.  "h" is the
-- trigger that a trigger of an inheriting table was cloned from, by the rule of
-- trigger_clones.c.
CREATE OR REPLACE VIEW pgpubsub.attachments AS
    SELECT t.tgrelid::pg_catalog.regclass AS relation,
           t.tgname AS trigger,
           COALESCE(a.arguments ->> 'channel'::pg_catalog.text, c.relname::pg_catalog.text) AS channel,
           CASE WHEN t.tgtype::pg_catalog.int4 & 1 <> 0
                THEN 'row' ELSE 'statement' END AS level,
           pg_catalog.array_remove(ARRAY[
               CASE WHEN t.tgtype::pg_catalog.int4 & 4 <> 0 THEN 'insert' END,
               CASE WHEN t.tgtype::pg_catalog.int4 & 16 <> 0 THEN 'update' END,
               CASE WHEN t.tgtype::pg_catalog.int4 & 8 <> 0 THEN 'delete' END,
               CASE WHEN t.tgtype::pg_catalog.int4 & 32 <> 0 THEN 'truncate' END
           ], NULL) AS operations,
           (a.arguments - 'channel'::pg_catalog.text)
               OPERATOR(pg_catalog.||) CASE WHEN d.condition IS NULL THEN '{}'::pg_catalog.jsonb
                   ELSE pg_catalog.jsonb_build_object('condition', d.condition) END
               OPERATOR(pg_catalog.||) CASE t.tgenabled
                   WHEN 'A'::pg_catalog."char" THEN '{"enable": "always"}'::pg_catalog.jsonb
                   WHEN 'R'::pg_catalog."char" THEN '{"enable": "replica"}'::pg_catalog.jsonb
                   ELSE '{}'::pg_catalog.jsonb END AS options,
           t.tgenabled <> 'D'::pg_catalog."char" AS enabled
      FROM pg_catalog.pg_trigger AS t
      JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
      LEFT JOIN pg_catalog.pg_trigger AS p ON p.oid = t.tgparentid
      LEFT JOIN LATERAL (
          SELECT q.tgenabled
            FROM pg_catalog.pg_inherits AS i
            JOIN pg_catalog.pg_trigger AS q ON q.tgrelid = i.inhparent AND q.tgname = t.tgname
           WHERE i.inhrelid = t.tgrelid AND NOT c.relispartition
             AND t.tgtype::pg_catalog.int4 & 1 <> 0
             AND q.tgtype = t.tgtype AND q.tgfoid = t.tgfoid AND q.tgargs = t.tgargs
           ORDER BY i.inhseqno
           LIMIT 1) AS h ON true
     CROSS JOIN LATERAL pgpubsub.trigger_options(t.tgargs) AS a(arguments)
     CROSS JOIN LATERAL (
         SELECT CASE WHEN t.tgqual IS NOT NULL
                     THEN pgpubsub.trigger_condition(t.oid) END) AS d(condition)
     WHERE t.tgfoid = 'pgpubsub.notify_change()'::pg_catalog.regprocedure::pg_catalog.oid
       AND NOT t.tgisinternal
       AND (COALESCE(p.tgenabled, h.tgenabled) IS NULL OR COALESCE(p.tgenabled, h.tgenabled) <> t.tgenabled);

COMMENT ON VIEW pgpubsub.attachments IS
'The triggers that publish changes: one row for each. A trigger that a partition, or a chunk of a hypertable, has from its parent is shown only if it is disabled, or enabled in another way than the parent''s.';
COMMENT ON COLUMN pgpubsub.attachments.relation IS 'The table that the trigger is on.';
COMMENT ON COLUMN pgpubsub.attachments.trigger IS 'The name of the trigger.';
COMMENT ON COLUMN pgpubsub.attachments.channel IS 'The channel on which the trigger publishes.';
COMMENT ON COLUMN pgpubsub.attachments.level IS 'row: one event for each row; statement: one event for each statement. A trigger for TRUNCATE always has level statement.';
COMMENT ON COLUMN pgpubsub.attachments.operations IS 'The operations that fire the trigger: insert, update, delete, truncate.';
COMMENT ON COLUMN pgpubsub.attachments.options IS 'The trigger''s other options, as far as they differ from the default: columns, watch, old_values, format and publish_mode, as in pgpubsub.attach(); condition, as the server writes it; and enable, where the trigger is enabled always or on a replica.';
COMMENT ON COLUMN pgpubsub.attachments.enabled IS 'False if the trigger is disabled by ALTER TABLE ... DISABLE TRIGGER.';

COMMENT ON FUNCTION pgpubsub.trigger_options(bytea) IS
'Returns the arguments of a trigger that calls pgpubsub.notify_change() as an object of names and values. The view pgpubsub.attachments uses it. Raises no error for arguments that make no sense.
arguments: pg_trigger.tgargs.';
COMMENT ON FUNCTION pgpubsub.trigger_condition(oid) IS
'Returns the condition of a trigger as pg_get_triggerdef() writes it; NULL if the trigger has none or does not exist. The view pgpubsub.attachments uses it.
trigger: the OID of the trigger.';

COMMENT ON FUNCTION pgpubsub.publish(text, text) IS
'Publishes the payload on the channel when this transaction commits. Identical calls in one transaction are one event, as with NOTIFY, unless they are published in async mode.
channel: a name of 1 to 63 bytes.
payload: at most pgpubsub.max_payload bytes; NULL stands for the empty text. Of a payload above 7999 bytes, subscriptions get all, and sessions that LISTEN get {"truncated":true,"bytes":n,"id":"..."}, where n is its length in bytes.
Errors: 22004 channel is null; 22023 channel is empty or too long; 25006 on a standby, or on a durable channel in a read-only transaction; 42939 the channel is reserved; 53400 the queue, or the log of durable channels, stayed full for pgpubsub.publish_timeout; 54000 the payload is too large.';

CREATE FUNCTION pgpubsub.publish(
    channel text,
    payload json
) RETURNS void
    AS 'MODULE_PATHNAME', 'pgpubsub_publish'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.publish(text, json) IS
'Publishes the payload, as it is written, on the channel when this transaction commits. Everything else is as with pgpubsub.publish(text, text).
channel: a name of 1 to 63 bytes.
payload: at most pgpubsub.max_payload bytes as text; NULL stands for the empty text.
Errors: 22004 channel is null; 22023 channel is empty or too long; 25006 on a standby, or on a durable channel in a read-only transaction; 42939 the channel is reserved; 53400 the queue, or the log of durable channels, stayed full for pgpubsub.publish_timeout; 54000 the payload is too large.';

CREATE FUNCTION pgpubsub.publish(
    channel text,
    payload jsonb
) RETURNS void
    AS 'MODULE_PATHNAME', 'pgpubsub_publish_jsonb'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.publish(text, jsonb) IS
'Publishes the payload, as the server writes jsonb, on the channel when this transaction commits. Everything else is as with pgpubsub.publish(text, text).
channel: a name of 1 to 63 bytes.
payload: at most pgpubsub.max_payload bytes as text; NULL stands for the empty text.
Errors: 22004 channel is null; 22023 channel is empty or too long; 25006 on a standby, or on a durable channel in a read-only transaction; 42939 the channel is reserved; 53400 the queue, or the log of durable channels, stayed full for pgpubsub.publish_timeout; 54000 the payload is too large.';

--
-- Durable channels
--

CREATE TABLE pgpubsub.channel (
    channel text COLLATE "C" PRIMARY KEY,
    durable boolean  NOT NULL DEFAULT true,
    retain  interval NOT NULL DEFAULT '0'
        CONSTRAINT channel_retain_check
        CHECK (retain OPERATOR(pg_catalog.>=) '0'::pg_catalog.interval
               AND retain OPERATOR(pg_catalog.<=) '178000000 years'::pg_catalog.interval)
);

COMMENT ON TABLE pgpubsub.channel IS
'Which channels are durable: a channel is as the row with its name says; if there is none, it is durable if a pattern that matches it has a row with durable. pgpubsub.set_durable() writes the table, pg_dump keeps its rows, and every session follows it as soon as a change is committed.';
COMMENT ON COLUMN pgpubsub.channel.channel IS 'The name of a channel, or a pattern, in which * stands for any run of characters.';
COMMENT ON COLUMN pgpubsub.channel.durable IS 'Whether it is durable. False makes the channel an exception from the patterns that match it.';
COMMENT ON COLUMN pgpubsub.channel.retain IS 'For how long at least its events stay in the log, read or not, as far as pgpubsub.log_size goes. Among patterns that match a channel, the longest counts.';

SELECT pg_catalog.pg_extension_config_dump('pgpubsub.channel', '');

CREATE FUNCTION pgpubsub.channel_written() RETURNS trigger
    AS 'MODULE_PATHNAME', 'pgpubsub_channel_written'
    LANGUAGE C;

COMMENT ON FUNCTION pgpubsub.channel_written() IS
'Trigger function of the table pgpubsub.channel. After a statement it has all sessions and the relay read the table again once the transaction has committed; before a row it discards what logical replication would do to the table, so that each database keeps its own durable channels.
Errors: 39P01 called in another way.';

CREATE TRIGGER channel_written
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON pgpubsub.channel
    FOR EACH STATEMENT EXECUTE FUNCTION pgpubsub.channel_written();
CREATE TRIGGER discard_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON pgpubsub.channel
    FOR EACH ROW EXECUTE FUNCTION pgpubsub.channel_written();
ALTER TABLE pgpubsub.channel
    ENABLE ALWAYS TRIGGER channel_written,
    ENABLE ALWAYS TRIGGER discard_replicated;

COMMENT ON TRIGGER channel_written ON pgpubsub.channel IS
'Has all sessions and the relay read the table again, whoever writes it.';
COMMENT ON TRIGGER discard_replicated ON pgpubsub.channel IS
'Discards rows that come by logical replication, also by its initial copy.';

CREATE FUNCTION pgpubsub.set_durable(
    channel text,
    durable boolean  DEFAULT true,
    retain  interval DEFAULT '0'
) RETURNS boolean
    AS 'MODULE_PATHNAME', 'pgpubsub_set_durable'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.set_durable(text, boolean, interval) IS
'Makes the channel durable, or no longer durable, when this transaction commits: the events of a durable channel are kept in the log, and are not lost when the server crashes, restarts or fails over. It holds for transactions that begin afterwards. Returns true if this changed something. Other calls that change something wait until this transaction ends.
channel: a name of 1 to 63 bytes, in which * stands for any run of characters. What is said of a name goes before what is said of patterns that match it; of several patterns, one that is durable is enough.
durable: false takes back what was said of the name or pattern; a name that a durable pattern matches becomes an exception from it.
retain: for how long at least events stay in the log, read or not, as far as pgpubsub.log_size goes; 0: until all subscriptions have read them. It does not count if durable is false.
Errors: 22004 a null; 22023 a bad name, or retain is negative or infinite; 25006 on a standby, or in a read-only transaction; 40001 the channel was changed after this transaction took its snapshot; 42939 the channel is reserved; 55000 the extension''s table is not there or was altered, or its schema is somebody else''s.';

-- The log.  pgpubsub writes these relations below SQL.  They are materialized
-- views because those are in no publication, and nobody can write or lock them.
-- How many there are, and the order of their columns, the library knows.
DO $$
DECLARE
    kinds   text[] := ARRAY['row', 'note', 'position'];
    numbers int[] := ARRAY[8, 8, 2];
    columns text[] := ARRAY[
        'NULL::bigint AS xid, NULL::bigint AS lsn, NULL::integer AS number, NULL::integer AS pid,'
        ' NULL::timestamptz AS at, NULL::boolean AS notified, NULL::text COLLATE "C" AS channel,'
        ' NULL::text COLLATE "C" AS id, NULL::text COLLATE "C" AS payload, NULL::text COLLATE "C" AS native',
        'NULL::text COLLATE "C" AS channel, NULL::bigint AS first_seq, NULL::bigint AS last_seq,'
        ' NULL::bigint AS events_before, NULL::bigint AS bytes_before, NULL::integer AS events,'
        ' NULL::bigint AS bytes, NULL::timestamptz AS at, NULL::bytea AS runs',
        'NULL::bigint AS id, NULL::bigint AS version, NULL::bigint AS seq, NULL::bigint AS lost,'
        ' NULL::text[] COLLATE "C" AS channels, NULL::bigint[] AS seqs'];
    holds   text[] := ARRAY[
        'events of durable channels',
        'which seqs the events of durable channels have',
        'how far subscriptions have read'];
    relation text;
BEGIN
    FOR kind IN 1 .. 3 LOOP
        FOR number IN 1 .. numbers[kind] LOOP
            relation := format('log_%s_%s', kinds[kind], number);
            EXECUTE format('CREATE MATERIALIZED VIEW pgpubsub.%I'
                           ' WITH (autovacuum_enabled = false, toast.autovacuum_enabled = false)'
                           ' AS SELECT %s WITH NO DATA', relation, columns[kind]);
            IF kinds[kind] = 'note' THEN
                EXECUTE format('ALTER MATERIALIZED VIEW pgpubsub.%I'
                               ' ALTER COLUMN channel SET STORAGE PLAIN, ALTER COLUMN runs SET STORAGE PLAIN', relation);
                EXECUTE format('CREATE INDEX %I ON pgpubsub.%I (channel, last_seq)',
                               relation || '_channel_last_seq_idx', relation);
            END IF;
            EXECUTE format('REVOKE ALL ON TABLE pgpubsub.%I FROM PUBLIC', relation);
            EXECUTE format('COMMENT ON MATERIALIZED VIEW pgpubsub.%I IS %L', relation,
                           format('Part of the log: %s. pgpubsub itself writes it, below SQL;'
                                  ' do not refresh, alter or index it, nor grant anything on it.', holds[kind]));
        END LOOP;
    END LOOP;
END $$;

--
-- Subscribe
--
-- Functions whose arguments change in type become new functions.  What was
-- made with one of version 1.0, a view say, goes on with that one, which is
-- out of the way under another name: with two functions of one name, the types
-- of a call's other arguments would tell whether a name is cut to 63 bytes.
-- See Privileges for what the new ones take over.
--

ALTER FUNCTION pgpubsub.subscribe(name, text[], text, text, boolean) RENAME TO subscribe_1_0;
ALTER FUNCTION pgpubsub.poll(name, integer, interval, boolean) RENAME TO poll_1_0;
ALTER FUNCTION pgpubsub.ack(name, bigint) RENAME TO ack_1_0;
ALTER FUNCTION pgpubsub.unsubscribe(name) RENAME TO unsubscribe_1_0;

COMMENT ON FUNCTION pgpubsub.subscribe_1_0(name, text[], text, text, boolean) IS
'The function subscribe() of version 1.0, for views and functions that were made with it. Its argument of type name cuts names to 63 bytes. Call pgpubsub.subscribe() instead, which has the same other arguments and errors.';
COMMENT ON FUNCTION pgpubsub.poll_1_0(name, integer, interval, boolean) IS
'The function poll() of version 1.0, for views and functions that were made with it. Its argument of type name cuts names to 63 bytes. Call pgpubsub.poll() instead, which has the same other arguments and errors.';
COMMENT ON FUNCTION pgpubsub.ack_1_0(name, bigint) IS
'The function ack() of version 1.0, for views and functions that were made with it. Its argument of type name cuts names to 63 bytes. Call pgpubsub.ack() instead, which has the same other arguments and errors.';
COMMENT ON FUNCTION pgpubsub.unsubscribe_1_0(name) IS
'The function unsubscribe() of version 1.0, for views and functions that were made with it. Its argument of type name cuts names to 63 bytes. Call pgpubsub.unsubscribe() instead, which has the same other arguments and errors.';

CREATE FUNCTION pgpubsub.subscribe(
    subscription text,
    channels     text[],
    on_full      text    DEFAULT 'evict',
    start_at     text    DEFAULT 'now',
    temporary    boolean DEFAULT false
) RETURNS boolean
    AS 'MODULE_PATHNAME', 'pgpubsub_subscribe_1_1'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.subscribe(text, text[], text, text, boolean) IS
'Creates the subscription and returns true; or, if it exists, gives it these channels and this on_full, and returns false. When the function returns, the relay listens to the channels; it waits for that at most for pgpubsub.publish_timeout. If the transaction rolls back, the subscription is as before.
subscription: a name of 1 to 63 bytes.
channels: names of 1 to 63 bytes each, in which * stands for any run of characters.
on_full: what happens when the queue is full of events that the subscription has not read: drop, evict or block. For block, the user must be a superuser or own the database.
start_at: which event is read first: now, oldest, a sequence number, or a timestamp, from which on events of durable channels are read; neither may be of the future. Where events are gone from that number on, poll() begins with a gap row: it has their number where the log of durable channels knows it, else -1.
temporary: whether the subscription ends with this session, or with DISCARD ALL.
Errors: 22004 a null; 2202E channels has more than one dimension; 22023 a bad argument; 25006 on a standby, or in a read-only transaction; 40001 the subscription is newer than this transaction''s snapshot; 42501 the user does not own the subscription, or may not use block; 42710 the subscription exists with the other lifetime; 42939 a channel is reserved; 42P01 the extension''s table is not there, or its schema is somebody else''s; 53400 a pool is full (names the setting to raise); 55000 pgpubsub is not preloaded, there is no relay, or the subscription''s row was deleted from the table; 55006 another session is reading the subscription (names its pid).';

CREATE FUNCTION pgpubsub.add_channels(
    subscription text,
    channels     text[]
) RETURNS bigint
    AS 'MODULE_PATHNAME', 'pgpubsub_add_channels'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.add_channels(text, text[]) IS
'Gives the subscription these channels too, as pgpubsub.subscribe() with all of them would, but at a cost that depends on these alone, and also while other sessions read the subscription or wait for its events: those get the new channels'' events once this transaction has committed. A channel that the subscription has already, by name or by pattern, stays where it is; any other begins now. When the function returns, the relay listens to the channels; it waits for that at most for pgpubsub.publish_timeout. If the transaction rolls back, the subscription is as before. Other calls that change the subscription wait until this transaction ends.
Returns the seq from which on the channels hold: events of a new channel have this seq or a higher one.
subscription: a name of 1 to 63 bytes. It may be a temporary one of another session.
channels: names of 1 to 63 bytes each, in which * stands for any run of characters; with such a pattern among them, the cost depends on all channels that there are.
Errors: 22004 a null; 2202E channels has more than one dimension; 22023 a bad name, or channels is empty; 25006 on a standby, or in a read-only transaction; 40001 the subscription is newer than this transaction''s snapshot; 42501 the user does not own the subscription, or it has on_full block, which the user may not use; 42704 the subscription does not exist; 42939 a channel is reserved; 42P01 the extension''s tables are not there, or their schema is somebody else''s; 53400 a pool is full (names the setting to raise); 55000 pgpubsub is not preloaded, there is no relay, or the subscription''s row was deleted from the table.';

CREATE FUNCTION pgpubsub.drop_channels(
    subscription text,
    channels     text[]
) RETURNS integer
    AS 'MODULE_PATHNAME', 'pgpubsub_drop_channels'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.drop_channels(text, text[]) IS
'Takes these channels from the subscription when this transaction commits, as pgpubsub.subscribe() with the others would, but at a cost that depends on these alone. Returns how many of the names the subscription had. A channel that a pattern of the subscription matches goes on; the last channel may be dropped too, which leaves a subscription that reads nothing. A session that waits for the subscription''s events goes on waiting. One that has read the subscription in a transaction that is still open is waited for, at most for pgpubsub.publish_timeout.
subscription: a name of 1 to 63 bytes. It may be a temporary one of another session.
channels: names as pgpubsub.subscribe() or pgpubsub.add_channels() got them; a pattern means itself, and not what it matches. With a pattern among them, the cost depends on all channels of the subscription.
Errors: 22004 a null; 2202E channels has more than one dimension; 22023 a bad name, or channels is empty; 25006 on a standby, or in a read-only transaction; 40001 the subscription is newer than this transaction''s snapshot; 42501 the user does not own the subscription; 42704 the subscription does not exist; 42939 a channel is reserved; 42P01 the extension''s tables are not there, or their schema is somebody else''s; 55000 pgpubsub is not preloaded, there is no relay, or the subscription''s row was deleted from the table; 55006 another session is reading the subscription (names its pid).';

CREATE FUNCTION pgpubsub.poll(
    subscription text,
    max_messages bigint   DEFAULT 100,
    timeout      interval DEFAULT '0',
    consume      boolean  DEFAULT true
) RETURNS TABLE (
    seq        bigint,
    channel    text,
    payload    text,
    pid        integer,
    relayed_at timestamptz,
    lost       bigint
)
    AS 'MODULE_PATHNAME', 'pgpubsub_poll_1_1'
    LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100;

COMMENT ON FUNCTION pgpubsub.poll(text, bigint, interval, boolean) IS
'Reads events of the subscription, oldest first. They are consumed when this transaction commits; if it rolls back, the next poll returns them again. A poll whose client has closed its connection consumes nothing. Never put LIMIT or WHERE on it: events that they hide are consumed too.
subscription: a name of 1 to 63 bytes.
max_messages: the greatest number of events to return.
timeout: how long to wait for the first event, at most pgpubsub.max_poll_wait. While a poll waits it keeps its snapshot, so that CREATE INDEX CONCURRENTLY waits for it and VACUUM keeps the rows that die meanwhile: CALL pgpubsub.wait() first instead, and poll without a timeout.
consume: false returns the events and leaves the position of the subscription as it is.
Result: seq is the event''s number, which increases within a database; pid is the process id of the session that published it; relayed_at is when it was queued. Where events were missed, a row comes first in which channel and payload are NULL and lost is how many were missed, or -1 if that cannot be known.
Errors: 22004 a null; 22023 a bad argument; 25006 on a standby, or in a read-only transaction if events of a durable channel would be consumed; 42501 the user does not own the subscription; 42704 the subscription does not exist; 55000 pgpubsub is not preloaded, or there is no relay; 55006 another session is reading the subscription (names its pid).';

CREATE FUNCTION pgpubsub.ack(
    subscription text,
    seq          bigint
) RETURNS bigint
    AS 'MODULE_PATHNAME', 'pgpubsub_ack_1_1'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.ack(text, bigint) IS
'Consumes all events of the subscription up to and including seq, when this transaction commits. Returns how many events it consumed. Events that a poll with consume => false returned, and that were overwritten before the ack, count as lost.
subscription: a name of 1 to 63 bytes.
seq: the seq of an event that poll() returned.
Errors: 22004 a null; 22023 a bad name, or a seq that is negative or was not given out yet; 25006 on a standby, or in a read-only transaction if events of a durable channel would be consumed; 42501 the user does not own the subscription; 42704 the subscription does not exist; 55000 pgpubsub is not preloaded, or there is no relay; 55006 another session is reading the subscription (names its pid).';

CREATE FUNCTION pgpubsub.seek(
    subscription text,
    start_at     text
) RETURNS bigint
    AS 'MODULE_PATHNAME', 'pgpubsub_seek'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.seek(text, text) IS
'Moves the position of the subscription, back or ahead, when this transaction commits; if it rolls back, the subscription is where it was. Returns the seq that comes next: that of the first event that the next poll can return. Events that are passed over count neither as delivered nor as lost; those that are gone from the new position on are told by the next gap row, whose number is -1 where the log of durable channels does not know it.
subscription: a name of 1 to 63 bytes.
start_at: which event is read next, as in pgpubsub.subscribe(): now, oldest, a sequence number, or a timestamp, from which on events of durable channels are read.
Errors: 22004 a null; 22023 a bad name or start_at, or one of the future; 25006 on a standby, or in a read-only transaction; 42501 the user does not own the subscription; 42704 the subscription does not exist; 55000 pgpubsub is not preloaded, or there is no relay; 55006 another session is reading the subscription (names its pid).';

CREATE FUNCTION pgpubsub.unsubscribe(
    subscription text
) RETURNS boolean
    AS 'MODULE_PATHNAME', 'pgpubsub_unsubscribe_1_1'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.unsubscribe(text) IS
'Drops the subscription when this transaction commits. Returns false if there is none.
subscription: a name of 1 to 63 bytes.
Errors: 22004 subscription is null; 22023 it is empty or too long; 25006 on a standby, or in a read-only transaction; 40001 the subscription is newer than this transaction''s snapshot; 42501 the user does not own it; 42P01 the extension''s table is not there, or its schema is somebody else''s; 55000 pgpubsub is not preloaded, or there is no relay; 55006 another session is reading the subscription (names its pid).';

CREATE FUNCTION pgpubsub.subscription_replicated() RETURNS trigger
    AS 'MODULE_PATHNAME', 'pgpubsub_subscription_replicated'
    LANGUAGE C;

COMMENT ON FUNCTION pgpubsub.subscription_replicated() IS
'Trigger function of the tables pgpubsub.subscription and pgpubsub.subscription_channel. It discards what logical replication would do to the tables, so that each database keeps its own subscriptions.
Errors: 39P01 called in another way.';

CREATE TRIGGER discard_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON pgpubsub.subscription
    FOR EACH ROW EXECUTE FUNCTION pgpubsub.subscription_replicated();
CREATE TRIGGER keep_from_truncate
    BEFORE TRUNCATE ON pgpubsub.subscription
    FOR EACH STATEMENT EXECUTE FUNCTION pgpubsub.subscription_replicated();
CREATE TRIGGER keep_after_truncate
    AFTER TRUNCATE ON pgpubsub.subscription
    FOR EACH STATEMENT EXECUTE FUNCTION pgpubsub.subscription_replicated();
ALTER TABLE pgpubsub.subscription
    ENABLE ALWAYS TRIGGER discard_replicated,
    ENABLE ALWAYS TRIGGER keep_from_truncate,
    ENABLE ALWAYS TRIGGER keep_after_truncate;

COMMENT ON TRIGGER discard_replicated ON pgpubsub.subscription IS
'Discards rows that come by logical replication, also by its initial copy.';
COMMENT ON TRIGGER keep_from_truncate ON pgpubsub.subscription IS
'Puts the rows aside when logical replication truncates the table.';
COMMENT ON TRIGGER keep_after_truncate ON pgpubsub.subscription IS
'Puts the rows back that keep_from_truncate has put aside.';

CREATE PROCEDURE pgpubsub.wait(
    subscription text,
    timeout      interval
)
    AS 'MODULE_PATHNAME', 'pgpubsub_wait'
    LANGUAGE C;

COMMENT ON PROCEDURE pgpubsub.wait(text, interval) IS
'Waits until the subscription has something to poll: an event, or missed events. Poll right after it, without a timeout. While it waits it holds no snapshot, so that it hinders neither CREATE INDEX CONCURRENTLY nor VACUUM, but it keeps a pooled connection busy. It ends the transaction that it is called in, and so cannot run in a transaction block, a function, or a block with EXCEPTION. It claims nothing: several sessions may wait for one subscription, and while another session reads the subscription, they go on waiting.
subscription: a name of 1 to 63 bytes.
timeout: how long to wait, at most pgpubsub.max_poll_wait.
Errors: 22004 a null; 22023 a bad name, or a negative timeout; 25001 in a transaction block; 25006 on a standby; 42501 the user does not own the subscription; 42704 the subscription does not exist, or was dropped meanwhile; 55000 pgpubsub is not preloaded, or there is no relay.';

-- Rows that are there were made here.  By way of a default, which writes none.
DO $$
BEGIN
    EXECUTE pg_catalog.format('ALTER TABLE pgpubsub.subscription ADD COLUMN made_in pg_catalog.oid DEFAULT %s',
        (SELECT d.oid FROM pg_catalog.pg_database AS d
          WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()));
    ALTER TABLE pgpubsub.subscription ALTER COLUMN made_in DROP DEFAULT;
END $$;

COMMENT ON COLUMN pgpubsub.subscription.made_in IS
'The OID of the database in which the subscription was made or last polled. In any other database, such as a copy of that one, the subscription holds nobody until it is polled there. It cannot be given by hand: a value that is given becomes 0, which is no database, because that is how pg_restore writes rows that come from another database.';

-- By a default of which each row gets a value of its own: this writes the table
-- anew.  The digit that says of which version a UUID is keeps it above 0.
ALTER TABLE pgpubsub.subscription ADD COLUMN id pg_catalog.int8 NOT NULL
    DEFAULT ('x'::pg_catalog.text OPERATOR(pg_catalog.||)
             pg_catalog.substr(pg_catalog.replace(pg_catalog.gen_random_uuid()::pg_catalog.text,
                                                  '-'::pg_catalog.text, ''::pg_catalog.text), 1, 15)
            )::pg_catalog."bit"(60)::pg_catalog.int8;

COMMENT ON COLUMN pgpubsub.subscription.id IS
'A random number above 0 by which the log knows the subscription: one that is made later under the same name does not get this one''s position.';

CREATE FUNCTION pgpubsub.subscription_inserted() RETURNS trigger
    AS 'MODULE_PATHNAME', 'pgpubsub_subscription_inserted'
    LANGUAGE C;

COMMENT ON FUNCTION pgpubsub.subscription_inserted() IS
'Row trigger function of the tables pgpubsub.subscription, where it sets made_in to this database if the column is not given, and else to 0, and pgpubsub.subscription_channel, where it clears since and version.
Errors: 39P01 called in another way.';

CREATE TRIGGER subscription_inserted
    BEFORE INSERT ON pgpubsub.subscription
    FOR EACH ROW EXECUTE FUNCTION pgpubsub.subscription_inserted();

COMMENT ON TRIGGER subscription_inserted ON pgpubsub.subscription IS
'Sets made_in, which tells rows that pg_restore writes from those that somebody writes by hand.';

CREATE TABLE pgpubsub.subscription_channel (
    subscription bigint,
    channel      text COLLATE "C",
    listed       boolean NOT NULL DEFAULT false,
    dropped      boolean NOT NULL DEFAULT false,
    since        bigint,
    version      bigint,
    PRIMARY KEY (subscription, channel)
);

COMMENT ON TABLE pgpubsub.subscription_channel IS
'The channels that pgpubsub.add_channels() and pgpubsub.drop_channels() have added to those that pgpubsub.subscription shows for a subscription, or taken from them; the next pgpubsub.subscribe() that changes something puts them there, and removes the rows. Those functions write the table, pg_dump keeps its rows, and the relay reads it again whenever it changes.';
COMMENT ON COLUMN pgpubsub.subscription_channel.subscription IS 'The id of the subscription. Rows of an id that there is not do not count.';
COMMENT ON COLUMN pgpubsub.subscription_channel.channel IS 'The name of the channel, in which * stands for any run of characters.';
COMMENT ON COLUMN pgpubsub.subscription_channel.listed IS 'Whether pgpubsub.subscription has the channel, too.';
COMMENT ON COLUMN pgpubsub.subscription_channel.dropped IS 'Whether the subscription has the channel no more.';
COMMENT ON COLUMN pgpubsub.subscription_channel.since IS 'The seq behind which the subscription reads the channel''s events in the log of durable channels. It cannot be given by hand, as it means nothing in another database: a value that is given becomes null.';
COMMENT ON COLUMN pgpubsub.subscription_channel.version IS 'The version of the subscription''s position up to which since counts. It cannot be given by hand either.';

SELECT pg_catalog.pg_extension_config_dump('pgpubsub.subscription_channel', '');

CREATE TRIGGER subscription_inserted
    BEFORE INSERT ON pgpubsub.subscription_channel
    FOR EACH ROW EXECUTE FUNCTION pgpubsub.subscription_inserted();
CREATE TRIGGER subscription_changed
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON pgpubsub.subscription_channel
    FOR EACH STATEMENT EXECUTE FUNCTION pgpubsub.subscription_changed();
CREATE TRIGGER discard_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON pgpubsub.subscription_channel
    FOR EACH ROW EXECUTE FUNCTION pgpubsub.subscription_replicated();
CREATE TRIGGER keep_from_truncate
    BEFORE TRUNCATE ON pgpubsub.subscription_channel
    FOR EACH STATEMENT EXECUTE FUNCTION pgpubsub.subscription_replicated();
CREATE TRIGGER keep_after_truncate
    AFTER TRUNCATE ON pgpubsub.subscription_channel
    FOR EACH STATEMENT EXECUTE FUNCTION pgpubsub.subscription_replicated();
ALTER TABLE pgpubsub.subscription_channel
    ENABLE ALWAYS TRIGGER discard_replicated,
    ENABLE ALWAYS TRIGGER keep_from_truncate,
    ENABLE ALWAYS TRIGGER keep_after_truncate;

COMMENT ON TRIGGER subscription_inserted ON pgpubsub.subscription_channel IS
'Clears since and version in rows that pg_restore or somebody by hand writes.';
COMMENT ON TRIGGER subscription_changed ON pgpubsub.subscription_channel IS
'Has the relay read the table again when somebody writes it directly, pg_restore for instance.';
COMMENT ON TRIGGER discard_replicated ON pgpubsub.subscription_channel IS
'Discards rows that come by logical replication, also by its initial copy.';
COMMENT ON TRIGGER keep_from_truncate ON pgpubsub.subscription_channel IS
'Puts the rows aside when logical replication truncates the table.';
COMMENT ON TRIGGER keep_after_truncate ON pgpubsub.subscription_channel IS
'Puts the rows back that keep_from_truncate has put aside.';

COMMENT ON TABLE pgpubsub.subscription IS
'The subscriptions of this database that are not temporary. pgpubsub.subscribe() and pgpubsub.unsubscribe() write the table, pg_dump keeps its rows, and the relay reads it again whenever it changes.';
COMMENT ON COLUMN pgpubsub.subscription.name IS 'The name of the subscription.';
COMMENT ON COLUMN pgpubsub.subscription.owner IS 'The role that may poll, ack, change and drop the subscription, as its members may. When the role is dropped, so is the subscription.';
COMMENT ON COLUMN pgpubsub.subscription.channels IS 'The channels that subscribe() was last given, in whose names * stands for any run of characters. What was added or dropped since is in pgpubsub.subscription_channel.';
COMMENT ON COLUMN pgpubsub.subscription.on_full IS 'What a full queue does to the subscription: drop, evict or block.';
COMMENT ON COLUMN pgpubsub.subscription.created_at IS 'When the subscription was created.';
COMMENT ON FUNCTION pgpubsub.subscription_changed() IS
'Statement trigger function of the tables pgpubsub.subscription and pgpubsub.subscription_channel. It has the relay read both again once the transaction has committed, and removes rows of the second that belong to subscriptions that were deleted from the first.
Errors: 39P01 called in another way.';
COMMENT ON TRIGGER subscription_changed ON pgpubsub.subscription IS
'Has the relay read the table again when somebody writes it directly, pg_restore for instance.';

COMMENT ON FUNCTION pgpubsub.relay_start() IS
'Starts the relay of this database if none runs; CREATE EXTENSION calls it. Returns false if pgpubsub is not preloaded; also, with a warning, if the setting pgpubsub.databases leaves this database out or pgpubsub.max_databases others have a relay.';

--
-- Monitor
--
-- Functions whose results get columns become new functions, too.  The views go
-- on with the new ones, what else was made with the old ones with those.
--

ALTER FUNCTION pgpubsub.queue_stats() RENAME TO queue_stats_1_0;
ALTER FUNCTION pgpubsub.channel_stats() RENAME TO channel_stats_1_0;
ALTER FUNCTION pgpubsub.subscription_stats() RENAME TO subscription_stats_1_0;

COMMENT ON FUNCTION pgpubsub.queue_stats_1_0() IS
'What the view stat_queue was made of in version 1.0, for views and functions that were made with it.';
COMMENT ON FUNCTION pgpubsub.channel_stats_1_0() IS
'What the view stat_channels was made of in version 1.0, for views and functions that were made with it.';
COMMENT ON FUNCTION pgpubsub.subscription_stats_1_0() IS
'What the view stat_subscriptions was made of in version 1.0, for views and functions that were made with it.';

CREATE FUNCTION pgpubsub.queue_stats(
    OUT datid oid, OUT relay_pid integer, OUT relay_state text,
    OUT queue_size bigint, OUT used_bytes bigint, OUT peak_used_bytes bigint,
    OUT messages bigint, OUT oldest_seq bigint, OUT newest_seq bigint,
    OUT oldest_at timestamptz, OUT published bigint, OUT published_bytes bigint,
    OUT full_count bigint, OUT full_ms bigint, OUT evictions bigint,
    OUT bad_frames bigint, OUT staging_size bigint,
    OUT staging_used_bytes bigint, OUT notify_queue_usage double precision,
    OUT relay_restarts bigint, OUT stats_reset timestamptz,
    OUT truncated bigint, OUT delivered bigint, OUT delivered_bytes bigint,
    OUT lost bigint, OUT relay_delays bigint,
    OUT relay_delay_ms double precision, OUT reader_delays bigint,
    OUT reader_delay_ms double precision
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'pgpubsub_queue_stats'
    LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 4;

COMMENT ON FUNCTION pgpubsub.queue_stats() IS
'What the view pgpubsub.stat_queue is made of. Returns no rows if pgpubsub is not preloaded.';

CREATE FUNCTION pgpubsub.channel_stats(
    OUT datid oid, OUT channel text, OUT subscriptions integer,
    OUT messages bigint, OUT newest_seq bigint, OUT published bigint,
    OUT published_bytes bigint, OUT delivered bigint, OUT lost bigint,
    OUT last_at timestamptz, OUT truncated bigint, OUT durable boolean,
    OUT retain interval
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'pgpubsub_channel_stats'
    LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100;

COMMENT ON FUNCTION pgpubsub.channel_stats() IS
'What the view pgpubsub.stat_channels is made of. Returns no rows if pgpubsub is not preloaded.';

CREATE FUNCTION pgpubsub.subscription_stats(
    OUT datid oid, OUT subscription name, OUT owner regrole,
    OUT channels text[], OUT on_full text, OUT state text, OUT pid integer,
    OUT seq bigint, OUT pending bigint, OUT pending_bytes bigint,
    OUT oldest_pending_at timestamptz, OUT delivered bigint,
    OUT delivered_bytes bigint, OUT lost bigint, OUT polls bigint,
    OUT empty_polls bigint, OUT created_at timestamptz,
    OUT last_poll_at timestamptz, OUT from_log boolean,
    OUT oldest_pending_seconds double precision
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'pgpubsub_subscription_stats'
    LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100;

CREATE FUNCTION pgpubsub.log_stats(
    OUT datid oid, OUT log_size bigint, OUT used_bytes bigint,
    OUT segments integer, OUT oldest_seq bigint, OUT newest_seq bigint,
    OUT oldest_at timestamptz, OUT appended bigint, OUT appended_bytes bigint,
    OUT read_back bigint, OUT rotations bigint, OUT held_by name,
    OUT full_count bigint
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'pgpubsub_log_stats'
    LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 4;

COMMENT ON FUNCTION pgpubsub.log_stats() IS
'What the view pgpubsub.stat_log is made of. Returns no rows if pgpubsub is not preloaded.';

CREATE OR REPLACE VIEW pgpubsub.stat_queue AS
    SELECT d.datname, s.relay_pid, s.relay_state, s.queue_size, s.used_bytes,
           s.peak_used_bytes, s.messages, s.oldest_seq, s.newest_seq,
           s.oldest_at, s.published, s.published_bytes, s.full_count,
           s.full_ms, s.evictions, s.bad_frames, s.staging_size,
           s.staging_used_bytes, s.notify_queue_usage, s.relay_restarts,
           s.stats_reset, s.truncated, s.delivered, s.delivered_bytes, s.lost,
           s.relay_delays, s.relay_delay_ms, s.reader_delays,
           s.reader_delay_ms
      FROM pgpubsub.queue_stats() AS s
      JOIN pg_catalog.pg_database AS d ON d.oid = s.datid;

CREATE OR REPLACE VIEW pgpubsub.stat_channels AS
    SELECT d.datname, s.channel, s.subscriptions, s.messages, s.newest_seq,
           s.published, s.published_bytes, s.delivered, s.lost, s.last_at,
           s.truncated, s.durable, s.retain
      FROM pgpubsub.channel_stats() AS s
      JOIN pg_catalog.pg_database AS d ON d.oid = s.datid;

CREATE OR REPLACE VIEW pgpubsub.stat_subscriptions AS
    SELECT d.datname, s.subscription, s.owner, s.channels, s.on_full, s.state,
           s.pid, s.seq, s.pending, s.pending_bytes, s.oldest_pending_at,
           s.delivered, s.delivered_bytes, s.lost, s.polls, s.empty_polls,
           s.created_at, s.last_poll_at, s.from_log, s.oldest_pending_seconds
      FROM pgpubsub.subscription_stats() AS s
      JOIN pg_catalog.pg_database AS d ON d.oid = s.datid;

CREATE VIEW pgpubsub.stat_log AS
    SELECT d.datname, s.log_size, s.used_bytes, s.segments, s.oldest_seq,
           s.newest_seq, s.oldest_at, s.appended, s.appended_bytes,
           s.read_back, s.rotations, s.held_by, s.full_count
      FROM pgpubsub.log_stats() AS s
      JOIN pg_catalog.pg_database AS d ON d.oid = s.datid;

COMMENT ON VIEW pgpubsub.stat_queue IS
'The queue of each database that has pgpubsub: one row for each database.';
COMMENT ON COLUMN pgpubsub.stat_queue.datname IS 'The name of the database.';
COMMENT ON COLUMN pgpubsub.stat_queue.relay_pid IS 'The process id of the relay; NULL while none runs.';
COMMENT ON COLUMN pgpubsub.stat_queue.relay_state IS 'What the relay does: starting, listening, full (it waits for room in the queue) or stopped.';
COMMENT ON COLUMN pgpubsub.stat_queue.queue_size IS 'The size of the queue, in bytes.';
COMMENT ON COLUMN pgpubsub.stat_queue.used_bytes IS 'How many bytes of the queue hold events, read or not.';
COMMENT ON COLUMN pgpubsub.stat_queue.peak_used_bytes IS 'The highest used_bytes since stats_reset.';
COMMENT ON COLUMN pgpubsub.stat_queue.messages IS 'How many events are in the queue, read or not.';
COMMENT ON COLUMN pgpubsub.stat_queue.oldest_seq IS 'The seq of the oldest event in the queue; NULL if the queue is empty.';
COMMENT ON COLUMN pgpubsub.stat_queue.newest_seq IS 'The last seq that was given out.';
COMMENT ON COLUMN pgpubsub.stat_queue.oldest_at IS 'When the oldest event in the queue was queued; NULL if the queue is empty.';
COMMENT ON COLUMN pgpubsub.stat_queue.published IS 'How many events were queued since stats_reset.';
COMMENT ON COLUMN pgpubsub.stat_queue.published_bytes IS 'How many bytes the payloads had of the events that were queued since stats_reset.';
COMMENT ON COLUMN pgpubsub.stat_queue.full_count IS 'How often since stats_reset the relay had to wait for room in the queue.';
COMMENT ON COLUMN pgpubsub.stat_queue.full_ms IS 'For how many milliseconds, in all, the relay has waited for room in the queue since stats_reset.';
COMMENT ON COLUMN pgpubsub.stat_queue.evictions IS 'How many subscriptions were evicted since stats_reset.';
COMMENT ON COLUMN pgpubsub.stat_queue.bad_frames IS 'How many malformed frames (parts of long events) were dropped since stats_reset.';
COMMENT ON COLUMN pgpubsub.stat_queue.staging_size IS 'The size of the staging queue of async mode, in bytes.';
COMMENT ON COLUMN pgpubsub.stat_queue.staging_used_bytes IS 'How many bytes of the staging queue are in use.';
COMMENT ON COLUMN pgpubsub.stat_queue.notify_queue_usage IS 'Which fraction of the server''s own NOTIFY queue is in use, from 0 to 1, as pg_notification_queue_usage() says.';
COMMENT ON COLUMN pgpubsub.stat_queue.relay_restarts IS 'How often since the server''s start the relay came back after it had stopped.';
COMMENT ON COLUMN pgpubsub.stat_queue.stats_reset IS 'The time from which on the counters count.';
COMMENT ON COLUMN pgpubsub.stat_queue.truncated IS 'How many change events made since stats_reset exceeded pgpubsub.max_payload and were published in their short form; those of transactions that rolled back are among them.';

COMMENT ON COLUMN pgpubsub.stat_queue.delivered IS 'How many events were consumed since stats_reset by all subscriptions, those that were dropped since among them.';
COMMENT ON COLUMN pgpubsub.stat_queue.delivered_bytes IS 'How many bytes the payloads had of the events that were consumed since stats_reset.';
COMMENT ON COLUMN pgpubsub.stat_queue.lost IS 'How many events subscriptions have missed since stats_reset, counted when a gap row tells them, or when the subscription is dropped.';
COMMENT ON COLUMN pgpubsub.stat_queue.relay_delays IS 'Of how many events it is known since stats_reset how long they took from the commit into the queue: those that were published in the mode async or on durable channels.';
COMMENT ON COLUMN pgpubsub.stat_queue.relay_delay_ms IS 'How many milliseconds these took in all from the commit into the queue.';
COMMENT ON COLUMN pgpubsub.stat_queue.reader_delays IS 'Of how many events it is known since stats_reset how long they were there until they were consumed: all but those that were acknowledged after they had left the queue for the log.';
COMMENT ON COLUMN pgpubsub.stat_queue.reader_delay_ms IS 'How many milliseconds these were in the queue, or in the log, until they were consumed, in all.';

COMMENT ON VIEW pgpubsub.stat_channels IS
'The channels that pgpubsub knows: one row for each database and channel.';
COMMENT ON COLUMN pgpubsub.stat_channels.datname IS 'The name of the database.';
COMMENT ON COLUMN pgpubsub.stat_channels.channel IS 'The name of the channel.';
COMMENT ON COLUMN pgpubsub.stat_channels.subscriptions IS 'How many subscriptions read the channel, by name or by pattern.';
COMMENT ON COLUMN pgpubsub.stat_channels.messages IS 'How many of the channel''s events are in the queue, read or not.';
COMMENT ON COLUMN pgpubsub.stat_channels.newest_seq IS 'The seq of the channel''s newest event; NULL if it had none since the server''s start.';
COMMENT ON COLUMN pgpubsub.stat_channels.published IS 'How many events of the channel were queued since stats_reset.';
COMMENT ON COLUMN pgpubsub.stat_channels.published_bytes IS 'How many bytes the payloads had of the events of the channel that were queued since stats_reset.';
COMMENT ON COLUMN pgpubsub.stat_channels.delivered IS 'How many events of the channel were consumed since stats_reset, summed over its subscriptions.';
COMMENT ON COLUMN pgpubsub.stat_channels.lost IS 'How many events of the channel were missed since stats_reset, summed over its subscriptions.';
COMMENT ON COLUMN pgpubsub.stat_channels.last_at IS 'When the channel''s newest event was queued; NULL if it had none since the server''s start.';
COMMENT ON COLUMN pgpubsub.stat_channels.truncated IS 'How many change events made for the channel since stats_reset exceeded pgpubsub.max_payload and were published in their short form; those of transactions that rolled back are among them.';
COMMENT ON COLUMN pgpubsub.stat_channels.durable IS 'Whether the channel is durable; of another database, as its relay knows it.';
COMMENT ON COLUMN pgpubsub.stat_channels.retain IS 'For how long at least the channel''s events stay in the log, read or not; NULL if the channel is not durable.';

COMMENT ON VIEW pgpubsub.stat_subscriptions IS
'The subscriptions: one row for each. Members of pg_monitor see all, other roles those that they own.';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.datname IS 'The name of the database.';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.subscription IS 'The name of the subscription.';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.owner IS 'The role that owns the subscription.';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.channels IS 'The channel names and patterns that the subscription has from subscribe() and add_channels().';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.on_full IS 'What a full queue does to the subscription: drop, evict or block.';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.state IS 'What the subscription does: waiting (in poll or CALL wait), reading, idle, holding (the full queue waits for it) or evicted (it holds nothing until it is polled, because the queue was full for too long, or because it was made in another database, of which this one is a copy).';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.pid IS 'The process id of the session that reads the subscription, or of one that waits for it; NULL if there is none.';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.seq IS 'The seq of the last event that was consumed; NULL before the first.';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.pending IS 'How many events wait for the subscription, in the queue or in the log; the log of another database is not looked at.';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.pending_bytes IS 'How many bytes the payloads have of the events that wait for the subscription; about so many, if some are in the log.';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.oldest_pending_at IS 'When the oldest event that waits for the subscription was queued; NULL if none does.';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.delivered IS 'How many events the subscription has consumed since stats_reset.';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.delivered_bytes IS 'How many bytes the payloads had of the events that the subscription has consumed since stats_reset.';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.lost IS 'How many events the subscription has missed since stats_reset, as far as the number is known; events that a poll with consume => false returned, and that were overwritten before the ack, are among them.';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.polls IS 'How often poll() was called since stats_reset.';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.empty_polls IS 'How often since stats_reset poll() returned nothing.';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.created_at IS 'When the subscription was created.';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.last_poll_at IS 'When the subscription was last polled; NULL if it was not since the server''s start.';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.from_log IS 'Whether the next event of the subscription is read from the log, because it is no longer in the queue.';

COMMENT ON COLUMN pgpubsub.stat_subscriptions.oldest_pending_seconds IS 'For how many seconds the oldest event that waits for the subscription has been queued; NULL if none does.';

COMMENT ON VIEW pgpubsub.stat_log IS
'The log of the durable channels of each database that has pgpubsub: one row for each database.';
COMMENT ON COLUMN pgpubsub.stat_log.datname IS 'The name of the database.';
COMMENT ON COLUMN pgpubsub.stat_log.log_size IS 'The size that the log may have, in bytes.';
COMMENT ON COLUMN pgpubsub.stat_log.used_bytes IS 'The size of the log on disk, in bytes; of another database, as its relay has last looked at it.';
COMMENT ON COLUMN pgpubsub.stat_log.segments IS 'How many of the log''s eight segments are in use: those that have events, and the one that is written to.';
COMMENT ON COLUMN pgpubsub.stat_log.oldest_seq IS 'The seq of the oldest event in the log; NULL if the log is empty.';
COMMENT ON COLUMN pgpubsub.stat_log.newest_seq IS 'The seq of the newest event in the log; NULL if the log is empty.';
COMMENT ON COLUMN pgpubsub.stat_log.oldest_at IS 'When the oldest event in the log was logged; NULL if the log is empty.';
COMMENT ON COLUMN pgpubsub.stat_log.appended IS 'How many events were logged since stats_reset of pgpubsub.stat_queue.';
COMMENT ON COLUMN pgpubsub.stat_log.appended_bytes IS 'How many bytes the payloads had of the events that were logged since then.';
COMMENT ON COLUMN pgpubsub.stat_log.read_back IS 'How many events subscriptions have read from the log, rather than from the queue, since then.';
COMMENT ON COLUMN pgpubsub.stat_log.rotations IS 'How often the log went on to another segment since then.';
COMMENT ON COLUMN pgpubsub.stat_log.held_by IS 'The subscription that keeps the oldest segment from being emptied; NULL if none does.';
COMMENT ON COLUMN pgpubsub.stat_log.full_count IS 'How often since then the log was full, so that events were lost or writers had to wait.';

COMMENT ON FUNCTION pgpubsub.subscription_stats() IS
'What the view pgpubsub.stat_subscriptions is made of: every subscription for members of pg_monitor, and for other roles those that they own. Returns no rows if pgpubsub is not preloaded.';
COMMENT ON FUNCTION pgpubsub.stat_reset() IS
'Sets the counters of this database''s queue, channels, subscriptions and log to zero, and stats_reset to the current time.
Errors: 55000 pgpubsub is not preloaded.';

--
-- Privileges
--
-- A function that stands in the place of another gets its owner and its
-- privileges, and its initial privileges too: pg_dump writes what differs from
-- those.  GRANT cannot do it: it speaks for one grantor, and what it gives
-- within this script counts as initial, so that pg_dump would leave it out.
--

CREATE FUNCTION pgpubsub.take_over(
    from_function pg_catalog.regprocedure,
    to_function   pg_catalog.regprocedure
) RETURNS void LANGUAGE sql AS $$
UPDATE pg_catalog.pg_proc AS p
   SET proowner = f.proowner, proacl = f.proacl
  FROM pg_catalog.pg_proc AS f
 WHERE p.oid OPERATOR(pg_catalog.=) to_function::pg_catalog.oid
   AND f.oid OPERATOR(pg_catalog.=) from_function::pg_catalog.oid;

-- the roles among them, which cannot be dropped while they are
DELETE FROM pg_catalog.pg_shdepend
 WHERE dbid OPERATOR(pg_catalog.=) (SELECT oid FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
   AND classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
   AND objid OPERATOR(pg_catalog.=) to_function::pg_catalog.oid;
INSERT INTO pg_catalog.pg_shdepend (dbid, classid, objid, objsubid, refclassid, refobjid, deptype)
SELECT dbid, classid, to_function::pg_catalog.oid, objsubid, refclassid, refobjid, deptype
  FROM pg_catalog.pg_shdepend
 WHERE dbid OPERATOR(pg_catalog.=) (SELECT oid FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
   AND classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
   AND objid OPERATOR(pg_catalog.=) from_function::pg_catalog.oid;

DELETE FROM pg_catalog.pg_init_privs
 WHERE classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
   AND objoid OPERATOR(pg_catalog.=) to_function::pg_catalog.oid;
INSERT INTO pg_catalog.pg_init_privs (objoid, classoid, objsubid, privtype, initprivs)
SELECT to_function::pg_catalog.oid, classoid, objsubid, privtype, initprivs
  FROM pg_catalog.pg_init_privs
 WHERE classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
   AND objoid OPERATOR(pg_catalog.=) from_function::pg_catalog.oid;
$$;

SELECT pgpubsub.take_over('pgpubsub.publish(text, text)'::pg_catalog.regprocedure,
                          'pgpubsub.publish(text, json)'::pg_catalog.regprocedure),
       pgpubsub.take_over('pgpubsub.publish(text, text)'::pg_catalog.regprocedure,
                          'pgpubsub.publish(text, jsonb)'::pg_catalog.regprocedure),
       pgpubsub.take_over('pgpubsub.subscribe_1_0(name, text[], text, text, boolean)'::pg_catalog.regprocedure,
                          'pgpubsub.subscribe(text, text[], text, text, boolean)'::pg_catalog.regprocedure),
       pgpubsub.take_over('pgpubsub.subscribe_1_0(name, text[], text, text, boolean)'::pg_catalog.regprocedure,
                          'pgpubsub.add_channels(text, text[])'::pg_catalog.regprocedure),
       pgpubsub.take_over('pgpubsub.subscribe_1_0(name, text[], text, text, boolean)'::pg_catalog.regprocedure,
                          'pgpubsub.drop_channels(text, text[])'::pg_catalog.regprocedure),
       pgpubsub.take_over('pgpubsub.poll_1_0(name, integer, interval, boolean)'::pg_catalog.regprocedure,
                          'pgpubsub.poll(text, bigint, interval, boolean)'::pg_catalog.regprocedure),
       pgpubsub.take_over('pgpubsub.ack_1_0(name, bigint)'::pg_catalog.regprocedure,
                          'pgpubsub.ack(text, bigint)'::pg_catalog.regprocedure),
       pgpubsub.take_over('pgpubsub.unsubscribe_1_0(name)'::pg_catalog.regprocedure,
                          'pgpubsub.unsubscribe(text)'::pg_catalog.regprocedure),
       pgpubsub.take_over('pgpubsub.poll_1_0(name, integer, interval, boolean)'::pg_catalog.regprocedure,
                          'pgpubsub.wait(text, interval)'::pg_catalog.regprocedure),
       pgpubsub.take_over('pgpubsub.queue_stats_1_0()'::pg_catalog.regprocedure,
                          'pgpubsub.queue_stats()'::pg_catalog.regprocedure),
       pgpubsub.take_over('pgpubsub.channel_stats_1_0()'::pg_catalog.regprocedure,
                          'pgpubsub.channel_stats()'::pg_catalog.regprocedure),
       pgpubsub.take_over('pgpubsub.subscription_stats_1_0()'::pg_catalog.regprocedure,
                          'pgpubsub.subscription_stats()'::pg_catalog.regprocedure),
       pgpubsub.take_over('pgpubsub.attach_1_0(regclass, text, text[], name[], name[], text, text, text, text, text)'::pg_catalog.regprocedure,
                          'pgpubsub.attach(regclass, text, text[], name[], name[], text, text, text, text, text, boolean)'::pg_catalog.regprocedure),
       pgpubsub.take_over('pgpubsub.ack_1_0(name, bigint)'::pg_catalog.regprocedure,
                          'pgpubsub.seek(text, text)'::pg_catalog.regprocedure);

DROP FUNCTION pgpubsub.take_over(pg_catalog.regprocedure, pg_catalog.regprocedure);

REVOKE ALL ON FUNCTION pgpubsub.subscription_replicated() FROM PUBLIC;

-- The database's owner may dump the database, and restore it.  That alone is
-- added to what is initial; 17 and later also note the roles of whatever GRANT,
-- or ADD SCHEMA above, has found there, which could then not be dropped.
DO $$
DECLARE
    subscriptions oid := 'pgpubsub.subscription'::regclass;
    privileges    aclitem[] := (SELECT p.initprivs FROM pg_init_privs AS p
                                 WHERE p.classoid = 'pg_class'::regclass AND p.objoid = subscriptions
                                   AND p.objsubid = 0);
BEGIN
    GRANT SELECT, INSERT ON TABLE pgpubsub.subscription TO pg_database_owner;
    UPDATE pg_init_privs
       SET initprivs = privileges || format('pg_database_owner=ar/%s',
               (SELECT c.relowner::regrole FROM pg_class AS c WHERE c.oid = subscriptions))::aclitem
     WHERE classoid = 'pg_class'::regclass AND objoid = subscriptions AND objsubid = 0
       AND privileges IS NOT NULL;
    DELETE FROM pg_shdepend AS d
     WHERE d.dbid = (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database())
       AND (d.classid, d.objid) IN (('pg_class'::regclass, subscriptions),
                                    ('pg_namespace'::regclass, 'pgpubsub'::regnamespace))
       AND d.objsubid = 0 AND d.deptype = 'i'
       AND NOT EXISTS (SELECT FROM pg_init_privs AS p, aclexplode(p.initprivs) AS a
                        WHERE p.classoid = d.classid AND p.objoid = d.objid AND p.objsubid = 0
                          AND d.refobjid IN (a.grantor, a.grantee));
END $$;

REVOKE ALL ON FUNCTION pgpubsub.subscription_inserted() FROM PUBLIC;

REVOKE ALL ON FUNCTION pgpubsub.set_durable(text, boolean, interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION pgpubsub.channel_written() FROM PUBLIC;
REVOKE ALL ON FUNCTION pgpubsub.log_stats() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pgpubsub.log_stats() TO pg_monitor;

REVOKE ALL ON TABLE pgpubsub.channel, pgpubsub.subscription_channel FROM PUBLIC;
GRANT SELECT ON TABLE pgpubsub.channel, pgpubsub.stat_log TO pg_monitor;
GRANT SELECT, INSERT ON TABLE pgpubsub.channel, pgpubsub.subscription_channel TO pg_database_owner;
