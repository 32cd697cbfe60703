# pg_upgrade from an older server with pgpubsub in use keeps attachments and
# subscriptions.  Needs that server, with pgpubsub installed:
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

my $conf = "shared_preload_libraries = 'pgpubsub'\nlog_min_messages = debug1\n";
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

# Use

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
ok( $old->poll_query_until(
		'shop',
		"SELECT count(*) = 5 FROM pgpubsub.stat_subscriptions"),
	'a temporary subscription has ended');
my $attachments   = attachments($old);
my $subscriptions = subscriptions($old);
my %table         = map { $_ => table($old, $_) } qw(shop other);
my $seq = $old->safe_psql('shop',
	"SELECT newest_seq FROM pgpubsub.stat_queue WHERE datname = 'shop'");
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
	foreach my $db (qw(postgres template1 shop other))
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
		SELECT count(*) = 2 FROM pg_stat_activity
		 WHERE backend_type = 'pgpubsub relay' AND wait_event_type = 'Extension'}),
	'both databases have a relay');
is(attachments($new), $attachments, 'attachments are what they were');
is(table($new, $_), $table{$_}, "the table of subscriptions in $_ is")
  foreach qw(shop other);
is(subscriptions($new), $subscriptions, 'and subscriptions are');

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
