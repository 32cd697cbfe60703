--
-- Who may do what, and see what.
--
\getenv inputdir PG_ABS_SRCDIR
\set include :inputdir '/sql/include/helpers.sql'
\i :include
SELECT pgpubsub.subscribe('regress_settle', '{regress_settle}', 'drop', temporary => true);
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_none, regress_publisher, regress_subscriber, regress_other,
    regress_member, regress_noinherit, regress_monitor, regress_dbowner, regress_super;
RESET client_min_messages;
CREATE ROLE regress_none;           -- no grant
CREATE ROLE regress_publisher;      -- may publish
CREATE ROLE regress_subscriber;     -- may subscribe, and owns the subscription
CREATE ROLE regress_other;          -- may subscribe too
CREATE ROLE regress_member IN ROLE regress_subscriber;
CREATE ROLE regress_noinherit NOINHERIT IN ROLE regress_subscriber;
CREATE ROLE regress_monitor IN ROLE pg_monitor;
CREATE ROLE regress_dbowner;
CREATE ROLE regress_super SUPERUSER;

-- the grants of doc/security.md
GRANT EXECUTE ON FUNCTION pgpubsub.publish(text, text) TO regress_publisher;
GRANT EXECUTE ON FUNCTION
    pgpubsub.subscribe(text, text[], text, text, boolean),
    pgpubsub.poll(text, bigint, interval, boolean),
    pgpubsub.ack(text, bigint),
    pgpubsub.unsubscribe(text)
TO regress_subscriber, regress_other, regress_noinherit, regress_dbowner;
SELECT current_database() AS database, pg_get_userbyid(datdba) AS database_owner
  FROM pg_database WHERE datname = current_database() \gset
ALTER DATABASE :"database" OWNER TO regress_dbowner;

-- What comes of a command when the role issues it: its result or its error.
-- Whatever it does is undone.
CREATE FUNCTION pg_temp.attempt(role name, command text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    result  text;
    message text;
BEGIN
    PERFORM set_config('role', role, true);
    EXECUTE command INTO result;
    RAISE SQLSTATE 'UNDO0';
EXCEPTION
    WHEN SQLSTATE 'UNDO0' THEN
        RETURN 'ok: ' || coalesce(result, '(null)');
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS message = MESSAGE_TEXT;
        RETURN SQLSTATE || ' ' || message;
END $$;
CREATE TEMP TABLE role (n serial, role name);
INSERT INTO role (role) VALUES ('regress_none'), ('regress_publisher'), ('regress_subscriber'),
    ('regress_other'), ('regress_member'), ('regress_noinherit'), ('regress_monitor'),
    ('regress_dbowner'), ('regress_super');

-- a subscription with one event
SET ROLE regress_subscriber;
SELECT pgpubsub.subscribe('regress_priv', '{priv}', 'drop');
RESET ROLE;
SELECT name, owner FROM pgpubsub.subscription;
SELECT pgpubsub.publish('priv', 'secret');
CALL pg_temp.settle();

-- publish: by grant
SELECT role, pg_temp.attempt(role, $$SELECT pgpubsub.publish('priv', 'x')$$) FROM role ORDER BY n;

-- make a subscription: by grant
SELECT role, pg_temp.attempt(role, $$SELECT pgpubsub.subscribe('regress_priv_new', '{priv}')$$) FROM role ORDER BY n;
-- with on_full => 'block': the database's owner, and superusers
SELECT role, pg_temp.attempt(role, $$SELECT pgpubsub.subscribe('regress_priv_new', '{priv}', 'block')$$) FROM role ORDER BY n;
-- an owner cannot give an old one 'block' either
SELECT role, pg_temp.attempt(role, $$SELECT pgpubsub.subscribe('regress_priv', '{priv}', 'block')$$) FROM role ORDER BY n;

-- poll, look, ack, change, drop: by grant, and only the owner's
SELECT role, pg_temp.attempt(role, $$SELECT payload FROM pgpubsub.poll('regress_priv')$$) FROM role ORDER BY n;
SELECT role, pg_temp.attempt(role, $$SELECT payload FROM pgpubsub.poll('regress_priv', consume => false)$$) FROM role ORDER BY n;
SELECT role, pg_temp.attempt(role, $$SELECT pgpubsub.ack('regress_priv', 0)$$) FROM role ORDER BY n;
SELECT role, pg_temp.attempt(role, $$SELECT pgpubsub.subscribe('regress_priv', '{priv,priv2}', 'drop')$$) FROM role ORDER BY n;
SELECT role, pg_temp.attempt(role, $$SELECT pgpubsub.subscribe('regress_priv', '{priv}', 'drop')$$) FROM role ORDER BY n;
SELECT role, pg_temp.attempt(role, $$SELECT pgpubsub.unsubscribe('regress_priv')$$) FROM role ORDER BY n;

-- a member without INHERIT may once it has become the role
SET SESSION AUTHORIZATION regress_noinherit;
SET ROLE regress_subscriber;
SELECT payload FROM pgpubsub.poll('regress_priv', consume => false);
RESET SESSION AUTHORIZATION;

-- the refusal's hint
SET ROLE regress_other;
SELECT * FROM pgpubsub.poll('regress_priv');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_priv_new', '{priv}', 'block');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;

-- reset the counters, start the relay: nobody without a grant
SELECT role, pg_temp.attempt(role, $$SELECT pgpubsub.stat_reset()$$) FROM role ORDER BY n;
SELECT role, pg_temp.attempt(role, $$SELECT pgpubsub.relay_start()$$) FROM role ORDER BY n;

-- attach and detach: by grant
CREATE TABLE regress_priv_table (id integer);
GRANT ALL ON regress_priv_table TO PUBLIC;
SELECT role, pg_temp.attempt(role, $$SELECT pgpubsub.attach('regress_priv_table', 'priv')$$) FROM role ORDER BY n;
SELECT role, pg_temp.attempt(role, $$SELECT pgpubsub.detach('regress_priv_table')$$) FROM role ORDER BY n;
-- a writer to an attached table needs nothing
SELECT pgpubsub.attach('regress_priv_table', 'priv');
SELECT role, pg_temp.attempt(role, $$INSERT INTO regress_priv_table VALUES (1) RETURNING id$$) FROM role ORDER BY n;
DROP TABLE regress_priv_table;

-- the views: pg_monitor sees all; subscriptions everybody sees their own
SELECT role, pg_temp.attempt(role, $$SELECT count(*) > 0 FROM pgpubsub.stat_queue$$) FROM role ORDER BY n;
SELECT role, pg_temp.attempt(role, $$SELECT count(*) > 0 FROM pgpubsub.stat_channels$$) FROM role ORDER BY n;
SELECT role, pg_temp.attempt(role, $$SELECT count(*) >= 0 FROM pgpubsub.attachments$$) FROM role ORDER BY n;
SELECT role, pg_temp.attempt(role, $$
    SELECT string_agg(format('%s of %s, %s pending', subscription, owner, pending), '; ')
      FROM pgpubsub.stat_subscriptions WHERE subscription = 'regress_priv'$$) FROM role ORDER BY n;
-- and the functions below them tell no more than the views
SELECT role, pg_temp.attempt(role, $$SELECT count(*) > 0 FROM pgpubsub.queue_stats()$$) FROM role ORDER BY n;
SELECT role, pg_temp.attempt(role, $$SELECT count(*) > 0 FROM pgpubsub.channel_stats()$$) FROM role ORDER BY n;
SELECT role, pg_temp.attempt(role, $$SELECT string_agg(subscription, ', ') FROM pgpubsub.subscription_stats() WHERE subscription = 'regress_priv'$$) FROM role ORDER BY n;

-- the table: pg_monitor, the database's owner and superusers read it, superusers
-- write it; the owner inserts, as pg_restore does
SELECT role, pg_temp.attempt(role, $$SELECT count(*) FROM pgpubsub.subscription$$) FROM role ORDER BY n;
SELECT role, pg_temp.attempt(role, $$INSERT INTO pgpubsub.subscription VALUES ('regress_new', 'regress_super', '{a}', 'drop') RETURNING name$$) FROM role ORDER BY n;
SELECT role, pg_temp.attempt(role, $$DELETE FROM pgpubsub.subscription RETURNING name$$) FROM role ORDER BY n;

-- settings
SELECT role, pg_temp.attempt(role, $$SELECT set_config('pgpubsub.max_payload', '2kB', true)$$) FROM role ORDER BY n;
SELECT role, pg_temp.attempt(role, $$SELECT set_config('pgpubsub.max_poll_wait', '1s', true)$$) FROM role ORDER BY n;
SELECT role, pg_temp.attempt(role, $$SELECT set_config('pgpubsub.publish_timeout', '1s', true)$$) FROM role ORDER BY n;
SELECT role, pg_temp.attempt(role, $$SELECT set_config('pgpubsub.muted', 'on', true)$$) FROM role ORDER BY n;

-- none of all that has changed anything
SELECT subscription, owner, channels, on_full, pending, delivered, lost
  FROM pgpubsub.stat_subscriptions WHERE subscription ~ '^regress_priv';
SELECT payload FROM pgpubsub.poll('regress_priv');

-- the owner stays the owner, whoever changes it
SELECT pgpubsub.subscribe('regress_priv', '{priv,priv2}', 'block');
SELECT owner, channels, on_full FROM pgpubsub.subscription WHERE name = 'regress_priv';
-- a member's subscription is the member's
SET ROLE regress_member;
SELECT pgpubsub.subscribe('regress_priv_member', '{priv}', 'drop');
RESET ROLE;
SELECT owner FROM pgpubsub.subscription WHERE name = 'regress_priv_member';
SELECT role, pg_temp.attempt(role, $$SELECT pgpubsub.ack('regress_priv_member', 0)$$) FROM role ORDER BY n;
-- inside SECURITY DEFINER functions their owner counts
CREATE FUNCTION pg_temp.poll_for_others() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER
AS $$ SELECT payload FROM pgpubsub.poll('regress_priv_member') $$;
ALTER FUNCTION pg_temp.poll_for_others() OWNER TO regress_member;
SELECT pgpubsub.publish('priv', 'through a function');
CALL pg_temp.settle();
DO $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %s TO regress_none', pg_my_temp_schema()::regnamespace);
END $$;
SET ROLE regress_none;
SELECT * FROM pg_temp.poll_for_others();
RESET ROLE;
-- a temporary one is its owner's too, in its own session
SET ROLE regress_other;
SELECT pgpubsub.subscribe('regress_priv_temp', '{priv}', temporary => true);
RESET ROLE;
SELECT role, pg_temp.attempt(role, $$SELECT count(*) FROM pgpubsub.poll('regress_priv_temp')$$) FROM role ORDER BY n;

-- what one may do is decided when it is done
REVOKE regress_subscriber FROM regress_member;
SELECT pg_temp.attempt('regress_member', $$SELECT pgpubsub.ack('regress_priv', 0)$$);

SELECT pgpubsub.unsubscribe('regress_priv'), pgpubsub.unsubscribe('regress_priv_member'),
       pgpubsub.unsubscribe('regress_priv_temp'), pgpubsub.unsubscribe('regress_settle');
ALTER DATABASE :"database" OWNER TO :"database_owner";
DROP FUNCTION pg_temp.poll_for_others();
DO $$
BEGIN
    EXECUTE format('REVOKE USAGE ON SCHEMA %s FROM regress_none', pg_my_temp_schema()::regnamespace);
END $$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pgpubsub FROM regress_publisher, regress_subscriber,
    regress_other, regress_noinherit, regress_dbowner;
DROP ROLE regress_none, regress_publisher, regress_subscriber, regress_other, regress_member,
    regress_noinherit, regress_monitor, regress_dbowner, regress_super;
