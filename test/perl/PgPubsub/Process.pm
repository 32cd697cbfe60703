# Processes of the tests: of the server, which are watched, stopped and held up;
# and programs and children that run beside the test.

package PgPubsub::Process;

use strict;
use warnings;

use Exporter 'import';
use IPC::Run;
use PgPubsub::Client;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  process_title
  resident_memory
  peak_memory
  temporary_bytes
  waits_in_extension
  stop_process
  freeze_process
  kill_server
  hold_commits
  commit_waits
  release_commits
  open_points
  close_point
  open_point
  comes_to
  begin_program
  in_child
  join_children
);

# The title of a process, as ps shows it; without what core adds when it has
# been at its NOTIFY queue.
sub process_title
{
	my ($pid) = @_;

	return slurp_file("/proc/$pid/cmdline") =~ s/(?: idle)?[ \0]+$//r;
}

# What is resident of a process and its own, in kB.
sub resident_memory
{
	my ($pid) = @_;

	return slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m
	  ? $1
	  : die "no RssAnon for process $pid";
}

# The most that was ever resident of a process, and of what it shares, in kB.
sub peak_memory
{
	my ($pid) = @_;

	return slurp_file("/proc/$pid/status") =~ /^VmHWM:\s+(\d+) kB/m
	  ? $1
	  : die "no VmHWM for process $pid";
}

# Bytes of the temporary files of a backend or a relay; the client looks.
sub temporary_bytes
{
	my ($client, $pid) = @_;

	return $client->value(
		"SELECT coalesce(sum(size), 0) FROM pg_ls_tmpdir() WHERE name LIKE 'pgsql\\_tmp$pid.%'"
	);
}

# Wait until the backend of the client's query sleeps in pgpubsub; false if
# the query ends instead.
sub waits_in_extension
{
	my ($watcher, $client) = @_;

	return wait_until(
		sub {
			return 'ended' if $client->done;

			# in a transaction, the view stays as it was seen first
			$watcher->run('SELECT pg_stat_clear_snapshot()');
			return $watcher->value(
				"SELECT coalesce((SELECT state = 'active' AND wait_event_type = 'Extension'"
				  . " FROM pg_stat_activity WHERE pid = $client->{pid}), false)"
			) eq 't' ? 'waits' : 0;
		},
		'a session that waits') eq 'waits';
}

# Stop the process wherever it is, and return when it stands still.  SIGCONT has
# it go on.
sub freeze_process
{
	my ($pid) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	kill 'STOP', $pid or die "process $pid: $!";
	return wait_until(sub { slurp_file("/proc/$pid/stat") =~ /\) T / }, 'a process that stops');
}

# Stop the process where it sleeps in pgpubsub: anywhere else it may hold a lock
# that others need.  SIGCONT has it go on.
sub stop_process
{
	my ($watcher, $pid) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return wait_until(
		sub {
			freeze_process($pid);
			$watcher->begin(
				"SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND wait_event_type = 'Extension'"
			);
			$watcher->pump(1);
			return 1 if $watcher->done && $watcher->{rows}[0][0];

			# in the way of the watcher, perhaps
			kill 'CONT', $pid;
			$watcher->finish;
			return 0;
		},
		'a process that is stopped where it sleeps');
}

# Kill all processes of the server at once, as when the machine loses power, but
# for what the kernel has.  $node->start starts it again.
sub kill_server
{
	my ($node) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($postmaster, $shared_memory) = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[ 0, 6 ];

	# it starts no more of them, once it stands still, and none sees another go
	freeze_process($postmaster);
	my @processes = grep { (process_state($_))[1] == $postmaster } map { m{/(\d+)/stat$} } glob '/proc/[0-9]*/stat';
	kill 'STOP', @processes;
	kill 'KILL', $postmaster, @processes;
	$node->kill9;
	wait_until(sub { !grep { (process_state($_))[0] !~ /^[XZ]?$/ } $postmaster, @processes }, 'the end of a server');
	wait_until(sub { !attached_to((split ' ', $shared_memory)[1]) }, 'the end of those who use the shared memory');

	# if nobody waits for the dead, the next one takes it for alive
	unlink $node->data_dir . '/postmaster.pid', $node->host . '/.s.PGSQL.' . $node->port . '.lock'
	  if (process_state($postmaster))[0] eq 'Z';
	return;
}

# How many processes have the shared memory of that id, which the server's next
# postmaster refuses to start beside.
sub attached_to
{
	my ($id) = @_;

	foreach my $line (split /\n/, slurp_file('/proc/sysvipc/shm'))
	{
		my @columns = split ' ', $line;

		return $columns[6] if $columns[1] eq $id;
	}
	return 0;
}

# The state of a process, one letter, and its parent; '' and 0 if it is gone.
sub process_state
{
	my ($pid) = @_;
	my $stat = eval { slurp_file("/proc/$pid/stat") } // '';

	return $stat =~ /^\d+ \(.*\) (\w) (\d+)/s ? ($1, $2) : ('', 0);
}

# From now on, commits with synchronous_commit = on wait for a standby that is
# not there, in every session.  It is the checkpointer that lets commits wait,
# once it has read the settings: what sessions see of them does not tell when.
sub hold_commits
{
	my ($node) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $probe = client($node);

	# its wait is cancelled below, and not logged
	$probe->run('SET synchronous_commit = on; SET log_min_messages = fatal');
	$node->safe_psql('postgres',
		"ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
	$node->reload;
	wait_until(
		sub {
			$probe->begin("SELECT pg_logical_emit_message(true, '', '')");
			return commit_waits($node, $probe);
		},
		'a commit that waits');
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($probe->{pid})");
	$probe->finish;
	$probe->quit;
	return;
}

# Wait until the client's commit waits for a standby; false if it ends instead.
sub commit_waits
{
	my ($node, $client) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $found = wait_until(
		sub {
			return 'ended' if $client->done;
			return $node->safe_psql('postgres',
				"SELECT wait_event FROM pg_stat_activity WHERE pid = $client->{pid}") eq 'SyncRep';
		},
		'the end of a commit');

	return $found && $found ne 'ended';
}

# Commits no longer wait, and those that do go on.
sub release_commits
{
	my ($node) = @_;

	$node->safe_psql('postgres',
		'ALTER SYSTEM RESET synchronous_standby_names');
	$node->reload;
	return;
}

# Start the server, and return the directory whose files name the points where
# this test has its processes wait; see src/base/debug.c.  Undefined if the server
# was built without them; with needed => 1 the whole test is skipped then.
my @points;

sub open_points
{
	my ($node, %params) = @_;
	my $dir = $node->basedir . '/points';

	mkdir $dir or die "$dir: $!";
	push @points, $dir;
	$node->append_conf('postgresql.conf', "pgpubsub.debug_points = '$dir'");
	$node->start;
	return $dir
	  if $node->safe_psql('postgres',
		"SELECT current_setting('pgpubsub.debug_inbox_divisor', true) IS NOT NULL"
	  ) eq 't';
	plan(skip_all => 'this build has no debug points') if $params{needed};
	return undef;
}

# Have somebody come to the point and wait there; do has that happen.  Returns the
# pid.
sub comes_to
{
	my ($node, $dir, $name, $do) = @_;
	my $offset = -s $node->logfile;

	close_point($dir, $name);
	$do->();
	$node->wait_for_log(qr/debug point $name: waiting/, $offset);
	return slurp_file($node->logfile, $offset) =~ /\[(\d+)\][^\n]*debug point $name: waiting/ ? $1 : 0;
}

# Have whoever comes to the point wait there; open_point() has them go on.
sub close_point
{
	my ($dir, $name) = @_;

	append_to_file("$dir/$name", '');
}

sub open_point
{
	my ($dir, $name) = @_;

	unlink "$dir/$name" or die "$dir/$name: $!";
}

# Whoever waits at a point ignores signals: a test that dies lets all go on
# before the servers are stopped.
END { unlink glob("$_/*") foreach @points }

# Start a program of the server's in the background, psql or pgbench for
# instance; it connects to the node.  Its {run} is IPC::Run's handle, its {out}
# all that it has written.
sub begin_program
{
	my ($node, $program, @args) = @_;
	my %begun = (out => '');

	$begun{run} = IPC::Run::start(
		[ $program, '-h', $node->host, '-p', $node->port, @args ],
		'<', \undef, '>&', \$begun{out});
	return \%begun;
}

# Have a child process do something; what it dies of goes to the file
# PATH.error.  Returns its pid.
my %children;

sub in_child
{
	my ($path, $do) = @_;
	my $pid = fork;

	die "could not fork: $!" unless defined $pid;
	if ($pid)
	{
		$children{$pid} = $path;
		return $pid;
	}
	my $ok = eval { $do->(); 1; };
	if (!$ok)
	{
		open my $out, '>', "$path.error";
		print $out $@;
		close $out;
	}
	require POSIX;
	POSIX::_exit($ok ? 0 : 1);
}

# Wait for all children; none may have died.
sub join_children
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @bad;

	foreach my $pid (sort keys %children)
	{
		waitpid($pid, 0);
		push @bad, "$children{$pid}: " . slurp_file("$children{$pid}.error")
		  if $?;
	}
	%children = ();
	is(join("\n", @bad), '', $name);
}

# Leave no child behind; say what the test may have failed of.
END
{
	if (%children)
	{
		my $status = $?;

		foreach my $path (grep { -e "$_.error" } values %children)
		{
			diag "$path: " . slurp_file("$path.error");
		}
		kill 'KILL', keys %children;
		waitpid($_, 0) foreach keys %children;
		$? = $status;
	}
}

1;
