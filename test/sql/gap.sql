--
-- Gaps: what is overwritten before it was read is counted, exactly.  An event
-- is as long as makes 400 of them overrun the queue, whatever its size.
--
\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
\i :include
SELECT pgpubsub.subscribe('regress_settle', '{regress_settle}', 'drop', temporary => true);
-- Publish events numbered first to last, with bytes more than the number.
CREATE PROCEDURE pg_temp.flood(channel text, first integer, last integer,
                               bytes integer DEFAULT (pg_size_bytes(current_setting('pgpubsub.queue_size')) / 262)::integer)
LANGUAGE sql AS $$
SELECT count(pgpubsub.publish(channel, n || repeat('.', bytes))) FROM generate_series(first, last) AS n;
$$;
-- Poll into a table: n is the row's place, number the event's own.
CREATE TEMP TABLE polled (n integer, seq bigint, channel text, number integer, pid integer,
                          relayed_at timestamptz, lost bigint);
CREATE FUNCTION pg_temp.poll(subscription name, max_messages integer DEFAULT 10000, consume boolean DEFAULT true)
RETURNS bigint
LANGUAGE sql AS $$
TRUNCATE polled;
INSERT INTO polled
SELECT row_number() OVER (), seq, channel, rtrim(payload, '.')::integer, pid, relayed_at, lost
  FROM pgpubsub.poll(subscription, max_messages, consume => consume);
SELECT count(*) FROM polled WHERE channel IS NOT NULL;
$$;
-- Judge what was polled: the events of one channel, of which the first one
-- expected has the number given, and nothing was left behind.
CREATE FUNCTION pg_temp.judge(first integer,
                              OUT one_gap boolean, OUT gap_first boolean, OUT seq_below boolean,
                              OUT lost_exact boolean, OUT no_holes boolean)
LANGUAGE sql AS $$
SELECT count(*) FILTER (WHERE channel IS NULL) = 1,
       bool_and(n = 1 AND number IS NULL AND pid IS NULL AND relayed_at IS NULL AND lost > 0)
           FILTER (WHERE channel IS NULL),
       max(seq) FILTER (WHERE channel IS NULL) = min(seq) FILTER (WHERE channel IS NOT NULL) - 1,
       max(lost) = min(number) - first,
       bool_and(lost IS NULL AND number = (SELECT min(number) FROM polled) + n - 2)
           FILTER (WHERE channel IS NOT NULL)
  FROM polled;
$$;
CREATE VIEW pg_temp.gap_stats AS
SELECT delivered, lost, pending FROM pgpubsub.stat_subscriptions WHERE subscription = 'regress_gap';

SELECT pgpubsub.subscribe('regress_gap', '{gap_a}', 'drop');
SELECT full_count, evictions FROM pgpubsub.stat_queue WHERE datname = current_database() \gset

-- overrun: a look shows the gap, another one again
CALL pg_temp.flood('gap_a', 1, 400);
CALL pg_temp.settle();
SELECT pg_temp.poll('regress_gap', consume => false) > 100 AS rest;
SELECT * FROM pg_temp.judge(1);
SELECT max(number) FROM polled;
SELECT pg_temp.poll('regress_gap', consume => false) > 100 AS rest;
SELECT * FROM pg_temp.judge(1);
SELECT lost + pending AS together, lost = (SELECT max(lost) FROM polled) AS lost_is_the_gap,
       delivered FROM pg_temp.gap_stats;

-- it does not count against max_messages
SELECT pg_temp.poll('regress_gap', 1, false);
SELECT * FROM pg_temp.judge(1);
SELECT pg_temp.poll('regress_gap', 2, false);
SELECT * FROM pg_temp.judge(1);

-- rolled back, to a savepoint or altogether, it comes again
BEGIN;
SELECT pg_temp.poll('regress_gap', 3);
ROLLBACK;
BEGIN;
SAVEPOINT a;
SELECT pg_temp.poll('regress_gap', 3);
ROLLBACK TO a;
SELECT pg_temp.poll('regress_gap', 3, false);
SELECT * FROM pg_temp.judge(1);
COMMIT;

-- consumed, with the first message: it is not shown again, nothing is missing
SELECT pg_temp.poll('regress_gap', 1);
SELECT * FROM pg_temp.judge(1);
SELECT max(number) AS last FROM polled \gset
SELECT pg_temp.poll('regress_gap') > 100 AS rest;
SELECT count(lost) AS gaps, min(number) - :last AS next, max(number) AS max, count(*) = max(number) - :last AS no_holes FROM polled;
SELECT delivered + lost AS together, lost = :last - 1 AS lost_exact, pending FROM pg_temp.gap_stats;
SELECT pg_temp.poll('regress_gap');

-- a second gap is counted from there
CALL pg_temp.flood('gap_a', 401, 800);
CALL pg_temp.settle();
SELECT pg_temp.poll('regress_gap') > 100 AS rest;
SELECT * FROM pg_temp.judge(401);
SELECT delivered + lost AS together, pending FROM pg_temp.gap_stats;

-- grown between a look and the poll
CALL pg_temp.flood('gap_a', 801, 1200);
CALL pg_temp.settle();
SELECT pg_temp.poll('regress_gap', 5, false);
SELECT max(lost) AS before FROM polled \gset
CALL pg_temp.flood('gap_a', 1201, 1300);
CALL pg_temp.settle();
SELECT pg_temp.poll('regress_gap') > 100 AS rest;
SELECT max(lost) > :before AS grown FROM polled;
SELECT * FROM pg_temp.judge(801);
SELECT delivered + lost AS together, pending FROM pg_temp.gap_stats;

-- acking the gap row swallows nothing, and it is gone
CALL pg_temp.flood('gap_a', 1301, 1700);
CALL pg_temp.settle();
SELECT pg_temp.poll('regress_gap', consume => false) > 100 AS rest;
SELECT max(lost) AS lost, max(seq) FILTER (WHERE lost IS NOT NULL) AS gap_seq, max(number) AS last, count(number) AS messages FROM polled \gset
SELECT delivered AS delivered_before, lost AS lost_before FROM pg_temp.gap_stats \gset
SELECT pgpubsub.ack('regress_gap', :gap_seq);
SELECT pg_temp.poll('regress_gap', consume => false) = :messages AS all_there;
SELECT count(lost) AS gaps, min(number) - 1300 = :lost + 1 AS from_the_first FROM polled;
SELECT delivered = :delivered_before AS none_delivered, lost = :lost_before AS same_lost, pending = :messages AS all_pending FROM pg_temp.gap_stats;
-- and in a transaction that is rolled back, not
SELECT pg_temp.poll('regress_gap') > 100 AS rest;
CALL pg_temp.flood('gap_a', 1701, 2100);
CALL pg_temp.settle();
SELECT pg_temp.poll('regress_gap', 1, false);
BEGIN;
SELECT pgpubsub.ack('regress_gap', seq) FROM polled WHERE n = 1;
ROLLBACK;
SELECT pg_temp.poll('regress_gap') > 100 AS rest;
SELECT * FROM pg_temp.judge(1701);
SELECT delivered + lost AS together, pending FROM pg_temp.gap_stats;

-- ack beyond the gap row consumes it and the messages
CALL pg_temp.flood('gap_a', 2101, 2500);
CALL pg_temp.settle();
SELECT pg_temp.poll('regress_gap', 10, false);
SELECT * FROM pg_temp.judge(2101);
SELECT pgpubsub.ack('regress_gap', max(seq)) FROM polled;
SELECT max(number) AS last FROM polled \gset
SELECT pg_temp.poll('regress_gap', 1);
SELECT count(lost) AS gaps, min(number) - :last AS next FROM polled;
SELECT pg_temp.poll('regress_gap') > 100 AS rest;
SELECT delivered + lost AS together, pending FROM pg_temp.gap_stats;

-- ack, without a look, over events that are gone: those were lost
CALL pg_temp.flood('gap_a', 2501, 2900);
CALL pg_temp.settle();
SELECT pending, delivered AS delivered_before FROM pg_temp.gap_stats \gset
SELECT pgpubsub.ack('regress_gap', newest_seq) = :pending AS those_that_were_there
  FROM pgpubsub.stat_queue WHERE datname = current_database();
SELECT delivered - :delivered_before = :pending AS delivered, delivered + lost AS together, pending FROM pg_temp.gap_stats;
SELECT pg_temp.poll('regress_gap');

-- looked at, overrun, acked: what was shown and is gone is lost
CALL pg_temp.flood('gap_a', 2901, 2910, 10);
CALL pg_temp.settle();
SELECT pg_temp.poll('regress_gap', 6, false);
SELECT seq AS seen_seq FROM polled WHERE number = 2906 \gset
SELECT delivered AS delivered_before, lost AS lost_before FROM pg_temp.gap_stats \gset
CALL pg_temp.flood('gap_a', 2911, 3300);
CALL pg_temp.settle();
SELECT pgpubsub.ack('regress_gap', :seen_seq);
SELECT delivered - :delivered_before AS delivered FROM pg_temp.gap_stats;
SELECT pg_temp.poll('regress_gap') > 100 AS rest;
SELECT * FROM pg_temp.judge(2901);
SELECT delivered + lost AS together, lost - :lost_before = (SELECT max(lost) FROM polled) AS lost_exact, pending FROM pg_temp.gap_stats;

-- the same, and only some of those seen were acked
CALL pg_temp.flood('gap_a', 3301, 3310, 10);
CALL pg_temp.settle();
SELECT pg_temp.poll('regress_gap', 6, false);
SELECT seq AS seen_seq FROM polled WHERE number = 3304 \gset
CALL pg_temp.flood('gap_a', 3311, 3700);
CALL pg_temp.settle();
SELECT pgpubsub.ack('regress_gap', :seen_seq);
SELECT pg_temp.poll('regress_gap') > 100 AS rest;
SELECT * FROM pg_temp.judge(3301);
SELECT delivered + lost AS together, pending FROM pg_temp.gap_stats;

-- the same, and a smaller look came after the larger one
CALL pg_temp.flood('gap_a', 3701, 3710, 10);
CALL pg_temp.settle();
SELECT pg_temp.poll('regress_gap', 8, false);
SELECT pg_temp.poll('regress_gap', 3, false);
SELECT max(seq) AS seen_seq FROM polled \gset
CALL pg_temp.flood('gap_a', 3711, 4100);
CALL pg_temp.settle();
SELECT pgpubsub.ack('regress_gap', :seen_seq);
SELECT pg_temp.poll('regress_gap') > 100 AS rest;
SELECT * FROM pg_temp.judge(3701);
SELECT delivered + lost AS together, pending FROM pg_temp.gap_stats;

-- a gap and messages looked at, overrun, acked: the gap is not told again
CALL pg_temp.flood('gap_a', 4101, 4500);
CALL pg_temp.settle();
SELECT pg_temp.poll('regress_gap', 5, false);
SELECT * FROM pg_temp.judge(4101);
SELECT max(seq) AS seen_seq, max(lost) AS told FROM polled \gset
SELECT delivered AS delivered_before FROM pg_temp.gap_stats \gset
CALL pg_temp.flood('gap_a', 4501, 4900);
CALL pg_temp.settle();
SELECT pgpubsub.ack('regress_gap', :seen_seq);
SELECT delivered - :delivered_before AS delivered FROM pg_temp.gap_stats;
SELECT pg_temp.poll('regress_gap') > 100 AS rest;
SELECT * FROM pg_temp.judge(4101 + :told);
SELECT delivered + lost AS together, pending FROM pg_temp.gap_stats;

-- overrun, then only the gap row acked: what came after it is lost anew
CALL pg_temp.flood('gap_a', 4901, 5300);
CALL pg_temp.settle();
SELECT pg_temp.poll('regress_gap', 5, false);
SELECT seq AS gap_seq, lost AS first_gap FROM polled WHERE n = 1 \gset
CALL pg_temp.flood('gap_a', 5301, 5700);
CALL pg_temp.settle();
SELECT pgpubsub.ack('regress_gap', :gap_seq);
SELECT pg_temp.poll('regress_gap') > 100 AS rest;
SELECT * FROM pg_temp.judge(4901 + :first_gap);
SELECT delivered + lost AS together, pending FROM pg_temp.gap_stats;

-- everything is gone: the gap row alone; what comes later is not swallowed
SELECT pgpubsub.subscribe('regress_flood', '{gap_b}', 'drop');
CALL pg_temp.flood('gap_a', 5701, 5705);
CALL pg_temp.flood('gap_b', 1, 400);
CALL pg_temp.settle();
SELECT pg_temp.poll('regress_gap', consume => false);
SELECT n, channel, number, lost FROM polled;
SELECT max(seq) AS gap_seq FROM polled \gset
CALL pg_temp.flood('gap_a', 5706, 5707);
CALL pg_temp.settle();
SELECT pgpubsub.ack('regress_gap', :gap_seq);
SELECT pg_temp.poll('regress_gap');
SELECT n, channel, number, lost FROM polled;
-- and consumed by poll
CALL pg_temp.flood('gap_a', 5708, 5710);
CALL pg_temp.flood('gap_b', 401, 800);
CALL pg_temp.settle();
SELECT pg_temp.poll('regress_gap');
SELECT n, channel, number, lost FROM polled;
SELECT pg_temp.poll('regress_gap');
SELECT delivered + lost AS together, pending FROM pg_temp.gap_stats;

-- over several channels: one gap row, the sum
SELECT pgpubsub.subscribe('regress_both', '{gap_a,gap_b,gap_c}', 'drop');
CALL pg_temp.flood('gap_c', 1, 7);
CALL pg_temp.flood('gap_a', 1, 100);
CALL pg_temp.flood('gap_b', 1, 170);
CALL pg_temp.flood('gap_a', 101, 150);
CALL pg_temp.settle();
SELECT pg_temp.poll('regress_both') > 100 AS rest;
SELECT count(lost) AS gaps, max(n) FILTER (WHERE lost IS NOT NULL) AS gap_row,
       max(seq) FILTER (WHERE lost IS NOT NULL) = min(seq) FILTER (WHERE lost IS NULL) - 1 AS seq_below,
       max(lost) = 7 + (SELECT count(*) FROM generate_series(1, 150) AS g WHERE NOT EXISTS (SELECT FROM polled WHERE channel = 'gap_a' AND number = g))
                 + (SELECT count(*) FROM generate_series(1, 170) AS g WHERE NOT EXISTS (SELECT FROM polled WHERE channel = 'gap_b' AND number = g)) AS lost_exact,
       count(number) FILTER (WHERE channel = 'gap_c') AS on_c
  FROM polled;
SELECT delivered + lost AS together, pending FROM pgpubsub.stat_subscriptions WHERE subscription = 'regress_both';

-- nobody held the queue, and nobody was evicted
SELECT full_count - :full_count AS full_count, evictions - :evictions AS evictions
  FROM pgpubsub.stat_queue WHERE datname = current_database();

-- the relay restarts: what was missed cannot be known
SELECT pg_temp.poll('regress_gap') > 0 AS drained;
SELECT pg_temp.poll('regress_flood') > 0 AS drained;
CALL pg_temp.flood('gap_a', 1, 3, 0);
CALL pg_temp.settle();
SELECT relay_pid, relay_restarts FROM pgpubsub.stat_queue WHERE datname = current_database() \gset
SELECT pg_terminate_backend(:relay_pid);
DO $$
DECLARE
    deadline timestamptz := clock_timestamp() + '30 s';
BEGIN
    -- until every subscription is told
    WHILE clock_timestamp() < deadline AND
        NOT EXISTS (SELECT FROM pgpubsub.poll('regress_flood', 1, '1 s', false) WHERE lost = -1) LOOP
    END LOOP;
END $$;
SELECT relay_pid <> :relay_pid AS another, relay_state, relay_restarts - :relay_restarts AS restarts
  FROM pgpubsub.stat_queue WHERE datname = current_database();
CALL pg_temp.flood('gap_a', 4, 4, 0);
CALL pg_temp.settle();
SELECT pg_temp.poll('regress_gap', consume => false);
SELECT n, channel, number, lost, seq - lag(seq) OVER (ORDER BY n) = 1 AS one_above FROM polled ORDER BY n;
SELECT pg_temp.poll('regress_gap', 1, consume => false);
SELECT pgpubsub.ack('regress_gap', seq) FROM polled WHERE n = 1;
SELECT pg_temp.poll('regress_gap');
SELECT n, channel, number, lost FROM polled ORDER BY n;
SELECT lost, number FROM polled WHERE lost IS NOT NULL;
-- a new subscription has no part in that
SELECT pgpubsub.subscribe('regress_new', '{gap_a}', 'drop', 'oldest');
SELECT pg_temp.poll('regress_new') >= 4 AS rest;
SELECT count(*) FROM polled WHERE lost IS NOT NULL;

-- a gap that was told is counted once, though its channel goes with the commit
SELECT pgpubsub.subscribe('regress_left', '{gap_left,gap_gone}', 'drop');
CALL pg_temp.flood('gap_left', 1, 400);
CALL pg_temp.settle();
BEGIN;
SELECT pg_temp.poll('regress_left') > 0 AS rest;
SELECT pgpubsub.subscribe('regress_left', '{gap_gone}', 'drop');
COMMIT;
SELECT s.lost = told AS subscription, c.lost = told AS channel
  FROM (SELECT max(lost) AS told FROM polled) AS p, pgpubsub.stat_subscriptions AS s, pgpubsub.stat_channels AS c
 WHERE s.subscription = 'regress_left' AND c.datname = s.datname AND c.channel = 'gap_left';
CALL pg_temp.flood('gap_gone', 1, 400);
CALL pg_temp.settle();
BEGIN;
SELECT pg_temp.poll('regress_left') > 0 AS rest;
SELECT pgpubsub.unsubscribe('regress_left');
COMMIT;
SELECT c.lost = max(polled.lost) AS channel
  FROM polled, pgpubsub.stat_channels AS c
 WHERE datname = current_database() AND c.channel = 'gap_gone'
 GROUP BY c.lost;

SELECT pgpubsub.unsubscribe('regress_gap'), pgpubsub.unsubscribe('regress_flood'),
       pgpubsub.unsubscribe('regress_both'), pgpubsub.unsubscribe('regress_new'),
       pgpubsub.unsubscribe('regress_settle');
