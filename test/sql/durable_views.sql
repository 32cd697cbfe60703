--
-- What the views show of durable channels and the log.
--
\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
\i :include
SET intervalstyle = postgres;
\pset null -
SELECT pgpubsub.subscribe('regress_settle', '{regress_settle}', 'drop', temporary => true);
-- a view that is temporary would keep the log's relations from being altered
\set log 'SELECT * FROM pgpubsub.stat_log WHERE datname = current_database()'
\set subscriptions 'SELECT subscription, pending, pending_bytes, oldest_pending_at IS NOT NULL AS oldest, delivered, lost, from_log FROM pgpubsub.stat_subscriptions WHERE datname = current_database() AND subscription ~ \'^regress_dv\' ORDER BY 1;'
-- 400 events of so many bytes overrun the queue
SELECT pg_size_bytes(current_setting('pgpubsub.queue_size')) / 262 AS bytes \gset

SELECT count(*) FROM pgpubsub.stat_log WHERE datname = current_database();
SELECT pgpubsub.stat_reset();
SELECT log_size >= 64 * 1024 * 1024 AS log_size, used_bytes < log_size AS used, segments BETWEEN 1 AND 8 AS segments,
       appended, appended_bytes, read_back, rotations, held_by, full_count
  FROM (:log) AS s;

-- which channels are durable, and for how long
SELECT pgpubsub.set_durable('dv_a'), pgpubsub.set_durable('dv_b', retain => '1 day 2 hours');
SELECT pgpubsub.subscribe('regress_dv1', '{dv_a,dv_b,dv_c}', 'drop');
SELECT pgpubsub.subscribe('regress_dv2', '{dv_a}', 'drop');
SELECT channel, durable, retain FROM pgpubsub.stat_channels
 WHERE datname = current_database() AND channel ~ '^dv_' ORDER BY channel;

-- what is logged; what waits in the queue counts as ever
SELECT pgpubsub.publish('dv_a', '12345'), pgpubsub.publish('dv_b', '1234567890'), pgpubsub.publish('dv_c', '123');
CALL pg_temp.settle();
:subscriptions
SELECT appended, appended_bytes, read_back, oldest_seq <= newest_seq AS seqs,
       newest_seq = (SELECT max(newest_seq) FROM pgpubsub.stat_channels WHERE datname = current_database() AND channel = 'dv_b') AS newest,
       oldest_at <= now() AS oldest_at
  FROM (:log) AS s;

-- what the queue has no longer
BEGIN;
SELECT count(pgpubsub.publish('dv_c', n || repeat('.', :bytes))) FROM generate_series(1, 400) AS n;
COMMIT;
CALL pg_temp.settle();
SELECT subscription, lost + pending AS together, lost > 0 AS lost, from_log, oldest_pending_at < now() AS oldest
  FROM pgpubsub.stat_subscriptions
 WHERE datname = current_database() AND subscription ~ '^regress_dv' ORDER BY 1;
SELECT pending, pending_bytes FROM pgpubsub.stat_subscriptions WHERE datname = current_database() AND subscription = 'regress_dv2';

-- the log's relations are altered: the views show the rest
BEGIN;
SET LOCAL client_min_messages = warning;
DO $$BEGIN
    FOR i IN 1 .. 8 LOOP
        EXECUTE format('DROP INDEX pgpubsub.log_note_%s_channel_last_seq_idx', i);
    END LOOP;
END$$;
SELECT subscription, lost + pending AS together, lost > 0 AS lost, from_log
  FROM pgpubsub.stat_subscriptions
 WHERE datname = current_database() AND subscription ~ '^regress_dv' ORDER BY 1;
SELECT segments BETWEEN 1 AND 8 AS segments, appended FROM (:log) AS s;
ROLLBACK;
BEGIN;
ALTER TABLE pgpubsub.channel RENAME COLUMN retain TO keep;
SELECT channel, durable, retain FROM pgpubsub.stat_channels
 WHERE datname = current_database() AND channel ~ '^dv_' ORDER BY channel;
ROLLBACK;
BEGIN;
SET LOCAL client_min_messages = warning;
ALTER EXTENSION pgpubsub DROP MATERIALIZED VIEW pgpubsub.log_note_1;
DROP MATERIALIZED VIEW pgpubsub.log_note_1;
SELECT subscription, from_log FROM pgpubsub.stat_subscriptions
 WHERE datname = current_database() AND subscription ~ '^regress_dv' ORDER BY 1;
SELECT used_bytes > 0 AS used FROM (:log) AS s;
ROLLBACK;

-- reading it back
SELECT channel, payload FROM pgpubsub.poll('regress_dv2');
SELECT min(payload) FILTER (WHERE channel = 'dv_a') AS dv_a, min(payload) FILTER (WHERE channel = 'dv_b') AS dv_b,
       sum(lost) + count(*) FILTER (WHERE channel = 'dv_c') AS dv_c
  FROM pgpubsub.poll('regress_dv1', 1000);
SELECT subscription, pending, pending_bytes, oldest_pending_at, from_log FROM pgpubsub.stat_subscriptions
 WHERE datname = current_database() AND subscription ~ '^regress_dv' ORDER BY 1;
SELECT appended, read_back FROM (:log) AS s;
SELECT pgpubsub.stat_reset();
SELECT appended, appended_bytes, read_back, rotations, full_count, newest_seq > 0 AS still FROM (:log) AS s;

-- what has passed by the queue counts, also behind what is there
SELECT pgpubsub.publish('dv_a', '12345');
NOTIFY dv_a, 'not logged';
CALL pg_temp.settle();
BEGIN;
SELECT count(pgpubsub.publish('dv_a', n || repeat('.', :bytes))) FROM generate_series(1, 400) AS n;
COMMIT;
CALL pg_temp.settle();
SELECT subscription, pending, pending_bytes >= 400 * :bytes + 15 AS bytes, lost, from_log
  FROM pgpubsub.stat_subscriptions WHERE datname = current_database() AND subscription ~ '^regress_dv' ORDER BY 1;
SELECT count(*) FROM pgpubsub.poll('regress_dv2', 1);
SELECT pending, from_log FROM pgpubsub.stat_subscriptions WHERE datname = current_database() AND subscription = 'regress_dv2';
SELECT count(*) FROM pgpubsub.poll('regress_dv2', 1);
SELECT pending, from_log FROM pgpubsub.stat_subscriptions WHERE datname = current_database() AND subscription = 'regress_dv2';
SELECT count(*), max(lost) AS lost FROM pgpubsub.poll('regress_dv2', 1000);
SELECT pending, from_log FROM pgpubsub.stat_subscriptions WHERE datname = current_database() AND subscription = 'regress_dv2';

-- who may look
CREATE ROLE regress_dv_monitor IN ROLE pg_monitor;
SET ROLE regress_dv_monitor;
SELECT count(*), max(appended) AS appended FROM (:log) AS s;
RESET ROLE;
DROP ROLE regress_dv_monitor;

-- a subscription that goes has missed what it would have been told of: of durable channels,
-- nothing of what is still in the log
SELECT pgpubsub.subscribe('regress_dv3', '{dv_a,dv_c}', 'drop', start_at => 'oldest');
SELECT lost AS database_lost FROM pgpubsub.stat_queue WHERE datname = current_database() \gset
SELECT lost AS would_be_told FROM pgpubsub.stat_subscriptions WHERE datname = current_database() AND subscription = 'regress_dv3' \gset
SELECT pgpubsub.unsubscribe('regress_dv3');
SELECT lost - :database_lost - :would_be_told AS more FROM pgpubsub.stat_queue WHERE datname = current_database();
SELECT pgpubsub.subscribe('regress_dv3', '{dv_a}', 'drop');
SELECT count(pgpubsub.publish('dv_a', n || repeat('.', :bytes))) FROM generate_series(1, 400) AS n;
CALL pg_temp.settle();
SELECT pending, lost FROM pgpubsub.stat_subscriptions WHERE datname = current_database() AND subscription = 'regress_dv3';
SELECT lost AS database_lost FROM pgpubsub.stat_queue WHERE datname = current_database() \gset
SELECT pgpubsub.unsubscribe('regress_dv3');
SELECT lost - :database_lost AS more FROM pgpubsub.stat_queue WHERE datname = current_database();

SELECT pgpubsub.unsubscribe('regress_dv1'), pgpubsub.unsubscribe('regress_dv2');
SELECT pgpubsub.set_durable('dv_a', false), pgpubsub.set_durable('dv_b', false);
