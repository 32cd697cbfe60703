/* sql/pgpubsub--1.0--1.1.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION pgpubsub UPDATE TO '1.1'" to load this file. \quit

--
-- The schema
--
-- It becomes a part of the extension, which is dropped with it and is not in
-- pg_dump's output.  No extension can be in a schema that is its part, so it is
-- in pg_catalog from now on, as far as anybody asks.
--

SET LOCAL search_path TO pg_catalog, pg_temp;

DO $$
DECLARE
    extension  oid := (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'pgpubsub');
    namespace  oid := 'pgpubsub'::regnamespace;
    privileges aclitem[] := (SELECT p.initprivs FROM pg_init_privs AS p
                              WHERE p.classoid = 'pg_namespace'::regclass AND p.objoid = namespace);
BEGIN
    UPDATE pg_extension SET extnamespace = 'pg_catalog'::regnamespace WHERE oid = extension;
    DELETE FROM pg_depend
     WHERE classid = 'pg_extension'::regclass AND objid = extension
       AND refclassid = 'pg_namespace'::regclass;
    IF NOT EXISTS (SELECT FROM pg_depend AS d
                    WHERE d.classid = 'pg_namespace'::regclass AND d.objid = namespace
                      AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = extension) THEN
        ALTER EXTENSION pgpubsub ADD SCHEMA pgpubsub;

        -- pg_dump leaves out what was granted by the extension, nothing more
        UPDATE pg_init_privs SET initprivs = privileges
         WHERE classoid = 'pg_namespace'::regclass AND objoid = namespace
           AND privileges IS NOT NULL;
    END IF;
END $$;

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

-- The database's owner may dump the database, and restore it.
GRANT SELECT, INSERT ON TABLE pgpubsub.subscription TO pg_database_owner;
