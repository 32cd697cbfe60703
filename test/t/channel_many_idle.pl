# Many idle channels before a busy one: the relay moves them to the end of
# core's list, with UNLISTEN and LISTEN, and nothing is missed meanwhile.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $idle   = 400;
my $events = 6000;

my $node = new_server('many', conf => "
pgpubsub.max_subscriptions = 500
pgpubsub.max_channels = 500
pgpubsub.queue_size = 64MB
log_min_messages = debug1
log_statement = none
");
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
$node->safe_psql('postgres',
	"SELECT count(pgpubsub.subscribe('idle_' || i, ARRAY['idle_' || i], 'drop'))"
	  . " FROM generate_series(1, $idle) AS i");
$node->safe_psql('postgres',
	"SELECT pgpubsub.subscribe('busy', '{busy}', 'block')");
my $relay = relay_pid($node, 'postgres');

# both modes; each event is a transaction of its own, so that they come in
# many rounds
$node->safe_psql('postgres',
	"CREATE PROCEDURE write(channel text, first int, last int, mode text)
	 LANGUAGE plpgsql AS \$\$
	 BEGIN
		FOR i IN first .. last LOOP
			PERFORM set_config('pgpubsub.publish_mode', mode, true);
			PERFORM pgpubsub.publish(channel, i::text);
			COMMIT;
		END LOOP;
	 END\$\$");
my $half = $events / 2;
my $offset = log_offset($node);
$node->safe_psql('postgres', "CALL write('busy', 1, $half, 'transactional')");
settle($node, 'postgres');
$node->safe_psql('postgres',
	"CALL write('busy', $half + 1, $events, 'async')");

my @got = receive($node, 'postgres', 'busy', $events);
is("@got", join(' ', map { "busy:$_" } 1 .. $events),
	'all events of the busy channel, in order');
SKIP:
{
	skip 'the server keeps a hash of channels', 1
	  if $node->safe_psql('postgres', 'SHOW server_version_num') >= 190000;
	ok($node->wait_for_log(qr/pgpubsub relay moved \d+ idle channels/, $offset),
		'idle channels were moved');
}

# the idle ones are listened to as before
$node->safe_psql('postgres',
	"SELECT count(pg_notify('idle_' || i, 'still here')) FROM generate_series(1, $idle) AS i");
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM generate_series(1, $idle) AS i,"
		  . " pgpubsub.poll('idle_' || i, 10, '30s') AS m"
		  . " WHERE m.channel = 'idle_' || i AND m.payload = 'still here' AND m.lost IS NULL"),
	$idle, 'each idle channel had its event, once');
is(relay_pid($node, 'postgres'), $relay, 'it is the same relay');

$node->stop;
done_testing();
