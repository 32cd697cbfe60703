# The segments of the log of durable channels take turns, and are emptied, while
# somebody is just about to write or to read there, or the relay or the server ends
# in the middle of it.  Nobody misses an event, or gets one twice; what is lost
# since the log is full is counted.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('durable_turns', start => 0, conf => q{
pgpubsub.log_size = 16MB
pgpubsub.queue_size = 64kB
pgpubsub.publish_timeout = 30s
autovacuum = off
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

# One process comes to the point and stands still, and others pass; SIGCONT has it
# go on.
sub hold
{
	my ($point, $do) = @_;
	my $pid = reach($point, $do);

	freeze_process($pid);
	open_point($points, $point);
	return $pid;
}

# The machine goes down, while processes wait at the points, and comes up again.
sub crash
{
	my @opened = @_;

	kill_server($node);
	open_point($points, $_) foreach @opened;
	$node->start;
	$admin = client($node);
	wait_for_relay($node, 'postgres');
	return;
}

# The relay ends where it waits, and another one begins.
sub end_relay
{
	my ($pid, $point) = @_;

	kill 'TERM', $pid or die "relay $pid: $!";
	open_point($points, $point);
	wait_for_relay($node, 'postgres', not => $pid);
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
	  $admin->run("SELECT coalesce(channel, 'gap'), coalesce(payload, lost::text) FROM pgpubsub.poll('$subscription', 100000)");
	return is(join(' ', map { $_->[0] eq 'gap' ? "gap:$_->[1]" : $_->[1] } @rows), $expected, $name);
}

# Publish so many events of a kilobyte, a hundred in a transaction, on a channel.
my %number = (fill => 0, lossy => 0);

sub fill
{
	my ($count, $channel) = @_;
	my $client = client($node);

	$channel //= 'fill';
	$client->run("CALL fill('$channel', " . ($number{$channel} + 1) . ', ' . ($number{$channel} + $count) . ')');
	$client->quit;
	$number{$channel} += $count;
	return;
}

sub turns_made
{
	return $admin->value("SELECT rotations FROM pgpubsub.stat_log WHERE datname = 'postgres'");
}

# The segments turn so many times, at least.
sub turn
{
	my ($times) = @_;
	my $goal = turns_made() + $times;

	for (1 .. 30 * $times)
	{
		last if turns_made() >= $goal;
		fill(500);
		$admin->settle;
	}
	return cmp_ok(turns_made(), '>=', $goal, "the segments turn $times times");
}

# The segments that have rows.
sub used_segments
{
	return $admin->value(
		q{SELECT coalesce(string_agg(right(relname, 1), ',' ORDER BY relname), '') FROM pg_class
		  WHERE relnamespace = 'pgpubsub'::regnamespace AND relname LIKE 'log\_row\_%' AND pg_relation_size(oid) > 0});
}

# All but one segment, which is the current one, are emptied.
sub all_are_emptied
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok(wait_until(sub { used_segments() =~ /^\d?$/ }, 'segments that are emptied'), $name);
}

# The segment that the session has locked to write there.
sub segment_of
{
	my ($pid) = @_;

	return $admin->value(
		"SELECT string_agg(c.relname, ',') FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation"
		  . " WHERE l.pid = $pid AND l.mode = 'RowExclusiveLock' AND c.relname LIKE 'log\\_row\\_%'");
}

# What was published is in the log alone.
sub leave_the_queue
{
	$admin->settle;
	$admin->run("SELECT pgpubsub.publish('noise', rpad(i::text, 1000)) FROM generate_series(1, 200) AS i");
	$admin->settle;
	return;
}

# A client that begins to publish.
sub writer_begins
{
	my ($payload) = @_;

	return client($node)->begin("SELECT pgpubsub.publish('c', '$payload')");
}

$admin->run('CREATE EXTENSION pgpubsub');
$admin->run(q{
	CREATE PROCEDURE fill(channel text, first int, last int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN first .. last LOOP
			PERFORM pgpubsub.publish(channel, rpad(i::text, 1000));
			IF i % 100 = 0 THEN
				COMMIT;
			END IF;
		END LOOP;
	END $$});
$admin->run("SELECT pgpubsub.set_durable('c'), pgpubsub.set_durable('fill'), pgpubsub.set_durable('lossy')");
$admin->run("SELECT pgpubsub.subscribe('s', '{c}', 'block'), pgpubsub.subscribe('drops', '{c}', 'drop'), pgpubsub.subscribe('noisy', '{noise}', 'drop')");
my @subscriptions = qw(s drops);

sub both_read
{
	my ($expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	reads($_, $expected, "$name: $_") foreach @subscriptions;
	return;
}

# ----------------------------------------------------------------------------
# A writer
# ----------------------------------------------------------------------------

# It has chosen a segment, and sleeps while they turn.
foreach my $times (1, 7, 8, 9)
{
	my ($writer, $other);
	my $pid = hold('durable_segment_chosen', sub { $writer = writer_begins("slept_$times") });

	turn($times);
	close_point($points, 'durable_rows_written');
	reach('durable_rows_written', sub { kill 'CONT', $pid });
	my $segment = segment_of($pid);
	my $current = reach('durable_rows_written', sub { $other = writer_begins("awake_$times") });

	is($segment, segment_of($current), "a writer that has slept through $times turns writes to the current segment");
	open_point($points, 'durable_rows_written');
	is($_->finish->sqlstate, '', 'it commits') foreach $writer, $other;
	$_->quit foreach $writer, $other;
	my %rows = map { $_ => [ map { $_->[1] } $admin->take($_, 2) ] } @subscriptions;

	is(join(' ', sort @{ $rows{$_} }), "awake_$times slept_$times", "and both come: $_") foreach @subscriptions;
}
both_read('', 'nothing comes twice');

# The server is killed while it sleeps, or when it has committed then, and told nobody.
foreach my $when (qw(asleep committed))
{
	my $writer;
	my $pid = hold('durable_segment_chosen', sub { $writer = writer_begins("killed_$when") });

	turn(8);
	if ($when eq 'committed')
	{
		reach('durable_committed', sub { kill 'CONT', $pid });
		crash('durable_committed');
	}
	else
	{
		crash();
	}
	both_read($when eq 'committed' ? "killed_$when" : '', "a writer has slept through eight turns, and the server is killed when it is $when");
	turn(1);
	all_are_emptied('then all are emptied');
}

# It has written, and commits when the others have used all segments.
foreach my $point (qw(durable_rows_written durable_place_taken))
{
	my $writer;
	my $pid     = hold($point, sub { $writer = writer_begins("straggler_$point") });
	my $segment = segment_of($pid) =~ s/log_row_//r;

	turn(8);
	like(used_segments(), qr/$segment/, 'a segment in which somebody has written is not emptied');
	$admin->publish('c', "overtakes_$point");
	both_read("overtakes_$point", 'others go on');
	kill 'CONT', $pid;
	is($writer->finish->sqlstate, '', "$point: it commits after eight turns");
	both_read("straggler_$point", 'it comes');
	turn(1);
	all_are_emptied('then its segment is emptied');

	# the same, and the server is killed when it has committed, and nobody was told
	$pid = hold($point, sub { $writer = writer_begins("killed_$point") });
	turn(8);
	reach('durable_committed', sub { kill 'CONT', $pid });
	crash('durable_committed');
	both_read("killed_$point", 'it commits after eight turns, and the server is killed');
	turn(1);
	all_are_emptied('then its segment is emptied');
}

# ----------------------------------------------------------------------------
# A segment is emptied
# ----------------------------------------------------------------------------

# Somebody ends before, and behind, the commit of that: who has read has it no more,
# and who has not has all.
foreach my $point (qw(durable_emptying durable_emptied))
{
	foreach my $who (qw(server relay))
	{
		my $name = "the $who ends at $point";

		$admin->publish('c', "before_${point}_$who");
		both_read("before_${point}_$who", 'all is read');
		$admin->publish('c', "unread_${point}_$who");

		# that holds a segment, but not the next one
		my $pid = reach($point, sub { fill(6000) });

		$admin->publish('c', "meanwhile_${point}_$who");
		$who eq 'server' ? crash($point) : end_relay($pid, $point);
		both_read("unread_${point}_$who meanwhile_${point}_$who", $name);
		turn(1);
		all_are_emptied("$name: it is emptied later, and so are all");
	}
}

# The same of one that somebody has not read, who loses it; or the relay ends, and
# the server once another relay has emptied more.
foreach my $point (qw(durable_emptying durable_emptied))
{
	foreach my $who (qw(server relay both))
	{
		my $name = ($who eq 'both' ? 'the relay, and later the server, ends' : "the $who ends") . " at $point, and somebody loses events";

		# the one that is used is the current one
		fill(100);
		all_are_emptied("$name: not before");
		$admin->run("SELECT pgpubsub.subscribe('loser', '{lossy}', 'drop')");
		my $first = $number{lossy} + 1;

		# who publishes goes on, perhaps until the server ends
		my $writer = client($node);
		my $pid = reach($point, sub { $writer->begin("CALL fill('lossy', $first, " . ($first + 24_999) . ')') });

		$who eq 'server' ? crash($point) : end_relay($pid, $point);
		$writer->finish;
		crash() if $who eq 'both';
		my ($lost, $gaps, @got) = (0, 0);

		$admin->settle;
		while (my @rows = $admin->run("SELECT trim(payload), lost FROM pgpubsub.poll('loser', 1000)"))
		{
			foreach my $row (@rows)
			{
				push @got, $row->[0] if defined $row->[0];
				next unless defined $row->[1];
				$lost += $row->[1];
				$gaps++;
			}
		}
		$number{lossy} = $who eq 'server' ? $got[-1] : $first + 24_999;
		my $from = $number{lossy} - @got + 1;

		is("@got[0 .. 2] $got[-1]", join(' ', $from .. $from + 2, $number{lossy}), "$name: the newest are there");
		is($got[-1] - $got[0], $#got, "$name: without a hole");
		is($lost, $from - $first, "$name: the others are counted");
		is($gaps, $lost > 0 ? 1 : 0, "$name: in one gap row");
		cmp_ok($lost, '>', 0, "$name: it has lost some") if $who ne 'server' || $point eq 'durable_emptied';
		$admin->run("SELECT pgpubsub.unsubscribe('loser')");
		turn(1);
		all_are_emptied("$name: then all are emptied");
	}
}

# ----------------------------------------------------------------------------
# A reader
# ----------------------------------------------------------------------------

# It is about to lock the segments with something behind what it has read.  Those that
# have nothing for it are emptied and used again meanwhile, also for what it reads.
{
	my $reader = client($node);

	turn(3);
	$admin->publish('c', 'rare_1');
	leave_the_queue();
	my $pid = hold('durable_reads_segment', sub { $reader->begin("SELECT payload FROM pgpubsub.poll('s', 10)") });

	foreach my $i (2 .. 4)
	{
		turn(8);
		$admin->publish('c', "rare_$i");
	}
	$admin->settle;
	kill 'CONT', $pid;
	my @rows = map { $_->[0] } @{ $reader->finish->{rows} };

	is($reader->sqlstate, '', 'a reader that has not locked the segments before they were emptied reads');
	push @rows, map { $_->[1] } $admin->take('s', 4 - @rows);
	is("@rows", join(' ', map { "rare_$_" } 1 .. 4), 'all comes, in order, from segments that are used again');
	both_read('', 'nothing comes twice') if reads('drops', join(' ', map { "rare_$_" } 1 .. 4), 'so for who reads later');
	$reader->quit;
}

# It has locked them, and is about to fetch rows: none is emptied, whether it needs it or
# not, until its poll ends.
{
	my $reader = client($node);

	# in the current segment, behind one that has nothing for it
	turn(1);
	fill(300);
	$admin->publish('c', 'locked');
	leave_the_queue();
	my $pid = hold('durable_reads_rows', sub { $reader->begin("SELECT payload FROM pgpubsub.poll('s', 10)") });
	my $locked = $admin->value(
		"SELECT coalesce(string_agg(right(c.relname, 1), ',' ORDER BY c.relname), '') FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation"
		  . " WHERE l.pid = $pid AND l.mode = 'AccessShareLock' AND c.relname ~ '^log_note_\\d\$'");

	isnt($locked, '', "a reader has locked segments: $locked");
	turn(3);
	my %used = map { $_ => 1 } split /,/, used_segments();

	is(join(',', grep { !$used{$_} } split /,/, $locked), '', 'none of them is emptied while it reads');
	kill 'CONT', $pid;
	is(join(' ', map { $_->[0] } @{ $reader->finish->{rows} }), 'locked', 'it reads what is there');
	reads('drops', 'locked', 'so does who reads later');
	all_are_emptied('then they are emptied');
	$reader->quit;
}

# It has looked at the queue, and not at the log, when the queue wraps; and then the relay
# ends, or the server does.  Beside it somebody looks, who consumes nothing.
foreach my $who (qw(nobody relay server))
{
	my $reader = client($node);
	my @events = map { "seam_${who}_$_" } 1 .. 6;

	$admin->publish('c', $_) foreach @events[ 0 .. 1 ];
	leave_the_queue();
	$admin->publish('c', $_) foreach @events[ 2 .. 3 ];
	$admin->settle;
	hold('poll_seam', sub { $reader->begin("SELECT payload FROM pgpubsub.poll('s', 3)") });
	$admin->publish('c', $events[4]);
	leave_the_queue();
	$admin->publish('c', $events[5]);
	$admin->settle;
	is(join(' ', map { $_->[0] } $admin->run("SELECT payload FROM pgpubsub.poll('drops', 10, consume => false)")),
		"@events", "seam, $who ends: a look has all");
	my @rows;

	if ($who eq 'server')
	{
		crash();
	}
	else
	{
		kill_relay($node, 'postgres') if $who eq 'relay';
		kill 'CONT', $reader->{pid};
		@rows = map { $_->[0] } @{ $reader->finish->{rows} };
		is($reader->sqlstate, '', "seam, $who ends: the reader goes on");
		cmp_ok(scalar @rows, '>', 0, "seam, $who ends: it has read something");
		is("@rows", "@events[ 0 .. $#rows ]", "seam, $who ends: that is the first");
	}
	reads('s', "@events[ scalar(@rows) .. $#events ]", "seam, $who ends: the rest comes, once");
	reads('drops', "@events", "seam, $who ends: so it does to who reads later");
	$reader->quit;
}

# ----------------------------------------------------------------------------
# Somebody goes back
# ----------------------------------------------------------------------------

# In a transaction that is still open: what it goes back to is kept for it.
$admin->run("SELECT pgpubsub.set_durable('c', retain => '1 hour'), pgpubsub.set_durable('fill', retain => '1 hour')");
foreach my $end (qw(COMMIT ROLLBACK))
{
	my $reader = client($node);

	$admin->publish('c', "old_$end");
	my $seq = $admin->value("SELECT seq FROM pgpubsub.poll('s', 1, '30s')");

	reads('drops', "old_$end", 'it is read');
	$reader->run('BEGIN');
	$reader->run("SELECT pgpubsub.seek('drops', '$seq')");
	leave_the_queue();
	fill(20_000);
	is($reader->value("SELECT payload FROM pgpubsub.poll('drops', 1)"), "old_$end", 'who has gone back reads what was there then, however much was written since')
	  if $end eq 'COMMIT';
	$reader->run($end);
	$reader->quit;
	$admin->publish('c', "next_$end");
	reads('drops', "next_$end", "and goes on after $end");
	reads('s', "next_$end", 'so does who has not gone back');
}

# Into one that is being emptied: it waits, and is told that there was something.
{
	my $reader = client($node);

	$admin->run("SELECT pgpubsub.set_durable('c', retain => '0'), pgpubsub.set_durable('fill', retain => '0')");
	turn(1);
	fill(100);
	all_are_emptied('all is emptied');
	$admin->publish('c', 'gone');
	my $seq = $admin->value("SELECT seq FROM pgpubsub.poll('s', 1, '30s')");
	reads('drops', 'gone', 'it is read');
	leave_the_queue();
	reach('durable_emptying', sub { fill(2500) });
	$reader->begin("SELECT pgpubsub.seek('drops', '$seq')");
	ok( wait_until(
			sub { ($admin->value("SELECT wait_event_type FROM pg_stat_activity WHERE pid = $reader->{pid}") // '') eq 'Lock' },
			'a session that waits for a lock'),
		'who goes back waits for who empties a segment');
	open_point($points, 'durable_emptying');
	is($reader->finish->sqlstate, '', 'then it goes on');
	my @rows = $admin->run("SELECT channel, lost FROM pgpubsub.poll('drops', 10)");

	is(scalar @rows, 1, 'one row is read');
	ok($rows[0] && !defined $rows[0][0] && defined $rows[0][1], 'a gap row');
	$reader->quit;
}

$admin->quit;
$node->stop('fast');
server_is_sound($node);
done_testing();
