# A batch of staged events that cannot be sent to native listeners is sent
# again, whole and once.  Subscriptions notice nothing of that: the relay does
# not wait for the transaction that is in the way.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('failed_batch', init => { allows_streaming => 1 }, conf => q{
pgpubsub.publish_timeout = 60s
max_connections = 50
pgpubsub.staging_size = 256kB
log_statement = none
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
# notifications, and holds what all commits with notifications lock, the relay's
# too.
sub block_notify
{
	my ($blocker) = @_;

	hold_commits($node);
	$blocker->begin(
		'BEGIN; CREATE TABLE IF NOT EXISTS blocking (); NOTIFY other; COMMIT'
	);
	ok(commit_waits($node, $blocker), 'a commit that waits');
}

my @taken;

# Poll until an event with that payload has come.
sub take_until
{
	my ($last) = @_;

	while (!grep { $_ eq $last } @taken)
	{
		my @new = $admin->run(
			"SELECT coalesce(payload, 'gap') FROM pgpubsub.poll('reader', 100, '20s')"
		);
		last unless @new;
		push @taken, map { $_->[0] } @new;
	}
}

my $blocker = client($node);
$blocker->run('SET synchronous_commit = on');
$writer->run('SET synchronous_commit = off');
block_notify($blocker);

# several transactions, and one of several events
my $offset = log_offset($node);
$writer->run("SELECT pgpubsub.publish('c', '1')");
$node->wait_for_log(
	qr/could not notify staged events: canceling statement due to lock timeout/,
	$offset);
$writer->run(
	"SELECT pgpubsub.publish('c', i::text) FROM generate_series(2, 4) AS i");
$writer->run("SELECT pgpubsub.publish('c', '5')");
take_until('5');
is("@taken", '1 2 3 4 5', 'the subscription has each, while that commit hangs');
$listener->query('SELECT 1');
is(scalar $listener->notifications, 0, 'native listeners have none yet');

# The staging queue is not freed: when it is full, writers are told why.
$writer->run("SET pgpubsub.publish_timeout = '100ms'");
my $count = 5;
while ($count < 2000)
{
	$writer->query("SELECT pgpubsub.publish('c', '" . ($count + 1) . "' || repeat('-', 1000))");
	last if $writer->{error};
	$count++;
}
is($writer->sqlstate, '53400', 'writers fail when the staging queue is full');
like($writer->{error}{D}, qr/does not come to the end of its commit/, 'the detail says why');
like($writer->{error}{H}, qr/pg_stat_activity/, 'the hint says where to look');

release_commits($node);
$blocker->finish;
$writer->run("SET pgpubsub.publish_timeout = '60s'");
$writer->run("SELECT pgpubsub.publish('c', 'last')");
take_until('last');

my @expected = (1 .. $count, 'last');
is(join(' ', map { s/-+$//r } @taken),
	"@expected", 'the subscription has each once, in order');
my @native = map { $_->[2] =~ s/-+$//r } $listener->wait_for_notifications(scalar @expected);
is("@native", "@expected", 'and so have native listeners');
is( $admin->value(
		"SELECT count(*) FROM pgpubsub.poll('reader', 100, '0')"),
	0,
	'nothing comes after');
is(relay_pid($node, 'postgres'), $relay, 'the relay has gone on');

server_is_sound($node);
done_testing();
