/* sql/pgpubsub--1.0--1.1.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION pgpubsub UPDATE TO '1.1'" to load this file. \quit

--
-- Publish
--

COMMENT ON FUNCTION pgpubsub.notify_change() IS
'AFTER trigger: publishes an event for the changed row, or for all rows of the statement. attach() installs it; a statement trigger for INSERT, UPDATE or DELETE needs transition tables.
arguments, each ''name=value'': channel (default: the table''s name), columns and watch (column names with commas between them, quoted as in SQL), old_values (none, key, changed or full; default changed), format (plain, debezium or cloudevents; default plain), publish_mode (transactional or async; default: the setting).
Does nothing while pgpubsub.muted is on.
Errors: 0A000 format debezium for a statement, 22023 bad argument, 39P01 not called as an AFTER trigger, 42939 reserved channel, 53400 the queue is full, 55000 no transition tables';

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
subscription: a name of 1 to 63 bytes; channels: 1 to 63 bytes each, * stands for any run of characters; on_full: drop, evict or block (block needs superuser or the database''s owner); start_at: now, oldest or a sequence number, the first to be read; temporary: it ends with this session.
Returns once the relay listens: waits at most pgpubsub.publish_timeout for that. Undone if the transaction rolls back.
Errors: 22004 a null, 2202E channels of more than one dimension, 22023 bad argument, 25006 standby or read-only transaction, 40001 it is newer than this transaction''s snapshot, 42501 not the owner, 42710 exists with the other lifetime, 42939 reserved channel, 53400 a pool is full (names the setting), 55000 not preloaded, no relay, or its row was deleted from the table, 55006 another session is reading it (names its pid)';

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
Errors: 22004 a null, 22023 a bad name, a negative seq or one that was not given out yet, 25006 standby, 42501 not the owner, 42704 no such subscription, 55000 not preloaded or no relay, 55006 another session is reading it (names its pid)';

CREATE FUNCTION pgpubsub.unsubscribe(
    subscription text
) RETURNS boolean
    AS 'MODULE_PATHNAME', 'pgpubsub_unsubscribe_1_1'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION pgpubsub.unsubscribe(text) IS
'drop the subscription, a name of 1 to 63 bytes, when this transaction commits; false if there was none.
Errors: 22004 subscription is null, 22023 it is empty or too long, 25006 standby or read-only transaction, 40001 it is newer than this transaction''s snapshot, 42501 not the owner, 55000 not preloaded or no relay, 55006 another session is reading it (names its pid)';

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

SELECT pgpubsub.take_over('pgpubsub.publish(text, text)', 'pgpubsub.publish(text, json)'),
       pgpubsub.take_over('pgpubsub.publish(text, text)', 'pgpubsub.publish(text, jsonb)'),
       pgpubsub.take_over('pgpubsub.subscribe_1_0(name, text[], text, text, boolean)', 'pgpubsub.subscribe(text, text[], text, text, boolean)'),
       pgpubsub.take_over('pgpubsub.poll_1_0(name, integer, interval, boolean)', 'pgpubsub.poll(text, bigint, interval, boolean)'),
       pgpubsub.take_over('pgpubsub.ack_1_0(name, bigint)', 'pgpubsub.ack(text, bigint)'),
       pgpubsub.take_over('pgpubsub.unsubscribe_1_0(name)', 'pgpubsub.unsubscribe(text)'),
       pgpubsub.take_over('pgpubsub.queue_stats_1_0()', 'pgpubsub.queue_stats()'),
       pgpubsub.take_over('pgpubsub.channel_stats_1_0()', 'pgpubsub.channel_stats()');

DROP FUNCTION pgpubsub.take_over(pg_catalog.regprocedure, pg_catalog.regprocedure);
