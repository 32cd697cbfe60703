# A transaction may rename several databases that have relays, and a rollback
# to a savepoint lets a relay in again at once.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('rename', conf => 'pgpubsub.max_databases = 3');

# The database has a relay, and its subscription gets what is published.
sub renamed_relay_hears
{
	my ($db, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_for_relay($node, $db);
	like(process_title(relay_pid($node, $db)),
		qr/^postgres: .*pgpubsub relay for database \Q$db\E$/,
		"$name, which names its database");
	hears($node, $db, $name);
}

foreach my $db (qw(shop shop_new other))
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db,        'CREATE EXTENSION pgpubsub');
	$node->safe_psql($db, "SELECT pgpubsub.subscribe('s', '{news}')");
	$node->safe_psql($db, "CREATE TABLE is_$db ()");
	renamed_relay_hears($db, "$db has a relay");
}

# The classic swap; one that runs into core's own wait takes 5 s and fails.
my $limit = at_once_limit($node);
my $start = time();
is( query_error(
		$node, 'postgres', q{
		BEGIN;
		ALTER DATABASE shop RENAME TO shop_old;
		ALTER DATABASE shop_new RENAME TO shop;
		COMMIT}),
	'',
	'two are renamed in one transaction');
cmp_ok(time() - $start, '<', $limit, 'at once');
renamed_relay_hears('shop_old', 'the first has its relay back');
renamed_relay_hears('shop',     'and so has the second');
is($node->safe_psql('shop', "SELECT to_regclass('is_shop_new') IS NOT NULL"),
	't', 'which is the new one');

# all three in a circle, one of them twice
is( query_error(
		$node, 'postgres', q{
		BEGIN;
		ALTER DATABASE shop RENAME TO away;
		ALTER DATABASE other RENAME TO shop;
		ALTER DATABASE shop_old RENAME TO other;
		ALTER DATABASE away RENAME TO shop_old;
		COMMIT}),
	'',
	'three in a circle');
renamed_relay_hears($_, "$_ has a relay") foreach qw(shop other shop_old);

# A savepoint: what was held since is let go.
my $relay   = relay_pid($node, 'shop');
my $session = open_session($node);
is( session_error(
		$session, q{
		BEGIN;
		ALTER DATABASE other RENAME TO another;
		SAVEPOINT outer_one;
		SAVEPOINT inner_one;
		ALTER DATABASE shop RENAME TO away;
		RELEASE inner_one;
		ALTER DATABASE shop_old RENAME TO older}),
	'',
	'renamed after savepoints');
is(relay_pid($node, $_), '', "$_ has no relay meanwhile")
  foreach qw(shop shop_old other);
is(session_error($session, 'ROLLBACK TO outer_one'), '', 'rolled back to one');
renamed_relay_hears($_, "$_ has its relay back before the transaction ends")
  foreach qw(shop shop_old);
isnt(relay_pid($node, 'shop'), $relay, 'a new one');
is(relay_pid($node, 'other'), '', 'what was renamed before it has none');

# the same database again, and a savepoint that stands
is( session_error(
		$session, q{
		ALTER DATABASE shop RENAME TO away;
		SAVEPOINT standing;
		ALTER DATABASE shop_old RENAME TO older;
		RELEASE standing}),
	'',
	'renamed again');
is(relay_pid($node, 'shop_old'), '', 'a released savepoint keeps relays out');
is(session_error($session, 'COMMIT'), '', 'committed');
renamed_relay_hears($_, "$_ has a relay") foreach qw(away older another);

# an error that is caught
is( session_error(
		$session, q{
		BEGIN;
		DO $$
		BEGIN
			ALTER DATABASE away RENAME TO shop;
			RAISE 'caught';
		EXCEPTION WHEN raise_exception THEN
		END $$}),
	'',
	'renamed where an error is caught');
renamed_relay_hears('away', 'has its relay back before the transaction ends');
$session->query('ROLLBACK');

# The session ends while it holds several, by FATAL too.
foreach my $how ('quits', 'is terminated')
{
	is( session_error(
			$session, q{
			BEGIN;
			ALTER DATABASE away RENAME TO shop;
			SAVEPOINT s;
			ALTER DATABASE older RENAME TO shop_old}),
		'',
		"a session that $how holds two");
	if ($how eq 'quits')
	{
		$session->quit;
		$session = open_session($node);
	}
	else
	{
		my $pid = session_pid($session);

		$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
		close_session($session);
	}
	renamed_relay_hears($_, "it $how: $_ has its relay back") foreach qw(away older);
}

$node->stop;
log_is_clean($node);
done_testing();
