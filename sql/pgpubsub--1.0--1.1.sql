/* sql/pgpubsub--1.0--1.1.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION pgpubsub UPDATE TO '1.1'" to load this file. \quit

--
-- Publish
--

--
-- Subscribe
--

CREATE PROCEDURE pgpubsub.wait(
    subscription text,
    timeout      interval
)
    AS 'MODULE_PATHNAME', 'pgpubsub_wait'
    LANGUAGE C;

COMMENT ON PROCEDURE pgpubsub.wait(text, interval) IS
'wait until the subscription has something to poll (an event or a gap), or for timeout, at most pgpubsub.max_poll_wait; poll at once behind it, without a timeout.
Unlike a poll that waits it holds no snapshot, so that CREATE INDEX CONCURRENTLY and VACUUM do not wait for it; it holds a pooled connection. So it ends the transaction that it is called in, and cannot run in a transaction block, a function or a block with EXCEPTION.
It claims nothing: several sessions may wait for one subscription; while another session reads that, they wait too.
Errors: 22004 a null, 22023 bad name or negative timeout, 25001 in a transaction block, 25006 standby, 42501 not the owner, 42704 no such subscription (any more), 55000 not preloaded or no relay';

--
-- Monitor
--

COMMENT ON COLUMN pgpubsub.stat_subscriptions.state IS 'waiting (in poll or CALL wait), reading, idle, holding (the full queue waits for it) or evicted';
COMMENT ON COLUMN pgpubsub.stat_subscriptions.pid IS 'session that reads it, or one that waits for it; NULL when none does';

--
-- Privileges
--

REVOKE ALL ON PROCEDURE pgpubsub.wait(text, interval) FROM PUBLIC;
