# pg_upgrade from an older server with pgpubsub in use keeps attachments,
# subscriptions, and of durable channels whatever was not read yet.  Needs that
# server, with pgpubsub installed:
# PGPUBSUB_OLD_SERVER is the directory above its bin, PGPUBSUB_OLD_LIBRARIES one
# with libraries that it may need besides.  scripts/test-upgrade sees to both.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'PGPUBSUB_OLD_SERVER names no older server'
  unless $ENV{PGPUBSUB_OLD_SERVER};

# the new server's programs miss none of them, so they look for none of them
$ENV{LD_LIBRARY_PATH} = $ENV{PGPUBSUB_OLD_LIBRARIES}
  if $ENV{PGPUBSUB_OLD_LIBRARIES};

# The log of durable channels is small enough for its segments to take turns.
my $conf = q{
shared_preload_libraries = 'pgpubsub'
log_min_messages = debug1
pgpubsub.log_size = 16MB
};
my %init = (extra => [ '-k', '-E', 'UTF8', '--locale=C' ]);
my $old = PostgreSQL::Test::Cluster->new('old',
	install_path => $ENV{PGPUBSUB_OLD_SERVER});
my $new = PostgreSQL::Test::Cluster->new('new');

$old->init(%init);
$old->append_conf('postgresql.conf', $conf);
$old->start;
note($old->safe_psql('postgres', 'SELECT version()'));

# What of it is to be the same afterwards.
sub attachments
{
	my ($node) = @_;

	return $node->safe_psql('shop', 'SELECT * FROM pgpubsub.attachments ORDER BY trigger');
}

sub table
{
	my ($node, $db) = @_;

	return $node->safe_psql($db, 'SELECT * FROM pgpubsub.subscription ORDER BY name');
}

sub subscriptions
{
	my ($node) = @_;

	return $node->safe_psql('shop', q{
		SELECT datname, subscription, owner, (SELECT array_agg(c ORDER BY c) FROM unnest(channels) AS c), on_full
		  FROM pgpubsub.stat_subscriptions ORDER BY datname, subscription});
}

sub launcher_lines
{
	my ($file) = @_;

	return scalar(() = slurp_file($file) =~ /pgpubsub (?:launcher|relay)/g);
}

# ----------------------------------------------------------------------------
# Durable channels, in database kept
# ----------------------------------------------------------------------------

# What each subscription reads; what was published, in order: channel, mark, bytes.
my %reads = (
	part    => 'items parts',
	nothing => 'items parts',
	acked   => 'parts',
	pattern => 'parts',
	all     => 'items parts',
	later   => 'items parts');
my @published;
my $marks = 0;

# Statements that publish an event of about that size, by the table or by
# publish(); it is expected from now on: call this in the order of the commits.
sub event
{
	my ($channel, $bytes) = @_;
	my $mark = ++$marks;

	push @published, [ $channel, $mark, $bytes ];
	return $channel eq 'items'
	  ? "INSERT INTO items VALUES ($mark, filler($bytes))"
	  : "SELECT pgpubsub.publish('parts', '$mark ' || filler($bytes))";
}

# Have the subscription consume so many events at most, into table taken.
sub take
{
	my ($node, $subscription, $max) = @_;

	settle($node, 'kept');
	return $node->safe_psql(
		'kept', qq{
		WITH rows AS (
			INSERT INTO taken (subscription, seq, channel, mark, filler, lost)
			SELECT '$subscription', seq, channel, mark, filler, lost FROM events('$subscription', $max)
			RETURNING 1)
		SELECT count(*) FROM rows});
}

# Read all that is there, fewer than a thousand events at a time.
sub take_all
{
	my ($node, $subscription) = @_;

	1 while take($node, $subscription, 700) > 0;
	return;
}

# What the subscription is to have, once it has read all.
sub expected
{
	my ($subscription) = @_;

	return map { "$_->[0] $_->[1] $_->[2]" }
	  grep { $reads{$subscription} =~ /\b$_->[0]\b/ } @published;
}

# What the subscription has had is what was published, in order, but for the first
# ones; all of it, or so many.
sub has_had
{
	my ($node, $subscription, $name, %params) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @expected = expected($subscription);
	my @had      = split /\n/, $node->safe_psql(
		'kept', qq{
		SELECT coalesce(channel || ' ' || mark || ' ' || CASE WHEN filler = filler(length(filler)) THEN length(filler) ELSE -1 END, 'gap ' || lost)
		  FROM taken WHERE subscription = '$subscription' ORDER BY n});

	splice @expected, 0, $params{without} // 0;
	splice @expected, $params{count} if defined $params{count};
	my ($had, $expected) = (scalar @had, scalar @expected);
	foreach my $i (0 .. $#had)
	{
		next if $i < @expected && $had[$i] eq $expected[$i];
		($had, $expected) = ("$i: $had[$i]", "$i: " . ($expected[$i] // 'nothing'));
		last;
	}
	is($had, $expected, $name);
	is( $node->safe_psql(
			'kept', qq{
			SELECT count(*) FROM (SELECT seq, lag(seq) OVER (ORDER BY n) AS before FROM taken WHERE subscription = '$subscription') AS t
			 WHERE seq <= before}),
		0,
		"$name: by ascending seq");
	return;
}

# Each subscription has to read what it has not consumed: so many events it has.
sub are_pending
{
	my ($node, $name, %consumed) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	settle($node, 'kept');
	is( $node->safe_psql('kept',
			"SELECT subscription, pending, lost FROM pgpubsub.stat_subscriptions WHERE datname = 'kept' ORDER BY 1"),
		join("\n", map { "$_|" . (expected($_) - $consumed{$_}) . '|0' } sort keys %consumed),
		$name);
	return;
}

# Of each relation of the log: whether it is the extension's, its options, and, of
# those that a relay does not write to, its bytes on disk.
sub relations
{
	my ($node) = @_;

	return $node->safe_psql(
		'kept', q{
		SELECT c.relname, c.relispopulated, c.reloptions, t.reloptions,
		       (SELECT count(*) FROM pg_depend WHERE objid = c.oid AND deptype = 'e'),
		       CASE WHEN c.relname LIKE 'log_row%' THEN pg_relation_size(c.oid) END,
		       CASE WHEN c.relname LIKE 'log_row%' THEN pg_relation_size(t.oid) END
		  FROM pg_class AS c LEFT JOIN pg_class AS t ON t.oid = c.reltoastrelid
		 WHERE c.relnamespace = 'pgpubsub'::regnamespace AND c.relkind = 'm' ORDER BY 1});
}

# Events of all sizes on both channels: some that are kept out of line, some
# thousand of one transaction, and all in all several segments.
sub publish_all_sizes
{
	my ($node) = @_;
	my @statements;

	foreach my $bytes (0, 10, 300, 3000, 9000, 50_000, 1)
	{
		push @statements, event($_, $bytes) foreach qw(items parts items);
	}
	$node->safe_psql('kept', join ';', @statements);

	# one transaction each
	my $first = $marks + 1;
	event($_ % 2 ? 'items' : 'parts', 2000) foreach 1 .. 1500;
	$node->safe_psql('kept', "CALL one_by_one($first, $marks)");

	# bulk
	$first = $marks + 1;
	event('items', 100) foreach 1 .. 1500;
	$node->safe_psql('kept', "INSERT INTO items SELECT i, filler(100) FROM generate_series($first, $marks) AS i");
	return;
}

# Two transactions, of which the one that began first commits last.
sub publish_overtaken
{
	my ($node) = @_;
	my $late = client($node, 'kept');
	my $mark = $marks + 2;

	$late->run('BEGIN');
	$late->run("INSERT INTO items VALUES ($mark, filler(20))");
	$node->safe_psql('kept', event('parts', 30));
	event('items', 20);
	$late->run('COMMIT');
	$late->quit;
	return;
}

# What the old server leaves to be read.
sub fill_log
{
	my ($node) = @_;

	$node->safe_psql('postgres', 'CREATE DATABASE kept');
	$node->safe_psql(
		'kept', q{
		CREATE EXTENSION pgpubsub;
		CREATE TABLE items (mark int PRIMARY KEY, filler text);
		CREATE TABLE taken (n bigint GENERATED ALWAYS AS IDENTITY, subscription text, seq bigint, channel text, mark int, filler text, lost bigint);
		-- text that does not become short by compression
		CREATE FUNCTION filler(bytes int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
			SELECT left(string_agg(md5(i::text), ''), bytes) FROM generate_series(0, bytes / 32) AS i
		$$;
		CREATE PROCEDURE one_by_one(first int, last int) LANGUAGE plpgsql AS $$
		BEGIN
			FOR i IN first .. last LOOP
				IF (i - first) % 2 = 0 THEN
					INSERT INTO items VALUES (i, filler(2000));
				ELSE
					PERFORM pgpubsub.publish('parts', i || ' ' || filler(2000));
				END IF;
				COMMIT;
			END LOOP;
		END $$;
		CREATE FUNCTION events(s name, max_messages int, consume boolean = true)
		RETURNS TABLE (seq bigint, channel text, mark int, filler text, lost bigint)
		LANGUAGE sql AS $$
			SELECT p.seq, p.channel, coalesce((j.new ->> 'mark')::int, split_part(p.payload, ' ', 1)::int),
			       coalesce(j.new ->> 'filler', split_part(p.payload, ' ', 2)), p.lost
			  FROM pgpubsub.poll(s, max_messages, '0', consume) AS p
			 CROSS JOIN LATERAL (SELECT CASE WHEN p.channel = 'items' THEN p.payload::json -> 'new' END) AS j(new)
		$$;
		SELECT pgpubsub.attach('items', durable => true), pgpubsub.set_durable('p*');
		SELECT pgpubsub.subscribe('part', '{items,parts}', 'block'),
		       pgpubsub.subscribe('nothing', '{items,parts}', 'block'),
		       pgpubsub.subscribe('acked', '{parts}', 'block'),
		       pgpubsub.subscribe('pattern', '{p*}', 'block'),
		       pgpubsub.subscribe('all', '{items,parts}', 'block')});
	publish_all_sizes($node);
	publish_overtaken($node);

	is(take($node, 'part', 1000), 1000, 'a part is consumed');
	is(take($node, 'pattern', 3), 3, 'a small part by a pattern');
	settle($node, 'kept');
	is( $node->safe_psql('kept',
			"SELECT pgpubsub.ack('acked', (SELECT seq FROM events('acked', 10, false) ORDER BY seq OFFSET 4 LIMIT 1))"),
		5, 'a part is acked');
	take_all($node, 'all');
	has_had($node, 'all', 'one subscription has read all');
	cmp_ok(
		$node->safe_psql('kept', "SELECT segments FROM pgpubsub.stat_log WHERE datname = 'kept'"),
		'>=', 3, 'there are several segments');
	return;
}

# The last events of the old server are in the log without a note: its relay stands
# still, and then it has none, since the server does not preload the library any
# more.
sub leave_without_notes
{
	my ($node) = @_;
	my $watcher = client($node);

	stop_process($watcher, relay_pid($node, 'kept'));
	$watcher->quit;
	publish_overtaken($node);
	kill_server($node);
	$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
	$node->start;
	$node->safe_psql('kept', event('parts', 9000));
	publish_overtaken($node);
	return;
}

# What the new server has of what was left to be read, and of what comes then.
sub check_log
{
	my ($node, $consumed_by_all) = @_;
	my %consumed = (part => 1000, nothing => 0, acked => 5, pattern => 3, all => $consumed_by_all);

	are_pending($node, 'what was not consumed is pending', %consumed);
	is($node->safe_psql('kept', "SELECT pgpubsub.subscribe('later', '{items,parts}', 'block', 'oldest')"),
		't', 'another one subscribes');
	is($node->safe_psql('kept', 'SELECT count(*) - count(DISTINCT id) FROM pgpubsub.subscription'),
		0, 'it has an id of its own');
	is(take($node, 'nothing', 1234), 1234, 'who has consumed nothing takes a part');
	take_all($node, $_) foreach qw(part acked pattern later);
	has_had($node, $_, "$_ has had all") foreach qw(part pattern later);
	has_had($node, 'acked', 'acked goes on behind what was acked', without => 5);
	has_had($node, 'nothing', 'nothing begins at the first', count => 1234);

	# new ones, of which two have had all; and restarts, clean or not
	%consumed = map { $_ => scalar expected($_) } keys %reads;
	$consumed{nothing} = 1234;
	publish_all_sizes($node);
	foreach my $subscription (qw(part all))
	{
		take_all($node, $subscription);
		has_had($node, $subscription, "$subscription has had new ones");
		$consumed{$subscription} = expected($subscription);
	}
	$node->restart;
	wait_for_relay($node, 'kept');
	are_pending($node, 'after a restart as much is pending as before', %consumed);
	take_all($node, $_) foreach qw(nothing acked pattern);
	kill_server($node);
	$node->start;
	wait_for_relay($node, 'kept');
	publish_overtaken($node);
	take_all($node, $_) foreach keys %reads;
	has_had($node, $_, "$_ has had all, up to the end", without => $_ eq 'acked' ? 5 : 0) foreach sort keys %reads;
	return;
}

# ----------------------------------------------------------------------------
# Use
# ----------------------------------------------------------------------------

$old->safe_psql(
	'postgres', q{
	CREATE ROLE app LOGIN;
	CREATE DATABASE shop;
	CREATE DATABASE other});
# one is of the first version, as pg_upgrade leaves it
$old->safe_psql('shop', q{CREATE EXTENSION pgpubsub VERSION '1.0'});
$old->safe_psql('other', 'CREATE EXTENSION pgpubsub');
$old->safe_psql(
	'shop', q{
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgpubsub TO app;
	CREATE TABLE orders (id int PRIMARY KEY, status text, note text);
	CREATE TABLE measures (at int, value int) PARTITION BY RANGE (at);
	CREATE TABLE measures_1 PARTITION OF measures FOR VALUES FROM (0) TO (10);
	SELECT pgpubsub.attach('orders', 'Orders of "today"', watch => '{status}',
		condition => $$NEW.note IS DISTINCT FROM 'quiet'$$, operations => '{insert,update}');
	SELECT pgpubsub.attach('orders', 'statements', level => 'statement', format => 'cloudevents');
	SELECT pgpubsub.attach('measures', publish_mode => 'async');
	SELECT pgpubsub.subscribe('all', '{*}', 'drop'),
	       pgpubsub.subscribe('Some "thing"', ARRAY['Orders of "today"', 'with, comma']),
	       pgpubsub.subscribe('blocking', '{measures}', 'block'),
	       pgpubsub.subscribe('brief', '{measures}', temporary => true);
	SET ROLE app;
	SELECT pgpubsub.subscribe('of_app', '{measures}')});
$old->safe_psql('other', q{SELECT pgpubsub.subscribe('s', '{news}')});
$old->safe_psql(
	'shop', q{
	INSERT INTO orders VALUES (1, 'new', NULL);
	INSERT INTO measures VALUES (1, 1)});
is(scalar(receive($old, 'shop', 'of_app', 1)), 1, 'the old server works');
fill_log($old);
my $consumed_by_all = expected('all');
ok( $old->poll_query_until(
		'shop',
		"SELECT count(*) = 5 FROM pgpubsub.stat_subscriptions WHERE datname <> 'kept'"),
	'a temporary subscription has ended');
my $attachments   = attachments($old);
my $subscriptions = subscriptions($old);
my %table         = map { $_ => table($old, $_) } qw(shop other);
my $seq = $old->safe_psql('shop',
	"SELECT newest_seq FROM pgpubsub.stat_queue WHERE datname = 'shop'");
leave_without_notes($old);
my $relations = relations($old);
$old->stop;
cmp_ok(launcher_lines($old->logfile), '>', 0, 'this log tells of workers');

# Upgrade

$new->init(%init);
$new->append_conf('postgresql.conf', $conf);

# Servers since November 2026 note versions of columns in attoptions, which one
# of an earlier minor release refuses, whatever the tables are.
$new->start;
my $refused = query_error($new, 'postgres',
	'CREATE TABLE t (a int); ALTER TABLE t ALTER a SET (pg_attver = 1)');
$new->safe_psql('postgres', 'DROP TABLE IF EXISTS t');
$new->stop;
truncate $new->logfile, 0;
if ($refused =~ /unrecognized parameter/)
{
	note('removing pg_attver, which this new server does not know');
	$old->start;
	foreach my $db (qw(postgres template1 shop other kept))
	{
		$old->safe_psql(
			$db, q{
			SET allow_system_table_mods = on;
			UPDATE pg_attribute SET attoptions = NULL
			 WHERE attoptions::text LIKE '%pg_attver=%'});
	}
	$old->stop;
}

# what pg_upgrade leaves behind it leaves in the current directory
chdir $PostgreSQL::Test::Utils::tmp_check or die "chdir: $!";
my @command = (
	'pg_upgrade', '--no-sync', '--retain',
	'-d', $old->data_dir, '-D', $new->data_dir,
	'-b', $old->config_data('--bindir'), '-B', $new->config_data('--bindir'),
	'-s', $new->host, '-p', $old->port, '-P', $new->port);
command_ok([ @command, '--check' ], 'pg_upgrade --check');
command_ok(\@command, 'pg_upgrade');

my @logs = glob($new->data_dir . '/pg_upgrade_output.d/*/log/pg_upgrade_server.log');
cmp_ok(scalar(@logs), '>', 0, 'its servers have left logs');
cmp_ok(-s $_, '>', 0, "$_ says something") foreach @logs;
is(launcher_lines($_), 0, 'no worker runs while pg_upgrade does')
  foreach @logs;

# Use

$new->start;
note($new->safe_psql('postgres', 'SELECT version()'));
ok( $new->poll_query_until(
		'postgres', q{
		SELECT count(*) = 3 FROM pg_stat_activity
		 WHERE backend_type = 'pgpubsub relay' AND wait_event_type = 'Extension'}),
	'each database has a relay');
is(relations($new), $relations, 'the relations of the log are what they were');
is(attachments($new), $attachments, 'attachments are what they were');
is(table($new, $_), $table{$_}, "the table of subscriptions in $_ is")
  foreach qw(shop other);
is(subscriptions($new), $subscriptions, 'and subscriptions are');
check_log($new, $consumed_by_all);

$new->safe_psql(
	'shop', q{
	INSERT INTO orders VALUES (2, 'new', 'quiet');
	INSERT INTO orders VALUES (3, 'new', 'loud');
	UPDATE orders SET note = note || '!' WHERE id = 3;
	UPDATE orders SET status = 'paid' WHERE id = 3;
	INSERT INTO measures VALUES (5, 50)});
my @events = receive($new, 'shop', 'Some "thing"', 2);
is(scalar(@events), 3, 'a gap row and two events');
is($events[0], 'gap:-1', 'the gap row comes first');
like($events[1], qr/^Orders of "today":\{.*"op":"INSERT".*"id":3/,
	'conditions work');
like($events[2], qr/^Orders of "today":\{.*"op":"UPDATE".*"paid"/,
	'watched columns work');
is( $new->safe_psql(
		'shop',
		q{SELECT coalesce(payload::json->>'partition', lost::text) FROM pgpubsub.poll('of_app', timeout => '30s')},
		extra_params => [ '-U', 'app' ]),
	"-1\nmeasures_1",
	'grants, owners and partitions work');
cmp_ok(
	$new->safe_psql('shop',
		"SELECT newest_seq FROM pgpubsub.stat_queue WHERE datname = 'shop'"),
	'>', $seq, 'seq goes on');
is($new->safe_psql('shop', q{SELECT pgpubsub.subscribe('new', '{orders}')}),
	't', 'subscribe() works');
is($new->safe_psql('shop', q{SELECT extversion FROM pg_extension WHERE extname = 'pgpubsub'}),
	'1.0', 'the version of the SQL objects is what it was');
$new->safe_psql('shop', 'ALTER EXTENSION pgpubsub UPDATE');
is( $new->safe_psql(
		'shop', q{
		SELECT pgpubsub.publish('measures', '{}'::jsonb);
		SELECT payload FROM pgpubsub.poll('of_app', 10::bigint, '30s')},
		extra_params => [ '-U', 'app' ]),
	"\n{}",
	'grants work after ALTER EXTENSION UPDATE');
$new->safe_psql('shop', q{SELECT pgpubsub.detach('orders')});
$new->safe_psql('shop', 'DROP EXTENSION pgpubsub CASCADE; CREATE EXTENSION pgpubsub');
is($new->safe_psql('shop', q{SELECT pgpubsub.subscribe('new', '{orders}')}),
	't', 'the extension can be dropped and created');
$new->stop;
log_is_clean($new);
done_testing();
