# Durable channels: each moment on the way of an event at which the server, the
# relay or a session may end.  Somebody stops there, and is killed.  Afterwards
# each subscription gets each event once, in its order, and native listeners do as
# far as they were connected.  The moments of reading are in durable_positions.pl.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

# Nothing goes to the disk but what a commit waits for.
my $node = new_server('durable_windows', start => 0, conf => q{
pgpubsub.publish_timeout = 30s
autovacuum = off
shared_buffers = 32MB
wal_buffers = 1MB
wal_writer_delay = 10s
bgwriter_lru_maxpages = 0
log_statement = none
});
my $points = open_points($node, needed => 1);
my $admin  = client($node);

# All that was published and committed, in the order in which it must come.
my @published;

# Somebody comes to the point, and waits there; returns the pid.
sub reach
{
	my ($point, $do) = @_;

	return comes_to($node, $points, $point, $do);
}

# Whoever waits at the points goes on.
sub release
{
	open_point($points, $_) foreach @_;
	return;
}

# The machine goes down, while processes wait at the points, and comes up again.
# Those who come to the points of closed => [...] then wait there.
sub crash
{
	my ($opened, $closed) = @_;

	kill_server($node);
	release(@$opened);
	close_point($points, $_) foreach @{ $closed // [] };
	$node->start;
	$admin = client($node);
	return;
}

# The relay ends where it waits, and another one begins.
sub end_relay
{
	my ($pid, @points) = @_;

	# it may not be connected yet, and unknown to pg_terminate_backend()
	kill 'TERM', $pid or die "relay $pid: $!";
	release(@points);
	wait_for_relay($node, 'postgres', not => $pid);
	return;
}

# Both lists are the same; if they are not, say where they begin to differ.
sub are_same
{
	my ($got, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $at   = 0;
	my $show = sub {
		my @list = @{ $_[0] };

		return @list . ': ' . join ' ', splice(@list, $at < 3 ? 0 : $at - 3, 10);
	};

	$at++ while $at < @$got && $at < @$expected && $got->[$at] eq $expected->[$at];
	return is($show->($got), $show->($expected), $name);
}

# What comes after that is expected at once, and then comes nothing.
sub reads
{
	my ($subscription, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @expected = split ' ', $expected;
	my @rows     = $admin->take($subscription, scalar @expected);

	$admin->settle;
	push @rows,
	  $admin->run("SELECT coalesce(channel, 'gap'), coalesce(payload, lost::text) FROM pgpubsub.poll('$subscription', 10000)");
	return are_same([ map { $_->[0] eq 'gap' ? "gap:$_->[1]" : $_->[1] } @rows ], \@expected, $name);
}

# A look at all that there ever was, waiting for so many: [seq, payload] each.
sub looks
{
	my ($count) = @_;
	my @rows;

	wait_until(
		sub {
			@rows = $admin->run("SELECT seq, payload FROM pgpubsub.poll('all', 100000, '10s', false)");
			return @rows >= $count;
		},
		"$count events");
	return @rows;
}

# The listener has heard that much, and nothing else.
sub hears_all
{
	my ($listener, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @expected = split ' ', $expected;
	my @heard    = $listener->wait_for_notifications(scalar @expected);

	$admin->settle;
	$listener->run('SELECT 1');
	return are_same([ map { $_->[2] } @heard, $listener->notifications ], \@expected, $name);
}

sub listener
{
	my $listener = client($node);

	$listener->run('LISTEN c');
	return $listener;
}

# A client that begins to publish, beside a row in a table of the user's.
sub writer_begins
{
	my ($payload) = @_;

	return client($node)->begin("INSERT INTO ledger VALUES ('$payload'); SELECT pgpubsub.publish('c', '$payload')");
}

sub publish_now
{
	my (@payloads) = @_;

	$admin->publish('c', $_) foreach @payloads;
	push @published, @payloads;
	return;
}

# Wait until the client's statement waits for a lock.
sub waits_for_lock
{
	my ($client) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return wait_until(
		sub { ($admin->value("SELECT wait_event_type FROM pg_stat_activity WHERE pid = $client->{pid}") // '') eq 'Lock' },
		'a session that waits for a lock');
}

# SQL that publishes a series in one transaction, and what that is.
sub series_sql
{
	my ($name, $count) = @_;

	return "SELECT count(pgpubsub.publish('c', '${name}_' || i)) FROM generate_series(1, $count) AS i";
}

sub series
{
	my ($name, $count) = @_;

	return map { "${name}_$_" } 1 .. $count;
}

$admin->run('CREATE EXTENSION pgpubsub');
$admin->run('CREATE TABLE ledger (payload text)');
$admin->run('CREATE TABLE taken (payload text)');
$admin->run(q{
	CREATE PROCEDURE pour(name text, count int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. count LOOP
			PERFORM pgpubsub.publish('c', name || '_' || i);
			COMMIT;
			PERFORM pgpubsub.publish('m', name || '_m' || i);
			COMMIT;
		END LOOP;
	END $$});
$admin->run("SELECT pgpubsub.set_durable('c')");
$admin->run("SELECT pgpubsub.subscribe('s', '{c}'), pgpubsub.subscribe('all', '{c}', 'block')");
publish_now('first');
reads('s', 'first', 'all is well at first');

# ----------------------------------------------------------------------------
# A writer
# ----------------------------------------------------------------------------

# Its rows are in the log, and it has no place yet.
my $writer;
reach('durable_rows_written', sub { $writer = writer_begins('never') });
crash(['durable_rows_written']);
is($admin->value('SELECT count(*) FROM ledger'), 0, 'rows written, no place: not committed');
reads('s', '', 'and nothing comes of it');
publish_now('after_rows');
reads('s', 'after_rows', 'but what comes next does');

# The same, and only the session ends.
my $pid = reach('durable_rows_written', sub { $writer = writer_begins('never') });
$admin->run("SELECT pg_terminate_backend($pid)");
release('durable_rows_written');
ok(wait_until(sub { $writer->done }, 'the end of a session'), 'rows written, its session ends');
is($admin->value('SELECT count(*) FROM ledger'), 0, 'not committed');
reads('s', '', 'and nothing comes of it');

# It has a place, and is not committed.
reach('durable_place_taken', sub { $writer = writer_begins('never') });
crash(['durable_place_taken']);
is($admin->value('SELECT count(*) FROM ledger'), 0, 'a place, not committed');
reads('s', '', 'nothing comes of it');
$pid = reach('durable_place_taken', sub { $writer = writer_begins('never') });
$admin->run("SELECT pg_terminate_backend($pid)");
release('durable_place_taken');
wait_until(sub { $writer->done }, 'the end of a session');
publish_now('after_place');
reads('s', 'after_place', 'nor when only its session ends; what comes next does');

# It has committed, on disk, and told nobody.
reach('durable_committed', sub { $writer = writer_begins('committed') });
push @published, 'committed';
crash(['durable_committed']);
is($admin->value('SELECT payload FROM ledger'), 'committed', 'committed, and not marked: it is committed');
reads('s', 'committed', 'and comes, once');

# Its commit hangs, so another one overtakes it.
sub overtaken
{
	my ($first, $second) = @_;
	my $client;
	my $holder = reach('durable_place_taken', sub { $client = writer_begins($first) });

	freeze_process($holder);
	release('durable_place_taken');
	publish_now($second);
	reads('s', $second, "$second overtakes one that hangs with a place, and is consumed");
	push @published, $first;
	return ($client, $holder);
}
my $listener = listener();
my $holder;
($writer, $holder) = overtaken('slow_1', 'fast_1');
kill 'CONT', $holder;
is($writer->finish->sqlstate, '', 'it commits');
reads('s', 'slow_1', 'and comes, once');
hears_all($listener, 'fast_1 slow_1', 'so to a native listener');
($writer, $holder) = overtaken('slow_2', 'fast_2');
reach('durable_committed', sub { kill 'CONT', $holder });
crash(['durable_committed']);
reads('s', 'slow_2', 'it commits, on disk, and the server is killed: it comes behind what has overtaken it, once');
($writer, $holder) = overtaken('slow_3', 'fast_3');
$pid = relay_pid($node, 'postgres');
end_relay($pid);
kill 'CONT', $holder;
is($writer->finish->sqlstate, '', 'the relay ends, and then it commits');
reads('s', 'slow_3', 'it comes, once');

# It is overtaken, and never commits.
($writer, $holder) = overtaken('never', 'fast_4');
pop @published;
crash([]);
reads('s', '', 'one that hangs with a place when the server is killed was not committed');

# It writes so many events that it takes its time.
reach('durable_bulk', sub { $writer = client($node)->begin(series_sql('bulk', 2500)) });
$listener = listener();
publish_now('beside_1');
reads('s', 'beside_1', 'while a bulk insert is under way, what others publish comes');
hears_all($listener, 'beside_1', 'so to a native listener');
release('durable_bulk');
$writer->finish;
push @published, series('bulk', 2500);
reads('s', join(' ', series('bulk', 2500)), 'then all of it comes, in order');
hears_all($listener, join(' ', series('bulk', 2500)), 'so to a native listener');
$pid = reach('durable_bulk', sub { $writer = client($node)->begin(series_sql('never', 2500)) });
$admin->run("SELECT pg_terminate_backend($pid)");
release('durable_bulk');
wait_until(sub { $writer->done }, 'the end of a session');
reads('s', '', 'nothing comes of one whose session ends');
reach('durable_bulk', sub { $writer = client($node)->begin(series_sql('never', 2500)) });
publish_now('beside_2');
crash(['durable_bulk']);
reads('s', 'beside_2', 'nor of one whose server is killed');
reads('s', '', 'and nothing comes twice');

# ----------------------------------------------------------------------------
# The relay
# ----------------------------------------------------------------------------

# It has written a note, and not committed it.
reach('durable_note_inserted', sub { publish_now('note_1') });
crash(['durable_note_inserted']);
reads('s', 'note_1', 'a note not committed, the server is killed: once');
$listener = listener();
$pid = reach('durable_note_inserted', sub { publish_now('note_2') });
end_relay($pid, 'durable_note_inserted');
reads('s', 'note_2', 'a note not committed, the relay ends: once');
hears_all($listener, 'note_2', 'so to a native listener');

# The note is committed, and not on disk.  Seqs go on above all that were seen,
# also when the clock was set back, and would give lower ones.
my ($seen) = map { $_->[0] } (looks(scalar @published))[-1];
foreach my $round (1 .. 4)
{
	my $walwriter = $admin->value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'");

	$node->append_conf('postgresql.conf', "pgpubsub.debug_clock_back = '1d'") if $round == 3;
	freeze_process($walwriter);
	publish_now("lost_$round");
	my @looked = looks(scalar @published);
	my $before = $looked[-1][0];
	is($looked[-1][1], "lost_$round", 'somebody sees an event whose note is not on disk');
	cmp_ok($before, '>', $seen, 'its seq is a new one');
	crash([]);
	@looked = looks(scalar @published);
	are_same([ map { $_->[1] } @looked ], \@published, 'the server is killed: nothing else has come or gone');
	cmp_ok($looked[-1][0], '>', $before, 'it comes again, with a higher seq: the note was lost');
	$seen = $looked[-1][0];
	reads('s', "lost_$round", 'once, to who had not looked');
}
is($admin->value("SELECT current_setting('pgpubsub.debug_clock_back')"), '1d', 'the clock was set back');
$node->append_conf('postgresql.conf', 'pgpubsub.debug_clock_back = 0');

# Who has consumed the event, and committed, has put the note on disk.
foreach my $commit (qw(on off))
{
	my $walwriter = $admin->value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'");

	freeze_process($walwriter);
	publish_now("consumed_$commit");
	my $before = (looks(scalar @published))[-1][0];
	$admin->run("SET synchronous_commit = $commit");
	is( $admin->value(
			"WITH p AS (SELECT payload FROM pgpubsub.poll('s', 10, '30s')),"
			  . ' t AS (INSERT INTO taken SELECT payload FROM p) SELECT payload FROM p'),
		"consumed_$commit", "an event is consumed, synchronous_commit = $commit");
	crash([]);
	my $after = (looks(scalar @published))[-1][0];
	if ($commit eq 'on')
	{
		is($after, $before, 'the server is killed: its seq is the same');
		reads('s', '', 'and it does not come again');
	}
	else
	{
		is($admin->value("SELECT count(*) FROM taken WHERE payload = 'consumed_off'"), 0, 'the server is killed: the commit is lost');
		cmp_ok($after, '>', $before, 'and the note');
		reads('s', 'consumed_off', 'it comes again');
	}
}

# The note is committed, and nobody was shown the events, while more come in, and
# others by NOTIFY, which get seqs of their own.
$admin->run("SELECT pgpubsub.subscribe('both', '{c,m}', 'block')");
my %both;
my @twice;

sub look_at_both
{
	my %at;
	my $before = 0;

	foreach my $row ($admin->run("SELECT seq, channel || ':' || payload FROM pgpubsub.poll('both', 100000, consume => false) WHERE channel IS NOT NULL"))
	{
		my ($seq, $event) = @$row;

		push @twice, "$event at $seq behind $before" if $seq <= $before;
		push @twice, "$event at $seq and $both{$event}" if ($both{$event} //= $seq) != $seq;
		$before = $seq;
		$at{$seq} = $event;
	}
	return scalar keys %at;
}
my @pouring = map { client($node) } 1 .. 2;
my %seq_of;
$listener = listener();
my $count = 0;
foreach my $i (1 .. @pouring)
{
	$pouring[ $i - 1 ]->begin("CALL pour('pour$i', 2000)");
}
foreach my $round (1 .. 4)
{
	$pid = reach('durable_noted', sub { $admin->publish('c', "noted_$round") });
	$seq_of{ $_->[1] } //= $_->[0] foreach looks(1);
	look_at_both();
	end_relay($pid, 'durable_noted');
	look_at_both();
	$count++ foreach grep { ($seq_of{ $_->[1] } //= $_->[0]) != $_->[0] } looks(1);
}
$_->finish foreach @pouring;
my $total = @published + 4 + 2 * 2000;
$count += grep { ($seq_of{ $_->[1] } //= $_->[0]) != $_->[0] } looks($total);
is($count, 0, 'noted, and not shown, the relay ends: no event has two seqs');
my @all = looks($total);
is(scalar @all, $total, 'each comes once');
cmp_ok(look_at_both(), '>', 4 + 2 * 2000, 'some of what was sent by NOTIFY came, too');
is(join("\n", splice @twice, 0, 5), '', 'no event of the two has two seqs, and they ascend');
is((grep { /^c:(.*)/ && ($seq_of{$1} // 0) != $both{$_} } keys %both), 0, 'they are those that others see');
$admin->run("SELECT pgpubsub.unsubscribe('both')");
are_same([ map { $_->[1] } @all[ 0 .. $#published ] ], \@published, 'behind all that came before');
my @new = map { $_->[1] } @all[ scalar(@published) .. $#all ];
foreach my $i (1 .. 2)
{
	are_same([ grep { /^pour$i/ } @new ], [ series("pour$i", 2000) ], "what writer $i sends comes in order");
}
push @published, @new;
reads('s', "@new", 'and so it does to a subscription that is read');
hears_all($listener, "@new", 'and to a native listener');
$node->restart;
$admin = client($node);
is((grep { $seq_of{ $_->[1] } != $_->[0] } looks($total)), 0, 'the log has the seqs that the queue had');

# The events were shown, and not notified.
$listener = listener();
$pid = reach('relay_notifies', sub { publish_now('notify') });
is((looks(scalar @published))[-1][1], 'notify', 'an event was shown, and not notified');
end_relay($pid, 'relay_notifies');
hears_all($listener, 'notify', 'the relay ends: a native listener gets it, once');
reads('s', 'notify', 'and so does a subscription');

# The same, and the server is killed; so when they were noted and not shown.
foreach my $point (qw(durable_noted relay_notifies))
{
	$listener = listener();
	reach($point, sub { publish_now("killed_$point") });
	crash([$point]);
	reads('s', "killed_$point", "the server is killed at $point: once");
}

# Of a large transaction a part is noted.  It comes to the second note of it.
sub half_noted
{
	my ($name) = @_;
	my $relay = reach('durable_noted', sub { $admin->run(series_sql($name, 2500)) });
	my $again = reach('durable_note_inserted', sub { release('durable_noted') });

	is($again, $relay, 'the relay is at the second part of a large transaction');
	is(scalar(grep { $_->[1] =~ /^${name}_/ } looks(@published + 1000)), 1000, 'the first part can be seen');
	push @published, series($name, 2500);
	return $relay;
}
$listener = listener();
end_relay(half_noted('half_1'), 'durable_note_inserted');
reads('s', join(' ', series('half_1', 2500)), 'the relay ends: all of it comes, once, in order');
hears_all($listener, join(' ', series('half_1', 2500)), 'so to a native listener');
half_noted('half_2');
crash(['durable_note_inserted']);
reads('s', join(' ', series('half_2', 2500)), 'the server is killed: all of it comes, once, in order');
half_noted('half_3');
are_same([ map { $_->[1] } $admin->take('s', 1000) ], [ (series('half_3', 2500))[ 0 .. 999 ] ], 'the first part is consumed');
crash(['durable_note_inserted']);
reads('s', join(' ', (series('half_3', 2500))[ 1000 .. 2499 ]), 'the server is killed: then the rest comes');
$listener = listener();
$pid = reach('durable_noted', sub { $admin->run(series_sql('half_4', 2500)) });
push @published, series('half_4', 2500);
end_relay($pid, 'durable_noted');
reads('s', join(' ', series('half_4', 2500)), 'a part was noted and not shown, the relay ends: all comes, once, in order');
hears_all($listener, join(' ', series('half_4', 2500)), 'so to a native listener');

# Of such a transaction a part was notified
$listener = listener();
$pid = reach('relay_notifies', sub { $admin->run(series_sql('half_5', 2500)) });
push @published, series('half_5', 2500);
end_relay($pid, 'relay_notifies');
hears_all($listener, join(' ', series('half_5', 2500)), 'shown and not notified, the relay ends: a native listener gets it once');
reads('s', join(' ', series('half_5', 2500)), 'so does a subscription');

# ----------------------------------------------------------------------------
# A relay that begins
# ----------------------------------------------------------------------------

# Others commit before it runs.
foreach my $how (qw(starts killed terminated))
{
	$admin->quit;
	$node->stop('fast');
	$pid = reach('relay_start', sub { $node->start });
	$admin = client($node);
	publish_now("before_relay_$how");
	if ($how eq 'killed')
	{
		crash(['relay_start']);
	}
	elsif ($how eq 'terminated')
	{
		end_relay($pid, 'relay_start');
	}
	else
	{
		release('relay_start');
	}
	reads('s', "before_relay_$how", "published before the relay has run, which $how: once");
}

# It looks for what has no note, while a writer has no place yet.
$admin->quit;
$node->stop('fast');
reach('relay_start', sub { $node->start });
$admin = client($node);
reach('durable_rows_written', sub { $writer = writer_begins('while_recovering') });
reach('durable_recovers', sub { release('relay_start') });
release('durable_rows_written');
is($writer->finish->sqlstate, '', 'a writer commits while the relay looks for what has no note');
push @published, 'while_recovering';
release('durable_recovers');
reads('s', 'while_recovering', 'it comes, once');

# It ends itself when it has found what has no note, and when it has noted a part.
sub lose
{
	my ($name, $closed) = @_;
	my $client;

	reach('durable_committed', sub { $client = client($node)->begin(series_sql($name, 2500)) });
	push @published, series($name, 2500);
	crash(['durable_committed'], [$closed]);
	$node->wait_for_log(qr/debug point $closed: waiting.*\z/s, 0);
	return relay_pid($node, 'postgres');
}
foreach my $point (qw(durable_recovers durable_note_inserted durable_noted))
{
	$pid = lose("ended_$point", $point);
	end_relay($pid, $point);
	reads('s', join(' ', series("ended_$point", 2500)), "a relay that ends at $point of its recovery: all come, once, in order");
	lose("killed_$point", $point);
	crash([$point]);
	reads('s', join(' ', series("killed_$point", 2500)), "so when the server is killed there");
}

# ----------------------------------------------------------------------------
# A database that is to have no relay, for a time
# ----------------------------------------------------------------------------

sub leave_out
{
	my $offset = log_offset($node);

	$node->safe_psql('postgres', "ALTER SYSTEM SET pgpubsub.databases = ''");
	$node->reload;
	$node->wait_for_log(qr/no relay for database "postgres"/, $offset);
	return;
}

sub take_in
{
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET pgpubsub.databases');
	$node->reload;
	wait_for_relay($node, 'postgres');
	return;
}
$listener = listener();
leave_out();
publish_now('without_1', 'without_2');
is(join(' ', map { $_->[2] } $listener->wait_for_notifications(2)), 'without_1 without_2', 'no relay: a native listener hears by NOTIFY');
$admin->query("SELECT FROM pgpubsub.poll('s')");
is($admin->sqlstate, '55000', 'a subscription cannot be read');
take_in();
reads('s', 'without_1 without_2', 'the relay comes back: it gets all, once');
publish_now('without_3');
hears_all($listener, 'without_3', 'and the listener does not hear it again');
reads('s', 'without_3', 'all is well then');

# The relay comes back while such a writer has not committed; or has not even begun
# to write, as it waits for a lock.  The relay waits: what comes then by the queue,
# of that session say, would come before, and the NOTIFY be heard too.
sub take_in_beside
{
	my $offset = log_offset($node);

	$node->safe_psql('postgres', 'ALTER SYSTEM RESET pgpubsub.databases');
	$node->reload;
	$node->wait_for_log(qr/pgpubsub relay ERROR:  canceling statement due to lock timeout/, $offset);
	return;
}
my $locker = client($node);
foreach my $where (qw(written locked))
{
	leave_out();
	if ($where eq 'written')
	{
		reach('durable_rows_written', sub { $writer = writer_begins("without_$where") });
	}
	else
	{
		$locker->run('BEGIN; ALTER MATERIALIZED VIEW pgpubsub.log_row_1 OWNER TO CURRENT_USER');
		$writer = writer_begins("without_$where");
		ok(waits_for_lock($writer), 'a writer that has found no relay waits for a lock');
	}
	take_in_beside();
	if ($where eq 'written')
	{
		release('durable_rows_written');
	}
	else
	{
		$locker->run('ROLLBACK');
	}
	is($writer->finish->sqlstate, '', "$where: a writer that has found no relay commits when it is back");
	$writer->publish('c', "next_$where");
	push @published, "without_$where", "next_$where";
	reads('s', "without_$where next_$where", 'it comes, once, and before what the session publishes next');
	hears_all($listener, "without_$where next_$where", 'so to a native listener');
}

# Everything that ever was, as somebody sees it who has read nothing
are_same([ map { $_->[1] } looks(scalar @published) ], \@published, 'who has never read has all of it, in order');

# ----------------------------------------------------------------------------
# The extension is dropped
# ----------------------------------------------------------------------------

$writer = client($node);
$writer->run("BEGIN; SELECT pgpubsub.publish('c', 'never')");
$locker->run('BEGIN; DROP EXTENSION pgpubsub');
$writer->begin('COMMIT');
ok(waits_for_lock($writer), 'a writer waits for who drops the extension');
$locker->run('COMMIT');
is($writer->finish->sqlstate, '55000', 'and fails when that is done');
like("$writer->{error}{M} $writer->{error}{D}", qr/log of durable channels is not there.*log_row_\d/, 'the error says why');
is($writer->value('SELECT 1'), 1, 'its session goes on');
wait_for_relay($node, 'postgres', count => 0);
$admin->run('CREATE EXTENSION pgpubsub');
$admin->run("SELECT pgpubsub.set_durable('c'), pgpubsub.subscribe('s', '{c}')");
publish_now('anew');
reads('s', 'anew', 'it can be created anew');

# It is dropped while a writer is about to lock the log; or dropped and created anew,
# when the relay that took places is gone, and the row is in the new log
foreach my $how ('dropped', 'created anew')
{
	my $begun   = client($node);
	my $restore = "CREATE EXTENSION pgpubsub; SELECT pgpubsub.set_durable('c'), pgpubsub.subscribe('s', '{c}')";

	reach('durable_segment_chosen', sub { $begun->begin("SELECT pgpubsub.publish('c', 'chosen')") });
	$locker->run('DROP EXTENSION pgpubsub');
	$locker->run($restore) if $how eq 'created anew';
	release('durable_segment_chosen');
	$begun->finish;
	is($begun->sqlstate, $how eq 'dropped' ? '55000' : '', "$how while a writer is about to lock the log: how it ends");
	like("$begun->{error}{M} $begun->{error}{H}", qr/^the log of durable channels is not there .*create the extension/, 'the error says what to do')
	  if $how eq 'dropped';
	$begun->quit;
	$locker->run($restore) if $how eq 'dropped';
	reads('s', $how eq 'dropped' ? '' : 'chosen', "$how: what has committed comes");
	publish_now("next_$how" =~ s/ /_/r);
	reads('s', "next_$how" =~ s/ /_/r, "$how: and what comes next does");
	crash([]);
	reads('s', '', "$how: nothing comes again after a crash");
	$_->quit foreach $locker, $writer;
	($locker, $writer) = map { client($node) } 1 .. 2;
}

# It is dropped while a consumer has read, and has not written its position.
{
	my $reader = client($node);

	publish_now('unread');
	$reader->run('BEGIN');
	is($reader->value("SELECT payload FROM pgpubsub.poll('s', 1, '30s')"), 'unread', 'a consumer reads');
	$locker->run('DROP EXTENSION pgpubsub');
	$reader->query('COMMIT');
	is($reader->sqlstate, '55000', 'and fails when it commits, as the extension was dropped');
	like("$reader->{error}{M} $reader->{error}{D} $reader->{error}{H}",
		qr/^the log of durable channels is not there .*"log_position_\d" .*create the extension/, 'the error says why');
	is($reader->value('SELECT 1'), 1, 'its session goes on');
	$reader->quit;
	wait_for_relay($node, 'postgres', count => 0);
	$locker->run('CREATE EXTENSION pgpubsub');
}

# It is updated, from a version that has no log
$admin->run('DROP EXTENSION pgpubsub');
wait_for_relay($node, 'postgres', count => 0);
$admin->run("CREATE EXTENSION pgpubsub VERSION '1.0'");
$admin->run("SELECT pgpubsub.subscribe('s', '{c}')");
foreach my $mode (qw(transactional async))
{
	my $begun = client($node);

	$begun->run("BEGIN; SET LOCAL pgpubsub.publish_mode = $mode; SELECT pgpubsub.publish('c', 'older_$mode')");
	$locker->run("BEGIN; ALTER EXTENSION pgpubsub UPDATE TO '1.1'; SELECT pgpubsub.set_durable('c')");
	$begun->begin('COMMIT');
	$locker->run($mode eq 'async' ? 'COMMIT' : 'ROLLBACK');
	is($begun->finish->sqlstate, '', "$mode: the extension is updated, and one commits that has published before");
	$writer->publish('c', "newer_$mode");
	reads('s', "older_$mode newer_$mode", 'what it has published comes, and what comes next');
	$begun->quit;
}
$admin->run("SELECT pgpubsub.publish('c', 'logged')");
$admin->settle;
crash([]);
reads('s', 'logged', 'the update gives the channel its log');

# and somebody locks the table before the relay has read from it what is new
$_->quit foreach $writer, $locker;
$writer = client($node);
$locker = client($node);
$admin->run('DROP EXTENSION pgpubsub');
wait_for_relay($node, 'postgres', count => 0);
$admin->run("CREATE EXTENSION pgpubsub VERSION '1.0'");
$admin->run("SELECT pgpubsub.subscribe('s', '{c}')");
$admin->run("BEGIN; ALTER EXTENSION pgpubsub UPDATE TO '1.1'; SELECT pgpubsub.set_durable('c')");
$locker->begin('BEGIN; LOCK TABLE pgpubsub.subscription');
ok(waits_for_lock($locker), 'somebody waits to lock the table of subscriptions');
$admin->run('COMMIT');
is($locker->finish->sqlstate, '', 'and locks it');
$writer->publish('c', 'locked');
is($admin->value("SELECT count(*) FROM pgpubsub.poll('s', timeout => '1s')"), 0, 'nobody reads whose position could not be kept');
$locker->run('ROLLBACK');
reads('s', 'locked', 'then it comes');
crash([]);
reads('s', '', 'and not again after a crash');

$_->quit foreach $writer, $listener, $locker, $admin;
$node->stop('fast');
server_is_sound($node);
done_testing();
