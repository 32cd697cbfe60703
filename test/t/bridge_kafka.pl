# Events of a subscription in Kafka: librdkafka's mock cluster, as Debian has no Kafka.

use strict;
use warnings;

use PgPubsub::Bridge;
use PgPubsub::Broker;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = start_kafka(brokers => 3);
my $node   = new_server('kafka');
my $url    = "kafka://$broker->{hosts}";

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	SELECT pgpubsub.set_durable('*');
	CREATE TABLE orders (id int PRIMARY KEY, status text);
	SELECT pgpubsub.attach('orders');
	SELECT pgpubsub.subscribe('s', '{orders,a,b,c}');
});

my $bridge = start_bridge($node, $url, options => [ '--topic', 'events' ]);
$node->safe_psql('postgres', q{INSERT INTO orders VALUES (1, 'new')});
$bridge->wait_for_metric('confirmed_total', 1);

my ($line) = $broker->consume('events', 1);
my (undef, $key, $seq, $id, $type, $op, $payload) = split /\t/, $line;
is($key, 'orders', 'the key is the channel');
like($seq, qr/^\d{16}$/, 'header seq');
like($payload, qr/^\{"id":"\Q$id\E","op":"INSERT"/, 'the payload, whose id is in a header');
is("$type $op", 'pgpubsub.event INSERT', 'headers type and op');

# Several channels, each in order
my $count = 3000;
$node->safe_psql('postgres', "SELECT count(pgpubsub.publish(chr(97 + i % 3), i::text)) FROM generate_series(1, $count) AS i");
$bridge->wait_for_metric('acked_total', $count + 1);
my %of;
foreach my $line ($broker->consume('events', $count + 1))
{
	my @fields = split /\t/, $line;

	push @{ $of{ $fields[1] } }, $fields[6] if $fields[1] ne 'orders';
}
is(join(' ', @{ $of{$_} }), join(' ', sort { $a <=> $b } @{ $of{$_} }), "channel $_ is in order") foreach qw(a b c);
is(scalar(map { @$_ } values %of), $count, 'each once');

# A message that is too long
$bridge->stop;
my $file = PostgreSQL::Test::Utils::tempdir() . '/kafka.conf';
append_to_file($file, "# properties of librdkafka\nmessage.max.bytes=20000\n");
$bridge = start_bridge($node, $url, options => [ '--topic', 'events', '--kafka-config', $file ]);
$node->safe_psql('postgres', q{INSERT INTO orders VALUES (2, repeat('x', 30000))});
is($bridge->wait_for_end, 4, 'a message that is too long: the bridge stops');
like($bridge->log, qr/cannot be delivered to "events": .*too large.*the bridge stops/i, 'and says why');
my $dead = start_bridge($node, $url, options => [ '--topic', 'events', '--on-unroutable', 'drop', '--kafka-config', $file ]);
$dead->wait_for_metric('dropped_total', 1);
is($dead->stop, 0, 'or drops it');

# What the cluster refuses: a whole batch because of one message, of which nobody knows
# which one; what it does not permit; a topic that is not there
$bridge = start_bridge($node, $url, options => [ '--topic', 'refused', '--on-unroutable', 'drop', '--log-level', 'debug' ]);
my $number = 0;

sub publish_some
{
	my ($count) = @_;
	my $from = $number + 1;

	$number += $count;
	$node->safe_psql('postgres', "SELECT count(pgpubsub.publish('a', i::text)) FROM generate_series($from, $number) AS i");
	return;
}

publish_some(1);
$bridge->wait_for_metric('acked_total', 1);
$broker->refuse('produce 10 1');
publish_some(50);
$bridge->wait_for_metric('acked_total', 51);
is($bridge->metric('dropped_total'), 0, 'a batch that is too large: each is sent alone, and none is lost');
$broker->refuse('produce 29 2');
publish_some(50);
$bridge->wait_for_metric('acked_total', 101);
cmp_ok($bridge->metric('refused_total'), '>', 0, 'no permission: they are sent again');
like($bridge->log, qr/does not take event \d+ now: .*authorization failed/i, 'which is said');
my %seen;
is(join(' ', sort { $a <=> $b } grep { !$seen{$_}++ } map { (split /\t/)[6] } $broker->consume('refused', 0)), join(' ', 1 .. 101), 'all are there');
is($bridge->stop, 0, 'the bridge ends');
append_to_file($file, "topic.metadata.propagation.max.ms=100\n");
$broker->refuse('topic none 3');
$bridge = start_bridge($node, $url, options => [ '--topic', 'none', '--kafka-config', $file ]);
publish_some(1);
is($bridge->wait_for_end, 4, 'a topic that is not there: the bridge stops');
like($bridge->log, qr/cannot be delivered to "none": [^\n]*unknown topic[^\n]*the bridge stops/i, 'and says why');

# --check
my @from = ('--dbname', $node->connstr('postgres'), '--subscription', 's', '--to', $url, '--check');
like(bridge_says(@from, '--topic', 'events'), qr/^pgpubsub-bridge: all is well/m, '--check: a topic');
like(bridge_says(@from, '--topic', 'a b'), qr/^failed: /, 'what is none');

# Bad properties
append_to_file($file, "nonsense=1\n");
like(bridge_says('--dbname', $node->connstr('postgres'), '--subscription', 's', '--to', $url, '--kafka-config', $file, '--check'), qr/^failed: .*No such configuration property: "nonsense"/s, 'a property that there is not');
server_is_sound($node);
done_testing();
