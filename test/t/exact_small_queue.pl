# Nothing twice, nothing out of order, and of what is missed the exact number:
# many writers in both publish modes, subscriptions of each kind, readers that
# stop, are terminated, come back and roll back, and a small queue.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $writers      = 6;
my $transactions = 1500;
my $seed         = $ENV{PGPUBSUB_SEED} // time;
note "PGPUBSUB_SEED=$seed repeats the dice";

my $node = new_server('exact', conf => q{
pgpubsub.queue_size = 64kB
pgpubsub.staging_size = 64kB
pgpubsub.evict_timeout = 20ms
pgpubsub.publish_timeout = 30s
log_statement = none
});
my $dir = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
create_taken($node, 'postgres', timeout => '100ms', payload => "split_part(p.payload, ' ', 1)");
my $admin = client($node);

$admin->run(
	q{
	CREATE TABLE written (
		channel text, writer int, n int, id text, mode text);
	CREATE INDEX ON taken (subscription) WHERE payload LIKE 'end%';

	-- One transaction: events on some of the channels, some in subtransactions
	-- that are rolled back, sometimes all of it.  n counts within writer and
	-- channel.  Some payloads are too long for a NOTIFY.
	CREATE PROCEDURE write(who int, transactions int, mode text, seed float) LANGUAGE plpgsql AS $$
	DECLARE
		counters int[] := '{0,0,0,0,0}';
		before   int[];
		channel  int;
	BEGIN
		PERFORM setseed(seed);
		FOR t IN 1 .. transactions LOOP
			PERFORM set_config('pgpubsub.publish_mode', mode, true);
			before := counters;
			FOR i IN 1 .. 1 + (random() * 4)::int LOOP
				BEGIN
					channel := 1 + floor(random() * 5)::int;
					counters[channel] := counters[channel] + 1;
					INSERT INTO written VALUES
						('c' || channel, who, counters[channel],
						 who || ':' || counters[channel], mode);
					PERFORM pgpubsub.publish('c' || channel,
						who || ':' || counters[channel] || ' ' ||
						repeat('x', CASE WHEN random() < 0.02 THEN 9000
						                 ELSE (random() * 300)::int END));
					IF random() < 0.1 THEN
						RAISE division_by_zero;
					END IF;
				EXCEPTION WHEN division_by_zero THEN
					counters[channel] := counters[channel] - 1;
				END;
			END LOOP;
			IF random() < 0.1 THEN
				counters := before;
				ROLLBACK;
			ELSE
				COMMIT;
			END IF;
		END LOOP;
	END $$;
});

# Which channels, which on_full, how wild a reader
my %subscriptions = (
	drop_one      => [ '{c1}',             'drop',  1 ],
	drop_all      => [ '{c1,c2,c3,c4,c5}', 'drop',  1 ],
	drop_pattern  => [ '{c*}',             'drop',  1 ],
	evict_one     => [ '{c2}',             'evict', 1 ],
	evict_some    => [ '{c1,c3,c5}',       'evict', 1 ],
	evict_pattern => [ '{c*}',             'evict', 1 ],
	evict_slow    => [ '{*}',              'evict', 2 ],
	block_one     => [ '{c3}',             'block', 0 ],
	block_some    => [ '{c4,c*2}',         'block', 1 ],
	block_pattern => [ '{c*}',             'block', 1 ],
);
my @names = sort keys %subscriptions;

# Patterns first: the first events of a channel find the relay not listening.
foreach my $name (sort { $b =~ /pattern|slow/ <=> $a =~ /pattern|slow/ } @names)
{
	my ($channels, $on_full) = @{ $subscriptions{$name} };

	$admin->run("SELECT pgpubsub.subscribe('$name', '$channels', '$on_full')");
}

# A reader: takes events into a table in the transaction that consumes them,
# until it has the last ones.  It dies only of what it should not meet.
sub read_subscription
{
	my ($name, $wildness, $number) = @_;
	my $session;

	srand($seed + $number);
	for (;;)
	{
		if (!$session || $session->{closed})
		{
			$session = client($node, 'postgres', application_name => "reader");
		}
		my $last = eval {
			my $done = $session->value(
				"SELECT count(*) FROM taken WHERE subscription = '$name' AND payload LIKE 'end%'"
				  . " HAVING count(*) = (SELECT count(*) FROM ends WHERE subscription = '$name')"
			);
			if (!defined $done)
			{
				my $dice = rand;

				$session->run('BEGIN');
				for (0 .. int(rand 3))
				{
					my $max = 1 + int(rand 100);

					if ($dice < 0.15 * $wildness)
					{
						$session->run('SAVEPOINT s');
						$session->run("SELECT take('$name', $max)");
						$session->run('ROLLBACK TO s');
					}
					$session->run("SELECT take('$name', $max)");
				}
				$session->run($dice < 0.1 * $wildness ? 'ROLLBACK' : 'COMMIT');
			}
			$done;
		};
		if ($@)
		{
			die "$name: $@" unless $session->{closed};
			next;
		}
		last if defined $last;

		# stop for a while: until there are more events, or no writers
		if ($wildness && rand() < 0.1 * $wildness)
		{
			# it may be terminated here too, by who has seen it read
			eval {
				my $published =
				  $session->queue('published');

				$session->quit if rand() < 0.5;
				$session = client($node) if $session->{closed};
				wait_until(
					sub {
						$session->value(
							"SELECT published > $published + 400 OR relay_state = 'full' OR EXISTS (SELECT FROM flags)"
							  . " FROM pgpubsub.stat_queue") eq 't';
					},
					'more events');
				1;
			} or $session->{closed} or die "$name: $@";
		}
	}
	$session->quit;
}

$admin->run(
	q{
	CREATE TABLE flags (flag text);
	CREATE TABLE ends (subscription text, channel text);
	INSERT INTO ends
	SELECT subscription, 'c' || i
	  FROM pgpubsub.stat_subscriptions, generate_series(1, 5) AS i
	 WHERE EXISTS (SELECT FROM unnest(channels) AS c
	                WHERE 'c' || i LIKE replace(c, '*', '%'))});

my @writing;
my $number = 0;
foreach my $name (@names)
{
	my $mine = ++$number;

	in_child("$dir/$name",
		sub { read_subscription($name, $subscriptions{$name}[2], $mine) });
}
foreach my $who (1 .. $writers)
{
	my $mode = $who % 2 ? 'transactional' : 'async';
	my $dice = ($seed * $who % 1000) / 1000;

	push @writing,
	  client($node, 'postgres', application_name => 'writer')
	  ->begin("CALL write($who, $transactions, '$mode', $dice)");
}

# Terminate readers at random while the writers write; about ten a second.
srand($seed);
my $terminated = 0;
until (!grep { !$_->done } @writing)
{
	my $count = $admin->queue('published');

	$terminated += $admin->value(
		q{SELECT count(pg_terminate_backend(pid))
		    FROM (SELECT pid FROM pgpubsub.stat_subscriptions
		           WHERE pid IS NOT NULL ORDER BY random() LIMIT 1) AS victim});
	wait_until(
		sub {
			$admin->queue('published') >
			  $count + 150
			  || !grep { !$_->done } @writing;
		},
		'more events');
}
is(join(' ', map { $_->sqlstate } @writing),
	' ' x ($writers - 1), 'the writers have met no error');
$_->quit foreach @writing;
cmp_ok($terminated, '>', 5, "terminated $terminated readers");

# What the relay has queued is what was written.

my $written = $admin->value('SELECT count(*) FROM written');
wait_until(
	sub {
		$admin->value(
			"SELECT sum(published) FROM pgpubsub.stat_channels WHERE channel ~ '^c[1-5]\$'"
		) >= $written;
	},
	'all events in the queue');
is( $admin->value(
		q{SELECT count(*) FROM (
			(SELECT channel, published FROM pgpubsub.stat_channels WHERE channel ~ '^c[1-5]$'
			 EXCEPT ALL
			 SELECT channel, count(*) FROM written GROUP BY channel)
			UNION ALL
			(SELECT channel, count(*) FROM written GROUP BY channel
			 EXCEPT ALL
			 SELECT channel, published FROM pgpubsub.stat_channels)) AS difference}
	),
	0,
	"the queue has seen $written events, by channel what was written");

# The last event of each channel
$admin->run(
	q{INSERT INTO flags VALUES ('written');
	  INSERT INTO written SELECT 'c' || i, 0, 1, 'end:c' || i, 'end' FROM generate_series(1, 5) AS i;
	  SELECT pgpubsub.publish('c' || i, 'end:c' || i) FROM generate_series(1, 5) AS i});
join_children('the readers have met no error');

note $admin->value(
	"SELECT string_agg(format('%s: %s read, %s lost', subscription, count, lost), E'\\n') FROM"
	  . " (SELECT subscription, count(payload), sum(lost) AS lost FROM taken GROUP BY 1 ORDER BY 1) AS t");
note $admin->queue("format('full %s times for %s ms, %s evictions', full_count, full_ms, evictions)");

no_rows($admin, 
	q{SELECT subscription, channel, payload, count(*) FROM taken
	   WHERE payload IS NOT NULL GROUP BY 1, 2, 3 HAVING count(*) > 1},
	'nothing is read twice');
no_rows($admin, 
	q{SELECT * FROM taken
	   WHERE payload IS NOT NULL
	     AND NOT EXISTS (SELECT FROM written AS w WHERE w.channel = taken.channel AND w.id = payload)},
	'nothing is read that was not written');
no_rows($admin, 
	q{SELECT * FROM taken WHERE lost < 0},
	'what was lost is always known');
no_rows($admin, 
	q{SELECT * FROM (
		SELECT subscription, channel, payload, seq, lag(seq) OVER (PARTITION BY subscription ORDER BY n) AS before
		  FROM taken WHERE payload IS NOT NULL) AS t WHERE before >= seq},
	'seq increases');
no_rows($admin, 
	q{SELECT * FROM (
		SELECT subscription, channel, payload,
		       lag(split_part(payload, ':', 2)::int) OVER (PARTITION BY subscription, channel, split_part(payload, ':', 1) ORDER BY n) AS before
		  FROM taken WHERE payload NOT LIKE 'end%') AS t
	   WHERE before >= split_part(payload, ':', 2)::int},
	'the events of a writer come in order, on each channel');
no_rows($admin, 
	q{SELECT channel, payload, count(DISTINCT seq), count(DISTINCT pid) FROM taken
	   WHERE payload IS NOT NULL GROUP BY 1, 2 HAVING count(DISTINCT seq) > 1 OR count(DISTINCT pid) > 1},
	'an event has the same seq and the same pid for all');
no_rows($admin, 
	q{SELECT channel, writer, n, count FROM (
		SELECT channel, split_part(payload, ':', 1) AS writer, count(DISTINCT pid), 0 AS n
		  FROM taken WHERE payload NOT LIKE 'end%' GROUP BY 1, 2) AS t
	   WHERE count <> 1},
	'a writer has one pid');
no_rows($admin, 
	q{WITH expected AS (
		SELECT subscription, count(*) AS written
		  FROM ends JOIN written USING (channel) GROUP BY 1),
	  got AS (
		SELECT subscription, count(payload) AS read, coalesce(sum(lost), 0) AS lost
		  FROM taken GROUP BY 1)
	  SELECT * FROM expected LEFT JOIN got USING (subscription)
	   WHERE read + lost IS DISTINCT FROM written},
	'read + lost = written');
no_rows($admin, 
	q{WITH got AS (
		SELECT subscription, count(payload) AS read, coalesce(sum(lost), 0) AS lost
		  FROM taken GROUP BY 1)
	  SELECT subscription, s.delivered, read, s.lost, got.lost, s.pending
	    FROM pgpubsub.stat_subscriptions AS s JOIN got USING (subscription)
	   WHERE (s.delivered, s.lost, s.pending) IS DISTINCT FROM (read, got.lost::bigint, 0::bigint)},
	'stat_subscriptions says the same');
no_rows($admin, 
	q{WITH got AS (
		SELECT e.channel, count(t.payload) AS read,
		       count(DISTINCT e.subscription) AS subscriptions
		  FROM ends AS e LEFT JOIN taken AS t USING (subscription, channel) GROUP BY 1),
	  all_written AS (SELECT channel, count(*) AS written FROM written GROUP BY 1)
	  SELECT channel, s.subscriptions, g.subscriptions, s.published, written,
	         s.delivered, read, s.lost, g.subscriptions * written - read
	    FROM pgpubsub.stat_channels AS s JOIN got AS g USING (channel) JOIN all_written USING (channel)
	   WHERE (s.subscriptions::bigint, s.published, s.delivered, s.lost)
	         IS DISTINCT FROM (g.subscriptions, written, read, g.subscriptions * written - read)},
	'stat_channels says the same');
no_rows($admin, 
	q{SELECT subscription, on_full, sum(t.lost)
	    FROM taken AS t JOIN pgpubsub.stat_subscriptions USING (subscription)
	   WHERE on_full = 'block' AND t.lost IS NOT NULL GROUP BY 1, 2},
	'those with block have missed nothing');
no_rows($admin, 
	q{SELECT subscription, e.channel, w.id
	    FROM ends AS e JOIN written AS w USING (channel) JOIN pgpubsub.stat_subscriptions USING (subscription)
	   WHERE on_full = 'block'
	     AND NOT EXISTS (SELECT FROM taken AS t WHERE t.subscription = e.subscription AND t.channel = e.channel AND t.payload = w.id)},
	'and have read everything');
cmp_ok($admin->queue('full_count'),
	'>', 0, 'the queue was full');
cmp_ok($admin->queue('evictions'),
	'>', 0, 'some were evicted');
cmp_ok($admin->value("SELECT sum(lost) FROM taken WHERE subscription LIKE 'drop%'"),
	'>', 0, 'some events were dropped');
is($admin->queue('bad_frames'),
	0, 'no frame was bad');
is($admin->queue('relay_restarts'),
	0, 'the relay was not started anew');
is($admin->queue('staging_used_bytes'),
	0, 'the staging queue is empty');
$node->stop('fast');
server_is_sound($node);
done_testing();
