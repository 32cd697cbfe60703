# Dump and restore by the owner of the database, who is no superuser; into a
# database that has the extension, and from one that has version 1.0.  The schema
# belongs to the extension.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('owner', conf => 'pgpubsub.max_databases = 20');
my $dir  = PostgreSQL::Test::Utils::tempdir();

$node->safe_psql('postgres', q{
	CREATE ROLE keeper LOGIN;
	CREATE ROLE app LOGIN;
	CREATE ROLE other LOGIN});

# A database of that role, with the extension if it is to have it.
sub create
{
	my ($db, $extension, $owner) = @_;

	$owner //= 'keeper';
	$node->safe_psql('postgres', "CREATE DATABASE $db OWNER $owner");
	$node->safe_psql($db, $extension) if $extension;
}

# Run the program as the role; returns its exit code and what it said.
sub run_as
{
	my ($user, $program, @args) = @_;
	my ($out, $err);

	IPC::Run::run([ $program, '-h', $node->host, '-p', $node->port, '-U', $user, @args ],
		'>', \$out, '2>', \$err);
	return ($?, $err);
}

my $rows = 'SELECT name, owner, channels, on_full, created_at FROM pgpubsub.subscription ORDER BY name';

# The database has those rows, and its subscriptions work.
sub works
{
	my ($db, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is($node->safe_psql($db, $rows), $expected, "$name: the rows are there");
	wait_for_relay($node, $db);
	$node->safe_psql($db, q{
		SELECT pgpubsub.subscribe('settle', '{settle}', temporary => true);
		INSERT INTO orders VALUES (100)});
	like(join(' ', receive($node, $db, 'all', 1)), qr/orders:\{.*"id":100/, "$name: and work");
}

# Where the extension and its schema are: "extnamespace extension of the schema".
sub place
{
	my ($db) = @_;

	return $node->safe_psql(
		$db, q{
		SELECT e.extnamespace::regnamespace,
		       (SELECT string_agg(pg_describe_object(d.refclassid, d.refobjid, 0), ', ') FROM pg_depend AS d
		         WHERE d.classid = 'pg_namespace'::regclass AND d.objid = 'pgpubsub'::regnamespace),
		       (SELECT count(*) FROM pg_depend AS d
		         WHERE d.classid = 'pg_extension'::regclass AND d.objid = e.oid)
		  FROM pg_extension AS e WHERE e.extname = 'pgpubsub'});
}
my $place = 'pg_catalog|extension pgpubsub|0';

create('shop', 'CREATE EXTENSION pgpubsub');
$node->safe_psql(
	'shop', q{
	SET ROLE keeper;
	CREATE TABLE orders (id int PRIMARY KEY);
	RESET ROLE;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgpubsub TO app;
	SELECT pgpubsub.attach('orders'), pgpubsub.subscribe('all', '{*}');
	SELECT pgpubsub.set_durable('kept*', retain => '1 day');
	SET ROLE app;
	SELECT pgpubsub.subscribe('of_app', '{orders}', 'drop')});
is(place('shop'), $place, 'the schema belongs to the extension');
my $expected = $node->safe_psql('shop', $rows);

# Dump

my ($rc, $err) = run_as('keeper', 'pg_dump', '-Fc', '-f', "$dir/dump", 'shop');
is($err, '', 'pg_dump by the owner of the database');
is($rc, 0, '... succeeds');
($rc, $err) = run_as('other', 'pg_dump', '-f', "$dir/other", 'shop');
like($err, qr/permission denied for table/, 'by another role it fails');
run_as('keeper', 'pg_dump', '-f', "$dir/dump.sql", 'shop');
my $sql = slurp_file("$dir/dump.sql");
unlike($sql, qr/CREATE SCHEMA/, 'no CREATE SCHEMA in it');
like($sql, qr/^CREATE EXTENSION IF NOT EXISTS pgpubsub WITH SCHEMA pg_catalog;/m, 'but CREATE EXTENSION');

# Restore

create('owned', 'CREATE EXTENSION pgpubsub');
($rc, $err) = run_as('keeper', 'pg_restore', '-d', 'owned', '--exit-on-error', '--no-comments', '--no-acl', "$dir/dump");
is($err, '', 'pg_restore by the owner, where the extension is');
works('owned', $expected, 'by the owner');
is($node->safe_psql('owned', 'SELECT * FROM pgpubsub.channel'), 'kept*|t|1 day', 'with its durable channels');
create('noisy', 'CREATE EXTENSION pgpubsub');
($rc, $err) = run_as('keeper', 'pg_restore', '-d', 'noisy', '--no-acl', "$dir/dump");
is(join(' ', $err =~ /ERROR:\s+([^\n]*)/g), 'must be owner of extension pgpubsub', 'with comments: only that is refused');
works('noisy', $expected, 'with comments');
create('had_it', 'CREATE EXTENSION pgpubsub');
($rc, $err) = run_as('postgres', 'pg_restore', '-d', 'had_it', '--exit-on-error', "$dir/dump");
is($err, '', 'by a superuser, where the extension is');
works('had_it', $expected, 'where the extension is');
create('fresh');
($rc, $err) = run_as('postgres', 'pg_restore', '-d', 'fresh', '--exit-on-error', "$dir/dump");
is($err, '', 'by a superuser, where it is not');
works('fresh', $expected, 'where it is not');
is($node->safe_psql('fresh', 'SELECT * FROM pgpubsub.channel'), 'kept*|t|1 day', '... with its durable channels');
is(place('fresh'), $place, '... and the schema belongs to the extension');

# What the owner may, and others may not

fails_with($node, 'shop', 'UPDATE pgpubsub.subscription SET channels = NULL', '42501', qr/permission denied/,
	'the owner of the database changes no row', user => 'keeper');
fails_with($node, 'shop', 'UPDATE pgpubsub.channel SET durable = false', '42501', qr/permission denied/,
	'... nor a channel', user => 'keeper');
fails_with($node, 'shop', 'DELETE FROM pgpubsub.subscription', '42501', qr/permission denied/,
	'... deletes none', user => 'keeper');
fails_with($node, 'owned', $_, '42501', qr/permission denied/, "another role: $_", user => 'other')
  foreach 'SELECT * FROM pgpubsub.subscription', 'SELECT * FROM pgpubsub.channel',
	"INSERT INTO pgpubsub.channel VALUES ('x')", "INSERT INTO pgpubsub.subscription VALUES ('x', 'app', '{a}', 'drop')";

# Version 1.0: its dump, and its upgrade

create('old', q{CREATE EXTENSION pgpubsub VERSION '1.0'});
is(place('old'), 'pgpubsub||1', '1.0 is what it was');
$node->safe_psql(
	'old', q{
	GRANT CREATE ON SCHEMA pgpubsub TO app;
	CREATE TABLE orders (id int PRIMARY KEY);
	SELECT pgpubsub.attach('orders'), pgpubsub.subscribe('all', '{*}')});
$expected = $node->safe_psql('old', $rows);
($rc, $err) = run_as('postgres', 'pg_dump', '-Fc', '-f', "$dir/old", 'old');
is($err, '', 'pg_dump of 1.0');
create('new');
($rc, $err) = run_as('postgres', 'pg_restore', '-d', 'new', '--exit-on-error', "$dir/old");
is($err, '', '... is restored');
works('new', $expected, 'from 1.0');
is(place('new'), $place, '... and the schema belongs to the extension');
$node->safe_psql('old', 'ALTER EXTENSION pgpubsub UPDATE');
is(place('old'), $place, 'so it does after an upgrade');
works('old', $expected, 'upgraded');
run_as('postgres', 'pg_dump', '-f', "$dir/old.sql", 'old');
$sql = slurp_file("$dir/old.sql");
like($sql, qr/GRANT (?:ALL|CREATE) ON SCHEMA pgpubsub TO app/, 'what was granted on the schema stays in dumps');
unlike($sql, qr/CREATE SCHEMA/, 'while the schema does not');

# DROP EXTENSION takes the schema along.

foreach my $db (qw(old new fresh))
{
	fails_with($node, $db, 'DROP SCHEMA pgpubsub CASCADE', '2BP01', qr/extension pgpubsub requires it/,
		"$db: the schema is not dropped alone");
	$node->safe_psql($db, 'DROP EXTENSION pgpubsub CASCADE');
	is($node->safe_psql($db, q{SELECT to_regnamespace('pgpubsub')}), '', "$db: DROP EXTENSION drops it");
	$node->safe_psql($db, q{SET search_path TO ''; CREATE EXTENSION pgpubsub WITH SCHEMA pg_catalog});
	is(place($db), $place, "$db: and it can be created again");
}

# A schema of that name that was there before is the extension's from then on,
# with what somebody has put into it.

create('before', q{
	CREATE SCHEMA pgpubsub;
	CREATE TABLE pgpubsub.mine (id int);
	CREATE EXTENSION pgpubsub;
	INSERT INTO pgpubsub.mine VALUES (7)});
is(place('before'), $place, 'a schema that was there belongs to it');
run_as('postgres', 'pg_dump', '-Fc', '-f', "$dir/before", 'before');
create('after');
($rc, $err) = run_as('postgres', 'pg_restore', '-d', 'after', '--exit-on-error', "$dir/before");
is($err, '', 'a dump of it is restored');
is($node->safe_psql('after', 'SELECT id FROM pgpubsub.mine'), 7, 'with what else is in the schema');
fails_with($node, 'after', 'DROP EXTENSION pgpubsub', '2BP01', qr/other objects depend on it/,
	'which DROP EXTENSION does not drop unasked');
is($node->safe_psql('after', q{DROP EXTENSION pgpubsub CASCADE; SELECT to_regnamespace('pgpubsub')}), '',
	'but with CASCADE');

$node->stop;
log_is_clean($node,
	qr/ERROR:  (?:permission denied for|must be owner of extension pgpubsub|cannot drop)/);
done_testing();
