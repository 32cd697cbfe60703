-- The database "durable": as "pubsub", with durable channels, and with what the
-- section "catch-up" reads.

CREATE EXTENSION pgpubsub;
CREATE SCHEMA rows;

SET search_path = rows;
\ir tables.sql
SELECT pgpubsub.attach('orders', durable => true), pgpubsub.attach('bulk_orders', 'orders'),
       pgpubsub.set_durable('latency'), pgpubsub.set_durable('away'), pgpubsub.set_durable('rare');

-- Publish so many events of 300 bytes, 1,000 a transaction; of 10,000 one goes
-- to the rare channel.
CREATE PROCEDURE public.fill(events int) LANGUAGE plpgsql AS $$
BEGIN
    FOR base IN 1 .. events BY 1000 LOOP
        PERFORM count(pgpubsub.publish(CASE WHEN i % 10000 = 0 THEN 'rare' ELSE 'away' END, rpad(i::text, 300, '.')))
           FROM generate_series(base, base + 999) AS i;
        COMMIT;
    END LOOP;
END $$;
