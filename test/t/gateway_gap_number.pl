# What the queue overwrites after a client of the gateway has got it is not lost: a gap's
# number is exact.

use strict;
use warnings;

use IO::Select;
use IO::Socket::UNIX;
use PgPubsub::Gateway;
use PgPubsub::Http;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('gap_number', conf => "pgpubsub.queue_size = 1MB\n");
my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $hold = "$dir/hold";
my $held = "$dir/held";

$node->safe_psql('postgres', q{CREATE EXTENSION pgpubsub; CREATE ROLE web LOGIN});

# Between the gateway and the server: while the file hold is there, whatever matches what
# it says is held back, and the file held tells so.
sub between
{
	my $path = "$dir/.s.PGSQL." . $node->port;
	my $listener = IO::Socket::UNIX->new(Local => $path, Listen => 10) or die "could not listen at $path: $!";
	my $pid = fork;

	die "could not fork: $!" unless defined $pid;
	return $pid if $pid;
	my $select = IO::Select->new($listener);
	my (%peer, %from_gateway, %waiting);

	while (1)
	{
		foreach my $socket ($select->can_read(0.02))
		{
			if ($socket == $listener)
			{
				my $near = $listener->accept;
				my $far = IO::Socket::UNIX->new(Peer => $node->host . '/.s.PGSQL.' . $node->port) or die "no server: $!";

				@peer{ $near, $far } = ($far, $near);
				$from_gateway{$near} = 1;
				$waiting{$near} = '';
				$select->add($near, $far);
				next;
			}
			next unless $socket->opened;
			my $got = sysread $socket, my $bytes, 65536;
			if (!$got)
			{
				$select->remove($socket, $peer{$socket});
				$_->close foreach $peer{$socket}, $socket;
				next;
			}
			my $pattern = -e $hold ? slurp_file($hold) : 'none';

			if ($from_gateway{$socket} && $bytes =~ /$pattern/)
			{
				$waiting{$socket} .= $bytes;
				append_to_file($held, 'held');
				next;
			}
			$peer{$socket}->syswrite($bytes);
		}
		next if -e $hold;
		foreach my $socket (grep { $from_gateway{$_} && length $waiting{$_} } $select->handles)
		{
			$peer{$socket}->syswrite($waiting{$socket});
			$waiting{$socket} = '';
		}
	}
}

my $between = between();
my $port    = PostgreSQL::Test::Cluster::get_free_port();

END { kill 'KILL', $between if $between }

sub publish_some
{
	my ($from, $to, $bytes) = @_;

	$node->safe_psql('postgres', "SELECT count(pgpubsub.publish('news', i || repeat('x', $bytes))) FROM generate_series($from, $to) AS i");
	return;
}

my $gateway = start_gateway($node, options => [ '--http', "127.0.0.1:$port", '--dbname', "host=$dir port=" . $node->port . ' dbname=postgres' ]);
my $stream = http_stream($port, '/events?channel=news', [ http_basic('web', 'any') ]);

append_to_file($hold, 'COMMIT; |pgpubsub\.ack');
publish_some(1, 256, 0);
is(join(' ', map { $stream->event->{data} } 1 .. 256), join(' ', 1 .. 256), 'a client has got 256 events');
ok(wait_until(sub { -e $held }, 'it is held'), 'the server does not know that yet');
publish_some(257, 5000, 1000);
settle($node, 'postgres');
unlink $hold;

my $event = $stream->event;
is($event->{event}, 'gap', 'the queue was full: a gap');
my ($lost) = $event->{data} =~ /^\{"lost":(\d+)\}$/;
$event = $stream->event;
my ($number) = $event->{data} =~ /^(\d+)/;
is($lost, $number - 257, "its number is that of the events that are missing before $number");
while ($number < 5000)
{
	my ($next) = $stream->event->{data} =~ /^(\d+)/;

	$number++;
	last if $next != $number;
}
is($number, 5000, 'and the stream goes on');

# It ends in the middle of that, and its subscription with it.
my $session = open_session($node);

begin_query($session, q{DO $$BEGIN FOR i IN 1 .. 100000 LOOP PERFORM pgpubsub.publish('news', 'more'); COMMIT; END LOOP; END$$});
is($stream->event->{data}, 'more', 'much goes on');
is($gateway->stop, 0, 'the gateway ends well');
is($node->safe_psql('postgres', 'SELECT count(*) FROM pgpubsub.stat_subscriptions'), 0, 'and leaves no subscription');
$node->safe_psql('postgres', "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'DO %'");
end_query($session);
close_session($session);

# What a client has missed, and what the queue loses just when it is to be read: those
# that the gateway itself has are not lost.
unlink $held;
$node->safe_psql('postgres', q{SELECT pgpubsub.subscribe('noise', '{noise}', 'drop')});
$gateway = start_gateway($node, options => [ '--http', "127.0.0.1:$port", '--history', 65536, '--dbname', "host=$dir port=" . $node->port . ' dbname=postgres' ]);
$stream = http_stream($port, '/events?channel=news', [ http_basic('web', 'any') ]);
publish_some(1, 1, 0);
my $id = $stream->event->{id};
publish_some(2, 301, 300);
$stream->event foreach 2 .. 301;
append_to_file($hold, 'payload, lost FROM pgpubsub\.poll');
my $back = http_stream($port, '/events?channel=news', [ http_basic('web', 'any'), "Last-Event-ID: $id" ]);
ok(wait_until(sub { -e $held }, 'it is held'), 'what a client has missed is about to be read');
publish_some(302, 331, 300);
$stream->event foreach 302 .. 331;
$node->safe_psql('postgres', q{SELECT count(pgpubsub.publish('noise', i || repeat('x', 1000))) FROM generate_series(1, 3000) AS i});
publish_some(332, 332, 0);
$stream->event;
unlink $hold;
$event = $back->event;
is("$event->{event} $event->{data}", 'gap {"lost":300}', 'a gap, with the number of those that came before that');
is(join(' ', map { ($back->event->{data} =~ /^(\d+)/)[0] } 302 .. 332), join(' ', 302 .. 332), 'and those that came since');
is($gateway->stop, 0, 'the gateway ends well');
unlike($gateway->log, qr/Sanitizer|runtime error/, 'nothing was wrong inside');
done_testing();
