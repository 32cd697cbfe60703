--
-- Calls find their function whatever types the arguments have: those that
-- drivers give to parameters, those of columns and variables, and none.
--
\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
\i :include
SELECT pgpubsub.subscribe('regress_settle', '{regress_settle}', 'drop', temporary => true);

-- subscribe, poll, ack and unsubscribe, with a subscription and a number
-- of each type
CREATE FUNCTION pg_temp.try(string_type text, array_type text, number_type text)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    last bigint;
    done boolean;
BEGIN
    EXECUTE format('PREPARE par_subscribe(%s, %s, %s) AS SELECT pgpubsub.subscribe($1, $2, on_full => $3)',
                   string_type, array_type, string_type);
    EXECUTE format('PREPARE par_poll(%s, %s) AS SELECT max(seq) FROM pgpubsub.poll($1, $2, consume => false)',
                   string_type, number_type);
    EXECUTE format('PREPARE par_all(%s, %s, interval, boolean) AS SELECT max(seq) FROM pgpubsub.poll($1, $2, $3, $4)',
                   string_type, number_type);
    EXECUTE format('PREPARE par_named(%s, %s) AS SELECT max(seq) FROM pgpubsub.poll(max_messages => $2, subscription => $1)',
                   string_type, number_type);
    EXECUTE format('PREPARE par_one(%s) AS SELECT max(seq) FROM pgpubsub.poll($1)', string_type);
    EXECUTE format('PREPARE par_ack(%s, %s) AS SELECT pgpubsub.ack($1, $2)',
                   string_type, CASE number_type WHEN 'smallint' THEN 'integer' ELSE number_type END);
    EXECUTE format('PREPARE par_unsubscribe(%s) AS SELECT pgpubsub.unsubscribe($1)', string_type);
    EXECUTE $e$EXECUTE par_subscribe('regress_par', '{par}', 'drop')$e$ INTO done;
    EXECUTE $e$EXECUTE par_poll('regress_par', 10)$e$ INTO last;
    EXECUTE $e$EXECUTE par_all('regress_par', 10, '0', true)$e$ INTO last;
    EXECUTE $e$EXECUTE par_named('regress_par', 10)$e$ INTO last;
    EXECUTE $e$EXECUTE par_one('regress_par')$e$ INTO last;
    EXECUTE $e$EXECUTE par_ack('regress_par', 0)$e$ INTO last;
    EXECUTE $e$EXECUTE par_unsubscribe('regress_par')$e$ INTO done;
    DEALLOCATE par_subscribe; DEALLOCATE par_poll; DEALLOCATE par_all; DEALLOCATE par_named;
    DEALLOCATE par_one; DEALLOCATE par_ack; DEALLOCATE par_unsubscribe;
    RETURN CASE WHEN done THEN 'ok' END;
END $$;
SELECT pg_temp.try(s, a, n), count(*)
  FROM unnest('{unknown,text,varchar,varchar(63),bpchar,name}'::text[]) AS s,
       unnest('{unknown,text[],varchar[],name[]}'::text[]) AS a,
       unnest('{unknown,smallint,integer,bigint}'::text[]) AS n
 WHERE s NOT IN ('varchar(63)', 'bpchar') OR a = 'text[]'
 GROUP BY 1;

-- expressions and columns
SELECT pgpubsub.subscribe('regress_par', '{par}', 'drop');
SELECT count(*) FROM pgpubsub.poll('regress_par', 1::smallint);
SELECT count(*) FROM pgpubsub.poll('regress_par'::varchar, length('ten chars.'));
SELECT count(*) FROM pgpubsub.poll('regress_par'::text, (SELECT count(*) + 1 FROM pg_class));
SELECT count(*) FROM pgpubsub.subscription AS s, pgpubsub.poll(s.name) WHERE s.name = 'regress_par';
SELECT count(*) FROM pgpubsub.stat_subscriptions AS s, pgpubsub.poll(s.subscription, 1000) WHERE s.subscription = 'regress_par';
SELECT pgpubsub.ack(name, 0) FROM pgpubsub.subscription WHERE name = 'regress_par';
CREATE DOMAIN pg_temp.consumer AS varchar(40);
SELECT count(*) FROM pgpubsub.poll('regress_par'::pg_temp.consumer, 5);

-- NULL, typed or not, is an error of ours
SELECT pgpubsub.poll(NULL);
SELECT pgpubsub.poll(NULL::text, NULL::bigint);
SELECT pgpubsub.poll('regress_par', NULL);
SELECT pgpubsub.poll('regress_par', NULL::integer);
SELECT pgpubsub.ack(NULL, NULL);
SELECT pgpubsub.subscribe(NULL, NULL);
SELECT pgpubsub.unsubscribe(NULL);

-- max_messages beyond the range of integer: all there is
SELECT count(pgpubsub.publish('par', i::text)) FROM generate_series(1, 300) AS i;
CALL pg_temp.settle();
SELECT count(*) FROM pgpubsub.poll('regress_par', 2147483648, consume => false);
SELECT count(*) FROM pgpubsub.poll('regress_par', 9223372036854775807, consume => false);
-- it is not cut to its lowest 32 bits
SELECT count(*) FROM pgpubsub.poll('regress_par', 4294967297, consume => false);
SELECT count(*) FROM pgpubsub.poll('regress_par', 1000000000000);
SELECT count(*) FROM pgpubsub.poll('regress_par', -4294967295);
SELECT count(*) FROM pgpubsub.poll('regress_par', 0);

-- names: 1 to 63 bytes of the database's encoding, never cut
SELECT pgpubsub.subscribe(repeat('n', 63), '{par}', 'drop');
SELECT pgpubsub.subscribe(repeat('n', 63), '{par,par2}', 'drop');
SELECT pgpubsub.subscribe(repeat('n', 64), '{par}', 'drop');
SELECT pgpubsub.poll(repeat('n', 64));
SELECT pgpubsub.ack(repeat('n', 64), 0);
SELECT pgpubsub.unsubscribe(repeat('n', 64));
SELECT pgpubsub.unsubscribe(repeat('n', 100000)::varchar);
-- 32 characters, 64 bytes: what is said of it ends with a whole one
SELECT pgpubsub.subscribe(repeat(chr(228), 32), '{par}', 'drop', temporary => true);
SELECT pgpubsub.subscribe(repeat(chr(228), 31), '{par}', 'drop', temporary => true);
SELECT subscription, octet_length(subscription::text) FROM pgpubsub.stat_subscriptions
 WHERE datname = current_database() AND octet_length(subscription::text) > 60 ORDER BY length(subscription);
-- what is stored is the name and nothing behind it, byte for byte
SELECT name, record_image_eq(ROW(name), ROW(name::text::name)) AS same FROM pgpubsub.subscription WHERE name IN ('regress_par', repeat('n', 63)::name) ORDER BY name;
SELECT pgpubsub.unsubscribe(repeat('n', 63)), pgpubsub.unsubscribe(repeat(chr(228), 31));
SELECT pgpubsub.unsubscribe('regress_par');
SELECT pgpubsub.subscribe('', '{par}');
SELECT pgpubsub.unsubscribe('');

-- publish: text, json or jsonb; what has no type is text
SELECT pgpubsub.subscribe('regress_par', '{par}', 'drop');
CREATE PROCEDURE pg_temp.publish(VARIADIC calls text[]) LANGUAGE plpgsql AS $$
DECLARE
    call text;
BEGIN
    FOREACH call IN ARRAY calls LOOP
        EXECUTE 'SELECT pgpubsub.publish(' || call || ')';
    END LOOP;
END $$;
CALL pg_temp.publish(
    $$'par', '{"a": 1,   "a": 2}'$$,
    $$'par', '{"b": 1,   "a": 2}'::json$$,
    $$'par', '{"b": 1,   "a": 2}'::jsonb$$,
    $$'par', to_json(1)$$,
    $$'par', to_jsonb('x'::text)$$,
    $$'par', row_to_json(r)) FROM (VALUES (1, 'one')) AS r (id, name$$,
    $$'par', jsonb_build_object('n', 1.50, 'z', null)$$,
    $$payload => '[1]'::json, channel => 'par'$$,
    $$payload => '[1, 2]'::jsonb, channel => 'par'::varchar$$,
    $$'par'::name, 'name'::name$$,
    $$'par'::varchar, 'varchar'::varchar$$,
    $$'par', 'char'::char(6)$$,
    $$payload => 'named', channel => 'par'$$,
    $$'par', repeat('[', 3)$$);
CALL pg_temp.settle();
SELECT payload FROM pgpubsub.poll('regress_par');
CALL pg_temp.publish($$'par', NULL$$);
CALL pg_temp.settle();
SELECT '<' || payload || '>' AS payload FROM pgpubsub.poll('regress_par');
CALL pg_temp.publish($$'par', NULL::json$$);
CALL pg_temp.settle();
SELECT '<' || payload || '>' AS payload FROM pgpubsub.poll('regress_par');
CALL pg_temp.publish($$'par', NULL::jsonb$$);
CALL pg_temp.settle();
SELECT '<' || payload || '>' AS payload FROM pgpubsub.poll('regress_par');
CREATE DOMAIN pg_temp.document AS jsonb CHECK (jsonb_typeof(VALUE) = 'object');
SELECT pgpubsub.publish('par', '{"of": "a domain"}'::pg_temp.document);
CALL pg_temp.settle();
SELECT payload FROM pgpubsub.poll('regress_par');

-- parameters as drivers declare them, or do not
PREPARE par_publish(unknown, unknown) AS SELECT pgpubsub.publish($1, $2);
PREPARE par_publish_text(text, unknown) AS SELECT pgpubsub.publish($1, $2);
PREPARE par_publish_varchar(varchar, varchar) AS SELECT pgpubsub.publish($1, $2);
PREPARE par_publish_json(varchar, json) AS SELECT pgpubsub.publish($1, $2);
PREPARE par_publish_jsonb(unknown, jsonb) AS SELECT pgpubsub.publish($1, $2);
SELECT name, parameter_types FROM pg_prepared_statements WHERE name LIKE 'par\_%' ORDER BY name;
EXECUTE par_publish('par', '{ no json');
EXECUTE par_publish_text('par', NULL);
EXECUTE par_publish_varchar('par', 'varchar');
EXECUTE par_publish_json('par', '{"x":    1}');
EXECUTE par_publish_jsonb('par', '{"x":    1}');
CALL pg_temp.settle();
SELECT '<' || payload || '>' AS payload FROM pgpubsub.poll('regress_par');

-- a long one, and one that is too long
SELECT pgpubsub.publish('par', jsonb_build_array(repeat('j', 20000)));
CALL pg_temp.settle();
SELECT length(payload), left(payload, 5) FROM pgpubsub.poll('regress_par');
SELECT pgpubsub.publish('par', to_json(repeat('j', 2000000)));
SELECT pgpubsub.publish('par', to_jsonb(repeat('j', 2000000)));
SELECT pgpubsub.publish(NULL, '{}'::json);
SELECT pgpubsub.publish('', '{}'::jsonb);

SELECT pgpubsub.unsubscribe('regress_par');
DEALLOCATE ALL;
