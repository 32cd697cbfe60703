# Durable channels on a standby that is promoted, and on a server recovered from
# an archive.  When commits wait for the standby and the primary is killed, the new
# primary has all events of transactions that reported their commit; those who
# read go on where they were, and nobody has done anything for it.  A server
# that was recovered to a point in time goes on from what its own tables say.
#
#   DURABLE_FAILOVERS=2 how many primaries are killed; 2 by default
#   DURABLE_SEED=...    repeats the dice, not the timing

use strict;
use warnings;

use PgPubsub::Durable;
use PgPubsub::Test;
use PostgreSQL::Test::Cluster;
use Test::More;

my $failovers = $ENV{DURABLE_FAILOVERS} // 2;

# Failover

my $primary = new_server('node_0', init => { allows_streaming => 1 }, conf => q{
pgpubsub.queue_size = 1MB
pgpubsub.staging_size = 512kB
pgpubsub.log_size = 64MB
pgpubsub.publish_timeout = 30s
wal_keep_size = 2GB
log_statement = none
});
PgPubsub::Durable->prepare($primary, pattern => 1);

my @nodes = ($primary, map { PostgreSQL::Test::Cluster->new("node_$_") } 1 .. $failovers);
my $load = PgPubsub::Durable->begin(nodes => \@nodes);

foreach my $round (1 .. $failovers)
{
	my $standby = $nodes[$round];

	# a standby of who is the primary now
	$load->wait_for_transactions(int rand 200) or last;
	$primary->backup("backup_$round");
	$standby->init_from_backup($primary, "backup_$round", has_streaming => 1);
	$standby->start;

	# from when a commit is seen to wait for it, all do
	$primary->safe_psql('postgres', "ALTER SYSTEM SET synchronous_standby_names = '*'");
	$primary->reload;
	ok( $primary->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'"),
		"failover $round: there is a synchronous standby");
	ok( $primary->poll_query_until(
			'postgres', "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"),
		"failover $round: commits wait for it");
	$load->wait_for_transactions(int rand 300) or last;

	kill_server($primary);
	$standby->promote;
	$primary = $standby;
	$load->wait_for_transactions(100) or last;
	ok(1, "failover $round: writers go on");
}
$load->finish($primary);
$load->check($primary);
$primary->stop('fast');
$load->log_is_sound(
	$_,
	qr/FATAL:  (?:streaming replication receiver "\w+" )?could not (?:connect to|receive data from|send end-of-streaming message to) .*/,
	qr/FATAL:  terminating walreceiver process due to administrator command/) foreach @nodes;

# Recovery to a point in time

my $source = new_server('source', init => { allows_streaming => 1, has_archiving => 1 }, conf => q{
pgpubsub.log_size = 16MB
log_statement = none
});
$source->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	SELECT pgpubsub.set_durable('news'), pgpubsub.set_durable('orders');
	SELECT pgpubsub.subscribe('s', '{news,orders}'),
	       pgpubsub.subscribe('acks', '{news}', 'drop'),
	       pgpubsub.subscribe('idle', '{news}', 'block')});
create_taken($source, 'postgres');
$source->backup('backup');

# Events of these numbers, on both channels in turn, and of a transaction each.
sub publish_numbers
{
	my ($node, $from, $to) = @_;
	my $client = client($node);

	$client->publish(($_ % 2 ? 'news' : 'orders'), $_) foreach $from .. $to;
	$client->quit;
	settle($node, 'postgres');
	return;
}

# What the table has of the subscription, without spaces.
sub taken
{
	my ($node, $subscription) = @_;

	return $node->safe_psql('postgres',
		"SELECT string_agg(coalesce(payload, 'gap'), ' ' ORDER BY n) FROM taken WHERE subscription = '$subscription'");
}

sub numbers { return join ' ', @_; }

sub odd { return grep { $_ % 2 } @_; }

publish_numbers($source, 1, 100);
is($source->safe_psql('postgres', "SELECT take('s', 40)"), 40, 'some is read');
my $seq = $source->safe_psql('postgres', "SELECT seq FROM pgpubsub.poll('acks', 20, consume => false) ORDER BY 1 DESC LIMIT 1");
is($source->safe_psql('postgres', "SELECT pgpubsub.ack('acks', $seq)"), 20, 'and some is acked');
$source->safe_psql('postgres', "SELECT pg_create_restore_point('between')");

# what happens afterwards has not happened for who is recovered to that point
publish_numbers($source, 101, 200);
is($source->safe_psql('postgres', "SELECT take('s', 110)"), 110, 'more is read');
is(taken($source, 's'), numbers(1 .. 150), 'in order');
$source->safe_psql(
	'postgres', q{
	SELECT pgpubsub.subscribe('later', '{news}', start_at => 'oldest');
	SELECT pgpubsub.unsubscribe('idle');
	SELECT pgpubsub.set_durable('orders', false)});
my $newest = $source->safe_psql('postgres', "SELECT newest_seq FROM pgpubsub.stat_queue WHERE datname = 'postgres'");
my $wal = $source->safe_psql('postgres', 'SELECT pg_walfile_name(pg_switch_wal())');
ok( $source->poll_query_until(
		'postgres', "SELECT coalesce(last_archived_wal >= '$wal', false) FROM pg_stat_archiver"),
	'all that is archived');

my $recovered = PostgreSQL::Test::Cluster->new('recovered');
$recovered->init_from_backup($source, 'backup', has_restoring => 1, standby => 0);
$recovered->append_conf(
	'postgresql.conf', q{
recovery_target_name = 'between'
recovery_target_action = promote
archive_mode = off
});
$recovered->start;
ok($recovered->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()'), 'a server recovered to a point between');

is( $recovered->safe_psql(
		'postgres', 'SELECT string_agg(subscription, \' \' ORDER BY subscription) FROM pgpubsub.stat_subscriptions'),
	'acks idle s',
	'it has the subscriptions of then');
is(taken($recovered, 's'), numbers(1 .. 40), 'and the results of then');
publish_numbers($recovered, 301, 320);
is($recovered->safe_psql('postgres', "SELECT take('s', 1000)"), 80, 'who read 40 of 100 goes on there');
is(taken($recovered, 's'), numbers(1 .. 100, 301 .. 320), 'each event once, in order, no gap row');
is($recovered->safe_psql('postgres', "SELECT take('acks', 1000)"), 40, 'so does who has acked 20');
is(taken($recovered, 'acks'), numbers(odd(41 .. 100), odd(301 .. 320)), 'from there on');
is($recovered->safe_psql('postgres', "SELECT take('idle', 1000)"), 60, 'who had not read');
is(taken($recovered, 'idle'), numbers(odd(1 .. 100), odd(301 .. 320)), 'reads all');
is( $recovered->safe_psql(
		'postgres', "SELECT string_agg(DISTINCT durable::text, ' ') FROM pgpubsub.stat_channels WHERE channel IN ('news', 'orders')"),
	'true',
	'both channels are durable there');
cmp_ok($recovered->safe_psql('postgres', "SELECT min(seq) FROM taken WHERE payload = '301'"),
	'>', $newest, 'no seq is used again');

# a crash of it
kill_server($recovered);
$recovered->start;
publish_numbers($recovered, 321, 330);
is($recovered->safe_psql('postgres', "SELECT take('s', 1000)"), 10, 'after a crash of that server it goes on');
is(taken($recovered, 's'), numbers(1 .. 100, 301 .. 330), 'in order, no gap row');

$recovered->stop('fast');
$source->stop('fast');
server_is_sound($source);
server_is_sound($recovered);
done_testing();
