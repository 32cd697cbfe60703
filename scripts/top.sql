-- One look of scripts/top.  The session's setting top.last has the numbers of the
-- look before, as JSON: when, and of each database what was published and delivered.
\set VERBOSITY terse
DO $$
BEGIN
    IF pg_catalog.to_regclass('pgpubsub.stat_queue') IS NULL THEN
        RAISE 'database "%" does not have the extension pgpubsub: connect to one that has it', current_database();
    END IF;
    IF NOT pg_has_role('pg_monitor', 'USAGE') THEN
        RAISE 'role "%" may not see what goes on: GRANT pg_monitor TO it', current_user;
    END IF;
END $$;

SELECT :'clear' || 'pgpubsub on ' || coalesce(host(inet_server_addr()), 'this machine') || ':' || current_setting('port')
       || ', ' || to_char(clock_timestamp(), 'HH24:MI:SS') || ', up '
       || date_trunc('second', clock_timestamp() - pg_postmaster_start_time()) || ', server ' || current_setting('server_version_num')::int / 10000
       || E'\n';

SELECT format('%-15s %-9s %8s %8s %8s %8s %7s %9s', 'QUEUE', 'relay', 'in/s', 'out/s', 'size', 'held', 'full', 'lost');
WITH now AS (
    SELECT q.*, extract(epoch FROM clock_timestamp())::float8 AS at,
           (nullif(current_setting('top.last', true), '')::jsonb) -> q.datname AS last
      FROM pgpubsub.stat_queue AS q
), held AS (
    SELECT datname, max(pending_bytes) FILTER (WHERE on_full <> 'drop' AND NOT from_log) AS bytes
      FROM pgpubsub.stat_subscriptions GROUP BY datname
), kept AS (
    SELECT set_config('top.last', jsonb_object_agg(datname,
               jsonb_build_object('at', at, 'published', published, 'delivered', delivered))::text, false)
      FROM now
)
SELECT format('%-15s %-9s %8s %8s %8s %7s%% %6ss %9s', left(datname, 15), relay_state,
              CASE WHEN last IS NOT NULL AND published >= (last ->> 'published')::bigint
                   THEN round((published - (last ->> 'published')::bigint) / nullif(at - (last ->> 'at')::float8, 0)) END,
              CASE WHEN last IS NOT NULL AND delivered >= (last ->> 'delivered')::bigint
                   THEN round((delivered - (last ->> 'delivered')::bigint) / nullif(at - (last ->> 'at')::float8, 0)) END,
              pg_size_pretty(queue_size), round(100.0 * coalesce(held.bytes, 0) / queue_size),
              full_ms / 1000, now.lost)
  FROM now LEFT JOIN held USING (datname), kept
 ORDER BY datname;

SELECT format(E'\n%-15s %-9s %8s %8s %8s %8s %-17s', 'LOG', 'segments', 'size', 'used', 'oldest', 'full', 'held by');
SELECT format('%-15s %-9s %8s %7s%% %7ss %8s %-17s', left(datname, 15), segments || ' of 8', pg_size_pretty(log_size),
              round(100.0 * used_bytes / log_size),
              coalesce(round(extract(epoch FROM clock_timestamp() - oldest_at)), 0), full_count, left(held_by, 17))
  FROM pgpubsub.stat_log ORDER BY datname;

SELECT format(E'\n%-17s %-8s %-7s %-7s %9s %8s %8s %9s', 'SUBSCRIPTION', 'state', 'on_full', 'pid', 'pending', 'bytes', 'behind', 'lost');
SELECT format('%-17s %-8s %-7s %-7s %9s %8s %7ss %9s',
              left(CASE WHEN datname = current_database() THEN subscription ELSE datname || '/' || subscription END, 17),
              state, on_full, pid, pending, replace(pg_size_pretty(pending_bytes), ' bytes', ' B'),
              coalesce(round(oldest_pending_seconds), 0), lost)
  FROM pgpubsub.stat_subscriptions
 ORDER BY state = 'holding' DESC, oldest_pending_seconds DESC NULLS LAST, datname, subscription
 LIMIT :rows;
