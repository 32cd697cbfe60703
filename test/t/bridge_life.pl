# Two bridges of one subscription, bridges of several, a look at the subscription by
# hand, gaps, a server that goes and comes.

use strict;
use warnings;

use JSON::PP;
use PgPubsub::Bridge;
use PgPubsub::Broker;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = start_redis();
my $node   = new_server('life', conf => "restart_after_crash = on\npgpubsub.queue_size = '1MB'\n");
my $url    = 'redis://127.0.0.1:' . $broker->port;

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE ROLE other LOGIN;
	GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgpubsub TO other;
	SELECT pgpubsub.set_durable('kept*');
	SELECT pgpubsub.subscribe('s', '{kept}'), pgpubsub.subscribe('t', '{kept2}'), pgpubsub.subscribe('plain', '{plain}', 'drop');
});

my $number = 0;

sub publish_some
{
	my ($channel, $count, $pad) = @_;
	my $from = $number + 1;

	$number += $count;
	$node->safe_psql('postgres', "SELECT count(pgpubsub.publish('$channel', i || repeat(' ', @{[ $pad // 0 ]}))) FROM generate_series($from, $number) AS i");
	return join ' ', $from .. $number;
}

sub entries
{
	my ($stream, $count) = @_;

	wait_until(sub { $broker->redis('XLEN', $stream) >= $count }, "$count entries in $stream");
	return map { { @{ $_->[1] } } } @{ $broker->redis('XRANGE', $stream, '-', '+') };
}

sub bodies { return join ' ', map { $_->{payload} =~ s/ +$//r } entries(@_); }

# A second bridge waits.
my $first  = start_bridge($node, $url);
my $second = start_bridge($node, $url, ready => 0);
my $third  = start_bridge($node, $url, subscription => 't');

$second->wait_for_log(qr/another bridge reads subscription "s"/);
my $expected = publish_some('kept', 100);
my $other    = publish_some('kept2', 100);
is(bodies('kept', 100), $expected, 'two bridges of one subscription: each event once');
is(bodies('kept2', 100), $other, 'and one of another');
is($second->metric('server_state{state="standby"}'), 1, 'the second one waits');
is(($second->get('/healthz'))[0], 200, 'and is well');
$first->wait_for_metric('acked_total', 100);
$first->stop('KILL');
$expected .= ' ' . publish_some('kept', 100);
is(bodies('kept', 200), $expected, 'it takes over when the first one has died');
$first->start(ready => 0);
$first->wait_for_log(qr/another bridge reads subscription "s"/);
is($second->stop, 0, 'the second one ends');
$expected .= ' ' . publish_some('kept', 100);
is(bodies('kept', 300), $expected, 'and the first one goes on');

# Somebody reads by hand, in a transaction.
my $client = client($node);
$first->wait_for_metric('acked_total', 100);
wait_until(sub { $client->query("BEGIN; SELECT pgpubsub.poll('s', 1, '5s', false)"); $client->sqlstate eq '' or ($client->query('ROLLBACK'), 0)[1] }, 'a transaction that has it');
my $more = publish_some('kept', 10);
$first->wait_for_log(qr/is being read by another session.*the bridge tries again/);
$client->run('ROLLBACK');
$expected .= " $more";
is(bodies('kept', 310), $expected, 'somebody else reads the subscription: the bridge waits');
$client->quit;

# seek() while the bridge rests: what is there is sent again, and not added twice.
$first->wait_for_metric('acked_total', 110);
$node->safe_psql('postgres', q{SELECT pgpubsub.seek('s', 'oldest')});
$expected .= ' ' . publish_some('kept', 1);
is(bodies('kept', 311), $expected, 'seek() back: nothing twice in a stream');

# A gap whose size is known, and one whose is not
my $gaps = start_bridge($node, $url, subscription => 'plain', options => [ '--stream', 'events' ]);
publish_some('plain', 10);
entries('events', 10);
$gaps->wait_for_metric('acked_total', 10);
$gaps->stop;
publish_some('plain', 3000, 1000);
$gaps->start;
my ($gap) = grep { $_->{type} eq 'pgpubsub.gap' } entries('events', 500);
cmp_ok($gap->{lost}, '>', 1000, 'a gap is a message of its own');
is(decode_json($gap->{payload})->{lost}, $gap->{lost}, 'its body has the number');
is(decode_json($gap->{payload})->{type}, 'pgpubsub.gap', 'and its type');
wait_until(sub { $node->safe_psql('postgres', q{SELECT pending FROM pgpubsub.stat_subscriptions WHERE subscription = 'plain'}) eq '0' }, 'nothing is pending');
is($gap->{lost} + $broker->redis('XLEN', 'events') - 1, 3010, 'and all that is not lost is there');

# The server restarts, and crashes; its sessions end.
for my $what ('restart', 'crash', 'terminate')
{
	$expected .= ' ' . publish_some('kept', 100);
	if ($what eq 'restart')   { $node->restart; }
	elsif ($what eq 'crash')  { $node->stop('immediate'); $node->start; }
	else { $node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pgpubsub-bridge s%'}); }
	$expected .= ' ' . publish_some('kept', 100);
}

# (an event that was seen, and whose seq the crash has undone, comes again with another)
my %seen;
wait_until(sub { $node->safe_psql('postgres', q{SELECT pending FROM pgpubsub.stat_subscriptions WHERE subscription = 's'}) eq '0' }, 'nothing is pending');
is(join(' ', grep { !$seen{$_}++ } split / /, bodies('kept', 911)), $expected, 'the server goes and comes: all events are there, in order');

publish_some('plain', 1);
$gaps->wait_for_metric('gaps_total', 2);
wait_until(sub { grep { $_->{type} eq 'pgpubsub.gap' && $_->{lost} == -1 } entries('events', 1) }, 'a gap');
my ($unknown) = grep { $_->{type} eq 'pgpubsub.gap' && $_->{lost} == -1 } entries('events', 1);
is($unknown->{lost}, -1, 'a restart of the server: nobody knows');
is(decode_json($unknown->{payload})->{lost}, undef, 'which is null in the body');

# What cannot be read
like(bridge_says('--dbname', $node->connstr('postgres'), '--subscription', 'none', '--to', $url), qr/^failed: .*cannot read subscription "none": subscription "none" does not exist/s, 'no such subscription');
like(bridge_says('--dbname', $node->connstr('postgres') . ' user=other', '--subscription', 's', '--to', $url), qr/^failed: .*cannot read subscription "s": .*(permission|owner)/s, 'somebody else\'s');
like(bridge_says('--dbname', $node->connstr('template1'), '--subscription', 's', '--to', $url), qr/^failed: .*cannot read subscription "s"/s, 'no extension');
like(bridge_says('--dbname', $node->connstr('postgres'), '--subscription', 'none', '--to', $url, '--check'), qr/^failed: .*the subscription cannot be read: .*"none" does not exist/s, '--check, too');
$client = client($node);
$client->run(q{SELECT pgpubsub.subscribe('temp', '{kept}', temporary => true)});
like(bridge_says('--dbname', $node->connstr('postgres'), '--subscription', 'temp', '--to', $url, '--check'), qr/^failed: .*temporary/s, 'a temporary one');
like(bridge_says('--dbname', $node->connstr('postgres'), '--subscription', 'temp', '--to', $url), qr/^failed: .*temporary/s, 'is refused');

# Metrics, and what is no request for them
my ($status, $text) = $first->get('/metrics');
is($status, 200, 'GET /metrics');
like($text, qr/\n# EOF\n\z/, 'ends as OpenMetrics wants it');
is(join("\n", grep { !/^(?:# (?:TYPE|HELP) pgpubsub_bridge_\w+ .+|# EOF|pgpubsub_bridge_\w+(?:\{state="\w+"\})? -?[\d.e+]+)$/ } split /\n/, $text), '', 'and has nothing else in it');
is(join(' ', grep { $text !~ /^pgpubsub_bridge_${_}_total \d+$/m } $text =~ /^# TYPE pgpubsub_bridge_(\w+) counter$/mg), '', 'each counter has its number');
is(($first->get('/'))[0], 404, 'another path');
is(($first->get('/metrics?x=1'))[0], 200, 'a query does no harm');
foreach my $bytes ('x' x 20000, "\0" x 9000, join '', map { chr int rand 256 } 1 .. 9000)
{
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $first->{port}) or die $!;

	local $SIG{PIPE} = 'IGNORE';
	syswrite $socket, $bytes;
	sysread $socket, my $answer, 1000;
	close $socket;
}
is(($first->get('/metrics'))[0], 200, 'requests that are too long are cut off, and the next one is answered');

is($_->stop, 0, 'a bridge ends well') foreach $first, $third, $gaps;
server_is_sound($node, allow => qr/was terminated by signal/);
done_testing();
