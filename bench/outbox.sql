-- The database "outbox": without pgpubsub; triggers insert events with the same
-- fields into a table, and a consumer deletes them there.  And the table
-- "plain", which has the events of the section "catch-up", to be read.

CREATE SCHEMA outbox;
SET search_path = outbox;
\ir tables.sql
CREATE TABLE outbox (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel text NOT NULL,
    payload text NOT NULL,
    pid     integer NOT NULL DEFAULT pg_backend_pid()
);
CREATE FUNCTION to_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox.outbox (channel, payload)
    VALUES ('orders', json_build_object('op', TG_OP, 'schema', TG_TABLE_SCHEMA, 'table', TG_TABLE_NAME,
        'key', json_build_object('id', NEW.id), 'new', row_to_json(NEW),
        'txid', pg_current_xact_id(), 'pid', pg_backend_pid(), 'ts', clock_timestamp())::text);
    RETURN NULL;
END $$;
CREATE TRIGGER to_outbox AFTER INSERT OR UPDATE ON orders
    FOR EACH ROW EXECUTE FUNCTION to_outbox();
CREATE TRIGGER to_outbox AFTER INSERT OR UPDATE ON bulk_orders
    FOR EACH ROW EXECUTE FUNCTION to_outbox();

CREATE TABLE public.plain (
    id      bigint GENERATED ALWAYS AS IDENTITY,
    channel text NOT NULL,
    payload text NOT NULL,
    pid     integer NOT NULL DEFAULT pg_backend_pid()
);
CREATE INDEX ON public.plain (channel, id);

CREATE PROCEDURE public.fill(events int) LANGUAGE plpgsql AS $$
BEGIN
    FOR base IN 1 .. events BY 1000 LOOP
        INSERT INTO outbox.outbox (channel, payload)
        SELECT CASE WHEN i % 10000 = 0 THEN 'rare' ELSE 'away' END, rpad(i::text, 300, '.')
          FROM generate_series(base, base + 999) AS i;
        COMMIT;
    END LOOP;
END $$;
