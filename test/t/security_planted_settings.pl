# What an owner, or a role's settings, plant for the sessions of a database
# does not reach its relay; and a relay that keeps dying is started ever more
# seldom.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server(
	'planted',
	init => { allows_streaming => 1 },
	conf => "pgpubsub.publish_timeout = 60s\nmax_connections = 50");
my $parallel = $node->safe_psql('postgres',
	q{SELECT name FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query')});
my $has_transaction_timeout = $node->safe_psql('postgres',
	q{SELECT count(*) FROM pg_settings WHERE name = 'transaction_timeout'});

$node->safe_psql(
	'postgres', q{
	CREATE ROLE keeper LOGIN CREATEDB;
	CREATE ROLE bob;
	CREATE DATABASE shop OWNER keeper ENCODING 'UTF8' TEMPLATE template0
		LC_COLLATE 'C' LC_CTYPE 'C';
	CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0
		LC_COLLATE 'C' LC_CTYPE 'C'});
$node->safe_psql('shop', 'CREATE EXTENSION pgpubsub');
$node->safe_psql('shop', "SELECT pgpubsub.subscribe('s', '{news}')");

my @owners = (
	'exit_on_error = on',
	'session_authorization = bob',
	'role = bob',
	'row_security = on',
	'statement_timeout = 1',
	'lock_timeout = 1',
	$has_transaction_timeout ? 'transaction_timeout = 1' : (),
	'idle_in_transaction_session_timeout = 1',
	'idle_session_timeout = 1',
	"default_transaction_isolation = 'serializable'",
	'default_transaction_read_only = on',
	'default_transaction_deferrable = on',
	"search_path = 'nowhere'",
	"client_min_messages = 'debug5'",
	"synchronous_commit = 'remote_apply'",
	'debug_print_parse = on',
	'debug_print_plan = on',
	'debug_print_rewritten = on',
	'jit_above_cost = 0',
	"$parallel = on",
	'min_parallel_table_scan_size = 0',
	'parallel_setup_cost = 0',
	'client_connection_check_interval = 1',
	"pgpubsub.publish_mode = 'async'",
	'pgpubsub.publish_timeout = 1',
	'pgpubsub.muted = on');

# one that cannot be converted to the database's; 19 has none that cannot be
my $encoding =
  $node->safe_psql('ascii', 'SHOW server_version_num') < 190000 ? 'mule_internal' : 'euc_jp';
my @superusers =
  ("session_replication_role = 'replica'", 'temp_file_limit = 0');

# Plant all of them, and have a relay start with them.  From a database of
# another encoding one may plant an encoding that no session without its own
# can have.  Sessions of the test do without them again.
sub plant
{
	my ($for, $user) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$node->safe_psql('ascii', "ALTER $for SET client_encoding = '$encoding'");
	unlike(
		query_error(
			$node, 'postgres',
			join('; ', map { "ALTER $for SET $_" } @owners),
			user => $user),
		qr/ERROR/,
		"$user plants settings for $for");
	$node->safe_psql('postgres',
		join('; ', map { "ALTER $for SET $_" } @superusers));
	kill_relay($node, 'shop');
	pass('a relay starts with them');
	$node->safe_psql('postgres', "ALTER $for RESET ALL");
}

# The relay that has started with all that does its work: it reads the table,
# writes it, and puts what is published in it.
sub works
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is( $node->safe_psql('shop',
			"SELECT pgpubsub.subscribe('new', '{news}'), pgpubsub.unsubscribe('new')"
		),
		't|t',
		"$name: it listens");
	$node->safe_psql('shop', "SELECT pgpubsub.publish('news', E'\\u20AC')");
	is( received($node, 'shop', 's', 1),
		"gap:-1 news:\x{e2}\x{82}\x{ac}",
		"$name: the text is right");
	$node->safe_psql(
		'shop', q{
		CREATE ROLE gone;
		INSERT INTO pgpubsub.subscription (name, owner, channels, on_full)
		VALUES ('by hand', 'bob', '{news}', 'evict'), ('of gone', 'gone', '{news}', 'evict')});
	ok( $node->poll_query_until(
			'shop', q{
			SELECT count(*) = 2 FROM pgpubsub.stat_subscriptions
			 WHERE subscription IN ('by hand', 'of gone')}),
		"$name: it reads the table");
	$node->safe_psql('shop', 'DROP ROLE gone');
	ok( $node->poll_query_until(
			'shop', q{
			SELECT count(*) = 0 FROM pgpubsub.subscription WHERE name = 'of gone'}),
		"$name: it writes the table");
	$node->safe_psql('shop',
		"DELETE FROM pgpubsub.subscription WHERE name = 'by hand'");
}

my $superuser = $node->safe_psql('postgres', 'SELECT current_user');
plant('DATABASE shop', 'keeper');
works('set for the database');
plant("ROLE $superuser IN DATABASE shop", $superuser);
works('set for the role');

# A batch that fails ends no relay.  It waits for a commit that has notified and
# waits for a standby which is not there, and gives up.
my $relay    = relay_pid($node, 'shop');
my $blocker  = client($node, 'shop');
my $writer   = client($node, 'shop');
my $listener = client($node, 'shop');
$listener->run('LISTEN news');
hold_commits($node);
my $offset = log_offset($node);
$blocker->begin('BEGIN; CREATE TABLE blocking (); NOTIFY other; COMMIT');
ok(commit_waits($node, $blocker), 'a commit that waits');
$writer->run("SET synchronous_commit = off; SET pgpubsub.publish_mode = 'async'");
$writer->run("SELECT pgpubsub.publish('news', 'in a failed batch')");
$node->wait_for_log(
	qr/could not notify staged events: canceling statement due to lock timeout/,
	$offset);
release_commits($node);
$blocker->finish;
is(received($node, 'shop', 's', 1),
	'news:in a failed batch', 'a subscription has what is in it');
is(join(' ', map { $_->[2] } $listener->wait_for_notifications(1)),
	'in a failed batch', 'the batch is sent again');
is(relay_pid($node, 'shop'), $relay, 'by the same relay');

# An error while it has nothing to do ends it.  Each that ends so soon after
# its start has the next one wait longer: 100, 200, ... milliseconds.
my $start;
foreach my $i (1 .. 6)
{
	$start = time() if $i == 2;
	$relay = relay_pid($node, 'shop');
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($relay)");
	wait_for_relay($node, 'shop', not => $relay);
}
cmp_ok(time() - $start, '>', 3,
	'relays that keep dying are started ever more seldom');

# That is over when one is terminated, which is no failure.  (The next four
# would have waited for 48 seconds.)
$start = time();
kill_relay($node, 'shop') foreach 1 .. 4;
cmp_ok(time() - $start, '<', 40, 'a relay that is terminated is back at once');

$node->stop;
log_is_clean($node, qr/ERROR:  canceling statement due to user request/);
done_testing();
