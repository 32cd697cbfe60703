# What roles that nobody trusts can do: plant objects where names are looked
# up, write to the channels, and be silent.  Who may call what is tested by
# privileges.sql.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('security', conf => 'pgpubsub.max_databases = 8');

# What a role plants in a schema of its own: operators and functions that fit
# better than those that are meant, and that note who ran them.
my $plant = q{
	SET ROLE evil;
	CREATE FUNCTION %1$s.trap() RETURNS boolean LANGUAGE plpgsql AS
		'BEGIN RAISE WARNING ''trapped''; RETURN true; END';
	CREATE FUNCTION %1$s.same(oid, integer) RETURNS boolean LANGUAGE sql AS 'SELECT %1$s.trap()';
	CREATE FUNCTION %1$s.same(oid, regprocedure) RETURNS boolean LANGUAGE sql AS 'SELECT %1$s.trap()';
	CREATE FUNCTION %1$s.same(name, text) RETURNS boolean LANGUAGE sql AS 'SELECT %1$s.trap()';
	CREATE FUNCTION %1$s.same(regrole, oid) RETURNS boolean LANGUAGE sql AS 'SELECT %1$s.trap()';
	CREATE FUNCTION %1$s.field(jsonb, jsonb) RETURNS text LANGUAGE sql AS 'SELECT %1$s.trap()::text';
	CREATE FUNCTION %1$s.less(jsonb, jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(%1$s.trap())';
	CREATE FUNCTION %1$s.array_remove(text[], text) RETURNS text[] LANGUAGE sql AS 'SELECT ARRAY[%1$s.trap()::text]';
	CREATE FUNCTION %1$s.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT %1$s.trap()::text::timestamptz';
	CREATE FUNCTION %1$s.take_over(text, text) RETURNS void LANGUAGE sql AS 'SELECT %1$s.trap()';
	CREATE OPERATOR %1$s.= (LEFTARG = oid, RIGHTARG = integer, FUNCTION = %1$s.same);
	CREATE OPERATOR %1$s.= (LEFTARG = oid, RIGHTARG = regprocedure, FUNCTION = %1$s.same);
	CREATE OPERATOR %1$s.= (LEFTARG = name, RIGHTARG = text, FUNCTION = %1$s.same);
	CREATE OPERATOR %1$s.= (LEFTARG = regrole, RIGHTARG = oid, FUNCTION = %1$s.same);
	CREATE OPERATOR %1$s.->> (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = %1$s.field);
	CREATE OPERATOR %1$s.- (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = %1$s.less);
	CREATE TABLE %1$s.%2$s (name name, owner regrole, channels text[], on_full text, created_at timestamptz);
	RESET ROLE;
};

# Everything that there is, as a superuser.
my $everything = q{
	CREATE TABLE orders (id int PRIMARY KEY, status text);
	SELECT pgpubsub.attach('orders', condition => 'NEW.id > 0', operations => '{insert,update}',
		columns => '{id,status}', watch => '{status}');
	SELECT pgpubsub.attach('orders', 'statements', level => 'statement');
	SELECT pgpubsub.subscribe('s', '{orders,n*}'), pgpubsub.subscribe('t', '{news}', 'drop', temporary => true);
	INSERT INTO orders VALUES (1, 'new'), (2, 'new');
	UPDATE orders SET status = 'paid';
	SELECT pgpubsub.publish('news', 'x');
	SELECT count(*) FROM pgpubsub.poll('s', timeout => '1s', consume => false);
	SELECT pgpubsub.ack('s', 0);
	SELECT pgpubsub.subscribe('s', '{orders,news}');
	SELECT count(*) FROM pgpubsub.attachments;
	SELECT count(*) FROM pgpubsub.stat_queue;
	SELECT count(*) FROM pgpubsub.stat_channels;
	SELECT count(*) FROM pgpubsub.stat_subscriptions;
	CREATE ROLE heir;
	CREATE ROLE owner_of_some;
	UPDATE pgpubsub.subscription SET owner = 'owner_of_some';
	REASSIGN OWNED BY owner_of_some TO heir;
	DROP OWNED BY heir;
	INSERT INTO pgpubsub.subscription (name, owner, channels, on_full) VALUES ('u', 'heir', '{a}', 'evict');
	DROP ROLE heir, owner_of_some;
	SELECT pgpubsub.unsubscribe('t');
	SELECT pgpubsub.stat_reset();
	SELECT pgpubsub.detach('orders');
	DROP TABLE orders;
};

$node->safe_psql('postgres', 'CREATE ROLE evil LOGIN; CREATE ROLE reader LOGIN');

# Planted before the extension, in the schema that it will use

$node->safe_psql('postgres', 'CREATE DATABASE before');
$node->safe_psql('before',
	'CREATE SCHEMA pgpubsub AUTHORIZATION evil;' . sprintf($plant, 'pgpubsub', 'other'));
my ($ret, $out, $err) = $node->psql('before', 'CREATE EXTENSION pgpubsub');
like($err, qr/^[^\n]*WARNING:  schema "pgpubsub" belongs to a role that is no superuser\n[^\n]*DETAIL:[^\n]*\n[^\n]*HINT:[^\n]*$/,
	'CREATE EXTENSION in a schema with traps, of a role that could add more');
fails_with($node, 'before', q{SELECT pgpubsub.subscribe('s', '{a}')}, '42P01', qr/must have the extension's own table/,
	'there are no subscriptions while the schema is its');
$node->safe_psql('before', 'ALTER SCHEMA pgpubsub OWNER TO CURRENT_USER');
($ret, $out, $err) = $node->psql('before', $everything, on_error_stop => 1);
is($ret, 0, 'everything works there');
is($err, '', 'and nobody is trapped');

# Planted in the place of the extension's table, once the schema is somebody's:
# the relay is a superuser, and reads the table at its start.

$node->safe_psql(
	'before', q{
	CREATE FUNCTION public.seize() RETURNS text[] LANGUAGE plpgsql AS
		$$BEGIN ALTER ROLE evil SUPERUSER; RETURN '{a}'; END$$;
	ALTER FUNCTION public.seize() OWNER TO evil;
	GRANT CREATE ON DATABASE before TO evil;
	SELECT pgpubsub.subscribe('mine', '{a}');
	GRANT EXECUTE ON FUNCTION pgpubsub.subscribe, pgpubsub.poll TO evil;
	ALTER SCHEMA pgpubsub OWNER TO evil;
	SET ROLE evil;
	ALTER SCHEMA pgpubsub RENAME TO moved;
	RESET ROLE;
	CREATE SCHEMA pgpubsub AUTHORIZATION evil;
	SET ROLE evil;
	CREATE VIEW pgpubsub.subscription AS SELECT 'x'::name AS name, (SELECT oid FROM pg_roles WHERE rolname = 'evil')::regrole AS owner,
		public.seize() AS channels, 'evict'::text AS on_full, now() AS created_at;
});
kill_relay($node, 'before');
wait_for_relay($node, 'before');
fails_with($node, 'before', q{SELECT moved.subscribe('s', '{a}')}, '42P01', qr/does not exist/,
	'subscribe() does not take it for the table');
fails_with($node, 'before', q{SELECT moved.poll('x')}, '42704', qr/does not exist/, 'nor does poll()');
is($node->safe_psql('postgres', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'evil'}),
	'f', 'who owns the schema does not become a superuser by it');

# So with a table that everything of was given away
$node->safe_psql(
	'before', q{
	DROP SCHEMA pgpubsub CASCADE;
	ALTER SCHEMA moved RENAME TO pgpubsub;
	ALTER TABLE pgpubsub.subscription OWNER TO evil;
	SET ROLE evil;
	ALTER TABLE pgpubsub.subscription RENAME TO renamed;
	CREATE VIEW pgpubsub.subscription AS SELECT 'x'::name AS name, (SELECT oid FROM pg_roles WHERE rolname = 'evil')::regrole AS owner,
		public.seize() AS channels, 'evict'::text AS on_full, now() AS created_at;
});
kill_relay($node, 'before');
wait_for_relay($node, 'before');
fails_with($node, 'before', q{SELECT pgpubsub.subscribe('s', '{a}')}, '42P01', qr/does not exist/,
	'nor is a view in place of the table');
$node->safe_psql(
	'before', q{
	DROP VIEW pgpubsub.subscription;
	ALTER TABLE pgpubsub.renamed RENAME TO subscription;
	GRANT CREATE ON SCHEMA public TO evil;
	SET ROLE evil;
	CREATE FUNCTION public.seize(regrole) RETURNS regrole LANGUAGE plpgsql AS
		$$BEGIN ALTER ROLE evil SUPERUSER; RETURN $1; END$$;
	ALTER TABLE pgpubsub.subscription ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
	CREATE POLICY p ON pgpubsub.subscription USING (public.seize(owner) IS NOT NULL);
});
kill_relay($node, 'before');
$node->safe_psql('before', q{SELECT pgpubsub.subscribe('s', '{a}'), pgpubsub.unsubscribe('s')});
is($node->safe_psql('postgres', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'evil'}),
	'f', 'nor does who owns the table');
$node->safe_psql('before', 'DROP POLICY p ON pgpubsub.subscription');
$node->safe_psql('before', 'ALTER TABLE pgpubsub.subscription NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY');
kill_relay($node, 'before');
wait_for_relay($node, 'before');
is($node->safe_psql('before', q{SELECT subscription FROM pgpubsub.stat_subscriptions WHERE subscription = 'mine'}),
	'mine', 'undone, and everything is as it was');

# Planted in the path of a session, of a database and of roles

$node->safe_psql('postgres', 'CREATE DATABASE after');
$node->safe_psql('after',
	'CREATE EXTENSION pgpubsub; CREATE SCHEMA evil AUTHORIZATION evil;' . sprintf($plant, 'evil', 'subscription'));
$node->safe_psql('after',
	'ALTER DATABASE after SET search_path = evil, pg_catalog, public');
kill_relay($node, 'after');
($ret, $out, $err) =
  $node->psql('after', $everything =~ s/CREATE TABLE orders/CREATE TABLE public.orders/r, on_error_stop => 1);
is($ret, 0, 'everything works with traps before pg_catalog in search_path');
is($err, '', 'and nobody is trapped');
ok( $node->poll_query_until(
		'postgres', 'SELECT count(*) = 0 FROM pg_roles WHERE rolname = $$heir$$')
	  && $node->poll_query_until(
		'after', 'SELECT count(*) = 0 FROM pgpubsub.subscription'),
	'nor is the relay');
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/WARNING:  trapped/, 'so says the log');

# Anybody may NOTIFY.  The pid is that of the backend that did it.

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE TABLE accounts (id int PRIMARY KEY, balance numeric);
	GRANT INSERT, SELECT ON accounts TO evil;
	SELECT pgpubsub.attach('accounts'),
	       pgpubsub.subscribe('s', '{accounts,news}')});
my $evil = open_session($node, 'postgres', user => 'evil');
my $pid  = session_pid($evil);
foreach my $call ("publish('news', 'x')", "attach('accounts', 'x')", "detach('accounts')",
	"subscribe('x', '{accounts}')", "poll('s')", "ack('s', 1)", "unsubscribe('s')", 'stat_reset()',
	'relay_start()', 'queue_stats()', 'channel_stats()')
{
	fails_with($evil, undef, "SELECT pgpubsub.$call", '42501', qr/permission denied/,
		"no grant: $call");
}
fails_with($evil, undef, "SELECT pgpubsub.$_()", $_ eq 'notify_change' ? '39P01' : '42501', qr/./,
	"trigger function $_() cannot be called")
  foreach qw(notify_change subscription_changed);

sub polled
{
	return $node->safe_psql('postgres',
		"SELECT channel, payload, pid = $pid FROM pgpubsub.poll('s', 1, '30s')");
}

$evil->query_safe(q{NOTIFY accounts, '{"op":"DELETE","pid":1}'});
is(polled(), 'accounts|{"op":"DELETE","pid":1}|t',
	'NOTIFY by anybody is an event, with the pid of its backend');

# frames, too
$evil->query_safe(q{NOTIFY pgpubsub, '1-1 1 1 00000000 4 newsforged'});
is(polled(), 'news|forged|t', 'so is a forged frame');
my $bad = $node->safe_psql('postgres',
	q{SELECT bad_frames FROM pgpubsub.stat_queue WHERE datname = 'postgres'});
my @junk = ('', 'x', '1-1 1 1', '1-1 2 2 00000000 4 news', '1-1 1 2 00000000 99 news',
	'1-1 1 4294967296 00000000 4 newsx', '1-1 0 0 00000000 4 newsx', '1-1 -1 1 0000000g 4 newsx');
$evil->query_safe("NOTIFY pgpubsub, '$_'") foreach @junk;
$evil->query_safe("NOTIFY pgpubsub, '1-1 1 2 00000000 4 newshalf'");
$evil->query_safe(q{NOTIFY news, 'after junk'});
is(polled(), 'news|after junk|t', 'junk frames are dropped');
cmp_ok(
	$node->safe_psql('postgres',
		q{SELECT bad_frames FROM pgpubsub.stat_queue WHERE datname = 'postgres'}),
	'>=', $bad + @junk, 'and counted');

# a half frame of one's own does not take another's event
$evil->query_safe("NOTIFY pgpubsub, '1-1 1 2 00000000 4 newshalf'");
$node->safe_psql('postgres', "SELECT pgpubsub.publish('news', repeat('x', 20000))");
is( $node->safe_psql('postgres',
		"SELECT length(payload), pid = $pid FROM pgpubsub.poll('s', 1, '30s')"),
	'20000|f', 'a half frame spoils nobody else\'s');

# Writers: who needs no privilege can be silent, too.

$evil->query_safe(q{SET pgpubsub.muted = on; INSERT INTO accounts VALUES (1, 10)});
$evil->query_safe(q{RESET pgpubsub.muted; INSERT INTO accounts VALUES (2, 20)});
like(polled(), qr/^accounts\|\{.*"key":\{"id":2\}.*\|t$/,
	'a writer that mutes its session is not heard');
foreach my $setting ('max_payload', 'max_poll_wait', 'evict_timeout', 'databases', 'queue_size', 'node_name')
{
	isnt(session_error($evil, "SET pgpubsub.$setting = '2000'"), '',
		"no writer sets $setting");
}

# Events know neither row security nor privileges on columns: who may listen
# sees them.
$node->safe_psql(
	'postgres', q{
	ALTER TABLE accounts ENABLE ROW LEVEL SECURITY;
	CREATE POLICY none ON accounts TO evil USING (false) WITH CHECK (true);
	REVOKE SELECT ON accounts FROM evil});
$evil->query_safe('LISTEN accounts');
$node->safe_psql('postgres', 'INSERT INTO accounts VALUES (3, 30)');
like(join(' ', notifications($evil)), qr/"balance":30/,
	'LISTEN shows a row to a role that cannot SELECT it');
fails_with($evil, undef, 'SELECT * FROM accounts', '42501', qr/permission denied/,
	'... which it cannot');
$evil->quit;

# TRIGGER on a table and attach() is enough to have its rows published
$node->safe_psql(
	'postgres', q{
	GRANT EXECUTE ON FUNCTION pgpubsub.attach TO reader;
	CREATE TABLE secret (id int)});
fails_with($node, 'postgres', q{SELECT pgpubsub.attach('secret')}, '42501', qr/permission denied for table/,
	'attach() needs a privilege on the table', user => 'reader');
$node->safe_psql('postgres', 'GRANT TRIGGER ON secret TO reader');
is( $node->safe_psql('postgres', q{SELECT pgpubsub.attach('secret')},
		extra_params => [ '-U', 'reader' ]),
	'secret', 'TRIGGER, and no other');

# What a condition names is looked up once, by who attaches
$node->safe_psql('after', 'CREATE TABLE public.t (id int)');
$node->safe_psql('after', q{
	SET search_path = public;
	SELECT pgpubsub.attach('t', condition => 'NEW.id = 1', operations => '{insert}'),
	       pgpubsub.subscribe('t', '{t}');
	SET search_path = evil, pg_catalog, public;
	CREATE FUNCTION evil.inteq(int, int) RETURNS boolean LANGUAGE sql AS 'SELECT evil.trap()';
	CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.inteq)});
($ret, $out, $err) = $node->psql('after', 'INSERT INTO public.t VALUES (1), (2)');
is($err, '', 'a condition is looked up when attach() runs, not when it is tested');
like(received($node, 'after', 't', 1), qr/^t:\{.*"new":\{"id":1\}/, '... and works');
is_quiet($node, 'after', 't', '... for the other row, too');

$node->stop;
log_is_clean(
	$node,
	qr/ERROR:  permission denied/,
	qr/WARNING:  schema "pgpubsub" belongs to a role that is no superuser/,
	qr/ERROR:  (?:table pgpubsub.subscription|subscription "x") does not exist/,
	qr/ERROR:  (?:trigger functions can only be called as triggers|function pgpubsub\.notify_change\(\) can only be called as a trigger)/,
	qr/ERROR:  parameter "pgpubsub\.\w+" cannot be/);
done_testing();
