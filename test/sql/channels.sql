--
-- add_channels() and drop_channels(): what they change of a subscription, what
-- they leave alone, and what they refuse.
--
\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
\i :include
-- wait for what was published, and until the relay has read what was written by hand
CREATE PROCEDURE pg_temp.reread()
LANGUAGE plpgsql AS $$
BEGIN
    CALL pg_temp.settle();
    PERFORM pgpubsub.subscribe('regress_settle', '{regress_settle}', 'drop', temporary => true);
END $$;
SELECT pgpubsub.subscribe('regress_settle', '{regress_settle}', 'drop', temporary => true);
CREATE FUNCTION pg_temp.try(command text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE command INTO result;
    RETURN CASE WHEN result ~ '^\d{10,}$' THEN '<seq>' ELSE result END;
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ': ' || SQLERRM;
END $$;
CREATE VIEW pg_temp.channels AS
SELECT s.channels AS in_view, t.channels AS in_table,
       ARRAY(SELECT c.channel || CASE WHEN c.listed THEN ' listed' ELSE '' END || CASE WHEN c.dropped THEN ' dropped' ELSE '' END
               FROM pgpubsub.subscription_channel AS c WHERE c.subscription = t.id ORDER BY channel) AS beside
  FROM pgpubsub.stat_subscriptions AS s
  LEFT JOIN pgpubsub.subscription AS t ON t.name = s.subscription
 WHERE s.datname = current_database() AND s.subscription = 'regress_ch';

-- added, dropped, and named again; the table has what the views show
SELECT pgpubsub.subscribe('regress_ch', '{ch_a,ch_b}', 'drop');
SELECT pg_temp.try($$SELECT pgpubsub.add_channels('regress_ch', '{ch_d,ch_c}')$$);
SELECT * FROM pg_temp.channels;
SELECT pgpubsub.drop_channels('regress_ch', '{ch_a,ch_d,ch_none}');
SELECT * FROM pg_temp.channels;
SELECT pg_temp.try($$SELECT pgpubsub.add_channels('regress_ch', '{ch_a,ch_b,ch_c,ch_c}')$$);
SELECT * FROM pg_temp.channels;
SELECT pgpubsub.drop_channels('regress_ch', '{ch_a,ch_a}');
SELECT pgpubsub.drop_channels('regress_ch', '{ch_a}');
SELECT * FROM pg_temp.channels;

-- subscribe() again: the same names change nothing, others all
SELECT pgpubsub.subscribe('regress_ch', '{ch_c,ch_b}', 'drop');
SELECT * FROM pg_temp.channels;
SELECT pgpubsub.subscribe('regress_ch', '{ch_a,ch_b}', 'drop');
SELECT * FROM pg_temp.channels;

-- positions: what was there stays where it is, what is new begins now
SELECT pgpubsub.subscribe('regress_other', '{ch_c}', 'drop');
SELECT pgpubsub.publish(c, 'before') FROM unnest('{ch_a,ch_c}'::text[]) AS c;
CALL pg_temp.reread();
SELECT pgpubsub.add_channels('regress_ch', '{ch_a,ch_c}') AS since \gset
SELECT pgpubsub.publish(c, 'after') FROM unnest('{ch_a,ch_c}'::text[]) AS c;
CALL pg_temp.reread();
SELECT channel, payload, lost, seq >= :since AS since FROM pgpubsub.poll('regress_ch');
-- the seq is that of the next event
SELECT pgpubsub.add_channels('regress_ch', '{ch_e}') AS since \gset
SELECT pgpubsub.publish('ch_e', 'next');
SELECT channel, payload, seq = :since AS since FROM pgpubsub.poll('regress_ch', 10, '10 s');

-- a channel that went and comes back has no memory
SELECT pgpubsub.publish('ch_a', 'dropped');
CALL pg_temp.reread();
SELECT pgpubsub.drop_channels('regress_ch', '{ch_a}');
SELECT channel, payload, lost FROM pgpubsub.poll('regress_ch');
SELECT pg_temp.try($$SELECT pgpubsub.add_channels('regress_ch', '{ch_a}')$$);
SELECT channel, payload, lost FROM pgpubsub.poll('regress_ch');
SELECT pgpubsub.publish('ch_a', 'back again');
SELECT channel, payload, lost FROM pgpubsub.poll('regress_ch', 10, '10 s');

-- patterns: a pattern is a name like others, and a channel that one matches stays
SELECT pgpubsub.subscribe('regress_ch', '{ch_a}', 'drop');
SELECT pgpubsub.publish('ch_p1', 'before');
CALL pg_temp.reread();
SELECT pg_temp.try($$SELECT pgpubsub.add_channels('regress_ch', '{ch_p*,ch_x}')$$);
SELECT pgpubsub.publish(c, 'after') FROM unnest('{ch_a,ch_p1,ch_p2,ch_x}'::text[]) AS c;
CALL pg_temp.reread();
SELECT channel, payload, lost FROM pgpubsub.poll('regress_ch') ORDER BY channel;
SELECT pgpubsub.publish('ch_p1', 'kept');
CALL pg_temp.reread();
SELECT pg_temp.try($$SELECT pgpubsub.add_channels('regress_ch', '{ch_p1}')$$);
SELECT pgpubsub.drop_channels('regress_ch', '{ch_p1,ch_p2}');
SELECT * FROM pg_temp.channels;
SELECT channel, payload, lost FROM pgpubsub.poll('regress_ch');
SELECT pgpubsub.publish('ch_p2', 'dropped');
CALL pg_temp.reread();
SELECT pgpubsub.drop_channels('regress_ch', '{ch_p*}');
SELECT * FROM pg_temp.channels;
SELECT pgpubsub.publish(c, 'last') FROM unnest('{ch_a,ch_p1,ch_p2,ch_p3}'::text[]) AS c;
CALL pg_temp.reread();
SELECT channel, payload, lost FROM pgpubsub.poll('regress_ch');

-- the last channel may go, and others come
SELECT pgpubsub.drop_channels('regress_ch', '{ch_a,ch_x}');
SELECT * FROM pg_temp.channels;
SELECT channel, payload, lost FROM pgpubsub.poll('regress_ch');
SELECT pg_temp.try($$SELECT pgpubsub.add_channels('regress_ch', '{ch_z}')$$);
SELECT pgpubsub.publish('ch_z', 'again');
SELECT channel, payload, lost FROM pgpubsub.poll('regress_ch', 10, '10 s');

-- in one transaction: what it has added it reads; a rollback takes all back
SELECT pgpubsub.subscribe('regress_ch', '{ch_a,ch_b}', 'drop');
BEGIN;
SELECT pg_temp.try($$SELECT pgpubsub.add_channels('regress_ch', '{ch_c,ch_q*}')$$);
SAVEPOINT s;
SELECT pgpubsub.drop_channels('regress_ch', '{ch_a,ch_c}');
SELECT pg_temp.try($$SELECT pgpubsub.add_channels('regress_ch', '{ch_d}')$$);
SELECT in_view FROM pg_temp.channels;
ROLLBACK TO s;
SELECT in_view FROM pg_temp.channels;
SAVEPOINT t;
SELECT pgpubsub.drop_channels('regress_ch', '{ch_c}');
RELEASE t;
SELECT pgpubsub.drop_channels('regress_ch', '{ch_q*}');
SELECT pg_temp.try($$SELECT pgpubsub.add_channels('regress_ch', '{ch_a,ch_e}')$$);
SELECT in_view FROM pg_temp.channels;
ROLLBACK;
SELECT * FROM pg_temp.channels;
BEGIN;
SELECT pg_temp.try($$SELECT pgpubsub.add_channels('regress_ch', '{ch_c,ch_d}')$$);
SELECT pgpubsub.drop_channels('regress_ch', '{ch_d,ch_a}');
SELECT pgpubsub.subscribe('regress_ch', '{ch_a,ch_c,ch_f}', 'drop');
SELECT pgpubsub.drop_channels('regress_ch', '{ch_a}');
COMMIT;
SELECT * FROM pg_temp.channels;
BEGIN;
SELECT pgpubsub.publish('ch_c', 'consumed');
COMMIT;
CALL pg_temp.reread();
BEGIN;
SELECT channel, payload FROM pgpubsub.poll('regress_ch');
SELECT pgpubsub.drop_channels('regress_ch', '{ch_c}');
ROLLBACK;
SELECT channel, payload FROM pgpubsub.poll('regress_ch');

-- with what creates and drops the subscription
BEGIN;
SELECT pgpubsub.unsubscribe('regress_ch');
SELECT pg_temp.try($$SELECT pgpubsub.add_channels('regress_ch', '{ch_a}')$$);
SELECT pg_temp.try($$SELECT pgpubsub.drop_channels('regress_ch', '{ch_a}')$$);
SELECT pgpubsub.subscribe('regress_ch', '{ch_g}', 'drop');
SELECT pg_temp.try($$SELECT pgpubsub.add_channels('regress_ch', '{ch_a}')$$);
SELECT pgpubsub.drop_channels('regress_ch', '{ch_g}');
COMMIT;
SELECT * FROM pg_temp.channels;
SELECT pgpubsub.unsubscribe('regress_ch');
SELECT count(*) FROM pgpubsub.subscription_channel;

-- a temporary one is in no table
SELECT pgpubsub.subscribe('regress_ch', '{ch_a}', 'drop', temporary => true);
SELECT pg_temp.try($$SELECT pgpubsub.add_channels('regress_ch', '{ch_b}')$$);
SELECT pgpubsub.drop_channels('regress_ch', '{ch_a}');
SELECT * FROM pg_temp.channels;
SELECT pgpubsub.publish(c, 'temporary') FROM unnest('{ch_a,ch_b}'::text[]) AS c;
CALL pg_temp.reread();
SELECT channel, payload, lost FROM pgpubsub.poll('regress_ch');
SELECT count(*) FROM pgpubsub.subscription_channel;
SELECT pgpubsub.unsubscribe('regress_ch');

-- rows that are written by hand, and those that are left of a subscription
SELECT pgpubsub.subscribe('regress_ch', '{ch_a,ch_b}', 'drop');
SELECT id FROM pgpubsub.subscription WHERE name = 'regress_ch' \gset
INSERT INTO pgpubsub.subscription_channel (subscription, channel, since, version) VALUES (:id, 'ch_h', 1, 1);
INSERT INTO pgpubsub.subscription_channel (subscription, channel, listed, dropped) VALUES (:id, 'ch_a', true, true);
CALL pg_temp.reread();
SELECT channel, since, version FROM pgpubsub.subscription_channel ORDER BY 1;
SELECT in_view FROM pg_temp.channels;
SELECT pgpubsub.drop_channels('regress_ch', '{ch_h}');
SELECT * FROM pg_temp.channels;
DELETE FROM pgpubsub.subscription_channel;
CALL pg_temp.reread();
SELECT in_view FROM pg_temp.channels;
SELECT pg_temp.try($$SELECT pgpubsub.add_channels('regress_ch', '{ch_h}')$$);
DELETE FROM pgpubsub.subscription WHERE name = 'regress_ch';
SELECT count(*) FROM pgpubsub.subscription_channel;

-- what is refused
\pset format unaligned
\pset tuples_only on
CREATE ROLE regress_ch_other;
GRANT USAGE ON SCHEMA pgpubsub TO regress_ch_other;
SELECT pgpubsub.subscribe('regress_ch', '{ch_a}', 'block');
CREATE TEMP TABLE bad AS SELECT * FROM (VALUES
    (1, $$NULL, '{ch_b}'$$), (2, $$'regress_ch', NULL$$), (3, $$'regress_ch', '{NULL}'$$),
    (4, $$'', '{ch_b}'$$), (5, $$repeat('s', 64), '{ch_b}'$$), (6, $$'regress_none', '{ch_b}'$$),
    (7, $$'regress_ch', '{}'$$), (8, $$'regress_ch', '{{a,b},{c,d}}'$$), (9, $$'regress_ch', '{""}'$$),
    (10, $$'regress_ch', ARRAY[repeat('c', 64)]$$), (11, $$'regress_ch', '{ch_b,pgpubsub}'$$)) AS b(n, arguments);
SELECT n, f, pg_temp.try(format('SELECT pgpubsub.%I(%s)', f, arguments))
  FROM bad, unnest('{add_channels,drop_channels}'::text[]) AS f ORDER BY n, f;
SELECT pg_temp.try($$SELECT pgpubsub.add_channels('regress_ch', (SELECT array_agg('ch_' || i) FROM generate_series(1, current_setting('pgpubsub.max_channels')::int) AS i))$$);
SELECT in_view FROM pg_temp.channels;
GRANT EXECUTE ON FUNCTION pgpubsub.add_channels(text, text[]), pgpubsub.drop_channels(text, text[]) TO regress_ch_other;
SET ROLE regress_ch_other;
SELECT pg_temp.try($$SELECT pgpubsub.add_channels('regress_ch', '{ch_b}')$$);
SELECT pg_temp.try($$SELECT pgpubsub.drop_channels('regress_ch', '{ch_a}')$$);
RESET ROLE;
UPDATE pgpubsub.subscription SET owner = 'regress_ch_other' WHERE name = 'regress_ch';
CALL pg_temp.reread();
SET ROLE regress_ch_other;
SELECT pg_temp.try($$SELECT pgpubsub.add_channels('regress_ch', '{ch_b}')$$);
SELECT pg_temp.try($$SELECT pgpubsub.drop_channels('regress_ch', '{ch_a}')$$);
RESET ROLE;
BEGIN READ ONLY;
SELECT pg_temp.try($$SELECT pgpubsub.add_channels('regress_ch', '{ch_b}')$$);
SELECT pg_temp.try($$SELECT pgpubsub.drop_channels('regress_ch', '{ch_a}')$$);
ROLLBACK;
SELECT in_view FROM pg_temp.channels;
SELECT pgpubsub.unsubscribe(s) FROM unnest('{regress_ch,regress_other,regress_settle}'::text[]) AS s;
REVOKE ALL ON FUNCTION pgpubsub.add_channels(text, text[]), pgpubsub.drop_channels(text, text[]) FROM regress_ch_other;
REVOKE ALL ON SCHEMA pgpubsub FROM regress_ch_other;
DROP ROLE regress_ch_other;
