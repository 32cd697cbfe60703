# What comes from the broker's side may be anything: garbage at once, and garbage in
# place of single bytes of what it says.  The bridge comes to no harm, does not tell the
# server of what was not confirmed, and goes on when the broker speaks again.  And the
# network between may stop and go on.

use strict;
use warnings;

use PgPubsub::Bridge;
use PgPubsub::Broker;
use PgPubsub::NatsClient;
use PgPubsub::Proxy;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('hostile');
my $seed = $ENV{BRIDGE_SEED} // time;

note "seed $seed";
srand $seed;
$node->safe_psql('postgres', q{CREATE EXTENSION pgpubsub; SELECT pgpubsub.set_durable('*'); SELECT pgpubsub.subscribe('redis', '{redis}'), pgpubsub.subscribe('nats', '{nats}'), pgpubsub.subscribe('amqp', '{amqp}')});

# A server that says random bytes to whoever connects, and then waits for the end.
sub start_babbler
{
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 20, ReuseAddr => 1) or die $!;

	return ($port, in_child("$PostgreSQL::Test::Utils::log_path/babbler_$port", sub {
		local $SIG{PIPE} = 'IGNORE';
		while (my $client = $listener->accept)
		{
			syswrite $client, join '', map { chr int rand 256 } 1 .. 1 + int rand 5000;
			close $client if rand() < 0.7;
		}
	}));
}

my ($babbler) = start_babbler();

foreach my $kind (qw(redis nats amqp))
{
	my $bridge = start_bridge($node, "$kind://127.0.0.1:$babbler", subscription => $kind, ready => 0);

	wait_until(sub { ($bridge->metric('broker_failures_total') // 0) >= 3 }, 'three failures') or diag $bridge->log;
	ok(!$bridge->has_ended, "$kind: random bytes: the bridge goes on");
	is($bridge->metric('confirmed_total'), 0, "$kind: nothing is confirmed");
	$bridge->stop;
}

# Bytes of a real broker that are garbled, and a network that stops
my %brokers = (redis => start_redis(), nats => start_nats());
PgPubsub::NatsClient->new($brokers{nats})->stream('NATS', ['nats']);

my %count = (
	redis => sub { return $brokers{redis}->redis('XLEN', 'redis') },
	nats  => sub { return PgPubsub::NatsClient->new($brokers{nats})->count('NATS') });
my %bodies = (
	redis => sub { return map { my %f = @{ $_->[1] }; $f{payload} } @{ $brokers{redis}->redis(qw(XRANGE redis - +)) } },
	nats  => sub { return map { $_->{body} } PgPubsub::NatsClient->new($brokers{nats})->messages('NATS') });

my $client = client($node);

foreach my $kind (qw(redis nats))
{
	my $proxy  = PgPubsub::Proxy->new($brokers{$kind}->port);
	my $bridge = start_bridge($node, "$kind://127.0.0.1:" . $proxy->port, subscription => $kind, options => [ '--confirm-timeout', '1' ]);
	my $number = 0;

	foreach my $mode (qw(garble cut hold garble cut garble))
	{
		my $failures = $bridge->metric('broker_failures_total');

		$proxy->mode($mode);
		wait_until(
			sub {
				my $from = $number + 1;

				$number += 5;
				$client->run("SELECT pgpubsub.publish('$kind', i::text) FROM generate_series($from, $number) AS i");
				return $bridge->metric('broker_failures_total') > $failures;
			},
			"$mode: a failure") or die $bridge->log;
		$proxy->mode('cut');
		$proxy->mode('pass');
	}
	ok(wait_until(sub { $node->safe_psql('postgres', "SELECT pending FROM pgpubsub.stat_subscriptions WHERE subscription = '$kind'") eq '0' }, 'nothing is pending'), "$kind: all is acknowledged") or diag $bridge->log;
	ok(join(' ', $bodies{$kind}->()) eq join(' ', 1 .. $number), "$kind: garbled bytes, cut connections and a network that stops: each event once, in order");
	is($bridge->stop, 0, "$kind: the bridge ends well");
}
server_is_sound($node);
done_testing();
