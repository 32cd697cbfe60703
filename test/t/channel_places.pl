# A channel's place among max_channels is free for another one when nobody
# reads it and no open transaction has published on it, though its events are
# still in the queue; none of them is ever taken for one of the new channel.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $places = 40;
my $node   = new_server('places', conf => "
pgpubsub.max_channels = $places
pgpubsub.max_subscriptions = 100
pgpubsub.queue_size = 1MB
");
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
wait_for_relay($node, 'postgres');
my $writer = client($node);
my $other  = client($node);

# One column of the channel's row.
sub channel
{
	my ($name, $column) = @_;

	return $node->safe_psql('postgres',
		"SELECT $column FROM pgpubsub.stat_channels WHERE channel = '$name'");
}

# The relay has done what it was asked for; this takes no place.
my $settle = 'full_1';

sub settle_on_known
{
	$other->run("SELECT pgpubsub.subscribe('settle', '{$settle}', 'drop', temporary => true), pgpubsub.unsubscribe('settle')");
}

# Many channels of one user each, read at once

my $failed = 0;
foreach my $i (1 .. 5 * $places)
{
	$writer->run("SELECT pgpubsub.subscribe('user$i', '{user_$i}')");
	$writer->run("SELECT pgpubsub.publish('user_$i', 'for $i')");
	my $got = $writer->value("SELECT channel || ':' || payload FROM pgpubsub.poll('user$i', timeout => '30s')") // '';
	$failed++ if $got ne "user_$i:for $i";
	$writer->run("SELECT pgpubsub.unsubscribe('user$i')");
}
is($failed, 0, 'many channels, one after the other, each read at once');
is($node->safe_psql('postgres', 'SELECT messages FROM pgpubsub.stat_queue'),
	5 * $places, 'all their events are still in the queue');
is($node->safe_psql('postgres', 'SELECT count(*) <= ' . $places . ' FROM pgpubsub.stat_channels'),
	't', 'and no more channels than there are places');

# A new channel has the place of one with events, and nothing of it

$writer->run("SELECT count(pgpubsub.subscribe('full' || i, ARRAY['full_' || i], 'drop')) FROM generate_series(1, $places - 2) AS i");
foreach my $start ('now', 'oldest', '1')
{
	my $name = "fresh_$start";

	$writer->run("SELECT pgpubsub.subscribe('fresh', '{$name}', 'drop', '$start')");
	is(channel($name, "concat_ws(' ', messages, newest_seq, published, published_bytes, delivered, lost, last_at)"),
		'0 0 0 0 0', "start_at $start: a new channel has no past");
	is(join(' ', map { $_->[0] } $writer->run("SELECT concat(channel, lost) FROM pgpubsub.poll('fresh')")),
		$start eq '1' ? '-1' : '', 'nothing to read');
	$writer->run("SELECT pgpubsub.publish('$name', 'a'), pgpubsub.publish('$name', 'bc')");
	is(received($node, 'postgres', 'fresh', 2), "$name:a $name:bc", 'but its own events');
	is(channel($name, "concat_ws(' ', messages, published, published_bytes, delivered, lost)"),
		'2 2 3 2 0', 'which are counted alone');

	# unread ones are no reason to keep the place
	$writer->run("SELECT pgpubsub.publish('$name', 'unread')");
	$writer->run("SELECT pgpubsub.unsubscribe('fresh')");
	settle_on_known();
}

# from a place that a pattern finds
$writer->run("SELECT pgpubsub.subscribe('pattern', '{p*}', 'evict')");
settle_on_known();
$writer->run("SELECT pgpubsub.publish('p_1', 'first'), pgpubsub.publish('p_1', 'second')");
is(received($node, 'postgres', 'pattern', 2), 'p_1:first p_1:second',
	'a pattern reads the new channel from its first event on');
is(channel('p_1', "concat_ws(' ', messages, published, delivered, lost)"), '2 2 2 0',
	'and nothing else');

# The tail goes over the old channel's events: the new one holds only its own

$writer->run("SELECT pgpubsub.publish('p_1', 'held')");
settle_on_known();
my $pending = "SELECT pending || ' ' || lost FROM pgpubsub.stat_subscriptions WHERE subscription = 'pattern'";
is($node->safe_psql('postgres', $pending), '1 0', 'one event is pending');
$writer->publish_series('full_1', 1, 600);
settle_on_known();
is($node->safe_psql('postgres', $pending), '1 0',
	'the queue has taken half of its room from old events, not that one');
is($node->safe_psql('postgres', 'SELECT full_count FROM pgpubsub.stat_queue'), 0,
	'and was not full');
is(received($node, 'postgres', 'pattern', 1), 'p_1:held', 'it is read');
$writer->publish_series('full_1', 1, 1200);
settle_on_known();
is(channel('p_1', "concat_ws(' ', messages, published, delivered, lost)"), '0 3 3 0',
	'when they are overwritten, nothing is lost that was read');
is($node->safe_psql('postgres',
		'SELECT q.messages = sum(c.messages) FROM pgpubsub.stat_queue AS q, pgpubsub.stat_channels AS c GROUP BY q.messages'),
	't', 'and the channels have all that is in the queue');

# What has bindings keeps its place; an open transaction keeps it too

fails_with($node, 'postgres', "SELECT pgpubsub.subscribe('more', '{more}')",
	'53400', qr/too many channels/, 'no place is left');
$writer->run("SELECT pgpubsub.unsubscribe('full2')");
settle_on_known();
$writer->run('BEGIN');
$writer->run("SELECT pgpubsub.publish('open', 'x')");
foreach (1 .. 3)
{
	fails_with($node, 'postgres', "SELECT pgpubsub.subscribe('more', '{more}')",
		'53400', qr/too many channels/, 'an open transaction has the last one');
}
$writer->run('COMMIT');
is($writer->value("SELECT pgpubsub.subscribe('more', '{more}')"),
	't', 'until it ends');
$writer->run("SELECT pgpubsub.publish('more', 'and more')");
is(received($node, 'postgres', 'more', 1), 'more:and more', 'and it works');

# Who goes on from a seq is told that events are not found any more.

sub from_seq
{
	my ($channels, $seq) = @_;

	$writer->run("SELECT pgpubsub.subscribe('from', '$channels', 'drop', '$seq')");
	my $got = join ' ', map { $_->[0] } $writer->run("SELECT coalesce(payload, lost::text) FROM pgpubsub.poll('from')");
	$writer->run("SELECT pgpubsub.unsubscribe('from')");
	settle_on_known();
	return $got;
}

$writer->run("SELECT pgpubsub.unsubscribe('more')");
$writer->run("SELECT pgpubsub.subscribe('from', '{from}', 'drop')");
$writer->run("SELECT pgpubsub.publish('from', 'one'), pgpubsub.publish('from', 'two'), pgpubsub.publish('full_1', 'three')");
my $two = 1 + $writer->value("SELECT seq FROM pgpubsub.poll('from', 1, '30s')");
settle_on_known();
$writer->run("SELECT pgpubsub.unsubscribe('from')");
settle_on_known();
is(from_seq('{from}', $two), 'two', 'a channel that has its place still');
foreach (1, 2)
{
	$writer->run("SELECT pgpubsub.subscribe('taker', '{taker_$_}', 'drop')");
	$writer->run("SELECT pgpubsub.unsubscribe('taker')");
	settle_on_known();
}
is(from_seq('{full_1}', $two), 'three', 'another one had its own all the time');
is(from_seq('{from}', $two), '-1', 'one that another had the place of has a gap');
is(from_seq('{from*}', $two), '-1', 'and a pattern that may match it');
is(from_seq('{from}', $two + 2), '', 'but not from a later seq on');

# subscribe() and its like find bindings without going through others

my $all = 1000;
$node->append_conf('postgresql.conf', "pgpubsub.max_channels = 2000");
$node->safe_psql('postgres', "SELECT pgpubsub.unsubscribe(name) FROM pgpubsub.subscription");
$node->restart;
wait_for_relay($node, 'postgres');
$node->safe_psql('postgres', "SELECT count(pgpubsub.publish('all_' || i, '')) FROM generate_series(1, $all) AS i");
my ($ret, $stdout, $stderr) = $node->psql('postgres', q{
	SELECT pgpubsub.subscribe('all', '{*}');
	SELECT pgpubsub.subscribe('all', '{none,*}');
	BEGIN;
	SELECT pgpubsub.subscribe('all', '{none}');
	ROLLBACK;
	SELECT subscriptions FROM pgpubsub.stat_channels WHERE channel = 'all_1000';
	SET client_min_messages = debug2;
	SELECT count(*) FROM pgpubsub.channel_stats();
});
is($stdout =~ s/\s+/ /gr, 't f f 1 ' . ($all + 1), 'a pattern over many channels');
$stderr =~ /has passed over (\d+) bindings and channels/;
cmp_ok($1 // 1e9, '<', 10 * $all, 'each is found at once');

$node->stop;
server_is_sound($node);
log_is_clean($node, qr/ERROR:  too many channels/,
	qr/WARNING:  pgpubsub queue is more than half full/);
done_testing();
