# The two relations with positions in the log take turns, while consumers commit, and
# the relay or the server ends in the middle of it.  What was committed as consumed
# does not come again, and all else does.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('durable_position_turns', start => 0, conf => q{
pgpubsub.publish_timeout = 30s
autovacuum = off
synchronous_commit = off
log_statement = none
});
my $points = open_points($node, needed => 1);
my $admin  = client($node);

# Somebody comes to the point, and waits there; returns the pid.
sub reach
{
	my ($point, $do) = @_;

	return comes_to($node, $points, $point, $do);
}

# Events are the numbers from 1 on.  Subscription s consumes one at a time, into a
# table, in many transactions; q is read here and there.
my $published = 0;
my $q_read    = 0;

sub publish_more
{
	my ($count) = @_;

	$admin->run("CALL pour($published + 1, $published + $count)");
	$published += $count;
	$admin->settle;
	return;
}

# A session consumes so many events of s, one in a transaction.
sub reader_begins
{
	my ($count) = @_;

	return client($node)->begin("CALL read_each('s', $count)");
}

# A session that consumes the next event of q, and has its position written and not
# committed; it stands still.
sub commit_begins
{
	my $client = client($node);
	my $pid    = reach('durable_position_written',
		sub { $client->begin("INSERT INTO of_q SELECT payload::int FROM pgpubsub.poll('q', 1)") });

	freeze_process($pid);
	open_point($points, 'durable_position_written');
	return ($client, $pid);
}

# The relay, or the server, ends at the point where it waits.
sub ends
{
	my ($who, $pid, $point) = @_;

	if ($who eq 'server')
	{
		kill_server($node);
		open_point($points, $point);
		$node->start;
		$admin = client($node);
		wait_for_relay($node, 'postgres');
		return;
	}
	kill 'TERM', $pid or die "relay $pid: $!";
	open_point($points, $point);
	wait_for_relay($node, 'postgres', not => $pid);
	return;
}

# What s and q have consumed is what comes before the next event, and that comes.
sub are_intact
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach my $which ([ 's', 'of_s' ], [ 'q', 'of_q' ])
	{
		my ($subscription, $table) = @$which;
		my ($count, $max) = @{ ($admin->run("SELECT count(*), coalesce(max(n), 0) FROM $table"))[0] };
		my @next = $admin->run("SELECT coalesce(payload, 'gap') FROM pgpubsub.poll('$subscription', 2, consume => false)");

		is($count, $max, "$name: $subscription has consumed each once");
		is(join(' ', map { $_->[0] } @next), ($max + 1) . ' ' . ($max + 2), "$name: the next ones come");
	}
	return;
}

# Bytes of the two relations, without toast.
sub sizes
{
	return join ' ', map { $_->[0] }
	  $admin->run("SELECT pg_relation_size('pgpubsub.log_position_' || i) FROM generate_series(1, 2) AS i");
}

$admin->run('CREATE EXTENSION pgpubsub');
$admin->run(q{
	CREATE TABLE of_s (n int);
	CREATE TABLE of_q (n int);
	CREATE PROCEDURE pour(first int, last int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN first .. last LOOP
			PERFORM pgpubsub.publish('c', i::text);
		END LOOP;
	END $$;
	CREATE PROCEDURE read_each(subscription text, count int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. count LOOP
			INSERT INTO of_s SELECT payload::int FROM pgpubsub.poll(subscription, 1);
			COMMIT;
		END LOOP;
	END $$});
$admin->run("SELECT pgpubsub.set_durable('c')");
$admin->run("SELECT pgpubsub.subscribe('s', '{c}'), pgpubsub.subscribe('q', '{c}'), pgpubsub.subscribe('idle', '{c}')");

foreach my $point (qw(durable_positions_switched durable_positions_copied durable_positions_emptying durable_positions_emptied))
{
	foreach my $who (qw(server relay))
	{
		my $name = "the $who ends at $point";
		my ($reader, $client, $consumer);

		publish_more(16_000);

		# its commit is under way, in the relation that is turned over if it may
		($client, $consumer) = commit_begins() if $point eq 'durable_positions_switched';
		my $relay = reach($point, sub { $reader = reader_begins(15_000) });

		($client, $consumer) = commit_begins() if $point ne 'durable_positions_switched';
		if ($who eq 'relay')
		{
			# it commits while the relay stands there
			kill 'CONT', $consumer;
			is($client->finish->sqlstate, '', "$name: a consumer commits meanwhile");
		}
		ends($who, $relay, $point);
		$reader->finish;
		$client->finish if $who eq 'server';
		$_->quit foreach $reader, $client;
		are_intact($name);

		# and after the other relation was emptied, or was found so
		ok( wait_until(
				sub {
					$admin->publish('c', ++$published);
					$admin->run("INSERT INTO of_q SELECT payload::int FROM pgpubsub.poll('q', 1)");
					return sizes() =~ /(?:^| )0(?: |$)/;
				},
				'a relation that is emptied'),
			"$name: one of them is emptied");
		are_intact("$name, and it is emptied");
		kill_server($node);
		$node->start;
		$admin = client($node);
		wait_for_relay($node, 'postgres');
		are_intact("$name, and the server is killed");

		# s begins at its table's end
		$admin->run("INSERT INTO of_s SELECT payload::int FROM pgpubsub.poll('s', 100000)");
		is($admin->value('SELECT max(n) FROM of_s'), $published, "$name: all that was published is read");
	}
}
is($admin->value("SELECT count(*) FROM pgpubsub.poll('idle', 1000000, consume => false)"), $published, 'who has consumed nothing gets all');

$admin->quit;
$node->stop('fast');
server_is_sound($node);
done_testing();
