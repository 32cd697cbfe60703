--
-- Consumption, subscribe() and unsubscribe() go with the transaction.
--
\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
\i :include
SELECT pgpubsub.subscribe('regress_settle', '{regress_settle}', 'drop', temporary => true);
CREATE PROCEDURE pg_temp.publish(channel text, first integer, last integer)
LANGUAGE sql AS $$
SELECT count(pgpubsub.publish(channel, n::text)) FROM generate_series(first, last) AS n;
$$;
-- Consume n messages, and show them in one line.
CREATE FUNCTION pg_temp.take(subscription name, n integer DEFAULT 1) RETURNS text
LANGUAGE sql AS $$
SELECT string_agg(coalesce(payload, 'gap of ' || lost), ' ') FROM pgpubsub.poll(subscription, n);
$$;
-- What is left to read.
CREATE FUNCTION pg_temp.left(subscription name) RETURNS text
LANGUAGE sql AS $$
SELECT string_agg(coalesce(payload, 'gap of ' || lost), ' ') FROM pgpubsub.poll(subscription, 1000, consume => false);
$$;
CREATE VIEW pg_temp.subscriptions AS
SELECT subscription, ARRAY(SELECT unnest(channels) ORDER BY 1) AS channels, on_full,
       state, pending, delivered
  FROM pgpubsub.stat_subscriptions
 WHERE datname = current_database() AND subscription <> 'regress_settle'
 ORDER BY subscription;

SELECT pgpubsub.subscribe('regress_tx', '{tx_a}', 'drop');
CALL pg_temp.publish('tx_a', 1, 20);
CALL pg_temp.settle();

-- commit and rollback
BEGIN;
SELECT pg_temp.take('regress_tx', 3);
ROLLBACK;
BEGIN;
SELECT pg_temp.take('regress_tx', 2);
SELECT pg_temp.take('regress_tx', 1);
SELECT pending, delivered FROM pg_temp.subscriptions;
COMMIT;
SELECT pending, delivered FROM pg_temp.subscriptions;
-- an error is a rollback
BEGIN;
SELECT pg_temp.take('regress_tx', 3);
SELECT 1 / 0;
COMMIT;
-- so is a commit that fails
CREATE TEMP TABLE once (n integer UNIQUE DEFERRABLE INITIALLY DEFERRED);
BEGIN;
INSERT INTO once SELECT payload::integer FROM pgpubsub.poll('regress_tx', 2);
INSERT INTO once VALUES (4);
COMMIT;
SELECT count(*) FROM once;
SELECT pg_temp.left('regress_tx');

-- savepoints: rolled back
BEGIN;
SELECT pg_temp.take('regress_tx');                  -- 4
SAVEPOINT a;
SELECT pg_temp.take('regress_tx');                  -- 5
SAVEPOINT b;
SELECT pg_temp.take('regress_tx');                  -- 6
ROLLBACK TO b;
SELECT pg_temp.take('regress_tx');                  -- 6
ROLLBACK TO b;
SELECT pg_temp.take('regress_tx', 2);               -- 6 7
ROLLBACK TO a;
SELECT pg_temp.take('regress_tx');                  -- 5
COMMIT;
SELECT pg_temp.left('regress_tx');                  -- 6 ...
-- released
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SELECT pg_temp.take('regress_tx');                  -- 6
RELEASE b;
SELECT pg_temp.take('regress_tx');                  -- 7
RELEASE a;
COMMIT;
SELECT pg_temp.left('regress_tx');                  -- 8 ...
-- released, then rolled back with what is around it
BEGIN;
SELECT pg_temp.take('regress_tx');                  -- 8
SAVEPOINT a;
SAVEPOINT b;
SELECT pg_temp.take('regress_tx');                  -- 9
RELEASE b;
SAVEPOINT c;
SELECT pg_temp.take('regress_tx');                  -- 10
ROLLBACK TO c;
SELECT pg_temp.left('regress_tx');                  -- 10 ...
RELEASE c;
SELECT pg_temp.take('regress_tx');                  -- 10
ROLLBACK TO a;
SELECT pg_temp.left('regress_tx');                  -- 9 ...
COMMIT;
SELECT pg_temp.left('regress_tx');                  -- 9 ...
-- the first poll was in a savepoint: with it the subscription is let go
BEGIN;
SAVEPOINT a;
SELECT pg_temp.take('regress_tx');
SELECT state FROM pg_temp.subscriptions;
ROLLBACK TO a;
SELECT state FROM pg_temp.subscriptions;
SAVEPOINT b;
SELECT pg_temp.take('regress_tx');
RELEASE b;
SELECT state FROM pg_temp.subscriptions;
COMMIT;
SELECT state FROM pg_temp.subscriptions;
SELECT pg_temp.left('regress_tx');                  -- 10 ...
-- exception blocks
DO $$
BEGIN
    RAISE NOTICE 'outside: %', pg_temp.take('regress_tx');
    BEGIN
        RAISE NOTICE 'inside: %', pg_temp.take('regress_tx', 3);
        RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
        RAISE NOTICE 'handler: %', pg_temp.take('regress_tx');
    END;
    BEGIN
        RAISE NOTICE 'good block: %', pg_temp.take('regress_tx');
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END;
END $$;
SELECT pg_temp.left('regress_tx');                  -- 13 ...
-- chained transactions, and a loop that commits
BEGIN;
SELECT pg_temp.take('regress_tx');
COMMIT AND CHAIN;
SELECT pg_temp.take('regress_tx');
ROLLBACK AND CHAIN;
SELECT pg_temp.take('regress_tx');
COMMIT;
DO $$
BEGIN
    FOR i IN 1 .. 4 LOOP
        RAISE NOTICE '%', pg_temp.take('regress_tx');
        IF i % 2 = 0 THEN
            ROLLBACK;
        ELSE
            COMMIT;
        END IF;
    END LOOP;
END $$;
SELECT pg_temp.left('regress_tx');                  -- 17 ...

-- Whatever the savepoints, a table that is written in the same transaction has
-- each message exactly once: blocks in blocks, of which many fail.
CREATE TEMP TABLE processed (n integer);
CREATE FUNCTION pg_temp.nest(depth integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 4 LOOP
        INSERT INTO processed
        SELECT payload::integer FROM pgpubsub.poll('regress_nest', (random() * 3)::integer + 1);
        BEGIN
            IF depth > 0 THEN
                PERFORM pg_temp.nest(depth - 1);
            END IF;
            INSERT INTO processed
            SELECT payload::integer FROM pgpubsub.poll('regress_nest', 1);
            IF random() < 0.4 THEN
                RAISE division_by_zero;
            END IF;
        EXCEPTION WHEN division_by_zero THEN
            NULL;
        END;
    END LOOP;
END $$;
SELECT pgpubsub.subscribe('regress_nest', '{tx_nest}', 'drop');
CALL pg_temp.publish('tx_nest', 1, 1500);
CALL pg_temp.settle();
SELECT setseed(0.25);
SELECT pg_temp.nest(3);
SELECT pg_temp.nest(3);
SELECT count(*) > 100 AS some, count(*) < 1500 AS not_all, count(*) = count(DISTINCT n) AS once,
       count(*) = max(n) AS without_holes
  FROM processed;
SELECT payload::integer = (SELECT max(n) + 1 FROM processed) AS the_next
  FROM pgpubsub.poll('regress_nest', 1);
SELECT delivered = 1 + (SELECT count(*) FROM processed) AS delivered
  FROM pg_temp.subscriptions WHERE subscription = 'regress_nest';
SELECT pgpubsub.unsubscribe('regress_nest');

-- subscribe() undone
BEGIN;
SELECT pgpubsub.subscribe('regress_new', '{tx_a,tx_new}');
SELECT subscription, channels, state FROM pg_temp.subscriptions;
ROLLBACK;
SELECT subscription FROM pg_temp.subscriptions;
SELECT name FROM pgpubsub.subscription;
SELECT * FROM pgpubsub.poll('regress_new');
-- by a savepoint, and done after all
BEGIN;
SAVEPOINT a;
SELECT pgpubsub.subscribe('regress_new', '{tx_a}', 'drop');
ROLLBACK TO a;
SELECT subscription FROM pg_temp.subscriptions;
SELECT pgpubsub.subscribe('regress_new', '{tx_b}', 'drop');
SAVEPOINT b;
SELECT pgpubsub.subscribe('regress_new', '{tx_b,tx_z}', 'evict');
ROLLBACK TO b;
COMMIT;
SELECT subscription, channels, on_full FROM pg_temp.subscriptions;
SELECT name, channels, on_full FROM pgpubsub.subscription ORDER BY name;
SELECT pgpubsub.publish('tx_b', 'to b'), pgpubsub.publish('tx_a', 'to a'), pgpubsub.publish('tx_z', 'to z');
CALL pg_temp.settle();
SELECT pg_temp.take('regress_new', 10);
SELECT pgpubsub.unsubscribe('regress_new');
-- with a transaction that fails later
BEGIN;
SELECT pgpubsub.subscribe('regress_new', '{tx_a}');
SELECT 1 / 0;
COMMIT;
SELECT subscription FROM pg_temp.subscriptions;

-- a change undone: channels, on_full and position are as they were
SELECT pgpubsub.subscribe('regress_chg', '{tx_a,tx_b}', 'drop');
BEGIN;
SELECT pgpubsub.publish('tx_a', 'a1'), pgpubsub.publish('tx_b', 'b1'), pgpubsub.publish('tx_a', 'a2');
COMMIT;
CALL pg_temp.settle();
BEGIN;
SELECT pg_temp.take('regress_chg');
SELECT pgpubsub.subscribe('regress_chg', '{tx_b,tx_c}', 'evict', 'oldest');
SELECT pg_temp.take('regress_chg', 10);
ROLLBACK;
SELECT channels, on_full FROM pg_temp.subscriptions WHERE subscription = 'regress_chg';
SELECT channels, on_full FROM pgpubsub.subscription WHERE name = 'regress_chg';
SELECT pg_temp.left('regress_chg');
BEGIN;
SELECT pg_temp.take('regress_chg');
SAVEPOINT a;
SELECT pgpubsub.subscribe('regress_chg', '{tx_c}', 'drop');
SELECT pg_temp.left('regress_chg');
ROLLBACK TO a;
SELECT pg_temp.take('regress_chg');
COMMIT;
SELECT pg_temp.left('regress_chg');
-- done: consumed before, and after, in the same transaction
SELECT pgpubsub.subscribe('regress_hold', '{tx_c}', 'drop');
SELECT pgpubsub.publish('tx_c', 'c1');
CALL pg_temp.settle();
BEGIN;
SELECT pg_temp.take('regress_chg');
SELECT pgpubsub.publish('tx_b', 'b2');
SELECT pgpubsub.subscribe('regress_chg', '{tx_b,tx_c}', 'drop', 'oldest');
SELECT pg_temp.take('regress_chg', 10);
COMMIT;
CALL pg_temp.settle();
SELECT pg_temp.left('regress_chg');
SELECT pgpubsub.unsubscribe('regress_chg'), pgpubsub.unsubscribe('regress_hold');

-- unsubscribe() undone: it is as it was
SELECT channels, on_full, pending, delivered FROM pg_temp.subscriptions;
BEGIN;
SELECT pgpubsub.unsubscribe('regress_tx');
SELECT pgpubsub.unsubscribe('regress_tx');
SELECT subscription FROM pg_temp.subscriptions;
SELECT name FROM pgpubsub.subscription;
SELECT pg_temp.take('regress_tx');
ROLLBACK;
BEGIN;
SELECT pg_temp.take('regress_tx');
SAVEPOINT a;
SELECT pgpubsub.unsubscribe('regress_tx');
ROLLBACK TO a;
SELECT pg_temp.take('regress_tx');
ROLLBACK;
SELECT channels, on_full, pending, delivered FROM pg_temp.subscriptions;
SELECT name FROM pgpubsub.subscription;
SELECT pg_temp.left('regress_tx') ~ '^17 18 19 20' AS as_it_was;

-- subscribe, then poll, in one transaction
BEGIN;
SELECT pgpubsub.subscribe('regress_one', '{tx_a}', 'drop', 'oldest');
SELECT pg_temp.take('regress_one', 2);
SELECT pgpubsub.ack('regress_one', seq) FROM pgpubsub.poll('regress_one', 1, consume => false);
COMMIT;
SELECT pg_temp.take('regress_one', 2);
-- at the end of the queue there is nothing yet, and what comes is not missed
BEGIN;
SELECT pgpubsub.subscribe('regress_now', '{tx_a}', 'drop');
SELECT pg_temp.left('regress_now');
SELECT pgpubsub.ack('regress_now', newest_seq) FROM pgpubsub.stat_queue WHERE datname = current_database();
COMMIT;
SELECT pgpubsub.publish('tx_a', 'later');
CALL pg_temp.settle();
SELECT pg_temp.left('regress_now');
SELECT pgpubsub.unsubscribe('regress_now');
-- unsubscribe and subscribe in one transaction: a new one of the old name
BEGIN;
SELECT pgpubsub.unsubscribe('regress_one');
SELECT pgpubsub.subscribe('regress_one', '{tx_b,tx_d}', 'drop');
SELECT pg_temp.left('regress_one');
ROLLBACK;
SELECT pg_temp.take('regress_one', 2);
BEGIN;
SELECT pgpubsub.unsubscribe('regress_one');
SELECT pgpubsub.subscribe('regress_one', '{tx_b,tx_d}', 'drop');
COMMIT;
SELECT channels, delivered, pending FROM pg_temp.subscriptions WHERE subscription = 'regress_one';
SELECT name, channels FROM pgpubsub.subscription ORDER BY name;
SELECT pgpubsub.publish('tx_a', 'not for it'), pgpubsub.publish('tx_d', 'for it');
CALL pg_temp.settle();
SELECT pg_temp.take('regress_one', 10);
-- back and forth with savepoints: the last one stands
BEGIN;
SELECT pgpubsub.unsubscribe('regress_one');
SAVEPOINT a;
SELECT pgpubsub.subscribe('regress_one', '{tx_a}', 'drop');
SELECT pgpubsub.unsubscribe('regress_one');
SELECT pgpubsub.subscribe('regress_one', '{tx_e}', 'drop');
ROLLBACK TO a;
SELECT subscription FROM pg_temp.subscriptions;
SELECT pgpubsub.subscribe('regress_one', '{tx_b}', 'drop');
RELEASE a;
COMMIT;
SELECT subscription, channels FROM pg_temp.subscriptions;
SELECT name, channels FROM pgpubsub.subscription ORDER BY name;
-- made and dropped in one
SELECT pgpubsub.unsubscribe('regress_one');
BEGIN;
SELECT pgpubsub.subscribe('regress_one', '{tx_a}');
SELECT pgpubsub.unsubscribe('regress_one');
COMMIT;
SELECT subscription FROM pg_temp.subscriptions;
SELECT name FROM pgpubsub.subscription;
-- polled and dropped in one
SELECT pgpubsub.subscribe('regress_one', '{tx_a}', 'drop', 'oldest');
BEGIN;
SELECT pg_temp.take('regress_one');
SELECT pgpubsub.unsubscribe('regress_one');
COMMIT;
SELECT subscription FROM pg_temp.subscriptions;

-- PREPARE TRANSACTION
BEGIN;
SELECT pg_temp.take('regress_tx');
PREPARE TRANSACTION 'regress_tx';
\echo :LAST_ERROR_SQLSTATE
BEGIN;
SELECT pgpubsub.ack('regress_tx', seq) FROM pgpubsub.poll('regress_tx', 1, consume => false);
PREPARE TRANSACTION 'regress_tx';
BEGIN;
SELECT pgpubsub.subscribe('regress_new', '{tx_a}');
PREPARE TRANSACTION 'regress_tx';
BEGIN;
SELECT pgpubsub.subscribe('regress_new', '{tx_a}', temporary => true);
PREPARE TRANSACTION 'regress_tx';
BEGIN;
SELECT pgpubsub.subscribe('regress_tx', '{tx_a,tx_b}', 'drop');
PREPARE TRANSACTION 'regress_tx';
BEGIN;
SELECT pgpubsub.unsubscribe('regress_tx');
PREPARE TRANSACTION 'regress_tx';
-- in a savepoint that was released
BEGIN;
SAVEPOINT a;
SELECT payload FROM pgpubsub.poll('regress_tx', 1);
RELEASE a;
PREPARE TRANSACTION 'regress_tx';
-- all of that was undone
SELECT subscription, channels, state FROM pg_temp.subscriptions;
SELECT pg_temp.left('regress_tx') ~ '^17 18 19 20' AS as_it_was;
-- a look changes nothing, nor does what was rolled back to a savepoint
BEGIN;
SELECT payload FROM pgpubsub.poll('regress_tx', 1, consume => false);
SAVEPOINT a;
SELECT payload FROM pgpubsub.poll('regress_tx', 1);
SELECT pgpubsub.subscribe('regress_new', '{tx_a}');
ROLLBACK TO a;
PREPARE TRANSACTION 'regress_tx';
-- the prepared transaction reads nothing
SELECT state FROM pg_temp.subscriptions;
SELECT pg_temp.take('regress_tx');
ROLLBACK PREPARED 'regress_tx';

-- a channel that is left out and named again goes on where this transaction was
SELECT pgpubsub.subscribe('regress_again', '{tx_left,tx_kept}', 'drop');
CALL pg_temp.publish('tx_left', 1, 6);
CALL pg_temp.publish('tx_kept', 11, 12);
CALL pg_temp.settle();
BEGIN;
SELECT pg_temp.take('regress_again', 2);                -- 1 2
SELECT pgpubsub.subscribe('regress_again', '{tx_kept}', 'drop');
SELECT pg_temp.take('regress_again');                   -- 11
SAVEPOINT a;
SELECT pgpubsub.subscribe('regress_again', '{tx_left,tx_kept}', 'drop');
SELECT pg_temp.take('regress_again');                   -- 3
SELECT pgpubsub.subscribe('regress_again', '{tx_kept}', 'drop');
SELECT pg_temp.left('regress_again');                   -- 12
ROLLBACK TO a;
SELECT pg_temp.left('regress_again');                   -- 12
SELECT pgpubsub.subscribe('regress_again', '{tx_*}', 'drop');
SELECT pg_temp.take('regress_again');                   -- 3
COMMIT;
SELECT pg_temp.left('regress_again');                   -- 4 5 6 12
SELECT delivered FROM pg_temp.subscriptions WHERE subscription = 'regress_again';
-- what was read on a channel that goes with the same commit counts
BEGIN;
SELECT pg_temp.take('regress_again', 2);                -- 4 5
SELECT pgpubsub.subscribe('regress_again', '{tx_kept}', 'drop');
COMMIT;
SELECT delivered FROM pg_temp.subscriptions WHERE subscription = 'regress_again';
BEGIN;
SELECT pg_temp.take('regress_again');                   -- 12
SELECT pgpubsub.unsubscribe('regress_again');
COMMIT;
SELECT channel, delivered, lost FROM pgpubsub.stat_channels
 WHERE datname = current_database() AND channel IN ('tx_left', 'tx_kept') ORDER BY channel;

-- savepoints cost no memory once they are gone
CREATE FUNCTION pg_temp.memory() RETURNS bigint LANGUAGE sql AS $$
SELECT used_bytes FROM pg_backend_memory_contexts WHERE name = 'TopTransactionContext';
$$;
CREATE PROCEDURE pg_temp.acks(times integer) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. times LOOP
        BEGIN
            PERFORM pgpubsub.ack('regress_many', 0);
            PERFORM pgpubsub.publish('tx_b', i::text);
            IF i % 2 = 0 THEN
                RAISE division_by_zero;
            END IF;
            BEGIN
                PERFORM pgpubsub.ack('regress_many', 0);
                PERFORM pgpubsub.publish('tx_b', i::text);
            EXCEPTION WHEN syntax_error THEN
            END;
        EXCEPTION WHEN division_by_zero THEN
        END;
    END LOOP;
END $$;
SELECT pgpubsub.subscribe('regress_many', ARRAY(SELECT 'tx_many_' || n FROM generate_series(1, 300) AS n), 'drop');
BEGIN;
CALL pg_temp.acks(4);
CREATE TEMP TABLE memory AS SELECT pg_temp.memory() AS before;
CALL pg_temp.acks(400);
SELECT pg_temp.memory() - before < 200000 AS little FROM memory;
ROLLBACK;
SELECT pgpubsub.unsubscribe('regress_many');

-- temporary subscriptions: undone like others
BEGIN;
SELECT pgpubsub.subscribe('regress_temp', '{tx_a}', 'drop', 'oldest', true);
SELECT pg_temp.take('regress_temp', 2);
ROLLBACK;
SELECT subscription FROM pg_temp.subscriptions;
SELECT pgpubsub.subscribe('regress_temp', '{tx_a}', 'drop', 'oldest', true);
BEGIN;
SELECT pg_temp.take('regress_temp', 2);
SELECT pgpubsub.unsubscribe('regress_temp');
ROLLBACK;
SELECT pg_temp.take('regress_temp', 2);
-- and gone with the session, those of an open transaction too
BEGIN;
SELECT pgpubsub.subscribe('regress_temp2', '{tx_a}', temporary => true);
SELECT pgpubsub.subscribe('regress_not_committed', '{tx_a}');
\c -
DO $$
DECLARE
    deadline timestamptz := clock_timestamp() + '30 s';
BEGIN
    WHILE clock_timestamp() < deadline AND
        (SELECT count(*) FROM pgpubsub.stat_subscriptions WHERE datname = current_database()) > 1 LOOP
    END LOOP;
END $$;
SELECT subscription FROM pgpubsub.stat_subscriptions WHERE datname = current_database();
SELECT name FROM pgpubsub.subscription;

SELECT pgpubsub.unsubscribe('regress_tx');
