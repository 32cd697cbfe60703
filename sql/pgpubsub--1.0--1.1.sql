/* sql/pgpubsub--1.0--1.1.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION pgpubsub UPDATE TO '1.1'" to load this file. \quit

--
-- Publish
--

COMMENT ON FUNCTION pgpubsub.attach(regclass, text, text[], name[], name[], text, text, text, text, text) IS
'create the triggers that publish the table''s changes on the channel, in place of those that it has for this channel; returns the channel. Where exactly these stand, nothing changes, and no lock on the table is kept.
channel: 1 to 63 bytes, no *; NULL: the table''s name. operations: insert, update, delete, truncate. columns: what new, old and changed show; NULL: all; the key is shown in any case. watch: an UPDATE is an event only if the stored value of one of these changed. condition: a boolean expression over NEW and OLD, as in CREATE TRIGGER ... WHEN.
old_values: what old shows: none, key, changed (of an UPDATE the columns that changed, of a DELETE the whole row) or full. level: row (one event per row) or statement (one per statement). format: plain, debezium or cloudevents. publish_mode: transactional or async; NULL: the setting, at run time.
Needs TRIGGER on the table; to replace triggers, its ownership.
Errors: 0A000 level statement with a condition, format debezium or a foreign table, be it a partition or child, or a hypertable, a virtual column, another session''s temporary table, or a condition that pg_dump would not keep; 22004 a null; 2202E an array of more than one dimension; 22023 a bad value, an empty array or one with duplicates; 25006 standby or read-only transaction; 42501 no privilege; 42601 the condition is not one expression; 42703 and 42P10 no such column, or a system column; 42710 attached through its parent, or a partition is attached to the channel by itself; 42809 not a table; 42939 reserved channel; 42P01 no such relation; 42P17 the condition names a row that an operation lacks';

COMMENT ON FUNCTION pgpubsub.detach(regclass, text) IS
'drop the triggers that publish the table''s changes on the channel, or on any if it is NULL; returns how many that were, not counting their clones on partitions and hypertables'' chunks. Touches no other trigger.
Needs the table''s ownership.
Errors: 22004 relation is null, 2BP01 attached through its parent, 42501 not the owner, 42809 not a table, 42P01 no such relation';

-- Operators below are found by exact types, so in pg_catalog: somebody may have
-- made the schema, with operators in it, before the extension.  "h" is the
-- trigger that a trigger of an inheriting table was cloned from, by the rule of
-- trigger_clones.c.
CREATE OR REPLACE VIEW pgpubsub.attachments AS
    SELECT t.tgrelid::pg_catalog.regclass AS relation,
           t.tgname AS trigger,
           COALESCE(a.arguments ->> 'channel'::pg_catalog.text, c.relname::pg_catalog.text) AS channel,
           CASE WHEN t.tgtype::pg_catalog.int4 & 1 <> 0
                THEN 'row' ELSE 'statement' END AS level,
           pg_catalog.array_remove(ARRAY[
               CASE WHEN t.tgtype::pg_catalog.int4 & 4 <> 0 THEN 'insert' END,
               CASE WHEN t.tgtype::pg_catalog.int4 & 16 <> 0 THEN 'update' END,
               CASE WHEN t.tgtype::pg_catalog.int4 & 8 <> 0 THEN 'delete' END,
               CASE WHEN t.tgtype::pg_catalog.int4 & 32 <> 0 THEN 'truncate' END
           ], NULL) AS operations,
           (a.arguments - 'channel'::pg_catalog.text)
               OPERATOR(pg_catalog.||) CASE WHEN d.condition IS NULL THEN '{}'::pg_catalog.jsonb
                   ELSE pg_catalog.jsonb_build_object('condition', d.condition) END
               OPERATOR(pg_catalog.||) CASE t.tgenabled
                   WHEN 'A'::pg_catalog."char" THEN '{"enable": "always"}'::pg_catalog.jsonb
                   WHEN 'R'::pg_catalog."char" THEN '{"enable": "replica"}'::pg_catalog.jsonb
                   ELSE '{}'::pg_catalog.jsonb END AS options,
           t.tgenabled <> 'D'::pg_catalog."char" AS enabled
      FROM pg_catalog.pg_trigger AS t
      JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
      LEFT JOIN pg_catalog.pg_trigger AS p ON p.oid = t.tgparentid
      LEFT JOIN LATERAL (
          SELECT q.tgenabled
            FROM pg_catalog.pg_inherits AS i
            JOIN pg_catalog.pg_trigger AS q ON q.tgrelid = i.inhparent AND q.tgname = t.tgname
           WHERE i.inhrelid = t.tgrelid AND NOT c.relispartition
             AND t.tgtype::pg_catalog.int4 & 1 <> 0
             AND q.tgtype = t.tgtype AND q.tgfoid = t.tgfoid AND q.tgargs = t.tgargs
           ORDER BY i.inhseqno
           LIMIT 1) AS h ON true
     CROSS JOIN LATERAL pgpubsub.trigger_options(t.tgargs) AS a(arguments)
     CROSS JOIN LATERAL (
         SELECT CASE WHEN t.tgqual IS NOT NULL
                     THEN pgpubsub.trigger_condition(t.oid) END) AS d(condition)
     WHERE t.tgfoid = 'pgpubsub.notify_change()'::pg_catalog.regprocedure::pg_catalog.oid
       AND NOT t.tgisinternal
       AND (COALESCE(p.tgenabled, h.tgenabled) IS NULL OR COALESCE(p.tgenabled, h.tgenabled) <> t.tgenabled);

COMMENT ON VIEW pgpubsub.attachments IS
'the triggers that publish changes: one row each, without those that a partition, or a hypertable''s chunk, has from its parent, unless they are disabled or enabled in another way than the parent''s';

--
-- Subscribe
--

--
-- Monitor
--

--
-- Privileges
--
