# The extension and its owner: ALTER EXTENSION, DROP OWNED, CREATE and DROP by
# several sessions at once, and all that needs the database for itself while the
# queue is full.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('extension',
	conf => "pgpubsub.queue_size = '64kB'\npgpubsub.max_databases = 6\npgpubsub.max_subscriptions = 4");

sub no_relay
{
	my ($db, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_for_relay($node, $db, count => 0);
	ok( $node->poll_query_until(
			'postgres',
			"SELECT count(*) = 0 FROM pgpubsub.stat_queue WHERE datname = '$db'"),
		$name);
}

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE ROLE admin LOGIN SUPERUSER;
	CREATE DATABASE one});
$node->safe_psql('one',
	q{CREATE EXTENSION pgpubsub; SELECT pgpubsub.subscribe('s', '{news}')},
	extra_params => [ '-U', 'admin' ]);

# ALTER EXTENSION

my $relay = relay_pid($node, 'one');
($relay) = $relay =~ /(\d+)/;
$node->safe_psql('one', 'ALTER EXTENSION pgpubsub UPDATE');
fails_with($node, 'one', 'ALTER EXTENSION pgpubsub SET SCHEMA public',
	'0A000', qr/does not support SET SCHEMA/, 'ALTER EXTENSION SET SCHEMA is refused');
fails_with($node, 'one', "ALTER EXTENSION pgpubsub UPDATE TO '9.9'",
	'22023', qr/no update path/, 'so is an unknown version');
fails_with($node, 'one', 'DROP TABLE pgpubsub.subscription',
	'2BP01', qr/extension pgpubsub requires it/, 'its parts cannot be dropped');
fails_with($node, 'one', 'DROP SCHEMA pgpubsub',
	'2BP01', qr/extension pgpubsub/, 'nor its schema');
is(relay_pid($node, 'one'), $relay, 'the relay goes on');
hears($node, 'one', 'and works');

# a part that is taken out of it can be dropped; the relay outlives that
my $offset = log_offset($node);
$node->safe_psql(
	'one', q{
	ALTER EXTENSION pgpubsub DROP TABLE pgpubsub.subscription;
	ALTER TABLE pgpubsub.subscription RENAME TO elsewhere});
fails_with($node, 'one', q{SELECT pgpubsub.subscribe('t', '{t}')},
	'42P01', qr/does not exist/, 'without its table, subscribe() says so');
$node->safe_psql(
	'one', q{
	ALTER TABLE pgpubsub.elsewhere RENAME TO subscription;
	ALTER EXTENSION pgpubsub ADD TABLE pgpubsub.subscription});
is(relay_pid($node, 'one'), $relay, 'the relay has gone on');
hears($node, 'one', 'and works');

# The owner of the extension goes

$node->safe_psql('postgres', 'CREATE ROLE second LOGIN SUPERUSER');
$node->safe_psql('one', 'REASSIGN OWNED BY admin TO second');
$node->safe_psql('one', q{SELECT pgpubsub.subscribe('t', '{t}'), pgpubsub.unsubscribe('t')});
is($node->safe_psql('one', 'SELECT DISTINCT owner FROM pgpubsub.subscription'),
	'second', 'REASSIGN OWNED of the owner of the extension: subscriptions go with it');
is(relay_pid($node, 'one'), $relay, 'the relay goes on');
hears($node, 'one', 'and works');
$node->safe_psql('one', 'BEGIN; DROP OWNED BY second; ROLLBACK');
is(relay_pid($node, 'one'), $relay, 'DROP OWNED, rolled back: the relay goes on');
hears($node, 'one', 'and works');
$node->safe_psql('one', 'DROP OWNED BY second');
no_relay('one', 'DROP OWNED drops the extension, and the relay leaves');
$node->safe_psql('postgres', 'DROP ROLE second, admin');

# Many sessions create and drop it

my @sessions = map { open_session($node, 'one') } 1 .. 3;
foreach my $round (1 .. 50)
{
	begin_query($_,
		"DROP EXTENSION IF EXISTS pgpubsub; CREATE EXTENSION IF NOT EXISTS pgpubsub; SELECT pgpubsub.relay_start()"
	) foreach @sessions;
	end_query($_) foreach @sessions;
}
$_->quit foreach @sessions;
$node->safe_psql('one', 'CREATE EXTENSION IF NOT EXISTS pgpubsub');
fails_with($node, 'one', 'DROP SCHEMA pgpubsub CASCADE',
	'2BP01', qr/extension pgpubsub requires it/, 'its schema goes only with it');
$node->safe_psql('one', 'DROP EXTENSION pgpubsub CASCADE');
is($node->safe_psql('one', q{SELECT to_regnamespace('pgpubsub')}), '', 'and does');
no_relay('one', 'created and dropped by three sessions at once: nothing is left');
$node->safe_psql('one', 'CREATE EXTENSION pgpubsub');
is($node->safe_psql('one', q{SELECT pgpubsub.subscribe('s', '{news}')}),
	't', 'it can be created again');
hears($node, 'one', 'and works');

# A database in other sessions' hands, with subscriptions up to the limit: all
# places come back
foreach my $round (1 .. 3)
{
	$node->safe_psql('postgres', 'CREATE DATABASE brief');
	$node->safe_psql('brief',    'CREATE EXTENSION pgpubsub');
	$node->safe_psql('brief', "SELECT pgpubsub.subscribe('s$_', '{news}')") foreach 1 .. 3;
	$node->safe_psql('postgres', 'DROP DATABASE brief' . ($round % 2 ? ' WITH (FORCE)' : ''));
}
is( $node->safe_psql('postgres', 'SELECT count(*) FROM pgpubsub.stat_subscriptions'),
	1, 'subscriptions of databases that are dropped leave their places');

# The queue is full

# Have the queue of the database be full, with a writer that waits.
sub fill
{
	my ($db) = @_;
	my $writer = open_session($node, $db);

	$node->safe_psql($db, q{SELECT pgpubsub.subscribe('blocks', '{full}', 'block')});
	$writer->query_safe(q{SET pgpubsub.publish_timeout = '1min'});
	begin_query($writer,
		q{DO $$BEGIN LOOP PERFORM pgpubsub.publish('full', repeat('x', 5000)); COMMIT; END LOOP; END$$}
	);
	ok( $node->poll_query_until(
			'postgres', "SELECT relay_state = 'full' FROM pgpubsub.stat_queue WHERE datname = '$db'"),
		"the queue of $db is full");
	return $writer;
}

my $writer = fill('one');
ok( $node->poll_query_until(
		'postgres', q{
		SELECT count(pg_terminate_backend(pid)) = 0 FROM pg_stat_activity
		 WHERE datname = 'one' AND backend_type = 'client backend'}),
	'the writer is ended');
close_session($writer);
at_once($node, 'postgres', 'CREATE DATABASE copy TEMPLATE one');
at_once($node, 'postgres', 'ALTER DATABASE one RENAME TO uno');
wait_for_relay($node, 'uno');
at_once($node, 'postgres', 'DROP DATABASE copy');
$writer = fill('uno');
at_once($node, 'uno', 'DROP EXTENSION pgpubsub');
close_session($writer);
no_relay('uno', 'the relay has left');
$node->safe_psql('uno', 'CREATE EXTENSION pgpubsub');
$writer = fill('uno');
at_once($node, 'postgres', 'DROP DATABASE uno WITH (FORCE)');
close_session($writer);
is( $node->safe_psql('postgres', 'SELECT count(*) FROM pgpubsub.stat_queue'),
	1, 'only the database that is left has a place');

$node->stop;
log_is_clean(
	$node,
	qr/ERROR:  (?:extension "pgpubsub" does not support|extension "pgpubsub" has no update path|cannot drop)/,
	qr/ERROR:  (?:table pgpubsub\.subscription|schema "pgpubsub"|function pgpubsub\.\w+\(.*\)) does not exist/,
	# sessions that create and drop it at once there; what they get is core's
	qr/client backend postgres\@one \S+ ERROR:  /,
	qr/ERROR:  queue is full|ERROR:  this database has no relay any more/,
	qr/WARNING:  .*queue .*(?:half|full)/);
done_testing();
