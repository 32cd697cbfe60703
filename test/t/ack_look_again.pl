# A gap that a look has shown, and whose row was acked, is not shown again, nor
# does the ack count more than that as lost; also when an earlier look had seen
# more, or began further on in a transaction that was rolled back.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('look_again', conf => q{
pgpubsub.queue_size = 64kB
log_statement = none
});
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
my $session = client($node);
my %written = (x => 0, y => 0, z => 0);

# Publish so many events of about a kilobyte; returns when they are queued.
sub publish_numbered
{
	my ($channel, $count) = @_;
	my $from = $written{$channel} + 1;

	$written{$channel} += $count;
	$session->publish_series($channel, $from, $written{$channel});
	$session->settle;
}

# Rows of a look or a poll: [seq, channel, number, lost].
sub rows
{
	my ($max, $consume, $by) = @_;

	return ($by // $session)->run(
		"SELECT seq, channel, rtrim(payload), lost FROM pgpubsub.poll('s', $max, consume => $consume)"
	);
}

$session->run("SELECT pgpubsub.subscribe('s', '{x,y}', 'drop')");
publish_numbered('y', 5);
publish_numbered('x', 20);
publish_numbered('y', 1);
my @first = rows(100, 'false');
is(scalar @first, 26, 'the first look shows everything');
is($first[25][1], 'y', 'the last event too');

# overwrite the first five of y and some of x, but not the sixth of y
publish_numbered('x', 50);
my @second = rows(1, 'false');
is(scalar @second, 2, 'a second look shows a gap row and an event');
is($second[1][1], 'x', 'of x');
my $lost = $second[0][3];
cmp_ok($lost, '>', 5, "$lost events are missing");
is($lost - 5, $second[1][2] - 1, 'five of them of y');
is($session->value("SELECT pgpubsub.ack('s', $second[1][0])"),
	1, 'the event is acked, and the gap with it');
is( $session->subscription('s', 'lost'),
	$lost,
	'as the view says');

my @rest = rows(1000, 'true');
is(scalar(grep { defined $_->[3] } @rest), 0, 'the gap is not shown again');
is(scalar(@rest) + 1 + $lost, $written{x} + $written{y}, 'all is read or lost, once');
is(join(' ', map { $_->[2] } grep { $_->[1] eq 'y' } @rest), 6, 'the sixth of y is read');

# Looks that began further on, and were rolled back; then one that shows a gap,
# and of the channels only one; then more is lost, and the look is acked, by
# the session that looked or another one.
my $other = client($node);
$session->run("SELECT pgpubsub.subscribe('filler', '{z}', 'drop')");
foreach my $acker ($session, $other)
{
	my $name = 'acked by ' . ($acker == $session ? 'the same session' : 'another one');
	my $read = sub {
		return $session->subscription('s', "delivered || ' ' || lost");
	};
	my ($delivered, $before) = split / /, $read->();
	my $count = 25;

	publish_numbered('y', 5);
	foreach (1 .. 10)
	{
		publish_numbered('x', 1);
		publish_numbered('y', 1);
	}
	$session->run('BEGIN');
	my @shown = rows(100, 'false');
	is(scalar(@shown), $count, "$name: all is there");
	$session->run("SELECT pgpubsub.ack('s', $shown[19][0])");
	is(scalar(rows(100, 'false')), $count - 20, "$name: the rest is there");
	$session->run('ROLLBACK');

	# some of y are lost, and the next one left is of x
	my @look;
	do
	{
		publish_numbered('z', 1);
		@look = rows(1, 'false');
	} until @look == 2 && $look[1][1] eq 'x' && $look[0][3] > 5 || $written{z} > 1000;
	my $told = $look[0][3];

	# some more are
	publish_numbered('z', 6);
	$acker->run("SELECT pgpubsub.ack('s', $look[1][0])");
	my ($now) = split / /, $read->();
	cmp_ok($now - $delivered, '<=', 1, "$name: one at most is delivered");
	my @left = rows(1000, 'true');
	my $then = $left[0][3];
	cmp_ok($then, '>', 0, "$name: more are lost then");
	is($told + $then + ($now - $delivered) + @left - 1, $count, "$name: all is read or lost, once");
	is((split / /, $read->())[1] - $before, $told + $then, "$name: as the view says");
}

$node->stop;
server_is_sound($node);
done_testing();
