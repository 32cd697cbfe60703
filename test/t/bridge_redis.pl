# Events of a subscription in Redis streams: ids from seq, nothing twice, and what a
# stream that is full, or is none, or is ahead, makes of it.

use strict;
use warnings;

use PgPubsub::Bridge;
use PgPubsub::Broker;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = start_redis();
my $node   = new_server('redis');
my $url    = 'redis://127.0.0.1:' . $broker->port;

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	SELECT pgpubsub.set_durable('*');
	CREATE TABLE orders (id int PRIMARY KEY, status text);
	SELECT pgpubsub.attach('orders');
	SELECT pgpubsub.subscribe('s', '{orders,plain,other}');
});

my $bridge = start_bridge($node, $url, options => [ '--stream', 'db:{channel}' ]);
my $number = 0;

sub publish_some
{
	my ($channel, $count) = @_;
	my $from = $number + 1;

	$number += $count;
	$node->safe_psql('postgres', "SELECT count(pgpubsub.publish('$channel', i::text)) FROM generate_series($from, $number) AS i");
	return join ' ', $from .. $number;
}

# The entries of a stream, once there are that many: [id, {field => value}] each.
sub entries
{
	my ($stream, $count) = @_;

	wait_until(sub { $broker->redis('XLEN', $stream) >= $count }, "$count entries in $stream") or die $bridge->log;
	return map { [ $_->[0], { @{ $_->[1] } } ] } @{ $broker->redis('XRANGE', $stream, '-', '+') };
}

$node->safe_psql('postgres', q{INSERT INTO orders VALUES (1, 'new')});
my ($entry) = entries('db:orders', 1);
like($entry->[0], qr/^\d{16}-0$/, 'the id is the seq');
like($entry->[1]{payload}, qr/^\{"id":"\d+-\d+","op":"INSERT"/, 'the payload');
is($entry->[1]{op}, 'INSERT', 'op');
is($entry->[1]{channel}, 'orders', 'channel');
is($entry->[1]{type}, 'pgpubsub.event', 'type');
is($entry->[1]{'content-type'}, 'application/json', 'content-type');

my $expected = publish_some('plain', 3000);
is(join(' ', map { $_->[1]{payload} } entries('db:plain', 3000)), $expected, '3000 events, each once, in order');

# Redis dies and comes back.
for my $round (1 .. 3)
{
	my $offset = length $bridge->log;

	$broker->kill9;
	$expected .= ' ' . publish_some('plain', 500);
	$bridge->wait_for_log(qr/no connection to the broker/, $offset);
	$offset = length $bridge->log;
	$broker->start;
	$bridge->wait_for_log(qr/connected to Redis/, $offset);
}
is(join(' ', map { $_->[1]{payload} } entries('db:plain', 4500)), $expected, 'Redis has died three times: each once, in order');

# The bridge is killed before it has acknowledged anything: the same events come again.
$broker->freeze;
$expected .= ' ' . publish_some('plain', 200);
$bridge->wait_for_metric('unconfirmed', 200);
$bridge->stop('KILL');
$broker->go_on;
$bridge->start;
$bridge->wait_for_metric('acked_total', 200);
is(join(' ', map { $_->[1]{payload} } entries('db:plain', 4700)), $expected, 'the bridge has died with a transaction under way');

# An entry that is there, and not acknowledged: the answer was lost.
$bridge->stop;
$expected .= ' ' . publish_some('plain', 3);
my @seqs = split /\n/, $node->safe_psql('postgres', q{SELECT seq FROM pgpubsub.poll('s', consume => false)});
$broker->redis('XADD', 'db:plain', "$seqs[$_]-0", 'payload', $number - 2 + $_) foreach 0, 1;
$bridge->start;
$bridge->wait_for_metric('acked_total', 3);
is(join(' ', map { $_->[1]{payload} } entries('db:plain', 4703)), $expected, 'what was added and not acknowledged is found again, and not added twice');
is($bridge->metric('unroutable_total'), 0, 'and is no error');

# No memory
$broker->redis(qw(CONFIG SET maxmemory 1));
my $offset = length $bridge->log;
$expected .= ' ' . publish_some('plain', 100);
$bridge->wait_for_log(qr/does not take event \d+ now: OOM/, $offset);
is($bridge->metric('broker_state{state="refused"}'), 1, 'a broker without memory: the event is refused for now');
$broker->redis(qw(CONFIG SET maxmemory 0));
is(join(' ', map { $_->[1]{payload} } entries('db:plain', 4803)), $expected, 'and goes when there is some');

# A key that is no stream: for ever, and the bridge stops.
$broker->redis('SET', 'db:other', 'x');
publish_some('other', 1);
is($bridge->wait_for_end, 4, 'a key of another type: the bridge stops');
like($bridge->log, qr/error: event \d+ cannot be delivered to "db:other": WRONGTYPE .* the bridge stops/, 'and says why');

# To the dead-letter place instead
my $dead = start_bridge($node, $url, options => [ '--stream', 'db:{channel}', '--on-unroutable', 'dead-letter', '--dead-letter', 'dead' ]);
($entry) = entries('dead', 1);
is($entry->[1]{payload}, $number, 'it goes to the dead-letter place');
like($entry->[1]{reason}, qr/WRONGTYPE/, 'with the reason');
is($dead->metric('dead_lettered_total'), 1, 'and is counted');
is($dead->stop, 0, 'the bridge ends');

# A stream that is ahead: somebody else has added a later entry.
$broker->redis('DEL', 'db:other');
$broker->redis('XADD', 'db:other', '9999999999999999-0', 'a', 'b');
my $drop = start_bridge($node, $url, options => [ '--stream', 'db:{channel}', '--on-unroutable', 'drop' ]);
publish_some('other', 2);
$drop->wait_for_metric('dropped_total', 2);
like($drop->log, qr/equal or smaller.*it is dropped/, 'a stream that is ahead: the event is dropped, as configured');
is($node->safe_psql('postgres', 'SELECT pending FROM pgpubsub.stat_subscriptions'), 0, 'and acknowledged')
  if wait_until(sub { $node->safe_psql('postgres', 'SELECT pending FROM pgpubsub.stat_subscriptions') eq '0' }, 'nothing pending');
is($drop->stop, 0, 'the bridge ends');

# --check looks at a place that is always the same.
my @from = ('--dbname', $node->connstr('postgres'), '--subscription', 's');
$broker->redis('SET', 'text', 'x');
like(bridge_says(@from, '--to', $url, '--stream', 'text', '--check'), qr/^failed: .*messages cannot go to "text": there is a key of that name that is no stream/s, '--check: a key of another type');
like(bridge_says(@from, '--to', $url, '--stream', 'new', '--on-unroutable', 'dead-letter', '--dead-letter', 'text', '--check'), qr/^failed: .*messages cannot go to the dead-letter place "text"/s, 'as the dead-letter place');
like(bridge_says(@from, '--to', $url, '--stream', 'db:plain', '--check'), qr/^pgpubsub-bridge: all is well/, 'a stream');

# No permission for the command
$broker->redis(qw(ACL SETUSER weak on >secret ~* &* +@all -xadd));
(my $weak_url = $url) =~ s{//}{//weak:secret\@};
my $weak = start_bridge($node, $weak_url, options => [ '--stream', 'db:{channel}' ]);
publish_some('plain', 3);
$weak->wait_for_log(qr/does not take event \d+ now: NOPERM/);
$broker->redis(qw(ACL SETUSER weak +xadd));
$weak->wait_for_metric('acked_total', 3);
is($weak->metric('confirmed_total'), 3, 'no permission: the bridge waits for it');
is($weak->stop, 0, 'the bridge ends');

# Passwords
$broker->redis(qw(CONFIG SET requirepass secret));
like(bridge_says('--dbname', $node->connstr('postgres'), '--subscription', 's', '--to', $url, '--check'), qr/^failed: .*no connection to the broker: .*NOAUTH/s, 'without a password');
$url =~ s{//}{//:wrong\@};
like(bridge_says('--dbname', $node->connstr('postgres'), '--subscription', 's', '--to', $url, '--check'), qr/^failed: .*WRONGPASS/s, 'a wrong password');
$url =~ s{wrong}{secret};
like(bridge_says('--dbname', $node->connstr('postgres'), '--subscription', 's', '--to', $url, '--check'), qr/^pgpubsub-bridge: all is well/, 'the right one');
server_is_sound($node);
done_testing();
