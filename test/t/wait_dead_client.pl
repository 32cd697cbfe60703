# A client that has died is given no events: not by a poll() that waits for
# them, nor by one that waits for another reader, nor by one that is over but
# not committed.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('dead_client');

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	SELECT pgpubsub.subscribe(on_full || '_s', ARRAY[on_full], on_full)
	  FROM unnest('{drop,evict,block}'::text[]) AS on_full;
});

my $watcher = client($node);
my $poll = "SELECT payload FROM pgpubsub.poll('%s', timeout => '10min')";

# Begin the query in a psql of its own; its process and its backend's pid.
sub begin_victim
{
	my ($sql) = @_;
	my $session = open_session($node);
	my $pid     = session_pid($session);

	begin_query($session, $sql);
	return ($session, $pid);
}

# Kill the client; return when the process is gone.
sub kill_client
{
	my ($session) = @_;

	$session->{run}->signal('KILL');
	eval { $session->{run}->finish };
	return;
}

# Wait until the condition holds of a row of pg_stat_activity.
sub wait_for_activity
{
	my ($condition) = @_;

	$node->poll_query_until('postgres',
		"SELECT count(*) > 0 FROM pg_stat_activity WHERE $condition")
	  or fail("waited for $condition");
	return;
}

sub backend_ends
{
	my ($pid, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok(
		$node->poll_query_until('postgres',
			"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid"),
		$name);
}

# Publish 50 events.
sub publish_50
{
	my ($channel) = @_;

	$node->safe_psql('postgres',
		"SELECT count(pgpubsub.publish('$channel', i::text)) FROM generate_series(1, 50) AS i"
	);
	return;
}

# All 50 are there for another session, none is lost; they are consumed.
sub all_are_there
{
	my ($on_full, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	# without a client's timeout: who has died must not have it any more
	is( received($node, 'postgres', "${on_full}_s", 50),
		join(' ', map { "$on_full:$_" } 1 .. 50),
		"$on_full: all events are there $name");
	return;
}

foreach my $on_full (qw(drop evict block))
{
	my $subscription = "${on_full}_s";
	my $waits =
	  "EXISTS (SELECT FROM pgpubsub.stat_subscriptions AS s WHERE s.pid = pg_stat_activity.pid AND s.state = 'waiting') AND pid = ";

	# consume what CREATE EXTENSION's relay has told of
	$node->safe_psql('postgres', "SELECT * FROM pgpubsub.poll('$subscription')");

	foreach my $consume (qw(true false))
	{
		my ($victim, $pid) = begin_victim(
			"SELECT payload FROM pgpubsub.poll('$subscription', timeout => '10min', consume => $consume)"
		);
		wait_for_activity($waits . $pid);
		kill_client($victim);
		backend_ends($pid, "$on_full: a poll ends with its client");
		publish_50($on_full);
		all_are_there($on_full, 'after a client died in a wait');
	}

	# the events come before the backend can have noticed
	my ($victim, $pid) = begin_victim(sprintf($poll, $subscription));
	wait_for_activity($waits . $pid);
	stop_process($watcher, $pid);
	kill_client($victim);
	publish_50($on_full);
	kill 'CONT', $pid;
	backend_ends($pid, "$on_full: so does one that is woken by events");
	all_are_there($on_full, 'after a client died when they came');
}

# One that waits for another reader

my $reader = open_session($node);

publish_50('evict');
$reader->query_safe('BEGIN');
is($reader->query("SELECT count(*) FROM pgpubsub.poll('evict_s', timeout => '30s')"),
	50, 'a session reads');
my ($victim, $pid) = begin_victim(sprintf($poll, 'evict_s'));
wait_for_activity("pid = $pid AND state = 'active' AND wait_event_type = 'Extension'");
kill_client($victim);
backend_ends($pid, 'a poll that waits for another reader ends with its client');
$reader->query_safe('ROLLBACK');
all_are_there('evict', 'after a client died that waited for their reader');

publish_50('evict');
$reader->query_safe('BEGIN');
is($reader->query("SELECT count(*) FROM pgpubsub.poll('evict_s', timeout => '30s')"),
	50, 'a session reads');
($victim, $pid) = begin_victim(sprintf($poll, 'evict_s'));
wait_for_activity("pid = $pid AND state = 'active' AND wait_event_type = 'Extension'");
stop_process($watcher, $pid);
kill_client($victim);
$reader->query_safe('ROLLBACK');
kill 'CONT', $pid;
backend_ends($pid, 'even when that one lets go at the same time');
all_are_there('evict', 'after a client died while their reader let go');

# The poll has its rows, but its transaction is not over.

publish_50('block');
$reader->query_safe('SELECT pg_advisory_lock(1)');
($victim, $pid) = begin_victim(
	"SELECT payload FROM pgpubsub.poll('block_s', timeout => '30s'), pg_advisory_xact_lock(payload::int * 0 + 1)"
);
wait_for_activity("pid = $pid AND wait_event = 'advisory'");
kill_client($victim);
$reader->query_safe('SELECT pg_advisory_unlock(1)');
backend_ends($pid, 'a poll ends whose client dies before the commit');
all_are_there('block', 'after a client died before the commit');

# What a client has said it has read stays so, and what it wanted dropped goes.

publish_50('drop');
my $last = $node->safe_psql('postgres',
	"SELECT max(seq) FROM pgpubsub.poll('drop_s', timeout => '30s', consume => false)"
);
$reader->query_safe('SELECT pg_advisory_lock(1)');
($victim, $pid) = begin_victim(
	"SELECT pgpubsub.ack('drop_s', $last), pgpubsub.unsubscribe('evict_s'), pg_advisory_xact_lock(1)"
);
wait_for_activity("pid = $pid AND wait_event = 'advisory'");
kill_client($victim);
$reader->query_safe('SELECT pg_advisory_unlock(1)');
backend_ends($pid, 'the session of an ack ends');
is_quiet($node, 'postgres', 'drop_s', 'the ack counts whose client has died');
fails_with($node, 'postgres', "SELECT * FROM pgpubsub.poll('evict_s')",
	'42704', qr/does not exist/, 'and so does the unsubscribe');

like(
	slurp_file($node->logfile),
	qr/FATAL:  connection to client lost/,
	'the log says why they ended');
$_->quit foreach $reader, $watcher;
server_is_sound($node);
log_is_clean(
	$node,
	qr/FATAL:  connection to client lost/,
	qr/ERROR:  subscription "evict_s" does not exist/);
$node->stop;
done_testing();
