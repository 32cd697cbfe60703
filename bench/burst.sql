-- psql -v channel=NAME -v channels=N -v count=N: publish that many events of
-- 100 bytes in one transaction, on one channel or on NAME_0, NAME_1 ..., and
-- print how many seconds after its commit the relay has appended all of them.

SELECT set_config('bench.goal', (published + :count)::text, false)
  FROM pgpubsub.stat_queue WHERE datname = current_database() \g /dev/null
SELECT count(pgpubsub.publish(:'channel' || CASE WHEN :channels > 1 THEN '_' || i % :channels ELSE '' END,
                              rpad(i::text, 100, '.')))
  FROM generate_series(1, :count) AS i \g /dev/null
SELECT clock_timestamp() AS committed \gset
DO $$
BEGIN
    WHILE (SELECT published FROM pgpubsub.stat_queue WHERE datname = current_database())
        < current_setting('bench.goal')::bigint
    LOOP
        PERFORM pg_sleep(0.001);
    END LOOP;
END $$;
SELECT extract(epoch FROM clock_timestamp() - :'committed'::timestamptz);
