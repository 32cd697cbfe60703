# The server stands still, or the network is cut so that neither side is told, for a
# second and for a minute: the gateway comes back by itself.  Clients of durable
# channels get everything once, over the same connection; the others are told
# exactly what the queue has lost meanwhile, and if it has lost nothing, they
# miss nothing.
#
# GATEWAY_CUT is how many seconds the long ones last: 60 by default, so that all
# time-outs are the real ones.

use strict;
use warnings;

use PgPubsub::Network;

use PgPubsub::Gateway;
use PgPubsub::Http;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $long = $ENV{GATEWAY_CUT} // 60;
my $network = network_is_there();
my $port = PostgreSQL::Test::Cluster::get_free_port();

diag('no network of our own can be had: only what stands still is tested') unless $network;

# What a client gets: payloads, as far as they are numbers, and how it ends.
sub heard
{
	my ($client) = @_;
	my $message = $client->next_message;

	return 'the end' unless $message;
	return $client->show($message) unless $message->[0] eq 'A';
	return ((unpack 'N Z* Z*', $message->[1])[2] =~ /^(\d+)/)[0];
}

# Let so much time pass.
sub let_pass
{
	my ($seconds) = @_;
	my $end = time + $seconds;

	return wait_until(sub { time >= $end }, "$seconds s");
}

# A server with two gateways: one whose channels are all durable, and one with
# another, which has clients over both protocols.
sub start
{
	my ($name, %params) = @_;
	my $node = new_server($name, conf => "pgpubsub.queue_size = 1MB\nlog_statement = none\n", start => 0);
	my %self = (node => $node, number => 0);
	my $far = $params{far} // '127.0.0.1';

	if ($params{near})
	{
		$node->append_conf('postgresql.conf', "listen_addresses = '$params{near}'");
		$node->append_conf('pg_hba.conf', "host all all $params{far}/32 trust");
	}
	$node->start;
	$node->safe_psql(
		'postgres', q{
		CREATE EXTENSION pgpubsub;
		CREATE ROLE gateway LOGIN;
		CREATE ROLE web LOGIN;
		GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgpubsub TO gateway;
		SELECT pgpubsub.set_durable('kept');
	});
	my @server = $params{near} ? ('--dbname', "host=$params{near} port=" . $node->port . ' dbname=postgres user=gateway') : ();

	foreach my $which ('kept', 'news')
	{
		$self{$which} = start_gateway($node, user => 'gateway', by => $params{by},
			options => [ @server, '--name', "for_$which", '--client-buffer', 64 * 1024 * 1024, $which eq 'news' ? ('--http', "$params{http}:$port") : () ]);
	}
	foreach my $channel ('kept', 'news')
	{
		$self{clients}{$channel} = raw_login($self{$channel});
		$self{clients}{$channel}->query("LISTEN $channel");
	}
	$self{stream} = http_stream("$params{http}:$port", '/events?channel=news', [ http_basic('web', 'any') ]);

	# the gateway's own channel, which is not durable, leaves
	wait_until(
		sub { $node->safe_psql('postgres', "SELECT channels FROM pgpubsub.stat_subscriptions WHERE subscription = 'for_kept'") eq '{kept}' },
		'a subscription with durable channels alone');
	return \%self;
}

# The pids of a gateway's two sessions: stream and commands.
sub sessions
{
	my ($self, $name) = @_;

	return split /\n/,
	  $self->{node}->safe_psql('postgres',
		qq{SELECT a.pid FROM pg_stat_activity a LEFT JOIN pg_locks l ON l.pid = a.pid AND l.locktype = 'advisory'
		  WHERE a.application_name = 'pgpubsub-gateway for_$name' ORDER BY l.pid IS NULL});
}

# Publish so many numbers on both channels; bytes: how large each is.
sub publish_some
{
	my ($self, $count, $bytes) = @_;
	my $from = $self->{number} + 1;

	$self->{number} += $count;
	$self->{node}->safe_psql('postgres', "SELECT count(pgpubsub.publish(c, i || repeat('x', " . ($bytes // 0) . ")))"
		  . " FROM generate_series($from, $self->{number}) AS i, unnest('{kept,news}'::text[]) AS c");
	return ($from .. $self->{number});
}

# Everybody gets these numbers, and nothing between them.
sub all_hear
{
	my ($self, $name, @numbers) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(join(' ', map { heard($self->{clients}{kept}) } @numbers), "@numbers", "$name: the durable channel");
	is(join(' ', map { heard($self->{clients}{news}) } @numbers), "@numbers", "$name: the other one");
	is(join(' ', map { ($self->{stream}->event->{data} =~ /^(\d+)/)[0] // 'a gap' } @numbers), "@numbers", "$name: over HTTP");
	return;
}

# All processes of the server.
sub processes
{
	my ($node) = @_;

	return ($node->{_pid}, grep { (PgPubsub::Process::process_state($_))[1] == $node->{_pid} } map { m{/(\d+)/stat$} } glob '/proc/[0-9]*/stat');
}

my $still = start('still', http => '127.0.0.1');
my $cut = $network ? start('cut', near => network_near(), far => network_far(), http => network_for_clients(), by => [ network_far_command() ]) : undef;

all_hear($_, 'before', publish_some($_, 10)) foreach grep { defined } $still, $cut;

# For a second: nobody notices.
my @backends = map { sessions($still, $_) } 'kept', 'news';
is(scalar @backends, 4, 'the sessions of two gateways');
freeze_process($_) foreach @backends;
network_cut() if $network;
my %numbers = map { $_ => [ publish_some($_, 50) ] } grep { defined } $still, $cut;
let_pass(1);
kill 'CONT', @backends;
network_mend() if $network;
all_hear($still, 'sessions that stood still for a second', @{ $numbers{$still} });
all_hear($cut, 'a network that was cut for a second', @{ $numbers{$cut} }) if $network;
unlike($_->log, qr/is lost/, 'no connection was given up') foreach grep { defined } map { ($_->{kept}, $_->{news}) } grep { defined } $still, $cut;

# For a minute.  The gateway of durable channels asks for events just then, and its
# question does not arrive: nothing is under way that the server could miss.
my %offset = map { $_ => length $_->log } map { ($_->{kept}, $_->{news}) } grep { defined } $still, $cut;
my ($stream) = $network ? sessions($cut, 'kept') : ();
my $before = 0;
if ($network)
{
	freeze_process($cut->{kept}{pid});
	$before = (publish_some($cut, 1))[0];
	ok(wait_until(sub { $cut->{node}->safe_psql('postgres', "SELECT state FROM pg_stat_activity WHERE pid = $stream") =~ /^idle/ }, 'the answer'),
		'the server has answered a gateway, which has not asked again');
	is(heard($cut->{clients}{news}), $before, 'the other gateway has its event');
	$cut->{stream}->event;
	network_cut();
	kill 'CONT', $cut->{kept}{pid};
}
my @all = processes($still->{node});
freeze_process($_) foreach @all;
my $end = time + $long;

$still->{clients}{kept}->put(message('Q', "NOTIFY unheard, '0'\0"));
%numbers = ();
$numbers{$cut} = [ publish_some($cut, 3000, 1000) ] if $network;
foreach my $gateway (grep { defined } map { ($_->{kept}, $_->{news}) } grep { defined } $still, $cut)
{
	$gateway->wait_for_log(qr/the connection for events is lost/, $offset{$gateway});
}
is(join(' ', map { $_->[0] } grep { ref } $still->{clients}{kept}->next_message), 'E', 'a NOTIFY whose outcome is unknown')
  if $long >= 40;
ok( wait_until(
		sub { $cut->{node}->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $stream") eq '0' },
		'the end of a session'),
	'the server ends a session whose gateway is out of reach') if $network;
let_pass($end - time) if $end > time;
kill 'CONT', @all;
network_mend() if $network;
my $mended = time;

if ($network)
{
	is(join(' ', map { heard($cut->{clients}{kept}) } $before, @{ $numbers{$cut} }), "$before @{ $numbers{$cut} }",
		'after a long cut: the durable channel, of which the queue has lost much');
	note sprintf 'after %.1f s', time - $mended;
	my @ended = grep { $_->[0] eq 'E' } $cut->{clients}{news}->read_until('E');
	my ($told) = @ended ? $ended[0][1] =~ /\0C57P05\0.*\0D(\d+) events of the gateway's channels were lost\./s : ();
	my $event = $cut->{stream}->event;
	my ($lost) = $event->{event} eq 'gap' ? $event->{data} =~ /"lost":(\d+)/ : ();
	is($told, $lost, 'the other client is told how many events were lost');
	my @rest = map { ($cut->{stream}->event->{data} =~ /^(\d+)/)[0] } 1 .. 3000 - ($lost // 0);
	is("@rest", join(' ', splice(@{ $numbers{$cut} }, $lost)), 'as is the stream, exactly, and it gets the others');
	$cut->{clients}{news} = raw_login($cut->{news});
	$cut->{clients}{news}->query('LISTEN news');
	all_hear($cut, 'then all goes on', publish_some($cut, 20));
}
if ($long >= 40)
{
	$still->{clients}{kept}->read_until('Z');
	my $next = $still->{clients}{kept}->next_message(0);
	is($next, '', 'and no more is said of it');
}
my @numbers = publish_some($still, 20);
all_hear($still, 'a server that has stood still for long', @numbers);
note sprintf 'after %.1f s', time - $mended;

foreach my $gateway (grep { defined } map { ($_->{kept}, $_->{news}) } grep { defined } $still, $cut)
{
	is($gateway->stop, 0, 'a gateway ends well');
	unlike($gateway->log, qr/Sanitizer|runtime error/, 'nothing was wrong inside');
}
done_testing();
