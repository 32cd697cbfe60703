--
-- ack(): what it consumes, what it returns, what it leaves.
--
\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
\i :include
SELECT pgpubsub.subscribe('regress_settle', '{regress_settle}', 'drop', temporary => true);
CREATE PROCEDURE pg_temp.publish(channel text, first integer, last integer)
LANGUAGE sql AS $$
SELECT count(pgpubsub.publish(channel, n::text)) FROM generate_series(first, last) AS n;
$$;
-- What a look shows.
CREATE FUNCTION pg_temp.pending(subscription name) RETURNS text
LANGUAGE sql AS $$
SELECT string_agg(coalesce(channel, 'gap of ' || lost) || ' ' || coalesce(payload, ''), ', ')
  FROM pgpubsub.poll(subscription, 1000, consume => false);
$$;
-- The seq of the message with that payload, by a look.
CREATE FUNCTION pg_temp.seq_of(subscription name, message text) RETURNS bigint
LANGUAGE sql AS $$
SELECT seq FROM pgpubsub.poll(subscription, 1000, consume => false) WHERE payload = message;
$$;

SELECT pgpubsub.subscribe('regress_ack', '{ack_a,ack_b}', 'drop');

-- up to and including seq
CALL pg_temp.publish('ack_a', 1, 6);
CALL pg_temp.settle();
SELECT pg_temp.seq_of('regress_ack', '2') AS two, pg_temp.seq_of('regress_ack', '6') AS six \gset
SELECT pgpubsub.ack('regress_ack', :two);
SELECT pg_temp.pending('regress_ack');
-- again, and below: nothing more, and nothing comes back
SELECT pgpubsub.ack('regress_ack', :two);
SELECT pgpubsub.ack('regress_ack', :two - 1);
SELECT pgpubsub.ack('regress_ack', 0);
SELECT pg_temp.pending('regress_ack');
-- one at a time, then the rest
SELECT pgpubsub.ack('regress_ack', seq) FROM pgpubsub.poll('regress_ack', 1, consume => false);
SELECT pgpubsub.ack('regress_ack', :six);
SELECT pg_temp.pending('regress_ack');
SELECT pending, delivered, lost, seq = :six AS seq_is_last
  FROM pgpubsub.stat_subscriptions WHERE subscription = 'regress_ack';

-- at-least-once: look, work, ack what was seen; what came meanwhile stays
CALL pg_temp.publish('ack_a', 1, 2);
CALL pg_temp.settle();
SELECT max(seq) AS seen FROM pgpubsub.poll('regress_ack', consume => false) \gset
CALL pg_temp.publish('ack_a', 3, 4);
CALL pg_temp.settle();
SELECT pgpubsub.ack('regress_ack', :seen);
SELECT payload FROM pgpubsub.poll('regress_ack');

-- over channels: by seq, in all of them
BEGIN;
SELECT pgpubsub.publish(CASE WHEN n % 3 = 0 THEN 'ack_a' ELSE 'ack_b' END, n::text)
  FROM generate_series(1, 9) AS n;
COMMIT;
CALL pg_temp.settle();
SELECT pgpubsub.ack('regress_ack', pg_temp.seq_of('regress_ack', '4'));
SELECT pg_temp.pending('regress_ack');
SELECT pgpubsub.ack('regress_ack', pg_temp.seq_of('regress_ack', '6'));
SELECT pg_temp.pending('regress_ack');

-- a seq that belongs to no event of this subscription counts as a place
CALL pg_temp.settle();
SELECT newest_seq AS newest FROM pgpubsub.stat_queue WHERE datname = current_database() \gset
SELECT pgpubsub.ack('regress_ack', :newest);
SELECT pg_temp.pending('regress_ack');

-- of messages that were never looked at
CALL pg_temp.publish('ack_a', 1, 3);
CALL pg_temp.settle();
SELECT newest_seq AS newest FROM pgpubsub.stat_queue WHERE datname = current_database() \gset
SELECT pgpubsub.ack('regress_ack', :newest);
SELECT pg_temp.pending('regress_ack');

-- after a consuming poll of the same transaction
CALL pg_temp.publish('ack_a', 1, 5);
CALL pg_temp.settle();
SELECT pg_temp.seq_of('regress_ack', '4') AS four \gset
BEGIN;
SELECT payload FROM pgpubsub.poll('regress_ack', 2);
SELECT pgpubsub.ack('regress_ack', :four);
SELECT payload FROM pgpubsub.poll('regress_ack', 2, consume => false);
COMMIT;
SELECT pg_temp.pending('regress_ack');

-- with the transaction: rolled back, to a savepoint, in a failed block
CALL pg_temp.publish('ack_a', 6, 8);
CALL pg_temp.settle();
SELECT pg_temp.seq_of('regress_ack', '5') AS five, pg_temp.seq_of('regress_ack', '6') AS six,
       pg_temp.seq_of('regress_ack', '7') AS seven \gset
BEGIN;
SELECT pgpubsub.ack('regress_ack', :seven);
ROLLBACK;
SELECT pg_temp.pending('regress_ack');
BEGIN;
SELECT pgpubsub.ack('regress_ack', :five);
SAVEPOINT s;
SELECT pgpubsub.ack('regress_ack', :seven);
SELECT pg_temp.pending('regress_ack');
ROLLBACK TO s;
SELECT pg_temp.pending('regress_ack');
SELECT pgpubsub.ack('regress_ack', :six);
COMMIT;
SELECT pg_temp.pending('regress_ack');
DO $$
BEGIN
    PERFORM pgpubsub.ack('regress_ack', max(seq))
       FROM pgpubsub.poll('regress_ack', consume => false);
    RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN
    RAISE NOTICE 'failed';
END $$;
SELECT pg_temp.pending('regress_ack');

-- one subscription's ack is nobody else's
SELECT pgpubsub.subscribe('regress_ack2', '{ack_a}', 'drop', 'oldest');
SELECT pg_temp.pending('regress_ack2') AS before \gset
SELECT count(pgpubsub.ack('regress_ack', seq)) FROM pgpubsub.poll('regress_ack', consume => false);
SELECT pg_temp.pending('regress_ack');
SELECT pg_temp.pending('regress_ack2') = :'before' AS untouched;
SELECT pending FROM pgpubsub.stat_subscriptions WHERE subscription = 'regress_ack2';

-- what ack consumed is counted as what poll consumed
SELECT pgpubsub.unsubscribe('regress_ack2');
SELECT pgpubsub.subscribe('regress_ack2', '{ack_a}', 'drop');
CALL pg_temp.publish('ack_a', 10, 14);
CALL pg_temp.settle();
SELECT payload FROM pgpubsub.poll('regress_ack2', 2);
SELECT pgpubsub.ack('regress_ack2', pg_temp.seq_of('regress_ack2', '13'));
SELECT delivered, delivered_bytes, lost, pending, pending_bytes
  FROM pgpubsub.stat_subscriptions WHERE subscription = 'regress_ack2';

-- a seq that was not given out yet is refused, and nothing is consumed
DO $$
DECLARE
    newest  bigint := newest_seq FROM pgpubsub.stat_queue WHERE datname = current_database();
    message text;
    detail  text;
    hint    text;
BEGIN
    PERFORM pgpubsub.ack('regress_ack2', newest + 1);
EXCEPTION WHEN invalid_parameter_value THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RAISE NOTICE '%; %; %', replace(message, (newest + 1)::text, 'newest + 1'),
        replace(detail, newest::text, 'newest'), hint;
END $$;
\set VERBOSITY terse
SELECT pgpubsub.ack('regress_ack2', 9223372036854775807);
\set VERBOSITY default
\echo :LAST_ERROR_SQLSTATE
SELECT pg_temp.pending('regress_ack2');

SELECT pgpubsub.unsubscribe('regress_ack'), pgpubsub.unsubscribe('regress_ack2'),
       pgpubsub.unsubscribe('regress_settle');
