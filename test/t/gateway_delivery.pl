# Events reach those who listen: all of them, once, in order, from the moment
# at which LISTEN is confirmed, and not within a transaction.  Who does not read
# is told so, and disturbs nobody.

use strict;
use warnings;

use IO::Select;
use PgPubsub::Gateway;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('delivery', conf => "max_connections = 100\nlog_statement = none\n");

prepare_server($node);

my $gateway = start_gateway($node, user => 'gateway', options => [ '--client-buffer', '65536', '--max-channels', '400' ]);
my $server  = client($node);

# The next notification: channel and payload.
sub heard
{
	my ($client) = @_;
	my $message = $client->next_message;

	return 'the end' unless $message;
	return $client->show($message) unless $message->[0] eq 'A';
	return join ' ', (unpack 'N Z* Z*', $message->[1])[ 1, 2 ];
}

# Those whose channels all have.
my ($one, $two, $three) = map { raw_login($gateway) } 1 .. 3;

$_->query('LISTEN news') foreach $one, $two;
$three->query('LISTEN weather');
$server->run(q{NOTIFY news, 'native'});
my $message = $one->next_message;
is_deeply([ unpack 'N Z* Z*', $message->[1] ], [ $server->{pid}, 'news', 'native' ], "a notification, with its sender's pid");
is(heard($two), 'news native', 'reaches all who listen');
$server->run(q{SELECT pgpubsub.publish('weather', 'rain')});
is(heard($three), 'weather rain', 'an event reaches who listens to its channel');
is($one->next_message(0), '', 'and nobody else');
$one->query(q{NOTIFY weather, 'sun'});
$message = $three->next_message;
is_deeply([ unpack 'N Z* Z*', $message->[1] ], [ $one->{pid}, 'weather', 'sun' ], "a client's, with its pid");

# Not in a transaction, and not before Sync
$one->query('BEGIN');
$server->run(q{NOTIFY news, 'in block'});
is(heard($two), 'news in block', 'another client gets it');
is($one->next_message(0.1), '', 'one that is in a transaction does not');
is($one->show($one->query('COMMIT')), "C COMMIT\nA other news in block\nZ I", 'until it ends');
$one->put(parse_message('', 'SELECT 1') . message('H', ''));
is($one->show($one->next_message), '1 ', 'a batch has begun');
$server->run(q{NOTIFY news, 'in batch'});
is(heard($two), 'news in batch', 'another client gets it');
is($one->next_message(0.1), '', 'one that is in a batch does not');
is($one->show($one->talk(message('S', ''))), "A other news in batch\nZ I", 'until Sync');

# A LISTEN that is confirmed is effective, whether or not others listen.
my @missed;
my $count = $ENV{GATEWAY_LISTENS} // 300;
my $listener = raw_login($gateway);

foreach my $i (1 .. $count)
{
	my $channel = 'c' . ($i % 2 ? $i : 'ommon');

	$listener->query("LISTEN $channel");
	$server->run("NOTIFY $channel, '$i'");
	push @missed, $i if heard($listener) ne "$channel $i";
	$listener->query("UNLISTEN $channel") if $i % 2 == 0 || $i > 300;
}
is("@missed", '', "$count times, what is notified right after LISTEN arrives");
like($listener->show($listener->query(join ';', map { "LISTEN d$_" } 1 .. 400)),
	qr/^(?:C LISTEN\n)+E ERROR 53400 too many channels.*\nZ I$/s, 'max-channels');

# Many listeners, many events: all, in order.
my @many = map { raw_login($gateway) } 1 .. 200;

$_->put(message('Q', "LISTEN busy\0")) foreach @many;
$_->read_until('Z') foreach @many;
$server->run(q{SELECT count(pg_notify('busy', i::text)) FROM generate_series(1, 300) AS i});
my $wrong = 0;
foreach my $client (@many)
{
	my @got = map { heard($client) } 1 .. 300;

	$wrong++ if join(',', @got) ne join(',', map { "busy $_" } 1 .. 300);
}
is($wrong, 0, '200 clients get 300 events each, in order');

# One that does not read
my $slow = pop @many;
my $sent = 0;
my $log_offset = length $gateway->log;

while (substr($gateway->log, $log_offset) !~ /it is too slow/ && $sent < 20_000)
{
	$server->run("SELECT count(pg_notify('busy', i || repeat(' ', 1000))) FROM generate_series(1, 100) AS i");
	$sent += 100;
	foreach my $client (@many)
	{
		heard($client) foreach 1 .. 100;
	}
}
like(substr($gateway->log, $log_offset), qr/too slow/, "who does not read is found out, after $sent events");
@missed = $slow->read_until('E');
is($missed[-1][0], 'E', 'and is told');
like($slow->show($missed[-1]), qr/^E FATAL 53400 terminating connection because the client is too slow/, 'what has happened');
is($slow->next_message, undef, 'as the last thing');
is(scalar(grep { $_->[0] ne 'A' && $_->[0] ne 'E' } @missed), 0, 'all that it has got before are whole messages');
$server->run(q{NOTIFY busy, 'last'});
is(scalar(grep { my $c = $_; my $last; do { $last = heard($c) } until $last =~ /last|end/; $last eq 'busy last' } @many),
	scalar @many, 'the others were not disturbed');

# Half-closed: the answer comes before the end.
my $half = raw_login($gateway);
$half->put(message('Q', "LISTEN half\0") . message('Q', "NOTIFY half, 'x'\0"));
shutdown $half->{socket}, 1;
is($half->show($half->read_until('none')), "C LISTEN\nZ I\nC NOTIFY\nA own half x\nZ I", 'a client that has ended its side gets its answers');

# Cancel
my ($commands) = $server->run(q{SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT%pg_notify($1, $2)%' AND usename = 'gateway'});
my $waiting = raw_login($gateway);

freeze_process($commands->[0]);
$waiting->put(message('Q', "LISTEN stopped\0"));
is($waiting->next_message(0.2), '', 'a LISTEN that cannot be effective yet is not confirmed');
my $cancel = raw_client($gateway);
$cancel->put(message('', pack('NNN', 80877102, $waiting->{pid}, $waiting->{key} ^ 1)));
is($cancel->next_message, undef, 'a cancel request with a wrong key');
is($waiting->next_message(0.2), '', 'does nothing');
$cancel = raw_client($gateway);
$cancel->put(message('', pack('NNN', 80877102, $waiting->{pid}, $waiting->{key})));
is($waiting->show($waiting->read_until('Z')), "E ERROR 57014 canceling statement due to user request\nZ I", 'with the right one it ends the wait');
kill 'CONT', $commands->[0];
is($waiting->show($waiting->query('LISTEN stopped')), "C LISTEN\nZ I", 'and the session goes on');

# Channels that nobody wants leave the subscription.
undef $_ foreach @many, $one, $two, $three, $listener, $waiting, $slow, $half;
@many = ();
ok( wait_until(
		sub { $server->value('SELECT channels FROM pgpubsub.stat_subscriptions') eq '{}' },
		'no channels'),
	'when all have gone, the subscription has no channels');

is($gateway->stop, 0, 'the gateway ends well');
done_testing();
