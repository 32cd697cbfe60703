--
-- An error that a value's output raises says which trigger, table and column
-- it was; no other error does.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgpubsub;
CREATE SCHEMA ec;
SET search_path = ec;

-- a type that cannot be shown
CREATE TYPE unshown;
CREATE FUNCTION unshown_in(cstring) RETURNS unshown LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION unshown_out(unshown) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'internal_out';
CREATE TYPE unshown (input = unshown_in, output = unshown_out);
CREATE TABLE row_level (id int PRIMARY KEY, "my ""col" unshown);
CREATE TRIGGER t_cloudevents AFTER INSERT ON row_level FOR EACH ROW EXECUTE FUNCTION pgpubsub.notify_change('format=cloudevents');
INSERT INTO row_level VALUES (1, 'x');
DROP TRIGGER t_cloudevents ON row_level;
CREATE TRIGGER t_debezium AFTER INSERT ON row_level FOR EACH ROW EXECUTE FUNCTION pgpubsub.notify_change('format=debezium');
INSERT INTO row_level VALUES (1, 'x');
DROP TRIGGER t_debezium ON row_level;
INSERT INTO row_level VALUES (1, 'x');
CREATE TRIGGER t_plain AFTER INSERT OR UPDATE OR DELETE ON row_level FOR EACH ROW EXECUTE FUNCTION pgpubsub.notify_change();
UPDATE row_level SET id = 2;
DELETE FROM row_level;
BEGIN;
SET LOCAL pgpubsub.publish_mode = async;
DELETE FROM row_level;
ROLLBACK;

-- level statement; a partition; a key
CREATE TABLE statement_level (id int, a text, u unshown[]);
CREATE TRIGGER t_statement AFTER INSERT ON statement_level REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION pgpubsub.notify_change();
INSERT INTO statement_level SELECT i, 'a', CASE i WHEN 3 THEN '{x}'::unshown[] END FROM generate_series(1, 5) AS i;
CREATE TABLE part (id int, u unshown) PARTITION BY LIST (id);
CREATE TABLE part_1 PARTITION OF part DEFAULT;
CREATE TRIGGER t_part AFTER INSERT ON part FOR EACH ROW EXECUTE FUNCTION pgpubsub.notify_change();
INSERT INTO part VALUES (1, 'x');
CREATE TYPE wrapped AS ENUM ('a');
CREATE FUNCTION wrapped_json(wrapped) RETURNS json LANGUAGE plpgsql AS $$BEGIN RAISE 'no json today'; END$$;
CREATE CAST (wrapped AS json) WITH FUNCTION wrapped_json(wrapped);
CREATE TABLE keyed (w wrapped PRIMARY KEY, v int);
CREATE TRIGGER t_keyed AFTER INSERT ON keyed FOR EACH ROW EXECUTE FUNCTION pgpubsub.notify_change('columns=v');
INSERT INTO keyed VALUES ('a', 1);

-- a role that may write to the table, but not look at what its type needs
CREATE ROLE regress_ec_writer;
CREATE SCHEMA ec_hidden;
CREATE TABLE ec_hidden.systems (id int, name text);
CREATE FUNCTION wrapped_name(wrapped) RETURNS json LANGUAGE sql AS $$SELECT to_json(name) FROM ec_hidden.systems$$;
DROP CAST (wrapped AS json);
CREATE CAST (wrapped AS json) WITH FUNCTION wrapped_name(wrapped);
GRANT USAGE ON SCHEMA ec TO regress_ec_writer;
GRANT INSERT ON keyed TO regress_ec_writer;
SET ROLE regress_ec_writer;
DO $$
DECLARE
    context text;
BEGIN
    INSERT INTO ec.keyed VALUES ('a', 1);
EXCEPTION WHEN insufficient_privilege THEN
    GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
    RAISE INFO E'%\n%', SQLERRM, substring(context FROM '\mchange event[^\n]*');
END$$;

-- of an event that a value's function makes in turn, both
RESET ROLE;
CREATE OR REPLACE FUNCTION wrapped_json(wrapped) RETURNS json LANGUAGE plpgsql AS $$BEGIN
    BEGIN
        INSERT INTO ec.row_level VALUES (3, 'x');
    EXCEPTION WHEN feature_not_supported THEN
    END;
    INSERT INTO ec.statement_level VALUES (3, 'a', '{x}');
END$$;
DROP CAST (wrapped AS json);
CREATE CAST (wrapped AS json) WITH FUNCTION wrapped_json(wrapped);
INSERT INTO keyed VALUES ('a', 1);

-- an error that is none of a value's
CREATE TRIGGER bad AFTER INSERT ON statement_level FOR EACH ROW EXECUTE FUNCTION pgpubsub.notify_change('color=red');
INSERT INTO statement_level VALUES (1, 'a', NULL);

SET client_min_messages = warning;
DROP SCHEMA ec, ec_hidden CASCADE;
DROP ROLE regress_ec_writer;
