--
-- The formats: plain, debezium and cloudevents, and what native listeners get
-- of an event that is too long for them.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgpubsub;
SELECT pgpubsub.subscribe('regress_events', '{*}', on_full => 'block', temporary => true);
CREATE SCHEMA fm;
SET search_path = fm;

\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
\i :include

CREATE TABLE t (id int, "k é" text, v text, PRIMARY KEY (id, "k é"));
CREATE TABLE no_key (v text);
SELECT pgpubsub.attach('t', 'debezium', '{insert,update,delete,truncate}', format => 'debezium');
SELECT pgpubsub.attach('t', 'debezium full', '{update,delete}', format => 'debezium', old_values => 'full');
SELECT pgpubsub.attach('t', 'debezium none', '{update,delete}', format => 'debezium', old_values => 'none', columns => '{v}');
SELECT pgpubsub.attach('t', 'cloud', '{insert,update,delete,truncate}', format => 'cloudevents');
SELECT pgpubsub.attach('t', 'cloud statement', level => 'statement', format => 'cloudevents');
SELECT pgpubsub.attach('no_key', 'no_key d', format => 'debezium');
SELECT pgpubsub.attach('no_key', 'no_key c', format => 'cloudevents');
INSERT INTO t VALUES (1, 'a"b', 'x');
UPDATE t SET v = 'y';
DELETE FROM t;
TRUNCATE t;
INSERT INTO no_key VALUES ('v');
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
SELECT default_version AS version FROM pg_available_extensions WHERE name = 'pgpubsub' \gset
SELECT channel, replace(replace(event, '"' || current_database() || '"', '"#"'), '"version":"' || :'version' || '"', '"version":"#"') AS event FROM pg_temp.events() WHERE channel !~ 'cloud|no_key c';
SELECT pgpubsub.detach('t', c) FROM unnest('{debezium,debezium full,debezium none}'::text[]) c;
INSERT INTO t VALUES (1, 'a"b', 'x');
UPDATE t SET v = 'y';
DELETE FROM t;
TRUNCATE t;
INSERT INTO no_key VALUES ('v');
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
SELECT channel, replace(event, '"source":"/' || current_database() || '/', '"source":"/#/') AS event FROM pg_temp.events() WHERE channel ~ 'cloud|no_key c';

-- the times of an event agree, and the key is the subject
SELECT pgpubsub.attach('t', 'debezium', format => 'debezium');
CREATE TABLE raw (channel text, e jsonb);
INSERT INTO t VALUES (2, 'k', 'x');
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
INSERT INTO raw SELECT channel, event::jsonb FROM pg_temp.received();
SELECT channel,
       e ->> 'time' = e #>> '{data,ts}' AS time,
       e ->> 'id' = e #>> '{data,id}' AS id,
       (e ->> 'subject')::jsonb = e #> '{data,key}' AS subject,
       e -> 'ts_ms' = e #> '{source,ts_ms}' AS ts_ms,
       abs((e ->> 'ts_ms')::numeric - extract(epoch FROM now()) * 1000) < 60000 AS recent,
       e #>> '{source,txId}' = split_part(e ->> 'id', '-', 1) AS txid
  FROM raw ORDER BY channel COLLATE "C";

-- a URI has its own way with names
CREATE SCHEMA "fm sch/é";
CREATE TABLE "fm sch/é"."t%able.x~y" (a int);
SELECT pgpubsub.attach('"fm sch/é"."t%able.x~y"', 'uri', format => 'cloudevents');
INSERT INTO "fm sch/é"."t%able.x~y" VALUES (1);
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
SELECT substr(event::jsonb ->> 'source', length(current_database()) + 2) FROM pg_temp.received();
DROP SCHEMA "fm sch/é" CASCADE;

-- subscribers get long events whole, in every format, also with a long key
CREATE TABLE k (id text PRIMARY KEY);
SELECT pgpubsub.attach('k', 'k ' || f, format => f) FROM unnest('{plain,debezium,cloudevents}'::text[]) f;
INSERT INTO k VALUES (repeat('x', 100000));
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
SELECT channel, strpos(event, repeat('x', 100000)) > 0 AS whole, strpos(event, 'truncated') > 0 AS truncated FROM pg_temp.received();
INSERT INTO t VALUES (3, 'long', repeat('x', 20000));
INSERT INTO t VALUES (4, repeat('k', 2600), repeat('x', 20000));
DO $$BEGIN PERFORM pgpubsub.publish('end', ''); END$$;
SELECT channel, bool_and(strpos(event, repeat('x', 20000)) > 0) AS whole, bool_or(event ~ 'truncated') AS truncated, count(*)
  FROM pg_temp.events() GROUP BY channel ORDER BY channel COLLATE "C";

SELECT pgpubsub.unsubscribe('regress_events');
DROP SCHEMA fm CASCADE;
