# A subscription to durable channels that was away while far more was published
# than the queue holds reads all of it, in order and without a gap row, while a
# writer goes on; and then it reads live.  Subscriptions begin at any point of the
# log, and seek back and forth with their transaction.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('durable_catch_up', conf => q{
pgpubsub.queue_size = 1MB
pgpubsub.log_size = 512MB
pgpubsub.max_poll_wait = 30s
log_statement = none
});
my $dir = PostgreSQL::Test::Utils::tempdir();

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE TABLE rows (id int PRIMARY KEY, filler text);
	SELECT pgpubsub.attach('rows', 'rows', '{insert}', durable => true);
	SELECT pgpubsub.set_durable('rows', retain => '1 day'),
	       pgpubsub.set_durable('busy', retain => '1 day'),
	       pgpubsub.set_durable('rare', retain => '1 day');
	SELECT pgpubsub.subscribe('away', '{busy,rows,rare}'),
	       pgpubsub.subscribe('rare_away', '{rare}', 'drop');

	-- what a transaction of a live writer has published, by its number
	CREATE TABLE live (n int);
});
create_taken($node, 'postgres',
	payload => q{CASE p.channel WHEN 'rows' THEN p.payload::json #>> '{new,id}' ELSE p.payload END});
my $client = client($node);
my $writer = client($node);

# Pages that a look at the first rare event touches; the second time, when all of
# the catalogs is known.
my @touched;

sub touch_rare
{
	my $look = "SELECT * FROM pgpubsub.poll('rare_away', 1, consume => false)";

	is($client->value("SELECT payload FROM ($look) AS l"), 'rare 0', 'a look at what is rare');
	is($client->subscription('rare_away', 'from_log'), 't', 'which is read from the log');
	my ($pages) = map { $_->[0] =~ /Buffers: shared hit=(\d+)/ } $client->run("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) $look");
	push @touched, $pages;
	return;
}

# 60,000 events and some rare ones: two bulk inserts, and many transactions
foreach my $part (0 .. 9)
{
	if ($part == 3)
	{
		$client->settle;
		touch_rare();
	}
	$writer->run("SELECT pgpubsub.publish('rare', 'rare $part')");
	$writer->run("INSERT INTO rows SELECT i, repeat('r', 100) FROM generate_series(1, 20000) AS i") if $part == 3;
	foreach my $i (0 .. 3)
	{
		my $from = ($part * 4 + $i) * 500 + 1;
		my $to   = $from + 499;

		$writer->run("SELECT count(pgpubsub.publish('busy', i || repeat(' ', 100))) FROM generate_series($from, $to) AS i");
	}
	$writer->run("INSERT INTO rows SELECT i, repeat('r', 100) FROM generate_series(20001, 40000) AS i") if $part == 6;
}
$client->settle;
is($client->subscription('away', 'pending'), 60010, 'all of it is pending');
is($client->subscription('away', 'from_log'), 't', 'and will be read from the log');
is($client->subscription('away', 'lost'), 0, 'nothing is lost');

# A rare channel in a busy log

is($client->subscription('rare_away', 'pending'), 10, 'so is what is rare');
touch_rare();
cmp_ok($touched[0], '>=', 3, "$touched[0] pages are touched for a rare event when the log is small");
cmp_ok($touched[1], '<=', $touched[0] + 8, "and $touched[1] when it has ten times as much");
is( join(' ', map { $_->[1] } $client->run("SELECT seq, payload FROM pgpubsub.poll('rare_away', 1000)")),
	join(' ', map { "rare $_" } 0 .. 9),
	'what is rare is read at once');
is($client->subscription('rare_away', "pending || ' ' || lost"), '0 0', 'and that was all');

# Reads from the log while somebody writes, until it reads live

in_child(
	"$dir/writer",
	sub {
		my $live = client($node);
		my $n    = 0;

		until (-e "$dir/stop")
		{
			$n++;
			$live->run("BEGIN; INSERT INTO live VALUES ($n); SELECT pgpubsub.publish('busy', 'live $n'); COMMIT");
			append_to_file("$dir/writes", '') if $n == 1;
		}
		$live->quit;
	});
wait_until(sub { -e "$dir/writes" }, 'a writer that goes on');
my @sizes = (1, 2, 77, 1000, 5000);
my $polls = 0;
ok( wait_until(
		sub {
			my $max = $sizes[ $polls++ % @sizes ];

			# a transaction now and then is for nothing
			if ($polls % 7 == 0)
			{
				$client->run('BEGIN');
				$client->run("SELECT take('away', $max)");
				$client->run($polls % 2 ? 'ROLLBACK' : 'COMMIT');
			}
			$client->run("SELECT take('away', $max)");
			return $client->subscription('away', 'from_log') eq 'f'
			  && $client->value("SELECT count(*) FROM taken WHERE payload LIKE 'live %'") > 100;
		},
		'live reading'),
	'a subscription that has caught up reads live');
$client->run("SELECT take('away', 100)") foreach 1 .. 20;
append_to_file("$dir/stop", '');
join_children('the writer has met no error');
$client->settle;
$client->run("SELECT take('away', 100000)");
my $live = $client->value('SELECT count(*) FROM live');
note "$live events while it was reading";

is($client->value('SELECT count(*) FROM taken'), 60010 + $live, 'as many events as there were');
no_rows($client, 'SELECT * FROM taken WHERE channel IS NULL OR lost IS NOT NULL', 'no gap row');
no_rows($client, 'SELECT * FROM (SELECT *, lag(seq) OVER (ORDER BY n) AS before FROM taken) AS t WHERE before >= seq',
	'they come in the order of seq');
no_rows(
	$client, q{
	SELECT * FROM (
		SELECT t.*, row_number() OVER (PARTITION BY channel, payload LIKE 'live%' ORDER BY n) AS number FROM taken AS t) AS t
	 WHERE trim(payload) <> CASE WHEN payload LIKE 'live%' THEN 'live ' || number
	                             WHEN channel = 'rare' THEN 'rare ' || number - 1 ELSE number::text END},
	'each is there once, in the order in which it was published');
is( $client->value(
		q{
		WITH w AS (SELECT channel, seq, trim(payload)::int AS i FROM taken WHERE trim(payload) ~ '^\d+$')
		SELECT concat_ws(' ',
			(SELECT max(seq) FROM w WHERE channel = 'busy' AND i <= 6000) < (SELECT min(seq) FROM w WHERE channel = 'rows'),
			(SELECT max(seq) FROM w WHERE channel = 'rows' AND i <= 20000) < (SELECT min(seq) FROM w WHERE channel = 'busy' AND i > 6000),
			(SELECT max(seq) FROM w WHERE channel = 'busy' AND i <= 14000) < (SELECT min(seq) FROM w WHERE channel = 'rows' AND i > 20000),
			(SELECT max(seq) FROM w WHERE channel = 'rows') < (SELECT min(seq) FROM w WHERE channel = 'busy' AND i > 14000))}),
	't t t t',
	'the bulk inserts come between the transactions that were before and after');
cmp_ok(
	$client->value('SELECT min(seq) FROM taken'),
	'<', $client->queue('oldest_seq'), 'the queue has lost the first long since');
is($client->subscription('away', "pending || ' ' || lost"), '0 0', 'and nothing is pending or lost');

# Where a subscription begins

# The nth event, as the subscription that was away has read it.
sub seq_of
{
	my ($n) = @_;

	return $client->value("SELECT seq FROM taken WHERE subscription = 'away' ORDER BY seq OFFSET $n - 1 LIMIT 1");
}

# The subscription reads what "away" has read, from that event on.
sub reads_from
{
	my ($name, $n) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	1 while $client->value("SELECT take('$name', 20000)");
	no_rows(
		$client, qq{
		(SELECT seq, channel, payload FROM taken WHERE subscription = 'away' ORDER BY seq OFFSET $n - 1)
		EXCEPT SELECT seq, channel, payload FROM taken WHERE subscription = '$name'}, "$name misses nothing");
	no_rows(
		$client, qq{
		SELECT seq, channel, payload, lost FROM taken WHERE subscription = '$name'
		EXCEPT ALL
		(SELECT seq, channel, payload, lost FROM taken WHERE subscription = 'away' ORDER BY seq OFFSET $n - 1)},
		"$name reads nothing else, nor twice");
	no_rows(
		$client, qq{
		SELECT * FROM (SELECT *, lag(seq) OVER (ORDER BY n) AS before FROM taken WHERE subscription = '$name') AS t
		 WHERE before >= seq}, "$name reads in order");
	return;
}

sub subscribe_at
{
	my ($name, $start_at) = @_;

	$client->run("SELECT pgpubsub.subscribe('$name', '{busy,rows,rare}', 'drop', '$start_at')");
	return;
}

subscribe_at('at_oldest', 'oldest');
reads_from('at_oldest', 1);
subscribe_at('at_seq', seq_of(31000));
is($client->subscription('at_seq', 'pending'), 60010 + $live - 31000 + 1, 'what is pending is known');
reads_from('at_seq', 31000);

# a seq that no event of these channels has
$client->run("SELECT pgpubsub.subscribe('at_other', '{rare}', 'drop', '" . seq_of(31000) . "')");
is( $client->value("SELECT payload FROM pgpubsub.poll('at_other', 1)"),
	$client->value("SELECT payload FROM taken WHERE channel = 'rare' AND seq >= " . seq_of(31000) . ' ORDER BY seq LIMIT 1'),
	'a subscription begins with its first event from there on');

subscribe_at('at_now', 'now');
$client->settle;
is($client->subscription('at_now', "pending || ' ' || lost"), '0 0', 'one that begins now has nothing to read');
$writer->run("SELECT pgpubsub.publish('busy', 'before')");
$client->settle;
my $time = $client->value('SELECT clock_timestamp()');
$writer->run("SELECT pgpubsub.publish('busy', 'after')");
is(received($node, 'postgres', 'at_now', 2), 'busy:before busy:after', 'but what is published then');
subscribe_at('at_time', $time);
is(received($node, 'postgres', 'at_time', 1), 'busy:after', 'one begins at a time');
is_quiet($node, 'postgres', 'at_time', 'and has no more to read');
subscribe_at('at_start', '2000-01-01 00:00:00+00');
is($client->value("SELECT seq FROM pgpubsub.poll('at_start', 1)"), seq_of(1), 'a time before all is the oldest');
subscribe_at('at_end', 'now');

# Seek

# The seq of the next event.
sub next_seq
{
	my ($name) = @_;

	return $client->value("SELECT seq FROM pgpubsub.poll('$name', 1, consume => false)") // 'none';
}

foreach my $n (31, 59000, 2, 30000)
{
	is($client->value("SELECT pgpubsub.seek('at_seq', '" . seq_of($n) . "')"), seq_of($n), "seek to the event $n");
	is(next_seq('at_seq'), seq_of($n), 'which comes next');
}
$client->run('BEGIN');
is($client->value("SELECT pgpubsub.seek('at_seq', 'oldest')"), seq_of(1), 'in a transaction, seek the oldest');
is($client->value("SELECT seq FROM pgpubsub.poll('at_seq', 1)"), seq_of(1), 'and read it');
$client->run('SAVEPOINT s');
$client->run("SELECT pgpubsub.seek('at_seq', 'now')");
is(next_seq('at_seq'), 'none', 'seek to now: there is nothing');
$client->run('ROLLBACK TO s');
is(next_seq('at_seq'), seq_of(2), 'the savepoint rolled back: there is what was before');
$client->run("SELECT pgpubsub.seek('at_seq', '" . seq_of(40000) . "')");
is($client->value("SELECT count(*) FROM pgpubsub.poll('at_seq', 1000)"), 1000, 'ahead again, and read');
is(next_seq('at_seq'), seq_of(41000), 'from there');
$client->run('ROLLBACK');
is(next_seq('at_seq'), seq_of(30000), 'the transaction rolled back: it is where it was');
$client->run('BEGIN');
$client->run("SELECT pgpubsub.seek('at_seq', '" . seq_of(50000) . "')");
is($client->value("SELECT seq FROM pgpubsub.poll('at_seq', 1)"), seq_of(50000), 'and so in one that commits');
$client->run('COMMIT');
is(next_seq('at_seq'), seq_of(50001), 'which keeps it');
is($client->subscription('at_seq', 'lost'), 0, 'nothing counts as lost');
$client->run("SELECT pgpubsub.seek('at_seq', '$time')");
is($client->value("SELECT payload FROM pgpubsub.poll('at_seq', 1)"), 'after', 'seek to a time');
$client->run("SELECT pgpubsub.seek('at_seq', '" . seq_of(50001) . "')");

# Ack

$client->run("SELECT pgpubsub.seek('at_seq', '" . seq_of(20001) . "')");
is(scalar(() = $client->run("SELECT seq FROM pgpubsub.poll('at_seq', 1000, consume => false)")), 1000, 'a look');
is($client->value("SELECT pgpubsub.ack('at_seq', " . seq_of(20700) . ')'), 700, 'ack counts what it consumes');
is($client->value("SELECT pgpubsub.ack('at_seq', " . seq_of(20700) . ')'), 0, 'and that is nothing, again');
is($client->value("SELECT pgpubsub.ack('at_seq', " . seq_of(20001) . ')'), 0, 'nor for what was consumed before');
is(next_seq('at_seq'), seq_of(20701), 'a look goes on behind it');
$client->run('BEGIN');
is($client->value("SELECT pgpubsub.ack('at_seq', " . seq_of(30700) . ')'), 10000, 'ack far ahead, over channels');
$client->run('ROLLBACK');
is(next_seq('at_seq'), seq_of(20701), 'rolled back');

# All that is kept over a crash

my $next = next_seq('at_seq');
my @expected = map { seq_of($_) } 20701, 20702;
$writer->quit;
$client->quit;
$node->stop('immediate');
$node->start;
wait_for_relay($node, 'postgres');
$client = client($node);
is(next_seq('at_seq'), $next, 'after a crash it is where it was');
is(join(' ', map { $_->[0] } $client->run("SELECT seq FROM pgpubsub.poll('at_seq', 2)")),
	"@expected", 'with the same numbers');
$client->run("SELECT pgpubsub.subscribe('at_oldest_again', '{busy,rows,rare}', 'drop', 'oldest')");
is(next_seq('at_oldest_again'), seq_of(1), 'and the oldest is still there');
publish($node, 'postgres', 'busy', 'new');
is(received($node, 'postgres', 'at_end', 1), 'busy:new', 'who had read all reads what is new');

$client->quit;
$node->stop('fast');
server_is_sound($node);
done_testing();
