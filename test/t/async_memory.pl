# A session gives the memory of a large async transaction back when that ends.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs /proc' unless -r "/proc/$$/status";

my $node = new_server('async_memory', conf => q{
pgpubsub.publish_mode = async
log_statement = none
fsync = off
pgpubsub.max_databases = 1
pgpubsub.staging_size = 160MB
work_mem = 64MB
});
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub; CREATE TABLE t (i int, v text)');
$node->safe_psql('postgres', "SELECT pgpubsub.attach('t')");
wait_for_relay($node, 'postgres');

# Copy so many rows; returns what is resident then, before the end.  What the
# session keeps for longer lies among and behind the events, so that the C
# library cannot give back what is before it.
my $statements = 0;
sub load
{
	my ($session, $rows, $end) = @_;

	$session->run('BEGIN');
	foreach my $part (1 .. 4)
	{
		$session->run("COPY t FROM PROGRAM 'seq -f \"%.0f	some text\" " . $rows / 4 . "'");
		$session->run('PREPARE s' . ++$statements . ' AS SELECT * FROM pg_class, pg_type, pg_proc') foreach 1 .. 20;
	}
	my $most = resident_memory($session->{pid});
	$session->run($end);
	note sprintf '%s of %d rows: %d kB, then %d kB', $end, $rows, $most, resident_memory($session->{pid});
	return $most;
}

my $session = client($node);
load($session, 4, 'COMMIT');
my $before = resident_memory($session->{pid});
foreach my $load ([ 400000, 'ROLLBACK' ], [ 400000, 'COMMIT' ])
{
	my $most = load($session, @$load);
	my $kept = resident_memory($session->{pid}) - $before;

	cmp_ok($most - $before, '>', 45000, "the transaction has its events in memory ($most kB)");
	cmp_ok($kept, '<', 25000, "$load->[1] gives them back");
}
$node->stop('fast');
server_is_sound($node);
done_testing();
