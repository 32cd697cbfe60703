# The log of durable channels has a size: its segments take turns, and are emptied
# when nobody needs them.  Who is away for too long loses, blocks or is evicted,
# as its on_full says, and what is lost is counted to the event.

use strict;
use warnings;

use List::Util qw(max sum0);
use PgPubsub::Test;
use Test::More;


# What the log may have beyond its size: a segment, and the positions with their
# indexes and toast tables.
my $mb    = 1024 * 1024;
my $size  = 16 * $mb;
my $slack = 3 * $mb;

my $node = new_server('durable_segments', conf => q{
pgpubsub.log_size = 16MB
pgpubsub.queue_size = 256kB
pgpubsub.evict_timeout = 1min
pgpubsub.publish_timeout = 30s
max_prepared_transactions = 2
log_statement = none
});
my $admin;
my %number;    # of the last event of each channel

# Bytes that all relations of the log have on disk.
sub log_bytes
{
	return $admin->value(
		"SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relnamespace = 'pgpubsub'::regnamespace AND relkind = 'm'"
	);
}

# Segments that have rows.
sub used_segments
{
	return $admin->value(
		"SELECT count(*) FROM pg_class WHERE relnamespace = 'pgpubsub'::regnamespace AND relname LIKE 'log_row%' AND pg_relation_size(oid) > 0"
	);
}

# Begin to publish so many events of 1 kB, a hundred in a transaction: their
# numbers.
sub begin_fill
{
	my ($client, $channel, $count) = @_;
	my $first = ($number{$channel} // 0) + 1;

	$number{$channel} = $first + $count - 1;
	$client->begin("CALL fill('$channel', $first, $number{$channel})");
	return;
}

# The same, and wait for the end; the relay is not left far behind.
sub fill
{
	my ($client, $channel, $count) = @_;

	for (my $left = $count; $left > 0; $left -= 2000)
	{
		begin_fill($client, $channel, $left < 2000 ? $left : 2000);
		$client->finish;
		die "fill: $client->{error}{M}\n" if $client->{error};
		$admin->settle;
	}
	return;
}

# Does the writer wait since that subscription holds the full log?
sub waits_for
{
	my ($client, $holder) = @_;

	return wait_until(
		sub {
			return 'ended' if $client->done;
			return $admin->value("SELECT coalesce(held_by, '') FROM pgpubsub.stat_log WHERE datname = 'postgres'") eq $holder
			  && waits_in_extension($admin, $client) ? 'waits' : 0;
		},
		"a writer that waits for $holder") eq 'waits';
}

# Publish until the subscription holds the full log: true when the writer waits, or
# with fails => 1 has failed.
sub fill_up
{
	my ($client, $channel, $holder, %params) = @_;

	for (1 .. 100)
	{
		begin_fill($client, $channel, 1000);
		return 1 if !$params{fails} && waits_for($client, $holder);
		$client->finish;
		return $params{fails} if $client->{error};
		$admin->settle;
	}
	return 0;
}

# With events that s reads at once, the log comes to be in its limits.
sub shrinks
{
	my ($client) = @_;

	return wait_until(
		sub {
			fill($client, 'a', 100);
			read_all($admin, 's');
			return log_bytes() < $size + $slack;
		},
		'the log is in its limits');
}

# Poll until there is nothing more; the numbers of the events, and "gap:lost".
sub read_all
{
	my ($client, $subscription, %params) = @_;
	my $max = $params{max} // 1000;
	my @all;

	$client->settle;
	while (my @rows = $client->run("SELECT coalesce(trim(payload), 'gap:' || lost) FROM pgpubsub.poll('$subscription', $max)"))
	{
		push @all, map { $_->[0] } @rows;
	}
	return @all;
}

# The events from one number to another, after a gap of so many, or none.
sub is_read
{
	my ($rows, $gap, $from, $to, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @expected = ($gap ? "gap:$gap" : (), $from .. $to);

	is("@$rows[0 .. max(-1, -1 + min_count($rows, 3))]", "@expected[0 .. max(-1, -1 + min_count(\@expected, 3))]", "$name: the first rows");
	return is_deeply($rows, \@expected, $name);
}

sub min_count
{
	my ($rows, $count) = @_;

	return @$rows < $count ? scalar @$rows : $count;
}

sub set_conf
{
	my ($setting, $value) = @_;

	$admin->run("ALTER SYSTEM SET $setting = '$value'");
	$admin->run('SELECT pg_reload_conf()');
	wait_until(
		sub { $node->safe_psql('postgres', "SELECT current_setting('$setting')") eq $value }, $setting);
	return;
}

sub crash
{
	$node->stop('immediate');
	$node->start;
	$admin = client($node);
	wait_for_relay($node, 'postgres');
	return;
}

# ----------------------------------------------------------------------------

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE PROCEDURE fill(channel text, first int, last int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN first .. last LOOP
			PERFORM pgpubsub.publish(channel, rpad(i::text, 1000));
			IF i % 100 = 0 THEN
				COMMIT;
			END IF;
		END LOOP;
	END $$;
	SELECT pgpubsub.set_durable('a'), pgpubsub.set_durable('quiet');
});
$admin = client($node);

# A snapshot that is kept for the whole test, so that nothing may be vacuumed, and
# a subscription to a channel on which nothing happens.
my $old_snapshot = client($node);
$old_snapshot->run('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
$admin->run("SELECT pgpubsub.subscribe('quiet', '{quiet}', 'block')");

# Who keeps up has it all, in a log that is used over and over again
{
	my $writer = client($node);
	my $reader = client($node);
	my @read;
	my $most = 0;

	$admin->run("SELECT pgpubsub.subscribe('s', '{a}', 'block')");
	begin_fill($writer, 'a', 80_000);
	until ($writer->done && @read >= 80_000)
	{
		my @rows = $reader->run("SELECT coalesce(trim(payload), 'gap:' || lost) FROM pgpubsub.poll('s', 200, '1s')");

		last if $writer->done && !@rows;
		push @read, map { $_->[0] } @rows;
		$most = max($most, log_bytes());
		$writer->pump(0);
	}
	$writer->finish;
	is($writer->sqlstate, '', 'the writer went on');
	is_read(\@read, 0, 1, 80_000, 'who keeps up gets all of what is five times the log');
	cmp_ok($most, '<', $size + $slack, "the log stayed in its limits: $most bytes");
	wait_until(sub { used_segments() <= 1 }, 'what was read is emptied');
	cmp_ok(log_bytes(), '<', $size / 2, 'with all that belongs to it');
	$_->quit foreach $writer, $reader;
}

# Who is away. Returns a client, and what the subscription's events begin behind.
sub subscribe
{
	my ($name, $on_full) = @_;

	$admin->run("SELECT pgpubsub.unsubscribe(name) FROM pgpubsub.subscription WHERE name = '$name'");
	$admin->run("SELECT pgpubsub.subscribe('$name', '{a}', '$on_full')");
	return $number{a} + 1;
}

# What is read after an absence: a gap that is as long as what is missing before
# the first event, which is of the last segments.
sub is_rest
{
	my ($rows, $from, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($gap)  = ($rows->[0] // '') =~ /^gap:(\d+)$/;
	my $kept = $number{a} - $from + 1 - ($gap // 0);

	ok($gap, "$name: something is lost") or return;
	cmp_ok($kept, '>', 8000, "$name: about as much is kept as the log has room for");
	return is_read($rows, $gap, $from + $gap, $number{a}, "$name: the gap row counts to the event");
}

$admin->run("SELECT pgpubsub.unsubscribe('s')");

# drop: the oldest events go
{
	my $writer = client($node);
	my $from   = subscribe('dropping', 'drop');
	my $early  = subscribe('looking', 'drop');

	fill($writer, 'a', 100);
	$admin->settle;
	$admin->run("SELECT count(*) FROM pgpubsub.poll('looking', 30)");
	fill($writer, 'a', 40_000);
	my @rows = read_all($admin, 'dropping');
	is_rest(\@rows, $from, 'drop');
	@rows = read_all($admin, 'looking');
	is_rest(\@rows, $early + 30, 'drop, after having read some');
	is_read([ read_all($admin, 'dropping') ], 0, 1, 0, 'and no gap twice');
	cmp_ok(log_bytes(), '<', $size + $slack, 'the log stayed in its limits');

	# the loss outlives a crash, and is told once
	fill($writer, 'a', 40_000);
	$admin->settle;
	$from = $number{a} - 40_000 + 1;
	$_->quit foreach $writer, $admin, $old_snapshot;
	crash();
	@rows = read_all($admin, 'dropping');
	is_rest(\@rows, $from, 'drop, and then a crash');
	crash();
	is_read([ read_all($admin, 'dropping') ], 0, 1, 0, 'told once, over a crash too');
	$admin->run("SELECT pgpubsub.unsubscribe('dropping'), pgpubsub.unsubscribe('looking')");
}

# evict: writers wait for it, and then the oldest events go
{
	my $writer = client($node);
	my $from   = subscribe('evicted', 'evict');

	ok(fill_up($writer, 'a', 'evicted'), 'a writer waits for a subscription that may be evicted');
	cmp_ok(log_bytes(), '<', $size + $slack, 'the log is in its limits');
	set_conf('pgpubsub.evict_timeout', '50ms');
	$writer->finish;
	is($writer->sqlstate, '', 'then it goes on');
	wait_until(sub { $admin->queue('evictions') > 0 }, 'an eviction');
	is($admin->queue('evictions'), 1, 'evicted once, until it is polled');
	is($admin->subscription('evicted', 'state'), 'evicted', 'the view says so');
	my @rows = read_all($admin, 'evicted');
	is_rest(\@rows, $from, 'evict');
	fill($writer, 'a', 40_000);
	wait_until(sub { $admin->queue('evictions') > 1 }, 'another eviction');
	is($admin->queue('evictions'), 2, 'after it was polled it holds, and is evicted again');
	set_conf('pgpubsub.evict_timeout', '1min');
	$admin->run("SELECT pgpubsub.unsubscribe('evicted')");
	$writer->quit;
}

# block: writers wait, and fail; whoever reads is not stopped
{
	my $writer = client($node);
	my $reader = client($node);
	my $from   = subscribe('blocking', 'block');
	my @read;

	subscribe('dropping', 'drop');
	$writer->run("SET pgpubsub.publish_timeout = '1s'");
	fill_up($writer, 'a', 'blocking', fails => 1);
	is($writer->sqlstate, '53400', 'the writer has waited, and fails');
	like($writer->{error}{M}, qr/^log of durable channels is full$/, 'message');
	like($writer->{error}{D}, qr/^Subscription "blocking" has not read/, 'the detail names the subscription');
	cmp_ok(log_bytes(), '<', $size + $slack, 'the log stayed in its limits');

	# what has failed is not there, and what was committed before is
	$admin->settle;
	$number{a} = $admin->value("SELECT max(trim(payload)::int) FROM pgpubsub.poll('dropping', 100000)");
	is($number{a} % 100, 0, 'whole transactions are there');
	# (a segment has two thirds of its share at least, however seldom the relay looks)
	cmp_ok($number{a} - $from, '>', 9_000, 'they fill the log');

	# it reads on: the writer goes on
	$writer->run("SET pgpubsub.publish_timeout = '30s'");
	begin_fill($writer, 'a', 40_000);
	ok(waits_for($writer, 'blocking'), 'the next one waits');
	until ($writer->done && @read >= $number{a} - $from + 1)
	{
		my @rows = $reader->run("SELECT coalesce(trim(payload), 'gap:' || lost) FROM pgpubsub.poll('blocking', 500, '1s')");

		last if $writer->done && !@rows;
		push @read, map { $_->[0] } @rows;
		$writer->pump(0);
	}
	$writer->finish;
	is($writer->sqlstate, '', 'while it is read, the writer goes on');
	is_read(\@read, 0, $from, $number{a}, 'block loses nothing');
	cmp_ok(log_bytes(), '<', $size + $slack, 'the log stayed in its limits');
	$_->quit foreach $writer, $reader;
}

# Full at a crash
{
	my $writer = client($node);
	my $from   = $number{a} + 1;

	$writer->run("SET pgpubsub.publish_timeout = '500ms'");
	fill_up($writer, 'a', 'blocking', fails => 1);
	is($writer->sqlstate, '53400', 'full again');
	$_->quit foreach $writer, $admin;
	crash();
	$writer = client($node);
	$writer->run("SET pgpubsub.publish_timeout = '30s'");
	my @read = read_all($admin, 'blocking');
	$number{a} = $read[-1];
	is_read(\@read, 0, $from, $number{a}, 'after a crash all is there');
	fill($writer, 'a', 1000);
	is_read([ read_all($admin, 'blocking') ], 0, $number{a} - 999, $number{a}, 'and there is room again');

	# the relay goes, and comes back
	ok(fill_up($writer, 'a', 'blocking'), 'full');
	kill_relay($node, 'postgres');

	# while there is none, it may have gone on
	my $waits = waits_for($writer, 'blocking');
	$writer->finish unless $waits;
	ok($waits || fill_up($writer, 'a', 'blocking'), 'the next relay finds the log full, too');
	$admin->run("SELECT pgpubsub.unsubscribe('blocking')");
	$writer->finish;
	is($writer->sqlstate, '', 'until the subscription is dropped');
	$writer->quit;
	$admin->run("SELECT pgpubsub.unsubscribe('dropping')");
}

# A session that reads, and has not committed that, loses nothing
{
	my $offset = log_offset($node);
	my $writer = client($node);
	my $reader = client($node);
	my $from   = subscribe('reading', 'drop');

	fill($writer, 'a', 1000);
	$admin->settle;
	$reader->run('BEGIN');
	is($reader->value("SELECT count(*) FROM pgpubsub.poll('reading', 10)"), 10, 'some are read');
	fill($writer, 'a', 40_000);
	$admin->settle;
	cmp_ok(log_bytes(), '>', 40 * $mb, 'the log grows beyond its limits for who reads');
	ok($node->wait_for_log(qr/WARNING:  pgpubsub log of durable channels in database "postgres" is full/, $offset), 'the server log says so');
	ok($node->wait_for_log(qr/DETAIL:  Subscription "reading" is being read/, $offset), 'and why');
	$reader->run('ROLLBACK');
	fill($writer, 'a', 80_000);
	$admin->settle;
	cmp_ok(log_bytes(), '<', $size + $slack, 'when it has ended, the log shrinks to its limits');
	my @rows = read_all($admin, 'reading');
	is_rest(\@rows, $from, 'then');
	$admin->run("SELECT pgpubsub.unsubscribe('reading')");
	$_->quit foreach $writer, $reader;
}

# Who has locked the segments, as EXPLAIN does, has the log grow, and is not waited for
{
	my $offset = log_offset($node);
	my $writer = client($node);
	my $look   = client($node);
	my $from   = subscribe('s', 'drop');

	$look->run('BEGIN');
	$look->run("EXPLAIN SELECT * FROM pgpubsub.log_row_$_") foreach 1 .. 8;
	fill($writer, 'a', 80_000);
	$admin->settle;
	cmp_ok(log_bytes(), '>', 40 * $mb, 'the log grows beyond its limits while it is locked');
	ok($node->wait_for_log(qr/DETAIL:  The oldest segment is in use by another session/, $offset), 'the server log says why');
	is_read([ read_all($admin, 's') ], 0, $from, $number{a}, 'nothing is lost');
	$look->run('COMMIT');
	ok(shrinks($writer), 'then it shrinks');

	# so with the positions, whose other relation cannot be emptied
	$look->run('BEGIN');
	$look->run("EXPLAIN SELECT * FROM pgpubsub.log_position_$_") foreach 1 .. 2;
	$look->run('REINDEX TABLE pgpubsub.log_note_1');
	fill($writer, 'a', 80_000);
	$look->run('COMMIT');
	my $last = 0;
	wait_until(sub { $last = (read_all($admin, 's'))[-1] // $last; $last eq $number{a} }, 'the last event');
	is($last, $number{a}, 'the relay goes on when its notes are locked, too');
	ok(shrinks($writer), 'and the log shrinks again');
	$admin->run("SELECT pgpubsub.unsubscribe('s')");
	$_->quit foreach $look, $writer;
}

# Events are kept for as long as a rule says, though all are read
{
	my $writer = client($node);
	my $from;

	$admin->run("SELECT pgpubsub.set_durable('a', retain => '1 hour')");
	$from = subscribe('s', 'block');
	fill($writer, 'a', 8000);
	is(scalar(read_all($admin, 's')), 8000, 'all are read');
	cmp_ok(used_segments(), '>=', 3, 'and are in the log yet');
	$admin->run("SELECT pgpubsub.subscribe('later', '{a}', start_at => 'oldest')");
	my @rows = read_all($admin, 'later');
	is_read([ @rows[-8000 .. -1] ], 0, $from, $number{a}, 'for who subscribes later');

	# where there is no room, they go all the same
	$admin->run("SELECT pgpubsub.unsubscribe('s'), pgpubsub.unsubscribe('later')");
	fill($writer, 'a', 40_000);
	$admin->settle;
	cmp_ok(log_bytes(), '<', $size + $slack, 'the log stays in its limits for all that');
	$admin->run("SELECT pgpubsub.set_durable('a', retain => '0')");
	fill($writer, 'a', 100);
	ok(wait_until(sub { used_segments() <= 1 }, 'one segment is used'), 'when nothing is to be kept, all is emptied');
	$writer->quit;
}

# Many positions
{
	my $writer = client($node);
	my $from   = subscribe('s', 'block');

	subscribe('idle', 'drop');
	fill($writer, 'a', 3000);
	$admin->settle;
	$admin->run(
		q{
		CREATE PROCEDURE read_each(subscription text, count int) LANGUAGE plpgsql AS $$
		BEGIN
			FOR i IN 1 .. count LOOP
				INSERT INTO each SELECT payload::int FROM pgpubsub.poll(subscription, 1, '30s');
				COMMIT;
			END LOOP;
		END $$;
		CREATE TABLE each (n int)});
	for my $round (1 .. 10)
	{
		fill($writer, 'a', 3000);
		$admin->run("CALL read_each('s', 3000)");
	}
	is($admin->value('SELECT count(*) FROM each'), 30_000, 'each event was read in a transaction of its own');
	is($admin->value("SELECT max(n) - min(n) FROM each"), 29_999, 'all of them');
	is($admin->value('SELECT min(n) FROM each'), $from, 'from the first');
	wait_until(
		sub {
			$admin->value("SELECT sum(pg_total_relation_size(format('pgpubsub.log_position_%s', i)::regclass)) < 3 * 1024 * 1024 FROM generate_series(1, 2) AS i") eq 't'
		},
		'their positions take little room');
	crash();
	is_read([ read_all($admin, 's') ], 0, $from + 30_000, $number{a}, 'the last position counts after a crash');
}

$node->stop;
done_testing();
