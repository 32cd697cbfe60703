\set ECHO none
--
-- What the tests of this directory share.  All of it is temporary.
--
-- A test whose subject is what subscriptions do makes the subscription
-- regress_settle, of the channel of that name; then it can
--
--   CALL pg_temp.settle();   return when the relay has queued all that was
--                            committed before
--
-- A test whose subject is what events say makes the subscription regress_events, of
-- all channels; then it can use
--
--   :events                  show the events since the last time, masked
--   pg_temp.events()         them, for a query, when 'end' has been published
--   pg_temp.received()       the events as they are, likewise
--   pg_temp.try_sizes(), pg_temp.sizes()
--                            how pgpubsub.max_payload cuts an event, to the byte
--
CREATE PROCEDURE pg_temp.settle()
LANGUAGE plpgsql AS $$
DECLARE
    marker   text := clock_timestamp();
    deadline timestamptz := clock_timestamp() + '30 s';
    found    int := 0;
BEGIN
    -- there are three ways to the relay, each with its own order: the log's, whose
    -- events are queued before a subscription is there; that of async events; and
    -- core's, of notifications
    PERFORM pgpubsub.subscribe('regress_settle', '{regress_settle}', 'drop', temporary => true);
    COMMIT;
    PERFORM pgpubsub.publish('regress_settle', marker), pg_notify('regress_settle', marker || '.');
    COMMIT;
    WHILE found < 2 LOOP
        ASSERT clock_timestamp() < deadline, 'the relay delivers nothing';
        SELECT found + count(*) INTO found
          FROM (SELECT payload FROM pgpubsub.poll('regress_settle', 100, '10 s')) AS p
         WHERE payload IN (marker, marker || '.');
        COMMIT;
    END LOOP;
END $$;

-- What came on the channels since the last time, as it is; to be called when "end"
-- has been published behind the events.
CREATE FUNCTION pg_temp.received(OUT channel text, OUT event text) RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
    m record;
BEGIN
    FOR i IN 1 .. 20 LOOP
        FOR m IN SELECT * FROM pgpubsub.poll('regress_events', 10000, '5s') LOOP
            IF m.lost IS NOT NULL THEN
                RAISE 'lost % events', m.lost;
            ELSIF m.channel = 'end' THEN
                RETURN;
            END IF;
            channel := m.channel;
            event := m.payload;
            RETURN NEXT;
        END LOOP;
    END LOOP;
    RAISE 'the end did not come';
END$$;
-- What came, with all masked that is another in each run.
CREATE FUNCTION pg_temp.events(OUT channel text, OUT event text) RETURNS SETOF record LANGUAGE sql AS $$
    SELECT channel,
           replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(event,
               '"id":"\d+-\d+"', '"id":"#"', 'g'),
               '"(txid|txId|pid|ts_ms)":\d+', '"\1":0', 'g'),
               '"(ts|time)":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00"', '"\1":"#"', 'g'),
               '"txid":0,"pid":0,"ts":"#"', '...'),
               pg_my_temp_schema()::regnamespace::text, 'pg_temp')
      FROM pg_temp.received()
$$;
-- Publish "end", and show what came before it.
\set events 'DO $$BEGIN PERFORM pgpubsub.publish(\'end\', \'\'); END$$; SELECT * FROM pg_temp.events();'

-- Make an event with each value of pgpubsub.max_payload from 4 less than length to
-- 4 more; all in one transaction, so that the event has the same size each time,
-- or 2 more than length, where the transaction's number has a digit more than that
-- of the one that found the length.
CREATE FUNCTION pg_temp.try_sizes(statement text, length int) RETURNS void LANGUAGE plpgsql AS $$BEGIN
    FOR i IN 1 .. 9 LOOP
        PERFORM set_config('pgpubsub.max_payload', (length - 5 + i)::text, true);
        EXECUTE statement;
    END LOOP;
    PERFORM pgpubsub.publish('end', '');
END$$;
-- Which of those events came whole: the ones that max_payload had room for.
CREATE FUNCTION pg_temp.sizes(length int, OUT events bigint, OUT to_the_byte boolean, OUT some_whole boolean, OUT some_not boolean) LANGUAGE sql AS $$
    WITH e AS MATERIALIZED (
        SELECT octet_length(event) AS size, event !~ '"truncated":true\}$' AS whole,
               length - 5 + split_part(event::jsonb ->> 'id', '-', 2)::int AS max_payload
          FROM pg_temp.received()
    ), s AS (SELECT max(size) FILTER (WHERE whole) AS size FROM e)
    SELECT count(*), bool_and(CASE WHEN e.whole THEN e.size = s.size AND e.size <= e.max_payload ELSE e.max_payload < s.size END),
           bool_or(e.whole), bool_or(NOT e.whole)
      FROM e, s
$$;
\set ECHO all
