# Many writers, subscriptions and readers of each kind, and a queue that is
# large enough: every subscription reads every event once, in order.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $clients      = 8;
my $transactions = 250;
my @channels     = map { "c$_" } 0 .. 4;

my $node = new_server('concurrency',
	conf => "pgpubsub.queue_size = 64MB\nlog_statement = none\n");
my $dir = PostgreSQL::Test::Utils::tempdir();

# A reader is a server-side loop that takes events into a table in the
# transaction that consumes them, until it has taken the last ones.

$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
create_taken($node, 'postgres', timeout => '200ms');
$node->safe_psql(
	'postgres', q{
	CREATE TABLE written (channel text, payload text);
	CREATE INDEX ON taken (subscription) WHERE payload = 'end';

	CREATE FUNCTION done(name) RETURNS boolean LANGUAGE sql AS $$
		SELECT EXISTS (SELECT FROM taken
		               WHERE subscription = $1 AND payload = 'end') $$;

	-- each poll a transaction of its own
	CREATE PROCEDURE read_simply(s name) LANGUAGE plpgsql AS $$
	BEGIN
		WHILE NOT done(s) LOOP
			PERFORM take(s, 1 + (random() * 50)::int);
			COMMIT;
		END LOOP;
	END $$;

	-- several polls in a transaction, some rolled back, as a whole or to a
	-- savepoint
	CREATE PROCEDURE read_wildly(s name) LANGUAGE plpgsql AS $$
	BEGIN
		WHILE NOT done(s) LOOP
			FOR i IN 1 .. (random() * 4)::int LOOP
				BEGIN
					PERFORM take(s, 1 + (random() * 30)::int);
					IF random() < 0.3 THEN
						RAISE division_by_zero;
					END IF;
				EXCEPTION WHEN division_by_zero THEN
					PERFORM FROM pgpubsub.poll(s, 1, consume => false);
				END;
			END LOOP;
			IF random() < 0.3 THEN
				ROLLBACK;
			ELSE
				COMMIT;
			END IF;
		END LOOP;
	END $$;

	-- look, then ack what was taken
	CREATE PROCEDURE read_by_ack(s name) LANGUAGE plpgsql AS $$
	DECLARE
		upto bigint;
		looked bigint;
	BEGIN
		WHILE NOT done(s) LOOP
			INSERT INTO taken (subscription, seq, channel, payload, pid, lost)
			SELECT s, p.seq, p.channel, p.payload, p.pid, p.lost
			  FROM pgpubsub.poll(s, 1 + (random() * 50)::int, '200ms', false) AS p;
			GET DIAGNOSTICS looked = ROW_COUNT;
			SELECT max(seq) INTO upto FROM taken WHERE subscription = s;
			IF random() < 0.2 THEN
				ROLLBACK;
			ELSE
				IF looked > 0 AND pgpubsub.ack(s, upto) <> looked THEN
					RAISE 'acked another number than %', looked;
				END IF;
				COMMIT;
			END IF;
		END LOOP;
	END $$;
});

# Subscriptions: which procedure reads which channels
my %subscriptions = (
	simple   => [ 'read_simply', '{c0,c1,c2,c3,c4}', 'evict' ],
	pattern  => [ 'read_simply', '{c*}',             'drop' ],
	single   => [ 'read_wildly', '{c1}',             'evict' ],
	wild     => [ 'read_wildly', '{c*}',             'block' ],
	acked    => [ 'read_by_ack', '{c0,c1,c2,c3,c4}', 'drop' ],
	shared   => [ 'read_simply', '{c*}',             'evict' ],
	killed   => [ 'read_wildly', '{c?,c*}',          'evict' ],
	late     => [ 'read_simply', '{c0,c1,c2,c3,c4}', 'drop' ],
	mixed    => [ 'read_wildly', '{c3,c4,*0}',       'evict' ],
);

# No channel but c1 is known before the first writer uses it: events of the
# first transactions come as frames.
foreach my $name (sort keys %subscriptions)
{
	my ($procedure, $channels, $on_full) = @{ $subscriptions{$name} };

	$node->safe_psql('postgres',
		"SELECT pgpubsub.subscribe('$name', '$channels', '$on_full')")
	  unless $channels =~ /c0/;
}
my $listener = open_session($node);
$listener->query_safe("LISTEN $_") foreach @channels;
foreach my $name (qw(simple acked late))
{
	my ($procedure, $channels, $on_full) = @{ $subscriptions{$name} };

	$node->safe_psql('postgres',
		"SELECT pgpubsub.subscribe('$name', '$channels', '$on_full')");
}

# Writers: one to three events in a transaction, a tenth rolled back, events
# of subtransactions, a few that are too long for a NOTIFY.  Each event says
# who wrote it and which of his it is.
$node->safe_psql(
	'postgres', q{
	CREATE FUNCTION write(who int, transaction int) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		ch text;
		message text;
	BEGIN
		FOR part IN 1 .. 1 + (random() * 2)::int LOOP
			ch := 'c' || (random() * 4)::int;
			message := format('%s-%s-%s', who, transaction * 10 + part,
				CASE WHEN random() < 0.02 THEN repeat('long', 4000) ELSE 'short' END);
			BEGIN
				PERFORM pgpubsub.publish(ch, message);
				IF random() < 0.1 THEN
					RAISE division_by_zero;
				END IF;
				INSERT INTO written VALUES (ch, message);
			EXCEPTION WHEN division_by_zero THEN
				NULL;
			END;
		END LOOP;
	END $$;
});
append_to_file(
	"$dir/writer.sql", q{
\set t :t + 1
\set luck random(1, 10)
BEGIN;
SELECT write(:client_id, :t);
\if :luck = 1
ROLLBACK;
\else
COMMIT;
\endif
});

# Start all.

my %readers;

sub start_reader
{
	my ($key, $name) = @_;
	my ($procedure) = @{ $subscriptions{$name} };
	$readers{$key} = begin_program($node, 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1',
		'-c', "CALL $procedure('$name')", 'postgres');
	$readers{$key}{name} = $name;
}

start_reader($_, $_) foreach grep { $_ ne 'late' } sort keys %subscriptions;
start_reader("shared$_", 'shared') foreach 1 .. 2;

my $writers = begin_program($node, 'pgbench', '-n', '-c', $clients, '-j', 2,
	'-t', $transactions, '-D', 't=0', '-f', "$dir/writer.sql", 'postgres');

# One reader is terminated and comes back, until the writers are done.  The
# readers of the shared subscription wait for one another, and give up now
# and then.
my %came_back;
my $rounds = 0;
while ($writers->{run}->pumpable)
{
	$writers->{run}->pump_nb;
	$node->safe_psql('postgres',
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
		  . " WHERE query LIKE 'CALL read_wildly(''killed'')'")
	  if ++$rounds % 5 == 0;
	foreach my $key (grep { /^(?:killed|shared)/ } keys %readers)
	{
		my $reader = $readers{$key};

		$reader->{run}->pump_nb;
		next if $reader->{run}->pumpable;
		$reader->{run}->finish;
		next
		  if $reader->{out} !~
		  /terminating connection|is being read by another session/;
		$came_back{ $reader->{name} }++;
		start_reader($key, $reader->{name});
	}
}
ok($writers->{run}->finish, 'all writers have written') || diag($writers->{out});

# The end: each reader stops at it.  It comes last on each channel.
start_reader('late', 'late');
$node->safe_psql('postgres',
	"SELECT pgpubsub.publish('$_', '0-0-last')")
  foreach @channels;
$node->safe_psql('postgres',
	"INSERT INTO written VALUES ('$_', '0-0-last')")
  foreach @channels;
$node->safe_psql('postgres', "SELECT pgpubsub.publish('$_', 'end')")
  foreach qw(c0 c1);

foreach my $key (sort keys %readers)
{
	my $reader = $readers{$key};
	my $tries  = 0;

	while (!$reader->{run}->finish && $tries++ < 20)
	{
		last
		  if $reader->{out} !~
		  /terminating connection|is being read by another session/;
		start_reader($key, $reader->{name});
		$reader = $readers{$key};
	}
	is($reader->{out}, '', "reader $key came to its end");
}
cmp_ok($came_back{killed} // 0, '>', 0, 'the one that was killed came back');

# c1's end may come after c0's; both are taken off here.
$node->safe_psql('postgres',
	q{SELECT take(subscription, 1000) FROM pgpubsub.stat_subscriptions});
$node->safe_psql(
	'postgres', q{
	CREATE TABLE ends AS SELECT * FROM taken WHERE payload = 'end';
	DELETE FROM taken WHERE payload = 'end'});

# Compare.

my $events = $node->safe_psql('postgres', 'SELECT count(*) FROM written');
cmp_ok($events, '>', $clients * $transactions, "$events events were written");
cmp_ok(
	$node->safe_psql('postgres',
		"SELECT count(*) FROM written WHERE length(payload) > 8000"),
	'>', 0,
	'some of them too long for a NOTIFY');

my %pattern_of = (
	single => 'c1',
	mixed  => 'c[034]');
foreach my $name (sort keys %subscriptions)
{
	my $channels = $pattern_of{$name} // 'c.';

	is( $node->safe_psql('postgres',
			"SELECT count(*), count(DISTINCT payload) FROM taken"
			  . " WHERE subscription = '$name' AND lost IS NOT NULL"),
		'0|0',
		"$name: no gap");
	is( $node->safe_psql(
			'postgres', qq{
			(SELECT 'missing', channel, left(payload, 40) FROM
				(SELECT * FROM written WHERE channel ~ '^$channels\$'
				 EXCEPT ALL
				 SELECT channel, payload FROM taken WHERE subscription = '$name') AS x
			 LIMIT 10)
			UNION ALL
			(SELECT 'too much', channel, left(payload, 40) FROM
				(SELECT channel, payload FROM taken WHERE subscription = '$name'
				 EXCEPT ALL
				 SELECT * FROM written WHERE channel ~ '^$channels\$') AS x
			 LIMIT 10)}),
		'',
		"$name: every event once");
	is( $node->safe_psql(
			'postgres', qq{
			SELECT n, seq, before FROM
				(SELECT n, seq, lag(seq) OVER (ORDER BY n) AS before
				   FROM taken WHERE subscription = '$name') AS x
			 WHERE seq <= before LIMIT 10}),
		'',
		"$name: seq increases");
	is( $node->safe_psql(
			'postgres', qq{
			SELECT writer, number, before FROM
				(SELECT writer, number, lag(number) OVER (PARTITION BY writer ORDER BY n) AS before
				   FROM (SELECT n, split_part(payload, '-', 1) AS writer, split_part(payload, '-', 2)::int AS number
				           FROM taken WHERE subscription = '$name' AND payload NOT LIKE '%last') AS y) AS x
			 WHERE number <= before LIMIT 10}),
		'',
		"$name: each writer's events in their order");
}
is( $node->safe_psql(
		'postgres', q{
		SELECT seq, count(DISTINCT (channel, payload, pid)) FROM taken
		 GROUP BY seq HAVING count(DISTINCT (channel, payload, pid)) > 1 LIMIT 10}),
	'',
	'a seq is the same event for all');
is( $node->safe_psql(
		'postgres', q{
		SELECT writer, count(DISTINCT pid) FROM
			(SELECT split_part(payload, '-', 1) AS writer, pid FROM taken
			  WHERE payload NOT LIKE '%last') AS x
		 GROUP BY writer HAVING count(DISTINCT pid) <> 1}),
	'',
	'pid is the writer\'s');

# A native client has heard the same, in the same order; of long events only
# that they were there.

my @native = grep { !/:end$/ } notifications($listener);
my @taken  = split /\n/,
  $node->safe_psql('postgres',
	"SELECT channel || ':' || CASE WHEN length(payload) > 7999 THEN 'truncated ' || length(payload) ELSE payload END"
	  . " FROM taken WHERE subscription = 'simple' ORDER BY n");
s/:\{"truncated":true,"bytes":(\d+),.*/:truncated $1/ foreach @native;
is(scalar(@native), scalar(@taken), 'LISTEN has heard as many events');
my ($different) = grep { $native[$_] ne ($taken[$_] // '') } 0 .. $#native;
is($different, undef, 'the same ones in the same order')
  || diag("$native[$different], $taken[$different]");
$listener->quit;

# The views add up.

is( $node->safe_psql(
		'postgres', q{
		SELECT s.subscription, s.delivered, t.count, s.delivered_bytes, t.bytes, pending, pending_bytes, lost
		  FROM pgpubsub.stat_subscriptions AS s
		  JOIN (SELECT subscription, count(*), sum(octet_length(payload)) AS bytes
		          FROM (SELECT * FROM taken UNION ALL SELECT * FROM ends) AS x GROUP BY 1) AS t USING (subscription)
		 WHERE s.delivered <> t.count OR s.delivered_bytes <> t.bytes
		    OR pending <> 0 OR pending_bytes <> 0 OR lost <> 0}),
	'',
	'stat_subscriptions counts what was taken');
is( $node->safe_psql(
		'postgres', q{
		SELECT c.channel, c.published, w.count, c.delivered, t.count, c.lost
		  FROM pgpubsub.stat_channels AS c
		  JOIN (SELECT channel, count(*) FROM
		          (SELECT channel FROM written
		           UNION ALL SELECT channel FROM ends WHERE subscription = 'simple') AS x GROUP BY 1) AS w USING (channel)
		  JOIN (SELECT channel, count(*) FROM
		          (SELECT * FROM taken UNION ALL SELECT * FROM ends) AS x GROUP BY 1) AS t USING (channel)
		 WHERE c.published <> w.count OR c.delivered <> t.count OR c.lost <> 0}),
	'',
	'stat_channels counts what was written');
is( $node->safe_psql(
		'postgres', q{
		SELECT q.published = (SELECT sum(published) FROM pgpubsub.stat_channels),
		       q.published_bytes = (SELECT sum(published_bytes) FROM pgpubsub.stat_channels),
		       q.messages = (SELECT sum(messages) FROM pgpubsub.stat_channels),
		       q.bad_frames, q.relay_restarts
		  FROM pgpubsub.stat_queue AS q}),
	't|t|t|0|0',
	'stat_queue is the sum');

$node->stop;
log_is_clean($node,
	qr/FATAL:  terminating connection due to administrator command/,
	qr/ERROR:  subscription "shared" is being read by another session/);
done_testing();
