# Commands that need a database for themselves work while it has a relay, and
# the relay comes back where the database still exists.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('databases', conf => 'pgpubsub.max_databases = 8');

# The subscription gets what is published now, and a gap row before it if
# the relay had to leave.
sub relay_hears
{
	my ($db, $name, %params) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$node->safe_psql($db, 'SELECT pgpubsub.relay_start()');
	wait_for_relay($node, $db);
	hears($node, $db, $name, gap => $params{gap} // 0);
}

$node->safe_psql('postgres', 'CREATE DATABASE one');
$node->safe_psql('one',      'CREATE EXTENSION pgpubsub');
$node->safe_psql('one',
	"SELECT pgpubsub.subscribe('s', '{news}'), pgpubsub.subscribe('t', '{n*}', 'drop')");
relay_hears('one', 'a relay runs');

# CREATE DATABASE ... TEMPLATE

my $relay = relay_pid($node, 'one');
at_once($node, 'postgres', 'CREATE DATABASE two TEMPLATE one', 'CREATE DATABASE ... TEMPLATE');
wait_for_relay($node, 'one', not => $relay);
relay_hears('one', 'the original has its relay back', gap => 1);
is(relay_pid($node, 'two'), '', 'the copy has none until it is used');

# in the copy: the first use may be any of these
$node->safe_psql('two', "SELECT pgpubsub.publish('news', 'first use')");
my @rows = receive($node, 'two', 's', 1, gaps => 1);
wait_for_relay($node, 'two');
$node->safe_psql('two', "SELECT pgpubsub.publish('news', 'mark')");
push @rows, receive($node, 'two', 's', 1, gaps => 1)
  until $rows[-1] eq 'news:mark' || @rows > 3;

# the event that started the relay is in the gap or, if it listened before
# that transaction had committed, behind it
like("@rows", qr/^gap:-1 (?:news:first use )?news:mark$/,
	'a poll of the copied subscription works');
relay_hears('two', 'the copy has a relay');
is( $node->safe_psql('one',
		q{SELECT string_agg(datname || '.' || subscription, ' ' ORDER BY datname, subscription)
		  FROM pgpubsub.stat_subscriptions}),
	'one.s one.t two.s two.t',
	'the view shows the subscriptions of both');
is_quiet($node, 'one', 's', 'what is published in the copy stays there');

at_once($node, 'postgres', 'CREATE DATABASE three TEMPLATE one', 'a second copy');
at_once($node, 'postgres', 'CREATE DATABASE four TEMPLATE three', 'a copy of the copy');
is($node->safe_psql('four', "SELECT pgpubsub.subscribe('new', '{news}')"),
	't', 'subscribe() as the first use of a copy');
relay_hears('four', 'subscriptions work there', gap => 1);

# with a session in the way: core's error, and relays come back
my $session = open_session($node, 'one');
$session->query_safe('SELECT 1');
$relay = relay_pid($node, 'one') || 0;
fails_with(
	$node, 'postgres', 'CREATE DATABASE five TEMPLATE one',
	'55006', qr/There is 1 other session using the database/,
	'a session in the way is in the way, the relay is not counted');
$session->quit;
wait_for_relay($node, 'one', not => $relay);
pass('after the failure the relay comes back');
# several may have come and gone
received($node, 'one', 's', 1, gaps => 1);
relay_hears('one', 'and its database works');

# ALTER DATABASE ... RENAME

$relay = relay_pid($node, 'one');
at_once($node, 'postgres', 'ALTER DATABASE one RENAME TO uno', 'ALTER DATABASE ... RENAME');
wait_for_relay($node, 'uno', not => $relay);
pass('the relay comes back under the new name');
relay_hears('uno', 'the database works', gap => 1);
is( $node->safe_psql('uno',
		'SELECT DISTINCT datname FROM pgpubsub.stat_subscriptions'
		  . " WHERE datname IN ('one', 'uno')"),
	'uno',
	'views show the new name');

# ALTER DATABASE ... SET TABLESPACE

my $dir = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', "CREATE TABLESPACE elsewhere LOCATION '$dir'");
$relay = relay_pid($node, 'uno');
at_once($node, 'postgres', 'ALTER DATABASE uno SET TABLESPACE elsewhere',
	'ALTER DATABASE ... SET TABLESPACE');
wait_for_relay($node, 'uno', not => $relay);
relay_hears('uno', 'the database works', gap => 1);
at_once($node, 'postgres', 'ALTER DATABASE uno SET TABLESPACE pg_default', 'and back');
wait_for_relay($node, 'uno');
relay_hears('uno', 'the database works', gap => 1);

# commands on a database that leave its relay alone
$relay = relay_pid($node, 'uno');
at_once($node, 'postgres', $_, $_)
  foreach ('ALTER DATABASE uno SET work_mem = $$1MB$$',
	'ALTER DATABASE uno CONNECTION LIMIT 10',
	'COMMENT ON DATABASE uno IS $$a comment$$');
is(relay_pid($node, 'uno'), $relay, 'leave the relay alone');

# DROP DATABASE

at_once($node, 'postgres', 'DROP DATABASE two', 'DROP DATABASE');
ok( $node->poll_query_until(
		'uno',
		'SELECT count(*) = 2 FROM pgpubsub.stat_queue'),
	'its place is free');
$session = open_session($node, 'four');
begin_query($session,
	"SELECT * FROM pgpubsub.poll('new', timeout => '30s')");
fails_with($node, 'postgres', 'DROP DATABASE four',
	'55006', qr/There is 1 other session/,
	'DROP DATABASE with a session that polls fails as ever');
wait_for_relay($node, 'four');
pass('and the relay comes back');
at_once($node, 'postgres', 'DROP DATABASE four WITH (FORCE)', 'DROP DATABASE ... WITH (FORCE)');
close_session($session);
at_once($node, 'postgres', 'DROP DATABASE three', 'DROP DATABASE of one that was not used');

# with a relay in another state: just starting, and right after a connection
foreach my $i (1 .. 5)
{
	$node->safe_psql('postgres', 'CREATE DATABASE shortly');
	$node->safe_psql('shortly',  'CREATE EXTENSION pgpubsub');
	$node->safe_psql('shortly',  "SELECT pgpubsub.publish('news', 'x')")
	  if $i % 2;
	at_once($node, 'postgres', 'DROP DATABASE shortly' . ($i > 3 ? ' WITH (FORCE)' : ''),
		"CREATE and DROP DATABASE, round $i");
}

# createdb and dropdb make no difference
$node->command_ok(
	[ 'createdb', '-h', $node->host, '-p', $node->port, '-T', 'uno', 'copy' ],
	'createdb -T');
$node->safe_psql('copy', 'SELECT pgpubsub.relay_start()');
wait_for_relay($node, 'copy');
$node->command_ok(
	[ 'dropdb', '-h', $node->host, '-p', $node->port, 'copy' ], 'dropdb');

# template1 with the extension: every CREATE DATABASE copies it

$node->safe_psql('template1', 'CREATE EXTENSION pgpubsub');
wait_for_relay($node, 'template1');
at_once($node, 'postgres', 'CREATE DATABASE child', 'CREATE DATABASE with a relay in template1');
is($node->safe_psql('child', "SELECT pgpubsub.subscribe('s', '{news}')"),
	't', 'the new database has the extension');
relay_hears('child', 'and a relay');
wait_for_relay($node, 'template1');
$node->safe_psql('template1', 'DROP EXTENSION pgpubsub');
at_once($node, 'postgres', 'DROP DATABASE child', 'DROP DATABASE');

wait_for_relay($node, 'uno');
at_once($node, 'postgres', 'CREATE DATABASE copied TEMPLATE uno STRATEGY file_copy',
	'CREATE DATABASE ... STRATEGY file_copy');
at_once($node, 'postgres', 'DROP DATABASE copied', 'DROP DATABASE');

# Roles: who may not run the command does not make the relay leave.

wait_for_relay($node, 'uno');
received($node, 'uno', 's', 1, gaps => 1);
$node->safe_psql(
	'postgres', q{
	CREATE ROLE nobody LOGIN;
	CREATE ROLE maker LOGIN CREATEDB;
	CREATE ROLE keeper LOGIN CREATEDB;
});
$relay = relay_pid($node, 'uno');
foreach my $sql (
	'DROP DATABASE uno',
	'DROP DATABASE uno WITH (FORCE)',
	'CREATE DATABASE mine TEMPLATE uno',
	'ALTER DATABASE uno RENAME TO stolen',
	'ALTER DATABASE uno SET TABLESPACE elsewhere')
{
	foreach my $role (qw(nobody maker))
	{
		fails_with($node, 'postgres', $sql, '42501', qr/./,
			"$role may not: $sql", user => $role);
	}
}
is(relay_pid($node, 'uno'), $relay, 'the relay went on');
$node->safe_psql('uno', "SELECT pgpubsub.publish('news', 'undisturbed')");
is(received($node, 'uno', 's', 1), 'news:undisturbed', 'without a gap');

# in a transaction block all of them are refused before anything happens
$session = open_session($node);
foreach my $sql ('CREATE DATABASE mine TEMPLATE uno',
	'ALTER DATABASE uno SET TABLESPACE elsewhere', 'DROP DATABASE uno')
{
	$session->query('BEGIN');
	fails_with($session, undef, $sql, '25001', qr/transaction block/,
		"in a transaction block: $sql");
	$session->query('ROLLBACK');
}
$session->quit;
is(relay_pid($node, 'uno'), $relay, 'the relay went on');

# the owner, who is no superuser, may
$node->safe_psql('postgres', 'ALTER DATABASE uno OWNER TO keeper');
at_once($node, 'postgres', 'CREATE DATABASE mine TEMPLATE uno', 'the owner copies it',
	user => 'keeper');
wait_for_relay($node, 'uno');
at_once($node, 'postgres', 'ALTER DATABASE uno RENAME TO one', 'and renames it',
	user => 'keeper');
wait_for_relay($node, 'one');
at_once($node, 'postgres', 'DROP DATABASE mine', 'and drops the copy', user => 'keeper');
wait_for_relay($node, 'one');

# RENAME is allowed in a transaction block, and in a function.
$relay   = relay_pid($node, 'one');
$session = open_session($node);
is(session_error($session, 'BEGIN; ALTER DATABASE one RENAME TO uno'),
	'', 'ALTER DATABASE ... RENAME in a transaction block');
$session->query('ROLLBACK');
wait_for_relay($node, 'one');
pass('rolled back: the relay is there');
at_once($node, 'postgres', 'DO $$BEGIN ALTER DATABASE one RENAME TO uno; END$$',
	'ALTER DATABASE ... RENAME in a function');
$node->safe_psql('postgres', 'ALTER DATABASE uno RENAME TO one');
wait_for_relay($node, 'one');

# The session that holds the database ends: the relay comes back.
$session->query('BEGIN; ALTER DATABASE one RENAME TO uno');
close_session($session);
wait_for_relay($node, 'one');
pass('a session that held the database has ended: the relay is there');

at_once($node, 'postgres', 'DROP DATABASE one', 'DROP DATABASE of the last one');
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pgpubsub relay'"
	),
	0,
	'no relay is left');

$node->stop;
log_is_clean(
	$node,
	qr/ERROR:  source database "one" is being accessed by other users/,
	qr/ERROR:  database "four" is being accessed by other users/,
	qr/ERROR:  (?:must be owner of|permission denied)/,
	qr/ERROR:  .* cannot run inside a transaction block/);
done_testing();
