# Durable channels: the moments of reading at which a consumer, the relay or the
# server may end.  What a consumer has committed never comes again; what it has
# not, does.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('durable_positions', start => 0, init => { allows_streaming => 1 }, conf => q{
pgpubsub.publish_timeout = 30s
autovacuum = off
wal_writer_delay = 10s
log_statement = none
});
my $points = open_points($node, needed => 1);
my $admin  = client($node);

sub reach
{
	my ($point, $do) = @_;

	return comes_to($node, $points, $point, $do);
}

# The machine goes down, while processes wait at the points, and comes up again.
sub crash
{
	my @opened = @_;

	kill_server($node);
	open_point($points, $_) foreach @opened;
	$node->start;
	$admin = client($node);
	return;
}

# What comes after that is expected at once, and then comes nothing.
sub reads
{
	my ($subscription, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $count = () = $expected =~ /\S+/g;
	my @rows  = $admin->take($subscription, $count);

	$admin->settle;
	push @rows,
	  $admin->run("SELECT coalesce(channel, 'gap'), coalesce(payload, lost::text) FROM pgpubsub.poll('$subscription', 1000)");
	return is(join(' ', map { "$_->[0]:$_->[1]" } @rows), $expected, $name);
}

# A session that begins to consume, and to write down what it has consumed.
my $take =
  "INSERT INTO taken SELECT channel || ':' || payload FROM pgpubsub.poll('s', 10)";

sub consumer_begins
{
	my ($commit) = @_;
	my $client = client($node);

	$client->run("SET synchronous_commit = $commit");
	return $client->begin($take);
}

# What was written down since this was last asked.
sub taken
{
	return join ' ', map { $_->[0] } $admin->run('WITH t AS (DELETE FROM taken RETURNING payload) SELECT payload FROM t ORDER BY 1');
}

$admin->run('CREATE EXTENSION pgpubsub');
$admin->run('CREATE TABLE taken (payload text)');
$admin->run("SELECT pgpubsub.subscribe('early', '{a,b}'), pgpubsub.subscribe('early_pattern', '{*}')");
$admin->run("SELECT pgpubsub.set_durable('a'), pgpubsub.set_durable('b')");
$admin->run("SELECT pgpubsub.subscribe('s', '{a,b}')");
my ($number, $client) = (0);

# Two events are published and queued, one on each channel; "a:N b:N+1".
sub two_more
{
	my @made = ('a:' . ++$number, 'b:' . ++$number);

	$admin->publish(split /:/) foreach @made;
	$admin->settle;
	return "@made";
}

# Its position is written, and not committed.
my $two = two_more();
reach('durable_position_written', sub { $client = consumer_begins('on') });
crash('durable_position_written');
is(taken(), '', 'a position not committed, the server is killed: nothing is taken');
reads('s', $two, 'so all comes again');

# Those that were made before there was a log have no position.
reads('early', $two, 'so it does to one that is older than the log');
reads('early_pattern', "gap:-1 $two", 'and to one that has a pattern, which may have lost what is not durable');
crash();
reads('early', '', 'which have their positions now');
reads('early_pattern', 'gap:-1', 'which have their positions now');
$admin->run("SELECT pgpubsub.unsubscribe('early'), pgpubsub.unsubscribe('early_pattern')");

$two = two_more();
my $pid = reach('durable_position_written', sub { $client = consumer_begins('on') });
$admin->run("SELECT pg_terminate_backend($pid)");
open_point($points, 'durable_position_written');
wait_until(sub { $client->done }, 'the end of a session');
is(taken(), '', 'a position not committed, its session ends: nothing is taken');
is(join(' ', map { "$_->[0]:$_->[1]" } $admin->run("SELECT channel, payload FROM pgpubsub.poll('s', 10, consume => false)")),
	$two, 'so all can be seen again');
crash();
reads('s', $two, 'and comes again, also when the server is killed then');

# The relay ends while a position is not committed.
$two = two_more();
reach('durable_position_written', sub { $client = consumer_begins('on') });
kill_relay($node, 'postgres');
open_point($points, 'durable_position_written');
is($client->finish->sqlstate, '', 'a position not committed, the relay ends: the consumer commits');
my $more = two_more();
reads('s', $more, 'and what it has consumed does not come again');
crash();
is(taken(), $two, 'it has consumed that');
reads('s', '', 'nor does it after the server is killed');

# It is committed.
$two = two_more();
is(consumer_begins('on')->finish->sqlstate, '', 'a position is committed');
crash();
is(taken(), $two, 'the server is killed: what was consumed is taken');
reads('s', '', 'and does not come again');

# It is committed, and perhaps not on disk: what is taken and what comes again is
# all there is, once.
foreach (1 .. 3)
{
	$two = two_more();
	consumer_begins('off')->finish;
	crash();
	my $taken = taken();
	reads('s', $taken eq '' ? $two : '', 'committed without waiting for the disk: ' . ($taken eq '' ? 'lost' : 'kept') . ', with the position');
}

# Its commit is on disk, and hangs.
$two = two_more();
hold_commits($node);
$client = consumer_begins('on');
ok(commit_waits($node, $client), 'a consumer\'s commit is on disk, and hangs');
kill_server($node);
$node->start;
release_commits($node);
$admin = client($node);
is(taken(), $two, 'the server is killed: it has committed');
reads('s', '', 'and nothing comes again');

# The relay ends while it hangs.
$two = two_more();
hold_commits($node);
$client = consumer_begins('on');
ok(commit_waits($node, $client), 'another one');
$admin->run('SET synchronous_commit = local');
kill_relay($node, 'postgres');
$more = two_more();
release_commits($node);
is($client->finish->sqlstate, '', 'the relay ends, and it goes on');
reads('s', $more, 'what comes next comes');
is(taken(), $two, 'the rest was consumed');

# Two sessions, one after the other, the first of which is lost
$two = two_more();
$more = two_more();
$client = client($node);
$client->run('SET synchronous_commit = off');
is($client->value("SELECT payload FROM pgpubsub.poll('s', 1)"), $number - 3, 'a session consumes one');
is($client->value("SELECT payload FROM pgpubsub.poll('s', 1)"), $number - 2, 'and another one');
$client->run('SET synchronous_commit = on');
is($client->value("SELECT payload FROM pgpubsub.poll('s', 1)"), $number - 1, 'and one that is on disk when its transaction ends');
crash();
reads('s', "b:$number", 'the server is killed: the rest comes');

# A rolled back savepoint, and a position behind it
$two = two_more();
$client = client($node);
$client->run('BEGIN');
$client->run('SAVEPOINT a');
$client->run("SELECT FROM pgpubsub.poll('s', 2)");
$client->run('ROLLBACK TO a');
$client->run("SELECT FROM pgpubsub.poll('s', 1)");
reach('durable_position_written', sub { $client->begin('COMMIT') });
open_point($points, 'durable_position_written');
$client->finish;
crash();
reads('s', 'b:' . $number, 'what was read in a savepoint that was rolled back comes again');

# Names that are used again. A session unsubscribes, and subscribes anew, perhaps
# in one transaction, and perhaps the server is killed before, between, or behind.
my %again = (
	one => ["BEGIN; SELECT pgpubsub.unsubscribe('s'); SELECT pgpubsub.subscribe('s', '{a,b}'); COMMIT"],
	two => [ "SELECT pgpubsub.unsubscribe('s')", "SELECT pgpubsub.subscribe('s', '{a,b}')" ]);
foreach my $how (sort keys %again)
{
	foreach my $killed (0 .. @{ $again{$how} })
	{
		my $old = two_more();

		is($admin->value("SELECT channel || ':' || payload FROM pgpubsub.poll('s', 1)"), (split ' ', $old)[0],
			"in $how, killed at $killed: one is consumed, one is not");
		if ($killed == 0)
		{
			crash();
			reads('s', (split ' ', $old)[1], 'the old subscription goes on');
		}
		foreach my $step (1 .. @{ $again{$how} })
		{
			$admin->run($again{$how}[ $step - 1 ]);
			crash() if $killed == $step;
		}
		my $new = two_more();
		reads('s', $new, 'the new one begins when it was made');
		crash();
		reads('s', '', 'and has its own position');
	}
}
$two = two_more();
$admin->run("BEGIN; SELECT pgpubsub.unsubscribe('s'); SELECT pgpubsub.subscribe('s', '{a,b}')");
crash();
reads('s', $two, 'a new one that was not committed at a crash leaves the old one');

# A consumer has it, has consumed, and drops it, in one transaction.
$two = two_more();
$client = client($node);
$client->run('BEGIN');
$client->run("SELECT FROM pgpubsub.poll('s', 1)");
$client->run("SELECT pgpubsub.unsubscribe('s')");
$client->run("SELECT pgpubsub.subscribe('s', '{a,b}')");
$client->run('COMMIT');
crash();
$two = two_more();
reads('s', $two, 'consumed, dropped and made anew in one transaction: it begins when it was made');

# ack() and seek(); seqs may be others after a crash, unless somebody has committed.
sub looks
{
	return $admin->run("SELECT seq, channel || ':' || payload FROM pgpubsub.poll('s', 10, '30s', false)");
}
$two = two_more();
my ($first) = looks();
reach('durable_position_written', sub { $client = client($node)->begin("SELECT pgpubsub.ack('s', $first->[0])") });
crash('durable_position_written');
$admin->settle;
my @rows = looks();
is(join(' ', map { $_->[1] } @rows), $two, 'an ack that is not committed: all comes again');
$admin->run("SELECT pgpubsub.ack('s', $rows[0][0])");
crash();
my @left = looks();
is("@{ $left[0] }", "@{ $rows[1] }", 'one that is: the other one comes, with its seq');
is(scalar @left, 1, 'and nothing else');
reach('durable_position_written', sub { $client = client($node)->begin("SELECT pgpubsub.seek('s', 'now')") });
crash('durable_position_written');
is(join(' ', map { $_->[1] } looks()), $rows[1][1], 'a seek that is not committed moves nothing');
$admin->run("SELECT pgpubsub.seek('s', 'now')");
crash();
reads('s', '', 'one that is does');
$admin->run("SELECT pgpubsub.seek('s', '$rows[0][0]')");
crash();
reads('s', $two, 'also one that goes back');

$admin->quit;
$node->stop('fast');
server_is_sound($node);
done_testing();
