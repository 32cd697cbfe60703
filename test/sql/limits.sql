--
-- Pools are bounded and say so; what fails leaves nothing behind.  In a
-- database of its own, with the default pgpubsub.max_channels and
-- pgpubsub.max_subscriptions, 1024 each.
--
SELECT current_database() AS home \gset
CREATE DATABASE regress_pgpubsub_limits;
\c regress_pgpubsub_limits
CREATE EXTENSION pgpubsub;
\pset format unaligned
\pset tuples_only on
CREATE FUNCTION names(prefix text, n integer) RETURNS text[] LANGUAGE sql
AS $$ SELECT array_agg(prefix || i) FROM generate_series(1, n) AS i $$;

-- channels
SELECT pgpubsub.subscribe('regress_limit', names('a', 1025));
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM pgpubsub.subscription;
-- none of its names stays known
SELECT count(*) FROM pgpubsub.stat_channels WHERE datname = current_database();
SELECT pgpubsub.subscribe('regress_limit', names('b', 900));
SELECT pgpubsub.subscribe('regress_limit', names('c', 60));
SELECT pgpubsub.subscribe('regress_limit', names('d', 900));
SELECT pgpubsub.subscribe('regress_limit', names('e', 1025));
\echo :LAST_ERROR_SQLSTATE
SELECT cardinality(channels) FROM pgpubsub.stat_subscriptions WHERE subscription = 'regress_limit';
SELECT pgpubsub.publish('d900', 'the last of them');
SELECT channel, payload FROM pgpubsub.poll('regress_limit', 1, '10 s');
-- channels of subscriptions: 8 for each of the possible subscriptions, and
-- max_channels more
SELECT count(pgpubsub.subscribe(('regress_limit' || i)::name, names('d', 900))) FROM generate_series(1, 12) AS i;
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM pgpubsub.subscription;
SELECT count(pgpubsub.subscribe(('regress_limit' || i)::name, names('d', 900))) FROM generate_series(1, 9) AS i;
SELECT count(pgpubsub.unsubscribe(name)) FROM pgpubsub.subscription;
-- a pattern matches names that a subscription has or that were used: those
-- that nobody names any more do not fill the table
SELECT pgpubsub.subscribe('regress_limit', '{*}', 'drop');
SELECT pgpubsub.subscribe('regress_limit2', names('f', 900));
SELECT count(pgpubsub.unsubscribe(name)) FROM pgpubsub.subscription;
-- used channels that nobody reads give way
BEGIN;
SELECT count(pgpubsub.publish(c, 'x')) FROM unnest(names('g', 2000)) AS c;
COMMIT;
SELECT pgpubsub.subscribe('regress_limit', names('h', 900));
SELECT pgpubsub.unsubscribe('regress_limit');
-- subscriptions, in the whole cluster
SELECT count(pgpubsub.subscribe(('regress_limit' || i)::name, '{a}')) FROM generate_series(1, 1025) AS i;
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM pgpubsub.subscription;
SELECT count(pgpubsub.subscribe(('regress_limit' || i)::name, '{a}', 'drop')) FROM generate_series(1, 1000) AS i;
SELECT pgpubsub.publish('a', 'to a thousand');
SELECT channel, payload FROM pgpubsub.poll('regress_limit1000', 1, '10 s');
SELECT count(*), sum(pending) FROM pgpubsub.stat_subscriptions WHERE datname = current_database();
SELECT count(pgpubsub.unsubscribe(name)) FROM pgpubsub.subscription;

-- a channel that finds no room: the writer is told, the pattern gets a gap row
SELECT pgpubsub.subscribe('regress_limit', names('i', 1000));
SELECT pgpubsub.subscribe('regress_pattern', '{j*}', 'drop');
SELECT count(pgpubsub.publish(c, 'x')) > 0 FROM unnest(names('j', 100)) AS c;
SELECT count(lost) > 0, max(lost) FROM pgpubsub.poll('regress_pattern', 1, '10 s');

\pset format aligned
\pset tuples_only off
\c :home
DROP DATABASE regress_pgpubsub_limits;
