--
-- poll(): batches, looks, timeouts, and what is left for the next one.
--
\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
\i :include
SELECT pgpubsub.subscribe('regress_settle', '{regress_settle}', 'drop', temporary => true);
CREATE PROCEDURE pg_temp.publish(channel text, first integer, last integer)
LANGUAGE sql AS $$
SELECT count(pgpubsub.publish(channel, n::text)) FROM generate_series(first, last) AS n;
$$;

SELECT pgpubsub.subscribe('regress_poll', '{poll_a,poll_b}', 'drop');

-- nothing there
SELECT * FROM pgpubsub.poll('regress_poll');

-- columns, in their order
SELECT * FROM pgpubsub.poll('regress_poll') LIMIT 0;

-- max_messages: 100 unless given
CALL pg_temp.publish('poll_a', 1, 120);
CALL pg_temp.settle();
SELECT count(*), min(payload::int), max(payload::int) FROM pgpubsub.poll('regress_poll');
SELECT payload FROM pgpubsub.poll('regress_poll', 1);
SELECT payload FROM pgpubsub.poll('regress_poll', 3);
SELECT count(*), min(payload::int), max(payload::int) FROM pgpubsub.poll('regress_poll', 2147483647);
SELECT count(*) FROM pgpubsub.poll('regress_poll');

-- channels are merged: by seq, whatever the batches
BEGIN;
SELECT pgpubsub.publish(CASE WHEN n % 3 = 0 THEN 'poll_a' ELSE 'poll_b' END, n::text)
  FROM generate_series(1, 12) AS n;
COMMIT;
CALL pg_temp.settle();
SELECT channel, payload FROM pgpubsub.poll('regress_poll', 5);
SELECT channel, payload FROM pgpubsub.poll('regress_poll', 5);
SELECT channel, payload FROM pgpubsub.poll('regress_poll', 5);

-- seq, pid and time of a message are its own, for every subscription
SELECT pgpubsub.subscribe('regress_poll2', '{poll_b}', 'drop');
CALL pg_temp.publish('poll_b', 1, 3);
CALL pg_temp.settle();
SELECT count(*) AS same
  FROM pgpubsub.poll('regress_poll') AS a
  JOIN pgpubsub.poll('regress_poll2') AS b
 USING (seq, channel, payload, pid, relayed_at);
SELECT pgpubsub.unsubscribe('regress_poll2');

-- consume => false: a look leaves everything where it is
CALL pg_temp.publish('poll_a', 1, 5);
CALL pg_temp.settle();
SELECT payload FROM pgpubsub.poll('regress_poll', 2, consume => false);
SELECT payload FROM pgpubsub.poll('regress_poll', 3, consume => false);
SELECT payload FROM pgpubsub.poll('regress_poll', 2);
SELECT payload FROM pgpubsub.poll('regress_poll', consume => false);
BEGIN;
SELECT payload FROM pgpubsub.poll('regress_poll', 1);
SELECT payload FROM pgpubsub.poll('regress_poll', 1, consume => false);
SELECT payload FROM pgpubsub.poll('regress_poll', 1);
COMMIT;
SELECT payload FROM pgpubsub.poll('regress_poll');

-- LIMIT and WHERE hide rows that are consumed: the reference's warning
CALL pg_temp.publish('poll_a', 1, 4);
CALL pg_temp.settle();
SELECT payload FROM pgpubsub.poll('regress_poll') LIMIT 1;
SELECT count(*) FROM pgpubsub.poll('regress_poll');
CALL pg_temp.publish('poll_a', 1, 4);
CALL pg_temp.settle();
SELECT payload FROM pgpubsub.poll('regress_poll') WHERE payload = '3';
SELECT count(*) FROM pgpubsub.poll('regress_poll');
-- and a statement that reads only a part of the rows consumes all of them
CALL pg_temp.publish('poll_a', 1, 4);
CALL pg_temp.settle();
BEGIN;
DECLARE part CURSOR FOR SELECT payload FROM pgpubsub.poll('regress_poll');
FETCH 1 FROM part;
CLOSE part;
COMMIT;
SELECT count(*) FROM pgpubsub.poll('regress_poll');

-- several polls in one statement go on where the last one ended
CALL pg_temp.publish('poll_a', 1, 6);
CALL pg_temp.settle();
SELECT n, p.payload
  FROM generate_series(1, 4) AS n
 CROSS JOIN LATERAL (SELECT payload FROM pgpubsub.poll('regress_poll', n * 0 + 2)) AS p;
-- in the select list, in DML
CALL pg_temp.publish('poll_a', 1, 2);
CALL pg_temp.settle();
SELECT (p).payload, (p).lost FROM (SELECT pgpubsub.poll('regress_poll', 1) AS p OFFSET 0) AS q;
CREATE TEMP TABLE result (payload text);
INSERT INTO result SELECT payload FROM pgpubsub.poll('regress_poll', 1);
TABLE result;

-- timeout: what is there comes at once, however long it is
CALL pg_temp.publish('poll_a', 1, 2);
CALL pg_temp.settle();
SELECT clock_timestamp() AS before \gset
SELECT payload FROM pgpubsub.poll('regress_poll', 100, '1 hour');
SELECT clock_timestamp() - :'before' < '30 s' AS at_once;
-- nothing: it waits that long, no less
SELECT clock_timestamp() AS before \gset
SELECT count(*) FROM pgpubsub.poll('regress_poll', 100, '120 ms');
SELECT clock_timestamp() - :'before' >= '120 ms' AS waited,
       clock_timestamp() - :'before' < '30 s' AS not_forever;
-- a look waits as well
SELECT clock_timestamp() AS before \gset
SELECT count(*) FROM pgpubsub.poll('regress_poll', 100, '0.05 s', false);
SELECT clock_timestamp() - :'before' >= '50 ms' AS waited;
-- the smallest of intervals, and one of several fields
SELECT count(*) FROM pgpubsub.poll('regress_poll', 100, '1 us');
SELECT count(*) FROM pgpubsub.poll('regress_poll', 100, '1 day -86399.99 s');
-- an event of this transaction cannot end the wait
BEGIN;
SELECT pgpubsub.publish('poll_a', 'own');
SELECT count(*) FROM pgpubsub.poll('regress_poll', 100, '20 ms');
COMMIT;
SELECT payload FROM pgpubsub.poll('regress_poll', 100, '10 s');
-- pgpubsub.max_poll_wait cuts it
SET pgpubsub.max_poll_wait = '60 ms';
SELECT clock_timestamp() AS before \gset
SELECT count(*) FROM pgpubsub.poll('regress_poll', 100, '1000000 years');
SELECT clock_timestamp() - :'before' >= '60 ms' AS waited,
       clock_timestamp() - :'before' < '30 s' AS cut;
SET pgpubsub.max_poll_wait = 0;
SELECT count(*) FROM pgpubsub.poll('regress_poll', 100, '1 hour');
RESET pgpubsub.max_poll_wait;
-- statement_timeout ends a wait, and the subscription is free again
SET statement_timeout = '50 ms';
SELECT count(*) FROM pgpubsub.poll('regress_poll', 100, '30 s');
RESET statement_timeout;
SELECT state, pid FROM pgpubsub.stat_subscriptions WHERE subscription = 'regress_poll';
CALL pg_temp.publish('poll_a', 7, 7);
SELECT payload FROM pgpubsub.poll('regress_poll', 100, '10 s');

-- two subscriptions in one transaction
SELECT pgpubsub.subscribe('regress_poll2', '{poll_a}', 'drop');
CALL pg_temp.publish('poll_a', 1, 2);
CALL pg_temp.settle();
BEGIN;
SELECT payload FROM pgpubsub.poll('regress_poll', 1);
SELECT payload FROM pgpubsub.poll('regress_poll2', 1);
SELECT payload FROM pgpubsub.poll('regress_poll', 1);
SELECT subscription, state, pid = pg_backend_pid() AS mine
  FROM pgpubsub.stat_subscriptions WHERE subscription ~ '^regress_poll' ORDER BY 1;
COMMIT;
SELECT payload FROM pgpubsub.poll('regress_poll');
SELECT payload FROM pgpubsub.poll('regress_poll2');

-- a read-only transaction may poll: it writes no table (where all channels are
-- durable this one is not)
SELECT count(pgpubsub.set_durable('poll_memory', false));
SELECT pgpubsub.subscribe('regress_poll3', '{poll_memory}', 'drop');
CALL pg_temp.publish('poll_memory', 1, 1);
CALL pg_temp.settle();
BEGIN READ ONLY;
SELECT payload FROM pgpubsub.poll('regress_poll3');
COMMIT;
SELECT count(*) FROM pgpubsub.poll('regress_poll3');
SELECT pgpubsub.unsubscribe('regress_poll3');

-- in a transaction that has its snapshot already
CALL pg_temp.publish('poll_a', 1, 1);
CALL pg_temp.settle();
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT 1 AS snapshot;
SELECT payload FROM pgpubsub.poll('regress_poll2');
SELECT payload FROM pgpubsub.poll('regress_poll');
COMMIT;

-- prepared statements and plpgsql
PREPARE poll(integer) AS SELECT payload FROM pgpubsub.poll('regress_poll', $1);
CALL pg_temp.publish('poll_a', 1, 3);
CALL pg_temp.settle();
EXECUTE poll(1);
EXECUTE poll(1);
DO $$
DECLARE
    event record;
BEGIN
    FOR event IN SELECT * FROM pgpubsub.poll('regress_poll') LOOP
        RAISE NOTICE '%: %', event.channel, event.payload;
    END LOOP;
END $$;
DEALLOCATE poll;

SELECT pgpubsub.unsubscribe('regress_poll'), pgpubsub.unsubscribe('regress_poll2'),
       pgpubsub.unsubscribe('regress_settle');
