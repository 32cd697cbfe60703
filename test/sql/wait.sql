--
-- CALL wait(): arguments, where it can be called, what ends it at once.
--
\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
\i :include
SELECT pgpubsub.subscribe('regress_settle', '{regress_settle}', 'drop', temporary => true);
SELECT pgpubsub.subscribe('regress_wait', '{wait_a,wait_p*}', 'drop');

-- nothing there: until the timeout; a part of a millisecond is one
CALL pgpubsub.wait('regress_wait', '0');
CALL pgpubsub.wait('regress_wait', '1 microsecond');
CALL pgpubsub.wait(timeout => '10 ms', subscription => 'regress_wait'::varchar);

-- something there: at once, and it stays
\set VERBOSITY sqlstate
SET statement_timeout = '30s';
SELECT pgpubsub.publish('wait_a', 'one');
CALL pgpubsub.wait('regress_wait', '1 min');
CALL pgpubsub.wait('regress_wait', '1 min');
SELECT payload FROM pgpubsub.poll('regress_wait');
SELECT pgpubsub.publish('wait_pattern', 'two');
CALL pgpubsub.wait('regress_wait', '1 min');
SELECT payload FROM pgpubsub.poll('regress_wait', consume => false);
CALL pgpubsub.wait('regress_wait', '1 min');
SELECT payload FROM pgpubsub.poll('regress_wait');
SET pgpubsub.max_poll_wait = '10ms';
CALL pgpubsub.wait('regress_wait', '1 year');
RESET pgpubsub.max_poll_wait;
RESET statement_timeout;

-- arguments
\set VERBOSITY default
CALL pgpubsub.wait(NULL, '1 s');
CALL pgpubsub.wait('regress_wait', NULL);
CALL pgpubsub.wait('regress_wait', '-1 s');
CALL pgpubsub.wait('', '1 s');
CALL pgpubsub.wait(repeat('x', 64), '1 s');
CALL pgpubsub.wait(repeat('ä', 32), '1 s');
CALL pgpubsub.wait(repeat('x', 63), '1 s');
CALL pgpubsub.wait('regress_nosuch', '1 s');

-- not where the transaction is not its to end, and nothing is committed then
\set VERBOSITY sqlstate
CREATE TABLE wait_test (n integer);
BEGIN;
INSERT INTO wait_test VALUES (1);
\set VERBOSITY default
CALL pgpubsub.wait('regress_wait', '0');
\set VERBOSITY sqlstate
COMMIT;
INSERT INTO wait_test VALUES (2) \; CALL pgpubsub.wait('regress_wait', '0');
CREATE FUNCTION pg_temp.by_function() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO wait_test VALUES (3);
    CALL pgpubsub.wait('regress_wait', '0');
END$$;
SELECT pg_temp.by_function();
DO $$BEGIN PERFORM pg_temp.by_function(); END$$;
DO $$
BEGIN
    INSERT INTO wait_test VALUES (4);
    BEGIN
        CALL pgpubsub.wait('regress_wait', '0');
    EXCEPTION WHEN division_by_zero THEN
        NULL;
    END;
END$$;
CREATE PROCEDURE pg_temp.with_set() LANGUAGE plpgsql SET work_mem = '1MB' AS $$
BEGIN
    INSERT INTO wait_test VALUES (5);
    CALL pgpubsub.wait('regress_wait', '0');
END$$;
CALL pg_temp.with_set();
CREATE PROCEDURE pg_temp.by_sql() LANGUAGE sql AS $$
    INSERT INTO wait_test VALUES (6);
    CALL pgpubsub.wait('regress_wait', '0');
$$;
CALL pg_temp.by_sql();
SELECT * FROM wait_test;

-- in a procedure and in a DO block it can, and is a COMMIT there
\set VERBOSITY terse
CREATE PROCEDURE pg_temp.by_procedure(n integer) LANGUAGE plpgsql AS $$
DECLARE
    event record;
BEGIN
    INSERT INTO wait_test VALUES (n);
    CALL pgpubsub.wait('regress_wait', '10 ms');
    FOR event IN SELECT payload FROM pgpubsub.poll('regress_wait') LOOP
        RAISE NOTICE '%', event.payload;
        CALL pgpubsub.wait('regress_wait', '0');
    END LOOP;
    INSERT INTO wait_test VALUES (n + 1);
    ROLLBACK;
END$$;
SELECT pgpubsub.publish('wait_a', n) FROM (VALUES ('three'), ('four')) AS v(n);
CALL pg_temp.settle();
CALL pg_temp.by_procedure(10);
DO $$BEGIN CALL pg_temp.by_procedure(20); END$$;
SELECT * FROM wait_test;

-- what the procedure has claimed or consumed before, is committed
DO $$
BEGIN
    PERFORM pgpubsub.publish('wait_a', 'five');
    CALL pgpubsub.wait('regress_wait', '1 min');
    RAISE NOTICE '%', (SELECT payload FROM pgpubsub.poll('regress_wait'));
    CALL pgpubsub.wait('regress_wait', '0');
    ROLLBACK;
END$$;
SELECT * FROM pgpubsub.poll('regress_wait');

-- the transaction after it begins after it
DO $$
DECLARE
    before timestamptz := clock_timestamp();
BEGIN
    CALL pgpubsub.wait('regress_wait', '10 ms');
    RAISE NOTICE '%', now() >= before + '10 ms';
END$$;

-- an error of a commit that it makes
\set VERBOSITY sqlstate
CREATE TABLE wait_deferred (n integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED);
DO $$
BEGIN
    INSERT INTO wait_deferred VALUES (1), (1);
    CALL pgpubsub.wait('regress_wait', '0');
END$$;

-- a cursor that is held
BEGIN;
DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 3);
COMMIT;
CALL pgpubsub.wait('regress_wait', '0');
FETCH 1 FROM held;
CLOSE held;

-- only the owner, members of that role and superusers; with a grant
CREATE ROLE regress_waiter;
CREATE ROLE regress_owner;
SET ROLE regress_waiter;
\set VERBOSITY default
CALL pgpubsub.wait('regress_wait', '0');
RESET ROLE;
GRANT EXECUTE ON PROCEDURE pgpubsub.wait TO regress_waiter, regress_owner;
GRANT EXECUTE ON FUNCTION pgpubsub.subscribe, pgpubsub.unsubscribe TO regress_owner;
SET ROLE regress_waiter;
CALL pgpubsub.wait('regress_wait', '0');
SET ROLE regress_owner;
SELECT pgpubsub.subscribe('regress_owned', '{wait_b}', 'drop');
CALL pgpubsub.wait('regress_owned', '0');
RESET ROLE;
GRANT regress_owner TO regress_waiter;
SET ROLE regress_waiter;
CALL pgpubsub.wait('regress_owned', '0');
RESET ROLE;

-- a subscription of the transaction that it ends
DO $$
BEGIN
    PERFORM pgpubsub.subscribe('regress_new', '{wait_c}', 'drop');
    PERFORM pgpubsub.publish('wait_c', 'six');
    CALL pgpubsub.wait('regress_new', '1 min');
    ROLLBACK;
END$$;
SELECT payload FROM pgpubsub.poll('regress_new');
SELECT pgpubsub.unsubscribe(s) FROM unnest('{regress_new,regress_owned,regress_wait}'::name[]) AS s;
REVOKE ALL ON PROCEDURE pgpubsub.wait FROM regress_waiter, regress_owner;
REVOKE ALL ON FUNCTION pgpubsub.subscribe, pgpubsub.unsubscribe FROM regress_owner;
DROP ROLE regress_waiter, regress_owner;
DROP TABLE wait_test, wait_deferred;
