--
-- Change events of rows: operations, options, keys, names, altered tables.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgpubsub;
SELECT pgpubsub.subscribe('regress_events', '{*}', on_full => 'block', temporary => true);
CREATE SCHEMA ce;
SET search_path = ce;

\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
\i :include

--
-- Operations
--
CREATE TABLE orders (id int PRIMARY KEY, status text, amount numeric(10,2), paid boolean);
SELECT pgpubsub.attach('orders');
INSERT INTO orders VALUES (1, 'pending', 10, false), (2, NULL, NULL, NULL);
UPDATE orders SET status = 'paid', paid = true WHERE id = 1;
UPDATE orders SET status = status, id = 3 WHERE id = 2;
UPDATE orders SET amount = amount WHERE id = 1;
DELETE FROM orders WHERE id = 3;
INSERT INTO orders VALUES (1, 'again', 11, NULL) ON CONFLICT (id) DO UPDATE SET status = excluded.status;
BEGIN;
INSERT INTO orders VALUES (9);
ROLLBACK;
BEGIN;
INSERT INTO orders VALUES (10);
SAVEPOINT s;
INSERT INTO orders VALUES (11);
ROLLBACK TO s;
INSERT INTO orders VALUES (12);
COMMIT;
TRUNCATE orders;
:events

-- what varies: id, txid, pid and ts are of this transaction, and node is there when set
CREATE TABLE raw (event jsonb);
SET TimeZone = 'Asia/Kathmandu';
BEGIN;
INSERT INTO orders SELECT g FROM generate_series(1, 3) g;
SELECT pg_current_xact_id()::text::bigint AS txid, pg_backend_pid() AS pid, now() AS started \gset
SELECT pgpubsub.publish('end', '');
COMMIT;
INSERT INTO raw SELECT event::jsonb FROM pg_temp.received();
SELECT count(*), count(DISTINCT event ->> 'id') AS ids,
       bool_and(event ->> 'id' ~ ('^' || :'txid' || '-[123]$')) AS id,
       bool_and((event ->> 'txid')::bigint = :txid) AS txid,
       bool_and((event ->> 'pid')::int = :pid) AS pid,
       bool_and((event ->> 'ts')::timestamptz BETWEEN :'started' AND clock_timestamp()) AS ts,
       bool_and(event ->> 'ts' ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00$') AS ts_form,
       bool_or(event ? 'node') AS node
  FROM raw;
RESET TimeZone;

-- muted
SET pgpubsub.muted = on;
DELETE FROM orders;
SET pgpubsub.muted = off;
:events

--
-- Options
--
INSERT INTO orders VALUES (1, 'new', 1, false);
SELECT pgpubsub.attach('orders', 'none', '{update,delete}', old_values => 'none');
SELECT pgpubsub.attach('orders', 'key', '{update,delete}', old_values => 'key');
SELECT pgpubsub.attach('orders', 'full', '{update,delete}', old_values => 'full');
SELECT pgpubsub.attach('orders', 'columns', '{update,delete}', columns => '{status,paid}');
SELECT pgpubsub.attach('orders', 'columns full', '{update,delete}', columns => '{status}', old_values => 'full');
SELECT pgpubsub.attach('orders', 'watch', watch => '{status}', operations => '{update,truncate}');
SELECT pgpubsub.attach('orders', 'condition', '{update}', condition => 'OLD.amount < NEW.amount');
SELECT pgpubsub.detach('orders', 'orders');
UPDATE orders SET status = 'changed', id = 2;
UPDATE orders SET amount = 2;
UPDATE orders SET status = status, amount = 1.00;
DELETE FROM orders;
TRUNCATE orders;
:events
SELECT pgpubsub.detach('orders');

-- a row that leaves the condition is an event where the condition names OLD
CREATE TABLE tasks (id int PRIMARY KEY, state text);
SELECT pgpubsub.attach('tasks', 'open', '{update}', condition => 'NEW.state = ''open''');
SELECT pgpubsub.attach('tasks', 'open or was', '{update}', condition => '''open'' IN (OLD.state, NEW.state)');
INSERT INTO tasks VALUES (1, 'new');
UPDATE tasks SET state = 'open';
UPDATE tasks SET state = 'done';
UPDATE tasks SET state = 'archived';
:events
DROP TABLE tasks;

--
-- What counts as a change: the stored value, not its text nor its storage
--
CREATE TABLE vals (id int PRIMARY KEY, n numeric, t text, f float8, big text, js jsonb, ch char(5), arr text[]);
ALTER TABLE vals ALTER big SET STORAGE EXTERNAL;
INSERT INTO vals VALUES (1, 1.0, 'a', 0, repeat('x', 10000), '{"a":1}', 'x', '{a,NULL}');
SELECT pgpubsub.attach('vals', columns => '{id,n,t,f,js,ch,arr}', operations => '{update}', watch => '{n,t,f,big,js,ch,arr}');
UPDATE vals SET n = 1.0, t = 'a', f = 0, js = '{ "a" : 1 }', ch = 'x ', arr = ARRAY['a', NULL];
UPDATE vals SET big = repeat('x', 9999) || 'x';
UPDATE vals SET big = big || 'x';
UPDATE vals SET n = 1.00;
UPDATE vals SET f = '-0';
UPDATE vals SET t = NULL;
UPDATE vals SET t = NULL;
UPDATE vals SET arr = '{}';
:events

-- times are in UTC, whatever TimeZone says, also where the same one was written before
CREATE TABLE times (n int GENERATED ALWAYS AS IDENTITY, a timestamptz, b timestamptz);
SELECT pgpubsub.attach('times', operations => '{insert}', columns => '{a,b}');
SET TimeZone = 'UTC';
INSERT INTO times (a, b) VALUES ('2026-11-21 03:12Z', '2026-11-21 03:12Z'), ('2026-11-21 03:12Z', 'infinity'), (NULL, 'infinity');
SET TimeZone = 'Asia/Kathmandu';
INSERT INTO times (a, b) VALUES ('2026-11-21 03:12Z', 'infinity');
BEGIN;
SET LOCAL TimeZone = 'America/St_Johns';
INSERT INTO times (a, b) VALUES ('2026-11-21 03:12Z', '2026-07-21 03:12Z');
SAVEPOINT s;
SET TimeZone = '<X-3>-3';
INSERT INTO times (a, b) VALUES ('2026-11-21 03:12Z', '2026-07-21 03:12Z');
ROLLBACK TO s;
INSERT INTO times (a, b) VALUES ('2026-11-21 03:12Z', '2026-07-21 03:12Z'), ('2026-11-21 03:12:00.000001Z', '0044-03-15 BC');
COMMIT;
INSERT INTO times (a, b) VALUES ('2026-11-21 03:12Z', '2026-07-21 03:12Z');
RESET TimeZone;
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
SELECT event::json -> 'new' AS new FROM pg_temp.received();

--
-- Keys
--
CREATE TABLE no_key (a int);
CREATE TABLE ident (a int, b int NOT NULL, c int NOT NULL);
CREATE UNIQUE INDEX ident_idx ON ident (c, b);
ALTER TABLE ident REPLICA IDENTITY USING INDEX ident_idx;
CREATE TABLE two (a int, b text, c int, PRIMARY KEY (c, b));
CREATE TABLE deferred (a int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE included (a int, b int, PRIMARY KEY (a) INCLUDE (b));
SELECT pgpubsub.attach(t::regclass, 'key', columns => ARRAY['a'], old_values => 'key')
  FROM unnest('{no_key,ident,two,deferred,included}'::text[]) t;
INSERT INTO no_key VALUES (1);
DELETE FROM no_key;
INSERT INTO ident VALUES (1, 2, 3);
UPDATE ident SET b = 4;
INSERT INTO two VALUES (1, 'x"y', 3);
DELETE FROM two;
INSERT INTO deferred VALUES (1);
INSERT INTO included VALUES (1, 2);
:events


-- an UPDATE that changes the key has the old one, whatever else is left out
CREATE TABLE moved (a int, b text, c int, v int, PRIMARY KEY (c, b));
SELECT count(pgpubsub.attach('moved', f || ' ' || v, '{update}', columns => '{v,b}', old_values => v, format => f))
  FROM unnest('{plain,debezium,cloudevents}'::text[]) f, unnest('{none,key,changed,full}'::text[]) v;
SELECT pgpubsub.attach('moved', 'watch', '{update}', columns => '{a}', watch => '{v}', old_values => 'none');
SELECT pgpubsub.attach('moved', 'statement', '{update}', columns => '{a}', old_values => 'none', level => 'statement');
SELECT pgpubsub.attach('moved', 'statement cloud', '{update}', columns => '{a}', level => 'statement', format => 'cloudevents');
SELECT pgpubsub.attach('no_key', 'no_key', '{update}', columns => '{a}');
SELECT pgpubsub.attach('ident', 'ident', '{update}', columns => '{a}', old_values => 'none');
SET pgpubsub.muted = on;
INSERT INTO moved VALUES (1, 'b', 3, 4), (2, 'b', 4, 5);
INSERT INTO no_key VALUES (1);
SET pgpubsub.muted = off;
UPDATE moved SET c = c + 1, v = v + 1 WHERE a = 2;
UPDATE moved SET c = c, v = v + 1 WHERE a = 2;
UPDATE moved SET b = 'B' WHERE a = 2;
SELECT count(pgpubsub.detach('moved', f || ' ' || v)) FROM unnest('{plain,debezium,cloudevents}'::text[]) f, unnest('{none,key,changed,full}'::text[]) v;
UPDATE moved SET c = c + 10;
UPDATE ident SET c = c + 1;
UPDATE no_key SET a = a + 1;
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
SELECT channel, coalesce(event::jsonb -> 'data', event::jsonb) - '{id,op,schema,table,txid,pid,ts,ts_ms,source}'::text[] AS event FROM pg_temp.received();
SELECT pgpubsub.detach('moved');

--
-- Tables that change while the session has their triggers
--
CREATE TABLE alt (id int PRIMARY KEY, a int);
SELECT pgpubsub.attach('alt', 'alt', '{insert}');
INSERT INTO alt VALUES (1, 1);
ALTER TABLE alt ADD b text DEFAULT 'd';
INSERT INTO alt VALUES (2, 2);
ALTER TABLE alt RENAME a TO "A ""2""";
INSERT INTO alt VALUES (3, 3);
ALTER TABLE alt DROP COLUMN "A ""2""";
INSERT INTO alt VALUES (4);
ALTER TABLE alt DROP CONSTRAINT alt_pkey;
UPDATE alt SET b = id;
ALTER TABLE alt ADD PRIMARY KEY (b);
INSERT INTO alt VALUES (5, 'five');
ALTER TABLE alt ALTER id TYPE text;
INSERT INTO alt VALUES (6, 'six');
ALTER TABLE alt RENAME TO alt2;
INSERT INTO alt2 VALUES (7, 'seven');
ALTER SCHEMA ce RENAME TO ce2;
INSERT INTO ce2.alt2 VALUES (8, 'eight');
ALTER SCHEMA ce2 RENAME TO ce;
ALTER TRIGGER "!pgpubsub_alt_row" ON alt2 RENAME TO other_name;
INSERT INTO alt2 VALUES (9, 'nine');
BEGIN;
ALTER TABLE alt2 ADD c int DEFAULT 1;
INSERT INTO alt2 VALUES (10, 'ten');
ROLLBACK;
INSERT INTO alt2 VALUES (11, 'eleven');
SELECT pgpubsub.attach('alt2', 'alt', '{insert}', columns => '{id}');
INSERT INTO alt2 VALUES (12, 'twelve');
SET client_min_messages = notice;
ALTER TABLE alt2 RENAME id TO id2;
INSERT INTO alt2 VALUES (13, 'thirteen');
INSERT INTO alt2 VALUES (14, 'fourteen');
SET client_min_messages = warning;
DROP TABLE alt2;
CREATE TABLE alt2 (x int);
SELECT pgpubsub.attach('alt2', 'alt', '{insert}');
INSERT INTO alt2 VALUES (15);
:events

-- a cast to json that comes, changes and goes; and one that fires the trigger again
CREATE TYPE color AS ENUM ('red');
CREATE TABLE colors (c color);
SELECT pgpubsub.attach('colors', operations => '{insert}');
INSERT INTO colors VALUES ('red');
CREATE FUNCTION color_json(color) RETURNS json LANGUAGE sql AS $$SELECT '1'::json$$;
CREATE CAST (color AS json) WITH FUNCTION color_json(color);
INSERT INTO colors VALUES ('red');
CREATE OR REPLACE FUNCTION color_json(color) RETURNS json LANGUAGE plpgsql AS $$BEGIN
    IF pg_trigger_depth() = 1 THEN
        INSERT INTO colors VALUES ($1);
    END IF;
    RETURN to_json(pg_trigger_depth());
END$$;
INSERT INTO colors VALUES ('red'), (NULL);
CREATE OR REPLACE FUNCTION color_json(color) RETURNS json LANGUAGE plpgsql AS $$BEGIN
    RAISE 'no json today';
END$$;
INSERT INTO colors VALUES ('red');
INSERT INTO colors VALUES (NULL);
DROP CAST (color AS json);
INSERT INTO colors VALUES ('red');
:events

--
-- Names
--
CREATE SCHEMA "we""ird \ schéma";
CREATE TABLE "we""ird \ schéma"."tab	le'" ("ke""y" int PRIMARY KEY, "back\slash" int, "日本" int, """" int);
SELECT pgpubsub.attach('"we""ird \ schéma"."tab	le''"', 'we"ird \ ''chännel');
INSERT INTO "we""ird \ schéma"."tab	le'" VALUES (1, 2, 3, 4);
UPDATE "we""ird \ schéma"."tab	le'" SET """" = 5, "日本" = 6;
:events
DROP SCHEMA "we""ird \ schéma" CASCADE;
CREATE TABLE nothing ();
SELECT pgpubsub.attach('nothing');
INSERT INTO nothing DEFAULT VALUES;
DELETE FROM nothing;
:events

--
-- Partitions, inheritance, generated columns, temporary, unlogged and foreign tables
--
CREATE TABLE part (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE part_2 (v text, gone int, id int NOT NULL);
ALTER TABLE part_2 DROP gone;
ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM (10) TO (20);
SELECT pgpubsub.attach('part', operations => '{insert,update,delete,truncate}');
CREATE SCHEMA "ce other";
CREATE TABLE "ce other".sub PARTITION OF part FOR VALUES FROM (20) TO (30) PARTITION BY LIST (id);
CREATE TABLE "ce other".leaf PARTITION OF "ce other".sub DEFAULT;
INSERT INTO part VALUES (1, 'one'), (11, 'eleven'), (21, 'twenty-one');
UPDATE part SET v = v || '!';
UPDATE part SET id = 12 WHERE id = 1;
INSERT INTO part_2 VALUES ('direct', 13);
ALTER TABLE part RENAME TO part_renamed;
DELETE FROM part_renamed WHERE id = 13;
TRUNCATE part_renamed;
ALTER TABLE part_renamed DETACH PARTITION part_2;
INSERT INTO part_2 VALUES ('no event', 14);
:events
DROP SCHEMA "ce other" CASCADE;

CREATE TABLE parent (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE child (extra text) INHERITS (parent);
SELECT pgpubsub.attach('parent');
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (2);
UPDATE parent SET id = id + 10;
CREATE TEMP TABLE tmp (a int);
SELECT pgpubsub.attach('tmp', 'tmp');
INSERT INTO tmp VALUES (1);
CREATE UNLOGGED TABLE unlogged (a int);
SELECT pgpubsub.attach('unlogged');
INSERT INTO unlogged VALUES (1);
:events

--
-- Triggers made by hand
--
CREATE TABLE hand (a int PRIMARY KEY, "B c" text);
CREATE TRIGGER t AFTER INSERT OR UPDATE ON hand FOR EACH ROW EXECUTE FUNCTION pgpubsub.notify_change();
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON hand DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION pgpubsub.notify_change('channel=deferred=1', 'columns="B c"', 'old_values=none');
INSERT INTO hand VALUES (1, 'x');
:events
\set SHOW_CONTEXT never
SELECT pgpubsub.notify_change();
CREATE FUNCTION try(args text, timing text DEFAULT 'AFTER INSERT', level text DEFAULT 'ROW') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    EXECUTE format('CREATE OR REPLACE TRIGGER t %s ON ce.hand FOR EACH %s EXECUTE FUNCTION pgpubsub.notify_change(%s)', timing, level, args);
    INSERT INTO ce.hand VALUES (2) ON CONFLICT (a) DO UPDATE SET "B c" = NULL;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n', SQLSTATE || ': ' || SQLERRM, detail, hint);
END$$;
\pset format unaligned
SELECT try('', 'BEFORE INSERT');
SELECT try('', 'BEFORE INSERT', 'STATEMENT');
SELECT try('', 'AFTER INSERT', 'STATEMENT');
SELECT try($$'format=debezium'$$, 'AFTER INSERT', 'STATEMENT');
SELECT try($$'nonsense'$$);
SELECT try($$'color=red'$$);
SELECT try($$'channel='$$);
SELECT try($$'channel=pgpubsub'$$);
SELECT try($$'channel=a*'$$);
SELECT try(quote_literal('channel=' || repeat('x', 64)));
SELECT try($$'columns='$$);
SELECT try($$'columns=a,,b'$$);
SELECT try($$'watch="a'$$);
SELECT try($$'old_values=some'$$);
SELECT try($$'format=xml'$$);
SELECT try($$'publish_mode=later'$$);
-- (without the other trigger: events of different modes have no order)
DROP TRIGGER deferred ON hand;
SELECT try($$'publish_mode=transactional'$$);
\pset format aligned

--
-- Too large: without what makes it so, and no write fails
--
CREATE TABLE large (id int PRIMARY KEY, t text);
SELECT pgpubsub.attach('large', 'large ' || f, columns => '{t}', old_values => 'full', format => f) FROM unnest('{plain,debezium,cloudevents}'::text[]) f;
SELECT pgpubsub.attach('large', 'large s', columns => '{t}', old_values => 'none', level => 'statement');
SELECT pgpubsub.attach('large', 'large c', columns => '{t}', level => 'statement', format => 'cloudevents');
CREATE TABLE large_key (k text PRIMARY KEY, v int);
SELECT pgpubsub.attach('large_key', 'large_key ' || f, format => f) FROM unnest('{plain,debezium,cloudevents}'::text[]) f;
SELECT pgpubsub.attach('large_key', 'large_key s', level => 'statement');
CREATE VIEW shown AS
    SELECT channel, regexp_replace(regexp_replace(event, '(x|y|(\\n))\1{99,}', '<\1>', 'g'), '"source":(\{[^}]*\}|"[^"]*"),?', '') AS event FROM pg_temp.events();
CREATE VIEW truncated AS
    SELECT truncated FROM pgpubsub.stat_queue WHERE datname = current_database();
SELECT truncated FROM truncated \gset
SET pgpubsub.max_payload = 20000;
INSERT INTO large VALUES (1, repeat('x', 9000));
INSERT INTO large VALUES (2, repeat('x', 19990));
INSERT INTO large VALUES (3, repeat('x', 1000000)), (4, repeat(E'\n', 10000)), (5, 'small');
UPDATE large SET t = t || 'x' WHERE id > 4;
UPDATE large SET id = 10 - id WHERE id IN (2, 5);
UPDATE large SET id = id + 10, t = repeat('y', 30000) WHERE id = 1;
DELETE FROM large WHERE id IN (3, 11);
-- with a key that is too large itself, before or after
INSERT INTO large_key VALUES (repeat('x', 30000), 1);
UPDATE large_key SET v = 2;
UPDATE large_key SET k = 'small';
UPDATE large_key SET k = repeat('x', 10000);
UPDATE large_key SET k = repeat('y', 11000);
DELETE FROM large_key;
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
SELECT * FROM shown;
-- they are counted, in transactions that roll back too
BEGIN;
DELETE FROM large WHERE id = 8;
INSERT INTO large SELECT i, repeat('x', 30000) FROM generate_series(20, 30) i;
ROLLBACK;
SELECT truncated > :truncated AS counted, truncated - :truncated = (SELECT sum(truncated) FROM pgpubsub.stat_channels WHERE datname = current_database() AND channel ~ '^large') AS all_of_them FROM truncated;
SELECT channel, truncated FROM pgpubsub.stat_channels WHERE datname = current_database() AND channel ~ '^large' ORDER BY channel COLLATE "C";
SELECT pgpubsub.stat_reset();
SELECT truncated, (SELECT sum(truncated) FROM pgpubsub.stat_channels WHERE datname = current_database()) AS in_channels FROM truncated;
DROP TABLE large, large_key;
-- the least max_payload is less than the least that such an event can have
SET pgpubsub.max_payload = 1024;
SELECT repeat(E'\x01', 63) AS name \gset
CREATE SCHEMA :"name";
CREATE TABLE :"name".:"name" (a int PRIMARY KEY);
SELECT pgpubsub.attach(format('%1$I.%1$I', :'name'), c, format => 'cloudevents', level => c) FROM unnest('{row,statement}'::text[]) c;
INSERT INTO :"name".:"name" SELECT generate_series(1, 2);
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
SELECT channel, octet_length(event) > 1024 AS over, e -> 'truncated' AS truncated, e -> 'key' AS key, e -> 'count' AS count, e -> 'parts' AS parts, e -> 'rows' AS rows
  FROM (SELECT channel, event, event::jsonb -> 'data' AS e FROM pg_temp.received()) AS _;
DROP SCHEMA :"name" CASCADE;

-- what the size of a value tells of its text's: no more than it is
SET pgpubsub.max_payload = 20000;
CREATE TYPE mytext;
CREATE FUNCTION mytext_in(cstring) RETURNS mytext LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION mytext_out(mytext) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE mytext (input = mytext_in, output = mytext_out, storage = extended);
CREATE TABLE bytes (b bytea, v varbit, t mytext, j jsonb, a text[], ba bytea[]);
SELECT pgpubsub.attach('bytes');
INSERT INTO bytes VALUES ('\x00', '1', 'x', '1', '{x}', '{x}'), ('', '', '', '[]', '{}', '{""}');
INSERT INTO bytes VALUES (repeat('x', 2000)::bytea, repeat('10', 1500)::varbit, repeat('x', 3000)::mytext);
INSERT INTO bytes VALUES (repeat('x', 9900)::bytea), (repeat('x', 10000)::bytea);
INSERT INTO bytes (a) VALUES (array_fill(''::text, ARRAY[6400]));
INSERT INTO bytes (a) VALUES (array_fill('abcde'::text, ARRAY[10, 10, 24]));
INSERT INTO bytes (ba) VALUES (array_fill(''::bytea, ARRAY[3200]));
INSERT INTO bytes (j) SELECT jsonb_agg(1) FROM generate_series(1, 6600);
INSERT INTO bytes (j) SELECT jsonb_agg(''::text) FROM generate_series(1, 4900);
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
SELECT octet_length(event) BETWEEN 19000 AND 20000 AS nearly, event::jsonb ->> 'truncated' AS truncated FROM pg_temp.received();
RESET pgpubsub.max_payload;

-- all of max_payload can be used, to the byte
CREATE TABLE sized (id int, v text);
SELECT pgpubsub.attach('sized');
INSERT INTO sized VALUES (1, repeat('é€😀', 200));
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
SELECT octet_length(event) AS length FROM pg_temp.received() \gset
SELECT pg_temp.try_sizes($$INSERT INTO sized VALUES (1, repeat('é€😀', 200))$$, :length);
SELECT * FROM pg_temp.sizes(:length);

RESET client_min_messages;
SELECT pgpubsub.unsubscribe('regress_events');
SET client_min_messages = warning;
DROP SCHEMA ce CASCADE;
