-- The database "pgq": PgQ's own trigger writes the rows to a queue as JSON.

CREATE EXTENSION pgq;
SELECT pgq.create_queue(queue) FROM unnest('{orders,latency,away}'::text[]) AS queue;

-- Each time that its ticker looks, it makes a batch of what there is.  Without
-- an idle period of 0, an event that commits just after a tick could wait for a
-- minute.
SELECT pgq.set_queue_config(queue, parameter, value)
  FROM unnest('{orders,latency,away}'::text[]) AS queue,
       (VALUES ('ticker_max_lag', '0'), ('ticker_max_count', '1'), ('ticker_idle_period', '0')) AS v(parameter, value);

CREATE SCHEMA pgq_rows;
SET search_path = pgq_rows;
\ir tables.sql
CREATE TRIGGER to_queue AFTER INSERT OR UPDATE ON orders
    FOR EACH ROW EXECUTE FUNCTION pgq.jsontriga('orders');
CREATE TRIGGER to_queue AFTER INSERT OR UPDATE ON bulk_orders
    FOR EACH ROW EXECUTE FUNCTION pgq.jsontriga('orders');

-- The next batch, as a consumer takes it, in one round trip.
CREATE FUNCTION public.take_batch(queue text, consumer text)
RETURNS TABLE (id bigint, channel text, payload text, pid integer) LANGUAGE plpgsql AS $$
DECLARE
    batch bigint := pgq.next_batch(queue, consumer);
BEGIN
    IF batch IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY SELECT e.ev_id, e.ev_type, e.ev_data, 0 FROM pgq.get_batch_events(batch) AS e;
    PERFORM pgq.finish_batch(batch);
END $$;

CREATE PROCEDURE public.fill(events int) LANGUAGE plpgsql AS $$
BEGIN
    FOR base IN 1 .. events BY 1000 LOOP
        PERFORM count(pgq.insert_event('away', CASE WHEN i % 10000 = 0 THEN 'rare' ELSE 'away' END, rpad(i::text, 300, '.')))
           FROM generate_series(base, base + 999) AS i;
        COMMIT;
    END LOOP;
END $$;
