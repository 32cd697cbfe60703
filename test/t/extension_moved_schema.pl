# Where the extension's schema or table is not in its place, DROP OWNED and
# REASSIGN OWNED do what they do without pgpubsub.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('moved_schema');

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE ROLE app;
	CREATE ROLE heir;
	GRANT USAGE ON SCHEMA pgpubsub TO app;
	GRANT EXECUTE ON FUNCTION pgpubsub.subscribe TO app});

# In a session of its own: it must not know the schema's old name.
sub runs
{
	my ($sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(query_error($node, 'postgres', $sql), '', $name);
}

# The role has a subscription and a table; both commands do their part.
sub both_work
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	runs('CREATE TABLE of_app (); ALTER TABLE of_app OWNER TO app',
		"$name: a table of the role");
	runs('REASSIGN OWNED BY app TO heir', "$name: REASSIGN OWNED");
	is( $node->safe_psql('postgres',
			q{SELECT relowner::regrole FROM pg_class WHERE relname = 'of_app'}),
		'heir',
		"$name: has done its part");
	runs('DROP OWNED BY heir', "$name: DROP OWNED");
	is($node->safe_psql('postgres', q{SELECT to_regclass('of_app') IS NULL}),
		't', "$name: has done its part");
}

$node->safe_psql('postgres',
	q{SET ROLE app; SELECT pgpubsub.subscribe('s', '{news}')});

foreach my $move (
	[
		'the schema is renamed',
		'ALTER SCHEMA pgpubsub RENAME TO foo',
		'ALTER SCHEMA foo RENAME TO pgpubsub'
	],
	[
		'another schema has its name',
		'ALTER SCHEMA pgpubsub RENAME TO foo; CREATE SCHEMA pgpubsub; CREATE TABLE pgpubsub.subscription (owner oid)',
		'DROP TABLE pgpubsub.subscription; DROP SCHEMA pgpubsub; ALTER SCHEMA foo RENAME TO pgpubsub'
	],
	[
		'the table is renamed',
		'ALTER TABLE pgpubsub.subscription RENAME TO bar',
		'ALTER TABLE pgpubsub.bar RENAME TO subscription'
	])
{
	my ($name, $there, $back) = @$move;

	runs($there, $name);
	both_work($name);
	runs($back, "$name: no longer");
	is( $node->safe_psql('postgres',
			q{SELECT owner FROM pgpubsub.subscription WHERE name = 's'}),
		'app',
		"$name: the subscription was left alone");
}

# back in its place
both_work('in its place');
is($node->safe_psql('postgres', 'SELECT count(*) FROM pgpubsub.subscription'),
	0, 'the subscription went the same way');

$node->stop;
log_is_clean($node);
done_testing();
