--
-- Every argument, wrong in every way: SQLSTATE, message, detail and hint.
-- Numbers that differ from run to run are masked.
--
CREATE FUNCTION pg_temp.masked(command text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail  text;
    hint    text;
BEGIN
    EXECUTE command;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    detail := regexp_replace(detail, '\m' || pg_backend_pid() || '\M', '<my pid>');
    RETURN SQLSTATE || ': ' || message || E'\n' || regexp_replace(detail, '\d{10,}', '<seq>') || E'\n' || hint;
END $$;
\pset format unaligned
\pset tuples_only on

-- publish: channel
SELECT pgpubsub.publish(NULL, 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.publish('', 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.publish(repeat('c', 64), 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.publish(repeat(E'\u00e4', 32), 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.publish('pgpubsub', 'x');
\echo :LAST_ERROR_SQLSTATE

-- publish: payload
SET pgpubsub.max_payload = '2kB';
SELECT pgpubsub.publish('err', repeat('x', 2049));
\echo :LAST_ERROR_SQLSTATE
RESET pgpubsub.max_payload;

-- subscribe: nulls
SELECT pgpubsub.subscribe(NULL, '{err}', 'drop', 'now', false);
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', NULL, 'drop', 'now', false);
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{err}', NULL, 'now', false);
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{err}', 'drop', NULL, false);
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{err}', 'drop', 'now', NULL);
\echo :LAST_ERROR_SQLSTATE

-- subscribe: subscription
SELECT pgpubsub.subscribe('', '{err}');
\echo :LAST_ERROR_SQLSTATE

-- subscribe: channels
SELECT pgpubsub.subscribe('regress_err', '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{{a,b},{c,d}}');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{err,NULL}');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{err,""}');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', ARRAY[repeat('c', 64)]);
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', ARRAY['err', repeat(E'\u00e4', 32)]);
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{pgpubsub}');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{err,pgpubsub}');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', ARRAY[repeat('*', 64)]);
\echo :LAST_ERROR_SQLSTATE

-- subscribe: on_full
SELECT pgpubsub.subscribe('regress_err', '{err}', '');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{err}', 'DROP');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{err}', 'Drop');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{err}', 'none');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{err}', 'drop ');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{err}', 'nosuch');
\echo :LAST_ERROR_SQLSTATE

-- subscribe: start_at
SELECT pgpubsub.subscribe('regress_err', '{err}', 'drop', '');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{err}', 'drop', 'NOW');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{err}', 'drop', 'newest');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{err}', 'drop', '-1');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{err}', 'drop', '1.5');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{err}', 'drop', '1x');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{err}', 'drop', '0x10');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{err}', 'drop', '99999999999999999999');
\echo :LAST_ERROR_SQLSTATE
SELECT pg_temp.masked($$SELECT pgpubsub.subscribe('regress_err', '{err}', 'drop', '9223372036854775807')$$);

-- none of that made anything
SELECT count(*) FROM pgpubsub.stat_subscriptions WHERE subscription ~ 'err';
SELECT count(*) FROM pgpubsub.subscription WHERE name ~ 'err';

-- subscribe: temporary, where it is otherwise
SELECT pgpubsub.subscribe('regress_err', '{err}');
SELECT pgpubsub.subscribe('regress_err', '{err}', temporary => true);
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err_temp', '{err}', temporary => true);
SELECT pg_temp.masked($$SELECT pgpubsub.subscribe('regress_err_temp', '{err}')$$);
SELECT pgpubsub.unsubscribe('regress_err_temp');

-- an error leaves a subscription that stands as it is
SELECT pgpubsub.subscribe('regress_err', '{err2}', 'nosuch');
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.subscribe('regress_err', '{err2,pgpubsub}');
\echo :LAST_ERROR_SQLSTATE
SELECT channels, on_full FROM pgpubsub.stat_subscriptions WHERE subscription = 'regress_err';
SELECT channels, on_full FROM pgpubsub.subscription WHERE name = 'regress_err';

-- subscribe and unsubscribe write a table
BEGIN READ ONLY;
SELECT pgpubsub.subscribe('regress_err_ro', '{err}');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN READ ONLY;
SELECT pgpubsub.unsubscribe('regress_err');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
SELECT subscription FROM pgpubsub.stat_subscriptions WHERE subscription ~ 'regress_err';

-- poll: nulls
SELECT * FROM pgpubsub.poll(NULL, 100, '0', true);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pgpubsub.poll('regress_err', NULL, '0', true);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pgpubsub.poll('regress_err', 100, NULL, true);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pgpubsub.poll('regress_err', 100, '0', NULL);
\echo :LAST_ERROR_SQLSTATE

-- poll: subscription
SELECT * FROM pgpubsub.poll('regress_nosuch');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pgpubsub.poll('');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pgpubsub.poll('REGRESS_ERR');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pgpubsub.poll('regress_nosuch', 1, '10 s', false);
\echo :LAST_ERROR_SQLSTATE

-- poll: max_messages
SELECT * FROM pgpubsub.poll('regress_err', 0);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pgpubsub.poll('regress_err', -1);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pgpubsub.poll('regress_err', -2147483648);
\echo :LAST_ERROR_SQLSTATE

-- poll: timeout
SELECT * FROM pgpubsub.poll('regress_err', 100, '-1 s');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pgpubsub.poll('regress_err', 100, '-1 us');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pgpubsub.poll('regress_err', 100, '1 mon -31 days');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pgpubsub.poll('regress_err', 100, '1 day -24:00:01');
\echo :LAST_ERROR_SQLSTATE

-- ack
SELECT pgpubsub.ack(NULL, 1);
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.ack('regress_err', NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.ack('regress_nosuch', 1);
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.ack('', 1);
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.ack('regress_err', -1);
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.ack('regress_err', -9223372036854775808);
\echo :LAST_ERROR_SQLSTATE
SELECT pg_temp.masked($$SELECT pgpubsub.ack('regress_err', 9223372036854775807)$$);

-- unsubscribe: what is not there is no error
SELECT pgpubsub.unsubscribe(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.unsubscribe('regress_nosuch');
SELECT pgpubsub.unsubscribe('');

-- after every error the subscription is free and whole
SELECT state, pid, pending, delivered, lost FROM pgpubsub.stat_subscriptions WHERE subscription = 'regress_err';
SELECT pgpubsub.publish('err', 'still works');
SELECT channel, payload FROM pgpubsub.poll('regress_err', 1, '10 s');
SELECT pgpubsub.unsubscribe('regress_err');

-- trigger functions are not to be called
SELECT pgpubsub.subscription_changed();
\echo :LAST_ERROR_SQLSTATE
SELECT pgpubsub.notify_change();
\echo :LAST_ERROR_SQLSTATE

-- settings
SET pgpubsub.publish_mode = 'sometimes';
\echo :LAST_ERROR_SQLSTATE
SET pgpubsub.publish_timeout = -1;
\echo :LAST_ERROR_SQLSTATE
SET pgpubsub.publish_timeout = 'never';
\echo :LAST_ERROR_SQLSTATE
SET pgpubsub.max_poll_wait = -1;
\echo :LAST_ERROR_SQLSTATE
SET pgpubsub.max_payload = 0;
\echo :LAST_ERROR_SQLSTATE
SET pgpubsub.muted = 'perhaps';
\echo :LAST_ERROR_SQLSTATE
SET pgpubsub.queue_size = '1MB';
\echo :LAST_ERROR_SQLSTATE
SET pgpubsub.staging_size = '1MB';
\echo :LAST_ERROR_SQLSTATE
SET pgpubsub.max_databases = 5;
\echo :LAST_ERROR_SQLSTATE
SET pgpubsub.max_subscriptions = 5;
\echo :LAST_ERROR_SQLSTATE
SET pgpubsub.max_channels = 50;
\echo :LAST_ERROR_SQLSTATE
SET pgpubsub.databases = 'regression';
\echo :LAST_ERROR_SQLSTATE
SET pgpubsub.evict_timeout = '2s';
\echo :LAST_ERROR_SQLSTATE
SET pgpubsub.node_name = 'n';
\echo :LAST_ERROR_SQLSTATE
SET pgpubsub.no_such_setting = 1;
\echo :LAST_ERROR_SQLSTATE

\pset format aligned
\pset tuples_only off
