# A relay that leaves for good, since the settings leave its database out or the
# extension is dropped, sends before what is committed and staged: native
# listeners get it all, once and in order.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('leaves', init => { allows_streaming => 1 }, conf => q{
pgpubsub.publish_mode = async
pgpubsub.publish_timeout = 10min
log_statement = none
});
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub; CREATE DATABASE one');
$node->safe_psql('one', 'CREATE EXTENSION pgpubsub');
my $admin    = client($node);
my $one      = client($node, 'one');
my $writer   = client($node, 'one');
my $listener = client($node, 'one');
$listener->run('LISTEN c');

# Have the server take the settings, and wait until a session has.
sub set
{
	my ($name, $value) = @_;

	$admin->run("ALTER SYSTEM SET $name = '$value'");
	$node->reload;
	wait_until(sub { $one->value("SHOW $name") eq $value }, "$name = $value");
}

# Commit some events that the relay, which is stopped, cannot send yet.
sub stage
{
	my ($first, $last) = @_;

	wait_for_relay($node, 'one');
	my $relay = relay_pid($node, 'one');
	stop_process($admin, $relay);
	$writer->run("SELECT pgpubsub.publish('c', '$_')") foreach $first .. $last;
	$listener->pump(0);
	is(scalar $listener->notifications, 0, 'nothing is sent yet');
	return $relay;
}

# The listener gets these, from the relay.
sub listener_hears
{
	my ($relay, $first, $last) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @heard = $listener->wait_for_notifications($last - $first + 1);

	is(join(' ', map { "$_->[0]:$_->[2]" } @heard),
		join(' ', map { "$relay:$_" } $first .. $last),
		'the relay sends them before it leaves');
}

# Left out by the settings
$one->run("SELECT pgpubsub.subscribe('s', '{c}')");
my $relay = stage(1, 50);
set('pgpubsub.databases', 'postgres');
kill 'CONT', $relay;
listener_hears($relay, 1, 50);
wait_for_relay($node, 'one', count => 0);
is(scalar($one->run("SELECT * FROM pgpubsub.poll('s', 100)")), 50,
	'the subscription gets them too');
$one->query("SELECT * FROM pgpubsub.poll('s', 100, '1min')");
is($one->sqlstate, '55000', 'and then poll() says that there is no relay');
$writer->run("SELECT pgpubsub.publish('c', '51')");
is_deeply([ map { "$_->[0]:$_->[2]" } $listener->wait_for_notifications(1) ],
	["$writer->{pid}:51"], 'from now on writers send their events themselves');

# A transaction that has its place and does not come to its end: what it has
# published comes when it has, at the latest with the next relay.
set('pgpubsub.databases', '*');
wait_for_relay($node, 'one');
$one->run('SET synchronous_commit = local');
$one->run("SELECT * FROM pgpubsub.poll('s', 100)");
$one->run('CREATE TABLE slow (i int)');
hold_commits($node);
my $slow = client($node, 'one');
$slow->begin("INSERT INTO slow VALUES (1); SELECT pgpubsub.publish('c', 'slow')");
ok(commit_waits($node, $slow), 'a commit that waits');
$admin->run('SET synchronous_commit = local');
set('pgpubsub.databases', 'postgres');
wait_for_relay($node, 'one', count => 0);
$admin->run("SELECT pg_cancel_backend($slow->{pid})");
$slow->finish;
is($slow->sqlstate, '', 'the transaction commits when the relay has left');
release_commits($node);
set('pgpubsub.databases', '*');
is_deeply([ map { $_->[2] } $listener->wait_for_notifications(1) ], ['slow'], 'its event comes with the next relay');
wait_for_relay($node, 'one');

# DROP EXTENSION
$relay = stage(1, 50);
$one->run('DROP EXTENSION pgpubsub');
kill 'CONT', $relay;
listener_hears($relay, 1, 50);
wait_for_relay($node, 'one', count => 0);
is($admin->value("SELECT count(*) FROM pgpubsub.stat_queue WHERE datname = 'one'"), 0, 'its place is free');

# With a transaction that has its place and comes to its end in time
$one->run('CREATE EXTENSION pgpubsub');
$relay = stage(51, 60);
my $rolled_back = client($node, 'one');
$rolled_back->run("BEGIN; SELECT pgpubsub.publish('c', 'never')");
$one->run('DROP EXTENSION pgpubsub');
kill 'CONT', $relay;
listener_hears($relay, 51, 60);
$rolled_back->run('ROLLBACK');
wait_for_relay($node, 'one', count => 0);
$one->run("NOTIFY c, 'end'");
is_deeply([ map { $_->[2] } $listener->wait_for_notifications(1) ], ['end'], 'and nothing else');

$node->stop('fast');
server_is_sound($node);
done_testing();
