# More databases than places: which get them, how a database that the setting
# leaves out makes room, and that a reload repeats nothing.

use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;

use PgPubsubClient;
use PgPubsubTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('left_out', conf => 'pgpubsub.max_databases = 2');

# Change the setting; the launcher hears of it with a reload or a restart.
sub set_databases
{
	my ($value, $how) = @_;

	$node->append_conf('postgresql.conf', "pgpubsub.databases = '$value'");
	$how eq 'restart' ? $node->restart : $node->reload;
}

# These databases have relays, and no others.
sub relays_are
{
	my ($databases, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok( $node->poll_query_until(
			'postgres', qq{
			SELECT coalesce(string_agg(datname, ' ' ORDER BY datname), '') = '$databases'
			   AND coalesce(bool_and(wait_event_type = 'Extension'), true)
			  FROM pg_stat_activity WHERE backend_type = 'pgpubsub relay'}),
		$name);
}

sub hears
{
	my ($db, $payload, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$node->safe_psql($db, "SELECT pgpubsub.publish('news', '$payload')");
	like(received($node, $db, 's', 1), qr/^(?:gap:-1 )?news:$payload$/, $name);
}

sub warnings
{
	my ($like, $offset) = @_;

	return
	  scalar(() = slurp_file($node->logfile, $offset) =~ /WARNING:  $like/g);
}

foreach my $db (qw(a b c))
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->psql($db, 'CREATE EXTENSION pgpubsub');
	$node->safe_psql($db, "SELECT pgpubsub.subscribe('s', '{news}')")
	  unless $db eq 'c';
}
relays_are('a b', 'two of three have relays');
hears($_, 'first', "$_ works") foreach qw(a b);

# A database is left out while sessions there hold all that can be held.

my $reader = open_session($node, 'a');
$reader->query_safe(
	"SELECT pgpubsub.subscribe('mine', '{news}', temporary => true)");
$node->safe_psql('a', "SELECT pgpubsub.publish('news', 'taken')");
$reader->query_safe('BEGIN');
is($reader->query("SELECT payload FROM pgpubsub.poll('s', timeout => '30s')"),
	'taken', 'a session has consumed an event');
my $waiter = open_session($node, 'a');
$waiter->query_safe("SELECT pgpubsub.subscribe('other', '{else}')");
begin_query($waiter, "SELECT * FROM pgpubsub.poll('other', timeout => '60s')");
$node->poll_query_until('a',
	"SELECT count(*) = 1 FROM pgpubsub.stat_subscriptions WHERE subscription = 'other' AND state = 'waiting'"
) or die 'it does not wait';
my $creator = open_session($node, 'a');
$creator->query_safe(
	"BEGIN; SELECT pgpubsub.subscribe('uncommitted', '{news}')");
my $listener = client($node, 'a');
$listener->run('LISTEN news');
my $writer = client($node, 'a');
$writer->run("SET pgpubsub.publish_mode = 'async'");
$writer->run(
	"SELECT pgpubsub.publish('news', i::text) FROM generate_series(1, 500) AS i");

my $offset = log_offset($node);
set_databases('b, c', 'reload');
relays_are('b c', 'left out, its place goes to another database');
is(warnings('.*', $offset), 0, 'without a warning');
is($node->safe_psql('c', "SELECT pgpubsub.subscribe('s', '{news}')"),
	't', 'which can subscribe');
hears($_, 'second', "$_ works") foreach qw(b c);
is(scalar($listener->wait_for_notifications(500)),
	500, 'what was staged before it was sent');

my (undef, $error) = end_query($waiter);
like($error, qr/ERROR: /, 'a session that waits in poll() gets an error');
is(session_error($reader, 'COMMIT'), '', 'a transaction that has read commits');
is(session_error($creator, 'COMMIT'), '', 'and so does one that subscribes');
foreach my $session ($reader, $waiter, $creator)
{
	fails_with($session, undef, "SELECT * FROM pgpubsub.poll('s')",
		'55000', qr/pgpubsub\.databases/, 'poll() names the setting');
	$session->quit;
}
$node->safe_psql('a', "SELECT pgpubsub.publish('news', 'nobody')");
pass('publish() works there');
is( $node->safe_psql(
		'a', "SELECT string_agg(name, ' ' ORDER BY name) FROM pgpubsub.subscription"),
	'other s uncommitted',
	'its table has its subscriptions');

# Let in again.

set_databases('b, a', 'reload');
relays_are('a b', 'let in again, it takes the place of one left out');
is(received($node, 'a', 's', 1, gaps => 1), 'gap:-1', 'with a gap');
hears('a', 'third', 'it works');
is( $node->safe_psql(
		'a', q{
		SELECT string_agg(subscription, ' ' ORDER BY subscription)
		  FROM pgpubsub.stat_subscriptions WHERE datname = 'a'}),
	'other s uncommitted',
	'with all subscriptions but the temporary one');

# left out and let in before its relay has left, or its place is free
foreach (1 .. 5)
{
	set_databases('b',    'reload');
	set_databases('b, a', 'reload');
}
relays_are('a b', 'left out and let in');
hears('a', 'fourth', 'it works');

# A reload repeats no warning.

$offset = log_offset($node);
set_databases('*', 'reload');
$node->wait_for_log(qr/WARNING:  no relay for database "c"/, $offset);
$node->safe_psql('postgres', 'ALTER DATABASE b ALLOW_CONNECTIONS false');
my $relay = relay_pid($node, 'b');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($relay)");
$node->wait_for_log(qr/WARNING:  no relay for database "b"/, $offset);
foreach (1 .. 5)
{
	$node->reload;

	# wakes the launcher
	$node->safe_psql('a',
		'SELECT pgpubsub.relay_start() FROM generate_series(1, 100)');
}
set_databases('*, nothing', 'reload');
$node->safe_psql('postgres', 'ALTER DATABASE b ALLOW_CONNECTIONS true');
$node->reload;
relays_are('a b', 'a reload has it look again');
is(warnings('.*"b"', $offset), 1, 'no warning is repeated at a reload');
is(warnings('.*"c"', $offset), 1, 'none at all');

# Which databases have relays: the oldest, or those that the setting names
# first; not those that come first in pg_database.

$node->safe_psql('postgres', 'ALTER DATABASE a CONNECTION LIMIT 10');
$node->safe_psql('postgres', 'ALTER DATABASE b CONNECTION LIMIT 10');
is( $node->safe_psql(
		'postgres', q{
		SELECT string_agg(datname, ' ' ORDER BY ctid) FROM pg_database
		 WHERE datname IN ('a', 'b', 'c')}),
	'c a b',
	'pg_database has another order');
$offset = log_offset($node);
foreach my $try (
	[ '*',       'a b', 'the oldest' ],
	[ 'c, *',    'a c', 'one that is named, then the oldest' ],
	[ 'c, b, a', 'b c', 'those that are named first' ],
	[ 'nothing', '',    'none' ])
{
	my ($setting, $databases, $name) = @$try;

	set_databases($setting, 'restart');
	relays_are($databases, "pgpubsub.databases = '$setting': $name");
}
set_databases('c, b, a', 'reload');
relays_are('b c', 'the order holds for a reload, too');

$node->stop;
log_is_clean(
	$node,
	qr/WARNING:  this database gets no relay/,
	qr/WARNING:  no relay for database "[abc]"/,
	qr/ERROR:  this database has no relay/,
	qr/ERROR:  subscription "\w+" does not exist/);
done_testing();
