--
-- Every value in an event is, to the letter, what row_to_json() makes of it
-- with TimeZone UTC, DateStyle ISO, IntervalStyle postgres, bytea_output hex
-- and extra_float_digits 1, whatever the session has set.
--
-- Walks pg_type: for every type that a table's column can have, a table is
-- made, attached and filled, and the event's "new" compared with the text of
-- row_to_json().  What is left out, and why, is checked at the end.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgpubsub;
SELECT pgpubsub.subscribe('row_to_json', '{row_to_json, end_of_events}', on_full => 'block', temporary => true);

CREATE SCHEMA rtj;
SET search_path = rtj, pg_temp;

-- types of each kind
CREATE TYPE mood AS ENUM ('sad', 'o"k', 'very happy');
CREATE TYPE cast_enum AS ENUM ('x', 'y');
CREATE FUNCTION cast_enum_json(cast_enum) RETURNS json LANGUAGE sql AS
    $$SELECT pg_catalog.json_build_object('cast', $1::text)$$;
CREATE CAST (cast_enum AS json) WITH FUNCTION cast_enum_json(cast_enum);
CREATE TYPE textrange AS RANGE (subtype = text, collation = "C");
CREATE TYPE castrange AS RANGE (subtype = float8);
CREATE FUNCTION castrange_json(castrange) RETURNS json LANGUAGE plpgsql AS
    $$BEGIN RETURN pg_catalog.json_build_array(pg_catalog.lower($1), pg_catalog.upper($1)); END$$;
CREATE CAST (castrange AS json) WITH FUNCTION castrange_json(castrange);
CREATE TYPE pair AS (a int, "B ""c" text, t timestamptz);
CREATE TYPE nested AS (p pair, ps pair[], e cast_enum, n numeric);
CREATE TABLE dropped_column (a int, gone text, b mood);
ALTER TABLE dropped_column DROP COLUMN gone;
CREATE DOMAIN d_int AS int CHECK (VALUE > 0);
CREATE DOMAIN d_d_int AS d_int;
CREATE DOMAIN d_text AS text;
CREATE DOMAIN d_bool AS boolean;
CREATE DOMAIN d_numeric AS numeric(10,2);
CREATE DOMAIN d_timestamptz AS timestamptz;
CREATE DOMAIN d_date AS date;
CREATE DOMAIN d_jsonb AS jsonb;
CREATE DOMAIN d_array AS int[];
CREATE DOMAIN d_array_of_domain AS d_timestamptz[];
CREATE DOMAIN d_pair AS pair;
CREATE DOMAIN d_enum AS mood;
CREATE DOMAIN d_cast_enum AS cast_enum;
CREATE DOMAIN d_range AS tstzrange;
CREATE DOMAIN d_multirange AS nummultirange;
CREATE DOMAIN d_bytea AS bytea;
CREATE DOMAIN d_nested AS nested;

-- literals of well-known types; others get what values() makes of their parts
CREATE TABLE literals (type regtype, literal text);
INSERT INTO literals VALUES
    ('bool', 't'), ('bool', 'f'),
    ('int2', '-32768'), ('int2', '32767'), ('int4', '-2147483648'), ('int4', '0'), ('int4', '42'),
    ('int8', '-9223372036854775808'), ('int8', '9223372036854775807'),
    ('float4', '1.1'), ('float4', 'NaN'), ('float4', '-Infinity'), ('float4', '1e-30'),
    ('float8', '0.1'), ('float8', 'Infinity'), ('float8', 'NaN'), ('float8', '-0'),
    ('float8', '1e300'), ('float8', '12345678901234567'),
    ('numeric', '1.50'), ('numeric', 'NaN'), ('numeric', 'Infinity'), ('numeric', '-Infinity'),
    ('numeric', '-123456789012345678901234567890.000000001'), ('numeric', '0.00'),
    ('money', '-1234.56'), ('oid', '4294967295'), ('xid', '4294967295'), ('cid', '1'),
    ('xid8', '18446744073709551615'), ('tid', '(7,9)'),
    ('text', E'quo"te \\ back / \b\f\n\r\t \x01\x1f\x7f'), ('text', ''), ('text', 'ünïcödé 漢字 😀'),
    ('text', 'null'), ('text', '1'), ('varchar', E'a\tb'), ('varchar', 'YES'), ('varchar', ''), ('bpchar', 'pad  '), ('name', 'a "name"'), ('"char"', 'x'), ('"char"', ''),
    ('bytea', '\x00ff5c22'), ('bytea', ''),
    ('date', '2026-11-21'), ('date', 'infinity'), ('date', '-infinity'), ('date', '0044-03-15 BC'), ('date', '5874897-12-31'),
    ('timestamp', '2026-11-21 03:12:00.123456'), ('timestamp', '-infinity'), ('timestamp', '0044-03-15 12:00:00 BC'), ('timestamp', '2026-01-01'),
    ('timestamptz', '2026-11-21 03:12:00.1+02'), ('timestamptz', 'infinity'), ('timestamptz', '1883-11-18 12:00:00 America/New_York'), ('timestamptz', '2026-07-01 00:00:00 UTC'),
    ('time', '23:59:59.999999'), ('time', '24:00'), ('timetz', '12:00:00+05:30'),
    ('interval', '1 year 2 mons -3 days 04:05:06.789'), ('interval', '0'),
    ('json', E'{"b" : 1,\n "a": [1, "x\\"y"] }'), ('json', 'null'), ('json', ' "x" '),
    ('jsonb', '{"b" : 1, "a": [1, "x\"y", 1.50]}'), ('jsonb', 'null'),
    ('jsonpath', '$.a ? (@ > 1)'), ('xml', '<a b="c">d</a>'), ('uuid', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'),
    ('inet', '10.0.0.1/8'), ('cidr', '::1/128'), ('macaddr', '08:00:2b:01:02:03'), ('macaddr8', '08:00:2b:01:02:03:04:05'),
    ('bit', '1'), ('varbit', '10101'), ('point', '(1.5,-2)'), ('line', '{1,2,3}'), ('lseg', '[(1,2),(3,4)]'),
    ('box', '(3,4),(1,2)'), ('path', '((1,2),(3,4))'), ('path', '[(1,2),(3,4)]'), ('polygon', '((1,2),(3,4),(5,6))'), ('circle', '<(1,2),3>'),
    ('tsvector', '''a'':1A ''b c'':2'), ('tsquery', '''a'' & !''b'''),
    ('pg_lsn', 'FF/FF'), ('pg_snapshot', '10:20:10,14'), ('txid_snapshot', '10:20:10,14'),
    ('regclass', 'pg_class'), ('regclass', '4294967294'), ('regproc', 'pg_catalog.now'), ('regprocedure', 'pg_catalog.abs(int4)'),
    ('regoper', 'pg_catalog.||/'), ('regoperator', 'pg_catalog.+(int4,int4)'), ('regtype', 'int4[]'), ('regtype', 'rtj."pair"'),
    ('regrole', '10'), ('regnamespace', 'pg_catalog'), ('regconfig', 'simple'), ('regdictionary', 'simple'), ('regcollation', '"C"'),
    ('refcursor', 'a cursor'), ('int2vector', '1 2 3'), ('oidvector', '1 2'), ('int2vector', ''),
    ('mood', 'o"k'), ('mood', 'sad'), ('cast_enum', 'x'),
    ('int4range', '[1,5)'), ('int4range', 'empty'), ('int4range', '(,)'), ('int8range', '[1,)'), ('numrange', '(1.50,2]'),
    ('daterange', '[2026-01-01,2026-02-01)'), ('tsrange', '["2026-01-01 00:00:00",)'), ('tstzrange', '(,"2026-01-01 00:00:00+02"]'),
    ('textrange', '["a ""b","c,d")'), ('castrange', '[1.5,2.5)'),
    ('int4multirange', '{[1,2),[5,6)}'), ('int8multirange', '{}'), ('nummultirange', '{(1.5,2)}'), ('datemultirange', '{[2026-01-01,)}'),
    ('tsmultirange', '{["2026-01-01 00:00:00","2026-01-02 00:00:00")}'), ('tstzmultirange', '{(,"2026-01-01 00:00:00+02"]}'), ('textmultirange', '{["a","b c")}'), ('castmultirange', '{[1.5,2.5)}'),
    ('pair', '(1,"x ""y""","2026-11-21 03:12:00+02")'), ('pair', '(,,)'),
    ('nested', '("(1,a,20260101T000000Z)","{""(2,b,)"",NULL}",y,1.0)'),
    ('dropped_column', '(1,sad)');

INSERT INTO literals VALUES ('aclitem', format('%I=r*/%I', current_user, current_user));
-- types that PostgreSQL 19 added
INSERT INTO literals
SELECT t.oid::regtype, new.literal
  FROM (VALUES ('oid8', '18446744073709551615'), ('regdatabase', 'template1')) AS new (name, literal)
  JOIN pg_type AS t ON t.typname = new.name AND t.typnamespace = 'pg_catalog'::regnamespace;

-- some types have no input function; these have values in the catalogs
CREATE TABLE correlated AS SELECT i % 3 AS a, i % 3 AS b FROM generate_series(1, 99) i;
CREATE STATISTICS correlation (ndistinct, dependencies, mcv) ON a, b FROM correlated;
ANALYZE correlated;
CREATE TABLE stored (type regtype, expression text);
INSERT INTO stored VALUES
    ('pg_node_tree', '(SELECT ev_action FROM pg_rewrite ORDER BY oid LIMIT 1)'),
    ('pg_ndistinct', '(SELECT stxdndistinct FROM pg_statistic_ext_data WHERE stxdndistinct IS NOT NULL LIMIT 1)'),
    ('pg_dependencies', '(SELECT stxddependencies FROM pg_statistic_ext_data WHERE stxddependencies IS NOT NULL LIMIT 1)'),
    ('pg_mcv_list', '(SELECT stxdmcv FROM pg_statistic_ext_data WHERE stxdmcv IS NOT NULL LIMIT 1)'),
    ('pg_class', '(SELECT c FROM pg_class c ORDER BY oid LIMIT 1)'),
    ('pg_proc', '(SELECT p FROM pg_proc p WHERE proname = ''json_build_object'' ORDER BY oid LIMIT 1)');

-- SQL expressions for values of a type: literals and stored ones, else made
-- from the values of its base type, elements or columns
CREATE FUNCTION type_values(t regtype) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    form pg_type := (SELECT y FROM pg_type y WHERE y.oid = t);
    vals text[] := (SELECT array_agg(format('%L::%s', literal, type)) FROM literals WHERE type = t)
                   || (SELECT array_agg(expression) FROM stored WHERE type = t);
    part text[];
    val text;
BEGIN
    IF form.typtype = 'd' THEN
        FOREACH val IN ARRAY coalesce(type_values(form.typbasetype), '{}') LOOP
            BEGIN
                EXECUTE format('SELECT %s::%s', val, t);
                vals := vals || format('%s::%s', val, t);
            EXCEPTION WHEN check_violation OR numeric_value_out_of_range THEN
                NULL;           -- not in the domain
            END;
        END LOOP;
    ELSIF form.typcategory = 'A' AND form.typsubscript = 'array_subscript_handler'::regproc AND form.typlen = -1
          AND vals IS NULL THEN
        part := type_values(form.typelem);
        vals := ARRAY[format('%L::%s', '{}', t)];
        IF part IS NOT NULL THEN
            vals := vals || format('ARRAY[%s, NULL]::%s', array_to_string(part, ', '), t)
                         || format('ARRAY[[%1$s, NULL], [NULL, %1$s]]::%2$s', part[1], t)
                         || format('array_fill(%s, ARRAY[2,1,2], ARRAY[-1,0,7])::%s', part[1], t);
        END IF;
    ELSIF form.typtype = 'c' AND vals IS NULL THEN
        vals := ARRAY[format('jsonb_populate_record(NULL::%s, ''{}'')', t)];
    END IF;
    RETURN vals;
END$$;

CREATE TABLE expected (pass int, type text, n int, json text, PRIMARY KEY (pass, type, n));
CREATE FUNCTION expect(statement text) RETURNS void LANGUAGE plpgsql
    SET TimeZone = 'UTC' SET DateStyle = 'ISO, MDY' SET IntervalStyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1
    AS $$BEGIN EXECUTE statement; END$$;
CREATE TABLE failed (type regtype, error text);
CREATE TABLE walked (type regtype, typtype "char", nvalues int);

CREATE PROCEDURE walk(pass int) LANGUAGE plpgsql AS $$
DECLARE
    t record;
    vals text[];
BEGIN
    FOR t IN SELECT oid::regtype AS type, typtype, oid FROM pg_type
             WHERE typnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_(toast|temp)')
             ORDER BY oid
    LOOP
        BEGIN
            EXECUTE format('CREATE TABLE rtj.v_%s (n int, c %s)', t.oid, t.type);
        EXCEPTION WHEN OTHERS THEN
            INSERT INTO failed VALUES (t.type, SQLSTATE);
            CONTINUE;
        END;
        vals := type_values(t.type);
        INSERT INTO walked VALUES (t.type, t.typtype, coalesce(cardinality(vals), 0));
        PERFORM pgpubsub.attach(format('rtj.v_%s', t.oid)::regclass, 'row_to_json', '{insert}');
        EXECUTE format('INSERT INTO rtj.v_%s VALUES (0, NULL)', t.oid);
        FOR i IN 1 .. coalesce(cardinality(vals), 0) LOOP
            EXECUTE format('INSERT INTO rtj.v_%s VALUES (%s, %s)', t.oid, i, vals[i]);
        END LOOP;
        PERFORM rtj.expect(format('INSERT INTO rtj.expected SELECT %s, %L, n, row_to_json(v)::text FROM rtj.v_%s v',
                                  pass, 'v_' || t.oid, t.oid));
        EXECUTE format('DROP TABLE rtj.v_%s', t.oid);
        COMMIT;
    END LOOP;
    PERFORM pgpubsub.publish('end_of_events', '');
END$$;

CREATE TABLE received (pass int, type text, n int, json text);
CREATE PROCEDURE receive(pass int) LANGUAGE plpgsql AS $$
DECLARE
    m record;
BEGIN
    FOR i IN 1 .. 20 LOOP
        FOR m IN SELECT * FROM pgpubsub.poll('row_to_json', 10000, '5s') LOOP
            IF m.lost IS NOT NULL THEN
                RAISE 'lost % events', m.lost;
            ELSIF m.channel = 'end_of_events' THEN
                RETURN;
            END IF;
            INSERT INTO rtj.received
                SELECT pass, e ->> 'table', (e -> 'new' ->> 'n')::int, (e -> 'new')::text
                  FROM (SELECT m.payload::json AS e) AS _;
        END LOOP;
    END LOOP;
    RAISE 'the end did not come';
END$$;

SET TimeZone = 'Europe/Rome';
SET DateStyle = 'SQL, DMY';
SET IntervalStyle = 'iso_8601';
SET bytea_output = 'escape';
SET extra_float_digits = 0;
CALL walk(1);
CALL receive(1);

SET TimeZone = 'America/St_Johns';
SET DateStyle = 'German';
SET IntervalStyle = 'sql_standard';
SET bytea_output = 'hex';
SET extra_float_digits = 3;
CALL walk(2);
CALL receive(2);

SET TimeZone = 'UTC';
SET DateStyle = 'ISO, MDY';
SET IntervalStyle = 'postgres';
SET extra_float_digits = 1;
CALL walk(3);
CALL receive(3);

-- what differs, between passes too, or did not come: nothing
SELECT type, n FROM (SELECT type, n, count(DISTINCT json) FROM received GROUP BY type, n) AS seen
 WHERE count > 1;
SELECT pass, coalesce(e.type, r.type) AS type, n, e.json AS expected, r.json AS received
  FROM expected e FULL JOIN received r USING (pass, type, n)
 WHERE e.json IS DISTINCT FROM r.json;
SELECT count(*) = (SELECT count(*) FROM expected) AS all_came, count(*) > 1000 AS many FROM received;

-- what could not be a column: pseudo-types, and rows that contain one
SELECT DISTINCT f.error FROM failed f;
SELECT f.type FROM failed f JOIN pg_type t ON t.oid = f.type
 WHERE t.typtype <> 'p' AND NOT EXISTS (
       SELECT FROM pg_attribute a JOIN pg_type p ON p.oid = a.atttypid
        WHERE p.typtype = 'p' AND a.attnum > 0
          AND a.attrelid IN (t.typrelid, (SELECT e.typrelid FROM pg_type e WHERE e.oid = t.typelem)))
 GROUP BY f.type ORDER BY f.type::text COLLATE "C";

-- of which only a NULL was seen: types that have no values outside indexes
SELECT type FROM walked WHERE nvalues = 0 GROUP BY type ORDER BY type::text COLLATE "C";
SELECT typtype, bool_or(nvalues > 0) AS has_values FROM walked GROUP BY 1 ORDER BY 1;

RESET ALL;
SELECT pgpubsub.unsubscribe('row_to_json');
SET client_min_messages = warning;
DROP SCHEMA rtj CASCADE;
