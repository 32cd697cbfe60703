# A relay that hangs while the queue is full: writers whose event it should have
# made room for by now get an error, and all goes on when it does.  And while
# the queue stays full, the log names who holds it.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('hangs', conf => q{
pgpubsub.queue_size = 64kB
pgpubsub.publish_timeout = 100ms
pgpubsub.evict_timeout = 10min
log_statement = none
});
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
wait_for_relay($node, 'postgres');
my $admin  = client($node);
my $writer = client($node);
my $relay  = relay_pid($node, 'postgres');
my $pad    = '-' x 1000;
my $count  = 0;
my $offset = log_offset($node);

# Publish until the queue is full.
sub fill
{
	do
	{
		$writer->run("SET pgpubsub.publish_timeout = '10min'");
		$writer->begin("SELECT pgpubsub.publish('c', '" . ($count + 1) . "$pad')");
	} while (!waits_in_extension($admin, $writer) && ++$count);
	$admin->run("SELECT pg_cancel_backend($writer->{pid})");
	$writer->finish;
	is($writer->sqlstate, '57014', "$count events fill the queue; a writer waits, and can be cancelled");
	$writer->run('RESET pgpubsub.publish_timeout');
}

# Nobody reads, and the subscription would be evicted in ten minutes.
$admin->run("SELECT pgpubsub.subscribe('s', '{c}', 'evict')");
fill();
ok($node->wait_for_log(
		qr/WARNING:  pgpubsub queue is full\n.*DETAIL:  Subscription "s" \(evict\).*\n.*HINT:  Have its reader catch up/,
		$offset),
	'the log says who keeps the queue full');

# Now it is to be evicted, but the relay does not run.  It must be stopped
# before it hears of the new setting.
stop_process($admin, $relay);
$node->append_conf('postgresql.conf', "pgpubsub.evict_timeout = '1s'");
$node->reload;
wait_until(sub { $writer->value('SHOW pgpubsub.evict_timeout') eq '1s' }, 'the setting');
$writer->query("SELECT pgpubsub.publish('c', 'never')");
is($writer->sqlstate, '53400', 'the relay hangs: SQLSTATE');
is($writer->{error}{M}, 'queue is full', 'message');
like($writer->{error}{D}, qr/^Cannot publish on channel "c": the relay has not made room 10000 ms after pgpubsub\.evict_timeout\.$/, 'detail');
like($writer->{error}{H}, qr/pg_stat_activity/, 'the hint says where to look');
cmp_ok($writer->duration, '>', 9, 'but it was given its time');

kill 'CONT', $relay;
wait_until(
	sub { $admin->subscription('s', 'state') eq 'evicted' },
	'the eviction');
$writer->run("SELECT pgpubsub.publish('c', 'after')");
$admin->wait_for_queue("relay_state = 'listening'");
is(relay_pid($node, 'postgres'), $relay, 'the relay goes on when it does');
my @read = $admin->run("SELECT payload, lost FROM pgpubsub.poll('s', 1000, '60s')");
is(scalar(grep { defined $_->[1] } @read), 1, 'what was evicted gets its gap row');

$node->stop('fast');
server_is_sound($node);
done_testing();
