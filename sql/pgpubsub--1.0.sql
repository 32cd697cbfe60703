/* sql/pgpubsub--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION pgpubsub" to load this file. \quit

--
-- Publish
--

CREATE FUNCTION pgpubsub.notify_change() RETURNS trigger
    AS 'MODULE_PATHNAME', 'pgpubsub_notify_change'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.notify_change() IS
'AFTER trigger: publishes an event for the changed row, or for all rows of the statement. attach() installs it; a statement trigger for INSERT, UPDATE or DELETE needs transition tables.
arguments, each ''name=value'': channel (default: the table''s name), columns and watch (column names with commas between them, quoted as in SQL), old_values (none, key, changed or full; default changed), format (plain, debezium or cloudevents; default plain), publish_mode (transactional or async; default: the setting).
Does nothing while pgpubsub.muted is on.
Errors: 0A000 format debezium for a statement, 22023 bad argument, 39P01 not called as an AFTER trigger, 42939 reserved channel, 53400 the queue is full, 54000 the event exceeds pgpubsub.max_payload bytes, 55000 no transition tables';

CREATE FUNCTION pgpubsub.attach(
    relation     regclass,
    channel      text   DEFAULT NULL,
    operations   text[] DEFAULT '{insert,update,delete}',
    columns      name[] DEFAULT NULL,
    watch        name[] DEFAULT NULL,
    condition    text   DEFAULT NULL,
    old_values   text   DEFAULT 'changed',
    level        text   DEFAULT 'row',
    format       text   DEFAULT 'plain',
    publish_mode text   DEFAULT NULL
) RETURNS text
    AS 'MODULE_PATHNAME', 'pgpubsub_attach'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.attach(regclass, text, text[], name[], name[], text, text, text, text, text) IS
'create the triggers that publish the table''s changes on the channel, in place of those that it has for this channel; returns the channel.
channel: 1 to 63 bytes, no *; NULL: the table''s name. operations: insert, update, delete, truncate. columns: what new, old and changed show; NULL: all; the key is shown in any case. watch: an UPDATE is an event only if the stored value of one of these changed. condition: a boolean expression over NEW and OLD, as in CREATE TRIGGER ... WHEN.
old_values: what old shows: none, key, changed (of an UPDATE the columns that changed, of a DELETE the whole row) or full. level: row (one event per row) or statement (one per statement). format: plain, debezium or cloudevents. publish_mode: transactional or async; NULL: the setting, at run time.
Needs TRIGGER on the table; to replace triggers, its ownership.
Errors: 0A000 level statement with a condition, format debezium or a foreign table, be it a partition or child, a virtual column, or another session''s temporary table; 22004 a null; 2202E an array of more than one dimension; 22023 a bad value, an empty array or one with duplicates; 25006 standby or read-only transaction; 42501 no privilege; 42601 the condition is not one expression; 42703 and 42P10 no such column, or a system column; 42710 attached through its parent; 42809 not a table; 42939 reserved channel; 42P01 no such relation; 42P17 the condition names a row that an operation lacks';

CREATE FUNCTION pgpubsub.detach(
    relation regclass,
    channel  text DEFAULT NULL
) RETURNS integer
    AS 'MODULE_PATHNAME', 'pgpubsub_detach'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.detach(regclass, text) IS
'drop the triggers that publish the table''s changes on the channel, or on any if it is NULL; returns how many that were, not counting their clones on partitions. Touches no other trigger.
Needs the table''s ownership.
Errors: 22004 relation is null, 2BP01 attached through its parent, 42501 not the owner, 42809 not a table, 42P01 no such relation';

CREATE FUNCTION pgpubsub.publish(
    channel text,
    payload text
) RETURNS void
    AS 'MODULE_PATHNAME', 'pgpubsub_publish'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.publish(text, text) IS
'publish the payload on the channel when this transaction commits; identical calls of one transaction count once, as with NOTIFY.
channel: 1 to 63 bytes; payload: at most pgpubsub.max_payload bytes, NULL stands for the empty text. Above 7999 bytes subscribers get all of it, native listeners {"truncated":true,"bytes":n,"id":"..."}.
Errors: 22004 channel is null, 22023 it is empty or too long, 25006 standby, 42939 it is reserved, 53400 the queue is full, 54000 the payload is too large';

CREATE FUNCTION pgpubsub.trigger_options(
    arguments bytea
) RETURNS jsonb
    AS 'MODULE_PATHNAME', 'pgpubsub_trigger_options'
    LANGUAGE C STABLE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.trigger_options(bytea) IS
'the arguments of a trigger that calls notify_change(), pg_trigger.tgargs, as an object of names and values; what the view attachments is made of. Raises no error for arguments that make no sense';

CREATE FUNCTION pgpubsub.trigger_condition(
    trigger oid
) RETURNS text
    AS 'MODULE_PATHNAME', 'pgpubsub_trigger_condition'
    LANGUAGE C STABLE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.trigger_condition(oid) IS
'the condition of the trigger with that oid, as pg_get_triggerdef() writes it; NULL if it has none or there is no such trigger; what the view attachments is made of';

-- Operators below are found by exact types, so in pg_catalog: somebody may have
-- made the schema, with operators in it, before the extension.
CREATE VIEW pgpubsub.attachments AS
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
     CROSS JOIN LATERAL pgpubsub.trigger_options(t.tgargs) AS a(arguments)
     CROSS JOIN LATERAL (
         SELECT CASE WHEN t.tgqual IS NOT NULL
                     THEN pgpubsub.trigger_condition(t.oid) END) AS d(condition)
     WHERE t.tgfoid = 'pgpubsub.notify_change()'::pg_catalog.regprocedure::pg_catalog.oid
       AND NOT t.tgisinternal
       AND (p.oid IS NULL OR p.tgenabled <> t.tgenabled);

COMMENT ON VIEW pgpubsub.attachments IS
'the triggers that publish changes: one row each, without those that a partition has from its parent, unless they are disabled or enabled in another way than the parent''s';
COMMENT ON COLUMN pgpubsub.attachments.relation IS 'the table';
COMMENT ON COLUMN pgpubsub.attachments.trigger IS 'name of the trigger';
COMMENT ON COLUMN pgpubsub.attachments.channel IS 'channel of its events';
COMMENT ON COLUMN pgpubsub.attachments.level IS 'row or statement; for truncate always statement';
COMMENT ON COLUMN pgpubsub.attachments.operations IS 'insert, update, delete, truncate';
COMMENT ON COLUMN pgpubsub.attachments.options IS 'its other options as far as they are not the default: columns, watch, old_values, format, publish_mode, condition (as the server would write it), and enable where it is always or replica';
COMMENT ON COLUMN pgpubsub.attachments.enabled IS 'false when disabled by ALTER TABLE ... DISABLE TRIGGER';

--
-- Workers
--

CREATE FUNCTION pgpubsub.relay_start() RETURNS boolean
    AS 'MODULE_PATHNAME', 'pgpubsub_relay_start'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.relay_start() IS
'have this database''s relay started, if none runs; CREATE EXTENSION calls it. False when pgpubsub is not preloaded or the setting pgpubsub.databases leaves this database out';

--
-- Subscribe
--

CREATE TABLE pgpubsub.subscription (
    name       name        PRIMARY KEY,
    owner      regrole     NOT NULL,
    channels   text[]      NOT NULL,
    on_full    text        NOT NULL CHECK (on_full IN ('drop', 'evict', 'block')),
    created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);

COMMENT ON TABLE pgpubsub.subscription IS
'the lasting subscriptions of this database; written by pgpubsub.subscribe() and unsubscribe(), kept by pg_dump; the relay re-reads it whenever it changes';
COMMENT ON COLUMN pgpubsub.subscription.name IS 'name of the subscription';
COMMENT ON COLUMN pgpubsub.subscription.owner IS 'role that may poll, ack, change and drop it, with its members; when that role is dropped, so is the subscription';
COMMENT ON COLUMN pgpubsub.subscription.channels IS 'channel names; * in a name stands for any run of characters';
COMMENT ON COLUMN pgpubsub.subscription.on_full IS 'what a full queue does to it: drop, evict or block';
COMMENT ON COLUMN pgpubsub.subscription.created_at IS 'when it was created';

SELECT pg_catalog.pg_extension_config_dump('pgpubsub.subscription', '');

CREATE FUNCTION pgpubsub.subscription_changed() RETURNS trigger
    AS 'MODULE_PATHNAME', 'pgpubsub_subscription_changed'
    LANGUAGE C;

COMMENT ON FUNCTION pgpubsub.subscription_changed() IS
'statement trigger of pgpubsub.subscription: has the relay re-read the table once the transaction has committed. Errors: 39P01 called otherwise';

CREATE TRIGGER subscription_changed
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON pgpubsub.subscription
    FOR EACH STATEMENT EXECUTE FUNCTION pgpubsub.subscription_changed();

COMMENT ON TRIGGER subscription_changed ON pgpubsub.subscription IS
'has the relay re-read the table when somebody writes it by hand, pg_restore for instance';

CREATE FUNCTION pgpubsub.subscribe(
    subscription name,
    channels     text[],
    on_full      text    DEFAULT 'evict',
    start_at     text    DEFAULT 'now',
    temporary    boolean DEFAULT false
) RETURNS boolean
    AS 'MODULE_PATHNAME', 'pgpubsub_subscribe'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.subscribe(name, text[], text, text, boolean) IS
'create the subscription, or give it these channels and this on_full if it stands already; true if it was created.
channels: 1 to 63 bytes each, * stands for any run of characters; on_full: drop, evict or block (block needs superuser or the database''s owner); start_at: now, oldest or a sequence number, the first to be read; temporary: it ends with this session.
Returns once the relay listens: waits at most pgpubsub.publish_timeout for that. Undone if the transaction rolls back.
Errors: 22004 a null, 2202E channels of more than one dimension, 22023 bad argument, 25006 standby or read-only transaction, 40001 it is newer than this transaction''s snapshot, 42501 not the owner, 42710 exists with the other lifetime, 42939 reserved channel, 53400 a pool is full (names the setting), 55000 not preloaded, no relay, or its row was deleted from the table, 55006 another session is reading it (names its pid)';

CREATE FUNCTION pgpubsub.poll(
    subscription name,
    max_messages integer  DEFAULT 100,
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
    AS 'MODULE_PATHNAME', 'pgpubsub_poll'
    LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100;

COMMENT ON FUNCTION pgpubsub.poll(name, integer, interval, boolean) IS
'read at most max_messages events of the subscription, oldest first; they are consumed when this transaction commits.
timeout: wait this long for the first one, at most pgpubsub.max_poll_wait; consume => false: look, and leave the position.
A gap row comes first when events were missed: channel and payload NULL, lost their number, or -1 when it cannot be known.
seq: increasing per database; pid: the publisher''s backend; relayed_at: when the relay queued it. Never put LIMIT or WHERE on it: the rows they hide are consumed.
Errors: 22004 a null, 22023 bad argument, 25006 standby, 42501 not the owner, 42704 no such subscription, 55000 not preloaded or no relay, 55006 another session is reading it (names its pid)';

CREATE FUNCTION pgpubsub.ack(
    subscription name,
    seq          bigint
) RETURNS bigint
    AS 'MODULE_PATHNAME', 'pgpubsub_ack'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.ack(name, bigint) IS
'consume all events of the subscription up to and including seq, when this transaction commits; returns how many that were.
Errors: 22004 a null, 22023 a negative seq or one that was not given out yet, 25006 standby, 42501 not the owner, 42704 no such subscription, 55000 not preloaded or no relay, 55006 another session is reading it (names its pid)';

CREATE FUNCTION pgpubsub.unsubscribe(
    subscription name
) RETURNS boolean
    AS 'MODULE_PATHNAME', 'pgpubsub_unsubscribe'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.unsubscribe(name) IS
'drop the subscription when this transaction commits; false if there was none.
Errors: 22004 subscription is null, 25006 standby or read-only transaction, 40001 it is newer than this transaction''s snapshot, 42501 not the owner, 55000 not preloaded or no relay, 55006 another session is reading it (names its pid)';

--
-- Monitor
--

CREATE FUNCTION pgpubsub.queue_stats(
    OUT datid oid, OUT relay_pid integer, OUT relay_state text,
    OUT queue_size bigint, OUT used_bytes bigint, OUT peak_used_bytes bigint,
    OUT messages bigint, OUT oldest_seq bigint, OUT newest_seq bigint,
    OUT oldest_at timestamptz, OUT published bigint, OUT published_bytes bigint,
    OUT full_count bigint, OUT full_ms bigint, OUT evictions bigint,
    OUT bad_frames bigint, OUT staging_size bigint,
    OUT staging_used_bytes bigint, OUT notify_queue_usage double precision,
    OUT relay_restarts bigint, OUT stats_reset timestamptz
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'pgpubsub_queue_stats'
    LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 4;

COMMENT ON FUNCTION pgpubsub.queue_stats() IS
'what the view stat_queue shows; no rows when pgpubsub is not preloaded';

CREATE FUNCTION pgpubsub.channel_stats(
    OUT datid oid, OUT channel text, OUT subscriptions integer,
    OUT messages bigint, OUT newest_seq bigint, OUT published bigint,
    OUT published_bytes bigint, OUT delivered bigint, OUT lost bigint,
    OUT last_at timestamptz
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'pgpubsub_channel_stats'
    LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100;

COMMENT ON FUNCTION pgpubsub.channel_stats() IS
'what the view stat_channels shows; no rows when pgpubsub is not preloaded';

CREATE FUNCTION pgpubsub.subscription_stats(
    OUT datid oid, OUT subscription name, OUT owner regrole,
    OUT channels text[], OUT on_full text, OUT state text, OUT pid integer,
    OUT seq bigint, OUT pending bigint, OUT pending_bytes bigint,
    OUT oldest_pending_at timestamptz, OUT delivered bigint,
    OUT delivered_bytes bigint, OUT lost bigint, OUT polls bigint,
    OUT empty_polls bigint, OUT created_at timestamptz,
    OUT last_poll_at timestamptz
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'pgpubsub_subscription_stats'
    LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100;

COMMENT ON FUNCTION pgpubsub.subscription_stats() IS
'what the view stat_subscriptions shows: every subscription to members of pg_monitor, to others those they own; no rows when pgpubsub is not preloaded';

CREATE VIEW pgpubsub.stat_queue AS
    SELECT d.datname, s.relay_pid, s.relay_state, s.queue_size, s.used_bytes,
           s.peak_used_bytes, s.messages, s.oldest_seq, s.newest_seq,
           s.oldest_at, s.published, s.published_bytes, s.full_count,
           s.full_ms, s.evictions, s.bad_frames, s.staging_size,
           s.staging_used_bytes, s.notify_queue_usage, s.relay_restarts,
           s.stats_reset
      FROM pgpubsub.queue_stats() AS s
      JOIN pg_catalog.pg_database AS d ON d.oid = s.datid;

COMMENT ON VIEW pgpubsub.stat_queue IS
'the queue of each database that has pgpubsub: one row per database';
COMMENT ON COLUMN pgpubsub.stat_queue.datname IS 'database';
COMMENT ON COLUMN pgpubsub.stat_queue.relay_pid IS 'process id of the relay; NULL when stopped';
COMMENT ON COLUMN pgpubsub.stat_queue.relay_state IS 'starting, listening, full (waiting for room) or stopped';
COMMENT ON COLUMN pgpubsub.stat_queue.queue_size IS 'size of the queue, in bytes';
COMMENT ON COLUMN pgpubsub.stat_queue.used_bytes IS 'bytes that hold events, read or not';
COMMENT ON COLUMN pgpubsub.stat_queue.peak_used_bytes IS 'the most used_bytes since stats_reset';
COMMENT ON COLUMN pgpubsub.stat_queue.messages IS 'events in the queue, read or not';
COMMENT ON COLUMN pgpubsub.stat_queue.oldest_seq IS 'seq of the oldest event in the queue; NULL when empty';
COMMENT ON COLUMN pgpubsub.stat_queue.newest_seq IS 'the last seq given out';
COMMENT ON COLUMN pgpubsub.stat_queue.oldest_at IS 'when the oldest event in the queue was relayed; NULL when empty';
COMMENT ON COLUMN pgpubsub.stat_queue.published IS 'events queued since stats_reset';
COMMENT ON COLUMN pgpubsub.stat_queue.published_bytes IS 'their payloads, in bytes';
COMMENT ON COLUMN pgpubsub.stat_queue.full_count IS 'how often the relay had to wait for room since stats_reset';
COMMENT ON COLUMN pgpubsub.stat_queue.full_ms IS 'how long it waited for room altogether, in milliseconds';
COMMENT ON COLUMN pgpubsub.stat_queue.evictions IS 'subscriptions evicted since stats_reset';
COMMENT ON COLUMN pgpubsub.stat_queue.bad_frames IS 'frames dropped as malformed since stats_reset';
COMMENT ON COLUMN pgpubsub.stat_queue.staging_size IS 'size of the async staging queue, in bytes';
COMMENT ON COLUMN pgpubsub.stat_queue.staging_used_bytes IS 'bytes of it in use';
COMMENT ON COLUMN pgpubsub.stat_queue.notify_queue_usage IS 'fraction of the server''s own NOTIFY queue in use, as pg_notification_queue_usage()';
COMMENT ON COLUMN pgpubsub.stat_queue.relay_restarts IS 'how often the relay came back after it had stopped, since the server''s start';
COMMENT ON COLUMN pgpubsub.stat_queue.stats_reset IS 'since when the counters count';

CREATE VIEW pgpubsub.stat_channels AS
    SELECT d.datname, s.channel, s.subscriptions, s.messages, s.newest_seq,
           s.published, s.published_bytes, s.delivered, s.lost, s.last_at
      FROM pgpubsub.channel_stats() AS s
      JOIN pg_catalog.pg_database AS d ON d.oid = s.datid;

COMMENT ON VIEW pgpubsub.stat_channels IS
'the channels that pgpubsub knows: one row per database and channel';
COMMENT ON COLUMN pgpubsub.stat_channels.datname IS 'database';
COMMENT ON COLUMN pgpubsub.stat_channels.channel IS 'name of the channel';
COMMENT ON COLUMN pgpubsub.stat_channels.subscriptions IS 'subscriptions that read it, by name or by pattern';
COMMENT ON COLUMN pgpubsub.stat_channels.messages IS 'its events in the queue, read or not';
COMMENT ON COLUMN pgpubsub.stat_channels.newest_seq IS 'seq of its newest event; NULL when it had none since the server''s start';
COMMENT ON COLUMN pgpubsub.stat_channels.published IS 'its events queued since stats_reset';
COMMENT ON COLUMN pgpubsub.stat_channels.published_bytes IS 'their payloads, in bytes';
COMMENT ON COLUMN pgpubsub.stat_channels.delivered IS 'events consumed, summed over its subscriptions, since stats_reset';
COMMENT ON COLUMN pgpubsub.stat_channels.lost IS 'events that subscriptions missed, summed over them, since stats_reset';
COMMENT ON COLUMN pgpubsub.stat_channels.last_at IS 'when its newest event was relayed; NULL when it had none since the server''s start';

CREATE VIEW pgpubsub.stat_subscriptions AS
    SELECT d.datname, s.subscription, s.owner, s.channels, s.on_full, s.state,
           s.pid, s.seq, s.pending, s.pending_bytes, s.oldest_pending_at,
           s.delivered, s.delivered_bytes, s.lost, s.polls, s.empty_polls,
           s.created_at, s.last_poll_at
      FROM pgpubsub.subscription_stats() AS s
      JOIN pg_catalog.pg_database AS d ON d.oid = s.datid;

COMMENT ON VIEW pgpubsub.stat_subscriptions IS
'the subscriptions: one row each; members of pg_monitor see all, others those they own';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.datname IS 'database';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.subscription IS 'name of the subscription';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.owner IS 'its owner';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.channels IS 'channel names and patterns, as given to subscribe() when they last changed';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.on_full IS 'what a full queue does to it: drop, evict or block';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.state IS 'waiting (in poll), reading, idle, holding (the full queue waits for it) or evicted';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.pid IS 'process id of the session that reads it; NULL when none does';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.seq IS 'seq of the last event consumed; NULL before the first';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.pending IS 'events that wait for it in the queue';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.pending_bytes IS 'their payloads, in bytes';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.oldest_pending_at IS 'when the oldest of them was relayed; NULL when none is pending';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.delivered IS 'events consumed since stats_reset';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.delivered_bytes IS 'their payloads, in bytes; without those of events that were overwritten between a look and its ack';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.lost IS 'events missed since stats_reset, as far as their number is known';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.polls IS 'calls of poll() since stats_reset';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.empty_polls IS 'those of them that found nothing';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.created_at IS 'when it was created';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.last_poll_at IS 'when it was last polled; NULL when never since the server''s start';

CREATE FUNCTION pgpubsub.stat_reset() RETURNS void
    AS 'MODULE_PATHNAME', 'pgpubsub_stat_reset'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.stat_reset() IS
'zero the counters of this database''s queue, channels and subscriptions, and set stats_reset. Errors: 55000 not preloaded';

--
-- Privileges
--
-- USAGE on the schema goes to everybody: a role needs it to name a function
-- that it was granted.  Nothing that reads, writes or changes events does.
--

GRANT USAGE ON SCHEMA pgpubsub TO PUBLIC;

REVOKE ALL ON TABLE pgpubsub.subscription FROM PUBLIC;
GRANT SELECT ON TABLE pgpubsub.subscription TO pg_monitor;

REVOKE ALL ON FUNCTION pgpubsub.attach(regclass, text, text[], name[], name[], text, text, text, text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION pgpubsub.detach(regclass, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION pgpubsub.publish(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION pgpubsub.subscribe(name, text[], text, text, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION pgpubsub.poll(name, integer, interval, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION pgpubsub.ack(name, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION pgpubsub.unsubscribe(name) FROM PUBLIC;
REVOKE ALL ON FUNCTION pgpubsub.stat_reset() FROM PUBLIC;
REVOKE ALL ON FUNCTION pgpubsub.relay_start() FROM PUBLIC;
REVOKE ALL ON FUNCTION pgpubsub.subscription_changed() FROM PUBLIC;
REVOKE ALL ON FUNCTION pgpubsub.queue_stats() FROM PUBLIC;
REVOKE ALL ON FUNCTION pgpubsub.channel_stats() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION pgpubsub.queue_stats() TO pg_monitor;
GRANT EXECUTE ON FUNCTION pgpubsub.channel_stats() TO pg_monitor;
GRANT SELECT ON pgpubsub.stat_queue, pgpubsub.stat_channels, pgpubsub.attachments TO pg_monitor;
GRANT SELECT ON pgpubsub.stat_subscriptions TO PUBLIC;

--
-- Start this database's relay at once; it leaves again if this transaction
-- rolls back.
--

SELECT pgpubsub.relay_start();
