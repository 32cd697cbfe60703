--
-- publish(): what comes through, and what PostgreSQL's own NOTIFY gets.
--
\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
\i :include
SELECT pgpubsub.subscribe('regress_settle', '{regress_settle}', 'drop', temporary => true);

SELECT pgpubsub.subscribe('regress_publish', '{pub_a,pub_b}', 'drop');

-- what a message looks like
SELECT clock_timestamp() AS before \gset
SELECT pgpubsub.publish('pub_a', 'hello');
SELECT channel, payload, lost,
       seq > 0 AS seq_positive,
       pid = pg_backend_pid() AS pid_is_publisher,
       relayed_at BETWEEN :'before' AND clock_timestamp() AS relayed_between
  FROM pgpubsub.poll('regress_publish', 10, '10 s');

-- one transaction's events come in their order, over channels
BEGIN;
SELECT pgpubsub.publish('pub_b', '1');
SELECT pgpubsub.publish('pub_a', '2');
SELECT pgpubsub.publish('pub_b', '3');
-- nothing before the commit
SELECT count(*) FROM pgpubsub.poll('regress_publish');
COMMIT;
CALL pg_temp.settle();
SELECT channel, payload, lost,
       seq > lag(seq) OVER (ORDER BY n) AS seq_increases,
       relayed_at >= lag(relayed_at) OVER (ORDER BY n) AS time_increases
  FROM (SELECT *, row_number() OVER () AS n
          FROM pgpubsub.poll('regress_publish')) AS p
 ORDER BY n;

-- a plain NOTIFY is an event too, and SQL functions make no difference
NOTIFY pub_a, 'by command';
SELECT pg_notify('pub_b', 'by function');
NOTIFY pub_a;
CALL pg_temp.settle();
SELECT channel, payload FROM pgpubsub.poll('regress_publish');

-- identical events of one transaction are one, those of two are two
BEGIN;
SELECT pgpubsub.publish('pub_a', 'same'), pgpubsub.publish('pub_a', 'same'),
       pgpubsub.publish('pub_b', 'same'), pgpubsub.publish('pub_a', 'Same');
COMMIT;
SELECT pgpubsub.publish('pub_a', 'same');
CALL pg_temp.settle();
SELECT channel, payload FROM pgpubsub.poll('regress_publish');

-- what was rolled back is no event: a transaction, a savepoint, a block
BEGIN;
SELECT pgpubsub.publish('pub_a', 'rolled back');
ROLLBACK;
BEGIN;
SELECT pgpubsub.publish('pub_a', 'kept 1');
SAVEPOINT s;
SELECT pgpubsub.publish('pub_a', 'rolled back to savepoint');
ROLLBACK TO s;
SELECT pgpubsub.publish('pub_a', 'kept 2');
SAVEPOINT t;
SELECT pgpubsub.publish('pub_a', 'kept 3');
RELEASE t;
COMMIT;
DO $$
BEGIN
    PERFORM pgpubsub.publish('pub_a', 'kept 4');
    BEGIN
        PERFORM pgpubsub.publish('pub_a', 'in a failed block');
        RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
        PERFORM pgpubsub.publish('pub_a', 'kept 5');
    END;
END $$;
CALL pg_temp.settle();
SELECT channel, payload FROM pgpubsub.poll('regress_publish');

-- NULL stands for the empty text
SELECT pgpubsub.publish('pub_a', NULL);
SELECT pgpubsub.publish('pub_a', '');
CALL pg_temp.settle();
SELECT channel, payload = '' AS empty FROM pgpubsub.poll('regress_publish');

-- a payload comes back to the letter
CREATE TEMP TABLE sent (n serial, payload text);
INSERT INTO sent (payload) VALUES
    (E'line one\nline two\r\n\ttab'), ('quote '' " \ $$ % _ *'),
    (E'\u00e4\u20ac\U0001F600'), (E'\x01\x7f'), (' spaces '),
    ('{"json": [1, null]}'),
    -- around the longest native payload
    (repeat('x', 7998)), (repeat('x', 7999)), (repeat('x', 8000)),
    (repeat('x', 8001)),
    -- frames end at character boundaries, wherever those are
    (repeat(E'\u20ac', 2666)), (repeat(E'\u20ac', 2667)),
    ('x' || repeat(E'\u20ac', 9000)), ('xx' || repeat(E'\U0001F600', 9000)),
    (repeat(E'a\u00e4\u20ac\U0001F600', 5000)),
    (repeat('y', 65000));
CREATE TEMP TABLE received (n serial, channel text, payload text, pid integer, lost bigint);
DO $$
DECLARE
    text_sent text;
BEGIN
    FOR text_sent IN SELECT payload FROM sent ORDER BY n LOOP
        PERFORM pgpubsub.publish('pub_a', text_sent);
        COMMIT;
        INSERT INTO received (channel, payload, pid, lost)
        SELECT channel, payload, pid, lost
          FROM pgpubsub.poll('regress_publish', 10, '10 s');
        COMMIT;
    END LOOP;
END $$;
SELECT s.n, octet_length(s.payload) AS bytes, r.channel,
       r.payload = s.payload AS same, r.pid = pg_backend_pid() AS pid_is_publisher,
       r.lost
  FROM sent AS s
  FULL JOIN received AS r ON r.n = s.n
 ORDER BY s.n;
-- the longest one: pgpubsub.max_payload, or a quarter of either queue
SELECT least(pg_size_bytes(current_setting('pgpubsub.max_payload')),
             pg_size_bytes(current_setting('pgpubsub.queue_size')) / 4,
             pg_size_bytes(current_setting('pgpubsub.staging_size')) / 4) AS longest \gset
SELECT pgpubsub.publish('pub_a', repeat('z', :longest));
SELECT length(payload) = :longest AS longest FROM pgpubsub.poll('regress_publish', 10, '10 s');
\set VERBOSITY sqlstate
SELECT pgpubsub.publish('pub_a', repeat('z', :longest + 1));
\set VERBOSITY default

-- identical oversize events fold like others
BEGIN;
SELECT pgpubsub.publish('pub_a', repeat('z', 20000)),
       pgpubsub.publish('pub_a', repeat('z', 20000)),
       pgpubsub.publish('pub_a', repeat('z', 20000) || '!'),
       pgpubsub.publish('pub_b', repeat('z', 20000));
COMMIT;
CALL pg_temp.settle();
SELECT channel, length(payload), right(payload, 1)
  FROM pgpubsub.poll('regress_publish');

-- oversize events that are rolled back, between others that are not
BEGIN;
SELECT pgpubsub.publish('pub_a', 'first');
SAVEPOINT s;
SELECT pgpubsub.publish('pub_a', repeat('r', 20000));
ROLLBACK TO s;
SELECT pgpubsub.publish('pub_a', repeat('s', 20000));
SELECT pgpubsub.publish('pub_a', 'last');
COMMIT;
CALL pg_temp.settle();
SELECT channel, left(payload, 5), length(payload)
  FROM pgpubsub.poll('regress_publish');

-- pgpubsub.max_payload bounds it, in bytes
SET pgpubsub.max_payload = 1024;
SELECT pgpubsub.publish('pub_a', repeat('m', 1024));
SELECT pgpubsub.publish('pub_a', repeat('m', 1025));
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.publish('pub_a', repeat(E'\u00e4', 513));
\echo :LAST_ERROR_SQLSTATE
RESET pgpubsub.max_payload;
CALL pg_temp.settle();
SELECT channel, length(payload) FROM pgpubsub.poll('regress_publish');

-- channel names: 63 bytes, any characters, upper and lower case, no folding
SELECT pgpubsub.subscribe('regress_publish',
    ARRAY[repeat('n', 63), repeat(E'\u00e4', 31), 'Pub A', 'pub a', 'q"''\,{}', ' ', '%', 'PUB_A', '"pgpubsub"', 'Pgpubsub'],
    'drop');
BEGIN;
SELECT pgpubsub.publish(c, 'to ' || c)
  FROM unnest(ARRAY[repeat('n', 63), repeat(E'\u00e4', 31), 'Pub A', 'pub a', 'q"''\,{}', ' ', '%', 'PUB_A', '"pgpubsub"', 'Pgpubsub',
              'pub_a', repeat('n', 62), 'PUB A', '  ']) AS c;
COMMIT;
CALL pg_temp.settle();
SELECT channel, payload = 'to ' || channel AS right_payload
  FROM pgpubsub.poll('regress_publish');

-- publish() is not a trigger: muted says nothing about it
SET pgpubsub.muted = on;
SELECT pgpubsub.publish('pub a', 'not muted');
RESET pgpubsub.muted;
SELECT channel, payload FROM pgpubsub.poll('regress_publish', 10, '10 s');

-- nobody reads the channel: nothing is queued
SELECT pgpubsub.publish('pub_nobody', 'gone');
CALL pg_temp.settle();
SELECT published, messages, subscriptions
  FROM pgpubsub.stat_channels
 WHERE datname = current_database() AND channel = 'pub_nobody';
SELECT pgpubsub.subscribe('regress_publish_late', '{pub_nobody}', 'drop', 'oldest');
SELECT count(*) FROM pgpubsub.poll('regress_publish_late');

-- as text, json and jsonb: what is written alike is one event
SELECT pgpubsub.subscribe('regress_publish', '{pub_json}', 'drop');
BEGIN;
SELECT pgpubsub.publish('pub_json', '{"a": 1}'), pgpubsub.publish('pub_json', '{"a": 1}'::json), pgpubsub.publish('pub_json', '{"a":1}'::jsonb);
SELECT pgpubsub.publish('pub_json', '{"a":1}'::json);
COMMIT;
CALL pg_temp.settle();
SELECT payload FROM pgpubsub.poll('regress_publish');

-- many at once
SELECT pgpubsub.subscribe('regress_publish', '{pub_many}', 'drop');
BEGIN;
SELECT count(pgpubsub.publish('pub_many', i::text)) FROM generate_series(1, 500) AS i;
COMMIT;
CALL pg_temp.settle();
SELECT count(*), count(lost) AS gaps,
       bool_and(payload::int = n) AS in_order,
       bool_and(channel = 'pub_many') AS right_channel
  FROM (SELECT *, row_number() OVER () AS n
          FROM pgpubsub.poll('regress_publish', 1000)) AS p;

SELECT pgpubsub.unsubscribe('regress_publish'),
       pgpubsub.unsubscribe('regress_publish_late'),
       pgpubsub.unsubscribe('regress_settle');
