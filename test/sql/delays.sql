--
-- What a database's subscriptions have had in all, and how long events take.
--
\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
\i :include
SELECT pgpubsub.subscribe('regress_settle', '{regress_settle}', 'drop', temporary => true);
CREATE VIEW pg_temp.queue AS
SELECT delivered, delivered_bytes, lost, relay_delays, relay_delay_ms, reader_delays, reader_delay_ms
  FROM pgpubsub.stat_queue WHERE datname = current_database();

-- stat_reset() zeroes what is counted; the helpers' own subscription counts too
SELECT pgpubsub.subscribe('regress_delays', '{delays}', 'drop');
SELECT pgpubsub.subscribe('regress_delays_look', '{delays}', 'drop');
CALL pg_temp.settle();
SELECT pgpubsub.stat_reset();
SELECT * FROM pg_temp.queue;

-- from commit into the queue: known of what is staged; nobody reads the second one
SET pgpubsub.publish_mode = async;
SELECT pgpubsub.publish('delays', '12345');
SELECT pgpubsub.publish('delays_nobody', '12345');
BEGIN;
SELECT pgpubsub.publish('delays', '1234567890'), pgpubsub.publish('delays', 'x');
COMMIT;
CALL pg_temp.settle();
SELECT relay_delays >= 3 AS counted, relay_delay_ms BETWEEN 0 AND 60000 * relay_delays AS plausible FROM pg_temp.queue;

-- how old the oldest event is of a subscription that nobody polls
SELECT oldest_pending_at AS oldest_at, clock_timestamp() AS before FROM pgpubsub.stat_subscriptions WHERE subscription = 'regress_delays' \gset
SELECT subscription, oldest_pending_seconds BETWEEN extract(epoch FROM :'before'::timestamptz - :'oldest_at'::timestamptz)
           AND extract(epoch FROM clock_timestamp() - :'oldest_at'::timestamptz) AS age
  FROM pgpubsub.stat_subscriptions WHERE subscription ~ '^regress_delays' ORDER BY subscription;

-- counted when it is committed: a look has consumed nothing, nor what is rolled back
SELECT pgpubsub.stat_reset();
SELECT count(*) FROM pgpubsub.poll('regress_delays', consume => false);
BEGIN;
SELECT count(*) FROM pgpubsub.poll('regress_delays');
ROLLBACK;
SELECT * FROM pg_temp.queue;

-- from there until they are consumed: at least until before the poll, at most until after it
SELECT clock_timestamp() AS before \gset
SELECT count(*), sum(extract(epoch FROM :'before'::timestamptz - relayed_at)) * 1000 AS at_least,
       sum(extract(epoch FROM clock_timestamp() - relayed_at)) * 1000 AS at_most
  FROM pgpubsub.poll('regress_delays', 2) \gset
SELECT :count AS count, delivered, delivered_bytes, lost, relay_delays, relay_delay_ms, reader_delays,
       reader_delay_ms BETWEEN :at_least AND :at_most AS within
  FROM pg_temp.queue;
SELECT reader_delay_ms AS had FROM pg_temp.queue \gset
SELECT max(seq) AS seq, count(*), sum(extract(epoch FROM relayed_at)) AS relayed, extract(epoch FROM clock_timestamp()) AS looked
  FROM pgpubsub.poll('regress_delays_look', consume => false) \gset
SELECT pgpubsub.ack('regress_delays_look', :seq);
SELECT delivered, delivered_bytes, reader_delays,
       reader_delay_ms - :had BETWEEN (:count * :looked - :relayed) * 1000 - 0.001
           AND (:count * extract(epoch FROM clock_timestamp()) - :relayed) * 1000 + 0.001 AS within
  FROM pg_temp.queue;
SELECT oldest_pending_seconds FROM pgpubsub.stat_subscriptions WHERE subscription = 'regress_delays_look';

-- the totals are still there when the subscriptions are not
SELECT pgpubsub.unsubscribe('regress_delays'), pgpubsub.unsubscribe('regress_delays_look');
SELECT delivered, delivered_bytes, lost, reader_delays FROM pg_temp.queue;
