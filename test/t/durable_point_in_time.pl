# Durable channels in a server that is recovered to a moment on the way of an event,
# and in a standby that is promoted there: each subscription goes on from where that
# database says.  It gets the events that it had not consumed, in order, no gap,
# and what is noted has the same seq as before.
#
# One server comes to each of the moments, and names it in its WAL; from one backup
# of it, others are recovered to each name, from the archive and by promotion in turn.
#
#   DURABLE_MOMENTS=all both for each

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = new_server('source', start => 0, init => { allows_streaming => 1, has_archiving => 1 }, conf => q{
pgpubsub.log_size = 8MB
shared_buffers = 16MB
autovacuum = off
log_statement = none
});
my $points = open_points($source, needed => 1);
my $admin  = client($source);

# What there is: events in order, as "channel:payload"; and for each subscription
# its channels, and how many events of these it has consumed.
my @published;
my %channels = (s => 'ab', acks => 'a', never => 'ab');
my %consumed = map { $_ => 0 } keys %channels;
my @taken;        # by s, as the table says
my %seq;          # of an event
my %unnoted;      # events whose seq is not on disk yet
my @moments;      # to which servers are recovered

sub events_of
{
	my ($subscription) = @_;

	return grep { /^[$channels{$subscription}]:/ } @published;
}

sub rest_of
{
	my ($subscription) = @_;
	my @events = events_of($subscription);

	return splice @events, $consumed{$subscription};
}

sub rest_count { return scalar(() = rest_of('s')); }

# Name the moment.
sub moment
{
	my ($name) = @_;

	$admin->run("SELECT pg_create_restore_point('$name')");
	push @moments,
	  {
		name    => $name,
		rest    => { map { $_ => [ rest_of($_) ] } keys %channels },
		taken   => "@taken",
		unnoted => {%unnoted},
	  };
	return;
}

sub reach
{
	my ($point, $do) = @_;

	return comes_to($source, $points, $point, $do);
}

sub release
{
	open_point($points, $_) foreach @_;
	return;
}

# Events, a transaction each, that are noted when this returns.
sub publish_now
{
	foreach my $event (@_)
	{
		$admin->publish(split /:/, $event);
		push @published, $event;
	}
	$admin->settle;
	return;
}

sub writer_begins
{
	my ($event) = @_;
	my ($channel, $payload) = split /:/, $event;

	return client($source)->begin("SELECT pgpubsub.publish('$channel', '$payload')");
}

# The subscription s consumes so many.
sub consume
{
	my ($count) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is($admin->value("SELECT take('s', $count)"), $count, "$count are consumed");
	has_consumed($count);
	return;
}

sub has_consumed
{
	my ($count) = @_;

	push @taken, (rest_of('s'))[ 0 .. $count - 1 ];
	$consumed{s} += $count;
	return;
}

sub note_seqs
{
	my ($subscription) = @_;

	$seq{"$_->[1]:$_->[2]"} = $_->[0]
	  foreach $admin->run("SELECT seq, channel, payload FROM pgpubsub.poll('$subscription', 100000, consume => false)");
	return;
}

# ----------------------------------------------------------------------------
# The moments
# ----------------------------------------------------------------------------

$admin->run('CREATE EXTENSION pgpubsub');
create_taken($source, 'postgres');
$admin->run(q{
	CREATE PROCEDURE read_each(count int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. count LOOP
			PERFORM take('s', 1);
			COMMIT;
		END LOOP;
	END $$});
$admin->run("SELECT pgpubsub.set_durable('a'), pgpubsub.set_durable('b')");
$admin->run("SELECT pgpubsub.subscribe('s', '{a,b}'), pgpubsub.subscribe('acks', '{a}', 'drop'), pgpubsub.subscribe('never', '{a,b}', 'block')");
publish_now('a:1', 'b:2', 'a:3');
$source->backup('backup');
consume(2);

# A writer
my $writer;
foreach my $point (qw(durable_rows_written durable_place_taken))
{
	reach($point, sub { $writer = writer_begins("a:$point") });
	moment($point);
	release($point);
	$writer->finish;
	push @published, "a:$point";
	$admin->settle;
}
reach('durable_committed', sub { $writer = writer_begins('b:committed') });
push @published, 'b:committed';
$unnoted{'b:committed'} = 1;
moment('durable_committed');
release('durable_committed');
$writer->finish;
$admin->settle;
%unnoted = ();
moment('settled');
consume(3);

# Of many events some have their rows.
reach('durable_bulk', sub { $writer = client($source)->begin("SELECT count(pgpubsub.publish('b', 'bulk_' || i)) FROM generate_series(1, 2500) AS i") });
moment('durable_bulk');
release('durable_bulk');
$writer->finish;
push @published, map { "b:bulk_$_" } 1 .. 2500;
$admin->settle;
moment('bulk_settled');
consume(2500);

# One is overtaken, and what has overtaken it is consumed.
my $holder = reach('durable_place_taken', sub { $writer = writer_begins('a:slow') });
freeze_process($holder);
release('durable_place_taken');
$admin->publish('a', 'fast');
push @published, 'a:fast';
ok(wait_until(sub { $admin->subscription('s', 'pending') == 2 }, 'the event that overtakes'), 'an event overtakes another');
consume(2);
is($taken[-1], 'a:fast', 'an event that has overtaken another is consumed');
moment('overtaken');
reach('durable_committed', sub { kill 'CONT', $holder });
push @published, 'a:slow';
$unnoted{'a:slow'} = 1;
moment('overtaken_committed');
release('durable_committed');
$writer->finish;
$admin->settle;
%unnoted = ();

# The relay
foreach my $point (qw(durable_note_inserted durable_noted))
{
	my $event = "b:$point";

	reach($point, sub { $writer = writer_begins($event) });
	push @published, $event;
	$unnoted{$event} = 1 if $point eq 'durable_note_inserted';
	moment($point);
	%unnoted = ();
	release($point);
	$writer->finish;
	$admin->settle;
}
my $listener = client($source);
$listener->run('LISTEN a; LISTEN b');
reach('relay_notifies', sub { $admin->publish('b', 'notified') });
push @published, 'b:notified';
moment('relay_notifies');
release('relay_notifies');
$admin->settle;
$listener->quit;
reach('durable_noted', sub {
		$writer = client($source)->begin("SELECT count(pgpubsub.publish('a', 'big_' || i)) FROM generate_series(1, 2500) AS i");
	});
reach('durable_note_inserted', sub { release('durable_noted') });
$writer->finish;
push @published, map { "a:big_$_" } 1 .. 2500;
$unnoted{"a:big_$_"} = 1 foreach 1001 .. 2500;
moment('half_noted');
consume(rest_count() - 1500 - 100);
moment('half_noted_consumed');
release('durable_note_inserted');
$admin->settle;
%unnoted = ();

# A consumer
my $consumer;
consume(1000);
reach('durable_position_written', sub { $consumer = client($source)->begin("SELECT take('s', 50)") });
moment('durable_position_written');
release('durable_position_written');
$consumer->finish;
has_consumed(50);
moment('consumed');
publish_now('a:more_1', 'b:more_2');
moment('more');
my ($seq) = (map { $_->[0] } $admin->run("SELECT seq FROM pgpubsub.poll('acks', 700, consume => false)"))[-1];
is($admin->value("SELECT pgpubsub.ack('acks', $seq)"), 700, 'some are acked');
$consumed{acks} += 700;
moment('acked');
note_seqs('never');
my $back = $published[3];
$admin->run("SELECT pgpubsub.seek('s', '$seq{$back}')");
$consumed{s} = 3;
consume(1);
is($taken[-1], $back, 'one is consumed again');
moment('sought_back');
$admin->run("SELECT pgpubsub.seek('s', 'now')");
$consumed{s} = events_of('s');
publish_now('b:behind_1', 'a:behind_2', 'a:behind_3');
consume(1);
moment('sought_on');

# The same name again
$admin->run("SELECT pgpubsub.unsubscribe('acks')");
{
	local $channels{acks};

	delete $channels{acks};
	moment('unsubscribed');
}
$admin->run("SELECT pgpubsub.subscribe('acks', '{a}')");
$consumed{acks} = events_of('acks');
moment('subscribed');
$admin->run("BEGIN; SELECT pgpubsub.unsubscribe('acks'); SELECT pgpubsub.subscribe('acks', '{a}'); COMMIT");
$consumed{acks} = events_of('acks');
publish_now('a:anew');
moment('anew');
note_seqs('never');

# Positions go to the other relation.
$admin->run("SELECT pgpubsub.unsubscribe('never')");
delete $channels{never};
my $reads = 14_000;
$admin->run("SELECT count(pgpubsub.publish('b', 'each_' || i)) FROM generate_series($_, $_ + 999) AS i") foreach map { 1 + 1000 * $_ } 0 .. 14;
push @published, map { "b:each_$_" } 1 .. 15_000;
$admin->settle;
reach('durable_positions_switched', sub { $consumer = client($source)->begin("CALL read_each($reads)") });
$consumer->finish;
has_consumed($reads);
moment('positions_switched');
reach('durable_positions_copied', sub { release('durable_positions_switched') });
moment('positions_copied');
reach('durable_positions_emptying', sub { release('durable_positions_copied') });
moment('positions_emptying');
reach('durable_positions_emptied', sub { release('durable_positions_emptying') });
moment('positions_emptied_not_told');
release('durable_positions_emptied');
my $position_bytes = "SELECT pg_relation_size('pgpubsub.log_position_1') = 0 OR pg_relation_size('pgpubsub.log_position_2') = 0";
wait_until(sub { $admin->value($position_bytes) eq 't' }, 'the end of a turn of positions');
moment('positions_emptied');
consume(10);
moment('positions_turned');

# A segment is emptied.
my $used = sub {
	return $admin->value(
		"SELECT count(*) FROM pg_class WHERE relnamespace = 'pgpubsub'::regnamespace AND relname LIKE 'log\\_row%' AND pg_relation_size(oid) > 0");
};
my $before = $used->();
reach('durable_emptying', sub {
		consume(rest_count());
		$admin->run("SELECT pgpubsub.seek('acks', 'now')");
		$consumed{acks} = events_of('acks');
		foreach my $event ('b:nudge_1', 'a:nudge_2')
		{
			$admin->publish(split /:/, $event);
			push @published, $event;
			$unnoted{$event} = 1;
		}
	});
moment('emptying');
release('durable_emptying');
wait_until(sub { $used->() < $before }, 'a segment that is emptied');
moment('emptied');
$admin->settle;
%unnoted = ();
publish_now('a:last_1', 'b:last_2');
consume(1);
moment('last');

my $newest = $admin->queue('newest_seq');
my $wal    = $admin->value('SELECT pg_walfile_name(pg_switch_wal())');
ok( $source->poll_query_until('postgres', "SELECT coalesce(last_archived_wal >= '$wal', false) FROM pg_stat_archiver"),
	'all that is archived');
$admin->quit;
$source->stop('fast');
server_is_sound($source);

# ----------------------------------------------------------------------------
# Recovered to each of them
# ----------------------------------------------------------------------------

# A server at the moment: from the archive, or a standby that has read as much and
# is promoted.
sub server_at
{
	my ($moment, $how) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $node = PostgreSQL::Test::Cluster->new("${how}_$moment->{name}");

	$node->init_from_backup($source, 'backup', has_restoring => 1, standby => $how eq 'promoted');
	$node->append_conf('postgresql.conf', "recovery_target_name = '$moment->{name}'\narchive_mode = off\npgpubsub.debug_points = ''\n"
		  . ($how eq 'promoted' ? "recovery_target_action = pause\n" : "recovery_target_action = promote\n"));
	$node->start;
	if ($how eq 'promoted')
	{
		$node->poll_query_until('postgres', "SELECT pg_get_wal_replay_pause_state() = 'paused'") or fail('waited for a standby that pauses');
		$node->promote;
	}
	$node->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or fail('waited for a server that is recovered');
	return $node;
}

# What the subscription gets: [seq, event] each, until nothing more comes.  A gap
# row is an event "gap:lost".
sub reads
{
	my ($client, $subscription, $count) = @_;
	my @rows;

	while (1)
	{
		my $timeout = @rows < $count ? '30s' : '0';
		my @new =
		  $client->run("SELECT seq, coalesce(channel || ':' || payload, 'gap:' || lost) FROM pgpubsub.poll('$subscription', 10000, '$timeout')");

		return @rows unless @new;
		push @rows, @new;
	}
}

# The first of them, and how many there are.
sub shown
{
	my @events = @_;

	return @events . ': ' . join ' ', splice @events, 0, 8;
}

foreach my $i (0 .. $#moments)
{
	my $moment = $moments[$i];

	foreach my $how (($ENV{DURABLE_MOMENTS} // '') eq 'all' ? qw(restored promoted) : $i % 2 ? 'promoted' : 'restored')
	{
		my $node   = server_at($moment, $how);
		my $client = client($node);
		my $name   = "$how at $moment->{name}";
		my (%got, @bad);

		$client->settle;
		is( $client->value("SELECT string_agg(channel || ':' || payload, ' ' ORDER BY n) FROM taken WHERE subscription = 's'"),
			$moment->{taken}, "$name: what was taken is there");
		foreach my $subscription (sort keys %{ $moment->{rest} })
		{
			my @rest = @{ $moment->{rest}{$subscription} };

			$got{$subscription} = [ reads($client, $subscription, scalar @rest) ];
			my @events = map { $_->[1] } @{ $got{$subscription} };

			ok("@events" eq "@rest", "$name: $subscription goes on from there") or diag('got ' . shown(@events) . "\nexpected " . shown(@rest));
		}
		$client->publish('a', 'new_1');
		$client->publish('b', 'new_2');
		foreach my $subscription (sort keys %{ $moment->{rest} })
		{
			my @new = $subscription eq 'acks' ? qw(a:new_1) : qw(a:new_1 b:new_2);
			my @rows = reads($client, $subscription, scalar @new);

			is("@{[ map { $_->[1] } @rows ]}", "@new", "$name: what comes next comes to $subscription");
			push @bad, "$_->[0] for $_->[1] is no new seq" foreach grep { $_->[0] <= $newest } @rows;
			my $last = 0;
			foreach my $row (@{ $got{$subscription} }, @rows)
			{
				my ($seq, $event) = @$row;

				push @bad, "$seq for $event, behind $last" if $seq <= $last;
				push @bad, "$seq for $event, which was $seq{$event}"
				  if defined $seq{$event} && !$moment->{unnoted}{$event} && $seq != $seq{$event};
				$last = $seq;
			}
		}
		is(shown(@bad), '0: ', "$name: seqs are what they were, and new ones are new");
		is($client->value("SELECT count(*) FROM pgpubsub.stat_subscriptions WHERE (pending, lost) <> (0, 0)"), 0,
			"$name: nothing is pending, nothing lost");
		$client->quit;
		$node->stop('immediate');
		server_is_sound($node);
		$node->clean_node;
	}
}
done_testing();
