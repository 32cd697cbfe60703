--
-- Tables that inherit.  PostgreSQL does not clone triggers to them, but
-- TimescaleDB does for its hypertables: it creates a row trigger of the
-- hypertable again on each chunk.  An event trigger stands in for it here.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgpubsub;
SELECT pgpubsub.subscribe('regress_events', '{*}', on_full => 'block', temporary => true);
CREATE SCHEMA inh;
CREATE SCHEMA chunks;
SET search_path = inh;

\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
\i :include
\set SHOW_CONTEXT never
SET client_min_messages = notice;
\pset format unaligned

-- what pg_trigger has of ours
CREATE VIEW triggers AS
    SELECT tgrelid::regclass AS relation, tgname AS trigger, tgargs
      FROM pg_trigger
     WHERE tgfoid = 'pgpubsub.notify_change()'::regprocedure AND tgrelid::regclass::text ~ 'metrics|parent|child|chunk';

--
-- A hypertable
--
CREATE SCHEMA _timescaledb_functions;
CREATE FUNCTION _timescaledb_functions.insert_blocker() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'blocked'; END$$;
CREATE TABLE metrics (id int PRIMARY KEY, v text);
CREATE TRIGGER ts_insert_blocker BEFORE INSERT ON metrics FOR EACH ROW EXECUTE FUNCTION _timescaledb_functions.insert_blocker();
-- a new chunk gets the triggers that there are, as TimescaleDB gives it them
CREATE FUNCTION add_trigger(chunk regclass, trigger oid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE regexp_replace(pg_get_triggerdef(trigger), ' ON inh\.metrics ', ' ON ' || chunk || ' ');
END$$;
CREATE FUNCTION add_chunk(chunk regclass) RETURNS void LANGUAGE sql AS $$
    SELECT add_trigger(chunk, oid) FROM pg_trigger WHERE tgrelid = 'metrics'::regclass AND tgtype & 1 = 1 AND tgname <> 'ts_insert_blocker' ORDER BY tgname
$$;
SELECT pgpubsub.attach('metrics', operations => '{insert,update,delete,truncate}');
CREATE TABLE chunks.chunk_1 (PRIMARY KEY (id)) INHERITS (metrics);
CREATE TABLE chunk_2 (PRIMARY KEY (id)) INHERITS (metrics);
SELECT add_chunk('chunks.chunk_1'), add_chunk('chunk_2');
INSERT INTO chunks.chunk_1 VALUES (1, 'one');
INSERT INTO chunk_2 VALUES (2, 'two');
UPDATE metrics SET v = v || '!';
DELETE FROM metrics WHERE id = 1;
:events
-- the names are kept, and follow when they change
ALTER TABLE metrics RENAME TO metrics_2;
UPDATE metrics_2 SET v = 'x';
ALTER TABLE metrics_2 RENAME TO metrics;
ALTER TABLE chunk_2 NO INHERIT metrics;
UPDATE chunk_2 SET v = 'alone';
ALTER TABLE chunk_2 INHERIT metrics;
UPDATE chunk_2 SET v = 'again';
:events
SELECT pgpubsub.attach('metrics', 'debezium', '{update}', format => 'debezium'), pgpubsub.attach('metrics', 'cloudevents', '{update}', format => 'cloudevents');
SELECT add_trigger(c, oid) FROM pg_trigger, unnest('{chunks.chunk_1,chunk_2}'::regclass[]) AS c WHERE tgrelid = 'metrics'::regclass AND tgname ~ 'debezium|cloudevents';
UPDATE metrics SET v = 'formats';
:events
-- a trigger made by hand whose channel is the table's name
CREATE TRIGGER by_hand AFTER DELETE ON metrics FOR EACH ROW EXECUTE FUNCTION pgpubsub.notify_change('old_values=key');
SELECT add_trigger('chunk_2', oid) FROM pg_trigger WHERE tgrelid = 'metrics'::regclass AND tgname = 'by_hand';
DELETE FROM metrics;
:events
DROP TRIGGER by_hand ON metrics;
DROP TRIGGER by_hand ON chunk_2;
-- the view has the hypertable's triggers only, unless a chunk's are enabled in another way
SELECT relation, trigger, enabled FROM pgpubsub.attachments WHERE relation::text ~ 'metrics|chunk' ORDER BY 1, 2;
ALTER TABLE chunk_2 DISABLE TRIGGER "!pgpubsub_metrics_row";
SELECT relation, trigger, enabled FROM pgpubsub.attachments WHERE relation::text ~ 'metrics|chunk' ORDER BY 1, 2;
ALTER TABLE chunk_2 ENABLE TRIGGER "!pgpubsub_metrics_row";
-- attached again, the chunks' triggers are replaced with it; detached, they go
SELECT pgpubsub.attach('metrics', columns => '{v}');
SELECT relation, trigger, encode(tgargs, 'escape') AS args FROM triggers ORDER BY 1, 2;
SELECT pgpubsub.attach('metrics', columns => '{v}');
INSERT INTO chunks.chunk_1 VALUES (3, 'three');
:events
SELECT pgpubsub.detach('metrics', 'metrics'), pgpubsub.detach('metrics', 'cloudevents');
SELECT relation, trigger FROM triggers ORDER BY 1, 2;
-- where somebody else does that too, as TimescaleDB
CREATE FUNCTION to_chunks() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE
    c record;
BEGIN
    IF TG_EVENT = 'sql_drop' THEN
        FOR c IN SELECT address_names FROM pg_event_trigger_dropped_objects() WHERE object_identity ~ 'on inh.metrics$' LOOP
            EXECUTE format('DROP TRIGGER IF EXISTS %1$I ON chunks.chunk_1; DROP TRIGGER IF EXISTS %1$I ON chunk_2', c.address_names[3]);
        END LOOP;
    ELSE
        PERFORM add_trigger(chunk, objid)
           FROM pg_event_trigger_ddl_commands(), unnest('{chunks.chunk_1,chunk_2}'::regclass[]) AS chunk
          WHERE object_identity ~ 'on inh.metrics$';
    END IF;
END$$;
SET client_min_messages = warning;
CREATE EVENT TRIGGER inh_end ON ddl_command_end WHEN TAG IN ('CREATE TRIGGER') EXECUTE FUNCTION to_chunks();
CREATE EVENT TRIGGER inh_drop ON sql_drop WHEN TAG IN ('DROP TRIGGER') EXECUTE FUNCTION to_chunks();
SELECT pgpubsub.attach('metrics');
SELECT pgpubsub.attach('metrics', 'another', '{insert}');
SELECT pgpubsub.attach('metrics', operations => '{insert}');
SELECT relation, trigger FROM triggers ORDER BY 1, 2;
SELECT pgpubsub.detach('metrics');
SELECT relation, trigger FROM triggers ORDER BY 1, 2;
DROP EVENT TRIGGER inh_end;
DROP EVENT TRIGGER inh_drop;
SET client_min_messages = notice;
-- level statement is refused, but for truncate
SELECT pgpubsub.attach('metrics', level => 'statement');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.attach('metrics', 'truncate', '{truncate}', level => 'statement');
SELECT pgpubsub.detach('metrics');
DROP TRIGGER ts_insert_blocker ON metrics;
-- later versions of TimescaleDB know a hypertable by their catalog alone
CREATE SCHEMA _timescaledb_catalog CREATE TABLE hypertable (id int, schema_name name, table_name name);
INSERT INTO _timescaledb_catalog.hypertable VALUES (1, 'chunks', 'metrics'), (2, 'inh', 'parent');
SELECT pgpubsub.attach('metrics');
SELECT pgpubsub.detach('metrics');
INSERT INTO _timescaledb_catalog.hypertable VALUES (3, 'inh', 'metrics');
SELECT pgpubsub.attach('metrics');
SELECT pgpubsub.attach('metrics', level => 'statement');
DELETE FROM _timescaledb_catalog.hypertable;
-- nobody is misled by a table of that name that is none of TimescaleDB's
ALTER TABLE _timescaledb_catalog.hypertable ALTER table_name TYPE int USING 1;
SELECT pgpubsub.attach('metrics', 'other', level => 'statement');
DROP TABLE _timescaledb_catalog.hypertable;
DROP FUNCTION _timescaledb_functions.insert_blocker();
DROP SCHEMA _timescaledb_catalog, _timescaledb_functions;

--
-- Plain inheritance
--
CREATE TABLE parent (id int PRIMARY KEY, v text);
CREATE TABLE child (extra int) INHERITS (parent);
CREATE TABLE grandchild () INHERITS (child);
SELECT pgpubsub.attach('parent', 'family');
SELECT pgpubsub.attach('child', 'family');
SELECT pgpubsub.attach('grandchild', 'family');
SELECT pgpubsub.attach('parent', 'family');
INSERT INTO parent VALUES (1, 'p');
INSERT INTO child VALUES (2, 'c');
INSERT INTO grandchild VALUES (3, 'g');
:events
-- with other options, or to another channel, it is attached by itself
SELECT pgpubsub.attach('child', 'family', old_values => 'full'), pgpubsub.attach('grandchild', 'other');
INSERT INTO child VALUES (4, 'c');
INSERT INTO grandchild VALUES (5, 'g');
SELECT relation, trigger, channel FROM pgpubsub.attachments WHERE relation::text ~ 'parent|child' ORDER BY 1, 2;
:events
-- the original's successor goes to where the original was
SELECT pgpubsub.attach('child', 'family');
SELECT pgpubsub.attach('parent', 'family', '{insert}');
SELECT relation, trigger, encode(tgargs, 'escape') AS args FROM triggers WHERE relation::text !~ 'metrics' ORDER BY 1, 2;
-- one of a child alone can be dropped
SELECT pgpubsub.detach('grandchild', 'family');
-- nor do those of others' tables get in the way, when it is replaced or dropped
CREATE ROLE regress_inh;
GRANT ALL ON SCHEMA inh TO regress_inh;
GRANT EXECUTE ON FUNCTION pgpubsub.detach(regclass, text), pgpubsub.attach(regclass, text, text[], name[], name[], text, text, text, text, text, boolean) TO regress_inh;
ALTER TABLE parent OWNER TO regress_inh;
ALTER TRIGGER "!pgpubsub_family_row" ON parent RENAME TO renamed;
ALTER TRIGGER "!pgpubsub_family_row" ON child RENAME TO renamed;
SET ROLE regress_inh;
SELECT pgpubsub.attach('parent', 'family');
SELECT pgpubsub.detach('parent');
RESET ROLE;
SELECT relation, trigger FROM triggers WHERE relation::text !~ 'metrics' ORDER BY 1, 2;
-- level statement has the children's rows, and replaces all
SELECT pgpubsub.detach('child');
SELECT pgpubsub.attach('parent', 'family');
SELECT pgpubsub.attach('child', 'family');
SELECT pgpubsub.attach('parent', 'family', level => 'statement');
SELECT relation, trigger FROM triggers WHERE relation::text !~ 'metrics' ORDER BY 1, 2;

SET client_min_messages = warning;
SELECT pgpubsub.unsubscribe('regress_events');
DROP SCHEMA inh, chunks CASCADE;
REVOKE ALL ON FUNCTION pgpubsub.detach(regclass, text), pgpubsub.attach(regclass, text, text[], name[], name[], text, text, text, text, text, boolean) FROM regress_inh;
DROP ROLE regress_inh;
