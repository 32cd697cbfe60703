# An ack of what another session's look has shown, or one that was rolled back,
# or one of a channel that is another one now.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('stale_look', conf => q{
pgpubsub.queue_size = 64kB
pgpubsub.max_channels = 8
log_statement = none
});
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
my ($one, $two) = (client($node), client($node));
my %written;

sub publish_numbered
{
	my ($channel, $count) = @_;
	my $from = ($written{$channel} // 0) + 1;

	$written{$channel} += $count;
	$one->publish_series($channel, $from, $written{$channel});
	$one->settle;
}

sub rows
{
	my ($by, $max, $consume) = @_;

	return $by->run(
		"SELECT seq, channel, rtrim(payload), lost FROM pgpubsub.poll('s', $max, consume => $consume)"
	);
}

sub counts
{
	return $one->subscription('s', "delivered || ' ' || lost");
}

# One looks and sees nothing; the other one looks and sees a gap, which the
# first one acks.
$one->run("SELECT pgpubsub.subscribe('s', '{x,y}', 'drop')");
is(scalar(rows($one, 1, 'false')), 0, 'nothing is there');
publish_numbered('y', 5);
publish_numbered('x', 20);
publish_numbered('y', 1);
publish_numbered('x', 50);
my @look = rows($two, 1, 'false');
my $told = $look[0][3];
is("$look[1][1] $look[1][2]", 'x ' . ($told - 5 + 1), 'a gap row, of five of y too, and one of x');
is($one->value("SELECT pgpubsub.ack('s', $look[1][0])"), 1, 'the first one acks it');
is(counts(), "1 $told", 'what was told counts as lost');
my @rest = rows($two, 1000, 'true');
is(scalar(grep { defined $_->[3] } @rest), 0, 'the gap is not told again');
is(scalar(@rest) + 1 + $told, $written{x} + $written{y}, 'all is read or lost, once');

# The other one sees all, which the first one acks when it is gone.
my ($delivered, $lost) = split / /, counts();
$one->run("SELECT pgpubsub.subscribe('filler', '{z}', 'drop')");
is(scalar(rows($one, 1, 'false')), 0, 'nothing is there');
publish_numbered('y', 5);
publish_numbered('x', 5);
@look = rows($two, 100, 'false');
is(scalar(@look), 10, 'ten events are shown');
publish_numbered('z', 100);
publish_numbered('y', 1);
publish_numbered('x', 1);
is($one->value("SELECT pgpubsub.ack('s', $look[9][0])"), 0, 'and acked by another session when none is left');
@rest = rows($two, 100, 'true');
is(join(' ', map { $_->[1] // 'gap ' . $_->[3] } @rest), 'gap 10 y x', 'they are told as lost');
is(counts(), ($delivered + 2) . ' ' . ($lost + 10), 'as the view says, once');

# Long after a gap: a look that began further on is rolled back, and one that
# has not looked acks less than that.
my $three = client($node);
($delivered, $lost) = split / /, counts();
publish_numbered('y', 12);
my @first = rows($one, 3, 'false');
$one->run('BEGIN');
is(scalar(rows($one, 10, 'true')), 10, 'ten are consumed');
is(scalar(rows($one, 2, 'false')), 2, 'two more are seen');
$one->run('ROLLBACK');
do { publish_numbered('z', 1) }
  until $one->value("SELECT messages FROM pgpubsub.stat_channels WHERE channel = 'y'") <= 1 || $written{z} > 300;
publish_numbered('y', 1);
$three->run("SELECT pgpubsub.ack('s', $first[2][0])");
@rest = rows($two, 100, 'true');
$told = $rest[0][3];
my ($delivered_now, $lost_now) = split / /, counts();
is($lost_now - $lost, $told, 'what was not told does not count as lost');
is($delivered_now - $delivered + $lost_now - $lost, 13, 'all is read or lost, once');

# The channel's slot is another one's by the time of the ack.
publish_numbered('x', 5);
@look = rows($one, 5, 'false');
is(join(' ', map { "$_->[1]$_->[2]" } @look), join(' ', map { "x$_" } $written{x} - 4 .. $written{x}),
	'five of x');
my $number = $one->value("SELECT published FROM pgpubsub.stat_channels WHERE channel = 'x'");
$one->run("SELECT pgpubsub.subscribe('s', '{y}', 'drop')");
publish_numbered('z', 100);
($delivered, $lost) = split / /, counts();
$one->run("SELECT pgpubsub.subscribe('t$_', '{t$_}')") foreach 1 .. 4;
$one->run("SELECT pgpubsub.subscribe('s', '{y,v}', 'drop')");
is($one->value("SELECT count(*) FROM pgpubsub.stat_channels WHERE channel IN ('x', 'v')"), 1, 'v has the slot of x');
publish_numbered('v', $number);
publish_numbered('z', 100);
publish_numbered('v', 1);
is($one->value("SELECT pgpubsub.ack('s', $look[4][0])"), 0, 'an ack of the events of x');
@rest = rows($two, 100, 'true');
is(join(' ', map { $_->[3] // $_->[1] } @rest), "$number v", 'consumes nothing of v');
is(counts(), ($delivered + 1) . ' ' . ($lost + $number), 'as the view says');

$node->stop;
server_is_sound($node);
done_testing();
