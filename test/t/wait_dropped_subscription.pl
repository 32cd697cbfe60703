# A subscription is dropped just when the relay wakes those who wait for it.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node   = new_server('dropped_waiters', start => 0);
my $points = open_points($node, needed => 1);

$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
wait_for_relay($node, 'postgres');

my $relay   = relay_pid($node, 'postgres');
my $watcher = client($node, 'postgres');
my $waiter  = client($node, 'postgres');
my $dropper = client($node, 'postgres');

$watcher->run("SELECT pgpubsub.subscribe('s', '{news}')");
$waiter->begin("CALL pgpubsub.wait('s', '1min')");
waits_in_extension($watcher, $waiter) or fail('it does not wait');

# the relay has taken the subscription out of the list of who waits, and has not
# looked yet who that is
my $offset = log_offset($node);

close_point($points, 'relay_wakes');
$watcher->run("SELECT pgpubsub.publish('news', 'hello')");
$node->wait_for_log(qr/debug point relay_wakes: waiting/, $offset);
$dropper->begin("SELECT pgpubsub.unsubscribe('s')");
ok( wait_until(
		sub {
			$watcher->value(
				"SELECT wait_event_type = 'LWLock' FROM pg_stat_activity WHERE pid = $dropper->{pid}"
			) eq 't';
		},
		'a lock'),
	'who drops it waits until the relay is done with it');
open_point($points, 'relay_wakes');

is($dropper->finish->{rows}[0][0], 't', 'the subscription is dropped');
$waiter->finish;
is($waiter->sqlstate, '42704', 'and who waited for it is told');
is(relay_pid($node, 'postgres'), $relay, 'the relay goes on');

$_->quit foreach $watcher, $waiter, $dropper;
server_is_sound($node);
$node->stop;
done_testing();
