# A batch of staged events that fails is sent again, whole and once: what it
# had taken is neither lost nor sent twice.

use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;

use PgPubsubClient;
use PgPubsubTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('failed_batch', init => { allows_streaming => 1 }, conf => q{
pgpubsub.publish_timeout = 60s
max_connections = 50
});
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
my $admin = client($node);
$admin->run(q{SELECT pgpubsub.subscribe('reader', '{c}')});
my $relay    = relay_pid($node, 'postgres');
my $listener = client($node);
$listener->run('LISTEN c');
my $writer = client($node);
$writer->run("SET pgpubsub.publish_mode = 'async'");

# A commit that waits for a standby which is not there has written its
# notifications, and holds what all commits with notifications lock: the relay
# waits for it in the middle of its batch.
sub block_relay
{
	my ($blocker) = @_;

	$node->safe_psql('postgres',
		"ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
	$node->reload;
	wait_until(
		sub {
			$blocker->value('SHOW synchronous_standby_names') eq 'nobody';
		},
		'the setting is there');
	$blocker->begin(
		'BEGIN; CREATE TABLE IF NOT EXISTS blocking (); NOTIFY other; COMMIT'
	);
	$node->poll_query_until(
		'postgres', qq{
		SELECT wait_event = 'SyncRep' FROM pg_stat_activity
		WHERE pid = $blocker->{pid}})
	  or die 'the commit does not wait';
}

sub wait_until_blocked
{
	$node->poll_query_until(
		'postgres', qq{
		SELECT count(*) = 1 FROM pg_locks WHERE pid = $relay
		AND locktype = 'object' AND NOT granted})
	  or die 'the relay does not wait';
}

my $blocker = client($node);
$blocker->run('SET synchronous_commit = on');
$writer->run('SET synchronous_commit = off');
block_relay($blocker);

# several transactions, and one of several events
$writer->run("SELECT pgpubsub.publish('c', '1')");
wait_until_blocked();
$writer->run(
	"SELECT pgpubsub.publish('c', i::text) FROM generate_series(2, 4) AS i");
$writer->run("SELECT pgpubsub.publish('c', '5')");

for my $try (1, 2)
{
	my $offset = log_offset($node);

	$node->safe_psql('postgres', "SELECT pg_cancel_backend($relay)");
	$node->wait_for_log(
		qr/could not notify staged events: canceling statement/, $offset)
	  if $try == 1;
	wait_until_blocked();
}

$node->safe_psql('postgres', 'ALTER SYSTEM RESET synchronous_standby_names');
$node->reload;
$blocker->finish;
$writer->run("SELECT pgpubsub.publish('c', 'last')");

my (@taken, @native);
while (!grep { $_ eq 'last' } @taken)
{
	my @new = $admin->run(
		"SELECT coalesce(payload, 'gap') FROM pgpubsub.poll('reader', 100, '20s')"
	);
	last unless @new;
	push @taken, map { $_->[0] } @new;
}
is("@taken", '1 2 3 4 5 last', 'the subscription has each once, in order');
@native = map { $_->[2] } $listener->wait_for_notifications(6);
is("@native", '1 2 3 4 5 last', 'and so have native listeners');
is( $admin->value(
		"SELECT count(*) FROM pgpubsub.poll('reader', 100, '0')"),
	0,
	'nothing comes after');
is(relay_pid($node, 'postgres'), $relay, 'the relay has gone on');

server_is_sound($node);
done_testing();
