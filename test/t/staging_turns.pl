# A large async transaction has its turn in the staging queue although small
# ones keep it full; who waits behind a transaction that was cancelled, or
# whose session has ended, has his turn too.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('staging_turns', conf => q{
pgpubsub.staging_size = 4MB
pgpubsub.queue_size = 4MB
pgpubsub.publish_mode = async
pgpubsub.publish_timeout = 1min
log_statement = none
fsync = off
});
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
wait_for_relay($node, 'postgres');
my $admin = client($node);
my $relay = relay_pid($node, 'postgres');
$admin->run("SELECT pgpubsub.subscribe('s', '{small,large}')");

# A statement that publishes so many events of 1,000 bytes.
sub publishing
{
	my ($channel, $count) = @_;

	return "SELECT count(pgpubsub.publish('$channel', i || repeat('x', 1000))) FROM generate_series(1, $count) i";
}

# Four sessions flood the queue, and do not end by themselves.
my $file = $node->basedir . '/small.sql';
append_to_file($file, publishing('small', 20) . ";\n");
my $flood = begin_program($node, 'pgbench', '-n', '-c', 4, '-T', 600, '-f', $file,
	'dbname=postgres application_name=pgbench');
wait_until(
	sub { $admin->value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench' AND wait_event_type = 'Extension'") > 0 },
	'a full queue');

# Just below half of the queue.
my $large = client($node);
foreach my $i (1 .. 5)
{
	$large->query(publishing('large', 1850));
	is($large->sqlstate, '', "large transaction $i gets through");
}
is($admin->value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'"), 4, 'while the others go on');
$admin->run("SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE application_name = 'pgbench'");
$flood->{run}->finish;
unlike($flood->{out}, qr/queue is full/, 'none of them has failed');
my $last = $admin->value("SELECT published FROM pgpubsub.stat_channels WHERE channel = 'large'");
is($last, 5 * 1850, 'all large ones have come');

# While the relay is stopped, nothing comes free.
stop_process($admin, $relay);
my $small = client($node);
for (;;)
{
	$small->begin(publishing('small', 100));
	last if waits_in_extension($admin, $small);
	is($small->sqlstate, '', 'no error') if $small->{error};
}
my @waiting = map { client($node) } 1 .. 3;
foreach my $session (@waiting)
{
	$session->begin(publishing('large', 1850));
	waits_in_extension($admin, $session);
}
$admin->run("SELECT pg_cancel_backend($small->{pid})");
$small->finish;
is($small->sqlstate, '57014', 'who waits can be cancelled');
$admin->run("SELECT pg_terminate_backend($waiting[0]{pid}, 30000)");
my $behind = client($node);
$behind->begin(publishing('small', 1));
ok(waits_in_extension($admin, $behind), 'a small one waits behind the large ones');
kill 'CONT', $relay;
$_->finish foreach @waiting[1, 2], $behind;
is($waiting[1]->sqlstate . $waiting[2]->sqlstate . $behind->sqlstate, '', 'the others have their turn');
$admin->wait_for_queue("staging_used_bytes = 0");
is($admin->value("SELECT published FROM pgpubsub.stat_channels WHERE channel = 'large'"),
	$last + 2 * 1850, 'their events have come');

$node->stop('fast');
server_is_sound($node);
done_testing();
