# The staging queue is full because the queue is: a writer whose events somebody
# reads waits until they can be staged, and is not published in transactional
# mode instead, in which a relay that stops would lose them.  One whose events
# nobody reads does not wait.  Nor does one wait for long for a transaction that
# has its place and does not come to its end.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('staging_waits', init => { allows_streaming => 1 }, conf => q{
pgpubsub.queue_size = 64kB
pgpubsub.staging_size = 64kB
pgpubsub.publish_mode = async
pgpubsub.publish_timeout = 10min
log_statement = none
});
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
wait_for_relay($node, 'postgres');
my $admin    = client($node);
my $writer   = client($node);
my $listener = client($node);
$listener->run('LISTEN c; LISTEN quiet');
my $relay = relay_pid($node, 'postgres');
my $pad   = '-' x 1000;

sub publishing
{
	my ($channel, $i) = @_;

	return "SELECT pgpubsub.publish('$channel', '$i$pad')";
}

# The queue has no room for another event, but is not found full yet.
$admin->run("SELECT pgpubsub.subscribe('s', '{c}', 'block')");
my $count = 0;
do
{
	my $before = $admin->queue('used_bytes');

	$writer->run(publishing('c', ++$count));
	wait_until(sub { $admin->queue('messages') == $count }, 'the event in the queue');
	my $used = $admin->queue('used_bytes');
	$count += 1000 if $admin->queue('queue_size') - $used < $used - $before;
} while ($count < 1000);
$count -= 1000;
is($admin->queue('relay_state'), 'listening', "$count events fill the queue");

# The staging queue is full too.
stop_process($admin, $relay);
for (;;)
{
	$writer->begin(publishing('c', ++$count));
	last if waits_in_extension($admin, $writer);
	is($writer->sqlstate, '', 'no error') if $writer->{error};
}
kill 'CONT', $relay;
$admin->wait_for_queue("relay_state = 'full'");

# The relay notifies what is staged, and can free none of it.
$listener->wait_for_notifications($count - 1);
my $quiet = client($node);
$quiet->run(publishing('quiet', 1));
my @quiet = $listener->wait_for_notifications(1);
is("$quiet[0][0] $quiet[0][1]", "$quiet->{pid} quiet",
	'an event that nobody reads is published in transactional mode, and does not wait');
$quiet->quit;
ok(waits_in_extension($admin, $writer), 'a writer to a subscription waits');
$writer->finish unless $writer->{busy};

my $other = client($node);
$other->run("SET pgpubsub.publish_timeout = '100ms'");
$other->query(publishing('c', 'never'));
is($other->sqlstate, '53400', 'another one waits in vain');
like($other->{error}{D}, qr/Subscription "s" \(block\)/, 'the error names the subscription');
$other->quit;

my @read;
while (@read < $count)
{
	my @new = $admin->run("SELECT payload, pid, lost FROM pgpubsub.poll('s', 10, '60s')");

	last unless @new;
	push @read, @new;
}
$writer->finish;
is($writer->sqlstate, '', 'the writer goes on when there is room');
is( join(' ', map { $_->[0] =~ s/-+$//r } @read),
	join(' ', 1 .. $count),
	'all has come, in order');
my @native = $listener->wait_for_notifications(1);
is("$native[0][0] " . ($native[0][2] =~ s/-+$//r),
	"$relay $count", 'the event that waited was sent by the relay');

# A commit that waits for a synchronous standby holds its place; what comes
# behind it fills the staging queue.
my $slow = client($node);
$slow->run($_) foreach 'SET synchronous_commit = local', 'CREATE TABLE slow (i int)', 'RESET synchronous_commit';
$admin->run('SET synchronous_commit = local');
$writer->run('SET synchronous_commit = local');
hold_commits($node);
$slow->begin("INSERT INTO slow VALUES (1); SELECT pgpubsub.publish('c', 'slow')");
my $began = $slow->{began};
ok(commit_waits($node, $slow), 'a commit that waits');
@read   = ();
@native = ();
$count  = 0;
do
{
	$writer->run(publishing('c', ++$count));
	push @read, $admin->run("SELECT payload, pid, lost FROM pgpubsub.poll('s', 10, '60s')");
	push @native, $listener->wait_for_notifications(1);
} until $native[-1][0] == $writer->{pid} || $count == 100;
cmp_ok($count, '>', 10, "$count events fill the staging queue");
cmp_ok($count, '<', 100, 'and then one is published in transactional mode');
cmp_ok($writer->{ended} - $began, '>', 0.99, 'but not at once');
is(scalar(grep { $_->[0] == $relay } @native), $count - 1, 'all others in async mode');
$admin->run("SELECT pg_cancel_backend($slow->{pid})");
$slow->finish;
push @read, $admin->run("SELECT payload, pid, lost FROM pgpubsub.poll('s', 10, '60s')");
is(join(' ', map { $_->[0] =~ s/-+$//r } @read), join(' ', 1 .. $count, 'slow'), 'all has come, once');

$node->stop('fast');
server_is_sound($node);
done_testing();
