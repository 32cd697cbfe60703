--
-- Events do not follow the session's settings, and leave them alone.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgpubsub;
SELECT pgpubsub.subscribe('regress_events', '{*}', on_full => 'block', temporary => true);
CREATE SCHEMA es;
SET search_path = es;

\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
\i :include

CREATE PROCEDURE foreign_settings() LANGUAGE plpgsql AS $$BEGIN
    SET TimeZone = 'Asia/Kathmandu';
    SET DateStyle = 'SQL, DMY';
    SET IntervalStyle = 'iso_8601';
    SET bytea_output = 'escape';
    SET extra_float_digits = -3;
END$$;
CREATE VIEW settings AS
    SELECT string_agg(current_setting(name), ' | ') AS settings
      FROM unnest('{TimeZone,DateStyle,IntervalStyle,bytea_output,extra_float_digits}'::text[]) AS name;

--
-- A row's key is the same in each session
--
CREATE TABLE keys (t timestamptz, r tstzrange, d daterange, i interval, b bytea, f float8, p point, a timestamptz[], v text,
                   PRIMARY KEY (t, r, d, i, b, f, a));
SELECT pgpubsub.attach('keys', 'rows', columns => '{p,v}', old_values => 'key');
SELECT pgpubsub.attach('keys', 'debezium', format => 'debezium', old_values => 'key');
SELECT pgpubsub.attach('keys', 'cloudevents', format => 'cloudevents');
SELECT pgpubsub.attach('keys', 'statements', level => 'statement');
INSERT INTO keys VALUES ('2026-11-21 03:12Z', '[2026-11-21 03:12Z,2026-11-22 03:12Z)', '[2026-11-01,2026-11-02)', '1 day 02:03', '\x5c00ff',
                         0.1::float8 + 0.2, '(0.1,0.30000000000000004)', '{2026-11-21 03:12Z,infinity}', 'v');
CALL foreign_settings();
UPDATE keys SET v = 'w';
SET bytea_output = 'hex';
SET extra_float_digits = 3;
DELETE FROM keys;
CREATE TABLE raw (channel text, e jsonb);
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
INSERT INTO raw SELECT channel, event::jsonb FROM pg_temp.received();
SELECT channel, count(*), count(DISTINCT k) AS keys
  FROM (SELECT channel, coalesce(e -> 'key', e #> '{rows,0,key}', e -> 'subject') AS k FROM raw) AS _ GROUP BY 1 ORDER BY 1;
SELECT DISTINCT jsonb_pretty(e -> 'key') FROM raw WHERE channel = 'rows';
SELECT DISTINCT e #> '{data,new,p}' AS p, e #>> '{data,new,t}' AS t FROM raw WHERE channel = 'cloudevents' AND e #>> '{data,op}' <> 'DELETE';
SELECT * FROM settings;
RESET ALL;
SET client_min_messages = warning;
SET search_path = es;

--
-- Nor does a partition's name follow quote_all_identifiers
--
CREATE SCHEMA es_other;
CREATE TABLE parts (id int) PARTITION BY LIST (id);
CREATE TABLE es_other.leaf PARTITION OF parts DEFAULT;
SELECT pgpubsub.attach('parts');
SET quote_all_identifiers = on;
INSERT INTO parts VALUES (1);
RESET quote_all_identifiers;
:events

--
-- Values that run SQL: they see the events' settings, also in rows, arrays and
-- domains; what they set themselves ends with them, and with an error
--
CREATE TYPE spy AS ENUM ('look', 'set', 'keep', 'fail', 'nested');
CREATE FUNCTION spy_json(spy) RETURNS json LANGUAGE plpgsql SET extra_float_digits = 2 AS $$BEGIN
    IF $1 = 'set' THEN
        PERFORM set_config('TimeZone', 'Asia/Tokyo', true);
        SET LOCAL IntervalStyle = 'sql_standard';
    ELSIF $1 = 'keep' THEN
        SET TimeZone = 'Asia/Tokyo';
    ELSIF $1 = 'fail' THEN
        SET TimeZone = 'Asia/Tokyo';
        RAISE 'no json today';
    ELSIF $1 = 'nested' THEN
        INSERT INTO es.spied (s) VALUES ('look');
    END IF;
    RETURN to_json(settings) FROM es.settings;
END$$;
CREATE CAST (spy AS json) WITH FUNCTION spy_json(spy);
CREATE TYPE spy_row AS (s spy, t timestamptz);
CREATE DOMAIN spy_array AS spy[];
CREATE TABLE spied (n int GENERATED ALWAYS AS IDENTITY, s spy, r spy_row, a spy[], d spy_array[], t timestamptz[]);
SELECT pgpubsub.attach('spied', 'rows', columns => '{s,r,a,d,t}');
SELECT pgpubsub.attach('spied', 'statements', columns => '{s,r,a,d,t}', level => 'statement');
CALL foreign_settings();
INSERT INTO spied (s, t) VALUES ('look', '{2026-11-21 03:12Z}');
INSERT INTO spied (r) VALUES (ROW('look', '2026-11-21 03:12Z'));
INSERT INTO spied (a) VALUES ('{look}');
INSERT INTO spied (d) VALUES (ARRAY['{look}'::spy_array]);
INSERT INTO spied (s) VALUES ('nested');
-- a row type that gets such a value later
CREATE TYPE inner_row AS (t timestamptz);
CREATE TYPE outer_row AS (n int, rows inner_row[]);
CREATE DOMAIN outer_rows AS outer_row[];
CREATE TABLE rows (o outer_rows);
SELECT pgpubsub.attach('rows');
INSERT INTO rows VALUES (ARRAY[ROW(1, ARRAY[ROW('2026-11-21 03:12Z')::inner_row])::outer_row]);
ALTER TYPE inner_row ADD ATTRIBUTE s spy;
INSERT INTO rows VALUES (ARRAY[ROW(2, ARRAY[ROW('2026-11-21 03:12Z', 'look')::inner_row])::outer_row]);
:events
SELECT * FROM settings;
INSERT INTO spied (s) VALUES ('set');
:events
SELECT * FROM settings;
-- nor are they seen by the values and rows that follow, whatever the session has; a SET without LOCAL lasts
INSERT INTO spied (s, t) VALUES ('set', '{2026-11-21 03:12Z}'), ('look', '{2026-11-21 03:12Z}');
:events
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, MDY';
SET IntervalStyle = 'postgres';
SET bytea_output = 'hex';
SET extra_float_digits = 1;
INSERT INTO spied (s, t) VALUES ('set', '{2026-11-21 03:12Z}'), ('look', '{2026-11-21 03:12Z}');
:events
SELECT * FROM settings;
INSERT INTO spied (s, t) VALUES ('keep', '{2026-11-21 03:12Z}'), ('look', '{2026-11-21 03:12Z}');
:events
SELECT * FROM settings;
CALL foreign_settings();
\set SHOW_CONTEXT never
INSERT INTO spied (s) VALUES ('fail');
SELECT * FROM settings;
BEGIN;
SAVEPOINT s;
INSERT INTO spied (a) VALUES ('{fail}');
ROLLBACK TO s;
SELECT * FROM settings;
DO $$BEGIN INSERT INTO es.spied (r) VALUES (ROW('fail', NULL)); EXCEPTION WHEN raise_exception THEN END$$;
SELECT * FROM settings;
COMMIT;
SELECT * FROM settings;

--
-- Nor does an error in an output function
--
CREATE TYPE unshown;
CREATE FUNCTION unshown_in(cstring) RETURNS unshown LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION unshown_out(unshown) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'internal_out';
CREATE TYPE unshown (input = unshown_in, output = unshown_out);
CREATE TABLE unseen (t tstzrange, u unshown);
SELECT pgpubsub.attach('unseen', 'rows');
INSERT INTO unseen VALUES ('[2026-11-21 03:12Z,)', NULL);
INSERT INTO unseen VALUES ('[2026-11-21 03:12Z,)', 'x');
SELECT * FROM settings;
SELECT pgpubsub.attach('unseen', 'rows', level => 'statement');
BEGIN;
INSERT INTO unseen VALUES ('[2026-11-21 03:12Z,)', NULL);
SAVEPOINT s;
INSERT INTO unseen VALUES ('[2026-11-21 03:12Z,)', 'x');
ROLLBACK TO s;
SELECT * FROM settings;
COMMIT;
SELECT * FROM settings;
:events

RESET ALL;
SELECT pgpubsub.unsubscribe('regress_events');
SET client_min_messages = warning;
DROP SCHEMA es, es_other CASCADE;
