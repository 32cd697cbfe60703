--
-- Patterns: * stands for any run of characters.
--
\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
\i :include
SELECT pgpubsub.subscribe('regress_settle', '{regress_settle}', 'drop', temporary => true);
CREATE PROCEDURE pg_temp.publish(VARIADIC channels text[])
LANGUAGE sql AS $$
SELECT count(pgpubsub.publish(c, 'to ' || c)) FROM unnest(channels) AS c;
$$;
-- The channels of all messages, consumed; an exclamation mark if one is wrong.
CREATE FUNCTION pg_temp.got(subscription name) RETURNS text
LANGUAGE sql AS $$
SELECT string_agg(CASE WHEN payload = 'to ' || channel THEN channel
                       ELSE '!' || coalesce(channel || ': ' || payload, 'gap of ' || lost) END, ', ')
  FROM pgpubsub.poll(subscription, 1000);
$$;

-- what matches: the channels are known before, and become known after
CREATE TEMP TABLE pattern (n serial, pattern text);
INSERT INTO pattern (pattern) VALUES ('pat_*'), ('*_x'), ('p*t_*x'), ('pat_a*b'), ('*'), ('**'),
    ('pat_'), ('*at_ab*'), ('pat_%'), ('pat__'), ('PAT_*'), ('pat_\*'), ('pat_ab'), ('*pat_ab*'), ('pat_*b*b'),
    (E'*\u00e4*'), ('*pat_*x*'), ('*.*');
SELECT pgpubsub.subscribe('regress_known', '{pat_a,pat_x,pat_ab,pat_axb,pat_abb}', 'drop');
SELECT count(pgpubsub.subscribe(('regress_pat' || n)::name, ARRAY[pattern], 'drop')) FROM pattern;
CREATE TEMP TABLE used (n serial, channel text);
INSERT INTO used (channel) VALUES ('pat_a'), ('pat_x'), ('pat_ab'), ('pat_axb'), ('pat_abb'),
    ('pat_'), ('pat_new'), ('pat_newx'), ('PAT_X'), ('xpat_ab'), ('pat_abx'), ('p_x'), ('pat_%'), ('pat_\'),
    (E'p\u00e4t'), ('pat.dot'), ('pat');
BEGIN;
SELECT count(pgpubsub.publish(channel, 'to ' || channel)) FROM (SELECT channel FROM used ORDER BY n) AS u;
COMMIT;
CALL pg_temp.settle();
SELECT n, pattern, pg_temp.got(('regress_pat' || n)::name) FROM pattern
 WHERE pattern NOT IN ('*', '**') ORDER BY n;
-- * alone has all of them, and settle()'s
SELECT pattern, count(*) FILTER (WHERE p.payload = 'to ' || p.channel) AS used,
       count(*) FILTER (WHERE p.channel = 'regress_settle') AS settle,
       count(*) FILTER (WHERE p.channel NOT IN (SELECT channel FROM used) AND p.channel <> 'regress_settle') AS others
  FROM pattern, pgpubsub.poll(('regress_pat' || n)::name, 1000) AS p
 WHERE pattern IN ('*', '**') GROUP BY pattern ORDER BY pattern;
-- a second time, now that all are known and listened to, in another order
BEGIN;
SELECT count(pgpubsub.publish(channel, 'to ' || channel)) FROM (SELECT channel FROM used ORDER BY n DESC) AS u;
COMMIT;
CALL pg_temp.settle();
SELECT n, pattern, pg_temp.got(('regress_pat' || n)::name) FROM pattern
 WHERE pattern NOT IN ('*', '**') ORDER BY n;
SELECT count(pgpubsub.unsubscribe(('regress_pat' || n)::name)) FROM pattern;
SELECT pgpubsub.unsubscribe('regress_known');

-- a message comes once, by name and by any number of patterns
SELECT pgpubsub.subscribe('regress_many', '{pat_m1,pat_m*,*m1,*m*,pat_m2}', 'drop');
CALL pg_temp.publish('pat_m1', 'pat_m3', 'pat_m2', 'pat_m1 ');
CALL pg_temp.settle();
SELECT pg_temp.got('regress_many');
-- the view has the names that were given
SELECT ARRAY(SELECT unnest(channels) COLLATE "C" ORDER BY 1) FROM pgpubsub.stat_subscriptions WHERE subscription = 'regress_many';
-- with fewer of them: what is still matched is kept, with what is pending
CALL pg_temp.publish('pat_m1', 'pat_m2', 'pat_m3');
CALL pg_temp.settle();
SELECT pgpubsub.subscribe('regress_many', '{*m1,pat_m2}', 'drop');
SELECT pg_temp.got('regress_many');
CALL pg_temp.publish('pat_m1', 'pat_m2', 'pat_m3');
CALL pg_temp.settle();
SELECT pg_temp.got('regress_many');
-- undone
BEGIN;
SELECT pgpubsub.subscribe('regress_many', '{pat_*}', 'drop');
ROLLBACK;
CALL pg_temp.publish('pat_m1', 'pat_m2', 'pat_m3', 'pat_m4');
CALL pg_temp.settle();
SELECT pg_temp.got('regress_many');
SELECT pgpubsub.unsubscribe('regress_many');

-- the first event on a channel that nobody knew: whole, once, in its place,
-- with its publisher's pid, however long and however often
SELECT pgpubsub.subscribe('regress_first', '{pat_first*,pat_named}', 'drop');
BEGIN;
SELECT pgpubsub.publish('pat_named', '1');
SELECT pgpubsub.publish('pat_first_a', '2');
SELECT pgpubsub.publish('pat_named', '3');
SELECT pgpubsub.publish('pat_first_a', '4' || repeat('x', 20000));
SELECT pgpubsub.publish('pat_first_b', '5' || repeat('x', 7998));
SELECT pgpubsub.publish('pat_first_a', '2');
SELECT pgpubsub.publish('pat_first_b', '');
SELECT pgpubsub.publish('pat_first_a', '7');
SELECT pgpubsub.publish('pat_named', '8');
COMMIT;
CALL pg_temp.settle();
SELECT channel, left(payload, 1), length(payload), pid = pg_backend_pid() AS pid_is_publisher
  FROM pgpubsub.poll('regress_first');
-- rolled back: the channel is known, the event is not
BEGIN;
SELECT pgpubsub.publish('pat_first_c', 'rolled back');
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT pgpubsub.publish('pat_first_d', 'rolled back');
ROLLBACK TO s;
SELECT pgpubsub.publish('pat_first_d', 'kept');
COMMIT;
CALL pg_temp.settle();
SELECT channel, payload FROM pgpubsub.poll('regress_first');

-- a bare NOTIFY: of a name that is known, and of one that is not
SELECT pgpubsub.publish('pat_first_e', 'makes it known');
-- (subscribe() returns when the relay listens)
SELECT pgpubsub.subscribe('regress_first', '{pat_first*,pat_named}', 'drop');
NOTIFY pat_first_e, 'known';
NOTIFY pat_first_f, 'not known';
CALL pg_temp.settle();
SELECT channel, payload FROM pgpubsub.poll('regress_first');
-- known since another subscription names it
SELECT pgpubsub.subscribe('regress_names', '{pat_first_f}', 'drop');
NOTIFY pat_first_f, 'known now';
CALL pg_temp.settle();
SELECT channel, payload FROM pgpubsub.poll('regress_first');
SELECT pgpubsub.unsubscribe('regress_names');
-- and since a table is attached to it
CREATE TABLE regress_pattern (id integer PRIMARY KEY);
SELECT pgpubsub.attach('regress_pattern', 'pat_first_g');
SELECT pgpubsub.subscribe('regress_first', '{pat_first*,pat_named}', 'drop');
NOTIFY pat_first_g, 'before the first change';
INSERT INTO regress_pattern VALUES (1);
CALL pg_temp.settle();
SELECT channel, CASE WHEN payload ~ '^{' THEN payload::jsonb ->> 'op' ELSE payload END AS event
  FROM pgpubsub.poll('regress_first');
DROP TABLE regress_pattern;

-- no pattern matches the reserved channel, whoever writes there
SELECT pgpubsub.subscribe('regress_all', '{*,pgp*b,*pubsub*}', 'drop');
CALL pg_temp.settle();
SELECT bad_frames FROM pgpubsub.stat_queue WHERE datname = current_database() \gset
NOTIFY pgpubsub, 'no frame';
SELECT pg_notify('pgpubsub', ''), pg_notify('pgpubsub', 'x 1 1 pat_first_a forged');
NOTIFY pat_first_a, 'unharmed';
CALL pg_temp.settle();
SELECT bad_frames - :bad_frames AS bad_frames FROM pgpubsub.stat_queue WHERE datname = current_database();
SELECT channel, payload FROM pgpubsub.poll('regress_all') WHERE channel <> 'regress_settle';
SELECT channel, payload FROM pgpubsub.poll('regress_first');
SELECT count(*) FROM pgpubsub.stat_channels WHERE datname = current_database() AND channel = 'pgpubsub';
SELECT pgpubsub.unsubscribe('regress_all');

-- publish() takes * as it is: a channel of that name, matched by patterns
SELECT pgpubsub.subscribe('regress_star', '{pat_star*}', 'drop');
CALL pg_temp.publish('pat_star*', 'pat_star*x', 'pat_sta*');
CALL pg_temp.settle();
SELECT pg_temp.got('regress_star');

-- start_at => 'oldest' holds for all channels that are matched now
SELECT pgpubsub.subscribe('regress_oldest', '{pat_old*}', 'drop');
CALL pg_temp.publish('pat_old1', 'pat_old2', 'pat_old1');
CALL pg_temp.settle();
SELECT pgpubsub.subscribe('regress_oldest2', '{pat_old*}', 'drop', 'oldest');
SELECT pgpubsub.subscribe('regress_oldest3', '{pat_old*}', 'drop', 'now');
CALL pg_temp.publish('pat_old3');
CALL pg_temp.settle();
SELECT pg_temp.got('regress_oldest2');
SELECT pg_temp.got('regress_oldest3');

-- patterns in stat_channels: they are none
SELECT channel, subscriptions FROM pgpubsub.stat_channels
 WHERE datname = current_database() AND channel ~ '^pat_old' ORDER BY channel;

SELECT pgpubsub.unsubscribe('regress_first'), pgpubsub.unsubscribe('regress_star'),
       pgpubsub.unsubscribe('regress_oldest'), pgpubsub.unsubscribe('regress_oldest2'),
       pgpubsub.unsubscribe('regress_oldest3'), pgpubsub.unsubscribe('regress_settle');
