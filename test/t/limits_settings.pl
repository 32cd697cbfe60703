# Limits and settings: max_databases, pgpubsub.databases, worker slots,
# max_subscriptions, max_channels.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node =
  new_server('limits', conf => "pgpubsub.max_databases = 2\n"
	  . "pgpubsub.max_subscriptions = 8\n"
	  . "pgpubsub.max_channels = 8\n");

sub works
{
	my ($db, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$node->safe_psql($db,
		"SELECT pgpubsub.unsubscribe('works'); SELECT pgpubsub.subscribe('works', '{news}')"
	);
	publish($node, $db, 'news', $name);
	is(received($node, $db, 'works', 1), "news:$name", $name);
	$node->safe_psql($db, "SELECT pgpubsub.unsubscribe('works')");
}

# max_databases

$node->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(one two three);
$node->safe_psql($_, 'CREATE EXTENSION pgpubsub') foreach qw(one two);
wait_for_relay($node, $_) foreach qw(one two);

my ($ret, $stdout, $stderr) =
  $node->psql('three', 'CREATE EXTENSION pgpubsub');
is($ret, 0, 'CREATE EXTENSION beyond max_databases succeeds');
like($stderr, qr/WARNING:  .*\n.*pgpubsub\.max_databases \(2\).*\nHINT:  .*max_databases/,
	'with a warning that names the setting');
fails_with(
	$node, 'three', "SELECT pgpubsub.subscribe('s', '{news}')",
	'55000', qr/max_databases/, 'subscribe() there says why it cannot');
fails_with($node, 'three', "SELECT * FROM pgpubsub.poll('s')",
	'55000', qr/max_databases/, 'and so does poll()');

my $listener = open_session($node, 'three');
$listener->query_safe('LISTEN news; LISTEN pgpubsub');
publish($node, 'three', 'news', 'native');
is(join(' ', notifications($listener)),
	'news:native', 'publish() notifies there all the same');
publish($node, 'three', 'news', 'x' x 8000);
like(join(' ', notifications($listener)),
	qr/^news:\{"truncated":true,"bytes":8000,"id":"[^"]+"\}$/,
	'without frames, which nobody would read');
$listener->quit;
works($_, "$_ works on") foreach qw(one two);

# A database's place is taken by another when it is dropped.

$node->safe_psql('one', 'DROP EXTENSION pgpubsub');
wait_for_relay($node, 'one', count => 0);
ok( $node->poll_query_until(
		'two',
		"SELECT count(*) = 0 FROM pgpubsub.stat_queue WHERE datname = 'one'"),
	'DROP EXTENSION frees a place');
works('three', 'the next database takes it at its first use');

$node->safe_psql('postgres', 'DROP DATABASE three');
$node->safe_psql('one',      'CREATE EXTENSION pgpubsub');
works('one', 'DROP DATABASE frees a place');

# max_subscriptions and max_channels

$node->safe_psql('one', "SELECT pgpubsub.subscribe('s$_', '{same}')")
  foreach 1 .. 4;
$node->safe_psql('two', "SELECT pgpubsub.subscribe('s$_', '{same}')")
  foreach 1 .. 4;
fails_with($node, 'two', "SELECT pgpubsub.subscribe('s5', '{same}')",
	'53400', qr/max_subscriptions/, 'more than max_subscriptions');
$node->safe_psql('one', "SELECT pgpubsub.unsubscribe('s4')");
is($node->safe_psql('two', "SELECT pgpubsub.subscribe('s5', '{same}')"),
	't', 'unsubscribe() makes room, in the whole cluster');
publish($node, 'two', 'same', 'hello');
is(received($node, 'two', "s$_", 1), 'same:hello', "s$_ reads")
  foreach 1 .. 5;
$node->safe_psql('two', "SELECT pgpubsub.unsubscribe('s$_')") foreach 1 .. 5;

fails_with(
	$node,
	'two',
	"SELECT pgpubsub.subscribe('s', '{a1,a2,a3,a4,a5,a6,a7,a8,a9}')",
	'53400',
	qr/max_channels/,
	'more than max_channels');
is($node->safe_psql('two', "SELECT pgpubsub.subscribe('s', '{a1,a2,a3,a4}')"),
	't', 'the attempt left nothing behind');
is($node->safe_psql('two', 'SELECT count(*) FROM pgpubsub.subscription'),
	1, 'not in the table either');
publish($node, 'two', 'a4', 'hello');
is(received($node, 'two', 's', 1), 'a4:hello', 'and it works');

# pgpubsub.databases

$node->append_conf('postgresql.conf', "pgpubsub.databases = 'two, \"four\"'");
$node->reload;
wait_for_relay($node, 'one', count => 0);
pass('a database that the setting leaves out loses its relay');
fails_with($node, 'one', "SET pgpubsub.publish_timeout = '100ms'; SELECT pgpubsub.subscribe('new', '{news}')",
	'55000', qr/pgpubsub\.databases/, 'subscribe() there names the setting');
works('two', 'a database that it names keeps its own');

$node->append_conf('postgresql.conf', "pgpubsub.databases = '*'");
$node->reload;
wait_for_relay($node, 'one');
pass('let in again, the relay comes back');
publish($node, 'one', 'same', 'hello again');
is( received($node, 'one', 's1', 1),
	'gap:-1 same:hello again',
	'its subscriptions go on with a gap row');

# at the start of the server
$node->append_conf('postgresql.conf', "pgpubsub.databases = 'two'");
$node->restart;
wait_for_relay($node, 'two');
fails_with($node, 'one', 'SELECT * FROM pgpubsub.poll($$s1$$)',
	'55000', qr/pgpubsub\.databases/, 'left out from the start: poll() names the setting');
$listener = open_session($node, 'one');
$listener->query_safe('LISTEN news; LISTEN pgpubsub');
publish($node, 'one', 'news', 'x' x 8000);
like(join(' ', notifications($listener)),
	qr/^news:\{"truncated":true[^ ]*$/, 'a long payload has no frames there');
$listener->quit;
is(relay_pid($node, 'one'), '', 'and no relay runs');
$node->append_conf('postgresql.conf', "pgpubsub.databases = '*'");
$node->reload;
wait_for_relay($node, 'one');
is(received($node, 'one', 's1', 1, gaps => 1),
	'gap:-1', 'its subscriptions are there');

# A database that does not allow connections does not trouble the others.
$node->safe_psql('postgres', 'ALTER DATABASE one ALLOW_CONNECTIONS false');
$node->restart;
works('two', 'others work while a database refuses connections');
is(relay_pid($node, 'one'), '', 'that one has no relay');
$node->safe_psql('postgres', 'ALTER DATABASE one ALLOW_CONNECTIONS true');
works('one', 'when it allows them again, its first use brings the relay');

# What a database or a role has set does not reach the relay.
$node->safe_psql(
	'postgres', q{
	CREATE ROLE weak;
	ALTER DATABASE one SET statement_timeout = 1;
	ALTER DATABASE one SET lock_timeout = 1;
	ALTER DATABASE one SET client_encoding = 'latin1';
	ALTER DATABASE one SET default_transaction_read_only = on;
	ALTER DATABASE one SET default_transaction_isolation = 'serializable';
	ALTER DATABASE one SET search_path = 'nowhere';
	ALTER DATABASE one SET session_preload_libraries = '';
	ALTER DATABASE one SET role = 'weak'});
kill_relay($node, 'one');
$node->safe_psql(
	'postgres', q{
	ALTER DATABASE one RESET ALL;
});
publish($node, 'one', 'same', "\x{e2}\x{82}\x{ac}");
is( received($node, 'one', 's1', 1),
	"gap:-1 same:\x{e2}\x{82}\x{ac}",
	'a relay does its work whatever the database sets');

$node->stop;

# No worker slot is free.

# logical replication and the launcher leave one slot for one relay
$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
my $offset = log_offset($node);
$node->start;
$node->wait_for_log(
	qr/WARNING:  no background worker slot is free.*\n.*DETAIL:  .*"two".*\n.*HINT:  Raise max_worker_processes/,
	$offset);
pass('too few worker slots: a warning names the setting');
ok( $node->poll_query_until(
		'postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pgpubsub relay' AND wait_event_type = 'Extension'"
	),
	'one of the databases has its relay');
my $without = relay_pid($node, 'one') eq '' ? 'one' : 'two';
my $with    = $without eq 'one' ? 'two' : 'one';
fails_with($node, $without,
	"SET pgpubsub.publish_timeout = '100ms'; SELECT pgpubsub.subscribe('s9', '{news}')",
	'55000', qr/max_worker_processes/,
	'subscribe() where there is no relay names it too');
is( $node->safe_psql($without,
		"SELECT count(*) FROM pgpubsub.subscription WHERE name = 's9'"),
	0,
	'and has left nothing behind');
works($with, 'the database with a relay works');
$node->safe_psql($with, 'DROP EXTENSION pgpubsub');
wait_for_relay($node, $without);
works($without, 'when a slot gets free, the other has its relay');

$node->stop;
$node->append_conf('postgresql.conf', 'max_worker_processes = 8');
$node->start;
works($without, 'it works after the setting was raised');

$node->stop;
log_is_clean(
	$node,
	qr/WARNING:  this database gets no relay/,
	qr/WARNING:  no relay for database "(?:one|two)"/,
	qr/WARNING:  no background worker slot is free/,
	qr/ERROR:  this database has no relay/,
	qr/ERROR:  the relay of this database does not answer/,
	qr/FATAL:  database "one" is not currently accepting connections/,
	qr/ERROR:  (?:too many|no room|out of).*/);
done_testing();
