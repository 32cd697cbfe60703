# In a database that a subscription was not made in, a copy or a restored one,
# it holds nobody until it has been polled there; from then on it is that
# database's own, over restarts too.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('copied', conf => q{
pgpubsub.max_databases = 8
pgpubsub.queue_size = 1MB
pgpubsub.publish_timeout = '300ms'
pgpubsub.evict_timeout = '1h'
});
my $dir = PostgreSQL::Test::Utils::tempdir();

# More than the queue takes, in many transactions.
my $flood = q{DO $$BEGIN FOR i IN 1 .. 12 LOOP
		PERFORM pgpubsub.publish('news', repeat('x', 1000) || n) FROM generate_series(1, 100) AS n;
		COMMIT;
	END LOOP; END$$};

# What subscriptions of the database do, and how often its queue was full.
sub states
{
	my ($db) = @_;

	return $node->safe_psql($db,
		"SELECT string_agg(subscription || ' ' || state, ', ' ORDER BY subscription) FROM pgpubsub.stat_subscriptions WHERE datname = current_database()");
}

sub full_count
{
	my ($db) = @_;

	return $node->safe_psql($db,
		'SELECT full_count FROM pgpubsub.stat_queue WHERE datname = current_database()');
}

# Which subscriptions the table says were made there.
sub made_here
{
	my ($db) = @_;

	return $node->safe_psql($db,
		"SELECT string_agg(s.name, ' ' ORDER BY s.name) FROM pgpubsub.subscription AS s"
		  . ' JOIN pg_database AS d ON d.oid = s.made_in WHERE d.datname = current_database()') // '';
}

sub relay_runs
{
	my ($db) = @_;

	$node->safe_psql($db, 'SELECT pgpubsub.relay_start()');
	wait_for_relay($node, $db);
}

# Nobody reads them: writers go on all the same.
sub writers_go_on
{
	my ($db, $how) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	relay_runs($db);
	is(query_error($node, $db, $flood), '', "$how: writers go on");

	# the relay has queued it all
	settle($node, $db);
	is(full_count($db), 0, "$how: the queue was never full");
	like(states($db), qr/^block evicted, drop idle, evict evicted/, "$how: and the view shows why");
}

# The subscription holds; then it is read.
sub holds
{
	my ($db, $name, $how) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	# the queue may be full before it has ended, or after
	query_error($node, $db, $flood);
	ok( $node->poll_query_until($db,
			"SELECT relay_state = 'full' FROM pgpubsub.stat_queue WHERE datname = current_database()"),
		"$how: it holds the queue");
	fails_with($node, $db, "SELECT pgpubsub.publish('news', 'no room')", '53400',
		qr/queue is full/, "$how: and writers fail");
	like(states($db), qr/\b$name holding/, "$how: because of it");
	$node->safe_psql($db, q{SELECT pgpubsub.ack(s.subscription, q.newest_seq)
		FROM pgpubsub.stat_subscriptions AS s JOIN pgpubsub.stat_queue AS q USING (datname)
		WHERE datname = current_database()});
	ok( $node->poll_query_until($db,
			"SELECT relay_state = 'listening' FROM pgpubsub.stat_queue WHERE datname = current_database()"),
		"$how: until it is read");
}

$node->safe_psql('postgres', 'CREATE DATABASE original');
$node->safe_psql('original', 'CREATE EXTENSION pgpubsub');
$node->safe_psql('original',
	"SELECT pgpubsub.subscribe(f, '{news}', f) FROM unnest('{block,evict,drop}'::text[]) AS f");
is(made_here('original'), 'block drop evict', 'subscriptions are made in their database');

# Copies

$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE original');
is(made_here('copy'), '', 'those of a copy are not');
writers_go_on('copy', 'a copy');

# polled there, the others not
is($node->safe_psql('copy', "SELECT max(lost) > 0 OR min(lost) = -1 FROM pgpubsub.poll('block', 1000)"),
	't', 'who polls is told what was missed');
ok( $node->poll_query_until('copy',
		"SELECT made_in = (SELECT oid FROM pg_database WHERE datname = 'copy') FROM pgpubsub.subscription WHERE name = 'block'"),
	'and has its subscription in that database');
is(states('copy'), 'block idle, drop idle, evict evicted', 'the others wait');
holds('copy', 'block', 'polled');
kill_relay($node, 'copy');
holds('copy', 'block', 'with a new relay');

# pg_dump and restore

my %run = (host => $node->host, port => $node->port);
sub dump_and_restore
{
	my ($from, $to) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $to");
	$node->command_ok([ 'pg_dump', '-h', $run{host}, '-p', $run{port}, '-f', "$dir/$to.sql", $from ],
		"pg_dump of $from");
	$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-h', $run{host}, '-p', $run{port},
			'-f', "$dir/$to.sql", $to ], "restored as $to");
}
dump_and_restore('original', 'restored');
writers_go_on('restored', 'restored');

# where the database that is restored has the oid of the one that was dumped,
# as postgres has in every server
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
relay_runs('postgres');
$node->safe_psql('postgres', "SELECT pgpubsub.subscribe(f, '{news}', f) FROM unnest('{block,evict,drop}'::text[]) AS f");
$node->command_ok([ 'pg_dump', '-h', $run{host}, '-p', $run{port}, '-f', "$dir/same.sql", 'postgres' ],
	'pg_dump of one');
$node->safe_psql('postgres', 'DROP EXTENSION pgpubsub; DROP SCHEMA IF EXISTS pgpubsub');
wait_for_relay($node, 'postgres', count => 0);
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-h', $run{host}, '-p', $run{port},
		'-f', "$dir/same.sql", 'postgres' ], 'restored as the same');
is(made_here('postgres'), '', 'the oid alone does not tell');
writers_go_on('postgres', 'restored under the same oid');

# The original, and rows written by hand

holds('original', 'block', 'the original');
$node->safe_psql('restored',
	"INSERT INTO pgpubsub.subscription (name, owner, channels, on_full) VALUES ('hand', 'postgres', '{news}', 'block')");
is(made_here('restored'), 'hand', 'who writes a row by hand makes the subscription there');
ok( $node->poll_query_until('restored',
		"SELECT count(*) = 1 FROM pgpubsub.stat_subscriptions WHERE datname = 'restored' AND subscription = 'hand'"),
	'the relay has it');
holds('restored', 'hand', 'written by hand');

# The upgrade from 1.0, whose table does not say it

$node->safe_psql('postgres', 'CREATE DATABASE old');
$node->safe_psql('old', "CREATE EXTENSION pgpubsub VERSION '1.0'");
$node->safe_psql('old', "SELECT pgpubsub.subscribe(f, '{news}', f) FROM unnest('{block,evict,drop}'::text[]) AS f");
holds('old', 'block', '1.0');
$node->safe_psql('postgres', 'CREATE DATABASE old_copy TEMPLATE old');
relay_runs('old_copy');
holds('old_copy', 'block', 'a copy of 1.0');
$node->safe_psql('old', 'ALTER EXTENSION pgpubsub UPDATE');
is(made_here('old'), 'block drop evict', 'the upgrade takes those that are there for its own');
relay_runs('old');
holds('old', 'block', 'upgraded');
$node->safe_psql('postgres', 'DROP DATABASE old_copy');
$node->safe_psql('postgres', 'CREATE DATABASE old_copy TEMPLATE old');
writers_go_on('old_copy', 'a copy of the upgraded');

# Restart

$node->restart;
foreach my $db ('original', 'copy', 'restored', 'old')
{
	relay_runs($db);
	holds($db, $db eq 'restored' ? 'hand' : 'block', "$db after a restart");
}
writers_go_on('old_copy', 'a copy after a restart');

$node->stop;
log_is_clean($node, qr/WARNING:  pgpubsub queue is (?:more than half )?full/,
	qr/ERROR:  queue is full/, qr/FATAL:  terminating background worker "pgpubsub/);
done_testing();
