# A standby has no relay and says so; once promoted it works.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Cluster;
use Test::More;

my $primary = new_server('primary', init => { allows_streaming => 1 });

$primary->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE TABLE orders (id int PRIMARY KEY, status text);
	SELECT pgpubsub.attach('orders');
	SELECT pgpubsub.subscribe('s', '{news,orders}');
});
$primary->backup('backup');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

$primary->safe_psql('postgres',
	"SELECT pgpubsub.subscribe('later', '{n*}', 'drop')");
$primary->safe_psql('postgres', "SELECT pgpubsub.publish('news', 'one')");
is(received($primary, 'postgres', $_, 1), 'news:one', "primary: $_ reads")
  foreach qw(s later);
my $seq = $primary->safe_psql('postgres',
	'SELECT newest_seq FROM pgpubsub.stat_queue');
$primary->wait_for_catchup($standby);

# The standby

foreach my $call (
	"subscribe('new', '{news}')", "subscribe('new', '{news}', temporary => true)",
	"poll('s')",                  "poll('s', timeout => '1s')",
	"ack('s', 1)",                "unsubscribe('s')")
{
	like(query_error($standby, 'postgres', "SELECT pgpubsub.$call"),
		qr/ERROR:  (?:25006|55000): .*standby/,
		"standby: $call says so");
}
like(
	query_error($standby, 'postgres', "SELECT pgpubsub.publish('news', 'x')"),
	qr/ERROR:  (?:25006|55000|0A000): /,
	'standby: publish() is refused');
is($standby->safe_psql('postgres', "SELECT count(*) FROM pgpubsub.$_"),
	0, "standby: view $_ has no rows")
  foreach qw(stat_queue stat_channels stat_subscriptions);
is( $standby->safe_psql('postgres',
		'SELECT channel FROM pgpubsub.attachments GROUP BY 1'),
	'orders', 'standby: view attachments works');
is( $standby->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pgpubsub%'"
	),
	0,
	'standby: no worker runs');

# What comes to it by replication is not its business.
$primary->safe_psql(
	'postgres', q{
	INSERT INTO orders VALUES (1, 'new');
	SELECT pgpubsub.unsubscribe('later');
	CREATE DATABASE other;
});
$primary->safe_psql('other', 'CREATE EXTENSION pgpubsub');
$primary->safe_psql('other', "SELECT pgpubsub.subscribe('s', '{news}')");
$primary->wait_for_catchup($standby);
my $session = open_session($standby);
is($session->query('SELECT id FROM orders'),
	'1', 'standby: a session that saw an error before works');
fails_with($session, undef, "SELECT * FROM pgpubsub.poll('s')",
	'25006', qr/standby/, 'standby: a session of before the promotion');

# Promoted

$primary->stop;
$standby->promote;
ok( $standby->poll_query_until(
		'postgres',
		"SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'pgpubsub relay'"
		  . " AND wait_event_type = 'Extension'"),
	'promoted: both databases have a relay');
is( $session->query("SELECT channel, lost FROM pgpubsub.poll('s')"),
	'|-1', 'promoted: the gap row, in the session of before');
$standby->safe_psql(
	'postgres', q{
	SELECT pgpubsub.publish('news', 'two');
	INSERT INTO orders VALUES (2, 'new');
});
like(received($standby, 'postgres', 's', 2),
	qr/^news:two orders:\{.*"id":2/, 'promoted: then events');
$standby->safe_psql('other', "SELECT pgpubsub.publish('news', 'three')");
is(received($standby, 'other', 's', 1),
	'gap:-1 news:three', 'promoted: so in the other database');
is( $standby->safe_psql('postgres',
		'SELECT datname, subscription FROM pgpubsub.stat_subscriptions ORDER BY 1'
	),
	"other|s\npostgres|s",
	'promoted: no subscription that was dropped before');
cmp_ok(
	$standby->safe_psql('postgres',
		"SELECT newest_seq FROM pgpubsub.stat_queue WHERE datname = 'postgres'"),
	'>', $seq, 'promoted: seq goes on');
is($standby->safe_psql('postgres', "SELECT pgpubsub.subscribe('new', '{news}')"),
	't', 'promoted: subscribe() works');
$session->quit;
$standby->stop;

log_is_clean($primary);
log_is_clean(
	$standby,
	qr/ERROR:  cannot execute \S+ .*on a standby/,
	qr/ERROR:  cannot execute .* during recovery/,
	qr/FATAL:  (?:streaming replication receiver "\w+" )?could not (?:connect to|receive data from|send end-of-streaming message to) .*/,
	qr/FATAL:  terminating walreceiver process due to administrator command/);
done_testing();
