\set ECHO none
--
-- settle(): return once the relay has queued all that was committed before.
-- The including test has the subscription regress_settle, of the channel of
-- that name.
--
CREATE PROCEDURE pg_temp.settle()
LANGUAGE plpgsql AS $$
DECLARE
    marker   text := clock_timestamp();
    deadline timestamptz := clock_timestamp() + '30 s';
    found_it boolean := false;
BEGIN
    PERFORM pgpubsub.publish('regress_settle', marker);
    COMMIT;
    WHILE NOT found_it LOOP
        ASSERT clock_timestamp() < deadline, 'the relay delivers nothing';
        SELECT count(*) > 0 INTO found_it
          FROM (SELECT payload FROM pgpubsub.poll('regress_settle', 100, '10 s')) AS p
         WHERE payload = marker;
        COMMIT;
    END LOOP;
END $$;
\set ECHO all
