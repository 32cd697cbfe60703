# What bounds streams over HTTP: how long their client may take nothing, and how many
# may have a subscription for what they have missed.

use strict;
use warnings;

use IO::Socket::INET;
use PgPubsub::Gateway;
use PgPubsub::Http;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Socket;
use Test::More;

my $node = new_server('http_limits', conf => "pgpubsub.queue_size = 8MB\n");

$node->safe_psql('postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE ROLE web LOGIN;
	SELECT pgpubsub.set_durable('kept', retain => '1 hour')});

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $user = http_basic('web', 'any');
my $gateway = start_gateway($node, options => [ '--http', "127.0.0.1:$port", '--history', '0', '--client-buffer', '65536', '--server-timeout', '2',
		'--http-heartbeat', '1', '--http-write-timeout', '2', '--max-resumes', '1' ]);

# A connection whose other side soon has nowhere to put what is not read.
sub narrow_connection
{
	my $socket = IO::Socket::INET->new(Proto => 'tcp') or die $!;

	setsockopt $socket, SOL_SOCKET, SO_RCVBUF, 4096 or die $!;
	connect $socket, sockaddr_in($port, inet_aton('127.0.0.1')) or die $!;
	return bless { socket => $socket, buffer => '' }, 'PgPubsub::HttpConnection';
}

# A stream on such a connection, whose head was read.
sub narrow_stream
{
	my ($query, @headers) = @_;
	my $stream = narrow_connection();

	$stream->put(http_request('GET', "/events?$query", [ $user, @headers ]));
	is($stream->head->{status}, 200, "a stream: $query");
	return $stream;
}

sub publish_some
{
	my ($channel, $count) = @_;

	$node->safe_psql('postgres', "SELECT count(pgpubsub.publish('$channel', to_char(i, '0000') || repeat('x', 9995))) FROM generate_series(1, $count) AS i");
	return;
}

# ----------------------------------------------------------------------------
# max-resumes
# ----------------------------------------------------------------------------

my $first = http_stream($port, '/events?channel=kept', [$user]);
publish_some('kept', 1);
my $id = $first->event->{id};
$first->{socket}->close;
publish_some('kept', 1000);
ok($node->poll_query_until('postgres', q{SELECT pending = 0 FROM pgpubsub.stat_subscriptions}), 'the gateway has had a thousand events, and forgotten them');

# The place of one that takes nothing is not its own for ever.
my $holder = narrow_stream('channel=kept', "Last-Event-ID: $id");
is($node->safe_psql('postgres', q{SELECT count(*) FROM pgpubsub.stat_subscriptions}), '2', 'one that takes little has a subscription of its own');
my $waiter = http_connection($port);
$waiter->put(http_request('GET', '/events?channel=kept', [ $user, "Last-Event-ID: $id" ]));
$gateway->wait_for_log(qr/takes nothing \(http-write-timeout\)/);
is($node->safe_psql('postgres', q{SELECT count(*) <= 2 FROM pgpubsub.stat_subscriptions}), 't', 'others wait for that');
my $answer = $waiter->head;
like($answer->{status}, qr/^(?:200|503)$/, 'until it ends, or in vain');
$waiter = http_stream($port, '/events?channel=kept', [ $user, "Last-Event-ID: $id" ]);
is(length $waiter->event->{data}, 10_000, 'then they have theirs') foreach 1 .. 3;
my %kinds;
$kinds{ $waiter->event->{event} }++ foreach 4 .. 1000;
is($kinds{kept}, 997, 'and get all');
$waiter->{socket}->close;
$holder->{socket}->close;
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pgpubsub.stat_subscriptions}), 'none is left over');

# ----------------------------------------------------------------------------
# http-write-timeout
# ----------------------------------------------------------------------------

my $offset = length $gateway->log;
my $stuck = narrow_stream('channel=much');
my $reader = http_stream($port, '/events?channel=much', [$user]);
my $idle = http_stream($port, '/events?channel=little', [$user]);

# (what a reader gets at once has room in its buffer)
foreach my $portion (1 .. 1000)
{
	publish_some('much', 3);
	my @kinds = map { $reader->event->{event} } 1 .. 3;

	die "the reader has got @kinds" if "@kinds" ne 'much much much';
	last if substr($gateway->log, $offset) =~ /takes nothing/;
}
like(substr($gateway->log, $offset), qr/client \d+ \(127\.0\.0\.1:\d+, role web\): closed: it takes nothing \(http-write-timeout\)/, 'a client that takes nothing is closed');
is(scalar(() = substr($gateway->log, $offset) =~ /takes nothing/g), 1, 'and no other');
publish_some('little', 1);
is($idle->event->{event}, 'little', 'one that has nothing to take stays');
$stuck->{socket}->close;

is($gateway->stop, 0, 'the gateway ends well');
unlike($gateway->log, qr/Sanitizer|runtime error/, 'nothing was wrong inside');
done_testing();
