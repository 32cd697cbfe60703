/* The schema, where a version since 1.1 is installed afresh. */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION pgpubsub" to load this file. \quit

-- Nothing is to be found where somebody untrusted can make it.
SET LOCAL search_path TO pg_catalog, pg_temp;

-- One that is there already becomes the extension's own below.
DO $$
BEGIN
    IF pg_catalog.to_regnamespace('pgpubsub') IS NULL THEN
        CREATE SCHEMA pgpubsub;
    END IF;
END $$;

