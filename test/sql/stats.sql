--
-- The views add up.
--
\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
\i :include
SELECT pgpubsub.subscribe('regress_settle', '{regress_settle}', 'drop', temporary => true);
CREATE VIEW pg_temp.queue AS
SELECT * FROM pgpubsub.stat_queue WHERE datname = current_database();
CREATE VIEW pg_temp.channels AS
SELECT * FROM pgpubsub.stat_channels WHERE datname = current_database();
CREATE VIEW pg_temp.subscriptions AS
SELECT * FROM pgpubsub.stat_subscriptions
 WHERE datname = current_database() AND subscription <> 'regress_settle';

-- 400 events of so many bytes overrun the queue
SELECT pg_size_bytes(current_setting('pgpubsub.queue_size')) / 262 AS bytes \gset

SELECT pgpubsub.subscribe('regress_st1', '{st_a,st_b}', 'drop');
SELECT pgpubsub.subscribe('regress_st2', '{st_a}', 'evict');
SELECT pgpubsub.subscribe('regress_st3', '{st_*}', 'drop');
CALL pg_temp.settle();

-- one row for this database; what does not depend on what was published
SELECT count(*) FROM pg_temp.queue;
SELECT relay_pid = (SELECT pid FROM pg_stat_activity WHERE backend_type = 'pgpubsub relay' AND datname = current_database()) AS relay_pid,
       relay_state, queue_size = pg_size_bytes(current_setting('pgpubsub.queue_size')) AS queue_size,
       staging_size = pg_size_bytes(current_setting('pgpubsub.staging_size')) AS staging_size,
       staging_used_bytes, notify_queue_usage BETWEEN 0 AND 0.01 AS notify_queue_usage,
       relay_restarts >= 0 AS relay_restarts
  FROM pg_temp.queue;

-- stat_reset() zeroes the counters
SELECT clock_timestamp() AS before \gset
SELECT pgpubsub.stat_reset();
SELECT stats_reset BETWEEN :'before' AND clock_timestamp() AS stats_reset, published, published_bytes,
       full_count, full_ms, evictions, bad_frames, peak_used_bytes = used_bytes AS peak_is_now
  FROM pg_temp.queue;
SELECT count(*) > 0 AS some, max(published) AS published, max(published_bytes) AS published_bytes,
       max(delivered) AS delivered, max(lost) AS lost
  FROM pg_temp.channels;
SELECT max(delivered) AS delivered, max(delivered_bytes) AS delivered_bytes, max(lost) AS lost,
       max(polls) AS polls, max(empty_polls) AS empty_polls
  FROM pgpubsub.stat_subscriptions WHERE datname = current_database();

-- published
SELECT messages AS messages_before, used_bytes AS used_before FROM pg_temp.queue \gset
SELECT clock_timestamp() AS before \gset
BEGIN;
SELECT pgpubsub.publish('st_a', '12345'), pgpubsub.publish('st_b', '1234567890'), pgpubsub.publish('st_a', E'\u20ac');
SELECT pgpubsub.publish('st_c', repeat('c', 10000)), pgpubsub.publish('st_nobody', 'x');
COMMIT;
NOTIFY st_a, 'abc';
CALL pg_temp.settle();
SELECT channel, subscriptions, published, published_bytes, delivered, lost, messages >= published AS messages,
       last_at BETWEEN :'before' AND clock_timestamp() AS last_at
  FROM pg_temp.channels WHERE channel ~ '^st_' ORDER BY channel;
SELECT published, published_bytes = 5 + 10 + 3 + 10000 + 1 + 3 + s.bytes AS published_bytes
  FROM pg_temp.queue, (SELECT published_bytes AS bytes FROM pg_temp.channels WHERE channel = 'regress_settle') AS s;
SELECT q.published = sum(c.published) AS published, q.published_bytes = sum(c.published_bytes) AS bytes,
       q.messages = sum(c.messages) AS messages, q.newest_seq = max(c.newest_seq) AS newest_seq,
       max(c.last_at) > q.oldest_at AS oldest_at, q.oldest_seq < q.newest_seq AS oldest_seq
  FROM pg_temp.queue AS q, pg_temp.channels AS c
 GROUP BY q.published, q.published_bytes, q.messages, q.newest_seq, q.oldest_at, q.oldest_seq;
SELECT used_bytes BETWEEN 1 AND queue_size AS used, peak_used_bytes BETWEEN used_bytes AND queue_size AS peak
  FROM pg_temp.queue;

-- pending
SELECT subscription, owner = current_user::regrole AS mine, channels, on_full, state, pid, seq, pending, pending_bytes,
       oldest_pending_at BETWEEN :'before' AND clock_timestamp() AS oldest_pending_at,
       delivered, delivered_bytes, lost, polls, empty_polls, created_at < :'before' AS created_at, last_poll_at
  FROM pg_temp.subscriptions ORDER BY subscription;
SELECT s.subscription, s.oldest_pending_at = p.relayed_at AS oldest, s.pending = p.count AS count, s.pending_bytes = p.bytes AS bytes
  FROM pg_temp.subscriptions AS s,
       LATERAL (SELECT min(relayed_at) AS relayed_at, count(*), sum(octet_length(payload)) AS bytes
                  FROM pgpubsub.poll(s.subscription, consume => false)) AS p
 ORDER BY s.subscription;

-- delivered: at commit; a look delivers nothing, but it is a poll
BEGIN;
SELECT count(*) FROM pgpubsub.poll('regress_st1', 2);
ROLLBACK;
BEGIN;
SELECT count(*), max(seq) AS last_seq FROM pgpubsub.poll('regress_st1', 3) \gset
SELECT state, pid = pg_backend_pid() AS my_pid, delivered, pending, seq FROM pg_temp.subscriptions WHERE subscription = 'regress_st1';
COMMIT;
SELECT state, pid, delivered, delivered_bytes, pending, pending_bytes, seq = :last_seq AS seq, polls, empty_polls,
       last_poll_at BETWEEN :'before' AND clock_timestamp() AS last_poll_at
  FROM pg_temp.subscriptions WHERE subscription = 'regress_st1';
-- empty polls
SELECT count(*) FROM pgpubsub.poll('regress_st1');
SELECT count(*) FROM pgpubsub.poll('regress_st1');
SELECT count(*) FROM pgpubsub.poll('regress_st1', 1, '1 ms');
SELECT polls, empty_polls, pending, pending_bytes, oldest_pending_at, delivered, delivered_bytes
  FROM pg_temp.subscriptions WHERE subscription = 'regress_st1';
SELECT count(*) FROM pgpubsub.poll('regress_st2', 2);
SELECT pgpubsub.ack('regress_st3', newest_seq) FROM pg_temp.queue;
SELECT subscription, delivered, delivered_bytes, pending, pending_bytes, lost FROM pg_temp.subscriptions ORDER BY subscription;
SELECT channel, delivered, lost FROM pg_temp.channels WHERE channel ~ '^st_' ORDER BY channel;
-- everything that was published was delivered or waits, for everybody
SELECT sum(delivered + pending + lost) AS by_subscription FROM pg_temp.subscriptions;
SELECT sum(published * subscriptions) AS by_channel FROM pg_temp.channels WHERE channel ~ '^st_';
SELECT sum(delivered) = (SELECT sum(delivered) FROM pg_temp.channels WHERE channel ~ '^st_') AS same FROM pg_temp.subscriptions;

-- lost: counted when it happens, not when it is read
SELECT pgpubsub.subscribe('regress_st2', '{st_a}', 'drop');
BEGIN;
SELECT count(pgpubsub.publish('st_a', n || repeat('.', :bytes))) FROM generate_series(1, 400) AS n;
COMMIT;
CALL pg_temp.settle();
SELECT messages AS st_a_messages FROM pg_temp.channels WHERE channel = 'st_a' \gset
SELECT subscription, pending = :st_a_messages AS pending, pending + lost AS together,
       pending_bytes = pending * (:bytes + 3) AS bytes
  FROM pg_temp.subscriptions ORDER BY subscription;
SELECT channel, lost = 400 * 3 + 1 - 3 * :st_a_messages AS lost FROM pg_temp.channels WHERE channel = 'st_a';
SELECT lost AS lost_before FROM pg_temp.subscriptions WHERE subscription = 'regress_st1' \gset
SELECT max(lost) = :lost_before AS gap_is_lost FROM pgpubsub.poll('regress_st1', 1000);
SELECT count(*) > 100 AS some FROM pgpubsub.poll('regress_st2', 1000);
SELECT count(*) > 100 AS some FROM pgpubsub.poll('regress_st3', 1000);
SELECT subscription, delivered + lost AS together, pending FROM pg_temp.subscriptions ORDER BY subscription;
SELECT lost = :lost_before AS still FROM pg_temp.subscriptions WHERE subscription = 'regress_st1';
SELECT published, published * subscriptions = delivered + lost AS adds_up FROM pg_temp.channels WHERE channel = 'st_a';
-- the full queue: what is in it, not what went through
SELECT used_bytes > queue_size * 0.9 AND used_bytes <= queue_size AS full, peak_used_bytes BETWEEN used_bytes AND queue_size AS peak,
       messages < 300 AS messages, published > 400 AS published
  FROM pg_temp.queue;
SELECT q.messages = sum(c.messages) AS messages FROM pg_temp.queue AS q, pg_temp.channels AS c GROUP BY q.messages;

-- reset between: what was lost before stays out, also when it is read later
BEGIN;
SELECT count(pgpubsub.publish('st_a', n || repeat('.', :bytes))) FROM generate_series(1, 400) AS n;
COMMIT;
CALL pg_temp.settle();
SELECT pending AS pending_before FROM pg_temp.subscriptions WHERE subscription = 'regress_st1' \gset
SELECT pgpubsub.stat_reset();
SELECT subscription, lost, delivered, delivered_bytes, polls, empty_polls, pending = :pending_before AS pending FROM pg_temp.subscriptions ORDER BY subscription;
SELECT published, delivered, lost FROM pg_temp.channels WHERE channel = 'st_a';
SELECT count(*) - 1 = :pending_before AS rest, max(lost) + count(*) - 1 AS together FROM pgpubsub.poll('regress_st1', 1000);
SELECT lost, delivered = :pending_before AS delivered, polls, empty_polls FROM pg_temp.subscriptions WHERE subscription = 'regress_st1';
SELECT lost, delivered = :pending_before AS delivered FROM pg_temp.channels WHERE channel = 'st_a';
-- and what is lost after it counts
BEGIN;
SELECT count(pgpubsub.publish('st_a', n || repeat('.', :bytes))) FROM generate_series(1, 400) AS n;
COMMIT;
CALL pg_temp.settle();
SELECT lost + pending AS together FROM pg_temp.subscriptions WHERE subscription = 'regress_st1';
SELECT lost + pending = :pending_before + 400 AS together FROM pg_temp.subscriptions WHERE subscription = 'regress_st2';

-- a reset is no part of a transaction, and touches neither positions nor the queue
SELECT messages AS messages_before, newest_seq AS newest_before FROM pg_temp.queue \gset
BEGIN;
SELECT pgpubsub.stat_reset();
ROLLBACK;
SELECT messages = :messages_before AS messages, newest_seq = :newest_before AS newest, published FROM pg_temp.queue;

-- unsubscribed: its row is gone, the channel's counters stay
SELECT max(lost) > 0 AS gap FROM pgpubsub.poll('regress_st1', 1000);
SELECT delivered AS delivered_before FROM pg_temp.channels WHERE channel = 'st_a' \gset
SELECT pgpubsub.unsubscribe('regress_st1');
SELECT subscriptions, delivered = :delivered_before AS delivered FROM pg_temp.channels WHERE channel = 'st_a';
SELECT subscription FROM pg_temp.subscriptions ORDER BY subscription;

SELECT pgpubsub.unsubscribe('regress_st2'), pgpubsub.unsubscribe('regress_st3'), pgpubsub.unsubscribe('regress_settle');

-- whoever looks finds what is pending without passing over what is not
SELECT pgpubsub.subscribe('regress_settle', '{regress_settle}', 'drop', temporary => true);
SELECT pgpubsub.subscribe('regress_st1', '{st_far}', 'drop');
SELECT pgpubsub.subscribe('regress_st2', '{st_f*}', 'drop');
BEGIN;
SELECT count(pgpubsub.publish('st_far', n::text)) FROM generate_series(1, 500) AS n;
COMMIT;
CALL pg_temp.settle();
SELECT max(seq) - 1 AS last_but_one FROM pgpubsub.poll('regress_st1', 500) \gset
SELECT pgpubsub.ack('regress_st2', :last_but_one);
-- nobody reads it: its place is right behind the newest event
SELECT pgpubsub.subscribe('regress_st3', '{st_far}', 'drop');
NOTIFY st_far, 'pending';
CALL pg_temp.settle();
\c
SET client_min_messages = debug1;
SELECT s.subscription, s.pending, s.pending_bytes, s.lost
  FROM pgpubsub.stat_subscriptions AS s
 WHERE s.datname = current_database() AND s.subscription ~ '^regress_st' ORDER BY s.subscription;
SELECT c.channel, c.lost FROM pgpubsub.stat_channels AS c
 WHERE c.datname = current_database() AND c.channel = 'st_far';
SELECT pgpubsub.stat_reset();
RESET client_min_messages;
SELECT pgpubsub.unsubscribe('regress_st1'), pgpubsub.unsubscribe('regress_st2'), pgpubsub.unsubscribe('regress_st3');
