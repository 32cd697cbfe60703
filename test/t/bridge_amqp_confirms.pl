# What the bridge makes of a broker's answers, whatever their order: nothing is
# acknowledged to the server before it is confirmed, a message that is refused comes
# again, one that comes back is unroutable, and what was not asked for does no harm.

use strict;
use warnings;

use PgPubsub::Bridge;
use PgPubsub::FakeAmqp;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

# The broker's side, in a process of its own.
my (%later, %nacked, @waiting);

sub on_message
{
	my ($self, $connection, $tag, $body) = @_;
	my $mode = $self->mode;

	if ($mode eq 'hold' && $body eq '3') { $later{3} = $tag; }
	elsif ($mode eq 'reverse' || $mode eq 'multiple' || $mode eq 'alone') { push @waiting, [ $tag, $body ]; }
	elsif ($mode eq 'nack' && $body =~ /5$/ && !$nacked{$body}++) { PgPubsub::FakeAmqp::nack($connection, $tag); }
	elsif ($mode eq 'return' && $body =~ /7$/)
	{
		PgPubsub::FakeAmqp::give_back($connection, 312, 'NO_ROUTE');
		PgPubsub::FakeAmqp::ack($connection, $tag);
	}
	elsif ($mode eq 'nonsense')
	{
		# tags that there are not, answers twice, a message back that was never sent
		PgPubsub::FakeAmqp::ack($connection, 1 << 40);
		PgPubsub::FakeAmqp::nack($connection, 0);
		PgPubsub::FakeAmqp::ack($connection, $tag);
		PgPubsub::FakeAmqp::nack($connection, $tag);
		PgPubsub::FakeAmqp::give_back({ %$connection, header => substr($connection->{header}, 0, 4) . pack('Q> n', 2, 0), body => 'xx' }, 312, 'NO_ROUTE');
		PgPubsub::FakeAmqp::put($connection, PgPubsub::FakeAmqp::frame(3, 1, 'a body of nothing'));
	}
	else { PgPubsub::FakeAmqp::ack($connection, $tag); }
	return;
}

my $is_blocked = 0;

sub on_tick
{
	my ($self, $connection) = @_;
	my $mode = $self->mode;

	if ($mode eq 'release' && $later{3})
	{
		PgPubsub::FakeAmqp::ack($connection, delete $later{3});
	}
	if ($mode eq 'reverse')
	{
		PgPubsub::FakeAmqp::ack($connection, $_->[0]) foreach reverse @waiting;
		@waiting = ();
	}
	if ($mode eq 'multiple' && @waiting)
	{
		PgPubsub::FakeAmqp::ack($connection, $waiting[-1][0], 1);
		@waiting = ();
	}
	if ($mode eq 'alone' && @waiting)
	{
		# one of them is too long, it does not say which one
		if (grep { $_->[1] =~ /9$/ } @waiting) { PgPubsub::FakeAmqp::close_channel($connection, 406, 'PRECONDITION_FAILED - message size too large'); }
		else { PgPubsub::FakeAmqp::ack($connection, $waiting[-1][0], 1); }
		@waiting = ();
	}
	if ($mode eq 'block' && !$is_blocked++) { PgPubsub::FakeAmqp::blocked($connection, 'low on patience'); }
	if ($mode eq 'unblock' && $is_blocked) { PgPubsub::FakeAmqp::unblocked($connection); $is_blocked = 0; }
	return;
}

my $broker = PgPubsub::FakeAmqp->new(on_message => \&on_message, on_tick => \&on_tick, mode => 'hold');
my $node   = new_server('confirms');

$node->safe_psql('postgres', q{CREATE EXTENSION pgpubsub; SELECT pgpubsub.set_durable('*'); SELECT pgpubsub.subscribe('s', '{a}')});

my $bridge = start_bridge($node, 'amqp://127.0.0.1:' . $broker->port, options => [ '--on-unroutable', 'drop' ]);
my $number = 0;

sub publish_some
{
	my ($count) = @_;
	my $from = $number + 1;

	$number += $count;
	$node->safe_psql('postgres', "SELECT count(pgpubsub.publish('a', i::text)) FROM generate_series($from, $number) AS i");
	return ($from .. $number);
}

sub pending { return $node->safe_psql('postgres', 'SELECT pending FROM pgpubsub.stat_subscriptions'); }
sub acked   { return wait_until(sub { pending() eq '0' }, 'nothing is pending'); }

# What has come since there were so many, once nothing is pending.
sub received_since
{
	my ($before) = @_;
	my @all = $broker->received;

	return join ' ', @all[ $before .. $#all ];
}

# The third of ten is not confirmed, and all others are.
publish_some(10);
$bridge->wait_for_metric('confirmed_total', 9);
ok(wait_until(sub { pending() eq '8' }, 'two acknowledged'), 'what is confirmed behind a message that is not is not acknowledged');
is($bridge->metric('unconfirmed'), 1, 'one message is not confirmed');
$broker->set_mode('release');
ok(acked(), 'all is acknowledged when that is');
is(received_since(0), join(' ', 1 .. 10), 'and nothing was sent twice');

# Confirms in another order, and one for many
foreach my $mode (qw(reverse multiple))
{
	my $before = $broker->received;

	$broker->set_mode($mode);
	my @sent = publish_some(100);
	ok(acked(), "$mode: all is acknowledged");
	is(received_since($before), "@sent", "$mode: each once, in order");
}

# basic.nack
my $before = $broker->received;
$broker->set_mode('nack');
my @sent = publish_some(20);
ok(acked(), 'nack: all is acknowledged');
my %times;
$times{$_}++ foreach split / /, received_since($before);
is(join(' ', sort { $a <=> $b } keys %times), "@sent", 'all have come');
is(join(' ', sort { $a <=> $b } grep { $times{$_} > 1 } keys %times), join(' ', grep { /5$/ } @sent), 'twice those that were refused, and no others');
is($bridge->metric('refused_total'), 2, 'counted');

# basic.return
$before = $broker->received;
$broker->set_mode('return');
@sent = publish_some(20);
ok(acked(), 'return: all is acknowledged');
is(received_since($before), "@sent", 'each was sent once');
is($bridge->metric('dropped_total'), 2, 'those that came back are dropped, and no others');

# connection.blocked
$broker->set_mode('block');
$bridge->wait_for_log(qr/the broker takes nothing for now: low on patience/);
$before = $broker->received;
@sent = publish_some(20);
$bridge->wait_for_metric('outbox_messages', 20);
is(scalar($broker->received), $before, 'blocked: nothing is sent');
is($bridge->metric('broker_state{state="blocked"}'), 1, 'and the metrics tell');
$broker->set_mode('unblock');
ok(acked(), 'and goes on');
is(received_since($before), "@sent", 'each once, in order');

# The channel is closed because of a message, nobody says which one.
$broker->set_mode('alone');
@sent = publish_some(20);
ok(acked(), 'too long: all is acknowledged');
is($bridge->metric('dropped_total'), 2 + grep({ /9$/ } @sent), 'those that are too long are dropped, and no others');
like($bridge->log, qr/cannot be delivered to "a": .*406 PRECONDITION_FAILED.*it is dropped/, 'with a line that says why');

# Nonsense
$before = $broker->received;
$broker->set_mode('nonsense');
@sent = publish_some(50);
ok(acked(), 'nonsense: all is acknowledged') or diag $bridge->log;
ok(!$bridge->has_ended, 'and the bridge goes on');
my %seen;
is(join(' ', grep { !$seen{$_}++ } split / /, received_since($before)), "@sent", 'in order');

is($bridge->stop, 0, 'the bridge ends well');
ok(wait_until(sub { $broker->log =~ /closed well/ }, 'a connection that is closed'), 'and tells the broker');
server_is_sound($node);
done_testing();
