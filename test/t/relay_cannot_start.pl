# Databases that can have no relay: too many of them, no worker, no connections.
# The log says what to change, once; what was missing comes without help.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('limits', conf => 'pgpubsub.max_databases = 2');

sub warnings
{
	my ($like, $offset) = @_;

	return scalar(() = slurp_file($node->logfile, $offset // 0) =~ /WARNING:  $like/g);
}

# Have the launcher wake up and look around, again and again.
sub many_rounds
{
	my ($db) = @_;

	$node->safe_psql($db,
		'SELECT pgpubsub.relay_start() FROM generate_series(1, 200)');
}

# More databases than pgpubsub.max_databases

foreach my $db (qw(one two three))
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	my ($ret, $out, $err) = $node->psql($db, 'CREATE EXTENSION pgpubsub');

	$db eq 'three'
	  ? like(
		$err,
		qr/WARNING:  this database gets no relay.*pgpubsub\.max_databases \(2\).*HINT: .*raise pgpubsub\.max_databases/s,
		'CREATE EXTENSION in one database too many warns')
	  : is($err, '', "CREATE EXTENSION in $db");
}
fails_with(
	$node, 'three', "SELECT pgpubsub.subscribe('s', '{news}')", '55000',
	qr/this database has no relay.*pgpubsub\.max_databases/s,
	'subscribe() says why it cannot');
$node->safe_psql('three', "SELECT pgpubsub.publish('news', 'nobody')");
pass('publish() works');
$node->safe_psql('three',
	q{INSERT INTO pgpubsub.subscription (name, owner, channels, on_full)
	  VALUES ('s', current_user::regrole, '{news}', 'evict')});
$node->safe_psql($_, "SELECT pgpubsub.subscribe('s', '{news}')")
  foreach qw(one two);

# after a restart all three are found
my $offset = log_offset($node);
my $began  = time;
$node->restart;
$node->wait_for_log(qr/WARNING:  no relay for database/, $offset);
ok( $node->poll_query_until(
		'postgres', q{
		SELECT count(*) = 2 FROM pg_stat_activity
		 WHERE backend_type = 'pgpubsub relay' AND wait_event_type = 'Extension'}),
	'two have their relays');
like(
	slurp_file($node->logfile, $offset),
	qr/no relay for database "\w+".*\n.*DETAIL:  pgpubsub\.max_databases \(2\).*\n.*HINT:  Raise pgpubsub\.max_databases/,
	'the warning names the setting');
my @with = split /\n/,
  $node->safe_psql('postgres', q{
	SELECT datname FROM pg_stat_activity WHERE backend_type = 'pgpubsub relay' ORDER BY 1});
my ($without) = grep { my $db = $_; !grep { $_ eq $db } @with } qw(one two three);
many_rounds($with[0]);
cmp_ok(warnings('no relay for database', $offset), '<=', 1 + (time - $began) / 30,
	'and comes once, however often the launcher looks around');
$node->reload;
many_rounds($with[0]);
hears($node, $with[0], 'a relay that is there is not disturbed');

# one of them goes: the other takes its place
$node->safe_psql('postgres', "DROP DATABASE $with[1]");
wait_for_relay($node, $without);
hears($node, $without, 'a database that had none gets one when a place is free');
cmp_ok(warnings('no relay for database', $offset), '<=', 1 + (time - $began) / 30,
	'there was no further warning');

# the same with the extension, many times: the log stays short
$node->safe_psql('postgres', 'CREATE DATABASE more');
$node->psql('more', 'CREATE EXTENSION pgpubsub');
$offset = log_offset($node);
$began  = time;
foreach (1 .. 20)
{
	$node->psql($with[0], 'DROP EXTENSION pgpubsub');
	$node->psql($with[0], 'CREATE EXTENSION pgpubsub');
}
my $lines = warnings('no relay for database', $offset);
cmp_ok($lines, '<=', 10 + (time - $began) / 30,
	"places that come and go do not fill the log ($lines lines)");
$node->safe_psql('postgres', "DROP DATABASE $with[0]");
$node->safe_psql('postgres', 'DROP DATABASE more');

# A database that takes no connections

wait_for_relay($node, $without);
$node->safe_psql('postgres', "ALTER DATABASE $without CONNECTION LIMIT 0");
kill_relay($node, $without);
hears($node, $without, 'CONNECTION LIMIT 0 does not concern the relay');
$node->safe_psql('postgres', "ALTER DATABASE $without CONNECTION LIMIT -1 IS_TEMPLATE true");
kill_relay($node, $without);
hears($node, $without, 'nor does IS_TEMPLATE');
$node->safe_psql('postgres', "ALTER DATABASE $without IS_TEMPLATE false");

my $session = open_session($node, $without);
$session->query_safe('SELECT 1');
$offset = log_offset($node);
$began  = time;
$node->safe_psql('postgres', "ALTER DATABASE $without ALLOW_CONNECTIONS false");
my $relay = relay_pid($node, $without);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($relay)");
$node->wait_for_log(
	qr/WARNING:  no relay for database "$without".*\n.*ALLOW_CONNECTIONS/,
	$offset);
$session->query_safe(
	"SET pgpubsub.publish_timeout = 100; SELECT pgpubsub.relay_start() FROM generate_series(1, 200)");
fails_with(
	$session, undef, "SELECT pgpubsub.subscribe('new', '{news}')", '55000',
	qr/relay of this database does not answer/,
	'a session that is still there is told');
$session->query_safe('SELECT pgpubsub.relay_start() FROM generate_series(1, 200)');
cmp_ok(warnings('.*', $offset), '<=', 1 + (time - $began) / 30,
	'one warning says ALLOW_CONNECTIONS');
$session->quit;
$node->restart;
$node->safe_psql('postgres', "ALTER DATABASE $without ALLOW_CONNECTIONS true");
is($node->safe_psql($without, "SELECT pgpubsub.subscribe('new', '{news}')"),
	't', 'allowed again, it has its relay at the first use');
hears($node, $without, 'and its subscriptions');

# the same without a restart
$offset = log_offset($node);
$node->safe_psql('postgres', "ALTER DATABASE $without ALLOW_CONNECTIONS false");
$relay = relay_pid($node, $without);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($relay)");
$node->wait_for_log(qr/WARNING:  no relay for database "$without"/, $offset);
$node->safe_psql('postgres', "ALTER DATABASE $without ALLOW_CONNECTIONS true");
is($node->safe_psql($without, "SELECT pgpubsub.subscribe('newer', '{news}')"),
	't', 'so without a restart');
hears($node, $without, 'and its subscriptions');

# No worker slot: the launcher and the server's own launcher of logical
# replication have the two that there are

$node->append_conf('postgresql.conf', 'max_worker_processes = 2');
$offset = log_offset($node);
$node->restart;
$node->wait_for_log(
	qr/WARNING:  no background worker slot is free to look for .*\n.*DETAIL:  .*"$without".*\n.*HINT:  Raise max_worker_processes \(2\)/,
	$offset);
$began = time;
fails_with(
	$node, $without,
	"SET pgpubsub.publish_timeout = 100; SELECT pgpubsub.subscribe('newest', '{news}')",
	'55000', qr/max_worker_processes/, 'subscribe() names the setting');
$node->wait_for_log(
	qr/WARNING:  no relay for database "$without".*\n.*No background worker slot is free.*\n.*HINT:  Raise max_worker_processes \(2\)/,
	$offset);
$node->safe_psql($without, "SELECT pgpubsub.publish('news', 'nobody')");
$node->safe_psql($without,
	"SET pgpubsub.publish_mode = async; SELECT pgpubsub.publish('news', 'nobody')");
many_rounds($without) foreach 1 .. 3;
cmp_ok(warnings('no (?:relay for database|background worker slot)', $offset),
	'<=', 3 + 2 * (time - $began) / 30, 'no warning is repeated at every look');
$node->append_conf('postgresql.conf', 'max_worker_processes = 8');
$node->restart;
wait_for_relay($node, $without);
hears($node, $without, 'with more workers it works');

# not even one for the launcher
$node->append_conf('postgresql.conf', 'max_worker_processes = 0');
$node->restart;
fails_with(
	$node, $without,
	"SET pgpubsub.publish_timeout = 100; SELECT pgpubsub.subscribe('newest', '{news}')",
	'55000', qr/max_worker_processes/,
	'without a launcher, too, subscribe() names the setting');
$node->safe_psql($without, "SELECT pgpubsub.publish('news', 'nobody')");
$node->stop;

log_is_clean(
	$node,
	qr/WARNING:  this database gets no relay/,
	qr/WARNING:  no relay for database/,
	qr/WARNING:  no background worker slot is free/,
	qr/ERROR:  this database has no relay/,
	qr/ERROR:  the relay of this database does not answer/);
done_testing();
