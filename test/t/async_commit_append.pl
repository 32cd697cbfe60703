# An async transaction that ends while the relay sleeps appends its events
# itself.  Whatever speaks against that, and whoever comes in between, each
# event comes once and in order.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('commit_append', start => 0, conf => q{
pgpubsub.publish_mode = async
pgpubsub.publish_timeout = 10min
pgpubsub.staging_size = 256kB
pgpubsub.queue_size = 256kB
log_statement = none
});
my $points = open_points($node);
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
my $reader = client($node);
my $writer = client($node);
my $other  = client($node);
$reader->run(q{SELECT pgpubsub.subscribe('s', '{c,d}')});
my $relay = relay_pid($node, 'postgres');
my $number = 0;

sub publish_next
{
	my ($client) = @_;

	$number++;
	$client->run("SELECT pgpubsub.publish('c', '$number')");
	return $number;
}

# What there is; with a timeout, as soon as there is something.
sub take
{
	my ($timeout) = @_;

	return map { $_->[0] } $reader->run(
		"SELECT coalesce(payload, 'gap') FROM pgpubsub.poll('s', 1000, '"
		  . ($timeout // 0) . "')");
}

# Events up to the last one that was published.
sub take_all
{
	my @taken;

	until (grep { $_ eq $number } @taken)
	{
		my @new = take('30s');
		last unless @new;
		push @taken, @new;
	}
	return "@taken";
}

# Have the relay stopped while it sleeps, so that an event comes without it.
# (It may have been about to do something, or look.)
sub stop_relay_asleep
{
	my $found = wait_until(
		sub {
			kill 'STOP', $relay;
			publish_next($writer);
			my @came = take();
			return 1 if @came;
			kill 'CONT', $relay;
			take_all();
			return 0;
		},
		'an event that comes without the relay');

	ok($found, 'an event comes while the relay is stopped');
}

stop_relay_asleep();
my $first = $number + 1;
publish_next($writer) foreach 1 .. 3;
publish_next($other);
is(join(' ', take()), join(' ', $first .. $number), 'and so do others');
is( $node->safe_psql('postgres',
		"SELECT staging_used_bytes FROM pgpubsub.stat_queue WHERE datname = 'postgres'"
	),
	0,
	'nothing is left to be done for them');
$writer->run(
	qq{BEGIN; SELECT pgpubsub.publish('d', 'rolled back'); ROLLBACK});
$writer->run(qq{
	BEGIN;
	SELECT pgpubsub.publish('d', 'x');
	SAVEPOINT s;
	SELECT pgpubsub.publish('d', 'rolled back');
	ROLLBACK TO s;
	SELECT pgpubsub.publish('nobody', 'y'), pgpubsub.publish('c', 'z');
	COMMIT});
is(join(' ', take()), 'x z', 'of a transaction comes what it has committed');

# A transaction with more than is done at commit waits for the relay, and so
# does what comes after it.
$first = $number + 1;
$writer->run(
	"SELECT pgpubsub.publish('c', i::text) FROM generate_series($first, $first + 99) AS i"
);
$number += 100;
publish_next($other);
is(join(' ', take()), '', 'nothing overtakes what waits for the relay');
kill 'CONT', $relay;
is(take_all(), join(' ', $first .. $number), 'it comes when the relay goes on');

# Many readers are left to the relay.
{
	my @readers = map { client($node) } 1 .. 4;
	foreach my $i (0 .. 3)
	{
		$readers[$i]->run("SELECT pgpubsub.subscribe('s$i', '{c}')");
	}
	stop_relay_asleep();
	take();
	foreach my $i (0 .. 3)
	{
		$readers[$i]->run("SELECT count(*) FROM pgpubsub.poll('s$i', 1000)");
		$readers[$i]->begin(
			"SELECT payload FROM pgpubsub.poll('s$i', 10, '1min')");
		waits_in_extension($writer, $readers[$i]);
	}
	publish_next($writer);
	is(join(' ', take()), '', 'with four readers waiting the relay does it');
	kill 'CONT', $relay;
	foreach my $i (0 .. 3)
	{
		$readers[$i]->finish;
		is($readers[$i]{rows}[0][0], $number, "reader $i has it");
		$readers[$i]->run("SELECT pgpubsub.unsubscribe('s$i')");
	}
	is(take_all(), $number, 'and so has the other');
}

# Native listeners are the relay's.
{
	my $listener = client($node);

	stop_relay_asleep();
	take();
	$listener->run('LISTEN c');
	$first = $number + 1;
	publish_next($writer) foreach 1 .. 2;
	is(join(' ', take()), '', 'with a native listener the relay does it');
	kill 'CONT', $relay;
	is(take_all(), join(' ', $first .. $number), 'the subscription has them');
	is( join(' ', map { $_->[2] } $listener->wait_for_notifications(2)),
		join(' ', $first .. $number),
		'the listener too');
	$listener->quit;
}

# The relay warns of who holds more than half of the queue, be it with one event.
{
	my $lose = sub {
		$writer->run(q{SELECT pgpubsub.publish('lost', repeat('x', 2000))})
		  foreach 1 .. 80;
	};
	my $offset = log_offset($node);

	$reader->run(q{SELECT pgpubsub.subscribe('held', '{held}', 'block')});
	$reader->run(q{SELECT pgpubsub.subscribe('lost', '{lost}', 'drop')});

	# the relay finds out what the others have consumed
	$lose->();
	$writer->run(q{SELECT pgpubsub.publish('held', 'x')});
	stop_relay_asleep();
	$lose->();
	kill 'CONT', $relay;
	$node->wait_for_log(qr/WARNING:  pgpubsub queue is more than half full/,
		$offset);
	$node->wait_for_log(qr/DETAIL:  .*"held" \(block\) is behind by 1 messages/,
		$offset);
	pass('it is warned of an event that is held');
	$reader->run("SELECT pgpubsub.unsubscribe('$_')") foreach qw(held lost);
	take();
}

# Between a writer's appending and its giving the turn back.
SKIP:
{
	skip 'this build has no debug points', 5 unless defined $points;
	wait_until(sub { relay_pid($node, 'postgres') eq $relay }, 'the relay');

	# returns when a writer waits there
	my $hold_turn = sub {
		wait_until(
			sub {
				my $offset = log_offset($node);
				take_all();
				close_point($points, 'commit_append');
				$number++;
				$writer->begin("SELECT pgpubsub.publish('c', '$number')");
				wait_until(
					sub {
						$writer->done
						  || slurp_file($node->logfile, $offset) =~
						  /debug point commit_append: waiting/;
					},
					'a transaction that ends');
				return 1 unless $writer->done;
				open_point($points, 'commit_append');
				return 0;
			},
			'a writer that appends');
	};
	publish_next($writer);
	$hold_turn->();
	$first = $number;
	publish_next($other);
	is(join(' ', take()), $first, 'while one has the turn, none other has');
	open_point($points, 'commit_append');
	$writer->finish;
	is(take_all(), $number, 'then the relay does what was left');
	is(relay_pid($node, 'postgres'), $relay, 'which is the same');

	publish_next($writer);
	$hold_turn->();
	$first = $number;
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($relay)");
	publish_next($other);
	open_point($points, 'commit_append');
	$writer->finish;
	wait_for_relay($node, 'postgres', not => $relay);
	is(take_all() =~ s/gap //gr, "$first $number", 'a relay that ends meanwhile loses nothing');
	$relay = relay_pid($node, 'postgres');
	isnt($relay, '', 'there is another one');
}

# Sessions that publish now and then, a reader that waits, and a relay that is
# ended all the time: what each session has published comes once, in order.
$reader->run(q{SELECT pgpubsub.unsubscribe('s')});
$reader->run(q{SELECT pgpubsub.subscribe('s', '{c,d}', 'block')});
my @writers = map { client($node) } 1 .. 3;
my $rounds  = 60;
my %next    = map { $_ => 1 } 1 .. 3;
my ($bad, $count) = (0, 0);
$writers[ $_ - 1 ]->begin(qq{
	DO \$\$BEGIN
		FOR i IN 1 .. $rounds LOOP
			PERFORM pgpubsub.publish('c', '$_ ' || i);
			COMMIT;
			PERFORM count(*) FROM generate_series(1, (random() * 20000)::int);
		END LOOP;
	END\$\$}) foreach 1 .. 3;
while ($count < 3 * $rounds)
{
	my @came = grep { $_ ne 'gap' } take('30s');
	last unless @came;
	foreach (@came)
	{
		my ($who, $i) = split / /;
		$bad++ if $next{$who} != $i;
		$next{$who} = $i + 1;
		$count++;
	}
	if ($count % 20 < @came)
	{
		my $now = relay_pid($node, 'postgres');
		$node->safe_psql('postgres', "SELECT pg_terminate_backend($now)") if $now =~ /^\d+$/;
	}
}
is($count, 3 * $rounds, 'each event has come');
is($bad, 0, 'once, and in order');
$_->finish->quit foreach @writers;

server_is_sound($node);
done_testing();
