# Durable channels bloat nothing: while a transaction keeps an old snapshot and
# pg_dump hangs with its locks, the segments of the log take turns a hundred times,
# subscriptions consume and ack all the time, and no relation of the extension grows
# beyond its limits.  What grows is pg_class, a little with each segment that is
# emptied, as with every TRUNCATE; the test says by how much.
#
#   DURABLE_TURNS=100 how many turns

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $turns = $ENV{DURABLE_TURNS} || 100;
my $mb    = 1024 * 1024;
my $size  = 16 * $mb;
my $share = $size / 8;

my $node = new_server('durable_bloat', conf => q{
pgpubsub.log_size = 16MB
log_statement = none
});
my $admin = client($node);

# Each of them has a payload that the server cannot compress.  Of 50 one is too
# long for a page.
$admin->run(q{
	CREATE TABLE filler (n int, text text);
	INSERT INTO filler
	SELECT n, (SELECT string_agg(md5(n || ' ' || i), '') FROM generate_series(1, CASE n WHEN 0 THEN 300 ELSE 55 END) AS i)
	  FROM generate_series(0, 49) AS n;
	CREATE PROCEDURE fill(first int, last int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR base IN first .. last BY 100 LOOP
			PERFORM count(pgpubsub.publish('c', i || ' ' || (SELECT text FROM filler WHERE n = i % 50)))
			   FROM generate_series(base, least(base + 99, last)) AS i;
			COMMIT;
		END LOOP;
	END $$;
	CREATE PROCEDURE consume(last int) LANGUAGE plpgsql AS $$
	DECLARE
		newest int := 0;
	BEGIN
		WHILE newest < last LOOP
			SELECT max(split_part(payload, ' ', 1)::int) INTO STRICT newest FROM pgpubsub.poll('polls', 2, '30s');
			COMMIT;
		END LOOP;
	END $$;
	CREATE PROCEDURE look_and_ack(last int) LANGUAGE plpgsql AS $$
	DECLARE
		newest int := 0;
		seq bigint;
	BEGIN
		WHILE newest < last LOOP
			SELECT max(split_part(p.payload, ' ', 1)::int), max(p.seq) INTO STRICT newest, seq
			  FROM pgpubsub.poll('acks', 100, '30s', consume => false) AS p;
			PERFORM pgpubsub.ack('acks', seq);
			COMMIT;
		END LOOP;
	END $$;
	CREATE TABLE dumped AS SELECT text FROM filler CROSS JOIN generate_series(1, 100);
});
$admin->run('CREATE EXTENSION pgpubsub');
$admin->run("SELECT pgpubsub.set_durable('c'), pgpubsub.subscribe('polls', '{c}', 'block'), pgpubsub.subscribe('acks', '{c}', 'block')");

# A transaction that keeps an old snapshot
my $snapshot = client($node);
$snapshot->run('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class');

# pg_dump, whose output nobody reads
local $ENV{PGAPPNAME} = 'pg_dump';
my $dump_pid = open(my $dump, '-|', 'pg_dump', '-h', $node->host, '-p', $node->port, 'postgres') or die "pg_dump: $!";
wait_until(
	sub {
		$admin->value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump' AND query LIKE 'COPY%' AND wait_event = 'ClientWrite'");
	},
	'pg_dump that hangs');
my $locked = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE application_name = 'pg_dump' AND locktype = 'relation' AND relation = 'pgpubsub.subscription'::regclass";
cmp_ok($admin->value($locked), '>', 0, 'pg_dump hangs and has its locks');

# ----------------------------------------------------------------------------

# A third of a turn's worth of events, which the subscriptions consume meanwhile: so
# the relay gets to look at the log, be the machine as busy as it may.
my $published = 0;

sub publish_some
{
	my @clients = @_;
	my $first = $published + 1;

	$published += 400;
	$clients[0]->begin("CALL fill($first, $published)");
	$clients[1]->begin("CALL consume($published)");
	$clients[2]->begin("CALL look_and_ack($published)");
	foreach my $client (@clients)
	{
		$client->finish;
		die "$client->{error}{M}\n" if $client->{error};
	}
	return;
}

# Bytes of all relations that belong to the schema, with their toast tables and
# indexes, by name; but for the segments of the log.
sub sizes
{
	my ($like) = @_;

	return map { $_->[0] => $_->[1] } $admin->run(
		"SELECT oid::regclass, pg_total_relation_size(oid) FROM pg_class"
		  . " WHERE relnamespace = 'pgpubsub'::regnamespace AND relkind IN ('r', 'm') AND relname ~ '$like' ORDER BY 1");
}

sub total
{
	my (%sizes) = @_;
	my $total = 0;

	$total += $_ foreach values %sizes;
	return $total;
}

sub catalog_sizes
{
	return map { $_->[0] => $_->[1] } $admin->run(
		"SELECT oid::regclass, pg_total_relation_size(oid) FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r'");
}

# What the directory of the database takes on the disk besides the log, in bytes.
my $dir = $node->data_dir . '/base/' . $admin->value("SELECT oid FROM pg_database WHERE datname = 'postgres'");

sub bytes_besides_log
{
	my ($log, $total);

	# a segment may be emptied while we look
	wait_until(
		sub {
			$log   = total(sizes('^log_'));
			$total = 0;
			$total += (lstat $_)[12] // 0 foreach glob "$dir/*";
			return $log == total(sizes('^log_'));
		},
		'a look at the log and the disk');
	return 512 * $total - $log;
}

sub rotations
{
	return $admin->value("SELECT rotations FROM pgpubsub.stat_log WHERE datname = 'postgres'");
}

sub appended_bytes
{
	return $admin->value("SELECT appended_bytes FROM pgpubsub.stat_log WHERE datname = 'postgres'");
}

my @clients = map { client($node) } 1 .. 3;
publish_some(@clients) foreach 1 .. 36;
my $first         = rotations();
my $appended      = appended_bytes();
my %tables        = sizes('^(?!log_)');
my %catalogs      = catalog_sizes();
my $disk          = bytes_besides_log();
my ($most, $most_positions, $most_segment) = (0, 0, 0);

cmp_ok($first, '>=', 8, 'each segment was used');
while (rotations() < $first + $turns)
{
	publish_some(@clients);
	my %segments = sizes('^log_(row|note)');
	my %each;

	$each{ s/\D+//r } += $segments{$_} foreach keys %segments;
	my $total = total(%segments);
	$most = $total if $total > $most;
	foreach my $bytes (values %each)
	{
		$most_segment = $bytes if $bytes > $most_segment;
	}
	my $positions = total(sizes('^log_position'));
	$most_positions = $positions if $positions > $most_positions;
}
my $done        = rotations() - $first;
my $bytes       = appended_bytes() - $appended;
my $turned_over = $done * $share;
note sprintf '%d turns, %d events; at most %.1f MB of segments, %.1f MB of one, %.1f MB of positions', $done, $published, $most / $mb,
  $most_segment / $mb, $most_positions / $mb;

cmp_ok($done, '>=', $turns, 'segments have taken their turns');

# what comes between two looks of the relay is beyond a segment's share
cmp_ok($most, '<', 1.5 * $size, 'the log was within its size all the time, about');
cmp_ok($most_segment, '<', 4 * $share, 'and so was each segment');

# rows are without gaps, but for what is left at the end of a page
cmp_ok($bytes / $turned_over, '>', 0.65, 'segments are full of events');
cmp_ok($most_positions, '<', 3 * $mb, 'positions took little room');
my %after = sizes('^(?!log_)');
is_deeply(\%after, \%tables, 'no other table of the extension has grown');

# What the server's catalogs have grown by: rows of pg_class, which nobody can
# vacuum while there is an old snapshot.
my %grown = catalog_sizes();
$grown{$_} -= $catalogs{$_} foreach keys %grown;
my $catalogs = total(%grown);
note sprintf 'catalogs have grown by %d bytes a turn: %s', $catalogs / $done, join ', ', map { "$_ $grown{$_}" } grep { $grown{$_} } sort keys %grown;
cmp_ok($catalogs / $done, '<', 8192, 'catalogs grow little with each turn');
my $growth = bytes_besides_log() - $disk;
note sprintf 'the directory has grown by %.1f MB, without the log', $growth / $mb;
cmp_ok($growth, '<', $catalogs + $mb, 'the directory of the database has grown by nothing else');

is($snapshot->value('SELECT count(*) FROM dumped'), 5000, 'the old snapshot is there yet');
cmp_ok($admin->value($locked), '>', 0, 'and so is pg_dump');
is($admin->value("SELECT sum(lost) FROM pgpubsub.stat_subscriptions"), 0, 'nobody has lost anything');
is($admin->value("SELECT sum(pending) FROM pgpubsub.stat_subscriptions WHERE subscription IN ('polls', 'acks')"), 0, 'all is consumed');

# They end: what they have kept goes with the next VACUUM.
kill 'TERM', $dump_pid;
close $dump;
$snapshot->run('COMMIT');
wait_until(sub { $admin->value("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pg_dump'") eq 't' }, 'the end of pg_dump');
$admin->run('VACUUM FULL pg_class');
cmp_ok($admin->value("SELECT pg_total_relation_size('pg_class')"), '<=', $catalogs{pg_class} + 16384, 'then pg_class can be as small as before');
publish_some(@clients) foreach 1 .. 9;
is($admin->value("SELECT sum(lost) FROM pgpubsub.stat_subscriptions"), 0, 'and all goes on');

$_->quit foreach $admin, $snapshot, @clients;
$node->stop('fast');
log_is_clean($node, qr/FATAL:  connection to client lost/, qr/could not send data to client/, qr/canceling statement due to user request/);
done_testing();
