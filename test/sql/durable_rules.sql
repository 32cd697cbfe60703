--
-- Which channels are durable: set_durable(), attach()'s argument, the table.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgpubsub;
DROP ROLE IF EXISTS regress_durable;
RESET client_min_messages;
SET intervalstyle = postgres;
\pset null -

-- What a statement says, also when it fails.
CREATE FUNCTION pg_temp.attempt(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
    detail text;
    hint   text;
BEGIN
    IF command ~ '^(SELECT|TABLE)' THEN
        EXECUTE command INTO result;
    ELSE
        EXECUTE command;
    END IF;
    RETURN 'ok: ' || coalesce(result, '(null)');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' | ', SQLSTATE, SQLERRM, nullif(detail, ''), nullif(hint, ''));
END $$;
-- (no view, for it would keep the table from being altered)
\set rules 'SELECT * FROM pgpubsub.channel ORDER BY channel;'
-- whether the channels that are asked for are durable, as the session sees it;
-- a trigger or a subscription makes a channel known, attach() does here
CREATE TABLE regress_durable_t (id int);
SELECT pgpubsub.attach('regress_durable_t', c)
  FROM unnest('{dur_a,dur_ab,dur_b,other}'::text[]) AS c;
CREATE VIEW pg_temp.durable AS
SELECT channel, durable, retain FROM pgpubsub.stat_channels
 WHERE datname = current_database() AND channel = ANY ('{dur_a,dur_ab,dur_b,other}')
 ORDER BY channel COLLATE "C";

-- a name: made durable, again, with another retain, no longer
SELECT pgpubsub.set_durable('dur_a');
SELECT pgpubsub.set_durable('dur_a'), pgpubsub.set_durable('dur_a', true, '0');
:rules
TABLE pg_temp.durable;
SELECT pgpubsub.set_durable('dur_a', retain => '1 day'), pgpubsub.set_durable('dur_a', retain => '1 day');
SELECT pgpubsub.set_durable('dur_a', retain => '24 hours');
TABLE pg_temp.durable;
SELECT pgpubsub.set_durable('dur_a', false), pgpubsub.set_durable('dur_a', false, '1 day');
SELECT pgpubsub.set_durable('nobody', false);
:rules
TABLE pg_temp.durable;

-- patterns: the longest retain counts; a name goes before them
SELECT pgpubsub.set_durable('dur_*', retain => '1 hour'), pgpubsub.set_durable('*ab', retain => '1 month');
TABLE pg_temp.durable;
SELECT pgpubsub.set_durable('dur_ab', false), pgpubsub.set_durable('dur_ab', false, '1 day');
SELECT pgpubsub.set_durable('other', false);
:rules
TABLE pg_temp.durable;
SELECT pgpubsub.set_durable('dur_ab', true, '2 hours');
TABLE pg_temp.durable;
SELECT pgpubsub.set_durable('dur_ab', false), pgpubsub.set_durable('dur_*', false), pgpubsub.set_durable('dur_*', false);
:rules
-- the exception stays while a pattern matches it
SELECT pgpubsub.set_durable('*ab', false), pgpubsub.set_durable('dur_ab', false), pgpubsub.set_durable('dur_ab', false);
:rules
SELECT pgpubsub.set_durable('*');
TABLE pg_temp.durable;
SELECT pgpubsub.set_durable('*', false);

-- with the transaction
BEGIN;
SELECT pgpubsub.set_durable('dur_a');
TABLE pg_temp.durable;
SAVEPOINT s;
SELECT pgpubsub.set_durable('dur_b'), pgpubsub.set_durable('dur_a', false);
TABLE pg_temp.durable;
ROLLBACK TO s;
TABLE pg_temp.durable;
ROLLBACK;
TABLE pg_temp.durable;
-- with a snapshot that is kept
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT pgpubsub.set_durable('dur_a'), pgpubsub.set_durable('dur_a', retain => '1 day'), pgpubsub.set_durable('dur_a', false);
COMMIT;
-- a transaction that has written the table cannot be prepared
BEGIN;
SELECT pgpubsub.set_durable('dur_a');
PREPARE TRANSACTION 'regress_durable';

-- bad input
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable(NULL)$$);
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable('c', NULL)$$);
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable('c', true, NULL)$$);
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable('')$$);
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable(repeat('é', 31) || 'x')$$);
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable(repeat('é', 32))$$);
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable('c', retain => '-1 s')$$);
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable('c', retain => '1 day -25 hours')$$);
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable('c', retain => '178000000 years 1 day')$$);
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable('c', false, '-1 s')$$);
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable('pgpubsub')$$);
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable('pgpubsub', false)$$);
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable('pgpubsub*')$$);
BEGIN READ ONLY;
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable('c')$$);
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable('c', false)$$);
COMMIT;
:rules
SELECT pgpubsub.set_durable(repeat('é', 31) || 'x', false), pgpubsub.set_durable('pgpubsub*', false);

-- attach(): null leaves the channel alone, true keeps what retain it has
SELECT pgpubsub.attach('regress_durable_t', 'dur_a', durable => true);
TABLE pg_temp.durable;
SELECT pgpubsub.set_durable('dur_a', retain => '1 day');
SELECT pgpubsub.attach('regress_durable_t', 'dur_a', durable => true), pgpubsub.attach('regress_durable_t', 'dur_a');
TABLE pg_temp.durable;
SELECT pgpubsub.attach('regress_durable_t', 'dur_a', '{insert}', durable => false);
TABLE pg_temp.durable;
SELECT pgpubsub.set_durable('dur_*', retain => '1 hour');
SELECT pgpubsub.attach('regress_durable_t', 'dur_a', durable => true), pgpubsub.attach('regress_durable_t', 'dur_b', durable => false);
:rules
SELECT pgpubsub.attach('regress_durable_t', 'dur_b', durable => true);
:rules
-- if it fails, the channel is as it was
SELECT pg_temp.attempt($$SELECT pgpubsub.attach('regress_durable_t', 'c*', durable => true)$$);
SELECT pg_temp.attempt($$SELECT pgpubsub.attach('pg_class', 'c', durable => true)$$);
-- nothing to do: not refused in a read-only transaction
BEGIN READ ONLY;
SELECT pg_temp.attempt($$SELECT pgpubsub.attach('regress_durable_t', 'dur_b', durable => true)$$);
SELECT pg_temp.attempt($$SELECT pgpubsub.attach('regress_durable_t', 'dur_b', durable => false)$$);
COMMIT;
:rules

-- the table, written by hand
DELETE FROM pgpubsub.channel;
TABLE pg_temp.durable;
INSERT INTO pgpubsub.channel (channel, retain) VALUES ('dur_*', '1 min'), ('pgpubsub', '0'), ('', '0'), (repeat('x', 64), '0');
INSERT INTO pgpubsub.channel VALUES ('dur_b', false);
TABLE pg_temp.durable;
UPDATE pgpubsub.channel SET channel = 'other' WHERE channel = 'dur_b';
UPDATE pgpubsub.channel SET durable = true WHERE channel = 'other';
TABLE pg_temp.durable;
SELECT pg_temp.attempt($$INSERT INTO pgpubsub.channel VALUES ('x', true, '-1 s')$$);
TRUNCATE pgpubsub.channel;
TABLE pg_temp.durable;
SELECT pg_temp.attempt($$CREATE TRIGGER t BEFORE INSERT ON regress_durable_t FOR EACH ROW EXECUTE FUNCTION pgpubsub.channel_written()$$);
SELECT pg_temp.attempt($$INSERT INTO regress_durable_t VALUES (1)$$);
DROP TRIGGER t ON regress_durable_t;

-- the table, altered
BEGIN;
ALTER TABLE pgpubsub.channel RENAME COLUMN retain TO keep;
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable('dur_a')$$);
ROLLBACK;
BEGIN;
ALTER TABLE pgpubsub.channel DROP COLUMN durable;
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable('dur_a')$$);
ROLLBACK;
BEGIN;
ALTER TABLE pgpubsub.channel ALTER COLUMN channel TYPE varchar;
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable('dur_a')$$);
ROLLBACK;
BEGIN;
ALTER EXTENSION pgpubsub DROP TABLE pgpubsub.channel;
DROP TABLE pgpubsub.channel;
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable('dur_a')$$);
TABLE pg_temp.durable;
ROLLBACK;
BEGIN;
CREATE RULE r AS ON INSERT TO pgpubsub.channel DO INSTEAD NOTHING;
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable('dur_a')$$);
ROLLBACK;
SELECT pgpubsub.set_durable('dur_a');
TABLE pg_temp.durable;

-- who may: by grant; what attach() does needs no other than attach()
CREATE ROLE regress_durable;
GRANT TRIGGER ON regress_durable_t TO regress_durable;
SET ROLE regress_durable;
SELECT pg_temp.attempt($$SELECT pgpubsub.set_durable('dur_b')$$);
SELECT pg_temp.attempt($$SELECT pgpubsub.attach('regress_durable_t', 'dur_c', durable => true)$$);
SELECT pg_temp.attempt($$TABLE pgpubsub.channel$$);
SELECT pg_temp.attempt($$INSERT INTO pgpubsub.channel VALUES ('dur_b')$$);
SELECT pg_temp.attempt($$TABLE pgpubsub.stat_log$$);
SELECT pg_temp.attempt(format('TABLE pgpubsub.%I', relname))
  FROM pg_class WHERE relnamespace = 'pgpubsub'::regnamespace AND relkind = 'm' AND relname ~ '1$' ORDER BY relname;
RESET ROLE;
GRANT EXECUTE ON FUNCTION pgpubsub.attach(regclass, text, text[], name[], name[], text, text, text, text, text, boolean) TO regress_durable;
SET ROLE regress_durable;
SELECT pgpubsub.attach('regress_durable_t', 'dur_c', durable => true);
RESET ROLE;
GRANT EXECUTE ON FUNCTION pgpubsub.set_durable(text, boolean, interval) TO regress_durable;
SET ROLE regress_durable;
SELECT pgpubsub.set_durable('dur_b'), pgpubsub.set_durable('dur_c', false);
RESET ROLE;
:rules

-- the log's relations: nobody can write, lock or publish them
SELECT c.relname, c.reloptions, t.reloptions AS toast, c.relispopulated, c.relacl IS NULL OR c.relacl::text !~ '[,{]=' AS nothing_granted
  FROM pg_class AS c JOIN pg_class AS t ON t.oid = c.reltoastrelid
 WHERE c.relnamespace = 'pgpubsub'::regnamespace AND c.relkind = 'm' ORDER BY c.relname;
SELECT c.relname, string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
           || CASE WHEN l.collname <> 'default' THEN ' ' || l.collname ELSE '' END || ' ' || a.attstorage::text, ', ' ORDER BY a.attnum) AS columns
  FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
 WHERE c.relnamespace = 'pgpubsub'::regnamespace AND c.relkind = 'm' AND c.relname ~ '_1$' GROUP BY c.relname ORDER BY 1;
SELECT indexdef FROM pg_indexes WHERE schemaname = 'pgpubsub' AND tablename ~ '^log_' ORDER BY indexname LIMIT 1;
SELECT count(*) FROM pg_indexes WHERE schemaname = 'pgpubsub' AND tablename ~ '^log_';
SELECT pg_temp.attempt($$INSERT INTO pgpubsub.log_position_1 VALUES (1)$$);
SELECT pg_temp.attempt($$TRUNCATE pgpubsub.log_row_1$$);

DROP TABLE regress_durable_t;
DELETE FROM pgpubsub.channel;
DROP OWNED BY regress_durable;
DROP ROLE regress_durable;
