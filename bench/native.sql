-- The database "native": without pgpubsub, so that nobody's native figures
-- are charged for the relay.  One schema per variant, each with the same
-- tables; a session finds its variant through search_path.

CREATE EXTENSION tcn;
SELECT format('CREATE SCHEMA %I', variant) FROM unnest('{none,plpgsql,plpgsql_event,tcn}'::text[]) AS variant
\gexec

SET search_path = none;
\ir tables.sql

SET search_path = plpgsql;
\ir tables.sql
CREATE FUNCTION notify_orders() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('orders', json_build_object('op', TG_OP, 'new', row_to_json(NEW))::text);
    RETURN NULL;
END $$;
CREATE TRIGGER notify AFTER INSERT OR UPDATE ON orders
    FOR EACH ROW EXECUTE FUNCTION notify_orders();
CREATE TRIGGER notify AFTER INSERT OR UPDATE ON bulk_orders
    FOR EACH ROW EXECUTE FUNCTION notify_orders();

-- with the fields that pgpubsub's events have
SET search_path = plpgsql_event;
\ir tables.sql
CREATE FUNCTION notify_orders() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('orders', json_build_object('op', TG_OP, 'schema', TG_TABLE_SCHEMA, 'table', TG_TABLE_NAME,
        'key', json_build_object('id', NEW.id), 'new', row_to_json(NEW),
        'txid', pg_current_xact_id(), 'pid', pg_backend_pid(), 'ts', clock_timestamp())::text);
    RETURN NULL;
END $$;
CREATE TRIGGER notify AFTER INSERT OR UPDATE ON bulk_orders
    FOR EACH ROW EXECUTE FUNCTION notify_orders();

SET search_path = tcn;
\ir tables.sql
CREATE TRIGGER notify AFTER INSERT OR UPDATE ON orders
    FOR EACH ROW EXECUTE FUNCTION public.triggered_change_notification('orders');
CREATE TRIGGER notify AFTER INSERT OR UPDATE ON bulk_orders
    FOR EACH ROW EXECUTE FUNCTION public.triggered_change_notification('orders');
