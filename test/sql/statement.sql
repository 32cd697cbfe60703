--
-- level => 'statement': one event per statement.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgpubsub;
SELECT pgpubsub.subscribe('regress_events', '{*}', on_full => 'block', temporary => true);
CREATE SCHEMA st;
SET search_path = st;

\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/events.sql'
\i :include

CREATE TABLE t (id int PRIMARY KEY, v text);
SELECT pgpubsub.attach('t', operations => '{insert,update,delete,truncate}', level => 'statement');
INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 3) g;
UPDATE t SET v = 'x' WHERE id < 3;
UPDATE t SET id = id + 10;
UPDATE t SET v = v;
UPDATE t SET v = 'none' WHERE false;
DELETE FROM t WHERE false;
INSERT INTO t SELECT 1, 'x' WHERE false;
DELETE FROM t WHERE id = 11;
INSERT INTO t VALUES (12, 'conflict'), (14, 'new') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
WITH d AS (DELETE FROM t WHERE id = 14 RETURNING *) INSERT INTO t SELECT id + 1, v FROM d;
TRUNCATE t;
:events

-- options
SELECT pgpubsub.attach('t', 'full', old_values => 'full', level => 'statement', columns => '{v}');
SELECT pgpubsub.attach('t', 'none', old_values => 'none', level => 'statement');
SELECT pgpubsub.attach('t', 'watch', '{update}', watch => '{v}', level => 'statement');
SELECT pgpubsub.detach('t', 't');
INSERT INTO t VALUES (1, 'a'), (2, 'b');
UPDATE t SET v = 'b';
UPDATE t SET v = 'b';
DELETE FROM t;
:events
SELECT pgpubsub.detach('t');

-- parts: each at most max_payload bytes, together every row once, in order
SELECT pgpubsub.attach('t', 'parts', level => 'statement');
SET pgpubsub.max_payload = 2000;
INSERT INTO t SELECT g, repeat('p', g % 50) FROM generate_series(1, 500) g;
CREATE TABLE raw (n int GENERATED ALWAYS AS IDENTITY, length int, e jsonb);
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
INSERT INTO raw (length, e) SELECT octet_length(event), event::jsonb FROM received();
SELECT count(*) = max((e ->> 'parts')::int) AS all_parts, count(DISTINCT e ->> 'id') = count(*) AS ids,
       bool_and((e ->> 'part')::int = n) AS numbered, max(length) <= 2000 AS small, min(length) FILTER (WHERE n < (e ->> 'parts')::int) > 1700 AS filled,
       sum((e ->> 'count')::int) AS rows, bool_and((e ->> 'count')::int = jsonb_array_length(e -> 'rows')) AS counts
  FROM raw;
SELECT array_agg((r #>> '{key,id}')::int ORDER BY n, o) = (SELECT array_agg(g) FROM generate_series(1, 500) g) AS in_order,
       bool_and(r #>> '{new,v}' = repeat('p', (r #>> '{key,id}')::int % 50)) AS whole
  FROM raw, jsonb_array_elements(e -> 'rows') WITH ORDINALITY AS rows(r, o);
TRUNCATE raw RESTART IDENTITY;
UPDATE t SET v = v || '!';
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
INSERT INTO raw (length, e) SELECT octet_length(event), event::jsonb FROM received();
SELECT count(*) AS rows, bool_and(r #>> '{new,v}' = (r #>> '{old,v}') || '!') AS paired, bool_and(r -> 'changed' = '["v"]') AS changed, max(length) <= 2000 AS small
  FROM raw, jsonb_array_elements(e -> 'rows') AS rows(r);
RESET pgpubsub.max_payload;
DELETE FROM t;
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
SELECT channel, event::jsonb ->> 'count' AS count, event::jsonb ? 'parts' AS parts FROM received();

-- all of max_payload can be used, to the byte: by one row, also in a part of its own
\set include :inputdir '/sql/include/size.sql'
\i :include
CREATE TABLE sized (id int, v text);
SELECT pgpubsub.attach('sized', level => 'statement');
INSERT INTO sized VALUES (1, repeat('é€😀', 200));
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
SELECT octet_length(event) AS length FROM received() \gset
SELECT try_sizes($$INSERT INTO sized VALUES (1, repeat('é€😀', 200))$$, :length);
SELECT * FROM sizes(:length);
SELECT set_config('pgpubsub.max_payload', (:length + 25)::text, false) > '' AS set;
INSERT INTO sized SELECT i, CASE i WHEN 3 THEN repeat('é€😀', 200) ELSE 'small' END FROM generate_series(1, 4) i;
RESET pgpubsub.max_payload;
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
SELECT event::jsonb -> 'part' AS part, event::jsonb -> 'parts' AS parts, event::jsonb -> 'count' AS count FROM received();

-- a row too large for any event is one by itself, with its key
CREATE TABLE some_large (id int PRIMARY KEY, v text);
SELECT pgpubsub.attach('some_large', level => 'statement');
SET pgpubsub.max_payload = 2000;
INSERT INTO some_large SELECT i, CASE WHEN i IN (1, 4, 5, 9) THEN repeat('x', 3000) ELSE 'v' END FROM generate_series(1, 9) i;
UPDATE some_large SET id = id + 10 WHERE id < 5;
DELETE FROM some_large WHERE id = 5;
RESET pgpubsub.max_payload;
:events

-- partitions: the event is the statement's; a statement on a leaf is none
CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE part_2 (v text, gone int, id int NOT NULL);
ALTER TABLE part_2 DROP gone;
ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM (10) TO (20);
SELECT pgpubsub.attach('part', level => 'statement');
INSERT INTO part VALUES (1, 'one'), (11, 'eleven'), (2, 'two');
UPDATE part SET id = id + 11, v = v || '!' WHERE id < 10;
UPDATE part SET v = 'x' WHERE id = 11;
INSERT INTO part_2 VALUES ('leaf', 15);
:events
-- rows that get lost on the way: old and new differ in number, and pair by key
CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN CASE WHEN NEW.v = 'forget' THEN NULL ELSE NEW END; END$$;
CREATE TRIGGER forget BEFORE INSERT ON part_2 FOR EACH ROW EXECUTE FUNCTION forget();
TRUNCATE part;
INSERT INTO part VALUES (1, 'forget'), (2, 'b'), (3, 'c'), (4, 'd');
SELECT pgpubsub.attach('part', level => 'statement', old_values => 'full');
UPDATE part SET id = CASE id WHEN 1 THEN 11 WHEN 2 THEN 12 ELSE id END, v = CASE id WHEN 1 THEN v ELSE v || '!' END;
:events
ALTER TABLE part DROP CONSTRAINT part_pkey;
TRUNCATE part;
INSERT INTO part VALUES (1, 'forget'), (2, 'b');
UPDATE part SET id = id + CASE id WHEN 1 THEN 10 ELSE 0 END;
:events

-- keys are compared by their bytes, not by what is shown of them; old rows of one key are used in their order
CREATE TABLE keyed (id float8, t text, v text, a int[] DEFAULT '{1}', PRIMARY KEY (id, t, a) DEFERRABLE INITIALLY DEFERRED) PARTITION BY RANGE (id);
CREATE TABLE keyed_1 PARTITION OF keyed FOR VALUES FROM (0) TO (10);
CREATE TABLE keyed_2 PARTITION OF keyed FOR VALUES FROM (10) TO (20);
CREATE TRIGGER forget BEFORE INSERT ON keyed_2 FOR EACH ROW EXECUTE FUNCTION forget();
INSERT INTO keyed VALUES (1, 'k', 'forget', '{1}'), (1, 'k', 'b', '[0:0]={1}'), (2, '', 'c', '{1}'), (3, repeat('long', 10000), 'd', '{1}');
SELECT pgpubsub.attach('keyed', level => 'statement', columns => '{id,v}', old_values => 'full');
UPDATE keyed SET id = CASE v WHEN 'forget' THEN 11 ELSE id END, v = CASE v WHEN 'forget' THEN v ELSE v || '!' END;
BEGIN;
DELETE FROM keyed;
INSERT INTO keyed VALUES (1, 'k', 'a'), (1, 'k', 'b'), (1, 'k', 'forget'), (1, 'other', 'c'), (2, 'k', 'forget'), (1, 'k', 'd');
UPDATE keyed SET id = CASE v WHEN 'forget' THEN 11 ELSE id END, v = CASE v WHEN 'forget' THEN v ELSE v || '!' END;
DELETE FROM keyed;
COMMIT;
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
SELECT n, r #>> '{key,id}' AS id, left(r #>> '{key,t}', 5) AS t, r #>> '{new,v}' AS new, r #>> '{old,v}' AS old
  FROM received() WITH ORDINALITY AS e(channel, event, n), json_array_elements(event::json -> 'rows') WITH ORDINALITY AS rows(r, o)
 WHERE event ~ 'UPDATE' ORDER BY n, o;
-- within work_mem, on disk beyond it: the value that is written in between says how much memory is in use
CREATE TYPE probe AS ENUM ('look');
CREATE FUNCTION probe_json(probe) RETURNS json LANGUAGE sql AS $$
    SELECT to_json(sum(total_bytes) - current_setting('st.before')::bigint < 6000000) FROM pg_backend_memory_contexts
$$;
CREATE CAST (probe AS json) WITH FUNCTION probe_json(probe);
CREATE TABLE many (id int PRIMARY KEY, v text, p probe) PARTITION BY RANGE (id);
CREATE TABLE many_1 PARTITION OF many FOR VALUES FROM (0) TO (30000);
CREATE TABLE many_2 PARTITION OF many FOR VALUES FROM (30000) TO (60000);
CREATE TRIGGER forget BEFORE INSERT ON many_2 FOR EACH ROW EXECUTE FUNCTION forget();
INSERT INTO many SELECT g * 7919 % 20011, CASE WHEN g % 1000 = 0 THEN 'forget' ELSE repeat('v', g % 100) END FROM generate_series(1, 20000) g;
SELECT pgpubsub.attach('many', operations => '{update}', level => 'statement', old_values => 'full');
SET pgpubsub.max_payload = '20kB';
SET work_mem = '64kB';
CREATE TABLE in_order AS SELECT array_agg(id::text ORDER BY v = 'forget', ctid) AS ids FROM many;
SELECT set_config('st.before', sum(total_bytes)::text, false) > '' AS before FROM pg_backend_memory_contexts;
UPDATE many SET id = id + CASE v WHEN 'forget' THEN 30000 ELSE 0 END,
                v = v || CASE v WHEN 'forget' THEN '' ELSE '!' END,
                p = CASE id WHEN 1 THEN 'look'::probe END;
RESET work_mem;
RESET pgpubsub.max_payload;
TRUNCATE raw RESTART IDENTITY;
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
INSERT INTO raw (length, e) SELECT octet_length(event), event::jsonb FROM received();
SELECT count(*), count(r -> 'old') AS old, count(r -> 'changed') AS paired,
       bool_and(r #> '{new,id}' = r #> '{old,id}') AS ids, bool_and(r #>> '{new,v}' = (r #>> '{old,v}') || '!') AS vs,
       count(*) FILTER (WHERE r #> '{new,p}' = 'true') AS bounded,
       array_agg(r #>> '{key,id}' ORDER BY n, o) = (SELECT ids FROM in_order) AS in_order
  FROM raw, jsonb_array_elements(e -> 'rows') WITH ORDINALITY AS rows(r, o);

-- inheritance: the children's rows are the statement's, too
CREATE TABLE parent (id int PRIMARY KEY, v text);
CREATE TABLE child (extra int) INHERITS (parent);
INSERT INTO parent VALUES (1, 'p');
INSERT INTO child VALUES (2, 'c', 3);
SELECT pgpubsub.attach('parent', level => 'statement');
UPDATE parent SET v = v || '!';
:events

SELECT pgpubsub.unsubscribe('regress_events');
DROP SCHEMA st CASCADE;
