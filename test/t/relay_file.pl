# The temporary files of a relay whose queue stays full: what a reader that keeps
# pace has read is given back, and what lies there is bounded.  A build with
# assertions can have small bounds.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

# 1 MB of memory and 16 MB of files, a sixty-fourth of what they are else.
my $memory = 1024 * 1024;
my $limit  = 16 * $memory;

my $node = new_server('relay_file', conf => q{
pgpubsub.queue_size = 64kB
pgpubsub.debug_inbox_divisor = 64
autovacuum = off
log_statement = none
});
if ($node->safe_psql('postgres',
		"SELECT current_setting('pgpubsub.max_channels', true) IS NOT NULL AND current_setting('pgpubsub.debug_inbox_divisor', true) IS NOT NULL"
	) ne 't')
{
	$node->stop('fast');
	plan skip_all => 'this build has no small bounds';
}
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
my $admin = client($node);
$admin->run("SELECT pgpubsub.subscribe('blocking', '{c}', 'block')");
my $relay = relay_pid($node, 'postgres');

# Bytes of the relay's temporary files, and the most there ever were
my $most = 0;

sub on_disk
{
	my $bytes = temporary_bytes($admin, $relay);

	$most = $bytes if $bytes > $most;
	return $bytes;
}

# Notify so many events of a kilobyte, and wait until the relay has them.
my $sent = 0;

sub notify
{
	my ($count) = @_;
	my ($from, $to) = ($sent + 1, $sent + $count);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$sent = $to;
	$admin->notify_series('c', $from, $to);
	wait_until(
		sub { on_disk(); $admin->value('SELECT pg_notification_queue_usage()') == 0 },
		'an empty NOTIFY queue')
	  or fail('the relay has read the NOTIFY queue');
}

# Read up to the event of that number.
my ($next, $wrong) = (1, 0);

sub read_to
{
	my ($last) = @_;

	while ($next <= $last)
	{
		my @rows = $admin->run(
			"SELECT payload::int, lost FROM pgpubsub.poll('blocking', 1000, '10s')");

		last unless @rows;
		foreach my $row (@rows)
		{
			$wrong++ if defined $row->[1] || $row->[0] != $next;
			$next++;
		}
		on_disk();
	}
}

# A backlog stands, and the reader keeps pace with what comes: as much as the
# bound in all.

notify(1000) foreach 1 .. 4;
cmp_ok(on_disk(), '>', 2 * $memory, 'a backlog stands in files');
foreach my $i (1 .. 20)
{
	notify(1000);
	read_to(1000 * $i);
}
cmp_ok($next, '>', 20_000, 'the reader has kept pace');
cmp_ok($most, '<', 8 * $memory, 'what was read has been given back');
cmp_ok(on_disk(), '>', 2 * $memory, 'the backlog still stands');

# No further file can be opened.

my $dir    = $node->data_dir . '/base/pgsql_tmp';
my $offset = log_offset($node);
END { chmod 0700, $dir if defined $dir }
chmod 0500, $dir;
SKIP:
{
	skip 'this user may write anywhere', 1 if -w $dir;
	notify(1000) foreach 1 .. 2;
	$node->wait_for_log(
		qr/LOG:  pgpubsub relay could not begin another temporary file: .*Permission denied/,
		$offset);
	pass('a file that cannot be opened is in the log');
}
chmod 0700, $dir;
notify(1000);
read_to($sent);
is($next - 1, $sent, 'all is read that was notified');
is($wrong, 0, 'whole and in order');
ok(wait_until(sub { on_disk() == 0 }, 'no bytes'), 'nothing is left on disk');
is( $admin->queue('relay_state'),
	'listening', 'the queue is not full any more');

# Beyond the bound, one that blocks is evicted; what it misses is counted.

$most = 0;
my $before = $sent;
$offset = log_offset($node);
notify(1000) foreach 1 .. 24;
$node->wait_for_log(qr/evicted subscription "blocking"/, $offset);
cmp_ok($most, '>', $limit - 2 * $memory, 'the files were used');
cmp_ok($most, '<', $limit + 2 * $memory, 'up to the bound');
ok( wait_until(
		sub {
			$admin->queue('relay_state') eq
			  'listening';
		},
		'the end of the full queue'),
	'then the queue is open again');
is(on_disk(), 0, 'and nothing left on disk');
my @rows = $admin->run(
	"SELECT payload::int, lost FROM pgpubsub.poll('blocking', 1000)");
my $gap = shift @rows;
is($gap->[1] + @rows, $sent - $before, 'the gap row has the exact number');
is($rows[-1][0], $sent, 'and the newest are there');

is(relay_pid($node, 'postgres'), $relay, 'it was one relay all the time');
$admin->quit;
$node->stop('fast');
server_is_sound($node);
done_testing();
