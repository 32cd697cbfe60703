# What was staged, and went into the queue only when there was room again, is
# freed then: nobody else has to wake the relay for that.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('staging_freed', conf => q{
pgpubsub.queue_size = 64kB
pgpubsub.staging_size = 256kB
pgpubsub.publish_mode = async
log_statement = none
});
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
wait_for_relay($node, 'postgres');
my $admin = client($node);
$admin->run("SELECT pgpubsub.subscribe('s', '{c}', 'block')");

# more than the queue takes; nobody listens who would have to get it
$admin->publish_series('c', 1, 100);
ok( $admin->wait_for_queue("relay_state = 'full'"),
	'the queue is full');
cmp_ok($admin->queue('staging_used_bytes'),
	'>', 0, 'what has no room stays in the staging queue');

$admin->run("SELECT count(*) FROM pgpubsub.poll('s', 50)");
ok( $admin->wait_for_queue("relay_state = 'listening' AND staging_used_bytes = 0"),
	'the staging queue is emptied when there is room');
is( $admin->value("SELECT count(*) FROM pgpubsub.poll('s', 1000)"), 50,
	'all events have come');

$node->stop('fast');
server_is_sound($node);
done_testing();
