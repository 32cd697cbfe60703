# A session gives the memory of a large transaction back when that ends, be its
# events async or those of a durable channel.  Writing these to the log takes no
# more than having them does; nor does the relay have them in its memory.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs /proc' unless -r "/proc/$$/status";
plan skip_all => 'a sanitizer keeps what is freed' if $ENV{SANITIZED};

my $node = new_server('async_memory', conf => q{
pgpubsub.publish_mode = async
log_statement = none
fsync = off
shared_buffers = 16MB
pgpubsub.max_databases = 1
pgpubsub.staging_size = 160MB
work_mem = 64MB
});
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
$node->safe_psql('postgres', "CREATE TABLE $_ (i int, v text); SELECT pgpubsub.attach('$_')") foreach qw(async durable);
$node->safe_psql('postgres', "SELECT pgpubsub.set_durable('durable')");
wait_for_relay($node, 'postgres');
my $relay = relay_pid($node, 'postgres');

# What was resident of the process at most, in kB, with the shared memory that it
# has touched.
sub peak_memory
{
	my ($pid) = @_;

	return slurp_file("/proc/$pid/status") =~ /^VmHWM:\s+(\d+) kB/m ? $1 : die "no VmHWM for process $pid";
}

# Copy so many rows; returns what is resident then, before the end, and by how much
# the end has exceeded that.  What the session keeps for longer lies among and
# behind the events, so that the C library cannot give back what is before it.
my $statements = 0;
sub load
{
	my ($session, $table, $rows, $end) = @_;

	$session->run('BEGIN');
	foreach my $part (1 .. 4)
	{
		$session->run("COPY $table FROM PROGRAM 'seq -f \"%.0f	some text\" " . $rows / 4 . "'");
		$session->run('PREPARE s' . ++$statements . ' AS SELECT * FROM pg_class, pg_type, pg_proc') foreach 1 .. 20;
	}
	my $most = resident_memory($session->{pid});
	my $peak = peak_memory($session->{pid});
	$session->run($end);
	my $more = peak_memory($session->{pid}) - $peak;
	note sprintf '%s of %d rows in %s: %d kB, %d kB more, then %d kB', $end, $rows, $table, $most, $more, resident_memory($session->{pid});
	return ($most, $more);
}

my %peak;
my $relay_before = resident_memory($relay);
foreach my $table (qw(async durable))
{
	my $session = client($node);

	load($session, $table, 4, 'COMMIT');
	my $before = resident_memory($session->{pid});
	foreach my $load ([ 400000, 'ROLLBACK' ], [ 400000, 'COMMIT' ])
	{
		my ($most, $more) = load($session, $table, @$load);
		my $kept = resident_memory($session->{pid}) - $before;

		cmp_ok($most - $before, '>', 45000, "$table: the transaction has its events in memory ($most kB)");
		cmp_ok($kept, '<', 25000, "$table: $load->[1] gives them back");
		$peak{$table} = $most - $before;
		cmp_ok($more, '<', 16384 + 20000, 'durable: the end takes no second time that much, but for the shared buffers')
		  if $table eq 'durable';
	}
	$session->quit;
}
cmp_ok($peak{durable}, '<', $peak{async} * 1.1, 'a durable channel takes no more than async mode');
my $admin = client($node);
$admin->settle;
ok(wait_until(sub { $admin->value('SELECT appended FROM pgpubsub.stat_log') == 400004 }, 'the notes'), 'all is noted');
cmp_ok(resident_memory($relay) - $relay_before, '<', 25000, 'the relay does not have them in its memory');
$admin->quit;
$node->stop('fast');
server_is_sound($node);
done_testing();
