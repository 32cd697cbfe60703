# Events of a subscription in RabbitMQ: what a consumer in another language gets, the
# order, and what is acknowledged to the server.

use strict;
use warnings;

use JSON::PP;
use PgPubsub::Bridge;
use PgPubsub::Broker;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = start_rabbitmq();
my $node   = new_server('amqp');
my $url    = 'amqp://guest:guest@127.0.0.1:' . $broker->port;

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE ROLE bridge LOGIN;
	GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgpubsub TO bridge;
	SELECT pgpubsub.set_durable('*');
	CREATE TABLE orders (id int PRIMARY KEY, status text);
	CREATE TABLE parts (a int, b text, PRIMARY KEY (a, b));
	SELECT pgpubsub.attach('orders'), pgpubsub.attach('parts', format => 'cloudevents'),
		pgpubsub.attach('parts', 'parts_debezium', format => 'debezium');
});
$node->safe_psql('postgres', q{SELECT pgpubsub.subscribe('s', '{orders,parts*,plain}')}, extra_params => [ '-U', 'bridge' ]);
amqp($broker, 'exchange', 'db', 'topic', '--', 'queue', 'all', '--', 'bind', 'all', 'db', '#', '--', 'queue', 'updates', '--', 'bind', 'updates', 'db', 'orders.UPDATE');

my $bridge = start_bridge($node, $url, user => 'bridge', options => [ '--exchange', 'db', '--routing-key', '{table}.{op}' ]);

# A table's changes, as JSON, routed by table and operation.
$node->safe_psql('postgres', q{INSERT INTO orders VALUES (1, 'new')});
$node->safe_psql('postgres', q{UPDATE orders SET status = 'paid'});
$node->safe_psql('postgres', q{DELETE FROM orders});

my @messages = amqp($broker, 'take', 'all', 3);

is(join(' ', map { $_->{routing_key} } @messages), 'orders.INSERT orders.UPDATE orders.DELETE', 'routed by table and operation, in order');

my ($insert, $update) = @messages;
my $body = decode_json($insert->{body});

is($body->{new}{status}, 'new', 'the body is the payload');
is($insert->{content_type}, 'application/json', 'content type');
is($insert->{delivery_mode}, 2, 'persistent');
is($insert->{message_id}, $body->{id}, 'message_id is the id of the event');
is($insert->{type}, 'pgpubsub.event', 'type');
is($insert->{headers}{op}, 'INSERT', 'header op');
is($insert->{headers}{channel}, 'orders', 'header channel');
is($insert->{headers}{id}, $body->{id}, 'header id');
cmp_ok($update->{headers}{seq}, '>', $insert->{headers}{seq}, 'header seq grows');
ok(wait_until(sub { $node->safe_psql('postgres', "SELECT pending FROM pgpubsub.stat_subscriptions") eq '0' }, 'all acknowledged'), 'what is confirmed is acknowledged');
is((amqp($broker, 'drain', 'updates'))[0]{headers}{seq}, $update->{headers}{seq}, 'a queue that is bound to one operation gets that');

# The other formats, and what is no JSON
$node->safe_psql('postgres', q{INSERT INTO parts VALUES (7, 'x"y')});
@messages = sort { $a->{headers}{channel} cmp $b->{headers}{channel} } amqp($broker, 'take', 'all', 2);
is($messages[0]{content_type}, 'application/cloudevents+json', 'CloudEvents');
is($messages[0]{message_id}, decode_json($messages[0]{body})->{id}, 'with their id');
is($messages[1]{content_type}, 'application/json', 'Debezium');
is(join(' ', map { $_->{routing_key} } @messages), 'parts.INSERT parts.INSERT', 'are routed alike');
$node->safe_psql('postgres', q<SELECT pgpubsub.publish('plain', 'no {json'), pgpubsub.publish('plain', '{"id":"1-1","x":1}'), pgpubsub.publish('plain', '')>);
@messages = amqp($broker, 'take', 'all', 3);
is($messages[0]{body}, 'no {json', 'a payload that is no JSON');
is($messages[0]{content_type}, 'text/plain; charset=utf-8', 'says so');
is($messages[0]{routing_key}, '_._', 'and has the placeholder where the template wants more');
my $system = $node->safe_psql('postgres', q{SELECT system_identifier || '-' || (SELECT oid FROM pg_database WHERE datname = 'postgres') FROM pg_control_system()});
is($messages[1]{message_id}, "$system-$messages[1]{headers}{seq}", 'an id in somebody else\'s JSON is none: system, database and seq are');
is($messages[2]{body}, '', 'an empty payload');

# Many, in order
my $count = 5000;
$node->safe_psql('postgres', "SELECT count(pgpubsub.publish('plain', i::text)) FROM generate_series(1, $count) AS i");
@messages = amqp($broker, 'take', 'all', $count);
is(join(' ', map { $_->{body} } @messages), join(' ', 1 .. $count), "$count events in order");
$bridge->wait_for_metric('acked_total', 8 + $count);
is($bridge->metric('confirmed_total'), 8 + $count, 'each once');
like($node->safe_psql('postgres', "SELECT application_name FROM pg_stat_activity WHERE usename = 'bridge'"), qr/^pgpubsub-bridge s: up /, 'application_name tells how it goes');
is(($bridge->get('/healthz'))[0], 200, 'healthz');

# The bridge ends in the midst, and starts again.
is($bridge->stop, 0, 'it ends with SIGTERM');
$node->safe_psql('postgres', "SELECT count(pgpubsub.publish('plain', i::text)) FROM generate_series(1, 10) AS i");
$bridge->start;
@messages = amqp($broker, 'take', 'all', 10);
is(join(' ', map { $_->{body} } @messages), join(' ', 1 .. 10), 'what came meanwhile is sent, nothing else');
is($bridge->stop, 0, 'it ends again');
# (a session that sleeps in pgpubsub.wait is left)
log_is_clean($node, qr{FATAL:  connection to client lost});
done_testing();
