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
INSERT INTO t VALUES (1000, repeat('x', 3000));
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
