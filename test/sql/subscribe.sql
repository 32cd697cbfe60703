--
-- subscribe() and unsubscribe(): what they make, change and leave alone.
--
\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
\i :include
SELECT pgpubsub.subscribe('regress_settle', '{regress_settle}', 'drop', temporary => true);
CREATE FUNCTION pg_temp.wait_until(condition text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + '30 s';
    result   boolean := false;
BEGIN
    WHILE result IS NOT TRUE AND clock_timestamp() < deadline LOOP
        EXECUTE condition INTO result;
    END LOOP;
    RETURN result;
END $$;
CREATE VIEW pg_temp.subscriptions AS
SELECT subscription, owner = current_user::regrole AS mine,
       ARRAY(SELECT unnest(channels) ORDER BY 1) AS channels, on_full,
       state, pid, pending, delivered, lost
  FROM pgpubsub.stat_subscriptions
 WHERE datname = current_database() AND subscription <> 'regress_settle'
 ORDER BY subscription;

-- true: created; it stands in the table and in the view
SELECT clock_timestamp() AS before \gset
SELECT pgpubsub.subscribe('regress_s1', '{sub_a,sub_b}');
SELECT * FROM pg_temp.subscriptions;
SELECT name, owner = current_user::regrole AS mine, channels, on_full,
       created_at BETWEEN :'before' AND clock_timestamp() AS created_now
  FROM pgpubsub.subscription;
SELECT t.created_at = v.created_at AS same_time, v.seq, v.oldest_pending_at,
       v.last_poll_at
  FROM pgpubsub.subscription AS t
  JOIN pgpubsub.stat_subscriptions AS v ON v.subscription = t.name;

-- false: it stood already; its position is kept
SELECT pgpubsub.publish('sub_a', 'kept');
CALL pg_temp.settle();
SELECT pgpubsub.subscribe('regress_s1', '{sub_a,sub_b}');
SELECT channel, payload FROM pgpubsub.poll('regress_s1');

-- on_full now as given; all arguments by name
SELECT pgpubsub.subscribe(subscription => 'regress_s1', channels => '{sub_b,sub_a}',
                          on_full => 'drop', start_at => 'now', temporary => false);
SELECT on_full FROM pg_temp.subscriptions;
SELECT on_full FROM pgpubsub.subscription;
SELECT pgpubsub.subscribe('regress_s1', '{sub_a,sub_b}', 'block');
SELECT on_full FROM pg_temp.subscriptions;
SELECT pgpubsub.subscribe('regress_s1', '{sub_a,sub_b}', 'drop');

-- channels now as given: what is pending of those that stay is kept, of those
-- that go is not; those that come start at the end
SELECT pgpubsub.subscribe('regress_keep', '{sub_c}', 'drop');
BEGIN;
SELECT pgpubsub.publish(c, 'before, on ' || c) FROM unnest('{sub_a,sub_b,sub_c}'::text[]) AS c;
COMMIT;
CALL pg_temp.settle();
SELECT pgpubsub.subscribe('regress_s1', '{sub_b,sub_c}', 'drop');
SELECT channels FROM pg_temp.subscriptions WHERE subscription = 'regress_s1';
SELECT channels FROM pgpubsub.subscription WHERE name = 'regress_s1';
BEGIN;
SELECT pgpubsub.publish(c, 'after, on ' || c) FROM unnest('{sub_a,sub_b,sub_c}'::text[]) AS c;
COMMIT;
CALL pg_temp.settle();
SELECT channel, payload, lost FROM pgpubsub.poll('regress_s1');
-- a channel that went and comes back has no memory
SELECT pgpubsub.subscribe('regress_s1', '{sub_a,sub_b,sub_c}', 'drop');
SELECT pgpubsub.publish('sub_a', 'back again');
SELECT channel, payload, lost FROM pgpubsub.poll('regress_s1', 10, '10 s');
SELECT pgpubsub.unsubscribe('regress_keep');

-- the views show channels in the order given
SELECT pgpubsub.subscribe('regress_order', '{sub_z,sub_m}', 'drop');
SELECT pgpubsub.subscribe('regress_order', '{sub_b,sub_z,sub_*,sub_a,sub_m}', 'drop');
SELECT s.channels, t.channels FROM pgpubsub.stat_subscriptions AS s
  JOIN pgpubsub.subscription AS t ON t.name = s.subscription WHERE t.name = 'regress_order';
BEGIN;
SELECT pgpubsub.subscribe('regress_order', '{sub_m,sub_z}', 'drop');
SAVEPOINT s;
SELECT pgpubsub.subscribe('regress_order', '{sub_a}', 'drop');
ROLLBACK TO s;
SELECT pgpubsub.subscribe('regress_order', '{sub_m,sub_a,sub_z}', 'drop');
COMMIT;
SELECT channels FROM pgpubsub.stat_subscriptions WHERE subscription = 'regress_order';
UPDATE pgpubsub.subscription SET channels = '{sub_y,sub_a,sub_m}' WHERE name = 'regress_order';
SELECT pg_temp.wait_until($$SELECT channels = '{sub_y,sub_a,sub_m}' FROM pgpubsub.stat_subscriptions WHERE subscription = 'regress_order'$$);
SELECT pgpubsub.unsubscribe('regress_order');

-- a channel named twice is one
SELECT pgpubsub.subscribe('regress_twice', '{sub_a,sub_a,sub_b,sub_a}', 'drop');
SELECT channels, cardinality(channels) FROM pg_temp.subscriptions WHERE subscription = 'regress_twice';
SELECT pgpubsub.publish('sub_a', 'once');
CALL pg_temp.settle();
SELECT channel, payload FROM pgpubsub.poll('regress_twice');
SELECT pgpubsub.unsubscribe('regress_twice');

-- every subscription gets every event, at its own pace
SELECT pgpubsub.subscribe('regress_s2', '{sub_a}', 'drop');
SELECT pgpubsub.publish('sub_a', 'to both');
CALL pg_temp.settle();
SELECT subscription, pending FROM pg_temp.subscriptions;
SELECT payload FROM pgpubsub.poll('regress_s2');
SELECT subscription, pending FROM pg_temp.subscriptions;
SELECT payload FROM pgpubsub.poll('regress_s1', 1);
SELECT payload FROM pgpubsub.poll('regress_s1');

-- unsubscribe: true, then false
SELECT pgpubsub.unsubscribe('regress_s2');
SELECT pgpubsub.unsubscribe('regress_s2');
SELECT count(*) FROM pgpubsub.subscription WHERE name = 'regress_s2';
SELECT count(*) FROM pg_temp.subscriptions WHERE subscription = 'regress_s2';
-- what comes back under the name is new
SELECT pgpubsub.publish('sub_a', 'while there was none');
CALL pg_temp.settle();
SELECT pgpubsub.subscribe('regress_s2', '{sub_a}', 'drop');
SELECT count(*) FROM pgpubsub.poll('regress_s2');
SELECT delivered, lost, pending FROM pg_temp.subscriptions WHERE subscription = 'regress_s2';

-- start_at: now, oldest, a sequence number, of what is in the queue alone
SELECT count(pgpubsub.set_durable('sub_start', false));
BEGIN;
SELECT pgpubsub.publish('sub_start', i::text) FROM generate_series(1, 3) AS i;
COMMIT;
CALL pg_temp.settle();
SELECT pgpubsub.subscribe('regress_first', '{sub_start}', 'drop');
BEGIN;
SELECT pgpubsub.publish('sub_start', i::text) FROM generate_series(4, 6) AS i;
COMMIT;
CALL pg_temp.settle();
SELECT seq AS seq_of_5 FROM pgpubsub.poll('regress_first', consume => false) WHERE payload = '5' \gset
SELECT seq AS seq_of_6 FROM pgpubsub.poll('regress_first', consume => false) WHERE payload = '6' \gset
SELECT pgpubsub.subscribe('regress_now', '{sub_start}', 'drop', 'now');
SELECT pgpubsub.subscribe('regress_oldest', '{sub_start}', 'drop', 'oldest');
SELECT pgpubsub.subscribe('regress_seq', '{sub_start}', 'drop', :'seq_of_5');
SELECT pgpubsub.subscribe('regress_last', '{sub_start}', 'drop', :'seq_of_6');
-- settle() has published since, so the number after the last is given out
SELECT pgpubsub.subscribe('regress_next', '{sub_start}', 'drop', (:seq_of_6 + 1)::text);
SELECT pgpubsub.publish('sub_start', '7');
CALL pg_temp.settle();
SELECT s.name, p.payload, p.lost
  FROM pgpubsub.subscription AS s, pgpubsub.poll(s.name) AS p
 WHERE s.channels = '{sub_start}'
 ORDER BY s.name, p.seq;
-- start_at says where a new subscription starts, not where an old one stands
SELECT pgpubsub.subscribe('regress_oldest', '{sub_start}', 'drop', 'oldest');
SELECT count(*) FROM pgpubsub.poll('regress_oldest');
-- and where an old one's new channels do
SELECT pgpubsub.subscribe('regress_next', '{sub_start,sub_a}', 'drop', 'oldest');
SELECT channel, payload = 'to both' AS the_first
  FROM pgpubsub.poll('regress_next', 100) WHERE payload = 'to both';
-- from a number that is long gone: what was missed cannot be known
SELECT pgpubsub.subscribe('regress_gone', '{sub_start}', 'drop', '1');
SELECT payload, lost, channel IS NULL AS gap
  FROM pgpubsub.poll('regress_gone', 2);
SELECT payload, lost FROM pgpubsub.poll('regress_gone', 1);
SELECT count(pgpubsub.unsubscribe(name)) FROM pgpubsub.subscription WHERE 'sub_start' = ANY (channels);

-- a temporary one is in the view, not in the table, and works alike
SELECT pgpubsub.subscribe('regress_temp', '{sub_a}', temporary => true);
SELECT pgpubsub.subscribe('regress_temp', '{sub_a,sub_b}', temporary => true);
SELECT channels, on_full FROM pg_temp.subscriptions WHERE subscription = 'regress_temp';
SELECT count(*) FROM pgpubsub.subscription WHERE name = 'regress_temp';
SELECT pgpubsub.publish('sub_b', 'to a temporary one');
SELECT channel, payload FROM pgpubsub.poll('regress_temp', 10, '10 s');
SELECT pgpubsub.unsubscribe('regress_temp');
SELECT pgpubsub.unsubscribe('regress_temp');

-- names: quoted, 63 bytes, cut to that as every name is
SELECT pgpubsub.subscribe('regress "S" ''q'' %', '{sub_a}', 'drop');
SELECT count(*) FROM pgpubsub.poll('regress "S" ''q'' %');
SELECT pgpubsub.subscribe(('regress_' || repeat('l', 60))::name, '{sub_a}', 'drop');
SELECT pgpubsub.subscribe(('regress_' || repeat('l', 55))::name, '{sub_a}', 'drop');
SELECT name, octet_length(name::text) FROM pgpubsub.subscription WHERE name ~ 'l{10}|"';
SELECT pgpubsub.unsubscribe('regress "S" ''q'' %'),
       pgpubsub.unsubscribe(('regress_' || repeat('l', 55))::name);

-- the table written by hand, as by pg_restore: the relay re-reads it
BEGIN;
INSERT INTO pgpubsub.subscription (name, owner, channels, on_full)
VALUES ('regress_hand', current_user::regrole, '{sub_hand}', 'drop');
ROLLBACK;
INSERT INTO pgpubsub.subscription (name, owner, channels, on_full, created_at)
VALUES ('regress_hand', current_user::regrole, '{sub_hand,sub_h*}', 'drop', '2026-01-02 03:04:05 UTC'),
       -- rows that make no sense do no harm
       ('regress_bad', current_user::regrole, '{pgpubsub}', 'drop', '2026-01-02 03:04:05 UTC'),
       ('', current_user::regrole, '{sub_a}', 'drop', '2026-01-02 03:04:05 UTC'),
       ('regress_bad2', current_user::regrole, '{}', 'drop', '2026-01-02 03:04:05 UTC');
SELECT pg_temp.wait_until($$SELECT count(*) = 1 FROM pg_temp.subscriptions WHERE subscription = 'regress_hand'$$);
SELECT subscription, mine, channels, on_full FROM pg_temp.subscriptions;
SELECT created_at = '2026-01-02 03:04:05 UTC' AS kept FROM pgpubsub.stat_subscriptions WHERE subscription = 'regress_hand';
SELECT pgpubsub.publish('sub_hand', 'by hand');
SELECT channel, payload FROM pgpubsub.poll('regress_hand', 10, '10 s');
UPDATE pgpubsub.subscription SET channels = '{sub_hand2}', on_full = 'evict' WHERE name = 'regress_hand';
SELECT pg_temp.wait_until($$SELECT on_full = 'evict' FROM pg_temp.subscriptions WHERE subscription = 'regress_hand'$$);
SELECT channels FROM pg_temp.subscriptions WHERE subscription = 'regress_hand';
SELECT pgpubsub.publish('sub_hand', 'no more'), pgpubsub.publish('sub_hand2', 'changed by hand');
CALL pg_temp.settle();
SELECT channel, payload FROM pgpubsub.poll('regress_hand');
DELETE FROM pgpubsub.subscription WHERE name IN ('regress_hand', 'regress_bad', 'regress_bad2', '');
SELECT pg_temp.wait_until($$SELECT count(*) = 0 FROM pg_temp.subscriptions WHERE subscription = 'regress_hand'$$);
-- subscriptions made by subscribe() are untouched by all that
SELECT pgpubsub.publish('sub_a', 'still there');
CALL pg_temp.settle();
SELECT payload FROM pgpubsub.poll('regress_s1') ORDER BY seq DESC LIMIT 1;
-- the table refuses what cannot be
\set VERBOSITY sqlstate
INSERT INTO pgpubsub.subscription (name, owner, channels, on_full)
VALUES ('regress_bad', current_user::regrole, '{sub_a}', 'Drop');
INSERT INTO pgpubsub.subscription (name, owner, channels, on_full)
VALUES ('regress_s1', current_user::regrole, '{sub_a}', 'drop');
\set VERBOSITY default

SELECT pgpubsub.unsubscribe('regress_s1'), pgpubsub.unsubscribe('regress_s2'),
       pgpubsub.unsubscribe('regress_settle');
SELECT count(*) FROM pgpubsub.subscription;
SELECT count(*) FROM pg_temp.subscriptions;
