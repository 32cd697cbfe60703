# Conditions over types that are not in pg_catalog mean the same when they were
# dumped and restored, which happens with an empty search path.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('conditions');
my $dir  = PostgreSQL::Test::Utils::tempdir();

# Channel and condition.  cube stands for types like PostGIS's geometry: it has
# an operator = of its own, and no cast to a type that has another.
my @conditions = (
	[ distinct_citext => 'NEW.c IS DISTINCT FROM OLD.c' ],
	[ distinct_cube   => 'NEW.q IS DISTINCT FROM OLD.q' ],
	[ distinct_hstore => 'NEW.h IS DISTINCT FROM OLD.h' ],
	[ distinct_domain => 'NEW.d IS DISTINCT FROM OLD.d' ],
	[ literal         => q{NEW.c IS DISTINCT FROM 'One'} ],
	[ is_null         => 'NEW.q IS DISTINCT FROM NULL AND NEW.n IS NOT DISTINCT FROM NULL' ],
	[ not_distinct    => 'NOT (NEW.c IS NOT DISTINCT FROM OLD.c)' ],
	[ nested          => '(NEW.c IS DISTINCT FROM OLD.c) IS DISTINCT FROM (NEW.q IS DISTINCT FROM OLD.q)' ],
	[ by_row          => '(NEW.id, NEW.c, NEW.q) IS DISTINCT FROM (OLD.id, OLD.c, OLD.q)' ],
	[ not_by_row      => 'NOT ((NEW.c, NEW.id) IS NOT DISTINCT FROM (OLD.c, OLD.id))' ],
	[ row_in_row      => '(NEW.id, (NEW.c, NEW.id)) IS DISTINCT FROM (OLD.id, (OLD.c, 1))' ],
	[ whole_row       => 'NEW.* IS DISTINCT FROM OLD.*' ],
	[ operators       => 'NEW.c <> OLD.c OR NOT (NEW.q = OLD.q) OR NEW.h <> OLD.h' ],
	[ rows            => '(NEW.c, NEW.id) <> (OLD.c, OLD.id)' ],
	[ rows_less       => '(OLD.c, OLD.q) < (NEW.c, NEW.q)' ],
	[ in_list         => q{NEW.c IN ('TWO', 'three')} ],
	[ any_array       => q{NEW.c = ANY (ARRAY['TWO', 'three']::citext[])} ],
	[ matches         => q{NEW.c LIKE 'TW%' OR NEW.c ~ 'TW'} ],
	[ between         => q{NEW.c BETWEEN 'TW' AND 'tx'} ],
	[ least           => q{LEAST(NEW.c, 'TWO') = 'two'} ],
	[ searched_case   => q{CASE WHEN NEW.c = 'TWO' THEN true ELSE false END} ],
	[ null_if         => q{NULLIF(NEW.id, 2) = 1} ],
	[ simple_case     => q{CASE NEW.id WHEN 1 THEN NEW.c = 'TWO' END} ],
	[ contains        => q{NEW.h ? 'TWO' OR NEW.h -> 'a' = 'TWO' OR NEW.c = 'two'} ],
	[ built_in        => 'NEW.n IS DISTINCT FROM OLD.n' ]);

# Those that can only be refused.
my @refused = (
	[ 'NULLIF(NEW.c, OLD.c) IS NOT NULL'             => 'NULLIF' ],
	[ 'CASE NEW.c WHEN OLD.c THEN false ELSE true END' => 'CASE' ],
	[ 'CASE ROW(NEW.id)::loose WHEN ROW(OLD.id)::loose THEN true END' => 'CASE' ],
	[ '(NEW.id, NEW.c) < (OLD.id, OLD.c)'            => 'A comparison of rows' ],
	[ '(NEW.c, NEW.id) < (OLD.c, OLD.id)'            => 'A comparison of rows' ],
	[ '(NEW.id, (NEW.c, 1)) <> (OLD.id, (OLD.c, 1))' => 'A comparison of rows' ],
	[ 'NEW.c IS DISTINCT FROM random()::text::citext' => 'IS DISTINCT FROM' ],
	[ 'ROW(NEW.*) IS DISTINCT FROM ROW(OLD.*)'       => 'IS DISTINCT FROM' ]);

# What all the conditions depend on: functions, operators, types, columns.
sub dependencies
{
	my ($db) = @_;

	return $node->safe_psql(
		$db, q{
		SELECT DISTINCT tgname, pg_describe_object(refclassid, refobjid, refobjsubid)
		  FROM pg_depend JOIN pg_trigger AS t ON (classid, objid) = ('pg_trigger'::regclass, t.oid)
		 ORDER BY 1, 2});
}

# The channels that have an event for each of three changes: of nothing but a
# letter's case, of a value, and from null to null.
sub changes
{
	my ($db) = @_;
	my $subscribed = join ',', map { $_->[0] } @conditions;
	my @seen;

	$node->safe_psql(
		$db, qq{
		TRUNCATE t;
		INSERT INTO t (id, c, d, q, h) VALUES (1, 'one', 'one', '(1,1)', 'a=>1'), (2, NULL, NULL, NULL, NULL);
		SELECT pgpubsub.subscribe('s_$db', '{$subscribed}')});
	foreach my $change (
		"c = 'ONE', d = 'ONE', q = '(1.0,1)' WHERE id = 1",
		"c = 'two', d = 'two', q = '(2,2)', h = 'a=>2', n = 1 WHERE id = 1",
		'c = NULL, q = NULL WHERE id = 2')
	{
		$node->safe_psql($db,
			"UPDATE t SET $change; SELECT pgpubsub.publish('built_in', 'end')");
		my @channels;
		while (!@channels || $channels[-1] ne 'end')
		{
			push @channels, split /\n/,
			  $node->safe_psql($db,
				qq{SELECT CASE payload WHEN 'end' THEN payload ELSE channel END FROM pgpubsub.poll('s_$db', timeout => '60s')}
			  );
		}
		push @seen, join ' ', sort @channels;
	}
	return join "\n", @seen;
}

$node->safe_psql('postgres', 'CREATE DATABASE source; CREATE DATABASE target');
$node->safe_psql(
	'source', q{
	CREATE EXTENSION pgpubsub;
	CREATE SCHEMA types;
	CREATE EXTENSION citext SCHEMA types;
	CREATE EXTENSION cube SCHEMA types;
	CREATE EXTENSION hstore SCHEMA types;
	SET search_path = public, types;
	CREATE DOMAIN name_in_any_case AS citext;
	CREATE TYPE loose AS (n int);
	CREATE DOMAIN perhaps AS boolean;
	CREATE FUNCTION types.same(loose, loose) RETURNS perhaps IMMUTABLE LANGUAGE sql AS 'SELECT $1.n = $2.n';
	CREATE OPERATOR types.= (FUNCTION = types.same, LEFTARG = loose, RIGHTARG = loose);
	CREATE TABLE t (id int PRIMARY KEY, c citext, d name_in_any_case, q cube, h hstore, n int)});
foreach (@conditions)
{
	my ($channel, $condition) = @$_;

	$node->safe_psql('source',
		"SET search_path = public, types; SELECT pgpubsub.attach('t', '$channel', '{update}', condition => \$\$$condition\$\$)"
	);
}
foreach (@refused)
{
	my ($condition, $construct) = @$_;
	my (undef, undef, $stderr) = $node->psql('source',
		"\\set VERBOSITY verbose\nSET search_path = public, types; SELECT pgpubsub.attach('t', 'refused', '{update}', condition => \$\$$condition\$\$)"
	);
	like(
		$stderr,
		qr/ERROR:  0A000: condition would not survive pg_dump.*DETAIL:  \Q$construct\E uses the operator (?:types|pg_catalog)\.[=<>]+\(.*OPERATOR\((?:types|pg_catalog)\.=\)/s,
		"refused: $condition");
}

my $changes = changes('source');
is( $changes,
	join("\n",
		'end is_null null_if',
		join(' ', sort('end', grep { !/^(nested|is_null)$/ } map { $_->[0] } @conditions)),
		'end least literal row_in_row'),
	'the conditions hold for the changes that they should');

$node->command_ok([ 'pg_dump', '-f', "$dir/dump", $node->connstr('source') ],
	'pg_dump');
$node->command_ok(
	[
		'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/dump", '-d', $node->connstr('target')
	],
	'restored');
is(dependencies('target'), dependencies('source'),
	'the restored conditions use the same operators');
is(changes('target'), $changes, 'and hold for the same changes');

done_testing();
