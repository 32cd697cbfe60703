# A subscription that is dropped and made anew in a transaction that rolls back
# is there all the time, once, whenever the relay reads the table.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node    = new_server('replace_undone');
my $scripts = $node->basedir;
my $rows =
  "SELECT count(*) FROM pgpubsub.stat_subscriptions WHERE subscription = 's'";

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	SELECT pgpubsub.subscribe('s', '{a}');
});

# one that rolls back; two that have the relay read the table all the time
append_to_file("$scripts/undone.sql",
	"BEGIN;\nSELECT pgpubsub.unsubscribe('s');\nSELECT pgpubsub.subscribe('s', '{b}');\nROLLBACK;\n"
);
append_to_file("$scripts/reload.sql",
	"DELETE FROM pgpubsub.subscription WHERE false;\n");
my $undone = "$scripts/undone.sql";
my @reload = map {
	begin_program($node, 'pgbench', '-n', '-T', '600', '-f', "$scripts/reload.sql", 'postgres')
} 1 .. 2;

$node->command_ok(
	[ 'pgbench', '-n', '-c', '1', '-t', '1000', '-f', $undone, 'postgres' ],
	'a subscription is replaced, and that rolled back');
is($node->safe_psql('postgres', $rows), '1', 'it is there once');
foreach my $reload (@reload)
{
	$reload->{run}->signal('INT');
	eval { $reload->{run}->finish };
}
is( $node->safe_psql('postgres',
		"SELECT pgpubsub.unsubscribe('s'); $rows"),
	"t\n0",
	'and is gone when it is dropped');
server_is_sound($node);
$node->stop;
done_testing();
