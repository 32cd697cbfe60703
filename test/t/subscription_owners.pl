# Subscriptions belong to roles, as tables do: DROP OWNED drops them, REASSIGN
# OWNED hands them on.  DROP ROLE takes those that are left with it, in every
# database, without anybody's help.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('roles',
	conf => "pgpubsub.max_databases = 8\npgpubsub.max_subscriptions = 6");
my $dir = PostgreSQL::Test::Utils::tempdir();

# Wait until the subscriptions of the database are those, in the table and in
# shared memory: "name owner; ...".
sub subscriptions_become
{
	my ($db, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $list = "coalesce(string_agg(%s || ' ' || owner, '; ' ORDER BY %s), '')";
	my $sql = sprintf(
		"SELECT (SELECT $list FROM pgpubsub.stat_subscriptions"
		  . " WHERE datname = current_database()), (SELECT $list FROM pgpubsub.subscription)",
		('subscription') x 2, ('name') x 2);

	$node->poll_query_until($db, $sql, "$expected|$expected");
	return is($node->safe_psql($db, $sql), "$expected|$expected", $name);
}

$node->safe_psql(
	'postgres', q{
	CREATE ROLE keeper LOGIN;
	CREATE ROLE may_subscribe;
	CREATE ROLE only_granted;
	CREATE DATABASE one;
	CREATE DATABASE two});
$node->safe_psql(
	$_, q{
	CREATE EXTENSION pgpubsub;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgpubsub TO may_subscribe, only_granted;
	SELECT pgpubsub.subscribe('other', '{news}', 'drop');
	UPDATE pgpubsub.subscription SET owner = 'keeper'}) foreach qw(one two);
fails_with(
	$node, 'one', 'DROP ROLE only_granted', '2BP01',
	qr/some objects depend on it/,
	'a role with grants on pgpubsub is not dropped, as ever');
$node->safe_psql($_, 'DROP OWNED BY only_granted') foreach qw(one two);
$node->safe_psql('one', 'DROP ROLE only_granted');

# Make the role and a subscription for it.
sub make_role
{
	my ($role, $subscription, @databases) = @_;

	$node->safe_psql('postgres',
		"CREATE ROLE $role LOGIN IN ROLE may_subscribe");
	$node->safe_psql($_,
		"SET ROLE $role; SELECT pgpubsub.subscribe('$subscription', '{news}')")
	  foreach @databases;
}

# DROP OWNED

make_role('app', 'of_app', qw(one two));
subscriptions_become('one', 'of_app app; other keeper', 'two owners');
foreach my $undone (
	'BEGIN; DROP OWNED BY app; ROLLBACK',
	'BEGIN; SAVEPOINT s; DROP OWNED BY app; ROLLBACK TO s; COMMIT',
	'BEGIN; DROP ROLE app; ROLLBACK',
	'BEGIN; REASSIGN OWNED BY app TO keeper; ROLLBACK')
{
	$node->safe_psql('one', $undone);
	settle($node, 'one');
	subscriptions_become('one', 'of_app app; other keeper',
		"undone: $undone");
}
fails_with($node, 'one', 'DROP OWNED BY keeper', '42501', qr/permission denied/,
	'whoever may not drop what a role owns', user => 'app');
subscriptions_become('one', 'of_app app; other keeper',
	'... does not drop its subscriptions');

my $waiting = open_session($node, 'one', user => 'app');
begin_query($waiting,
	"SELECT * FROM pgpubsub.poll('of_app', timeout => '30s')");
ok( $node->poll_query_until(
		'one',
		"SELECT state = 'waiting' FROM pgpubsub.stat_subscriptions"
		  . " WHERE subscription = 'of_app' AND datname = 'one'"),
	'a session of the role waits in poll()');
$node->safe_psql('one', 'DROP OWNED BY app');
my ($output, $error) = end_query($waiting);
like($error, qr/ERROR:  42704: subscription "of_app" does not exist/,
	'DROP OWNED ends its wait with an error');
$waiting->quit;
subscriptions_become('one', 'other keeper',
	"DROP OWNED drops the role's subscriptions");
subscriptions_become('two', 'of_app app; other keeper',
	'of this database only');
publish($node, 'one', 'news', 'first');
is(received($node, 'one', 'other', 1),
	'news:first', "others' go on, without a gap");

# a role owns its own things
$node->safe_psql('two', 'DROP OWNED BY CURRENT_USER', extra_params => [ '-U', 'app' ]);
subscriptions_become('two', 'other keeper', 'a role drops its own');

# REASSIGN OWNED

$node->safe_psql($_,
	"SET ROLE app; SELECT pgpubsub.subscribe('of_app', '{news}')")
  foreach qw(one two);
publish($node, 'one', 'news', 'second');
$node->safe_psql('one', 'REASSIGN OWNED BY app TO keeper');
subscriptions_become('one', 'of_app keeper; other keeper',
	'REASSIGN OWNED hands them on');
subscriptions_become('two', 'of_app app; other keeper',
	'of this database only');
publish($node, 'one', 'news', 'third');
is(received($node, 'one', 'of_app', 2),
	'news:second news:third', 'with what they have not read');
fails_with($node, 'one', "SELECT * FROM pgpubsub.poll('of_app')",
	'42501', qr/must be owner/, 'the old owner cannot read them',
	user => 'app');

# DROP ROLE

$node->safe_psql('postgres', 'DROP ROLE app');
subscriptions_become('two', 'other keeper',
	'DROP ROLE takes what is left with it');
subscriptions_become('one', 'of_app keeper; other keeper',
	'and leaves what was handed on');
$node->safe_psql('one', "SELECT pgpubsub.unsubscribe('of_app')");

# it takes effect everywhere, however often: six places are enough
foreach my $i (1 .. 4)
{
	make_role('brief', 'of_brief', qw(one two));
	$node->safe_psql($i % 2 ? 'postgres' : 'two', 'DROP ROLE brief');
	subscriptions_become($_, 'other keeper', "round $i: gone from $_")
	  foreach qw(one two);
}
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pgpubsub relay'"
	),
	2,
	'the relays are there');

# a subscription that blocks does not outlive its owner
$node->safe_psql('postgres', 'CREATE ROLE blocker LOGIN SUPERUSER');
$node->safe_psql('one', "SELECT pgpubsub.subscribe('blocks', '{news}', 'block')",
	extra_params => [ '-U', 'blocker' ]);
$node->safe_psql('postgres', 'DROP ROLE blocker');
subscriptions_become('one', 'other keeper', 'nor one that blocks');

# members of a role that owns one come and go
$node->safe_psql(
	'postgres', q{
	CREATE ROLE team IN ROLE may_subscribe;
	CREATE ROLE member LOGIN IN ROLE team});
$node->safe_psql('one',
	"SET ROLE team; SELECT pgpubsub.subscribe('of_team', '{news}')");
$node->safe_psql('postgres', 'DROP ROLE member');
settle($node, 'one');
subscriptions_become('one', 'of_team team; other keeper',
	'a member of the owner is dropped: the subscription stays');
$node->safe_psql('postgres', 'DROP ROLE team');
subscriptions_become('one', 'other keeper', 'the owner is: it goes');

# DROP ROLE waits for an open transaction that subscribes, as for one that
# creates a table
make_role('slow', 'of_slow', 'two');
my $subscriber = open_session($node, 'one', user => 'slow');
$subscriber->query_safe(
	"BEGIN; SELECT pgpubsub.subscribe('of_slow', '{news}')");
my $dropper = open_session($node, 'two');
my $dropper_pid = session_pid($dropper);
begin_query($dropper, 'DROP ROLE slow');
ok( $node->poll_query_until(
		'postgres',
		"SELECT count(*) = 1 FROM pg_locks WHERE pid = $dropper_pid AND NOT granted"
		  . " AND classid = 'pg_authid'::regclass"),
	'DROP ROLE waits for a transaction that has subscribed');
$subscriber->query_safe('COMMIT');
(undef, $error) = end_query($dropper);
is($error, '', 'and then drops the role');
$dropper->quit;
$subscriber->quit;
subscriptions_become($_, 'other keeper', "... with its subscription in $_")
  foreach qw(one two);

# Databases without a relay, rows that nobody can account for

make_role('lost', 'of_lost', 'two');
$node->append_conf('postgresql.conf', "pgpubsub.databases = 'one, copy'");
$node->reload;
wait_for_relay($node, 'two', count => 0);
$node->safe_psql('postgres', 'DROP ROLE lost');
like(
	$node->safe_psql(
		'two', "SELECT owner FROM pgpubsub.subscription WHERE name = 'of_lost'"),
	qr/^\d+$/,
	'a database without a relay keeps the row');
$node->command_ok(
	[
		'pg_dump', '-Fc', '-h', $node->host, '-p', $node->port, '-f',
		"$dir/dump", 'two'
	],
	'pg_dump of it');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok(
	[
		'pg_restore', '--exit-on-error', '-h', $node->host, '-p', $node->port,
		'-d',         'copy',            "$dir/dump"
	],
	'pg_restore');
subscriptions_become('copy', 'other keeper',
	'where it is restored the relay removes it');
$node->append_conf('postgresql.conf', "pgpubsub.databases = '*'");
$node->reload;
$node->safe_psql('two', 'SELECT pgpubsub.relay_start()');
subscriptions_become('two', 'other keeper', 'so does a relay that comes back');
$node->safe_psql('postgres', 'DROP DATABASE copy');

# somebody has locked the row: the relay waits for nobody, and forgets nothing
make_role('heir', 'of_heir', 'one');
make_role('second', 'of_second', 'one');
my $holder = open_session($node, 'one');
$holder->query_safe(
	q{BEGIN; SELECT FROM pgpubsub.subscription WHERE name = 'of_heir' FOR UPDATE});
$node->safe_psql('postgres', 'DROP ROLE heir, second');
ok( $node->poll_query_until(
		'one', q{
		SELECT (SELECT string_agg(name, ' ' ORDER BY name) FROM pgpubsub.subscription) = 'of_heir other'
		   AND (SELECT string_agg(subscription, ' ') FROM pgpubsub.stat_subscriptions
			    WHERE datname = 'one') = 'other'}),
	'a row that is locked stays, its subscription does not');
publish($node, 'one', 'news', 'meanwhile');
is( received($node, 'one', 'other', 3),
	'news:second news:third news:meanwhile',
	'the relay goes on meanwhile');
$holder->query_safe('COMMIT');
subscriptions_become('one', 'other keeper', 'the row goes when it is free');

# so with the table
make_role('heir', 'of_heir', 'one');
$holder->query_safe('BEGIN; LOCK TABLE pgpubsub.subscription IN SHARE MODE');
$node->safe_psql('postgres', 'DROP ROLE heir');
ok( $node->poll_query_until(
		'one', q{
		SELECT string_agg(subscription, ' ') = 'other'
		  FROM pgpubsub.stat_subscriptions WHERE datname = 'one'}),
	'while the table is locked, the subscription goes');
$holder->query_safe('COMMIT');
subscriptions_become('one', 'other keeper', 'and the row afterwards');
$holder->quit;

# the row cannot be removed
make_role('heir', 'of_heir', 'one');
$node->safe_psql(
	'one', q{
	CREATE TABLE consumer (subscription name REFERENCES pgpubsub.subscription);
	INSERT INTO consumer VALUES ('of_heir')});
my $relay  = relay_pid($node, 'one');
my $offset = log_offset($node);
$node->safe_psql('postgres', 'DROP ROLE heir');
$node->wait_for_log(
	qr/WARNING:  could not delete subscriptions whose owner was dropped/,
	$offset);
settle($node, 'one');
is(relay_pid($node, 'one'), $relay, 'a row that is referenced ends no relay');
is( $node->safe_psql(
		'one',
		"SELECT count(*) FROM pgpubsub.stat_subscriptions WHERE subscription = 'of_heir'"
	),
	0,
	'its subscription is gone all the same');
$node->safe_psql('one', 'DROP TABLE consumer');
$node->safe_psql('postgres', 'CREATE ROLE another; DROP ROLE another');
subscriptions_become('one', 'other keeper', 'the next look removes the row');

$node->stop;
log_is_clean(
	$node,
	qr/WARNING:  no relay for database "two"/,
	qr/ERROR:  role "only_granted" cannot be dropped/,
	qr/ERROR:  permission denied to drop objects/,
	qr/WARNING:  could not delete subscriptions whose owner was dropped/,
	qr/ERROR:  permission denied for .*|ERROR:  must be owner of subscription "of_app"/,
	qr/ERROR:  subscription "of_app" does not exist/);
done_testing();
