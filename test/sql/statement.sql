--
-- level => 'statement': one event per statement.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgpubsub;
SELECT pgpubsub.subscribe('regress_events', '{*}', on_full => 'block', temporary => true);
CREATE SCHEMA st;
SET search_path = st;

\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
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
INSERT INTO raw (length, e) SELECT octet_length(event), event::jsonb FROM pg_temp.received();
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
INSERT INTO raw (length, e) SELECT octet_length(event), event::jsonb FROM pg_temp.received();
SELECT count(*) AS rows, bool_and(r #>> '{new,v}' = (r #>> '{old,v}') || '!') AS paired, bool_and(r -> 'changed' = '["v"]') AS changed, max(length) <= 2000 AS small
  FROM raw, jsonb_array_elements(e -> 'rows') AS rows(r);
RESET pgpubsub.max_payload;
DELETE FROM t;
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
SELECT channel, event::jsonb ->> 'count' AS count, event::jsonb ? 'parts' AS parts FROM pg_temp.received();

-- all of max_payload can be used, to the byte: by one row, also in a part of its own
CREATE TABLE sized (id int, v text);
SELECT pgpubsub.attach('sized', level => 'statement');
INSERT INTO sized VALUES (1, repeat('é€😀', 200));
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
SELECT octet_length(event) AS length FROM pg_temp.received() \gset
SELECT pg_temp.try_sizes($$INSERT INTO sized VALUES (1, repeat('é€😀', 200))$$, :length);
SELECT * FROM pg_temp.sizes(:length);
SELECT set_config('pgpubsub.max_payload', (:length + 25)::text, false) > '' AS set;
INSERT INTO sized SELECT i, CASE i WHEN 3 THEN repeat('é€😀', 200) ELSE 'small' END FROM generate_series(1, 4) i;
RESET pgpubsub.max_payload;
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
SELECT event::jsonb -> 'part' AS part, event::jsonb -> 'parts' AS parts, event::jsonb -> 'count' AS count FROM pg_temp.received();

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
-- an UPDATE's rows are in pairs, whatever becomes of their keys and partitions
CREATE TABLE pairs (id int, v text, PRIMARY KEY (id) DEFERRABLE) PARTITION BY RANGE (id);
CREATE TABLE pairs_1 PARTITION OF pairs FOR VALUES FROM (0) TO (10);
CREATE TABLE pairs_2 (v text, gone int, id int NOT NULL);
ALTER TABLE pairs_2 DROP gone;
ALTER TABLE pairs ATTACH PARTITION pairs_2 FOR VALUES FROM (10) TO (20);
INSERT INTO pairs VALUES (1, 'a'), (2, 'b'), (3, 'c'), (11, 'd');
SELECT pgpubsub.attach('pairs', level => 'statement', columns => '{v}', old_values => 'full');
UPDATE pairs SET id = 3 - id WHERE id < 3;
UPDATE pairs SET id = 12 - id WHERE id IN (1, 11);
UPDATE pairs SET id = CASE WHEN id = 3 THEN 10 ELSE id + 1 END WHERE id < 4;
WITH first AS (UPDATE pairs SET id = id + 10 WHERE id = 2 RETURNING id), second AS (UPDATE pairs SET id = id - 10 WHERE id > 10 RETURNING id)
SELECT first.id, second.id FROM first, second;
MERGE INTO pairs USING (VALUES (1, 5), (3, 6), (10, 0), (7, 8)) AS other (id, new_id) ON pairs.id = other.id
 WHEN MATCHED AND new_id = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET id = new_id, v = v || '!' WHEN NOT MATCHED THEN INSERT VALUES (new_id, 'merged');
:events
CREATE TABLE upsert (id int PRIMARY KEY, v text);
INSERT INTO upsert VALUES (1, 'a'), (2, 'b'), (3, 'c');
SELECT pgpubsub.attach('upsert', level => 'statement');
INSERT INTO upsert VALUES (3, '3'), (4, '4'), (1, '1'), (2, '2') ON CONFLICT (id) DO UPDATE SET id = upsert.id * 10, v = excluded.v WHERE upsert.id <> 2;
:events

-- a trigger drops a row that moves: old and new ones differ in number, and stand alone
CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN CASE WHEN NEW.v = 'forget' THEN NULL ELSE NEW END; END$$;
CREATE TRIGGER forget BEFORE INSERT ON part_2 FOR EACH ROW EXECUTE FUNCTION forget();
TRUNCATE part;
INSERT INTO part VALUES (1, 'forget'), (2, 'b'), (3, 'c'), (4, 'd');
SELECT pgpubsub.attach('part', level => 'statement', old_values => 'full');
SELECT pgpubsub.attach('part', 'watching', '{update}', watch => '{v}', old_values => 'none', level => 'statement');
UPDATE part SET id = CASE id WHEN 1 THEN 11 WHEN 2 THEN 12 ELSE id END, v = CASE id WHEN 1 THEN v ELSE v || '!' END;
TRUNCATE part;
INSERT INTO part VALUES (1, 'forget');
UPDATE part SET id = 11;
:events

-- a table without a key
ALTER TABLE part DROP CONSTRAINT part_pkey;
SELECT pgpubsub.detach('part', 'watching');
TRUNCATE part;
INSERT INTO part VALUES (1, 'a'), (2, 'b'), (11, 'c');
UPDATE part SET id = 12 - id WHERE id <> 2;
UPDATE part SET id = 12, v = 'forget' WHERE id = 2;
UPDATE part SET id = id + CASE v WHEN 'a' THEN 1 ELSE 10 END, v = CASE v WHEN 'a' THEN v ELSE 'forget' END;
:events

-- however many rows: on disk beyond work_mem; the value that is written in between says how much memory is in use
CREATE TYPE probe AS ENUM ('look');
CREATE FUNCTION probe_json(probe) RETURNS json LANGUAGE sql AS $$
    SELECT to_json(sum(total_bytes) - current_setting('st.before')::bigint < 2000000) FROM pg_backend_memory_contexts
$$;
CREATE CAST (probe AS json) WITH FUNCTION probe_json(probe);
CREATE TABLE many (id int PRIMARY KEY, v text, p probe) PARTITION BY RANGE (id);
CREATE TABLE many_1 PARTITION OF many FOR VALUES FROM (0) TO (30000);
CREATE TABLE many_2 PARTITION OF many FOR VALUES FROM (30000) TO (60000);
CREATE TRIGGER forget BEFORE INSERT ON many_2 FOR EACH ROW EXECUTE FUNCTION forget();
INSERT INTO many SELECT g * 7919 % 20011, CASE g % 1000 WHEN 0 THEN 'keep' WHEN 500 THEN 'forget' ELSE repeat('v', g % 100) END FROM generate_series(1, 20000) g;
SELECT pgpubsub.attach('many', operations => '{update}', level => 'statement', old_values => 'full');
CREATE TABLE expected (txid xid8 DEFAULT pg_current_xact_id(), old int[], new int[]);
CREATE PROCEDURE move_many(label text) LANGUAGE plpgsql SET work_mem = '64kB' SET pgpubsub.max_payload = '20kB' AS $$
BEGIN
    INSERT INTO expected (old, new)
        SELECT array_agg(id % 30000 ORDER BY tableoid, ctid), array_agg(id % 30000 ORDER BY tableoid, ctid) FILTER (WHERE v <> 'forget' OR v <> label) FROM many;
    PERFORM set_config('st.before', sum(total_bytes)::text, false) FROM pg_backend_memory_contexts;
    UPDATE many SET id = id + CASE v WHEN label THEN 30000 ELSE 0 END,
                    v = v || CASE WHEN v IN ('keep', 'forget') THEN '' ELSE '!' END,
                    p = CASE id WHEN 1 THEN 'look'::probe END;
END$$;
CALL move_many('keep');
CALL move_many('forget');
TRUNCATE raw RESTART IDENTITY;
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
INSERT INTO raw (length, e) SELECT octet_length(event), event::jsonb FROM pg_temp.received();
SELECT count, moved, paired, vs, bounded, s.old = expected.old AS old_in_order, s.new = expected.new AS new_in_order
  FROM expected, LATERAL (
    SELECT min(n) AS n, count(*), count(r -> 'old_key') AS moved, count(r -> 'changed') AS paired,
           bool_and(r #>> '{new,v}' = r #>> '{old,v}' OR r #>> '{new,v}' = (r #>> '{old,v}') || '!') AS vs,
           count(*) FILTER (WHERE r #> '{new,p}' = 'true') AS bounded,
           array_agg((r #> '{old,id}')::int % 30000 ORDER BY n, o) FILTER (WHERE r ? 'old') AS old,
           array_agg((r #> '{new,id}')::int % 30000 ORDER BY n, o) FILTER (WHERE r ? 'new') AS new
      FROM raw, jsonb_array_elements(e -> 'rows') WITH ORDINALITY AS rows(r, o) WHERE e ->> 'txid' = txid::text) AS s ORDER BY n;

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
