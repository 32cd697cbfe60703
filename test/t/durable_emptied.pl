# What stays of segments of the log that are emptied, and what does not: notes that
# tell how many events a channel has had hide no others, who may read on is told
# right, and an emptying that comes to nothing leaves nothing behind.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('durable_emptied', start => 0, conf => q{
pgpubsub.log_size = 8MB
pgpubsub.queue_size = 64kB
pgpubsub.publish_timeout = 30s
autovacuum = off
log_statement = none
});
my $points = open_points($node, needed => 1);
my $admin  = client($node);
my $writer = client($node);

# Publish so many events of a kilobyte on a channel that nobody reads.
sub fill
{
	my ($count) = @_;

	$writer->run("SELECT count(pgpubsub.publish('fill', rpad(i::text, 1000))) FROM generate_series(1, $count) AS i");
	$admin->settle;
	return;
}

sub turns_made
{
	return $admin->value("SELECT rotations FROM pgpubsub.stat_log WHERE datname = 'postgres'");
}

# The segments turn so many times, and the current one has rows.
sub turn
{
	my ($times) = @_;
	my $goal = turns_made() + $times;

	fill(100) while turns_made() < $goal;
	fill(10);
	return;
}

# The segments that have rows.
sub used_segments
{
	return $admin->value(
		q{SELECT coalesce(string_agg(right(relname, 1), ',' ORDER BY relname), '') FROM pg_class
		  WHERE relnamespace = 'pgpubsub'::regnamespace AND relname LIKE 'log\_row\_%' AND pg_relation_size(oid) > 0});
}

sub all_are_emptied
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok(wait_until(sub { used_segments() =~ /^\d$/ }, 'segments that are emptied'), $name);
}

# What was published is in the log alone.
sub leave_the_queue
{
	$admin->settle;
	$admin->run("SELECT pgpubsub.publish('noise', rpad(i::text, 1000)) FROM generate_series(1, 200) AS i");
	$admin->settle;
	return;
}

# All there is to read: payloads, and "gap:lost"; the seqs of the events are kept.
my %seq;

sub read_all
{
	my ($subscription) = @_;
	my @all;

	$admin->settle;
	while (my @rows = $admin->run("SELECT coalesce(trim(payload), 'gap:' || lost), seq FROM pgpubsub.poll('$subscription', 1000)"))
	{
		foreach my $row (@rows)
		{
			push @all, $row->[0];
			$seq{ $row->[0] } = $row->[1];
		}
	}
	return "@all";
}

sub connect_clients
{
	$admin  = client($node);
	$writer = client($node);
	return;
}

$admin->run('CREATE EXTENSION pgpubsub');
$admin->run("SELECT pgpubsub.set_durable(c) FROM unnest('{a,b,fill}'::text[]) AS c");
$admin->run("SELECT pgpubsub.subscribe('s', '{a}', 'block'), pgpubsub.subscribe('noisy', '{noise}', 'drop')");

# ----------------------------------------------------------------------------
# A writer that commits late has the higher seq, in the older segment
# ----------------------------------------------------------------------------

{
	my $late = client($node);
	my $pid  = comes_to($node, $points, 'durable_rows_written', sub { $late->begin("SELECT pgpubsub.publish('a', 'late')") });

	freeze_process($pid);
	open_point($points, 'durable_rows_written');
	turn(1);
	$admin->run("SELECT pgpubsub.publish('a', 'early')");
	$admin->settle;
	kill 'CONT', $pid;
	$late->finish;
	is(read_all('s'), 'early late', 'one commits after the segments have turned');
	leave_the_queue();
	all_are_emptied('the older segment is emptied');
	$admin->run("SELECT pgpubsub.seek('s', '$seq{early}')");
	turn(9);
	is(read_all('s'), 'gap:1 early', 'what is sought in the newer one stays, however often they turn');
	$late->quit;
}

# ----------------------------------------------------------------------------
# Somebody seeks while counts go from one segment to another
# ----------------------------------------------------------------------------

{
	my $reader = client($node);

	# the next turn goes to one that is looked at before this one
	for (1 .. 16)
	{
		turn(1);
		all_are_emptied('one segment is used');
		last if used_segments() eq '8';
	}
	is(used_segments(), '8', 'it is the last one');
	$admin->run("SELECT pgpubsub.publish('a', 'mark')");
	is(read_all('s'), 'mark', 'an event there is read');
	fill(10);
	leave_the_queue();
	comes_to($node, $points, 'durable_seeks', sub { $reader->begin("SELECT pgpubsub.seek('s', '@{[ $seq{mark} + 1 ]}')") });
	comes_to($node, $points, 'durable_emptying', sub { $writer->begin("SELECT count(pgpubsub.publish('fill', rpad(i::text, 1000))) FROM generate_series(1, 1500) AS i") });
	open_point($points, 'durable_seeks');
	ok( wait_until(
			sub { ($admin->value("SELECT wait_event_type FROM pg_stat_activity WHERE pid = $reader->{pid}") // '') eq 'Lock' },
			'a session that waits for a lock'),
		'who seeks waits for who empties a segment');
	open_point($points, 'durable_emptying');
	is($reader->finish->sqlstate, '', 'and goes on');
	$writer->finish;
	is(read_all('s'), '', 'it finds that nothing is missing there');
	$reader->quit;
}

# ----------------------------------------------------------------------------
# Events that were emptied are in the queue yet
# ----------------------------------------------------------------------------

# The oldest event is one that stays until it is read
{
	$admin->run("SELECT pgpubsub.publish('a', 'old_' || i) FROM generate_series(1, 3) AS i");
	is(read_all('s'), 'old_1 old_2 old_3', 'events are read');
	turn(1);
	all_are_emptied('and their segment is emptied');
	my $next = $admin->value("SELECT pgpubsub.seek('s', 'oldest')");

	leave_the_queue();
	$admin->run("SELECT pgpubsub.publish('a', 'next')");
	is(read_all('s'), 'next', 'the oldest event is behind them');
	cmp_ok($next, '>', $seq{old_3}, 'as seek has told');
	cmp_ok($next, '<=', $seq{next}, 'and not further');
}

# ----------------------------------------------------------------------------
# Many channels
# ----------------------------------------------------------------------------

# What is kept of them does not fill the segments, one after the other
{
	$admin->run("SELECT pgpubsub.set_durable('many*')");
	$admin->run("SELECT count(pgpubsub.publish(rpad('many_' || i, 63, 'x'), '')) FROM generate_series(1, 8000) AS i");
	$admin->settle;
	turn(1);
	all_are_emptied('all is emptied');
	my $notes = $admin->value(
		q{SELECT max(pg_total_relation_size(oid)) FROM pg_class WHERE relnamespace = 'pgpubsub'::regnamespace AND relname LIKE 'log\_note\_%'});

	cmp_ok($notes, '<', 512 * 1024, 'counts take less than half of a segment');
}

# ----------------------------------------------------------------------------
# Somebody else has emptied notes
# ----------------------------------------------------------------------------

# Then the relay empties that segment, or another one, whose counts go to that
foreach my $which ('older', 'current')
{
	my ($channel, $reader) = $which eq 'older' ? ('a', 's') : ('b', 'holder');

	turn(1);
	all_are_emptied("the $which segment's notes: all is emptied");
	my $older = used_segments();

	$admin->run("SELECT pgpubsub.subscribe('holder', '{b}', 'block')");
	$admin->run("SELECT pgpubsub.publish('$channel', 'unread')");
	$admin->settle;
	turn(1);
	my ($current) = grep { $_ ne $older } split /,/, used_segments();

	$admin->run("SELECT pgpubsub.publish('a', 'unread')") if $which eq 'current';
	leave_the_queue();
	$admin->run('REFRESH MATERIALIZED VIEW pgpubsub.log_note_' . ($which eq 'older' ? $older : $current) . ' WITH NO DATA');
	$admin->run("SELECT pgpubsub.seek('holder', 'now')");
	all_are_emptied('the older segment is emptied');
	is(read_all('s'), 'gap:-1', 'who has not read what was in them is told');
	$admin->run("SELECT pgpubsub.unsubscribe('holder')");
}

# ----------------------------------------------------------------------------
# The relay cannot keep counts, and so cannot empty a segment that is lost
# ----------------------------------------------------------------------------

{
	my $locker = client($node);
	my $offset = log_offset($node);
	my $last   = 0;

	$admin->run("SELECT pgpubsub.subscribe('loser', '{b}', 'drop')");
	turn(1);
	all_are_emptied('all is emptied');

	# until the current segment is the last one that there is
	while (split(/,/, used_segments()) < 8)
	{
		$writer->run("SELECT count(pgpubsub.publish('b', rpad(i::text, 1000))) FROM generate_series($last + 1, $last + 20) AS i");
		$last += 20;
		$admin->settle;
	}
	my $current = $admin->value(
		q{SELECT right(relname, 1) FROM pg_class WHERE relnamespace = 'pgpubsub'::regnamespace AND relname LIKE 'log\_row\_%'
		  ORDER BY pg_relation_size(oid) LIMIT 1});

	# nobody writes notes there any more; who writes rows goes on, until the log is full
	$locker->run('BEGIN');
	$locker->run("CREATE INDEX other ON pgpubsub.log_note_$current (channel, last_seq)");
	is($admin->value("SELECT lost FROM pgpubsub.stat_subscriptions WHERE subscription = 'loser'"), '0', 'nothing is lost before');
	$admin->run("SELECT count(pgpubsub.publish('fill', rpad(i::text, 1000))) FROM generate_series(1, 100) AS i") foreach 1 .. 10;
	ok($node->wait_for_log(qr/log of durable channels in database "postgres" is full/, $offset), 'the log is full');
	$node->stop('immediate');
	$node->append_conf('postgresql.conf', "pgpubsub.log_size = '64MB'");
	$node->start;
	connect_clients();
	wait_for_relay($node, 'postgres');
	is(read_all('loser'), join(' ', 1 .. $last), 'nothing was lost, and so nothing is after a crash');
}

# ----------------------------------------------------------------------------
# A loss of a subscription to a pattern is acked after a crash
# ----------------------------------------------------------------------------

{
	$admin->run("SELECT pgpubsub.set_durable('pattern_*'), pgpubsub.subscribe('pattern', '{pattern_*}', 'drop')");
	my $lost = 0;

	$node->append_conf('postgresql.conf', "pgpubsub.log_size = '8MB'");
	$node->reload;
	for (1 .. 40)
	{
		$writer->run("SELECT count(pgpubsub.publish('pattern_1', rpad(i::text, 1000))) FROM generate_series(1, 500) AS i");
		$admin->settle;
		$lost = $admin->value("SELECT lost FROM pgpubsub.poll('pattern', 1, consume => false)") and last;
	}
	cmp_ok($lost, '>', 0, 'events are lost');

	# the relay empties no more, and what it has emptied is committed
	$node->append_conf('postgresql.conf', "pgpubsub.log_size = '64MB'");
	$node->reload;
	ok( wait_until(
			sub { $admin->value("SELECT log_size FROM pgpubsub.stat_log WHERE datname = 'postgres'") == 64 * 1024 * 1024 },
			'a log that is not full'),
		'and no more of them');
	$admin->settle;
	$lost = $admin->value("SELECT lost FROM pgpubsub.poll('pattern', 1, consume => false)");
	$node->stop('immediate');
	$node->start;
	connect_clients();
	wait_for_relay($node, 'postgres');
	my ($gap) = $admin->run("SELECT seq, lost FROM pgpubsub.poll('pattern', 1, consume => false) WHERE channel IS NULL");

	is($gap->[1], $lost, 'a look shows that after a crash');
	$admin->run("SELECT pgpubsub.ack('pattern', $gap->[0])");
	unlike(read_all('pattern'), qr/gap/, 'when it was acked, it is not told again');
	$admin->run("SELECT pgpubsub.unsubscribe('pattern')");
}

$_->quit foreach $admin, $writer;
$node->stop('fast');
server_is_sound($node);
done_testing();
