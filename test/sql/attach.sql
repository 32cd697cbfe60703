--
-- attach() and detach(): what they create and drop, and what they refuse.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgpubsub;
CREATE SCHEMA at;
SET search_path = at;

CREATE TABLE t (id int PRIMARY KEY, a text, "B c" int, gone int);
ALTER TABLE t DROP gone;

--
-- What attach() creates
--
SELECT pgpubsub.attach('t');
SELECT pgpubsub.attach('t', 'all options', '{insert,update,delete,truncate}', '{id,"B c"}', '{"B c",a}', NULL, 'full', 'row', 'debezium', 'transactional');
SELECT pgpubsub.attach('t', 'rows', '{update}', condition => 'NEW.a IS DISTINCT FROM OLD.a -- a comment');
SELECT pgpubsub.attach('t', 'statements', '{insert,update,delete,truncate}', level => 'statement');
SELECT pgpubsub.attach('t', 'only truncate', '{truncate}');
SELECT pgpubsub.attach('t', 'no row named', '{insert,truncate}', condition => 'pg_trigger_depth() = 0');
SELECT pgpubsub.attach('t', E'q"uo\'te\\ \t $$ é%_');
\d t
SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 't'::regclass ORDER BY tgname COLLATE "C";
SELECT * FROM pgpubsub.attachments WHERE relation = 't'::regclass ORDER BY trigger COLLATE "C";

-- they work when they are dumped and restored
DO $$
DECLARE
    definitions text[] := (SELECT array_agg(pg_get_triggerdef(oid)) FROM pg_trigger WHERE tgrelid = 't'::regclass);
    before text[] := (SELECT array_agg(a::text ORDER BY trigger) FROM pgpubsub.attachments a WHERE relation = 't'::regclass);
    after text[];
BEGIN
    PERFORM pgpubsub.detach('t');
    FOR i IN 1 .. cardinality(definitions) LOOP
        EXECUTE definitions[i];
    END LOOP;
    after := (SELECT array_agg(a::text ORDER BY trigger) FROM pgpubsub.attachments a WHERE relation = 't'::regclass);
    RAISE WARNING 'same after restore: %, %', before = after, cardinality(after);
END$$;

-- again: replaced; another channel: added; detach by channel, then all
SELECT pgpubsub.detach('t', 'rows'), pgpubsub.detach('t', 'rows'), pgpubsub.detach('t', 'statements'), pgpubsub.detach('t', 'no such channel');
SELECT pgpubsub.attach('t', 't', '{insert}', level => 'statement');
SELECT pgpubsub.attach('t', 't', '{insert,truncate}', columns => '{a}');
ALTER TABLE t DISABLE TRIGGER "!pgpubsub_t_row";
SELECT * FROM pgpubsub.attachments WHERE relation = 't'::regclass AND channel = 't' ORDER BY trigger COLLATE "C";
ALTER TRIGGER "!pgpubsub_t_row" ON t RENAME TO renamed;
CREATE TRIGGER mine AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION suppress_redundant_updates_trigger();
CREATE TRIGGER by_hand AFTER DELETE ON t FOR EACH ROW EXECUTE FUNCTION pgpubsub.notify_change();
CREATE TRIGGER odd AFTER DELETE ON t FOR EACH ROW EXECUTE FUNCTION pgpubsub.notify_change('x', 'columns=a,', 'channel=odd', '=');
SELECT trigger, channel, options FROM pgpubsub.attachments WHERE relation = 't'::regclass ORDER BY trigger COLLATE "C";
-- bytes that are no text are not made one
SELECT pgpubsub.trigger_options('\x613dff00623d6300ff3d6400');
SELECT pgpubsub.detach('t', 't');
SELECT pgpubsub.detach('t');
SELECT tgname FROM pg_trigger WHERE tgrelid = 't'::regclass;
DROP TRIGGER mine ON t;
BEGIN;
SELECT pgpubsub.attach('t');
ROLLBACK;
SELECT count(*) FROM pgpubsub.attachments WHERE relation = 't'::regclass;

-- exactly what stands already: nothing is locked, and nothing changes
CREATE TABLE stands (id int PRIMARY KEY, a text, b text);
CREATE FUNCTION attach_all() RETURNS SETOF text BEGIN ATOMIC
    SELECT pgpubsub.attach('stands');
    SELECT pgpubsub.attach('stands', 'options', '{insert,update,truncate}', '{id,a}', '{a}', NULL, 'full', 'row', 'debezium', 'async');
    SELECT pgpubsub.attach('stands', 'condition', '{update,truncate}', condition => 'pg_trigger_depth() = 0');
    SELECT pgpubsub.attach('stands', 'rows', '{update}', condition => 'NEW.a IS DISTINCT FROM OLD.a AND NEW.b IN (''x'', ''y'') -- or so');
    SELECT pgpubsub.attach('stands', 'statements', '{truncate,delete,update,insert}', level => 'statement');
END;
SELECT attach_all();
ALTER TABLE stands DISABLE TRIGGER "!pgpubsub_stands_row";
ALTER TABLE stands ENABLE ALWAYS TRIGGER "!pgpubsub_statements_insert";
CREATE TABLE stood AS SELECT * FROM pg_trigger WHERE tgrelid = 'stands'::regclass;
BEGIN;
SELECT attach_all();
SELECT pgpubsub.attach('stands', 'rows', '{update}', condition => $$ new.a is distinct from OLD."a" AND (NEW.b IN ('x', 'y'))$$);
SELECT mode FROM pg_locks WHERE relation = 'stands'::regclass AND pid = pg_backend_pid();
COMMIT;
BEGIN READ ONLY;
SELECT attach_all();
SET LOCAL quote_all_identifiers = on;
SELECT attach_all();
COMMIT;
SELECT count(*), bool_and(s = t) AS the_same FROM stood AS s FULL JOIN pg_trigger AS t ON s.oid = t.oid WHERE coalesce(t.tgrelid, s.tgrelid) = 'stands'::regclass;
-- anything else than that is replaced
CREATE FUNCTION replaced(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    before oid[] := (SELECT array_agg(oid ORDER BY oid) FROM pg_trigger WHERE tgrelid = 'stands'::regclass);
BEGIN
    EXECUTE 'SELECT pgpubsub.attach(''stands'', ' || command;
    RETURN (SELECT count(*) || ' new' FROM pg_trigger WHERE tgrelid = 'stands'::regclass AND oid <> ALL (before));
END$$;
SELECT replaced($$'stands', '{insert,update}')$$), replaced($$'stands', '{update,insert}')$$);
SELECT replaced($$'stands', '{insert,update}', columns => '{a}')$$), replaced($$'stands', '{insert,update}', columns => '{a}')$$);
SELECT replaced($$'stands', '{insert,update}', level => 'statement')$$), replaced($$'stands', '{insert,update}', level => 'statement')$$);
SELECT replaced($$'rows', '{update}', condition => 'NEW.a IS DISTINCT FROM OLD.b')$$), replaced($$'rows', '{update}', condition => 'NEW.a IS DISTINCT FROM OLD.b')$$);
SELECT replaced($$'rows', '{update}')$$), replaced($$'rows', '{update}')$$);
SELECT replaced($$'rows', '{update}', condition => 'true')$$), replaced($$'rows', '{update}', condition => 'true')$$);
-- names are looked up anew
CREATE FUNCTION wanted(int) RETURNS boolean IMMUTABLE RETURN true;
CREATE SCHEMA at2;
CREATE FUNCTION at2.wanted(int) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN true;
SELECT replaced($$'rows', '{update}', condition => 'wanted(NEW.id)')$$), replaced($$'rows', '{update}', condition => 'at.wanted(NEW.id)')$$);
SET search_path = at2, at;
SELECT replaced($$'rows', '{update}', condition => 'wanted(NEW.id)')$$);
SET search_path = at;
-- a trigger that was changed by hand is not what attach() makes
CREATE OR REPLACE TRIGGER "!pgpubsub_rows_row" AFTER UPDATE OF a ON stands FOR EACH ROW EXECUTE FUNCTION pgpubsub.notify_change('channel=rows');
SELECT replaced($$'rows', '{update}')$$), replaced($$'rows', '{update}')$$);
CREATE TRIGGER another AFTER UPDATE ON stands FOR EACH ROW EXECUTE FUNCTION pgpubsub.notify_change('channel=rows');
SELECT replaced($$'rows', '{update}')$$), replaced($$'rows', '{update}')$$);
ALTER TRIGGER "!pgpubsub_statements_insert" ON stands RENAME TO renamed;
SELECT replaced($$'statements', '{insert,update,delete,truncate}', level => 'statement')$$);
ALTER TABLE stands DROP a;
SELECT pgpubsub.attach('stands', 'options', '{insert,update,truncate}', '{id,a}', '{a}', NULL, 'full', 'row', 'debezium', 'async');
DROP SCHEMA at2 CASCADE;
DROP TABLE stood;

-- names: clipped at a character's end, and still each its own
SELECT pgpubsub.attach('t', repeat('x', 63), '{insert,truncate}') = repeat('x', 63) AS x,
       pgpubsub.attach('t', repeat('x', 62) || 'y', '{insert,truncate}') LIKE '%xy' AS y,
       pgpubsub.attach('t', repeat('é', 31), '{insert,truncate}') = repeat('é', 31) AS e;
SELECT trigger, octet_length(trigger::text) AS bytes FROM pgpubsub.attachments WHERE relation = 't'::regclass ORDER BY trigger COLLATE "C";
SELECT pgpubsub.detach('t', repeat('é', 31)), pgpubsub.detach('t', repeat('x', 63)), pgpubsub.detach('t');

-- event triggers see ordinary commands
CREATE FUNCTION show_command() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE
    c record;
BEGIN
    IF TG_EVENT = 'sql_drop' THEN
        FOR c IN SELECT * FROM pg_event_trigger_dropped_objects() LOOP
            RAISE WARNING '% % %', TG_TAG, c.object_type, c.object_identity;
        END LOOP;
    ELSE
        FOR c IN SELECT * FROM pg_event_trigger_ddl_commands() LOOP
            RAISE WARNING '% % %', c.command_tag, c.object_type, c.object_identity;
        END LOOP;
    END IF;
END$$;
CREATE EVENT TRIGGER at_end ON ddl_command_end EXECUTE FUNCTION show_command();
CREATE EVENT TRIGGER at_drop ON sql_drop EXECUTE FUNCTION show_command();
SELECT pgpubsub.attach('t', 'c', '{insert}');
SELECT pgpubsub.attach('t', 'c', '{update}');
SELECT pgpubsub.detach('t');
DROP EVENT TRIGGER at_end;
DROP EVENT TRIGGER at_drop;

--
-- Partitions
--
CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE leaf PARTITION OF part DEFAULT;
SELECT pgpubsub.attach('part', 'p', '{insert,truncate}');
SELECT pgpubsub.attach('leaf', 'q', '{insert}');
SELECT relation, trigger FROM pgpubsub.attachments WHERE relation IN ('part'::regclass, 'leaf') ORDER BY 1, 2;
\set SHOW_CONTEXT never
SELECT pgpubsub.attach('leaf', 'p');
SELECT pgpubsub.detach('leaf');
SELECT pgpubsub.detach('leaf');
SELECT pgpubsub.detach('leaf', 'p');
SELECT pgpubsub.attach('part', 'p', '{delete}');
SELECT tgrelid::regclass, tgname, tgtype FROM pg_trigger WHERE tgrelid IN ('part'::regclass, 'leaf'::regclass) ORDER BY 1, 2;
SELECT pgpubsub.detach('part');
SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('part'::regclass, 'leaf'::regclass);
-- a partition that is attached by itself
CREATE TABLE sub PARTITION OF part FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id);
CREATE TABLE sub_leaf PARTITION OF sub DEFAULT;
SELECT pgpubsub.attach('leaf', 'p');
SELECT pgpubsub.attach('part', 'p');
SELECT pgpubsub.detach('at.leaf', 'p');
SELECT pgpubsub.attach('sub', 'p');
SELECT pgpubsub.attach('part', 'p');
SELECT pgpubsub.detach('sub', 'p');
CREATE TRIGGER "by hand" AFTER DELETE ON sub_leaf FOR EACH ROW EXECUTE FUNCTION pgpubsub.notify_change('channel=p''p');
SELECT pgpubsub.attach('part', 'p''p');
SELECT pgpubsub.attach('part', 'p''p', '{truncate}'), pgpubsub.attach('part', 'p');
SELECT pgpubsub.detach('sub_leaf', 'p''p');
SELECT pgpubsub.attach('leaf', 'q'), pgpubsub.attach('part', 'p''p');
SELECT relation, trigger FROM pgpubsub.attachments WHERE relation IN ('part'::regclass, 'leaf', 'sub', 'sub_leaf') ORDER BY 1, 2;
SELECT pgpubsub.detach('part'), pgpubsub.detach('leaf');
DROP TABLE sub;

--
-- What attachments shows of conditions, and of what ALTER TABLE has changed
--
CREATE TABLE "odd) FOR EACH ROW WHEN (true" (id int, ") EXECUTE FUNCTION (" text);
SELECT pgpubsub.attach('"odd) FOR EACH ROW WHEN (true"', 'odd', '{update}',
                       condition => $$NEW.") EXECUTE FUNCTION (" <> E'\\ '') ("' AND (NEW.id > 1 OR OLD.id IN (1, 2))$$);
SELECT options FROM pgpubsub.attachments WHERE channel = 'odd';
DROP TABLE "odd) FOR EACH ROW WHEN (true";
SELECT pgpubsub.attach('part', 'p'), pgpubsub.attach('part', 'q', '{insert}');
ALTER TABLE part ENABLE REPLICA TRIGGER "!pgpubsub_p_row";
ALTER TABLE part ENABLE ALWAYS TRIGGER "!pgpubsub_q_row";
ALTER TABLE leaf DISABLE TRIGGER "!pgpubsub_q_row";
SELECT relation, trigger, options, enabled FROM pgpubsub.attachments WHERE relation IN ('part'::regclass, 'leaf') ORDER BY 1, 2;
SELECT pgpubsub.detach('part');

--
-- What attach() refuses
--
CREATE FUNCTION try(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    EXECUTE 'SELECT pgpubsub.' || command;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN SQLSTATE || ': ' || SQLERRM || coalesce(E'\n  ' || nullif(detail, ''), '') || coalesce(E'\n  ' || nullif(hint, ''), '');
END$$;
CREATE VIEW v AS SELECT 1 AS a;
CREATE MATERIALIZED VIEW mv AS SELECT 1 AS a;
CREATE SEQUENCE s;
CREATE TYPE comp AS (a int);
CREATE FOREIGN DATA WRAPPER dummy;
CREATE SERVER dummy FOREIGN DATA WRAPPER dummy;
CREATE FOREIGN TABLE ft (a int) SERVER dummy;
\pset format unaligned
\pset tuples_only on
-- the relation
SELECT try($$attach(NULL)$$);
SELECT try($$attach(4294967290)$$);
SELECT try($$attach('v')$$);
SELECT try($$attach('mv')$$);
SELECT try($$attach('s')$$);
SELECT try($$attach('t_pkey')$$);
SELECT try($$attach('comp')$$);
SELECT try($$attach('pg_class')$$);
SELECT try($$attach('pg_toast.pg_toast_1255')$$);
SELECT try($$attach('ft')$$);
SELECT try($$attach('ft', level => 'statement')$$);
SELECT try($$detach('ft')$$);
CREATE TABLE with_foreign (a int) PARTITION BY LIST (a);
CREATE FOREIGN TABLE foreign_part PARTITION OF with_foreign FOR VALUES IN (1) SERVER dummy;
SELECT try($$attach('with_foreign', level => 'statement')$$);
SELECT try($$attach('with_foreign', operations => '{truncate}', level => 'statement')$$);
SELECT try($$attach('with_foreign')$$);
CREATE TABLE with_child (a int);
CREATE FOREIGN TABLE foreign_child () INHERITS (with_child) SERVER dummy;
SELECT try($$attach('with_child', level => 'statement')$$);
SET client_min_messages = notice;
SELECT try($$attach('with_child')$$);
SET client_min_messages = warning;
SELECT try($$detach(NULL)$$);
SELECT try($$detach('v')$$);
-- the channel
SELECT try($$attach('t', '')$$);
SELECT try($$attach('t', repeat('x', 64))$$);
SELECT try($$attach('t', repeat('é', 32))$$);
SELECT try($$attach('t', 'pgpubsub')$$);
SELECT try($$attach('t', 'orders_*')$$);
CREATE TABLE pgpubsub (a int);
SELECT try($$attach('at.pgpubsub')$$);
-- the operations
SELECT try($$attach('t', operations => NULL)$$);
SELECT try($$attach('t', operations => '{}')$$);
SELECT try($$attach('t', operations => '{insert,NULL}')$$);
SELECT try($$attach('t', operations => '{insert,upsert}')$$);
SELECT try($$attach('t', operations => '{insert,insert}')$$);
SELECT try($$attach('t', operations => '{{insert},{update}}')$$);
-- the columns
SELECT try($$attach('t', columns => '{}')$$);
SELECT try($$attach('t', columns => '{id,NULL}')$$);
SELECT try($$attach('t', columns => '{id,id}')$$);
SELECT try($$attach('t', columns => '{id,no}')$$);
SELECT try($$attach('t', columns => '{gone}')$$);
SELECT try($$attach('t', columns => '{........pg.dropped.4........}')$$);
SELECT try($$attach('t', columns => '{ctid}')$$);
SELECT try($$attach('t', watch => '{}')$$);
SELECT try($$attach('t', watch => '{xmin}')$$);
SELECT try($$attach('t', watch => '{ID}')$$);
SELECT try($$attach('t', watch => '{id}', operations => '{insert,delete}')$$);
-- the condition
SELECT try($$attach('t', condition => 'NEW.id > 0')$$);
SELECT try($$attach('t', condition => 'OLD.id > 0')$$);
SELECT try($$attach('t', condition => 'OLD.* IS DISTINCT FROM NEW.*')$$);
SELECT try($$attach('t', operations => '{update,truncate}', condition => 'NEW IS NOT NULL')$$);
SELECT try($$attach('t', operations => '{update,truncate}', condition => 'OLD.id > 0')$$);
SELECT try($$attach('t', operations => '{update}', condition => 'NEW.id > 0', level => 'statement')$$);
SELECT try($$attach('t', operations => '{update}', condition => '')$$);
SELECT try($$attach('t', operations => '{update}', condition => '-- nothing')$$);
SELECT try($$attach('t', operations => '{update}', condition => 'true) EXECUTE FUNCTION pg_sleep(')$$);
SELECT try($$attach('t', operations => '{update}', condition => 'true; DROP TABLE t')$$);
SELECT try($$attach('t', operations => '{update}', condition => 'true, true')$$);
SELECT try($$attach('t', operations => '{update}', condition => '*')$$);
SELECT try($$attach('t', operations => '{update}', condition => 'true AS x')$$);
SELECT try($$attach('t', operations => '{update}', condition => 'true FROM t')$$);
SELECT try($$attach('t', operations => '{update}', condition => 'true WHERE true')$$);
SELECT try($$attach('t', operations => '{update}', condition => 'true LIMIT 1')$$);
SELECT try($$attach('t', operations => '{update}', condition => 'DISTINCT true')$$);
SELECT try($$attach('t', operations => '{update}', condition => 'true UNION SELECT false')$$);
SELECT try($$attach('t', operations => '{update}', condition => 'NEW.id')$$);
SELECT try($$attach('t', operations => '{update}', condition => 'NEW.no > 0')$$);
SELECT try($$attach('t', operations => '{update}', condition => 'id > 0')$$);
SELECT try($$attach('t', operations => '{update}', condition => '(SELECT true)')$$);
SELECT try($$attach('t', operations => '{update}', condition => 'count(*) > 0')$$);
-- the rest
SELECT try($$attach('t', old_values => 'some')$$);
SELECT try($$attach('t', old_values => NULL)$$);
SELECT try($$attach('t', level => 'table')$$);
SELECT try($$attach('t', level => NULL)$$);
SELECT try($$attach('t', format => 'xml')$$);
SELECT try($$attach('t', format => NULL)$$);
SELECT try($$attach('t', format => 'debezium', level => 'statement')$$);
SELECT try($$attach('t', publish_mode => 'later')$$);
SELECT count(*) FROM pgpubsub.attachments WHERE relation = 't'::regclass;
\pset format aligned
\pset tuples_only off
-- where the condition is wrong
SELECT pgpubsub.attach('t', operations => '{update}', condition => 'NEW.é > 0 AND NEW.no = 1');
SELECT pgpubsub.attach('t', operations => '{update}', condition => 'NEW.a = ''é'' AND (');
-- in a read-only transaction
BEGIN READ ONLY;
SELECT pgpubsub.attach('t');
ROLLBACK;

--
-- Privileges
--
CREATE ROLE regress_at_owner;
CREATE ROLE regress_at_other;
GRANT EXECUTE ON FUNCTION pgpubsub.attach(regclass, text, text[], name[], name[], text, text, text, text, text, boolean),
    pgpubsub.detach(regclass, text) TO regress_at_owner, regress_at_other;
GRANT ALL ON SCHEMA at TO regress_at_owner, regress_at_other;
CREATE TABLE owned (id int PRIMARY KEY);
ALTER TABLE owned OWNER TO regress_at_owner;
SET ROLE regress_at_other;
SELECT pgpubsub.attach('owned');
SELECT pgpubsub.detach('owned');
RESET ROLE;
GRANT TRIGGER ON owned TO regress_at_other;
SET ROLE regress_at_other;
SELECT pgpubsub.attach('owned');
SELECT pgpubsub.attach('owned');
SELECT pgpubsub.attach('owned', operations => '{insert}');
SELECT pgpubsub.attach('owned', 'second');
SELECT pgpubsub.detach('owned');
SET ROLE regress_at_owner;
SELECT pgpubsub.attach('owned');
SELECT pgpubsub.detach('owned');
-- a writer needs nothing of pgpubsub
SELECT pgpubsub.attach('owned');
GRANT INSERT ON owned TO PUBLIC;
RESET ROLE;
CREATE ROLE regress_at_writer;
GRANT USAGE ON SCHEMA at TO regress_at_writer;
SET ROLE regress_at_writer;
INSERT INTO owned VALUES (1);
SELECT pgpubsub.attach('owned');
RESET ROLE;

DROP SCHEMA at CASCADE;
DROP FOREIGN DATA WRAPPER dummy CASCADE;
REVOKE ALL ON FUNCTION pgpubsub.attach(regclass, text, text[], name[], name[], text, text, text, text, text, boolean),
    pgpubsub.detach(regclass, text) FROM regress_at_owner, regress_at_other;
DROP ROLE regress_at_owner, regress_at_other, regress_at_writer;
