# A database that was made with version 1.0 of the extension: this library goes
# on with its SQL objects as they are, and ALTER EXTENSION UPDATE keeps
# attachments, subscriptions and their events, privileges, and what users have
# made with the extension's objects.  pg_dump carries all that on.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('update');
my $file = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';

# The old functions and those in their place.
my %stands_for = (
	'subscribe(text,text[],text,text,boolean)' => 'subscribe_1_0(name,text[],text,text,boolean)',
	'poll(text,bigint,interval,boolean)' => 'poll_1_0(name,integer,interval,boolean)',
	'ack(text,bigint)'    => 'ack_1_0(name,bigint)',
	'unsubscribe(text)'   => 'unsubscribe_1_0(name)',
	'publish(text,json)'  => 'publish(text,text)',
	'publish(text,jsonb)' => 'publish(text,text)',
	'queue_stats()'       => 'queue_stats_1_0()',
	'channel_stats()'     => 'channel_stats_1_0()',
	'subscription_stats()' => 'subscription_stats_1_0()',
	'attach(regclass,text,text[],name[],name[],text,text,text,text,text,boolean)' =>
	  'attach_1_0(regclass,text,text[],name[],name[],text,text,text,text,text)',
	'seek(text,text)'     => 'ack_1_0(name,bigint)',
	'add_channels(text,text[])'  => 'subscribe_1_0(name,text[],text,text,boolean)',
	'drop_channels(text,text[])' => 'subscribe_1_0(name,text[],text,text,boolean)',
	'wait(text,interval)' => 'poll_1_0(name,integer,interval,boolean)');

# Owner and privileges of the function, in an order of their own.
sub privileges
{
	my ($db, $function) = @_;

	return $node->safe_psql(
		$db, qq{
		SELECT proowner::regrole, a.grantor::regrole,
		       CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee,
		       a.is_grantable
		  FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) AS a
		 WHERE pg_proc.oid = 'pgpubsub.$function'::regprocedure
		 ORDER BY 2, 3, 4});
}

# The roles whom the function's privileges keep from being dropped.
sub dependencies
{
	my ($db, $function) = @_;

	return $node->safe_psql(
		$db, qq{
		SELECT refobjid::regrole, deptype FROM pg_shdepend
		 WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
		   AND classid = 'pg_proc'::regclass
		   AND objid = 'pgpubsub.$function'::regprocedure
		 ORDER BY 1, 2});
}

# What the user's own objects and the extension's views show.
sub shown
{
	my ($db) = @_;

	return $node->safe_psql(
		$db, q{
		SELECT * FROM pgpubsub.attachments ORDER BY trigger;
		SELECT name, owner, channels, on_full, created_at FROM pgpubsub.subscription ORDER BY name;
		SELECT * FROM my_subscriptions WHERE subscription <> 'reads';
		SELECT * FROM my_attachments});
}

# Version 1.0 in use

$node->safe_psql(
	'postgres', q{
	CREATE ROLE installer SUPERUSER LOGIN;
	CREATE ROLE updater SUPERUSER LOGIN;
	CREATE ROLE app LOGIN;
	CREATE ROLE deputy LOGIN;
	CREATE ROLE "Third ""role""" LOGIN;
	CREATE ROLE unrelated LOGIN;
	CREATE ROLE watcher;
	CREATE DATABASE shop;
	CREATE DATABASE fresh;
	CREATE DATABASE current});

# what it has when it is created counts as its initial privileges
$node->safe_psql(
	'shop', q{
	ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO unrelated;
	CREATE EXTENSION pgpubsub VERSION '1.0';
	ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM unrelated;
	-- nor is it what the new ones are to have
	REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA pgpubsub FROM unrelated;
	ALTER DEFAULT PRIVILEGES FOR ROLE updater GRANT EXECUTE ON FUNCTIONS TO unrelated;

	GRANT EXECUTE ON FUNCTION pgpubsub.subscribe(name, text[], text, text, boolean) TO app;
	GRANT EXECUTE ON FUNCTION pgpubsub.poll(name, integer, interval, boolean) TO app, "Third ""role""";
	GRANT EXECUTE ON FUNCTION pgpubsub.ack(name, bigint) TO PUBLIC;
	GRANT EXECUTE ON FUNCTION pgpubsub.attach(regclass, text, text[], name[], name[], text, text, text, text, text)
		TO app WITH GRANT OPTION;
	GRANT EXECUTE ON FUNCTION pgpubsub.unsubscribe(name) TO app WITH GRANT OPTION;
	GRANT EXECUTE ON FUNCTION pgpubsub.publish(text, text) TO deputy WITH GRANT OPTION;
	GRANT SELECT ON pgpubsub.subscription TO watcher;
	GRANT CREATE ON SCHEMA pgpubsub TO watcher;
	SET ROLE deputy;
	GRANT EXECUTE ON FUNCTION pgpubsub.publish(text, text) TO app WITH GRANT OPTION;
	SET ROLE app;
	GRANT EXECUTE ON FUNCTION pgpubsub.publish(text, text) TO "Third ""role"""},
	extra_params => [ '-U', 'installer' ]);
$node->safe_psql(
	'shop', q{
	CREATE TABLE orders (id int PRIMARY KEY, status text);
	SELECT pgpubsub.attach('orders', watch => '{status}', condition => 'NEW.id > 1', operations => '{insert,update}');
	SELECT pgpubsub.attach('orders', 'statements', level => 'statement');
	SELECT pgpubsub.subscribe('all', '{*}', 'drop'), pgpubsub.subscribe('blocking', '{orders}', 'block');
	CREATE VIEW my_events AS SELECT seq, payload FROM pgpubsub.poll('all', 2);
	CREATE VIEW my_events_looked_at AS SELECT * FROM pgpubsub.poll('all', timeout => '30 s', consume => false);
	CREATE FUNCTION my_read(s name) RETURNS bigint LANGUAGE sql BEGIN ATOMIC
		SELECT pgpubsub.ack(s, max(seq)) FROM pgpubsub.poll(s, 1, consume => false);
	END;
	CREATE FUNCTION my_start(s name) RETURNS boolean LANGUAGE sql BEGIN ATOMIC
		SELECT pgpubsub.subscribe(s, '{orders}') OR pgpubsub.unsubscribe(s);
	END;
	CREATE FUNCTION my_late(s name) RETURNS bigint LANGUAGE plpgsql AS $$
	BEGIN RETURN (SELECT count(*) FROM pgpubsub.poll(s, 1)); END $$;
	CREATE FUNCTION my_attach(t regclass) RETURNS text LANGUAGE sql BEGIN ATOMIC
		SELECT pgpubsub.attach(t, 'mine', '{insert}');
	END;
	CREATE VIEW my_subscription_stats AS SELECT * FROM pgpubsub.subscription_stats();
	CREATE TABLE my_rule (a int);
	CREATE RULE my_rule AS ON INSERT TO my_rule DO ALSO SELECT pgpubsub.publish('by_rule', new.a::text);
	CREATE VIEW my_subscriptions AS SELECT subscription, channels, on_full, delivered FROM pgpubsub.stat_subscriptions WHERE datname = 'shop';
	CREATE VIEW my_queue AS SELECT * FROM pgpubsub.stat_queue;
	CREATE VIEW my_channels AS SELECT * FROM pgpubsub.stat_channels;
	CREATE VIEW my_stats AS SELECT q.relay_state, c.channel FROM pgpubsub.queue_stats() AS q JOIN pgpubsub.channel_stats() AS c USING (datid);
	GRANT EXECUTE ON FUNCTION pgpubsub.queue_stats(), pgpubsub.channel_stats() TO app;
	CREATE VIEW my_attachments AS SELECT * FROM pgpubsub.attachments;
	SET ROLE app;
	SELECT pgpubsub.subscribe('of_app', '{orders,news}', 'drop')});

# The library with 1.0's objects
my $session = open_session($node, 'shop', user => 'app');
$session->query_safe(q{PREPARE read(name, int) AS SELECT payload FROM pgpubsub.poll($1, $2)});
$node->safe_psql(
	'shop', q{
	INSERT INTO orders SELECT 1 + i, 'new' FROM generate_series(1, 6) AS i;
	SELECT pgpubsub.publish('news', 'in 1.0')});
is($node->safe_psql('shop', 'SELECT extversion FROM pg_extension WHERE extname = $$pgpubsub$$'),
	'1.0', 'the database is of version 1.0');
my @seen = receive($node, 'shop', 'all', 8, consume => 0);
is(scalar(@seen), 8, 'events are there to be read');
like($session->query(q{EXECUTE read('of_app', 1)}), qr/^\{.*"id":2/, 'poll() works');
is($node->safe_psql('shop', q{SELECT count(*) FROM my_events}), 2, 'through a view');
is($node->safe_psql('shop', q{SELECT my_read('all')}), 1, 'ack() too');
is($node->safe_psql('shop', q{SELECT my_start('brief')}), 't', 'subscribe()');
is($node->safe_psql('shop', q{SELECT my_start('brief')}), 't', 'unsubscribe()');
fails_with($node, 'shop', q{SELECT pgpubsub.subscribe('', '{c}')},
	'22023', qr/cannot be empty/, 'an empty name is none');
fails_with($node, 'shop', q{SELECT pgpubsub.poll('nosuch')},
	'42704', qr/does not exist/, 'nor is one that nobody has made');
fails_with($node, 'shop', q{SELECT pgpubsub.poll('all', 0)},
	'22023', qr/max_messages must be at least 1.*It is 0/s, 'max_messages is checked');
fails_with($node, 'shop', q{SELECT pgpubsub.poll('all', NULL)},
	'22004', qr/max_messages cannot be null/, 'and NULL');
my $shown = shown('shop');
my %old = map { s/_1_0//r => privileges('shop', s/_1_0//r) } values %stands_for;
my %old_dependencies = map { s/_1_0//r => dependencies('shop', s/_1_0//r) } values %stands_for;
like($old{'publish(text,text)'}, qr/^installer\|deputy\|app\|t$/m, 'several roles have granted');

# Update, by another role than the one that created it

my $relay = relay_pid($node, 'shop');
$node->safe_psql('shop', 'BEGIN; ALTER EXTENSION pgpubsub UPDATE; ROLLBACK',
	extra_params => [ '-U', 'updater' ]);
is($node->safe_psql('shop', q{SELECT count(*) FROM pg_proc WHERE proname ~ '_1_0$'}),
	0, 'an update that is rolled back leaves nothing');
like($node->safe_psql('shop', q{SELECT payload FROM my_events_looked_at LIMIT 1}),
	qr/"id"/, 'and works');
$node->safe_psql('shop', 'ALTER EXTENSION pgpubsub UPDATE',
	extra_params => [ '-U', 'updater' ]);
is($node->safe_psql('shop', 'SELECT extversion FROM pg_extension WHERE extname = $$pgpubsub$$'),
	$node->safe_psql('shop', 'SELECT default_version FROM pg_available_extensions WHERE name = $$pgpubsub$$'),
	'updated');
is(relay_pid($node, 'shop'), $relay, 'the relay goes on');
is($node->safe_psql('shop', 'SELECT count(*), count(DISTINCT id), min(id) > 0 FROM pgpubsub.subscription'),
	'3|3|t', 'each subscription has an id of its own');
my $ids = $node->safe_psql('shop', 'SELECT name, id FROM pgpubsub.subscription ORDER BY name');
is($node->safe_psql('shop', q{
		SELECT pgpubsub.set_durable('orders', retain => '1 day');
		SELECT pgpubsub.attach('orders', 'news', durable => true);
		SELECT channel, durable, retain FROM pgpubsub.stat_channels WHERE channel IN ('orders', 'news') ORDER BY 1}),
	"t\nnews\nnews|t|00:00:00\norders|t|1 day", 'channels can be made durable');
is($node->safe_psql('shop', q{SELECT my_attach('my_rule'); DROP TRIGGER "!pgpubsub_mine_row" ON my_rule; SELECT pgpubsub.detach('orders', 'news')}),
	"mine\n1", 'a function over attach() works');
isnt($node->safe_psql('shop', 'SELECT count(*) FROM my_subscription_stats'), 0, 'and a view over subscription_stats()');
is(shown('shop'), $shown, 'views show what they did');
isnt($node->safe_psql('shop', 'SELECT count(*) FROM my_stats'), 0, 'and one on their functions');
is($node->safe_psql('shop', 'SELECT truncated FROM pgpubsub.stat_queue WHERE datname = $$shop$$'),
	0, 'a view has a new column');

foreach my $new (sort keys %stands_for)
{
	my $old = $stands_for{$new};
	my $before = $old =~ s/_1_0//r;

	is(privileges('shop', $new), $old{$before}, "$new has the privileges of $before");
	is(privileges('shop', $old), $old{$before}, "$old has them");
	is(dependencies('shop', $new), $old_dependencies{$before}, "$new: roles depend on it");
}

# The roles
is($session->query(q{SELECT count(*) FROM pgpubsub.poll('of_app'::text, 2::bigint)}), 2,
	'a role that had been granted poll() may call it');
is($session->query(q{SELECT count(*) FROM (SELECT pgpubsub.poll('of_app', 1)) AS p}), 1, 'as before');
like($session->query(q{EXECUTE read('of_app', 1)}), qr/^\{.*"id":6/,
	'a statement that was prepared before goes on');
is($session->query(q{SELECT my_late('of_app')}), 1, 'and a function whose body is text');
$session->query_safe(q{SELECT pgpubsub.publish('news', '{"as":"json"}'::json), pgpubsub.publish('news', '{"as":"jsonb"}'::jsonb)});
is( received($node, 'shop', 'of_app', 3),
	'news:in 1.0 news:{"as":"json"} news:{"as": "jsonb"}',
	'and publish() of json; no event is lost');
fails_with($node, 'shop', q{SELECT pgpubsub.poll('all')}, '42501', qr/permission denied for function poll/,
	'a role that was not cannot', user => 'unrelated');
fails_with($node, 'shop', q{SELECT pgpubsub.publish('news', '1'::json)}, '42501', qr/permission denied for function publish/,
	'be it by default privileges of who updates', user => 'unrelated');
fails_with($node, 'shop', q{SELECT pgpubsub.subscribe('s', '{c}')}, '42501', qr/permission denied for function subscribe/,
	'nor one that had another function', user => 'deputy');
$node->safe_psql('shop', q{GRANT EXECUTE ON FUNCTION pgpubsub.unsubscribe(text) TO deputy},
	extra_params => [ '-U', 'app' ]);
ok( $node->safe_psql('shop', q{SELECT has_function_privilege('deputy', 'pgpubsub.unsubscribe(text)', 'EXECUTE')}) eq 't',
	'a grant option is one');
fails_with($node, 'shop', 'DROP ROLE "Third ""role"""', '2BP01',
	qr/privileges for function pgpubsub\.poll\(text,bigint,interval,boolean\)/,
	'a role cannot be dropped with privileges on them');

# What was made before
is($node->safe_psql('shop', q{SELECT count(*) FROM my_events}), 2, 'a view on poll() works');
like($node->safe_psql('shop', q{SELECT payload FROM my_events_looked_at LIMIT 1}), qr/"id"/, 'with defaults too');
is($node->safe_psql('shop', q{SELECT my_read('all')}), 1, 'so does a function over it');
is($node->safe_psql('shop', q{SELECT my_start('brief')}), 't', 'and one that subscribes');
is($node->safe_psql('shop', q{SELECT my_start('brief')}), 't', 'and unsubscribes');
$node->safe_psql('shop', "SELECT count(*) FROM $_") foreach qw(my_queue my_channels my_subscriptions);
$node->safe_psql('shop', q{
	INSERT INTO my_rule VALUES (7);
	INSERT INTO orders VALUES (1, 'unseen'), (10, 'seen')});
like(received($node, 'shop', 'blocking', 7), qr/(?:orders:\S+ ){6}orders:\{.*"id":10/, 'attachments and subscriptions do');

# pg_dump and restore, into a new installation of this version

$node->command_ok([ 'pg_dump', '-p', $node->port, '-h', $node->host, '-f', $file, 'shop' ], 'pg_dump');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-h', $node->host, '-p', $node->port,
		'-d', 'fresh', '-f', $file ], 'the dump restores');
foreach my $function (sort(keys(%stands_for), values(%stands_for)))
{
	# who restores the dump owns what the extension makes
	my $owner    = $node->safe_psql('fresh', 'SELECT current_user');
	my $expected = privileges('shop', $function) =~ s/\binstaller\b/$owner/gr;

	is(join("\n", sort split /\n/, privileges('fresh', $function)),
		join("\n", sort split /\n/, $expected),
		"restored: privileges of $function");
}
is( $node->safe_psql('fresh', q{
		SELECT has_table_privilege('watcher', 'pgpubsub.subscription', 'SELECT'),
		       has_schema_privilege('watcher', 'pgpubsub', 'CREATE')}),
	't|t', 'restored: privileges of the table and the schema');
is($node->safe_psql('fresh', 'SELECT name, id FROM pgpubsub.subscription ORDER BY name'), $ids, 'restored: the ids of subscriptions');
is($node->safe_psql('fresh', 'SELECT * FROM pgpubsub.channel ORDER BY channel'),
	"news|t|00:00:00\norders|t|1 day", 'restored: which channels are durable');
is($node->safe_psql('fresh', q{SELECT count(*) FROM my_events}), 0, 'restored: a view on poll()');
is($node->safe_psql('fresh', q{SELECT my_start('new') AND my_start('new')}), 't', 'restored: functions');

# What was revoked keeps no role
$node->safe_psql('postgres', 'DROP DATABASE fresh');
$node->safe_psql('shop', q{
	REVOKE SELECT ON pgpubsub.subscription FROM watcher;
	REVOKE CREATE ON SCHEMA pgpubsub FROM watcher;
	DROP ROLE watcher});

# A dump of version 1.0 restores into that version, and is updated then.  It has
# the schema, which is there.
$node->safe_psql('current', q{CREATE EXTENSION pgpubsub VERSION '1.0'; CREATE TABLE t (a int);
	CREATE VIEW v AS SELECT * FROM pgpubsub.poll('s', 10);
	GRANT EXECUTE ON FUNCTION pgpubsub.poll(name, integer, interval, boolean) TO app;
	SELECT pgpubsub.subscribe('s', '{c}')});
$node->command_ok([ 'pg_dump', '-p', $node->port, '-h', $node->host, '-f', $file, 'current' ], 'pg_dump of 1.0');
$node->safe_psql('postgres', 'DROP DATABASE current; CREATE DATABASE current');
$node->safe_psql('current', q{CREATE EXTENSION pgpubsub VERSION '1.0'});
my ($ret, $out, $err) = $node->psql('current', slurp_file($file), on_error_stop => 0);
is(join(' ', $err =~ /ERROR:  (.*)/g), 'schema "pgpubsub" already exists', 'the dump restores');
$node->safe_psql('current', 'ALTER EXTENSION pgpubsub UPDATE');
is($node->safe_psql('current', q{SELECT count(*) FROM v; SELECT has_function_privilege('app', 'pgpubsub.poll(text,bigint,interval,boolean)', 'EXECUTE')}),
	"0\nt", 'and its grants and views are there in this version');

# New files, and a server that goes on with the old library: some function is
# missing there
$node->safe_psql('current', q{
	CREATE FUNCTION newer() RETURNS event_trigger LANGUAGE plpgsql AS $f$BEGIN
		CREATE FUNCTION newer(int) RETURNS int AS '$libdir/pgpubsub', 'pgpubsub_newer' LANGUAGE C;
	END$f$;
	CREATE EVENT TRIGGER newer ON ddl_command_start WHEN TAG IN ('ALTER EXTENSION') EXECUTE FUNCTION newer()});
fails_with($node, 'current', 'ALTER EXTENSION pgpubsub UPDATE', '42883',
	qr/could not find function "pgpubsub_newer".*HINT: .*restart the server/s, 'a hint says why');
unlike(query_error($node, 'current', q{CREATE FUNCTION f(int) RETURNS int AS '$libdir/pgpubsub', 'pgpubsub_newer' LANGUAGE C}),
	qr/HINT/, 'elsewhere it does not');
$node->safe_psql('current', 'DROP EVENT TRIGGER newer; ALTER EXTENSION pgpubsub UPDATE');

# A function that is new has nothing to take over
is( $node->safe_psql('postgres', q{
		CREATE EXTENSION pgpubsub;
		SELECT count(*) FROM pg_proc WHERE pronamespace = 'pgpubsub'::regnamespace AND proname = 'take_over'}),
	0, 'nothing is left of the script');
is( $node->safe_psql('postgres', q{
		SELECT bool_and(p.proacl = i.initprivs AND p.proowner = current_user::regrole)
		  FROM pg_proc AS p JOIN pg_init_privs AS i ON i.objoid = p.oid AND i.classoid = 'pg_proc'::regclass
		 WHERE pronamespace = 'pgpubsub'::regnamespace AND proname ~ '^(publish|poll|ack|subscribe|unsubscribe)(_1_0)?$'}),
	't', 'in a new installation the owner has them all');
is( $node->safe_psql('postgres', q{
		SELECT count(*) FROM pg_proc AS p JOIN pg_init_privs AS i ON i.objoid = p.oid AND i.classoid = 'pg_proc'::regclass
		 WHERE pronamespace = 'pgpubsub'::regnamespace AND proname ~ '^(publish|poll|ack|subscribe|unsubscribe)(_1_0)?$'}),
	11, 'all of them');

$session->quit;
$node->stop;
log_is_clean($node,
	qr/ERROR:  schema "pgpubsub" already exists/,
	qr/ERROR:  could not find function "pgpubsub_newer"/,
	qr/ERROR:  (?:subscription name cannot be empty|subscription "nosuch" does not exist|max_messages (?:must be|cannot be)|permission denied for function|role "Third "role"" cannot be dropped)/);
done_testing();
