# What RabbitMQ cannot route, or refuses, or does not let the bridge do: as configured,
# counted, said in one line, and no event is lost.

use strict;
use warnings;

use PgPubsub::Bridge;
use PgPubsub::Broker;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = start_rabbitmq(conf => "max_message_size = 20000\n");
my $node   = new_server('refused');
my $url    = 'amqp://guest:guest@127.0.0.1:' . $broker->port;
my @common = ('--dbname', $node->connstr('postgres'), '--subscription', 's');

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	SELECT pgpubsub.set_durable('*');
	SELECT pgpubsub.subscribe('s', '{a,b}');
});
amqp($broker, 'queue', 'a', '--', 'queue', 'dead', '--', 'exchange', 'there', 'direct');

my $number = 0;

# Publish so many numbers on the channel; them as a string.
sub publish_some
{
	my ($channel, $count) = @_;
	my $from = $number + 1;

	$number += $count;
	$node->safe_psql('postgres', "SELECT count(pgpubsub.publish('$channel', i::text)) FROM generate_series($from, $number) AS i");
	return join ' ', $from .. $number;
}

sub taken { my ($queue, $count) = @_; return join ' ', map { $_->{body} } amqp($broker, 'take', $queue, $count); }
sub acked { return wait_until(sub { $node->safe_psql('postgres', 'SELECT pending FROM pgpubsub.stat_subscriptions') eq '0' }, 'nothing is pending'); }

# No queue
my $bridge   = start_bridge($node, $url);
my $expected = publish_some('a', 3);
is(taken('a', 3), $expected, 'a queue that is there');
my $lost = publish_some('b', 1);
is($bridge->wait_for_end, 4, 'no queue is bound: the bridge stops');
like($bridge->log, qr/error: event \d+ cannot be delivered to "b": 312 NO_ROUTE; the bridge stops/, 'and says so');
is(() = $bridge->log =~ /cannot be delivered/g, 1, 'in one line');
$expected = publish_some('a', 3);

# To the dead-letter place, then on
$bridge = start_bridge($node, $url, options => [ '--on-unroutable', 'dead-letter', '--dead-letter', 'dead' ]);
my ($dead) = amqp($broker, 'take', 'dead', 1);
is($dead->{body}, $lost, 'the dead-letter queue has it');
is($dead->{headers}{reason}, '312 NO_ROUTE', 'with the reason');
is($dead->{headers}{'routing-key'}, 'b', 'and where it was to go');
is(taken('a', 3), $expected, 'and the rest goes on, in order');
ok(acked(), 'all is acknowledged');
is($bridge->metric('dead_lettered_total'), 1, 'counted');

is($bridge->stop, 0, 'the bridge ends');

# A message above the broker's limit, which has it close the channel
$bridge   = start_bridge($node, $url, options => [ '--on-unroutable', 'drop' ]);
$expected = publish_some('a', 50);
$node->safe_psql('postgres', "SELECT pgpubsub.publish('a', repeat('x', 30000))");
$expected .= ' ' . publish_some('a', 50);
ok(acked(), 'a message that is too long: all is acknowledged') or diag $bridge->log;
is($bridge->metric('dropped_total'), 1, 'one message is dropped');
like($bridge->log, qr/cannot be delivered to "a": .*406 PRECONDITION_FAILED.*; it is dropped/, 'and the log says why');
my %seen;
is(join(' ', grep { !$seen{$_}++ } map { $_->{body} } amqp($broker, 'drain', 'a')), $expected, 'all others are there, in order');
is($bridge->stop, 0, 'the bridge ends');

# A queue that is full, one message at a time
amqp($broker, 'queue', 'b', '{"x-max-length": 5, "x-overflow": "reject-publish"}');
$bridge = start_bridge($node, $url, options => [ '--window', '1' ]);
my $offset = length $bridge->log;
$expected = publish_some('b', 20);
$bridge->wait_for_log(qr/does not take event \d+ now: .*nack/, $offset);
is($bridge->metric('broker_state{state="refused"}'), 1, 'a queue that is full');
my @got;
while (@got < 20)
{
	push @got, map { $_->{body} } amqp($broker, 'drain', 'b');
}
is("@got", $expected, 'gets all as it has room, in order');
cmp_ok($bridge->metric('refused_total'), '>', 0, 'refusals are counted');
is($bridge->stop, 0, 'the bridge ends');

# No exchange
like(bridge_says(@common, '--to', $url, '--exchange', 'none', '--check'), qr/^failed: .*404 NOT_FOUND - no exchange 'none'/s, '--check: no such exchange');
is(bridge_says(@common, '--to', $url, '--exchange', 'there', '--check'), "pgpubsub-bridge: all is well\n", '--check: all is well');
like(bridge_says(@common, '--to', $url, '--routing-key', 'none', '--check'), qr/^failed: .*messages cannot go to "none": .*404 NOT_FOUND - no queue 'none'/s, '--check: no such queue');
amqp($broker, 'bind', 'a', 'there', 'a', '--', 'purge', 'a');
$bridge   = start_bridge($node, $url, options => [ '--exchange', 'there' ]);
$expected = publish_some('a', 3);
ok(acked(), 'an exchange that is there');
amqp($broker, 'delete-exchange', 'there');
$expected .= ' ' . publish_some('a', 3);
$bridge->wait_for_log(qr/no connection to the broker: .*404 NOT_FOUND - no exchange 'there'/);
amqp($broker, 'exchange', 'there', 'direct', '--', 'bind', 'a', 'there', 'a');
ok(acked(), 'that has gone, and come again');
is(taken('a', 6), $expected, 'nothing is lost');
is($bridge->stop, 0, 'the bridge ends');

# Passwords and permissions
$broker->ctl('add_user', 'weak', 'secret');
$broker->ctl('set_permissions', 'weak', '', '', '.*');
(my $weak = $url) =~ s/guest:guest/weak:secret/;
(my $wrong = $url) =~ s/guest:guest/weak:wrong/;
like(bridge_says(@common, '--to', $wrong, '--check'), qr/^failed: .*403 ACCESS_REFUSED - Login was refused/s, 'a wrong password');
unlike(bridge_says(@common, '--to', $wrong, '--check'), qr/wrong/, 'which is not shown');
my $file = PostgreSQL::Test::Utils::tempdir() . '/password';
append_to_file($file, "secret\n");
(my $without = $url) =~ s/guest:guest/weak/;
is(bridge_says(@common, '--to', $without, '--password-file', $file, '--check'), "pgpubsub-bridge: all is well\n", 'a password out of a file');
$bridge   = start_bridge($node, $weak);
$expected = publish_some('a', 3);
$bridge->wait_for_log(qr/no connection to the broker: .*403 ACCESS_REFUSED/);
cmp_ok($bridge->metric('broker_failures_total'), '<', 20, 'no permission: it tries again, not all the time');
$broker->ctl('set_permissions', 'weak', '', '.*', '.*');
ok(acked(), 'and goes on with one');
is(taken('a', 3), $expected, 'nothing is lost');

# A broker out of memory says that it blocks.
$offset = length $bridge->log;
$broker->ctl('set_vm_memory_high_watermark', '0.0000001');
$expected = publish_some('a', 3);
$bridge->wait_for_log(qr/the broker takes nothing for now: low on memory/, $offset);
$bridge->wait_for_metric('broker_state{state="blocked"}', 1);
$expected .= ' ' . publish_some('a', 1000);
$broker->ctl('set_vm_memory_high_watermark', '0.4');
is(taken('a', 1003), $expected, 'a broker without memory: the bridge waits, and goes on');
ok(acked(), 'all is acknowledged');
is($bridge->stop, 0, 'the bridge ends');
server_is_sound($node);
done_testing();
