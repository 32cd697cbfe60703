# Windows in the relay's life that are a few instructions wide: between giving up
# its database and being gone, and between looking what is due and going to
# sleep.  A build with assertions can keep them open.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('relay_windows', start => 0, conf => q{
pgpubsub.queue_size = 64kB
pgpubsub.publish_timeout = 30s
pgpubsub.evict_timeout = 300ms
log_statement = none
});
my $points = open_points($node, needed => 1);

$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
my $admin = client($node);

sub relays
{
	return $admin->value(
		"SELECT count(*) FROM pg_stat_activity WHERE datname = 'postgres' AND backend_type = 'pgpubsub relay'"
	);
}

# A relay that has given up its database and is not gone yet.  The first of them
# was found by going through the databases, when the server started.

$node->restart;
$admin = client($node);
wait_for_relay($node, 'postgres');
my $old    = relay_pid($node, 'postgres');
my $offset = log_offset($node);
close_point($points, 'relay_exit');
$admin->run("SELECT pg_terminate_backend($old)");
$node->wait_for_log(qr/\[$old\].*debug point relay_exit: waiting/, $offset);
is($admin->queue('relay_state'), 'stopped', 'no relay once it has given up');

# the launcher has gone round when this other database has its relay
$node->safe_psql('other', 'CREATE EXTENSION pgpubsub');
wait_for_relay($node, 'other');
is(relays(), 1, 'the next is not started before the last is gone');

# A new launcher knows nothing of it, so there is a second relay.
$admin->run(
	"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pgpubsub launcher'"
);
ok($admin->wait_for_queue("relay_state = 'listening'"),
	'a new launcher starts the next relay');
my $next = $admin->queue('relay_pid');
isnt($next, $old, 'which is another');
$admin->run("SELECT pgpubsub.subscribe('all', '{*}', 'drop')");
open_point($points, 'relay_exit');
ok( wait_until(
		sub {
			$admin->value(
				"SELECT count(*) FROM pg_stat_activity WHERE pid = $old") == 0;
		},
		'the end of the old relay'),
	'the old one goes');
is($admin->queue("relay_state || ' ' || relay_pid"),
	"listening $next", 'and leaves no trace on what is the next one\'s');
$admin->run("SELECT pgpubsub.publish('never seen before', 'x')");
is( $admin->value(
		"SELECT string_agg(coalesce(payload, 'gap'), ' ') FROM pgpubsub.poll('all', timeout => '10s')"
	),
	'x',
	'a new channel that a pattern matches is heard');
$admin->run("SELECT pgpubsub.unsubscribe('all')");

# A database that is renamed when the launcher has looked it up, and the relay
# is not connected yet.

$node->stop('fast');
close_point($points, 'relay_start');
$offset = log_offset($node);
$node->start;
$node->wait_for_log(qr/debug point relay_start: waiting/, $offset);
$admin = client($node, 'other');
$admin->run('ALTER DATABASE postgres RENAME TO newly_named');
open_point($points, 'relay_start');
$node->wait_for_log(qr/relay for database "newly_named" started/, $offset);
my $pid = $admin->value(
	"SELECT pid FROM pg_stat_activity WHERE datname = 'newly_named' AND backend_type = 'pgpubsub relay'"
);
is( process_title($pid),
	'postgres: relay_windows: pgpubsub relay for database newly_named',
	'the title has the new name');
$admin->run('ALTER DATABASE newly_named RENAME TO postgres');
$admin = client($node);
wait_for_relay($node, 'postgres');

# The time to evict comes after the relay has looked whether it has come, and
# before it has found out for how long it may sleep.  So does the time of the next
# warning, 5 s after the first: nothing else would have the relay look again.

$admin->run("SELECT pgpubsub.subscribe('slow', '{c}', 'evict')");
$offset = log_offset($node);
close_point($points, 'relay_full');
$admin->notify_series('c', 1, 100);
ok( $admin->wait_for_queue("relay_state = 'full' AND full_ms > 5500"),
	'the queue is full for longer than evict_timeout, and a warning is due');
is($admin->subscription('slow', 'state'), 'holding', 'the relay has not yet looked again');
open_point($points, 'relay_full');
ok(wait_until(sub { $admin->subscription('slow', 'state') eq 'evicted' }, 'the eviction'),
	'it evicts when it goes on');
$admin->run("SELECT pgpubsub.unsubscribe('slow')");

$admin->quit;
$node->stop('fast');
server_is_sound($node);
done_testing();
