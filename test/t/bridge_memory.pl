# A broker that is down for long: the bridge's memory is bounded, and nothing is lost.
# And what systemd is told.

use strict;
use warnings;

use IO::Socket::UNIX;
use PgPubsub::Bridge;
use PgPubsub::Broker;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Socket qw(SOCK_DGRAM);
use Test::More;

# (what is freed is kept by the sanitizer, else)
$ENV{ASAN_OPTIONS} = join ':', grep { defined } $ENV{ASAN_OPTIONS}, 'quarantine_size_mb=1';

my $broker = start_redis();
my $node   = new_server('memory');
my $path   = PostgreSQL::Test::Utils::tempdir_short() . '/notify';
my $notify = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => $path) or die "$path: $!";

$node->safe_psql('postgres', q{CREATE EXTENSION pgpubsub; SELECT pgpubsub.set_durable('*'); SELECT pgpubsub.subscribe('s', '{big}')});

my $bridge;
{
	local $ENV{NOTIFY_SOCKET} = $path;
	$bridge = start_bridge($node, 'redis://127.0.0.1:' . $broker->port, options => [ '--buffer', '4' ]);
}
recv $notify, my $state, 100, 0;
is($state, 'READY=1', 'systemd is told that the bridge is ready');

# 60 MB of events
my $size = 100_000;
my $count = 600;

$broker->freeze;
$node->safe_psql('postgres', "SELECT count(pgpubsub.publish('big', rpad(i::text, $size))) FROM generate_series(1, $count) AS i");
$bridge->wait_for_metric('unconfirmed', 1);
wait_until(sub { ($bridge->metric('outbox_bytes') // 0) >= 4 * 1024 * 1024 }, 'a full outbox');
cmp_ok($bridge->metric('outbox_bytes'), '<', 5 * 1024 * 1024, 'the outbox has as much as it may');
my $memory = resident_memory($bridge->{pid});
$node->safe_psql('postgres', "SELECT count(pgpubsub.publish('big', rpad(i::text, $size))) FROM generate_series(1, 10) AS i");
cmp_ok(resident_memory($bridge->{pid}) - $memory, '<', 10000, 'and takes no more');
$broker->go_on;
ok(wait_until(sub { $broker->redis('XLEN', 'big') == $count + 10 }, 'all events'), 'all come when the broker goes on') or diag $bridge->log;
$bridge->wait_for_metric('acked_total', $count + 10);
is($bridge->stop, 0, 'it ends');
recv $notify, $state, 100, 0;
is($state, 'STOPPING=1', 'systemd is told that the bridge ends');
server_is_sound($node);
done_testing();
