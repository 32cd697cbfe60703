# Events of a subscription in NATS JetStream: headers, no duplicates within the
# stream's window, streams that are full, subjects that no stream takes.

use strict;
use warnings;

use PgPubsub::Bridge;
use PgPubsub::Broker;
use PgPubsub::NatsClient;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = start_nats(conf => "max_payload: 65536\n");
my $node   = new_server('nats');
my $url    = 'nats://127.0.0.1:' . $broker->port;
my $client = PgPubsub::NatsClient->new($broker);

$client->stream('ORDERS', ['db.orders.>']);
$client->stream('PLAIN', ['plain']);
$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	SELECT pgpubsub.set_durable('*');
	CREATE TABLE orders (id int PRIMARY KEY, status text);
	SELECT pgpubsub.attach('orders');
	SELECT pgpubsub.subscribe('s', '{orders}'), pgpubsub.subscribe('p', '{plain}');
});

my $number = 0;

sub publish_some
{
	my ($count) = @_;
	my $from = $number + 1;

	$number += $count;
	$node->safe_psql('postgres', "SELECT count(pgpubsub.publish('plain', i::text)) FROM generate_series($from, $number) AS i");
	return join ' ', $from .. $number;
}

# The bodies of the stream of numbers, once there are that many.
sub numbers
{
	my ($count) = @_;

	wait_until(sub { PgPubsub::NatsClient->new($broker)->count('PLAIN') >= $count }, "$count messages");
	return join ' ', map { $_->{body} } PgPubsub::NatsClient->new($broker)->messages('PLAIN');
}

# Headers and subjects
my $bridge = start_bridge($node, $url, options => [ '--subject', 'db.{table}.{op}.{key}' ]);
$node->safe_psql('postgres', q{INSERT INTO orders VALUES (1, 'new'); DELETE FROM orders});
$bridge->wait_for_metric('confirmed_total', 2);
my @messages = $client->messages('ORDERS');
is(join(' ', map { $_->{subject} } @messages), 'db.orders.INSERT.1 db.orders.DELETE.1', 'the template makes the subject');
my ($id) = $messages[0]{body} =~ /"id":"(\d+-\d+)"/;
is($messages[0]{headers}{id}, $id, 'header id');
like($messages[0]{headers}{'Nats-Msg-Id'}, qr/^\d+-\d+:$id:[0-9a-f]{16}$/, 'Nats-Msg-Id has that, whose it is, and a sum of the payload');
is($messages[0]{headers}{op}, 'INSERT', 'header op');
is($messages[0]{headers}{type}, 'pgpubsub.event', 'header type');
is($messages[0]{headers}{'content-type'}, 'application/json', 'header content-type');
like($messages[0]{headers}{seq}, qr/^\d{16}$/, 'header seq');

# A message above the broker's limit
$node->safe_psql('postgres', q{INSERT INTO orders VALUES (2, repeat('x', 100000))});
is($bridge->wait_for_end, 4, 'a message that is too long: the bridge stops');
like($bridge->log, qr/longer than the broker's max_payload; the bridge stops/, 'and says why');
$bridge = start_bridge($node, $url, options => [ '--subject', 'db.{table}.{op}.{key}', '--on-unroutable', 'drop' ]);
$bridge->wait_for_metric('dropped_total', 1);
is($bridge->stop, 0, 'or drops it');

# Many, and the broker dies
my $plain = start_bridge($node, $url, subscription => 'p', options => [ '--subject', 'plain' ]);
my $expected = publish_some(500);
is(numbers(500), $expected, 'many events, in order');
for my $round (1 .. 3)
{
	my $offset = length $plain->log;

	$broker->kill9;
	$expected .= ' ' . publish_some(300);
	$plain->wait_for_log(qr/no connection to the broker/, $offset);
	$offset = length $plain->log;
	$broker->start;
	$plain->wait_for_log(qr/connected to NATS/, $offset);
}
is(numbers(1400), $expected, 'NATS has died three times: each once, in order');

# The bridge dies before it has acknowledged.
$broker->freeze;
$expected .= ' ' . publish_some(200);
$plain->wait_for_metric('unconfirmed', 200);
$plain->stop('KILL');
$broker->go_on;
$plain->start;
$plain->wait_for_metric('acked_total', 200);
is(numbers(1600), $expected, 'the bridge has died: what comes again is known by its id');

# A stream that is full, and refuses single messages
$client = PgPubsub::NatsClient->new($broker);
$client->stream('PLAIN', ['plain'], max_msgs => 1650);
my $offset = length $plain->log;
$expected .= ' ' . publish_some(200);
$plain->wait_for_log(qr/does not take event \d+ now: .*maximum messages/, $offset);
is($client->count('PLAIN'), 1650, 'a stream that is full');
$client->stream('PLAIN', ['plain']);
is(numbers(1800), $expected, 'gets the rest in order when it has room');
unlike($plain->log, qr/somebody else publishes/, 'with the chain of ids');

# Somebody else publishes there, too.
$client->request('plain', 'x');
$expected .= ' x ' . publish_some(100);
is(numbers(1901), $expected, 'somebody else publishes to the stream');

# A channel's name may have line breaks, which must not make headers.
PgPubsub::NatsClient->new($broker)->stream('ODD', ['odd']);
$node->safe_psql('postgres', q{SELECT pgpubsub.subscribe('odd', ARRAY[E'line\\r\\nid: forged'])});
my $odd = start_bridge($node, $url, subscription => 'odd', options => [ '--subject', 'odd' ]);
$node->safe_psql('postgres', q{SELECT pgpubsub.publish(E'line\\r\\nid: forged', 'x')});
$odd->wait_for_metric('confirmed_total', 1);
my ($message) = PgPubsub::NatsClient->new($broker)->messages('ODD');
is($message->{headers}{channel}, 'line??id: forged', 'a line break in a channel\'s name');
like($message->{headers}{id}, qr/^\d+-\d+-\d+$/, 'makes no header');
is($odd->stop, 0, 'the bridge ends');

# --check looks at a subject that is always the same.
my @from = ('--dbname', $node->connstr('postgres'), '--subscription', 'p', '--to', $url, '--check');
like(bridge_says(@from, '--subject', 'plain'), qr/^pgpubsub-bridge: all is well/m, '--check: a subject that a stream takes');
like(bridge_says(@from, '--subject', 'nobodys'), qr/^failed: .*messages cannot go to "nobodys": no stream takes this subject/s, 'one that none takes');

# No stream
$client->api('STREAM.DELETE.PLAIN');
publish_some(1);
is($plain->wait_for_end, 4, 'no stream: the bridge stops');
like($plain->log, qr/cannot be delivered to "plain": no stream takes this subject; the bridge stops/, 'and says why');

# Passwords and permissions
my $guarded = start_nats(conf => 'authorization { users = ['
	  . ' { user: weak, password: secret, permissions: { publish: ["$JS.API.>"], subscribe: ["_INBOX.>"] } }, { user: all, password: secret } ] }' . "\n");
my $port = $guarded->port;

PgPubsub::NatsClient->new($guarded, user => 'all', pass => 'secret')->stream('PLAIN', ['plain']);
@from = ('--dbname', $node->connstr('postgres'), '--subscription', 'p', '--check');
like(bridge_says(@from, '--to', "nats://weak:wrong\@127.0.0.1:$port"), qr/^failed: .*no connection to the broker: .*Authorization/s, 'a wrong password');
like(bridge_says(@from, '--to', "nats://127.0.0.1:$port"), qr/^failed: .*no connection to the broker: .*Authorization/s, 'without one');
like(bridge_says(@from, '--to', "nats://all:secret\@127.0.0.1:$port"), qr/^pgpubsub-bridge: all is well/, 'the right one');
my $weak = start_bridge($node, "nats://weak:secret\@127.0.0.1:$port", subscription => 'p');
$weak->wait_for_log(qr/no connection to the broker: .*Permissions Violation for Publish to "plain"/i);
pass('no permission is said');
cmp_ok($weak->metric('broker_failures_total'), '<', 10, 'and it is not tried all the time');
is($weak->metric('confirmed_total'), 0, 'nothing is confirmed');
is($weak->stop, 0, 'the bridge ends');

server_is_sound($node);
done_testing();
