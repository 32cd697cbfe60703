# Whatever dies, every event is in the broker, and the order of first arrivals is that
# of seq: the bridge, the broker and the server are killed, and the network on either side
# of the bridge stops, goes on and is cut, at random, while rows are inserted.  An event
# that comes twice has the same id, and JetStream, which knows ids, has none twice.
# (Kafka's stand-in is memory alone, and tells clients its own address: it is only held
# up.)  BRIDGE_CHAOS_EVENTS (20000) is their number, BRIDGE_CHAOS_SEED repeats a run,
# BRIDGE_CHAOS_BROKERS names some of the brokers.

use strict;
use warnings;

use PgPubsub::Bridge;
use PgPubsub::Broker;
use PgPubsub::NatsClient;
use PgPubsub::Proxy;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $events = $ENV{BRIDGE_CHAOS_EVENTS} // 20000;
my $seed   = $ENV{BRIDGE_CHAOS_SEED} // time;
my $batch  = int($events / 40) || 1;
my @channels = qw(a b c);

note "seed $seed";
srand $seed;

# What is in the broker, in its order: [channel, payload, id] each.
my %looks = (
	rabbitmq => sub {
		my ($broker) = @_;
		return map { [ $_->{headers}{channel}, $_->{body}, $_->{message_id} ] } amqp($broker, 'drain', 'events');
	},
	redis => sub {
		my ($broker) = @_;
		return map { my %fields = @{ $_->[1] }; [ @fields{qw(channel payload id)} ] } @{ $broker->redis('XRANGE', 'events', '-', '+') };
	},
	nats => sub {
		my ($broker) = @_;
		return map { [ @{ $_->{headers} }{'channel'}, $_->{body}, $_->{headers}{id} ] } PgPubsub::NatsClient->new($broker)->messages('EVENTS');
	},
	kafka => sub {
		my ($broker) = @_;
		return map { [ (split /\t/)[ 1, 6, 3 ] ] } $broker->followed($events);
	});

# The network stops, until the bridge has given a connection up or has nothing more to
# send, and goes on or is cut.
sub disturb
{
	my ($bridge, $proxy) = @_;
	my $failures = sub { return ($bridge->metric('broker_failures_total') // 0) + ($bridge->metric('server_failures_total') // 0) };
	my $before = $failures->();

	$proxy->mode('hold');
	wait_until(sub { $failures->() != $before || !$bridge->metric('unconfirmed') }, 'the network stops') if rand() < 0.5;
	$proxy->mode('cut') if rand() < 0.5;
	$proxy->mode('pass');
	return;
}

sub run_chaos
{
	my ($kind, $broker, $url, @options) = @_;
	my $node = new_server("chaos_$kind", conf => "listen_addresses = '127.0.0.1'\n");
	my %count = (bridge => 0, broker => 0, server => 0, 'network to the broker' => 0, 'network to the server' => 0);
	my $server_proxy = PgPubsub::Proxy->new($node->port);
	my $broker_proxy = $kind eq 'kafka' ? undef : PgPubsub::Proxy->new($broker->port);

	$url =~ s/:@{[ $broker->port ]}$/:@{[ $broker_proxy->port ]}/ or die "$url has no port" if $broker_proxy;
	$node->safe_psql('postgres', qq{
		CREATE EXTENSION pgpubsub;
		@{[ map { "CREATE TABLE $_ (i int PRIMARY KEY); SELECT pgpubsub.attach('$_', durable => true);" } @channels ]}
		SELECT pgpubsub.subscribe('s', '{@{[ join ',', @channels ]}}')});
	my $bridge = start_bridge($node, $url, port => $server_proxy->port, options => [ '--window', 300, '--batch', 400, '--confirm-timeout', 2, @options ]);

	for (my $from = 1; $from <= $events; $from += $batch)
	{
		my $to = $from + $batch - 1;
		my $what = ('bridge', 'broker', 'server', 'network to the broker', 'network to the server', 'none')[ int rand 6 ];

		# what is to happen happens while the bridge is at work with these
		$node->safe_psql('postgres', "INSERT INTO $channels[$_] SELECT i FROM generate_series($from, $to) AS i WHERE i % 3 = $_") foreach 0 .. 2;
		next if $what eq 'none';
		$count{$what}++;
		if ($what eq 'bridge')    { $bridge->stop('KILL'); $bridge->start(ready => 0); }
		elsif ($what eq 'broker' && $kind ne 'kafka') { $broker->kill9; $broker->start; }
		elsif ($what eq 'server') { $node->stop('immediate'); $node->start; }
		elsif ($what eq 'network to the server') { disturb($bridge, $server_proxy); }
		elsif ($broker_proxy)     { disturb($bridge, $broker_proxy); }
		else                      { $broker->freeze; $node->safe_psql('postgres', 'SELECT 1'); $broker->go_on; }
	}
	note join ', ', map { "$_: $count{$_}" } sort keys %count;
	ok(wait_until(sub { eval { $node->safe_psql('postgres', 'SELECT pending FROM pgpubsub.stat_subscriptions') } eq '0' }, 'nothing is pending'), "$kind: all is acknowledged")
	  or diag $bridge->log;
	is($bridge->stop, 0, "$kind: the bridge ends well");

	my (%seen, %id_of, %last);
	my ($duplicates, $other_ids, @disorder) = (0, 0);
	foreach my $message ($looks{$kind}->($broker))
	{
		my ($channel, $body, $id) = @$message;
		my ($payload) = $body =~ /"new":\{"i":(\d+)\}/;

		if ($seen{$payload}++)
		{
			$duplicates++;
			$other_ids++ if $id_of{$payload} ne $id;
			next;
		}
		$id_of{$payload} = $id;
		push @disorder, "$payload after $last{$channel}" if $payload < ($last{$channel} // 0);
		$last{$channel} = $payload;
	}
	is(scalar keys %seen, $events, "$kind: every event is in the broker");
	is("@disorder", '', "$kind: first arrivals are in order");
	note "$kind: $duplicates duplicates, $other_ids with another id";
	is($other_ids, 0, "$kind: duplicates have the same id");
	return ($duplicates, $other_ids, $count{server});
}

my %runs = (
	redis => sub {
		my $broker = start_redis();
		my ($duplicates, undef, $crashes) = run_chaos('redis', $broker, 'redis://127.0.0.1:' . $broker->port, '--stream', 'events');

		is($duplicates, 0, 'redis: nothing is there twice') if !$crashes;
	},
	kafka => sub {
		my $broker = start_kafka(brokers => 3);

		$broker->follow('events');
		run_chaos('kafka', $broker, "kafka://$broker->{hosts}", '--topic', 'events');
	},
	nats => sub {
		my $broker = start_nats();

		PgPubsub::NatsClient->new($broker)->stream('EVENTS', ['events']);
		my ($duplicates) = run_chaos('nats', $broker, 'nats://127.0.0.1:' . $broker->port, '--subject', 'events');

		is($duplicates, 0, 'nats: nothing is there twice');
	},
	rabbitmq => sub {
		my $broker = start_rabbitmq();

		amqp($broker, 'queue', 'events');
		run_chaos('rabbitmq', $broker, 'amqp://guest:guest@127.0.0.1:' . $broker->port, '--routing-key', 'events');
	});

$runs{$_}->() foreach split / /, $ENV{BRIDGE_CHAOS_BROKERS} // 'redis nats kafka rabbitmq';
done_testing();
