# What the log keeps, for how long, and what the views say of it: of a channel that
# nobody reads, of one whose events are to be kept for a time, of one that was not
# always durable; and what is published on a durable channel past the log.

use strict;
use warnings;

use List::Util qw(max min);
use PgPubsub::Test;
use Test::More;

my $mb   = 1024 * 1024;
my $node = new_server('durable_bounds', start => 0, conf => q{
pgpubsub.log_size = 16MB
pgpubsub.queue_size = 64kB
log_statement = none
});
my $points = open_points($node);
my ($admin, $writer);
my $pad = '-' x 1000;

sub connect_all
{
	($admin, $writer) = map { client($node) } 1 .. 2;
	return;
}

# Publish these numbers, a kilobyte each, 500 in a transaction.
sub fill
{
	my ($channel, $first, $last) = @_;

	for (my $n = $first; $n <= $last; $n += 500)
	{
		my $end = $n + 499 < $last ? $n + 499 : $last;

		$writer->run("SELECT count(pgpubsub.publish('$channel', n || '$pad')) FROM generate_series($n, $end) AS n");
		$admin->settle;
	}
	return;
}

sub stat_log
{
	my ($what) = @_;

	return $admin->value("SELECT $what FROM pgpubsub.stat_log WHERE datname = 'postgres'");
}

# What the subscription has to read: how many, from which to which number, and what
# was lost.
sub summary
{
	my ($subscription) = @_;
	my ($lost, @numbers);

	# what the relay could not queue until there was room comes later
	while (1)
	{
		$admin->settle;
		my @rows = $admin->run("SELECT rtrim(payload, '-')::int, lost FROM pgpubsub.poll('$subscription', 100000)") or last;
		push @numbers, map { $_->[0] } grep { defined $_->[0] } @rows;
		$lost = ($lost // 0) + $_->[1] foreach grep { defined $_->[1] } @rows;
	}
	return join(' ', scalar @numbers, min(@numbers), max(@numbers), defined $lost ? "lost $lost" : ());
}

$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
connect_all();
$admin->run("SELECT pgpubsub.set_durable(c) FROM unnest('{nobody,a,kept,mixed,late}'::text[]) AS c");
wait_for_relay($node, 'postgres');

# A channel that never had a subscription

fill('nobody', 1, 40_000);
cmp_ok(stat_log('rotations'), '>', 8, 'a channel that nobody reads: segments take turns');
cmp_ok(stat_log('used_bytes'), '<', 19 * $mb, 'the log keeps its size');
is(stat_log("concat_ws(' ', appended, full_count, held_by)"), '40000 0', 'nobody holds it, it was never full');

# until a segment is at hand that is not about to be turned over, and emptied
my $last = 40_000;
ok( wait_until(
		sub {
			fill('nobody', $last + 1, $last + 100);
			$last += 100;
			return $admin->value(
				"SELECT sum(pg_relation_size(oid)) FROM pg_class
				 WHERE relnamespace = 'pgpubsub'::regnamespace AND relname LIKE 'log\\_row\\__'") < $mb;
		},
		'a new segment, and no other'
	),
	'a segment begins');
$admin->run("SELECT pgpubsub.subscribe('late', '{nobody}', start_at => 'oldest')");
my ($count, $min, $max, $rest) = split / /, summary('late'), 4;
is($max, $last, 'who subscribes then reads up to the last');
is($count, $max - $min + 1, 'without a hole');
cmp_ok($count, '>', 0, 'and at least what is in the segment at hand');
is($rest // '', '', 'nothing counts as lost');
$admin->run("SELECT pgpubsub.unsubscribe('late')");

# Full

$admin->run("SELECT pgpubsub.stat_reset(), pgpubsub.subscribe('idle', '{a}', 'drop')");
fill('a', 1, 30_000);
cmp_ok(stat_log('full_count'), '>', 0, 'a subscription is away for too long: the log was full');
cmp_ok(stat_log('used_bytes'), '>', 8 * $mb, 'it is in use');

# Seen from another database

$node->safe_psql('postgres', 'CREATE DATABASE two');
$node->safe_psql('two', 'CREATE EXTENSION pgpubsub');
wait_for_relay($node, 'two');
my $columns = 'log_size, segments, oldest_seq, newest_seq, oldest_at, appended, appended_bytes, read_back, rotations, held_by, full_count';
is( $node->safe_psql('two', "SELECT $columns FROM pgpubsub.stat_log WHERE datname = 'postgres'"),
	$node->safe_psql('postgres', "SELECT $columns FROM pgpubsub.stat_log WHERE datname = 'postgres'"),
	'another database sees the same');
cmp_ok(abs($node->safe_psql('two', "SELECT used_bytes FROM pgpubsub.stat_log WHERE datname = 'postgres'") - stat_log('used_bytes')),
	'<', 3 * $mb, 'and about how large it is');
is($node->safe_psql('two', "SELECT appended, newest_seq IS NULL FROM pgpubsub.stat_log WHERE datname = 'two'"), '0|t', 'beside its own, which is empty');
is($node->safe_psql('two', "SELECT channel, durable FROM pgpubsub.stat_channels WHERE datname = 'postgres' AND channel = 'a'"), 'a|t', 'and which channels are durable');

# The one that was away

($count, $min, $max, $rest) = split / /, summary('idle'), 4;
is($max, 30_000, 'it reads up to the last');
is($count, $max - $min + 1, 'without a hole');
is($rest, 'lost ' . ($min - 1), 'and is told how many are gone');
$admin->run("SELECT pgpubsub.unsubscribe('idle')");

# Events that are kept for a time

my $seconds = 15;
$admin->run("SELECT pgpubsub.set_durable('kept', retain => '$seconds s')");
my $began = time;
fill('kept', 1, 6000);
my $segments = stat_log('segments');
ok($segments >= 3 || time - $began > $seconds - 5, "events that nobody reads are kept ($segments segments)");
ok( wait_until(
		sub {
			$writer->publish('kept', '0');
			return stat_log('segments') <= 1;
		},
		'few segments'),
	'until their time is over');
cmp_ok(time - $began, '>=', $seconds - 1, 'not before');

# What is not in the log, though the channel is durable

$admin->run("SELECT pgpubsub.subscribe('mixed', '{mixed}', 'drop'), pgpubsub.subscribe('memory', '{memory}', 'drop')");
fill('mixed', 1, 3);
$writer->run("NOTIFY mixed, '$_'") foreach 4 .. 8;
fill('mixed', 9, 10);
is($admin->subscription('mixed', "concat_ws(' ', pending, lost)"), '10 0', 'a bare NOTIFY on a durable channel is read from the queue');
fill('memory', 1, 200);
is($admin->subscription('mixed', "concat_ws(' ', pending, lost)"), '5 5', 'lost from the queue, it counts as lost');
is(summary('mixed'), '5 1 10 lost 5', 'and is a counted gap; what is in the log is not lost');

# A transaction that has published before the channel became durable

$admin->run("SELECT pgpubsub.set_durable('late', false), pgpubsub.subscribe('young', '{late}', 'drop')");
$writer->run("BEGIN; SELECT pgpubsub.publish('late', '1')");
$admin->run("SELECT pgpubsub.set_durable('late')");
$writer->run('COMMIT');
fill('late', 2, 3);
fill('memory', 1, 200);
is(summary('young'), '2 2 3 lost 1', 'an event of before is not in the log: a counted gap');

# A channel that is no longer durable

$admin->run("SELECT pgpubsub.subscribe('block', '{a}', 'block')");
fill('a', 1, 1000);
is($admin->queue('relay_state'), 'listening', 'a durable channel does not hold the queue');

# the relay reads the rules before the commit's invalidation messages are sent
my $changer = client($node);
my $change  = "SELECT pgpubsub.set_durable('a', false)";

if ($points)
{
	comes_to($node, $points, 'table_written', sub { $changer->begin($change) });
	$admin->settle;
	open_point($points, 'table_written');
	is($changer->finish->sqlstate, '', 'it is durable no longer');
}
else
{
	$changer->run($change);
}
my $more = 1000;
$writer->run("SET pgpubsub.publish_timeout = '200ms'");
for (; $more < 3000; $more++)
{
	$writer->query("SELECT pgpubsub.publish('a', '" . ($more + 1) . "$pad')");
	last if $writer->{error};
}
is($writer->sqlstate, '53400', 'from when it is durable no longer, it does');
like($writer->{error}{D}, qr/"block"/, 'the error says who');
is(summary('block'), "$more 1 $more", 'and all is read, once');

$_->quit foreach $admin, $writer, $changer;
$node->stop('fast');
server_is_sound($node);
done_testing();
