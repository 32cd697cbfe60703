/* sql/pgpubsub--1.0--1.1.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION pgpubsub UPDATE TO '1.1'" to load this file. \quit

--
-- Publish
--

--
-- Subscribe
--

CREATE FUNCTION pgpubsub.subscription_replicated() RETURNS trigger
    AS 'MODULE_PATHNAME', 'pgpubsub_subscription_replicated'
    LANGUAGE C;

COMMENT ON FUNCTION pgpubsub.subscription_replicated() IS
'trigger of pgpubsub.subscription: discards what logical replication would do to the table, so that a database keeps its own subscriptions. Errors: 39P01 called otherwise';

CREATE TRIGGER discard_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON pgpubsub.subscription
    FOR EACH ROW EXECUTE FUNCTION pgpubsub.subscription_replicated();
CREATE TRIGGER keep_from_truncate
    BEFORE TRUNCATE ON pgpubsub.subscription
    FOR EACH STATEMENT EXECUTE FUNCTION pgpubsub.subscription_replicated();
CREATE TRIGGER keep_after_truncate
    AFTER TRUNCATE ON pgpubsub.subscription
    FOR EACH STATEMENT EXECUTE FUNCTION pgpubsub.subscription_replicated();
ALTER TABLE pgpubsub.subscription
    ENABLE ALWAYS TRIGGER discard_replicated,
    ENABLE ALWAYS TRIGGER keep_from_truncate,
    ENABLE ALWAYS TRIGGER keep_after_truncate;

COMMENT ON TRIGGER discard_replicated ON pgpubsub.subscription IS
'discards rows that come by logical replication, its initial copy included';
COMMENT ON TRIGGER keep_from_truncate ON pgpubsub.subscription IS
'keeps the rows aside when logical replication truncates the table';
COMMENT ON TRIGGER keep_after_truncate ON pgpubsub.subscription IS
'puts them back';

--
-- Monitor
--

--
-- Privileges
--

REVOKE ALL ON FUNCTION pgpubsub.subscription_replicated() FROM PUBLIC;
