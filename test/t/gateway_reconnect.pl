# The gateway comes back by itself, whatever becomes of its connections and of the
# server.  What can be had is delivered, once and in order; who has missed events
# is told so; and what nobody can know about a NOTIFY is said.

use strict;
use warnings;

use PgPubsub::Gateway;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('reconnect', conf => "restart_after_crash = on\n");

prepare_server($node, sql => q{
	SELECT pgpubsub.set_durable('kept*');
});

my $gateway = start_gateway($node, user => 'gateway', options => [ '--server-timeout', '60' ]);

sub heard
{
	my ($client) = @_;
	my $message = $client->next_message;

	return 'the end' unless $message;
	return $client->show($message) unless $message->[0] eq 'A';
	return (unpack 'N Z* Z*', $message->[1])[2];
}

# The pids of the gateway's two sessions: stream and commands.
sub sessions
{
	return split /\n/,
	  $node->safe_psql('postgres',
		q{SELECT a.pid FROM pg_stat_activity a LEFT JOIN pg_locks l ON l.pid = a.pid AND l.locktype = 'advisory'
		  WHERE a.usename = 'gateway' AND a.application_name LIKE 'pgpubsub-gateway%' ORDER BY l.pid IS NULL});
}

# Publish so many numbers.
my $number = 0;

sub publish_some
{
	my ($channel, $count) = @_;
	my $from = $number + 1;

	$number += $count;
	$node->safe_psql('postgres', "SELECT count(pgpubsub.publish('$channel', i::text)) FROM generate_series($from, $number) AS i");
	return join ' ', $from .. $number;
}

my $client = raw_login($gateway);
my ($expected, $offset);

$client->query('LISTEN news');

# The stream's session ends.
foreach my $round (1 .. 3)
{
	my ($stream) = sessions();

	$offset = length $gateway->log;
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($stream)");
	$expected = publish_some('news', 50);
	is(join(' ', map { heard($client) } 1 .. 50), $expected, "the stream's session ended, round $round: nothing is lost, nothing comes twice");
	$gateway->wait_for_log(qr/subscription .* stands/, $offset);
}
is($client->show($client->query('SELECT 1')), "T ?column?:23:4:0\nD 1\nC SELECT 1\nZ I", 'the client has not noticed');

# The session for commands ends while nothing is going on.
my (undef, $commands) = sessions();

$offset = length $gateway->log;
$node->safe_psql('postgres', "SELECT pg_terminate_backend($commands)");
$gateway->wait_for_log(qr/connection for commands is lost/, $offset);
is($client->show($client->query("NOTIFY news, 'again'")), "C NOTIFY\nA own news again\nZ I", 'a NOTIFY waits for the next one');

# It ends while it has a NOTIFY: nobody knows.
(undef, $commands) = sessions();
freeze_process($commands);
$client->put(message('Q', "NOTIFY news, 'unknown'\0"));
is($client->next_message(0.2), '', 'a NOTIFY that the server does not answer is not confirmed');
kill 'KILL', $commands;
my @messages = $client->read_until('Z');
like($client->show(@messages), qr/^E ERROR 08007 the outcome of the transaction is unknown\n/, 'one that was with a session that has died fails so')
  or diag($gateway->log);

# Such a death has the server start anew: events of durable channels are kept.
like($client->show($client->read_until('E')), qr{^E FATAL 57P05}, 'the crash has made a gap');

my $durable = raw_login($gateway);
my $plain   = raw_login($gateway);

$durable->query('LISTEN kept');
ok(wait_until(sub { $node->safe_psql('postgres', "SELECT channels FROM pgpubsub.stat_subscriptions") eq '{kept}' }, 'only that channel'),
	'the subscription has the client\'s channel alone');
$expected = publish_some('kept', 10);
is(join(' ', map { heard($durable) } 1 .. 10), $expected, 'a durable channel');
$offset = length $gateway->log;
$node->restart;
$expected = publish_some('kept', 10);
is(join(' ', map { heard($durable) } 1 .. 10), $expected, 'goes on over a restart of the server, in the same connection');
$node->stop('immediate');
$durable->put(message('Q', "LISTEN kept2\0"));
is($durable->next_message(0.2), '', 'without a server, a LISTEN is not confirmed');
$node->start;
is($durable->show($durable->read_until('Z')), "C LISTEN\nZ I", 'but waits for it');
$expected = publish_some('kept', 10);
is(join(' ', map { heard($durable) } 1 .. 10), $expected, 'nothing is lost');

# Channels that are not durable have a gap then, and whoever listens is told.
$plain->query('LISTEN news');
$node->restart;
like($plain->show($plain->read_until('E')), qr/^E FATAL 57P05 terminating connection because notifications were lost/, 'who listens to another channel is told of the gap');

# A new login after the restart
$client = raw_login($gateway);
is($client->show($client->query("LISTEN news; NOTIFY news, 'x'")), "C LISTEN\nC NOTIFY\nA own news x\nZ I", 'and may come back');

# A relay that ends makes a gap, too.
kill_relay($node, 'postgres');
like($client->show($client->read_until('E')), qr/^E FATAL 57P05/, 'a relay that ends: a gap');

# A second gateway with the same name waits.
my ($name) = $node->safe_psql('postgres', 'SELECT subscription FROM pgpubsub.stat_subscriptions');
my $twin = start_gateway($node, user => 'gateway', ready => 0, options => [ '--name', $name ]);

$twin->wait_for_log(qr/another gateway has this name/);
$client = raw_login($gateway);
is($client->show($client->query("LISTEN news; NOTIFY news, 'x'")), "C LISTEN\nC NOTIFY\nA own news x\nZ I", 'a second gateway of the name does no harm');
is($gateway->stop, 0, 'the first ends');
like($client->show($client->read_until('E')), qr/^E FATAL 57P01 terminating connection due to administrator command/, 'and says so to its clients');
$twin->wait_for_log(qr/is ready/);
$client = raw_login($twin);
is($client->show($client->query("LISTEN news; NOTIFY news, 'x'")), "C LISTEN\nC NOTIFY\nA own news x\nZ I", 'then the second takes over');

# Two gateways agree.
my $third = start_gateway($node, user => 'gateway');
my $other = raw_login($third);

$other->query('LISTEN news');
is($client->show($client->query("NOTIFY news, 'both'")), "C NOTIFY\nA own news both\nZ I", 'a NOTIFY through one gateway');
is(heard($other), 'both', 'is heard through the other');

is($_->stop, 0, 'a gateway ends well') foreach $twin, $third;
done_testing();
