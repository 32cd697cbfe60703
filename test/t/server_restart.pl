# Restarts and crashes: subscriptions come back with a gap row, seq increases,
# temporary subscriptions end.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('restart', conf => 'restart_after_crash = on');

# The seq of the last event that there was.
sub newest_seq
{
	return $node->safe_psql('postgres',
		'SELECT newest_seq FROM pgpubsub.stat_queue');
}

# All subscriptions get a gap row, then what is published now.  Of what was
# not read before, nothing is left: the queue was memory.
my $round = 0;

sub all_come_back
{
	my ($name, $before) = @_;
	my $message = 'round ' . ++$round;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	# what is sent before the relay listens is in the gap
	$node->poll_query_until('postgres',
		"SELECT relay_state = 'listening' FROM pgpubsub.stat_queue WHERE datname = 'postgres'")
	  or fail("$name: no relay");
	is( $node->safe_psql('postgres',
			q{SELECT string_agg(subscription || ' ' || array_to_string(channels, ',') || ' ' || on_full, '; ' ORDER BY subscription)
			  FROM pgpubsub.stat_subscriptions}),
		'blocking news block; dropping n* drop; evicting news,weather evict',
		"$name: subscriptions are back");
	publish($node, 'postgres', 'news', $message);
	is(received($node, 'postgres', $_, 1),
		"gap:-1 news:$message", "$name: $_ has one gap row, then events")
	  foreach qw(evicting dropping blocking);
	publish($node, 'postgres', 'news', "$message, again");
	is(received($node, 'postgres', $_, 1),
		"news:$message, again", "$name: $_ has no second gap row")
	  foreach qw(evicting dropping blocking);
	cmp_ok(newest_seq(), '>', $before, "$name: seq has increased");
	publish($node, 'postgres', 'weather', 'unread');
}

$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
$node->safe_psql(
	'postgres', q{
	SELECT pgpubsub.subscribe('evicting', '{news,weather}'),
	       pgpubsub.subscribe('dropping', '{n*}', 'drop'),
	       pgpubsub.subscribe('blocking', '{news}', 'block');
});
my $session = open_session($node);
$session->query_safe(
	"SELECT pgpubsub.subscribe('temporary', '{news}', temporary => true)");
is( $node->safe_psql('postgres', 'SELECT count(*) FROM pgpubsub.subscription'),
	3, 'a temporary subscription is not in the table');
publish($node, 'postgres', 'news', 'before');
is(received($node, 'postgres', $_, 1), 'news:before', "$_ reads")
  foreach qw(evicting dropping blocking);
is($session->query("SELECT payload FROM pgpubsub.poll('temporary')"),
	'before', 'and so does the temporary one');

# The end of its session is the end of a temporary subscription.
close_session($session);
ok( $node->poll_query_until(
		'postgres',
		"SELECT count(*) = 0 FROM pgpubsub.stat_subscriptions"
		  . " WHERE subscription = 'temporary'"),
	'a temporary subscription ends with its session');
$session = open_session($node);
$session->query_safe(
	"SELECT pgpubsub.subscribe('temporary', '{news}', temporary => true)");
my $pid = session_pid($session);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
ok( $node->poll_query_until(
		'postgres',
		"SELECT count(*) = 0 FROM pgpubsub.stat_subscriptions"
		  . " WHERE subscription = 'temporary'"),
	'also if the session is terminated');
close_session($session);

# A clean restart, with a temporary subscription alive

$session = open_session($node);
$session->query_safe(
	"SELECT pgpubsub.subscribe('temporary', '{news}', temporary => true)");
my $seq = newest_seq();
$node->restart;
close_session($session);
all_come_back('restart', $seq);

# Right after the start: the relay may still be starting.
$seq = newest_seq();
$node->restart;
is( $node->safe_psql('postgres',
		"SELECT coalesce(channel, 'gap:' || lost)"
		  . " FROM pgpubsub.poll('evicting', timeout => '30s')"),
	'gap:-1',
	'a poll at once after the start waits for the relay');
is($node->safe_psql('postgres', "SELECT pgpubsub.subscribe('evicting', '{news,weather}')"),
	'f', 'and subscribe() knows the subscription');
$node->safe_psql('postgres', "SELECT * FROM pgpubsub.poll('$_')")
  foreach qw(dropping blocking);
cmp_ok(newest_seq(), '>=', $seq, 'seq does not go back');

# The clock is behind the highest seq that was saved at shutdown: a server
# without the file starts at the clock, one with it goes on.
$seq = newest_seq();

# A crash

$node->stop('immediate');
$node->start;
wait_for_relay($node, 'postgres');
all_come_back('crash', $seq);

# A backend that reads is killed: the server starts its processes anew.

$seq = newest_seq();
$session = open_session($node);
$pid     = session_pid($session);
$session->query_safe(
	"BEGIN; SELECT * FROM pgpubsub.poll('evicting'); SELECT * FROM pgpubsub.poll('blocking', 1)"
);
my $offset = log_offset($node);
kill 'KILL', $pid;
$node->wait_for_log(qr/all server processes terminated; reinitializing/,
	$offset);
ok($node->poll_query_until('postgres', 'SELECT true'), 'the server is back');
close_session($session);
wait_for_relay($node, 'postgres');
all_come_back('reader killed', $seq);

# The relay is killed.

$seq    = newest_seq();
$offset = log_offset($node);
kill 'KILL', relay_pid($node, 'postgres');
$node->wait_for_log(qr/all server processes terminated; reinitializing/,
	$offset);
ok($node->poll_query_until('postgres', 'SELECT true'), 'the server is back');
wait_for_relay($node, 'postgres');
all_come_back('relay killed', $seq);

# A backend is killed while it waits in poll(), while others write.

$session = open_session($node);
$pid     = session_pid($session);
$node->safe_psql('postgres', "SELECT * FROM pgpubsub.poll('evicting')");
begin_query($session,
	"SELECT * FROM pgpubsub.poll('evicting', timeout => '30s')");
ok( $node->poll_query_until(
		'postgres',
		"SELECT state = 'waiting' AND pid = $pid FROM pgpubsub.stat_subscriptions"
		  . " WHERE subscription = 'evicting'"),
	'a session waits in poll()');
$seq    = newest_seq();
$offset = log_offset($node);
kill 'KILL', $pid;
$node->wait_for_log(qr/all server processes terminated; reinitializing/,
	$offset);
ok($node->poll_query_until('postgres', 'SELECT true'), 'the server is back');
close_session($session);
wait_for_relay($node, 'postgres');
all_come_back('waiting reader killed', $seq);

# Uncommitted changes of subscriptions are not there after a crash.

$session = open_session($node);
$session->query_safe(
	q{
	BEGIN;
	SELECT pgpubsub.unsubscribe('evicting');
	SELECT pgpubsub.subscribe('never', '{news}');
	SELECT pgpubsub.subscribe('dropping', '{elsewhere}')});
$seq = newest_seq();
$node->stop('immediate');
close_session($session);
$node->start;
wait_for_relay($node, 'postgres');
all_come_back('crash in a transaction', $seq);

$node->stop('fast');
log_is_clean(
	$node,
	qr/WARNING:  terminating connection because of crash of another server process/,
	qr/terminated by signal 9: Killed/);
done_testing();
