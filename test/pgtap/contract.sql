-- The names, types, defaults, privileges and comments that others rely on.
-- Run by pg_prove; leaves nothing behind.
\set ON_ERROR_STOP on
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = warning;

BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS pgpubsub;
SELECT no_plan();

--
-- The extension
--
SELECT is(extversion, '1.1', 'version') FROM pg_extension WHERE extname = 'pgpubsub';
SELECT is(extrelocatable, false, 'not relocatable') FROM pg_extension WHERE extname = 'pgpubsub';
SELECT is(extnamespace::regnamespace::text, 'pg_catalog', 'in no schema of its own') FROM pg_extension WHERE extname = 'pgpubsub';
SELECT ok(count(*) = 1, 'its schema is its part') FROM pg_depend
 WHERE classid = 'pg_namespace'::regclass AND objid = 'pgpubsub'::regnamespace AND deptype = 'e'
   AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pgpubsub');
SELECT is(schema, CASE version WHEN '1.0' THEN 'pgpubsub'::name END, version || ': whatever schema is named')
  FROM pg_available_extension_versions WHERE name = 'pgpubsub';
SELECT is(relocatable, false, 'the control file says so') FROM pg_available_extension_versions WHERE name = 'pgpubsub' AND version = '1.1';
SELECT throws_ok('ALTER EXTENSION pgpubsub SET SCHEMA public', '0A000');
SELECT is(extconfig, ARRAY['pgpubsub.subscription'::regclass::oid, 'pgpubsub.channel'::regclass, 'pgpubsub.subscription_channel'::regclass], 'pg_dump keeps the tables of subscriptions and of durable channels')
  FROM pg_extension WHERE extname = 'pgpubsub';
SELECT is(extcondition, ARRAY['', '', ''], 'all of them') FROM pg_extension WHERE extname = 'pgpubsub';

-- all that it has, by name: what is new is listed here
CREATE TEMP VIEW member AS
SELECT classid, objid, identity, type
  FROM pg_depend, pg_identify_object(classid, objid, 0)
 WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
   AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pgpubsub');

SELECT bag_eq(
    $$SELECT p.proname::text || '(' || oidvectortypes(p.proargtypes) || ')'
        FROM member AS m JOIN pg_proc AS p ON p.oid = m.objid AND m.classid = 'pg_proc'::regclass$$,
    $$VALUES
      ('ack(text, bigint)'),
      ('ack_1_0(name, bigint)'),
      ('add_channels(text, text[])'),
      ('attach(regclass, text, text[], name[], name[], text, text, text, text, text, boolean)'),
      ('attach_1_0(regclass, text, text[], name[], name[], text, text, text, text, text)'),
      ('channel_stats()'),
      ('channel_stats_1_0()'),
      ('channel_written()'),
      ('detach(regclass, text)'),
      ('drop_channels(text, text[])'),
      ('log_stats()'),
      ('notify_change()'),
      ('poll(text, bigint, interval, boolean)'),
      ('poll_1_0(name, integer, interval, boolean)'),
      ('publish(text, json)'),
      ('publish(text, jsonb)'),
      ('publish(text, text)'),
      ('queue_stats()'),
      ('queue_stats_1_0()'),
      ('relay_start()'),
      ('seek(text, text)'),
      ('set_durable(text, boolean, interval)'),
      ('stat_reset()'),
      ('subscribe(text, text[], text, text, boolean)'),
      ('subscribe_1_0(name, text[], text, text, boolean)'),
      ('subscription_changed()'),
      ('subscription_inserted()'),
      ('subscription_replicated()'),
      ('subscription_stats()'),
      ('subscription_stats_1_0()'),
      ('trigger_condition(oid)'),
      ('trigger_options(bytea)'),
      ('unsubscribe(text)'),
      ('unsubscribe_1_0(name)'),
      ('wait(text, interval)')$$,
    'functions');
SELECT views_are('pgpubsub', ARRAY['attachments', 'stat_queue', 'stat_channels', 'stat_subscriptions', 'stat_log']);
SELECT tables_are('pgpubsub', ARRAY['subscription', 'channel', 'subscription_channel']);
SELECT materialized_views_are('pgpubsub',
    (SELECT array_agg('log_row_' || i) || array_agg('log_note_' || i) || '{log_position_1,log_position_2}' FROM generate_series(1, 8) AS i)::name[],
    'the relations of the log');
SELECT bag_eq(
    $$SELECT DISTINCT type FROM member WHERE type NOT LIKE '%type'$$,
    $$VALUES ('function'), ('materialized view'), ('procedure'), ('schema'), ('table'), ('view')$$,
    'nothing else');

--
-- Functions
--
CREATE TEMP TABLE api (function regprocedure, arguments text, result text);
INSERT INTO api VALUES
    ('pgpubsub.attach(regclass, text, text[], name[], name[], text, text, text, text, text, boolean)',
     'relation regclass, channel text DEFAULT NULL::text, operations text[] DEFAULT ''{insert,update,delete}''::text[], columns name[] DEFAULT NULL::name[], watch name[] DEFAULT NULL::name[], condition text DEFAULT NULL::text, old_values text DEFAULT ''changed''::text, level text DEFAULT ''row''::text, format text DEFAULT ''plain''::text, publish_mode text DEFAULT NULL::text, durable boolean DEFAULT NULL::boolean',
     'text'),
    ('pgpubsub.detach(regclass, text)', 'relation regclass, channel text DEFAULT NULL::text', 'integer'),
    ('pgpubsub.publish(text, text)', 'channel text, payload text', 'void'),
    ('pgpubsub.publish(text, json)', 'channel text, payload json', 'void'),
    ('pgpubsub.publish(text, jsonb)', 'channel text, payload jsonb', 'void'),
    ('pgpubsub.notify_change()', '', 'trigger'),
    ('pgpubsub.subscribe(text, text[], text, text, boolean)',
     'subscription text, channels text[], on_full text DEFAULT ''evict''::text, start_at text DEFAULT ''now''::text, temporary boolean DEFAULT false',
     'boolean'),
    ('pgpubsub.add_channels(text, text[])', 'subscription text, channels text[]', 'bigint'),
    ('pgpubsub.drop_channels(text, text[])', 'subscription text, channels text[]', 'integer'),
    ('pgpubsub.poll(text, bigint, interval, boolean)',
     'subscription text, max_messages bigint DEFAULT 100, timeout interval DEFAULT ''00:00:00''::interval, consume boolean DEFAULT true',
     'TABLE(seq bigint, channel text, payload text, pid integer, relayed_at timestamp with time zone, lost bigint)'),
    ('pgpubsub.ack(text, bigint)', 'subscription text, seq bigint', 'bigint'),
    ('pgpubsub.unsubscribe(text)', 'subscription text', 'boolean'),
    ('pgpubsub.seek(text, text)', 'subscription text, start_at text', 'bigint'),
    ('pgpubsub.set_durable(text, boolean, interval)',
     'channel text, durable boolean DEFAULT true, retain interval DEFAULT ''00:00:00''::interval', 'boolean'),
    ('pgpubsub.stat_reset()', '', 'void');
SET LOCAL intervalstyle = postgres;
SET LOCAL search_path = pg_catalog, public;
SELECT is(regexp_replace(pg_get_function_arguments(function), '("?)\mtimeout\1', 'timeout'), arguments, function || ': arguments') FROM api;
SELECT is(pg_get_function_result(function), result, function || ': result') FROM api;
RESET search_path;
-- callable with the fewest arguments, and by name
SELECT lives_ok('PREPARE a AS SELECT pgpubsub.attach(''pg_class'')', 'attach: one argument');
SELECT lives_ok('PREPARE b AS SELECT pgpubsub.attach(relation => ''pg_class'', channel => ''c'', operations => ''{insert}'', columns => ''{a}'', watch => ''{a}'', condition => ''x'', old_values => ''none'', level => ''row'', format => ''plain'', publish_mode => ''transactional'', durable => true)', 'attach: all by name');
SELECT lives_ok('PREPARE c AS SELECT pgpubsub.detach(''pg_class'')', 'detach: one argument');
SELECT lives_ok('PREPARE d AS SELECT pgpubsub.subscribe(''s'', ''{c}'')', 'subscribe: two arguments');
SELECT lives_ok('PREPARE e AS SELECT pgpubsub.subscribe(subscription => ''s'', channels => ''{c}'', on_full => ''drop'', start_at => ''now'', temporary => true)', 'subscribe: all by name');
SELECT lives_ok('PREPARE f AS SELECT seq, channel, payload, pid, relayed_at, lost FROM pgpubsub.poll(''s'')', 'poll: one argument');
SELECT lives_ok('PREPARE g AS SELECT * FROM pgpubsub.poll(subscription => ''s'', max_messages => 1, timeout => ''1 s'', consume => false)', 'poll: all by name');
SELECT lives_ok('PREPARE h AS SELECT pgpubsub.ack(subscription => ''s'', seq => 1)', 'ack: by name');
SELECT lives_ok('PREPARE i AS SELECT pgpubsub.unsubscribe(subscription => ''s'')', 'unsubscribe: by name');
SELECT lives_ok('PREPARE j AS SELECT pgpubsub.publish(channel => ''c'', payload => ''p'')', 'publish: by name');

SELECT lives_ok('PREPARE k AS SELECT pgpubsub.set_durable(''c'')', 'set_durable: one argument');
SELECT lives_ok('PREPARE l AS SELECT pgpubsub.set_durable(channel => ''c'', durable => true, retain => ''1 day'')', 'set_durable: all by name');
SELECT lives_ok('PREPARE m AS SELECT pgpubsub.seek(subscription => ''s'', start_at => ''oldest'')', 'seek: by name');
SELECT lives_ok('PREPARE n AS SELECT pgpubsub.add_channels(subscription => ''s'', channels => ''{c}'')', 'add_channels: by name');
SELECT lives_ok('PREPARE o AS SELECT pgpubsub.drop_channels(subscription => ''s'', channels => ''{c}'')', 'drop_channels: by name');

SELECT is(provolatile, CASE WHEN proname IN ('trigger_options', 'trigger_condition') THEN 's' ELSE 'v' END::"char", proname || ': volatility')
  FROM pg_proc JOIN member ON objid = oid AND classid = 'pg_proc'::regclass;
SELECT is(proparallel, 'u', proname || ': parallel unsafe')
  FROM pg_proc JOIN member ON objid = oid AND classid = 'pg_proc'::regclass;
SELECT is(prosecdef, false, proname || ': with the caller''s rights')
  FROM pg_proc JOIN member ON objid = oid AND classid = 'pg_proc'::regclass;
SELECT is(lanname, 'c', proname || ': in C')
  FROM pg_proc JOIN member ON objid = pg_proc.oid AND classid = 'pg_proc'::regclass JOIN pg_language AS l ON l.oid = prolang;

-- what version 1.0 had under another name has its arguments and defaults
SELECT is(regexp_replace(pg_get_function_arguments(('pgpubsub.' || f)::regproc), 'subscription \w+|max_messages \w+', '', 'g'),
          regexp_replace(pg_get_function_arguments(('pgpubsub.' || f || '_1_0')::regproc), 'subscription \w+|max_messages \w+', '', 'g'),
          f || '_1_0: arguments')
  FROM unnest('{subscribe,poll,ack,unsubscribe}'::text[]) AS f;
SELECT is(pg_get_function_arguments('pgpubsub.attach'::regproc),
          pg_get_function_arguments('pgpubsub.attach_1_0'::regproc) || ', durable boolean DEFAULT NULL::boolean', 'attach_1_0: arguments');
SELECT is(pg_get_function_result(('pgpubsub.' || f)::regproc), pg_get_function_result(('pgpubsub.' || f || '_1_0')::regproc), f || '_1_0: result')
  FROM unnest('{attach,subscribe,poll,ack,unsubscribe}'::text[]) AS f;

--
-- Views and the table: columns in their order, with their types
--
CREATE FUNCTION pg_temp.columns_of(relation regclass) RETURNS text
LANGUAGE sql AS $$
SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
  FROM pg_attribute WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped;
$$;
SELECT is(pg_temp.columns_of('pgpubsub.stat_queue'),
    'datname name, relay_pid integer, relay_state text, queue_size bigint, used_bytes bigint, peak_used_bytes bigint, messages bigint, oldest_seq bigint, newest_seq bigint, oldest_at timestamp with time zone, published bigint, published_bytes bigint, full_count bigint, full_ms bigint, evictions bigint, bad_frames bigint, staging_size bigint, staging_used_bytes bigint, notify_queue_usage double precision, relay_restarts bigint, stats_reset timestamp with time zone, truncated bigint, delivered bigint, delivered_bytes bigint, lost bigint, relay_delays bigint, relay_delay_ms double precision, reader_delays bigint, reader_delay_ms double precision',
    'stat_queue');
SELECT is(pg_temp.columns_of('pgpubsub.stat_channels'),
    'datname name, channel text, subscriptions integer, messages bigint, newest_seq bigint, published bigint, published_bytes bigint, delivered bigint, lost bigint, last_at timestamp with time zone, truncated bigint, durable boolean, retain interval',
    'stat_channels');
SELECT is(pg_temp.columns_of('pgpubsub.stat_subscriptions'),
    'datname name, subscription name, owner regrole, channels text[], on_full text, state text, pid integer, seq bigint, pending bigint, pending_bytes bigint, oldest_pending_at timestamp with time zone, delivered bigint, delivered_bytes bigint, lost bigint, polls bigint, empty_polls bigint, created_at timestamp with time zone, last_poll_at timestamp with time zone, from_log boolean, oldest_pending_seconds double precision',
    'stat_subscriptions');
SELECT is(pg_temp.columns_of('pgpubsub.stat_log'),
    'datname name, log_size bigint, used_bytes bigint, segments integer, oldest_seq bigint, newest_seq bigint, oldest_at timestamp with time zone, appended bigint, appended_bytes bigint, read_back bigint, rotations bigint, held_by name, full_count bigint',
    'stat_log');
SELECT is(pg_temp.columns_of('pgpubsub.attachments'),
    'relation regclass, trigger name, channel text, level text, operations text[], options jsonb, enabled boolean',
    'attachments');
SELECT is(pg_temp.columns_of('pgpubsub.subscription'),
    'name name, owner regrole, channels text[], on_full text, created_at timestamp with time zone, made_in oid, id bigint',
    'subscription');
SELECT is(pg_temp.columns_of('pgpubsub.channel'), 'channel text, durable boolean, retain interval', 'channel');
SELECT is(pg_temp.columns_of('pgpubsub.subscription_channel'),
    'subscription bigint, channel text, listed boolean, dropped boolean, since bigint, version bigint', 'subscription_channel');
SELECT is(pg_temp.columns_of(('pgpubsub.log_row_' || i)::regclass),
    'xid bigint, lsn bigint, number integer, pid integer, at timestamp with time zone, notified boolean, channel text, id text, payload text, native text',
    'log_row_' || i) FROM generate_series(1, 8) AS i;
SELECT is(pg_temp.columns_of(('pgpubsub.log_note_' || i)::regclass),
    'channel text, first_seq bigint, last_seq bigint, events_before bigint, bytes_before bigint, events integer, bytes bigint, at timestamp with time zone, runs bytea',
    'log_note_' || i) FROM generate_series(1, 8) AS i;
SELECT is(pg_temp.columns_of(('pgpubsub.log_position_' || i)::regclass),
    'id bigint, version bigint, seq bigint, lost bigint, channels text[], seqs bigint[]',
    'log_position_' || i) FROM generate_series(1, 2) AS i;
SELECT is(collname, 'C', format('%s.%s: compares bytes', attrelid::regclass, attname))
  FROM pg_attribute JOIN member ON objid = attrelid AND classid = 'pg_class'::regclass AND type IN ('materialized view', 'table')
  JOIN pg_collation AS c ON c.oid = attcollation
 WHERE attnum > 0 AND (type <> 'table' OR attname = 'channel');
SELECT indexes_are('pgpubsub', 'log_note_' || i, ARRAY['log_note_' || i || '_channel_last_seq_idx']) FROM generate_series(1, 8) AS i;
SELECT is(count(*), 0::bigint, 'the other relations of the log have no index')
  FROM pg_index JOIN pg_class AS c ON c.oid = indrelid WHERE c.relnamespace = 'pgpubsub'::regnamespace AND c.relname ~ '^log_(row|position)';
SELECT col_is_pk('pgpubsub', 'channel', 'channel', 'channel: primary key');
SELECT has_trigger('pgpubsub', 'channel', t, 'channel: all follow changes, logical replication leaves it alone')
  FROM unnest('{channel_written,discard_replicated}'::name[]) AS t;
SELECT is(tgenabled, 'A', tgname || ' is enabled ALWAYS')
  FROM pg_trigger WHERE tgrelid = 'pgpubsub.channel'::regclass AND NOT tgisinternal;
SELECT col_not_null('pgpubsub', 'channel', c, 'channel: ' || c)
  FROM unnest('{channel,durable,retain}'::name[]) AS c;
SELECT col_is_pk('pgpubsub', 'subscription', 'name', 'subscription: primary key');
SELECT col_is_pk('pgpubsub', 'subscription_channel', ARRAY['subscription', 'channel'], 'subscription_channel: primary key');
SELECT has_trigger('pgpubsub', 'subscription_channel', t, 'subscription_channel: the relay is told, logical replication leaves it alone')
  FROM unnest('{subscription_inserted,subscription_changed,discard_replicated,keep_from_truncate,keep_after_truncate}'::name[]) AS t;
SELECT has_trigger('pgpubsub', 'subscription', 'subscription_changed', 'subscription: the relay is told of changes');
SELECT has_trigger('pgpubsub', 'subscription', t, 'subscription: logical replication leaves it alone')
  FROM unnest('{discard_replicated,keep_from_truncate,keep_after_truncate}'::name[]) AS t;
SELECT is(tgenabled, 'A', tgname || ' is enabled ALWAYS')
  FROM pg_trigger WHERE tgrelid = 'pgpubsub.subscription'::regclass AND NOT tgisinternal AND tgname NOT IN ('subscription_changed', 'subscription_inserted');
SELECT has_trigger('pgpubsub', 'subscription', 'subscription_inserted', 'subscription: rows say where they were made');
SELECT col_not_null('pgpubsub', 'subscription', c, 'subscription: ' || c)
  FROM unnest('{owner,channels,on_full,created_at,id}'::name[]) AS c;

--
-- Settings.  Those that size shared memory are there when it is preloaded.
--
SELECT is(format('%s, %s, %s, %s', s.context, s.vartype, coalesce(s.unit, '-'), s.boot_val), w.expected, 'setting ' || w.name)
  FROM (VALUES
    ('pgpubsub.queue_size',        'postmaster, integer, kB, 16384'),
    ('pgpubsub.staging_size',      'postmaster, integer, kB, 4096'),
    ('pgpubsub.max_databases',     'postmaster, integer, -, 4'),
    ('pgpubsub.max_subscriptions', 'postmaster, integer, -, 1024'),
    ('pgpubsub.max_channels',      'postmaster, integer, -, 1024'),
    ('pgpubsub.databases',         'sighup, string, -, *'),
    ('pgpubsub.publish_mode',      'user, enum, -, transactional'),
    ('pgpubsub.publish_timeout',   'user, integer, ms, 5000'),
    ('pgpubsub.evict_timeout',     'sighup, integer, ms, 1000'),
    ('pgpubsub.max_payload',       'superuser, integer, B, 1048576'),
    ('pgpubsub.max_poll_wait',     'superuser, integer, ms, 60000'),
    ('pgpubsub.muted',             'user, bool, -, off'),
    ('pgpubsub.node_name',         'sighup, string, -, '),
    ('pgpubsub.log_size',          'sighup, integer, kB, 1048576')) AS w (name, expected)
  LEFT JOIN pg_settings AS s ON s.name = w.name;
SELECT is(count(*), 14::bigint, 'no other settings') FROM pg_settings WHERE name ~ '^pgpubsub\.';
SELECT is(enumvals, '{transactional,async}', 'publish_mode: transactional or async') FROM pg_settings WHERE name = 'pgpubsub.publish_mode';
SELECT isnt(short_desc, '', name || ': described') FROM pg_settings WHERE name ~ '^pgpubsub\.';
SELECT ok(max_val::bigint < 9223372036854775807 AND min_val::bigint >= 0, 'publish_timeout: always finite')
  FROM pg_settings WHERE name = 'pgpubsub.publish_timeout';
SELECT throws_ok('SET LOCAL pgpubsub.nosuch = 1', '42602');

--
-- Privileges: of the owner, of pg_monitor, of everybody
--
CREATE ROLE pgpubsub_test_nobody;
SELECT schema_privs_are('pgpubsub', 'pgpubsub_test_nobody', ARRAY['USAGE'], 'everybody may use the schema');
SELECT schema_privs_are('pgpubsub', 'pg_monitor', ARRAY['USAGE'], 'pg_monitor, no more');

CREATE TEMP TABLE granted (function text, everybody boolean, monitor boolean);
INSERT INTO granted VALUES
    ('attach', false, false), ('detach', false, false), ('publish', false, false),
    ('subscribe', false, false), ('add_channels', false, false), ('drop_channels', false, false), ('poll', false, false), ('ack', false, false), ('unsubscribe', false, false), ('wait', false, false), ('seek', false, false),
    ('attach_1_0', false, false), ('set_durable', false, false),
    ('subscribe_1_0', false, false), ('poll_1_0', false, false), ('ack_1_0', false, false), ('unsubscribe_1_0', false, false),
    ('stat_reset', false, false), ('relay_start', false, false),
    ('queue_stats', false, true), ('channel_stats', false, true),
    ('log_stats', false, true), ('queue_stats_1_0', false, true), ('channel_stats_1_0', false, true),
    -- a writer to an attached table needs no privilege
    ('notify_change', true, true),
    -- what the views are made of; tells an owner of its own subscriptions
    ('subscription_stats', true, true), ('subscription_stats_1_0', true, true), ('trigger_options', true, true),
    ('trigger_condition', true, true),
    -- only the triggers of the tables call them
    ('channel_written', false, false),
    ('subscription_changed', false, false), ('subscription_inserted', false, false),
    ('subscription_replicated', false, false);
SELECT is(has_function_privilege('pgpubsub_test_nobody', p.oid, 'EXECUTE'), g.everybody, p.proname || ': EXECUTE for everybody')
  FROM pg_proc AS p JOIN member ON objid = p.oid AND classid = 'pg_proc'::regclass LEFT JOIN granted AS g ON g.function = p.proname;
SELECT is(has_function_privilege('pg_monitor', p.oid, 'EXECUTE'), g.monitor, p.proname || ': EXECUTE for pg_monitor')
  FROM pg_proc AS p JOIN member ON objid = p.oid AND classid = 'pg_proc'::regclass LEFT JOIN granted AS g ON g.function = p.proname;
SELECT function_privs_are('pgpubsub', 'publish', ARRAY['text', 'text'], 'pgpubsub_test_nobody', ARRAY[]::text[]);
SELECT function_privs_are('pgpubsub', 'publish', ARRAY['text', 'json'], 'pgpubsub_test_nobody', ARRAY[]::text[]);
SELECT function_privs_are('pgpubsub', 'publish', ARRAY['text', 'jsonb'], 'pgpubsub_test_nobody', ARRAY[]::text[]);
SELECT function_privs_are('pgpubsub', 'subscribe', ARRAY['text', 'text[]', 'text', 'text', 'boolean'], 'pgpubsub_test_nobody', ARRAY[]::text[]);
SELECT function_privs_are('pgpubsub', 'notify_change', ARRAY[]::text[], 'pgpubsub_test_nobody', ARRAY['EXECUTE']);
SELECT table_privs_are('pgpubsub', v, 'pg_monitor', ARRAY['SELECT'], v || ': pg_monitor reads it')
  FROM unnest('{stat_queue,stat_channels,stat_subscriptions,stat_log,attachments,subscription,channel}'::name[]) AS v;
SELECT table_privs_are('pgpubsub', v, 'pgpubsub_test_nobody', ARRAY[]::text[], v || ': others do not')
  FROM unnest('{stat_queue,stat_channels,stat_log,attachments,subscription,channel}'::name[]) AS v;
SELECT table_privs_are('pgpubsub', t, 'pg_database_owner', ARRAY['INSERT', 'SELECT'], t || ': the database''s owner dumps and restores it')
  FROM unnest('{subscription,channel}'::name[]) AS t;
SELECT ok(NOT EXISTS (SELECT FROM aclexplode(c.relacl) AS a WHERE a.grantee <> c.relowner), identity || ': nothing is granted on it')
  FROM pg_class AS c JOIN member ON objid = c.oid AND classid = 'pg_class'::regclass WHERE type = 'materialized view';
SELECT table_privs_are('pgpubsub', 'stat_subscriptions', 'pgpubsub_test_nobody', ARRAY['SELECT'], 'stat_subscriptions: everybody, for their own');

--
-- Comments: every object, every column of every view and table but the log's
--
SELECT ok(coalesce(length(obj_description(objid, classid::regclass::text::name)), 0) > 10, type || ' ' || identity || ': has a comment')
  FROM member WHERE type IN ('function', 'procedure', 'materialized view', 'view', 'table');
SELECT isnt(obj_description(oid, 'pg_extension'), NULL, 'the extension: has a comment') FROM pg_extension WHERE extname = 'pgpubsub';
SELECT ok(coalesce(length(col_description(a.attrelid, a.attnum)), 0) > 0, format('%s.%s: has a comment', a.attrelid::regclass, a.attname))
  FROM member JOIN pg_attribute AS a ON a.attrelid = objid AND classid = 'pg_class'::regclass
 WHERE a.attnum > 0 AND NOT a.attisdropped AND type <> 'materialized view';
SELECT is(pg_get_function_arguments('pgpubsub.wait(text, interval)'::regprocedure), 'IN subscription text, IN timeout interval', 'wait: arguments');
SELECT is(prokind, 'p', 'wait: a procedure') FROM pg_proc WHERE oid = 'pgpubsub.wait(text, interval)'::regprocedure;
SELECT matches(obj_description('pgpubsub.wait(text, interval)'::regprocedure, 'pg_proc'), 'Errors: .*\m[0-9A-Z]{5}\M', 'wait: its comment names the SQLSTATEs');
-- functions that raise errors say which
SELECT matches(obj_description(function, 'pg_proc'), 'Errors: .*\m[0-9A-Z]{5}\M', function || ': its comment names the SQLSTATEs') FROM api;

SELECT * FROM finish();
ROLLBACK;
