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
'AFTER trigger: publishes an event for the changed row, or for all rows of the statement. attach() installs it; a statement trigger for INSERT, UPDATE or DELETE needs transition tables.
arguments, each ''name=value'': channel (default: the table''s name), columns and watch (column names with commas between them, quoted as in SQL), old_values (none, key, changed or full; default changed), format (plain, debezium or cloudevents; default plain), publish_mode (transactional or async; default: the setting).
Does nothing while pgpubsub.muted is on.
Errors: 0A000 format debezium for a statement, 22023 bad argument, 39P01 not called as an AFTER trigger, 42939 reserved channel, 53400 the queue is full, 55000 no transition tables';

COMMENT ON FUNCTION pgpubsub.attach(regclass, text, text[], name[], name[], text, text, text, text, text) IS
'create the triggers that publish the table''s changes on the channel, in place of those that it has for this channel; returns the channel. Where exactly these stand, nothing changes, and no lock on the table is kept.
channel: 1 to 63 bytes, no *; NULL: the table''s name. operations: insert, update, delete, truncate. columns: what new, old and changed show; NULL: all; the key is shown in any case. watch: an UPDATE is an event only if the stored value of one of these changed. condition: a boolean expression over NEW and OLD, as in CREATE TRIGGER ... WHEN.
old_values: what old shows: none, key, changed (of an UPDATE the columns that changed, of a DELETE the whole row) or full. level: row (one event per row) or statement (one per statement). format: plain, debezium or cloudevents. publish_mode: transactional or async; NULL: the setting, at run time.
Needs TRIGGER on the table; to replace triggers, its ownership.
Errors: 0A000 level statement with a condition, format debezium or a foreign table, be it a partition or child, or a hypertable, a virtual column, another session''s temporary table, or a condition that pg_dump would not keep; 22004 a null; 2202E an array of more than one dimension; 22023 a bad value, an empty array or one with duplicates; 25006 standby or read-only transaction; 42501 no privilege; 42601 the condition is not one expression; 42703 and 42P10 no such column, or a system column; 42710 attached through its parent, or a partition is attached to the channel by itself; 42809 not a table; 42939 reserved channel; 42P01 no such relation; 42P17 the condition names a row that an operation lacks';

COMMENT ON FUNCTION pgpubsub.detach(regclass, text) IS
'drop the triggers that publish the table''s changes on the channel, or on any if it is NULL; returns how many that were, not counting their clones on partitions and hypertables'' chunks. Touches no other trigger.
Needs the table''s ownership.
Errors: 22004 relation is null, 2BP01 attached through its parent, 42501 not the owner, 42809 not a table, 42P01 no such relation';

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
'the triggers that publish changes: one row each, without those that a partition, or a hypertable''s chunk, has from its parent, unless they are disabled or enabled in another way than the parent''s';

CREATE FUNCTION pgpubsub.publish(
    channel text,
    payload json
) RETURNS void
    AS 'MODULE_PATHNAME', 'pgpubsub_publish'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.publish(text, json) IS
'publish the payload, as it is written, on the channel when this transaction commits; otherwise as publish(text, text).
Errors: 22004 channel is null, 22023 it is empty or too long, 25006 standby, 42939 it is reserved, 53400 the queue is full, 54000 the payload is too large';

CREATE FUNCTION pgpubsub.publish(
    channel text,
    payload jsonb
) RETURNS void
    AS 'MODULE_PATHNAME', 'pgpubsub_publish_jsonb'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.publish(text, jsonb) IS
'publish the payload, as jsonb is shown, on the channel when this transaction commits; otherwise as publish(text, text).
Errors: 22004 channel is null, 22023 it is empty or too long, 25006 standby, 42939 it is reserved, 53400 the queue is full, 54000 the payload is too large';

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
'what subscribe() was in version 1.0, for views and functions that were made with it; the conversion to type name cuts names to 63 bytes. Call subscribe(), which has the same errors';
COMMENT ON FUNCTION pgpubsub.poll_1_0(name, integer, interval, boolean) IS
'what poll() was in version 1.0, for views and functions that were made with it; the conversion to type name cuts names to 63 bytes. Call poll(), which has the same errors';
COMMENT ON FUNCTION pgpubsub.ack_1_0(name, bigint) IS
'what ack() was in version 1.0, for views and functions that were made with it; the conversion to type name cuts names to 63 bytes. Call ack(), which has the same errors';
COMMENT ON FUNCTION pgpubsub.unsubscribe_1_0(name) IS
'what unsubscribe() was in version 1.0, for views and functions that were made with it; the conversion to type name cuts names to 63 bytes. Call unsubscribe(), which has the same errors';

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
'create the subscription, or give it these channels and this on_full if it stands already; true if it was created.
subscription: a name of 1 to 63 bytes; channels: 1 to 63 bytes each, * stands for any run of characters; on_full: drop, evict or block (block needs superuser or the database''s owner); start_at: now, oldest or a sequence number, the first to be read; temporary: it ends with this session, and with DISCARD ALL.
Returns once the relay listens: waits at most pgpubsub.publish_timeout for that. Undone if the transaction rolls back.
Errors: 22004 a null, 2202E channels of more than one dimension, 22023 bad argument, 25006 standby or read-only transaction, 40001 it is newer than this transaction''s snapshot, 42501 not the owner, 42710 exists with the other lifetime, 42939 reserved channel, 42P01 the extension''s table is not there, or its schema is somebody else''s, 53400 a pool is full (names the setting), 55000 not preloaded, no relay, or its row was deleted from the table, 55006 another session is reading it (names its pid)';

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
'read at most max_messages events of the subscription, oldest first; they are consumed when this transaction commits.
subscription: a name of 1 to 63 bytes. timeout: wait this long for the first one, at most pgpubsub.max_poll_wait; consume => false: look, and leave the position.
A poll that waits holds a snapshot all the while, for which CREATE INDEX CONCURRENTLY waits and behind which VACUUM cleans up nothing: CALL pgpubsub.wait() first instead, and poll without a timeout. A client whose connection is closed consumes nothing.
A gap row comes first when events were missed: channel and payload NULL, lost their number, or -1 when it cannot be known.
seq: increasing per database; pid: the publisher''s backend; relayed_at: when the relay queued it. Never put LIMIT or WHERE on it: the rows they hide are consumed.
Errors: 22004 a null, 22023 bad argument, 25006 standby, 42501 not the owner, 42704 no such subscription, 55000 not preloaded or no relay, 55006 another session is reading it (names its pid)';

CREATE FUNCTION pgpubsub.ack(
    subscription text,
    seq          bigint
) RETURNS bigint
    AS 'MODULE_PATHNAME', 'pgpubsub_ack_1_1'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.ack(text, bigint) IS
'consume all events of the subscription, a name of 1 to 63 bytes, up to and including seq, when this transaction commits; returns how many that were.
Events that a look has shown and that are overwritten before the ack count as lost.
Errors: 22004 a null, 22023 a bad name, a negative seq or one that was not given out yet, 25006 standby, 42501 not the owner, 42704 no such subscription, 55000 not preloaded or no relay, 55006 another session is reading it (names its pid)';

CREATE FUNCTION pgpubsub.unsubscribe(
    subscription text
) RETURNS boolean
    AS 'MODULE_PATHNAME', 'pgpubsub_unsubscribe_1_1'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.unsubscribe(text) IS
'drop the subscription, a name of 1 to 63 bytes, when this transaction commits; false if there was none.
Errors: 22004 subscription is null, 22023 it is empty or too long, 25006 standby or read-only transaction, 40001 it is newer than this transaction''s snapshot, 42501 not the owner, 42P01 the extension''s table is not there, or its schema is somebody else''s, 55000 not preloaded or no relay, 55006 another session is reading it (names its pid)';

CREATE FUNCTION pgpubsub.subscription_replicated() RETURNS trigger
    AS 'MODULE_PATHNAME', 'pgpubsub_subscription_replicated'
    LANGUAGE C;

COMMENT ON FUNCTION pgpubsub.subscription_replicated() IS
'trigger of pgpubsub.subscription: discards what logical replication would do to the table, so that a database keeps its own subscriptions. Errors: 39P01 called otherwise';

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
'discards rows that come by logical replication, its initial copy included';
COMMENT ON TRIGGER keep_from_truncate ON pgpubsub.subscription IS
'keeps the rows aside when logical replication truncates the table';
COMMENT ON TRIGGER keep_after_truncate ON pgpubsub.subscription IS
'puts them back';

CREATE PROCEDURE pgpubsub.wait(
    subscription text,
    timeout      interval
)
    AS 'MODULE_PATHNAME', 'pgpubsub_wait'
    LANGUAGE C;

COMMENT ON PROCEDURE pgpubsub.wait(text, interval) IS
'wait until the subscription has something to poll (an event or a gap), or for timeout, at most pgpubsub.max_poll_wait; poll at once behind it, without a timeout.
Unlike a poll that waits it holds no snapshot, so that CREATE INDEX CONCURRENTLY and VACUUM do not wait for it; it holds a pooled connection. So it ends the transaction that it is called in, and cannot run in a transaction block, a function or a block with EXCEPTION.
It claims nothing: several sessions may wait for one subscription; while another session reads that, they wait too.
Errors: 22004 a null, 22023 bad name or negative timeout, 25001 in a transaction block, 25006 standby, 42501 not the owner, 42704 no such subscription (any more), 55000 not preloaded or no relay';

-- Rows that are there were made here.  By way of a default, which writes none.
DO $$
BEGIN
    EXECUTE pg_catalog.format('ALTER TABLE pgpubsub.subscription ADD COLUMN made_in pg_catalog.oid DEFAULT %s',
        (SELECT d.oid FROM pg_catalog.pg_database AS d
          WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()));
    ALTER TABLE pgpubsub.subscription ALTER COLUMN made_in DROP DEFAULT;
END $$;

COMMENT ON COLUMN pgpubsub.subscription.made_in IS
'oid of the database that it was made in, or was last polled in; elsewhere, as in a copy of that database, it holds nobody until it is polled. Not to be given by hand: what is given becomes 0, which is no database, as pg_restore has it from another one';

CREATE FUNCTION pgpubsub.subscription_inserted() RETURNS trigger
    AS 'MODULE_PATHNAME', 'pgpubsub_subscription_inserted'
    LANGUAGE C;

COMMENT ON FUNCTION pgpubsub.subscription_inserted() IS
'row trigger of pgpubsub.subscription: sets made_in, to this database where it is not given, else to 0. Errors: 39P01 called otherwise';

CREATE TRIGGER subscription_inserted
    BEFORE INSERT ON pgpubsub.subscription
    FOR EACH ROW EXECUTE FUNCTION pgpubsub.subscription_inserted();

COMMENT ON TRIGGER subscription_inserted ON pgpubsub.subscription IS
'tells rows that pg_restore brings from those that somebody writes by hand';

--
-- Monitor
--
-- Functions whose results get columns become new functions, too.  The views go
-- on with the new ones, what else was made with the old ones with those.
--

ALTER FUNCTION pgpubsub.queue_stats() RENAME TO queue_stats_1_0;
ALTER FUNCTION pgpubsub.channel_stats() RENAME TO channel_stats_1_0;

COMMENT ON FUNCTION pgpubsub.queue_stats_1_0() IS
'what the view stat_queue showed in version 1.0, for what was made with it';
COMMENT ON FUNCTION pgpubsub.channel_stats_1_0() IS
'what the view stat_channels showed in version 1.0, for what was made with it';

CREATE FUNCTION pgpubsub.queue_stats(
    OUT datid oid, OUT relay_pid integer, OUT relay_state text,
    OUT queue_size bigint, OUT used_bytes bigint, OUT peak_used_bytes bigint,
    OUT messages bigint, OUT oldest_seq bigint, OUT newest_seq bigint,
    OUT oldest_at timestamptz, OUT published bigint, OUT published_bytes bigint,
    OUT full_count bigint, OUT full_ms bigint, OUT evictions bigint,
    OUT bad_frames bigint, OUT staging_size bigint,
    OUT staging_used_bytes bigint, OUT notify_queue_usage double precision,
    OUT relay_restarts bigint, OUT stats_reset timestamptz,
    OUT truncated bigint
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'pgpubsub_queue_stats'
    LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 4;

COMMENT ON FUNCTION pgpubsub.queue_stats() IS
'what the view stat_queue shows; no rows when pgpubsub is not preloaded';

CREATE FUNCTION pgpubsub.channel_stats(
    OUT datid oid, OUT channel text, OUT subscriptions integer,
    OUT messages bigint, OUT newest_seq bigint, OUT published bigint,
    OUT published_bytes bigint, OUT delivered bigint, OUT lost bigint,
    OUT last_at timestamptz, OUT truncated bigint
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'pgpubsub_channel_stats'
    LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100;

COMMENT ON FUNCTION pgpubsub.channel_stats() IS
'what the view stat_channels shows; no rows when pgpubsub is not preloaded';

CREATE OR REPLACE VIEW pgpubsub.stat_queue AS
    SELECT d.datname, s.relay_pid, s.relay_state, s.queue_size, s.used_bytes,
           s.peak_used_bytes, s.messages, s.oldest_seq, s.newest_seq,
           s.oldest_at, s.published, s.published_bytes, s.full_count,
           s.full_ms, s.evictions, s.bad_frames, s.staging_size,
           s.staging_used_bytes, s.notify_queue_usage, s.relay_restarts,
           s.stats_reset, s.truncated
      FROM pgpubsub.queue_stats() AS s
      JOIN pg_catalog.pg_database AS d ON d.oid = s.datid;

COMMENT ON COLUMN pgpubsub.stat_queue.truncated IS 'change events made since stats_reset that exceeded pgpubsub.max_payload and were sent in their short form; also of transactions that rolled back';

CREATE OR REPLACE VIEW pgpubsub.stat_channels AS
    SELECT d.datname, s.channel, s.subscriptions, s.messages, s.newest_seq,
           s.published, s.published_bytes, s.delivered, s.lost, s.last_at,
           s.truncated
      FROM pgpubsub.channel_stats() AS s
      JOIN pg_catalog.pg_database AS d ON d.oid = s.datid;

COMMENT ON COLUMN pgpubsub.stat_channels.truncated IS 'its change events made since stats_reset that exceeded pgpubsub.max_payload and were sent in their short form; also of transactions that rolled back';

COMMENT ON COLUMN pgpubsub.stat_subscriptions.delivered_bytes IS 'their payloads, in bytes';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.lost IS 'events missed since stats_reset, as far as their number is known; also those that a look has shown and that were overwritten before the ack';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.pid IS 'session that reads it, or one that waits for it; NULL when none does';

COMMENT ON COLUMN pgpubsub.stat_subscriptions.state IS
'waiting (in poll or CALL wait), reading, idle, holding (the full queue waits for it) or evicted (holds nothing until it is polled: the queue was full for too long, or it was made in another database, of which this is a copy)';

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
                          'pgpubsub.channel_stats()'::pg_catalog.regprocedure);

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
