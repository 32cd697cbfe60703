# A small queue and slow readers with on_full => 'drop': what was read and
# what was lost make up what was published, exactly.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my @channels = map { "c$_" } 0 .. 3;
my $node     = new_server('drop',
	conf => "pgpubsub.queue_size = 64kB\nlog_statement = none\n");
my $dir = PostgreSQL::Test::Utils::tempdir();

my %subscriptions = (
	one     => [ 'c0',     5 ],
	two     => [ 'c1',     40 ],
	some    => [ 'c1,c2',  10 ],
	pattern => [ 'c*',     20 ],
	all     => [ 'c0,c1,c2,c3', 3 ],
	never   => [ 'c3,c0',  0 ]);

$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
create_taken($node, 'postgres');
$node->safe_psql(
	'postgres', q{
	-- polls, in transactions that do not all commit, and with looks between
	CREATE PROCEDURE read_slowly(s name, max_messages int) LANGUAGE plpgsql AS $$
	BEGIN
		WHILE NOT EXISTS (SELECT FROM stopped) LOOP
			PERFORM FROM pgpubsub.poll(s, max_messages, consume => false);
			PERFORM take(s, max_messages);
			PERFORM count(*) FROM generate_series(1, (random() * 50000)::integer);
			IF random() < 0.3 THEN
				ROLLBACK;
			ELSE
				COMMIT;
			END IF;
		END LOOP;
	END $$;
	CREATE TABLE stopped ();
});
$node->safe_psql('postgres',
	"SELECT pgpubsub.subscribe('$_', '{$subscriptions{$_}[0]}', 'drop')")
  foreach sort keys %subscriptions;

# All events in their order, as a native client hears them.
my $listener = open_session($node);
$listener->query_safe("LISTEN $_") foreach @channels;

append_to_file(
	"$dir/writer.sql", q{
\set t :t + 1
\set channel random(0, 3)
\set length random(0, 300)
SELECT pgpubsub.publish('c' || :channel, concat_ws('-', :client_id, :t, repeat('x', :length)));
});

my @connection = ('-h', $node->host, '-p', $node->port);
my %readers;
foreach my $name (grep { $subscriptions{$_}[1] } sort keys %subscriptions)
{
	$readers{$name} = begin_program($node, 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1',
		'-c', "CALL read_slowly('$name', $subscriptions{$name}[1])", 'postgres');
}
my @writers = ('pgbench', '-n', @connection, '-c', 6, '-j', 2, '-f', "$dir/writer.sql");
$node->command_ok([ @writers, '-t', 700, '-D', 't=0', 'postgres' ],
	'writers do not wait for slow readers');
$node->safe_psql('postgres', 'INSERT INTO stopped DEFAULT VALUES');
foreach my $name (sort keys %readers)
{
	$readers{$name}{run}->finish;
	is($readers{$name}{out}, '', "reader $name had no error");
}

# Readers may have been as fast as writers: more than the queue takes comes when
# nobody reads.
$node->command_ok([ @writers, '-t', 200, '-D', 't=1000', 'postgres' ],
	'nor for readers that have stopped');

my @native = notifications($listener);
$listener->quit;

# the relay has all of it when this returns
settle($node, 'postgres');

# Before the rest is read: the views know what is lost already.

my $sums = q{
	SELECT s.subscription, pending, delivered, lost, published
	  FROM pgpubsub.stat_subscriptions AS s,
	       LATERAL (SELECT sum(c.published) AS published
	                  FROM pgpubsub.stat_channels AS c
	                 WHERE EXISTS (SELECT FROM unnest(s.channels) AS p
	                                WHERE c.channel LIKE replace(p, '*', '%'))) AS c
	 WHERE pending + delivered + lost <> published
	   AND subscription <> 'settle_once'};
is($node->safe_psql('postgres', $sums),
	'', 'views: pending, delivered and lost are what was published');
my %views = map { my ($name, @numbers) = split /\|/; ($name => \@numbers) }
  split /\n/,
  $node->safe_psql('postgres',
	'SELECT subscription, pending, delivered, lost FROM pgpubsub.stat_subscriptions'
  );
is( $node->safe_psql(
		'postgres', q{
		SELECT sum(published) FROM pgpubsub.stat_channels WHERE channel ~ '^c\d$'}),
	scalar(@native),
	'views: published is what was published');
cmp_ok(
	$node->safe_psql('postgres', 'SELECT used_bytes FROM pgpubsub.stat_queue'),
	'<=', 64 * 1024,
	'the queue was not exceeded');

# Read the rest, and go along all events with what each subscription read:
# each event is the next one, or a gap row says how many are skipped.

foreach my $name (sort keys %subscriptions)
{
	my $pattern = join '|',
	  map { s/\*/./r } split /,/, $subscriptions{$name}[0];
	my @published = grep { /^(?:$pattern):/ } @native;
	my ($next, $read, $lost, $wrong, $gaps) = (0, 0, 0, undef, 0);

	while ($node->safe_psql('postgres', "SELECT take('$name', 1000)") > 0) { }
	foreach my $row (
		split /\n/,
		$node->safe_psql(
			'postgres',
			"SELECT coalesce(channel || ':' || payload, 'gap:' || lost) FROM taken"
			  . " WHERE subscription = '$name' ORDER BY n"))
	{
		if ($row =~ /^gap:(.*)$/)
		{
			$gaps++;
			$lost += $1;
			$next += $1;
			$wrong //= "a gap of $1" if $1 <= 0;
			next;
		}
		$read++;
		$wrong //= "$row in place of $published[$next]"
		  if $row ne $published[$next];
		$next++;
	}
	is($read + $lost, scalar(@published),
		"$name: $read read and $lost lost in $gaps gaps are all "
		  . scalar(@published));
	is($wrong, undef, "$name: each gap row stands where events are missing");
	cmp_ok($lost, '>', 0, "$name: some were lost");
	is("$views{$name}[1] + $views{$name}[0]",
		($read - $views{$name}[0]) . " + $views{$name}[0]",
		"$name: the view had delivered and pending right");
	is($views{$name}[2], $lost, "$name: and lost, before the gap row was read");
}
is($node->safe_psql('postgres', $sums),
	'', 'views: they still add up');
is( $node->safe_psql(
		'postgres', q{
		SELECT s.subscription, s.delivered, t.read, s.lost, t.lost, s.pending
		  FROM pgpubsub.stat_subscriptions AS s
		  JOIN (SELECT subscription, count(channel) AS read, coalesce(sum(lost), 0) AS lost
		          FROM taken GROUP BY 1) AS t USING (subscription)
		 WHERE s.delivered <> t.read OR s.lost <> t.lost OR pending <> 0}),
	'',
	'views: delivered and lost are what poll() has returned');
is( $node->safe_psql(
		'postgres', q{
		SELECT c.delivered = t.read, c.lost = s.lost
		  FROM (SELECT sum(delivered) AS delivered, sum(lost) AS lost FROM pgpubsub.stat_channels) AS c,
		       (SELECT sum(lost) AS lost FROM pgpubsub.stat_subscriptions) AS s,
		       (SELECT count(channel) AS read FROM taken) AS t}),
	't|t',
	'views: channels and subscriptions have the same sums');

# An ack of what a look has shown counts what was overwritten since as lost.

sub flood
{
	my ($channel, $count) = @_;

	$node->safe_psql('postgres',
		"SELECT pgpubsub.publish('$channel', repeat('y', 100) || i) FROM generate_series(1, $count) AS i"
	);
	settle($node, 'postgres');
}

$node->safe_psql('postgres', "SELECT pgpubsub.publish('c0', 'seen $_')")
  foreach 1 .. 3;
flood('elsewhere', 1);
is( received($node, 'postgres', 'one', 3, consume => 0),
	'c0:seen 1 c0:seen 2 c0:seen 3', 'a look shows three');
my $upto = $node->safe_psql('postgres',
	"SELECT max(seq) FROM pgpubsub.poll('one', 3, consume => false)");
my $lost_of_one = "SELECT lost FROM pgpubsub.stat_subscriptions WHERE subscription = 'one'";
my $lost_before = $node->safe_psql('postgres', $lost_of_one);
flood('c1', 2000);
is($node->safe_psql('postgres', "SELECT pgpubsub.ack('one', $upto)"),
	0, 'none of them is there any more when they are acked');
is($node->safe_psql('postgres', $lost_of_one) - $lost_before, 3, 'they count as lost');
is_quiet($node, 'postgres', 'one', 'and are no gap');

# A reader that holds its transaction open does not keep events either; what
# it has read it has read.
my $session = open_session($node);
$node->safe_psql('postgres', "SELECT pgpubsub.publish('c0', 'open $_')")
  foreach 1 .. 4;
flood('elsewhere', 1);
$session->query_safe('BEGIN');
is($session->query_safe("SELECT count(*) FROM pgpubsub.poll('one', 2)"),
	2, 'a reader reads in an open transaction');
flood('c0', 1000);
my ($lost_now) = $session->query_safe(
	"SELECT lost FROM pgpubsub.poll('one', 1) WHERE lost IS NOT NULL") =~ /^(\d+)$/m;
$session->query_safe('ROLLBACK');
my ($lost_after) = $session->query_safe(
	"SELECT lost FROM pgpubsub.poll('one', 1) WHERE lost IS NOT NULL") =~ /^(\d+)$/m;
is($lost_after - $lost_now, 2,
	'after its rollback the two that it had read are lost, too');
$session->quit;

$node->stop;
log_is_clean($node);
done_testing();
