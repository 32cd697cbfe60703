--
-- The order of events where other triggers change rows in turn: what caused a
-- change comes before it.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgpubsub;
SELECT pgpubsub.subscribe('regress_events', '{*}', on_full => 'block', temporary => true);
CREATE SCHEMA tor;
SET search_path = tor;

\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
\i :include
\set changes 'DO $$BEGIN PERFORM pgpubsub.publish(\'end\', \'\'); END$$; SELECT event::json ->> \'table\' AS table, event::json ->> \'op\' AS op, event::json -> \'key\' AS key, event::json -> \'new\' AS new, event::json -> \'old\' AS old, event::json -> \'rows\' AS rows FROM pg_temp.received();'

--
-- AFTER triggers that change the row that they were fired for
--
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.v LIKE '%delete%' THEN
        DELETE FROM t WHERE id = NEW.id;
    ELSIF NEW.v NOT LIKE '%!%' THEN
        UPDATE t SET v = v || '!' WHERE id = NEW.id;
    END IF;
    RETURN NULL;
END$$;
SELECT pgpubsub.attach('t');
CREATE TRIGGER a_first AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION change();
INSERT INTO t VALUES (1, 'one');
INSERT INTO t VALUES (2, 'delete');
UPDATE t SET v = 'two' WHERE id = 1;
UPDATE t SET v = 'delete';
INSERT INTO t SELECT g, 'v' || g FROM generate_series(3, 4) AS g;
INSERT INTO t VALUES (3, 'three') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
:changes
-- whatever people begin a name with to have it first
ALTER TRIGGER a_first ON t RENAME TO "00";
INSERT INTO t VALUES (5, 'five');
ALTER TRIGGER "00" ON t RENAME TO "$";
INSERT INTO t VALUES (6, 'six');
ALTER TRIGGER "$" ON t RENAME TO "#";
INSERT INTO t VALUES (7, 'seven');
:changes

-- among statement triggers, too
TRUNCATE t;
DROP TRIGGER "#" ON t;
SELECT pgpubsub.attach('t', level => 'statement');
CREATE FUNCTION change_all() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE t SET v = v || '!' WHERE v NOT LIKE '%!%';
    DELETE FROM t WHERE v LIKE '%delete%';
    RETURN NULL;
END$$;
CREATE TRIGGER a_first AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION change_all();
INSERT INTO t VALUES (1, 'one'), (2, 'delete');
:changes
DROP TABLE t;

--
-- Foreign keys: a cascade comes after the row that caused it
--
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE pet (id int PRIMARY KEY, child int REFERENCES child ON DELETE SET NULL);
SELECT pgpubsub.attach(r, 'family') FROM unnest('{parent,child,pet}'::regclass[]) AS r;
INSERT INTO parent VALUES (1), (2);
INSERT INTO child VALUES (10, 1), (20, 2);
INSERT INTO pet VALUES (100, 10), (200, 20);
:changes
UPDATE parent SET id = 3 WHERE id = 1;
DELETE FROM parent;
:changes

-- partitions get the name that sorts first
CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE leaf PARTITION OF part DEFAULT;
CREATE TABLE of_part (id int PRIMARY KEY, part int REFERENCES part ON DELETE CASCADE);
SELECT pgpubsub.attach('part', 'family'), pgpubsub.attach('of_part', 'family');
INSERT INTO part VALUES (1);
INSERT INTO of_part VALUES (2, 1);
DELETE FROM part;
:changes

--
-- An attachment of another name gets this one when it is attached again
--
CREATE TABLE former (id int PRIMARY KEY);
CREATE TRIGGER pgpubsub_former_row AFTER INSERT OR DELETE OR UPDATE ON former FOR EACH ROW EXECUTE FUNCTION pgpubsub.notify_change('channel=former');
SELECT pgpubsub.attach('former');
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'former'::regclass;

SELECT pgpubsub.unsubscribe('regress_events');
DROP SCHEMA tor CASCADE;
