-- What to watch of pgpubsub: one query for each set of metrics.
--
-- The files for exporters beside this one are made of it by scripts/monitoring.
-- It runs in psql as it is, in any database that has the extension; the role
-- needs pg_monitor, and USAGE on the schema pgpubsub.  A query's first line names
-- the set; each column says what it is: LABEL, GAUGE or COUNTER.  Names, with
-- the set's in front, are those of OpenMetrics; units are seconds and bytes.

-- set pgpubsub_queue: the queue of each database that has pgpubsub, and its relay
SELECT
    datname,                                                                    -- LABEL The database.
    (relay_state IN ('listening', 'full'))::int AS relay_up,                    -- GAUGE Whether the relay is at work.
    (relay_state = 'full')::int AS full,                                        -- GAUGE Whether writers wait for room in the queue.
    queue_size AS size_bytes,                                                   -- GAUGE The size of the queue.
    used_bytes,                                                                 -- GAUGE What events take of it, read or not: it grows to the size, and stays there.
    messages,                                                                   -- GAUGE Events in the queue, read or not.
    published AS published_total,                                               -- COUNTER Events that were queued.
    published_bytes AS published_bytes_total,                                   -- COUNTER Bytes of their payloads.
    delivered AS delivered_total,                                               -- COUNTER Events that subscriptions have consumed.
    delivered_bytes AS delivered_bytes_total,                                   -- COUNTER Bytes of their payloads.
    lost AS lost_total,                                                         -- COUNTER Events that subscriptions were told to have missed.
    truncated AS truncated_total,                                               -- COUNTER Change events that were too long, and went without values.
    full_count AS full_total,                                                   -- COUNTER How often the queue was full.
    full_ms / 1000.0 AS full_seconds_total,                                     -- COUNTER For how long.
    evictions AS evictions_total,                                               -- COUNTER Subscriptions that were evicted.
    bad_frames AS bad_frames_total,                                             -- COUNTER Malformed parts of long events that were dropped.
    staging_size AS staging_size_bytes,                                         -- GAUGE The size of the staging queue.
    staging_used_bytes,                                                         -- GAUGE What of it is in use.
    notify_queue_usage AS notify_queue_usage_ratio,                             -- GAUGE Which part of the server's own NOTIFY queue is in use.
    relay_restarts AS relay_restarts_total,                                     -- COUNTER How often the relay came back.
    relay_delays AS relay_delay_seconds_count,                                  -- COUNTER Events that are async or durable, on their way from the commit into the queue.
    relay_delay_ms / 1000.0 AS relay_delay_seconds_sum,                         -- COUNTER How long that took them in all.
    reader_delays AS reader_delay_seconds_count,                                -- COUNTER Events that were consumed.
    reader_delay_ms / 1000.0 AS reader_delay_seconds_sum                        -- COUNTER How long they were in the queue, or in the log, until then.
  FROM pgpubsub.stat_queue;

-- set pgpubsub_log: the log of each database's durable channels
SELECT
    datname,                                                                    -- LABEL The database.
    log_size AS size_bytes,                                                     -- GAUGE The size that the log may have.
    used_bytes,                                                                 -- GAUGE The size that it has on disk.
    segments,                                                                   -- GAUGE How many of its eight segments are in use.
    (held_by IS NOT NULL)::int AS held,                                         -- GAUGE Whether a subscription keeps the oldest segment.
    coalesce(extract(epoch FROM now() - oldest_at), 0)::float8 AS oldest_seconds, -- GAUGE The age of the oldest event in it.
    appended AS appended_total,                                                 -- COUNTER Events that were logged.
    appended_bytes AS appended_bytes_total,                                     -- COUNTER Bytes of their payloads.
    read_back AS read_back_total,                                               -- COUNTER Events that were read from the log rather than from the queue.
    rotations AS rotations_total,                                               -- COUNTER How often it went on to another segment.
    full_count AS full_total                                                    -- COUNTER How often it was full.
  FROM pgpubsub.stat_log;

-- set pgpubsub_channel: the channels, those with the most events first
SELECT
    datname,                                                                    -- LABEL The database.
    channel,                                                                    -- LABEL The channel.
    subscriptions,                                                              -- GAUGE Subscriptions that read the channel.
    messages,                                                                   -- GAUGE Events of the channel in the queue.
    published AS published_total,                                               -- COUNTER Events that were queued.
    published_bytes AS published_bytes_total,                                   -- COUNTER Bytes of their payloads.
    delivered AS delivered_total,                                               -- COUNTER Events that subscriptions have consumed.
    lost AS lost_total,                                                         -- COUNTER Events that subscriptions have missed.
    truncated AS truncated_total                                                -- COUNTER Events that were too long and were cut.
  FROM pgpubsub.stat_channels
 ORDER BY published DESC, datname, channel
 LIMIT 1000;

-- set pgpubsub_subscription: the subscriptions, those furthest behind first
SELECT
    datname,                                                                    -- LABEL The database.
    subscription,                                                               -- LABEL The subscription.
    on_full,                                                                    -- LABEL What a full queue does to it: drop, evict or block.
    (state = 'holding')::int AS holding,                                        -- GAUGE Whether the full queue waits for it.
    (state = 'evicted')::int AS evicted,                                        -- GAUGE Whether it was evicted, and was not polled since.
    (pid IS NOT NULL)::int AS connected,                                        -- GAUGE Whether a session reads it, or waits for it.
    from_log::int AS from_log,                                                  -- GAUGE Whether its next event is read from the log.
    pending,                                                                    -- GAUGE Events that wait for it.
    pending_bytes,                                                              -- GAUGE Bytes of their payloads.
    coalesce(oldest_pending_seconds, 0) AS lag_seconds,                         -- GAUGE How long the oldest of these waits.
    delivered AS delivered_total,                                               -- COUNTER Events that it has consumed.
    delivered_bytes AS delivered_bytes_total,                                   -- COUNTER Bytes of their payloads.
    lost AS lost_total,                                                         -- COUNTER Events that it has missed, as far as their number is known.
    polls AS polls_total,                                                       -- COUNTER Calls of poll().
    empty_polls AS empty_polls_total                                            -- COUNTER Calls of poll() that had nothing.
  FROM pgpubsub.stat_subscriptions
 ORDER BY pending DESC, datname, subscription
 LIMIT 1000;
