# What anybody may publish, which brokers bound or dislike: what looks like a change
# event and is made up, with an id, an operation, a key or a table's name that is far too
# long or has bytes that no name may have; payloads at the broker's limit.  With each
# broker all that is possible gets through, the rest is a dead letter or dropped (where
# it is too long for the dead-letter place, too), and nothing has the bridge try for ever.

use strict;
use warnings;

use Encode qw(encode_utf8);
use JSON::PP;
use PgPubsub::Bridge;
use PgPubsub::Broker;
use PgPubsub::NatsClient;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $most = 65536;
my $node = new_server('payloads');
my %brokers = (redis => start_redis(), nats => start_nats(conf => "max_payload: $most\n"), kafka => start_kafka(), rabbitmq => start_rabbitmq());
my $properties = PostgreSQL::Test::Utils::tempdir() . '/kafka.conf';

append_to_file($properties, "message.max.bytes=$most\n");
PgPubsub::NatsClient->new($brokers{nats})->stream('EVENTS', ['db.>']);
PgPubsub::NatsClient->new($brokers{nats})->stream('DEAD', ['dead']);
amqp($brokers{rabbitmq}, 'exchange', 'db', 'topic', '--', 'queue', 'events', '--', 'bind', 'events', 'db', '#', '--', 'queue', 'dead');
$node->safe_psql('postgres', q{
	CREATE EXTENSION pgpubsub;
	SELECT pgpubsub.set_durable('*');
	CREATE TABLE t (i int PRIMARY KEY);
	SELECT pgpubsub.attach('t', 'c');
	SELECT pgpubsub.subscribe(s, '{c}') FROM unnest('{redis,nats,kafka,rabbitmq}'::text[]) AS s});

# How to reach each, and what is there then: [payload, id] each, of the stream and of the
# dead letters
my %kinds = (
	redis => {
		url     => 'redis://127.0.0.1:' . $brokers{redis}->port,
		options => [ '--stream', '{table}.{op}.{key}' ],
		look    => sub {
			my ($dead) = @_;
			my $redis = $brokers{redis};
			return map { my %f = @{ $_->[1] }; [ @f{qw(payload id)} ] }
			  map { @{ $redis->redis('XRANGE', $_, '-', '+') } } grep { $dead == ($_ eq 'dead') } @{ $redis->redis('KEYS', '*') };
		}
	},
	nats => {
		url     => 'nats://127.0.0.1:' . $brokers{nats}->port,
		options => [ '--subject', 'db.{table}.{op}.{key}' ],
		look    => sub { return map { [ $_->{body}, $_->{headers}{id} ] } PgPubsub::NatsClient->new($brokers{nats})->messages($_[0] ? 'DEAD' : 'EVENTS') }
	},
	kafka => {
		url     => "kafka://$brokers{kafka}{hosts}",
		options => [ '--topic', 'events', '--kafka-config', $properties ],
		look    => sub { return $_[0] ? () : map { [ (split /\t/, $_, 7)[ 6, 3 ] ] } $brokers{kafka}->consume('events', 0) }
	},
	rabbitmq => {
		url     => 'amqp://guest:guest@127.0.0.1:' . $brokers{rabbitmq}->port,
		options => [ '--exchange', 'db', '--routing-key', '{table}.{op}.{key}' ],
		look    => sub { return map { [ encode_utf8($_->{body}), $_->{message_id} ] } amqp($brokers{rabbitmq}, 'drain', $_[0] ? 'dead' : 'events') }
	});

# What is made up
sub forged
{
	my (%members) = @_;
	my %all = (id => '1-1', op => 'INSERT', schema => 's', table => 't', txid => 1, %members);
	return encode_json(\%all);
}

my %forged = (
	'an id'        => forged(id => '7' x 300 . '-1', n => 1),
	'an operation' => forged(op => 'x' x 50000),
	'a table'      => forged(table => 't' x 5000),
	'a key'        => forged(key => { a => 'k' x 40000 }),
	'odd bytes'    => forged(table => "a b*c>d..e\r\nX: y\x{7f}\x{263a}", key => { a => '' }),
	'no json'      => "\x01\x02 {",
	'at the limit' => 'x' x $most,
	'near it'      => 'y' x ($most - 50),
	'below it'     => 'z' x ($most - 2000));
my $client = client($node);
my $writer = client($node);
my @names  = sort keys %forged;

$client->run("SELECT pgpubsub.publish('c', \$p\$$forged{$_}\$p\$)") foreach @names;

# An id that a transaction is about to use, on the same channel, before it does
$writer->run('BEGIN');
my ($txid) = $node->safe_psql('postgres', 'SELECT pg_snapshot_xmax(pg_current_snapshot())');
$writer->run('INSERT INTO t VALUES (1)');
$client->run("SELECT pgpubsub.publish('c', \$p\$@{[ forged(id => qq($txid-1), mine => 1) ]}\$p\$)");
$writer->run('COMMIT');
$client->run(q{SELECT pgpubsub.publish('c', 'the end')});

foreach my $kind (sort keys %kinds)
{
	my $of     = $kinds{$kind};
	my $bridge = start_bridge($node, $of->{url}, subscription => $kind,
		options => [ @{ $of->{options} }, $kind =~ /^(?:kafka|nats)$/ ? qw(--on-unroutable drop) : qw(--on-unroutable dead-letter --dead-letter dead) ]);

	ok(wait_until(sub { $node->safe_psql('postgres', "SELECT pending FROM pgpubsub.stat_subscriptions WHERE subscription = '$kind'") eq '0' }, 'nothing is pending'), "$kind: all is acknowledged")
	  or diag substr $bridge->log, -3000;
	my @there = $of->{look}->(0);
	my @dead  = $of->{look}->(1);
	my %is    = map { ($_->[0] => 1) } @there;
	my %died  = map { ($_->[0] => 1) } @dead;
	my $lost  = $bridge->metric('dropped_total');

	note "$kind: ", join ', ', map { "$_: " . ($is{ $forged{$_} } ? 'there' : $died{ $forged{$_} } ? 'dead' : 'not there') } @names;
	is(@there + @dead + $lost, @names + 3, "$kind: each is there, or a dead letter, or dropped");
	is(join(' ', grep { !$is{ $forged{$_} } } 'an operation', 'no json', 'below it'), '', "$kind: what is possible is there");
	is($bridge->metric('dead_lettered_total'), scalar @dead, "$kind: dead letters are counted");
	my @same = grep { ($_->[1] // '') eq "$txid-1" } @there;
	is(scalar @same, 2, "$kind: a made-up event does not keep a real one with the same id away");
	is($bridge->metric('broker_connects_total'), 1, "$kind: over one connection");
	is($bridge->stop, 0, "$kind: the bridge ends well");
}
server_is_sound($node);
done_testing();
