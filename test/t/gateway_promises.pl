# What two gateways on one server promise, while their connections to it are ended again
# and again: a NOTIFY that is confirmed is committed, and a LISTEN that is
# confirmed is effective, also for what is notified through the other; both give
# their clients the same events in the same order, each once.
#
# GATEWAY_ROUNDS is how many times: 300 by default.

use strict;
use warnings;

use PgPubsub::Gateway;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $rounds = $ENV{GATEWAY_ROUNDS} // 300;
my $node = new_server('promises', conf => "log_statement = none\npgpubsub.queue_size = 64MB\n");

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE ROLE gateway LOGIN;
	GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgpubsub TO gateway;
});

my @gateways = map { start_gateway($node, user => 'gateway', options => [ '--name', $_, '--client-buffer', 64 * 1024 * 1024 ]) } 'one', 'other';
my $server = client($node);

sub heard
{
	my ($client) = @_;
	my $message = $client->next_message;

	return 'the end' unless $message;
	return $client->show($message) unless $message->[0] eq 'A';
	return join ' ', (unpack 'N Z* Z*', $message->[1])[ 1, 2 ];
}

# End a session of a gateway: the one that reads events, or the one for commands.
sub end_session
{
	my ($name, $reads) = @_;

	$server->run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgpubsub-gateway $name' AND"
		  . ($reads ? '' : ' NOT') . " EXISTS (SELECT FROM pg_locks l WHERE l.pid = pg_stat_activity.pid AND locktype = 'advisory')");
	return;
}

# LISTEN at one, NOTIFY at the other at once (whose session for commands stays, as the
# outcome of a NOTIFY would be unknown)
my ($listener, $notifier) = map { raw_login($_) } @gateways;
my @missed;

foreach my $i (1 .. $rounds)
{
	my $channel = 'c' . ($i % 2 ? $i : 'ommon');

	end_session('one', $i % 3) if $i % 100 == 0;
	end_session('other', 1) if $i % 100 == 50;
	push @missed, "$i: no LISTEN" if $listener->show($listener->query("LISTEN $channel")) ne "C LISTEN\nZ I";
	push @missed, "$i: no NOTIFY" if $notifier->show($notifier->query("NOTIFY $channel, '$i'")) ne "C NOTIFY\nZ I";
	push @missed, $i if heard($listener) ne "$channel $i";
	$listener->query("UNLISTEN $channel");
}
is("@missed", '', "$rounds times, what one gateway's client notifies reaches the other's, who has just listened");

# Many NOTIFYs: two clients at each, who have their channels in common
my @listeners = map { raw_login($_) } @gateways;
my @notifiers = map { raw_login($_) } @gateways, @gateways;
my %fate;

$_->query('LISTEN p; LISTEN q') foreach @listeners;
foreach my $i (1 .. $rounds)
{
	foreach my $n (0 .. $#notifiers)
	{
		$notifiers[$n]->put(message('Q', 'NOTIFY ' . ($i % 3 ? 'p' : 'q') . ", '$n.$i'\0"));
	}
	end_session($i % 40 ? 'one' : 'other', $i % 60 == 0) if $i % 20 == 0;
	foreach my $n (0 .. $#notifiers)
	{
		$fate{"$n.$i"} = $notifiers[$n]->show($notifiers[$n]->read_until('Z'));
	}
}
my %count;
$count{$_}++ foreach map { /^C NOTIFY\nZ I$/ ? 'confirmed' : /^E ERROR 08007 / ? 'unknown' : $_ } values %fate;
is(join(' ', sort grep { !/^(?:confirmed|unknown)$/ } keys %count), '', 'each NOTIFY is confirmed, or its outcome is unknown');
note join ', ', map { "$count{$_} $_" } sort keys %count;
cmp_ok($count{confirmed}, '>', $rounds, 'most are confirmed');
$server->run(q{NOTIFY p, 'the last'});

my @heard = map {
	my ($client, @all) = $_;
	while (1)
	{
		my $event = heard($client);

		last if $event !~ /^[pq] [0-9]/;
		push @all, $event;
	}
	\@all;
} @listeners;

# Order is promised for each channel: the two are compared one by one.
foreach my $channel ('p', 'q')
{
	my ($one, $other) = map { join ' ', grep { /^$channel/ } @$_ } @heard;

	ok($one eq $other, "both gateways give the same in the same order: channel $channel");
}
my (%times, %latest, @disorder);
foreach my $event (@{ $heard[0] })
{
	my ($channel, $n, $i) = $event =~ /^(.) (\d+)\.(\d+)$/;

	$times{"$n.$i"}++;
	push @disorder, $event if $i <= ($latest{"$channel $n"} // 0);
	$latest{"$channel $n"} = $i;
}
is("@disorder", '', 'in the order of their commits');
is(join(' ', grep { $times{$_} > 1 } sort keys %times), '', 'each once');
is(join(' ', grep { $fate{$_} =~ /^C/ && !$times{$_} } sort keys %fate), '', 'and all that were confirmed');

foreach my $gateway (@gateways)
{
	is($gateway->stop, 0, 'a gateway ends well');
	unlike($gateway->log, qr/Sanitizer|runtime error/, 'nothing was wrong inside');
}
done_testing();
