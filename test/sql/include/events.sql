\set ECHO none
--
-- events: show what has been published since the last time.  The including
-- test has a subscription regress_events, of all channels, and the search path
-- for the functions.
--
-- what came on the channels since last time; "end" is published after the
-- events and ends them
CREATE FUNCTION received(OUT channel text, OUT event text) RETURNS SETOF record LANGUAGE plpgsql AS $$
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
-- the same with what varies masked
CREATE FUNCTION events(OUT channel text, OUT event text) RETURNS SETOF record LANGUAGE sql AS $$
    SELECT channel,
           replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(event,
               '"id":"\d+-\d+"', '"id":"#"', 'g'),
               '"(txid|txId|pid|ts_ms)":\d+', '"\1":0', 'g'),
               '"(ts|time)":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00"', '"\1":"#"', 'g'),
               '"txid":0,"pid":0,"ts":"#"', '...'),
               coalesce(nullif(pg_my_temp_schema(), 0)::regnamespace::text, 'pg_temp'), 'pg_temp')
      FROM received()
$$;
\set events 'DO $$BEGIN PERFORM pgpubsub.publish(\'end\', \'\'); END$$; SELECT * FROM events();'
\set ECHO all
