/* sql/pgpubsub--1.0--1.1.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION pgpubsub UPDATE TO '1.1'" to load this file. \quit

--
-- Publish
--

--
-- Subscribe
--

-- Rows that are there were made here.  By way of a default, which writes none.
DO $$
BEGIN
    EXECUTE pg_catalog.format('ALTER TABLE pgpubsub.subscription ADD COLUMN made_in pg_catalog.oid DEFAULT %s',
        (SELECT d.oid FROM pg_catalog.pg_database AS d
          WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()));
    ALTER TABLE pgpubsub.subscription ALTER COLUMN made_in DROP DEFAULT;
END $$;

COMMENT ON COLUMN pgpubsub.subscription.made_in IS
'oid of the database that it was made in, or was last polled in; elsewhere, as in a copy of that database, it holds nobody until it is polled. Not to be given by hand: what is given becomes 0, which is no database, as pg_restore has it from another one';

CREATE FUNCTION pgpubsub.subscription_inserted() RETURNS trigger
    AS 'MODULE_PATHNAME', 'pgpubsub_subscription_inserted'
    LANGUAGE C;

COMMENT ON FUNCTION pgpubsub.subscription_inserted() IS
'row trigger of pgpubsub.subscription: sets made_in, to this database where it is not given, else to 0. Errors: 39P01 called otherwise';

CREATE TRIGGER subscription_inserted
    BEFORE INSERT ON pgpubsub.subscription
    FOR EACH ROW EXECUTE FUNCTION pgpubsub.subscription_inserted();

COMMENT ON TRIGGER subscription_inserted ON pgpubsub.subscription IS
'tells rows that pg_restore brings from those that somebody writes by hand';

--
-- Monitor
--

COMMENT ON COLUMN pgpubsub.stat_subscriptions.state IS
'waiting (in poll), reading, idle, holding (the full queue waits for it) or evicted (holds nothing until it is polled: the queue was full for too long, or it was made in another database, of which this is a copy)';

--
-- Privileges
--

REVOKE ALL ON FUNCTION pgpubsub.subscription_inserted() FROM PUBLIC;
