# What a client over HTTP has missed it gets when it comes back, from the gateway's
# memory, from the server's queue, or from the log, with none lost and none twice;
# and where that cannot be, or it is too slow, it is told how many are missing.

use strict;
use warnings;

use IO::Select;
use PgPubsub::Gateway;
use PgPubsub::Http;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('resume', conf => "pgpubsub.queue_size = 1MB\n");

prepare_server($node, sql => q{
	CREATE ROLE web LOGIN;
	SELECT pgpubsub.set_durable('kept*', retain => '1 hour');
});

# (the server lets everybody in, and the gateway too)
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $user = http_basic('web', 'any');
my $gateway;

sub begin_gateway
{
	$gateway = start_gateway($node, user => 'gateway', options => [ '--http', "127.0.0.1:$port", '--name', 'gateway', @_ ]);
	return;
}

sub stream
{
	my ($query, $id) = @_;

	return http_stream($port, "/events?$query", [ $user, defined $id ? "Last-Event-ID: $id" : () ]);
}

# Publish so many numbers, each in front of some bytes.
my $number = 0;

sub publish_some
{
	my ($channel, $count, $bytes) = @_;
	my $from = $number + 1;

	$bytes //= 0;
	$number += $count;
	$node->safe_psql('postgres', "SELECT count(pgpubsub.publish('$channel', i || repeat('x', $bytes))) FROM generate_series($from, $number) AS i");
	return $from;
}

# Read events up to that number; what they say, in short, and the last id.
sub read_to
{
	my ($stream, $last) = @_;
	my ($text, $expected, $lost, $id) = ('', undef, 0);

	while (1)
	{
		my $event = $stream->event;

		$id = $event->{id};
		if ($event->{event} eq 'gap')
		{
			my ($missing) = $event->{data} =~ /^\{"lost":(\d+)\}$/ or return ("a gap: $event->{data}", $id);

			$lost += $missing;
			$expected += $missing if defined $expected;
			$text .= 'gap ';
			next;
		}
		my ($this) = $event->{data} =~ /^(\d+)/;

		$text .= (defined $expected ? "missing $expected.." : '') . "$this.." if !defined $expected || $this != $expected;
		$expected = $this + 1;
		last if $this >= $last;
	}
	return ("$text$last", $id, $lost);
}

# From memory
begin_gateway();
my $stream = stream('channel=news&channel=kept');

publish_some('news', 5);
publish_some('kept', 5);
my ($text, $id) = read_to($stream, 10);
is($text, '1..10', 'a stream');
undef $stream;
publish_some('news', 100);
($text) = read_to(stream('channel=kept&channel=news', $id), 110);
is($text, '11..110', 'from memory');
is($node->safe_psql('postgres', 'SELECT count(*) FROM pgpubsub.stat_subscriptions'), 1, 'without a subscription of its own');

# From the server's queue: a gateway without a memory.
is($gateway->stop, 0, 'the gateway ends');
begin_gateway('--history', 0);
my $keeper = stream('channel=news&channel=kept&channel=new*');
my $first = publish_some('news', 100);
($text) = read_to($keeper, 210);
is($text, "$first..210", 'a stream');
$keeper = stream('channel=news&channel=kept&channel=new*');
$first = publish_some('news', 1);
my ($only, $start) = read_to($keeper, $first);
publish_some('news', 99);
$stream = stream('channel=news&channel=kept', $start);
publish_some('news', 50);
($text) = read_to($stream, 360);
is($text, '212..360', 'from the queue, and on with what comes');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pgpubsub.stat_subscriptions}), 'the subscription of its own is dropped');
$stream = stream('channel=new*', $start);
($text) = read_to($stream, 360);
is($text, '212..360', 'by a pattern');
is(http_ask($port, 'GET', '/events?channel=news&lastEventId=9' . $start, [$user])->{status}, 400, 'of the future');

# what came while nobody was subscribed the server has never had
undef $_ foreach $stream, $keeper;
is($gateway->stop, 0, 'the gateway ends');
publish_some('news', 10);
begin_gateway();
my $event = stream('channel=news', $start)->event;
is("$event->{event} $event->{data} $event->{id}", qq(gap {"lost":null} $start), 'a channel that nobody was subscribed to meanwhile: nobody knows');

# From the log: the server was restarted, and the queue with it; and the gateway.
$stream = stream('channel=kept');
$first = publish_some('kept', 1);
($text, $id) = read_to($stream, $first);
undef $stream;
is($gateway->stop, 0, 'the gateway ends');
publish_some('kept', 1000, 3000);
$node->restart;
begin_gateway();
publish_some('kept', 10);
($text, $id) = read_to(stream('channel=kept', $id), $number);
is($text, ($first + 1) . "..$number", 'from the log, after a restart');

# Not whole: the queue had them, and they are gone.
$keeper = stream('channel=news');
$first = publish_some('news', 1);
($text, $id) = read_to($keeper, $first);
is($gateway->stop, 0, 'the gateway ends');
begin_gateway('--history', 0);
$keeper = stream('channel=news');
$first = publish_some('news', 1);
($text, $id) = read_to($keeper, $first);
publish_some('news', 3000, 1000);
read_to($keeper, $number);
$event = stream('channel=news', $id)->event;
is($event->{event}, 'gap', 'events that are gone: a gap comes first');
like($event->{data}, qr/^\{"lost":(null|2\d{3})\}$/, 'with their number, if the server knows it');
cmp_ok($event->{id}, '>', $id, 'and the seq that resumes');

# Too slow
is($gateway->stop, 0, 'the gateway ends');
begin_gateway('--client-buffer', 65536, '--history', 65536);
$stream = stream('channel=fast');
$first = publish_some('fast', 1, 10);

# (in portions that the server's queue holds, so that the gateway itself loses none)
my $waits = 0;

foreach (1 .. 60)
{
	publish_some('fast', 200, 2000);
	$waits += $node->poll_query_until('postgres', q{SELECT pending = 0 FROM pgpubsub.stat_subscriptions WHERE subscription = 'gateway'});
}
is($waits, 60, 'the gateway does not wait for a slow client');
like(http_ask($port, 'GET', '/metrics')->{body}, qr/^pgpubsub_gateway_dropped_total [1-9]/m, 'what a slow client loses is counted');
publish_some('fast', 1);
($text, $id, my $lost) = read_to($stream, $number);
like($text, qr/^$first\.\.(gap )+$number$/, 'too slow: gaps, whose numbers are exact');
cmp_ok($lost, '>', 0, "$lost events");
$first = publish_some('fast', 10);
($text) = read_to($stream, $number);
is($text, "$first..$number", 'and the stream goes on');

# The server is away
$node->stop('immediate');
$gateway->wait_for_log(qr/connection for events is lost/);
is(http_ask($port, 'GET', '/healthz')->{status}, 503, '/healthz: the server is away');
like(http_ask($port, 'GET', '/metrics')->{body}, qr/^pgpubsub_gateway_upstream_up 0$/m, 'metrics say so, too');
$node->start;
wait_until(sub { http_ask($port, 'GET', '/healthz')->{status} == 200 }, '/healthz: it is back');
is(http_ask($port, 'GET', '/healthz')->{status}, 200, '/healthz: it is back');
$event = $stream->event;
is("$event->{event} $event->{data}", 'gap {"lost":null}', 'a stream is told that events may be missing');
$first = publish_some('fast', 10);
($text) = read_to($stream, $number);
is($text, "$first..$number", 'and goes on');

is($gateway->stop, 0, 'the gateway ends well');
unlike($gateway->log, qr/Sanitizer|runtime error/, 'nothing was wrong inside');
done_testing();
