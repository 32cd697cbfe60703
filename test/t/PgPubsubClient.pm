# A client of the tests that speaks the protocol itself: it can send a
# statement and look at the answer later, keeps SQLSTATE, message, detail and
# hint of an error apart, and reads hundreds of thousands of rows or
# notifications without a psql in between.

package PgPubsubClient;

use strict;
use warnings;

use Exporter 'import';
use IO::Select;
use IO::Socket::UNIX;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = qw(
  client
  wait_until
  waits_in_extension
  stop_process
  hold_commits
  commit_waits
  release_commits
  server_is_sound
  in_child
  join_children
);

# A connected client.  user, application_name: of the session.
sub client
{
	my ($node, $db, %params) = @_;
	my $path = $node->host . '/.s.PGSQL.' . $node->port;
	my $self = bless {
		buffer        => '',
		notifications => [],
		rows          => [],
		error         => undef,
		busy          => 1
	  },
	  __PACKAGE__;

	$self->{socket} = IO::Socket::UNIX->new(Peer => $path)
	  or die "could not connect to $path: $!";
	my $startup = join "\0",
	  'user',             $params{user} // $ENV{PGUSER} // scalar(getpwuid($>)),
	  'database',         $db           // 'postgres',
	  'application_name', $params{application_name} // 'client',
	  'client_encoding',  'UTF8',
	  "\0";
	$self->put(pack('NN', length($startup) + 8, 196608) . $startup);
	$self->finish;
	die "could not log in: $self->{error}{M}" if $self->{error};
	return $self;
}

sub put
{
	my ($self, $bytes) = @_;
	local $SIG{PIPE} = 'IGNORE';

	while (length $bytes)
	{
		my $written = syswrite($self->{socket}, $bytes);

		return unless defined $written;
		$bytes = substr($bytes, $written);
	}
}

# Begin a query.
sub begin
{
	my ($self, $sql) = @_;

	die "client is busy" if $self->{busy};
	utf8::encode($sql) if utf8::is_utf8($sql);
	$self->{busy}  = 1;
	$self->{rows}  = [];
	$self->{error} = undef;
	$self->{began} = time;
	$self->put('Q' . pack('N', length($sql) + 5) . $sql . "\0");
	return $self;
}

# Take what has come, waiting at most so long for something to come; false if
# nothing has.
sub pump
{
	my ($self, $timeout) = @_;

	return 0
	  if $self->{closed} || !IO::Select->new($self->{socket})->can_read($timeout);
	my $got =
	  sysread($self->{socket}, $self->{buffer}, 1 << 18, length $self->{buffer});
	if (!$got)
	{
		$self->{closed} = 1;
		$self->{busy}   = 0;
		$self->{error} //= { C => '', M => 'connection closed' };
		return 1;
	}
	$self->take_messages;
	return 1;
}

sub take_messages
{
	my ($self) = @_;
	my $at = 0;

	while (length($self->{buffer}) - $at >= 5)
	{
		my ($type, $len) = unpack "\@$at aN", $self->{buffer};
		my ($start, $size) = ($at + 5, $len - 4);

		last if length($self->{buffer}) - $start < $size;
		$at = $start + $size;
		if ($type eq 'D')
		{
			my ($count) = unpack "\@$start n", $self->{buffer};
			my $pos = $start + 2;
			my @row;

			for (1 .. $count)
			{
				my ($bytes) = unpack "\@$pos N", $self->{buffer};

				$pos += 4;
				if ($bytes == 0xFFFFFFFF)
				{
					push @row, undef;
					next;
				}
				push @row, substr($self->{buffer}, $pos, $bytes);
				$pos += $bytes;
			}
			push @{ $self->{rows} }, \@row;
		}
		elsif ($type eq 'A')
		{
			push @{ $self->{notifications} },
			  [ unpack "\@$start N Z* Z*", $self->{buffer} ];
		}
		elsif ($type eq 'E')
		{
			my $body = substr($self->{buffer}, $start, $size);

			$self->{error} =
			  { map { substr($_, 0, 1) => substr($_, 1) } grep { length }
				  split /\0/, $body };

			# nothing comes after that
			$self->{closed} = 1 if $self->{error}{V} =~ /FATAL|PANIC/;
			$self->{busy} = 0 if $self->{closed};
		}
		elsif ($type eq 'K')
		{
			($self->{pid}) = unpack "\@$start N", $self->{buffer};
		}
		elsif ($type eq 'Z')
		{
			$self->{busy}  = 0;
			$self->{ended} = time;
		}
	}
	$self->{buffer} = substr($self->{buffer}, $at);
}

# Wait for the end of the query; returns the client.
sub finish
{
	my ($self) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while ($self->{busy})
	{
		$self->pump(1);
		die "query has not ended in time" if $self->{busy} && time > $deadline;
	}
	return $self;
}

# Has the query ended?
sub done
{
	my ($self) = @_;

	1 while $self->{busy} && $self->pump(0);
	return !$self->{busy};
}

# How long the query took, in seconds.
sub duration
{
	my ($self) = @_;

	return $self->{ended} - $self->{began};
}

# Run a query; its rows, each a reference.  An error is left in {error}.
sub query
{
	my ($self, $sql) = @_;

	$self->begin($sql)->finish;
	return @{ $self->{rows} };
}

# Run a query that must not fail; its rows.
sub run
{
	my ($self, $sql) = @_;
	my @rows = $self->query($sql);

	die "$self->{error}{M} ($self->{error}{C}) in: $sql" if $self->{error};
	return @rows;
}

# Run a query that must not fail; the first value of its first row.
sub value
{
	my ($self, $sql) = @_;

	my ($row) = $self->run($sql);

	return $row ? $row->[0] : undef;
}

# SQLSTATE of the error, or ''.
sub sqlstate
{
	my ($self) = @_;

	return $self->{error} ? $self->{error}{C} : '';
}

# The notifications that have come: [pid, channel, payload] each.
sub notifications
{
	my ($self) = @_;
	my @found = @{ $self->{notifications} };

	$self->{notifications} = [];
	return @found;
}

# Wait for that many notifications.
sub wait_for_notifications
{
	my ($self, $count) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while (@{ $self->{notifications} } < $count)
	{
		last if time > $deadline || $self->{closed};
		$self->pump(1);
	}
	return $self->notifications;
}

sub quit
{
	my ($self) = @_;

	$self->put('X' . pack('N', 4)) unless $self->{closed};
	close $self->{socket};
	$self->{closed} = 1;
}

# Repeat the look until it is true; its value, false if that takes too long.
sub wait_until
{
	my ($look, $name) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	while (time < $deadline)
	{
		my $found = $look->();

		return $found if $found;
		select(undef, undef, undef, 0.01);    # between two looks
	}
	fail('waited for: ' . ($name // 'a state'));
	return 0;
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

# Wait until the backend of the client's query sleeps in pgpubsub; false if
# the query ends instead.
sub waits_in_extension
{
	my ($watcher, $client) = @_;

	return wait_until(
		sub {
			return 'ended' if $client->done;
			return $watcher->value(
				"SELECT coalesce((SELECT state = 'active' AND wait_event_type = 'Extension'"
				  . " FROM pg_stat_activity WHERE pid = $client->{pid}), false)"
			) eq 't' ? 'waits' : 0;
		},
		'a session that waits') eq 'waits';
}

# Stop the process where it sleeps in pgpubsub: anywhere else it may hold a lock
# that others need.  SIGCONT has it go on.
sub stop_process
{
	my ($watcher, $pid) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return wait_until(
		sub {
			kill 'STOP', $pid;
			wait_until(sub { slurp_file("/proc/$pid/stat") =~ /\) T / },
				'a process that stops');
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

# The server log tells of no crash, no failed assertion.
sub server_is_sound
{
	my ($node, %params) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @bad = grep {
		/PANIC:|TRAP:|stuck spinlock|SHMEM_EXIT|you don't own a lock|WARNING:.*leak|was terminated by signal/
		  && !($params{allow} && $_ =~ $params{allow})
	} split /\n/, slurp_file($node->logfile);

	is(join("\n", @bad), '', 'no crash in the log of ' . $node->name);
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
