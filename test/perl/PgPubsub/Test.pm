# What the tests of this directory share: servers with pgpubsub, sessions that
# go on after an error, queries that are begun and ended apart, and a look at
# the server log when a test is done.
#
# Tests wait for a state (poll_query_until, wait_for_log, poll() with a
# timeout), never for a time.

package PgPubsub::Test;

use strict;
use warnings;

use Exporter 'import';
use PgPubsub::Client;
use PgPubsub::Process;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = (
	qw(
	  new_server
	  open_session
	  close_session
	  query_error
	  session_error
	  fails_with
	  begin_query
	  end_query
	  session_pid
	  notifications
	  publish
	  settle
	  receive
	  received
	  hears
	  is_quiet
	  at_once
	  at_once_limit
	  create_taken
	  no_rows
	  relay_pid
	  wait_for_relay
	  kill_relay
	  log_offset
	  unexpected_lines
	  log_is_clean
	  server_is_sound
	),
	@PgPubsub::Client::EXPORT,
	@PgPubsub::Process::EXPORT);

# A psql that cannot connect, to a server that restarts after a crash, may end
# before it is given its query; that is no reason to end the test.
{
	no warnings 'redefine';
	my $poll = \&PostgreSQL::Test::Cluster::poll_query_until;

	*PostgreSQL::Test::Cluster::poll_query_until = sub {
		my @args = @_;

		foreach my $try (1 .. 100)
		{
			my $done = eval { $poll->(@args) };

			return $done if $@ eq '';
			die $@ if $try == 100 || $@ !~ /Broken pipe/;
		}
	};
}

# Longer than any wait that ends well; a poll that ran into it has failed.
our $wait = '30s';

# A server with pgpubsub preloaded, started.  conf: lines for postgresql.conf;
# preload => 0 leaves the library out; init: arguments of init(); start => 0.
sub new_server
{
	my ($name, %params) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(%{ $params{init} // {} });

	# said either way, as TEMP_CONFIG may have it
	$node->append_conf('postgresql.conf', "shared_preload_libraries = '"
		  . ($params{preload} // 1 ? 'pgpubsub' : '') . "'");
	$node->append_conf('postgresql.conf', $params{conf})
	  if defined $params{conf};
	$node->start if $params{start} // 1;
	return $node;
}

# A psql session that goes on after errors and shows their SQLSTATE.
sub open_session
{
	my ($node, $db, %params) = @_;

	return $node->background_psql(
		$db // 'postgres',
		on_error_stop => 0,
		extra_params  => [
			'-v', 'VERBOSITY=verbose',
			defined $params{user} ? ('-U', $params{user}) : ()
		]);
}

# End a session whose backend may be gone, and psql with it.
sub close_session
{
	my ($session) = @_;

	eval {
		$session->{run}->pump_nb;
		$session->{stdin} .= "\\q\n" if $session->{run}->pumpable;
		$session->{run}->finish;
	};
}

# What one statement in a session of its own writes to stderr.
sub query_error
{
	my ($node, $db, $sql, %params) = @_;
	my ($ret, $stdout, $stderr) = $node->psql(
		$db, $sql,
		on_error_stop => 1,
		extra_params  => [
			'-v', 'VERBOSITY=verbose',
			defined $params{user} ? ('-U', $params{user}) : ()
		]);

	return $stderr;
}

# What a query in an open session writes to stderr.
sub session_error
{
	my ($session, $sql) = @_;

	$session->{stderr} = '';
	$session->query($sql);
	my $error = $session->{stderr};
	$session->{stderr} = '';
	return $error;
}

# The statement fails with that SQLSTATE and with a message like that.
sub fails_with
{
	my ($where, $db, $sql, $sqlstate, $like, $name, %params) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $error =
	  ref $where eq 'PostgreSQL::Test::BackgroundPsql'
	  ? session_error($where, $sql)
	  : query_error($where, $db, $sql, %params);

	like($error, qr/(?:ERROR|FATAL):  \Q$sqlstate\E: .*$like/s, $name);
}

# Have the session begin the query; do not wait for its end.
sub begin_query
{
	my ($session, $sql) = @_;

	$session->query_until(qr/begun\n/, "\\echo begun\n$sql;\n");
}

# Wait for the end of what begin_query() began; its output and its errors.
sub end_query
{
	my ($session) = @_;

	$session->{stderr} = '';
	my $output = $session->query('');
	my $error  = $session->{stderr};
	$session->{stderr} = '';
	return wantarray ? ($output, $error) : $output;
}

# The pid of the session's backend.
sub session_pid
{
	my ($session) = @_;

	return $session->query('SELECT pg_backend_pid()');
}

# Native notifications that have come to the session since it was last
# asked: "channel:payload" each.
sub notifications
{
	my ($session) = @_;
	my $output = $session->query('SELECT');
	my @found;

	while ($output =~
		/^Asynchronous notification "([^"]*)"(?: with payload "(.*)")? received from server process with PID \d+\.$/mg
	  )
	{
		push @found, $1 . ':' . ($2 // '');
	}
	return @found;
}

# Publish one event, in a transaction of its own.
sub publish
{
	my ($node, $db, $channel, $payload) = @_;

	return $node->safe_psql($db,
		"SELECT pgpubsub.publish('$channel', '$payload')");
}

# Return when the relay of the database has queued all that was committed before;
# a client has a method for that.  The session may end later than psql, and the
# next one wants the name: hence unsubscribe().
sub settle
{
	my ($node, $db) = @_;

	$node->safe_psql($db,
		"SELECT pgpubsub.subscribe('settle_once', '{settle_once}', temporary => true), pgpubsub.unsubscribe('settle_once')"
	);
	return;
}

# Poll the subscription until it has given that many messages; one string per
# row: "channel:payload", or "gap:lost" for a gap row.  Stops, with what it has,
# when a poll comes back empty.  A gap row does not count unless gaps => 1.
# With consume => 0 it looks until so many are shown at once.
sub receive
{
	my ($node, $db, $subscription, $count, %params) = @_;
	my $consume = ($params{consume} // 1) ? 'true' : 'false';
	my @rows;
	my $messages = 0;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while ($messages < $count && time < $deadline)
	{
		# a look shows again what the last one has shown
		($messages, @rows) = (0) if $consume eq 'false';

		my $max    = $count - $messages;
		my $output = $node->safe_psql($db,
			"SELECT coalesce(channel || ':' || payload, 'gap:' || lost)"
			  . " FROM pgpubsub.poll('$subscription', $max, '$wait', $consume)");
		my @new = split /\n/, $output;

		last unless @new;
		push @rows, @new;
		$messages += $params{gaps} ? @new : grep { !/^gap:/ } @new;
	}
	return @rows;
}

# The same as one string, to compare.
sub received
{
	return join ' ', receive(@_);
}

# Subscription s of the database gets what is published on channel news now; before
# it a gap row if gap => 1, none if gap => 0, perhaps one if that is not said.
my $heard = 0;

sub hears
{
	my ($node, $db, $name, %params) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $payload = 'heard ' . ++$heard;
	my $gap =
	    !defined $params{gap} ? '(?:gap:-1 )?'
	  : $params{gap}          ? 'gap:-1 '
	  :                         '';

	publish($node, $db, 'news', $payload);
	like(received($node, $db, 's', 1), qr/^${gap}news:$payload$/, $name);
}

# Nothing is there to be read.
sub is_quiet
{
	my ($node, $db, $subscription, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	settle($node, $db);
	is( $node->safe_psql($db,
			"SELECT channel, payload, lost FROM pgpubsub.poll('$subscription')"
		),
		'', $name);
}

# In how many seconds a command ends that does not run into core's own wait for
# other sessions, of 5 s; a machine that is busy takes longer for everything.
sub at_once_limit
{
	my ($node) = @_;
	my $began = time;

	$node->safe_psql('postgres', 'SELECT 1');
	return 4 + 10 * (time - $began);
}

# The command succeeds, and does not run into core's own wait for other sessions.
sub at_once
{
	my ($node, $db, $sql, $name, %params) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $limit = at_once_limit($node);
	my $start = time;

	$name //= $sql;
	is(query_error($node, $db, $sql, %params), '', $name);
	cmp_ok(time - $start, '<', $limit, "$name: at once");
}

# Create table taken, for a test that compares at its end what was read with what
# was written; and function take(subscription, max_messages), which polls into
# it, in the order n, and returns how many rows came.  timeout: of the poll;
# payload: what of p.payload is kept.
sub create_taken
{
	my ($node, $db, %params) = @_;
	my $timeout = $params{timeout} // 0;
	my $payload = $params{payload} // 'p.payload';

	$node->safe_psql(
		$db, qq{
		CREATE TABLE taken (
			n bigint GENERATED ALWAYS AS IDENTITY, subscription text,
			seq bigint, channel text, payload text, pid int, lost bigint);
		CREATE FUNCTION take(s name, max_messages int) RETURNS bigint LANGUAGE sql AS \$\$
			WITH rows AS (
				INSERT INTO taken (subscription, seq, channel, payload, pid, lost)
				SELECT s, p.seq, p.channel, $payload, p.pid, p.lost
				  FROM pgpubsub.poll(s, max_messages, '$timeout') AS p
				RETURNING 1)
			SELECT count(*) FROM rows \$\$});
	return;
}

# Rows that there must not be; the client looks.
sub no_rows
{
	my ($client, $sql, $name) = @_;
	my @rows = map { join ' ', map { $_ // 'NULL' } @$_ } $client->run($sql);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	splice @rows, 10;
	is(join("\n", @rows), '', $name);
}

# The pid of the database's relay, as pg_stat_activity has it.
sub relay_pid
{
	my ($node, $db) = @_;

	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity"
		  . " WHERE backend_type = 'pgpubsub relay' AND datname = '$db'");
}

# Wait until the database has a relay that listens (or, with count => 0,
# until it has none); with not => pid, another one than that.  A test fails
# if it does not come to that.
sub wait_for_relay
{
	my ($node, $db, %params) = @_;
	my $count = $params{count} // 1;
	my $not   = $params{not}   // 0;

	my $sql =
	  $count == 0
	  ? "SELECT count(*) = 0 FROM pg_stat_activity"
	  . " WHERE backend_type = 'pgpubsub relay' AND datname = '$db'"
	  : "SELECT count(*) = $count FROM pg_stat_activity"
	  . " WHERE backend_type = 'pgpubsub relay' AND datname = '$db'"
	  . " AND pid <> $not AND wait_event_type = 'Extension'";

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $done = $node->poll_query_until('postgres', $sql);

	fail("waited for a state of the relay of database $db") unless $done;
	return $done;
}

# End the database's relay, and wait for the next one.
sub kill_relay
{
	my ($node, $db) = @_;
	my $pid = relay_pid($node, $db);

	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	wait_for_relay($node, $db, not => $pid);
	return $pid;
}

# The end of the server log as it stands.
sub log_offset
{
	my ($node) = @_;

	return -s $node->logfile;
}

# The lines of the server log that are a warning or an error not like one of
# the allowed ones, or tell of a crash.  The first severity in a line is its
# own, whatever log_line_prefix puts before it.
sub unexpected_lines
{
	my ($node, @allowed) = @_;
	my @found;
	my $stopping;

	# what a server's stop and start bring with it; and what core says when a
	# command needs what autovacuum is at, or drops or renames the database of a
	# worker that is not yet connected
	push @allowed,
	  qr/FATAL:  terminating connection due to administrator command/,
	  qr/(?:autovacuum worker|pgpubsub relay) FATAL:  database (?:\d+|"\w+") does not exist/,
	  qr/autovacuum worker ERROR:  canceling autovacuum task/,
	  qr/autovacuum worker FATAL:  terminating autovacuum process due to administrator command/,
	  qr/FATAL:  terminating background worker "pgpubsub launcher" due to administrator command/,
	  qr/FATAL:  terminating background worker "pgpubsub relay[^"]*" due to administrator command/,
	  qr/FATAL:  the database system is (?:starting up|shutting down|in recovery mode|not yet accepting connections)/;

	foreach my $line (split /\n/, slurp_file($node->logfile))
	{
		my ($severity) = $line =~
		  /^\S+ \S+ \S+ \[\d+\] .*?\b(DEBUG\d?|LOG|INFO|NOTICE|WARNING|ERROR|FATAL|PANIC|DETAIL|HINT|QUERY|CONTEXT|LOCATION|STATEMENT):  /;

		# core calls SIGTERM a timeout for a client that is still logging in; without
		# a server that stops, it is one
		$stopping = 1 if $line =~ /LOG:  received (?:smart|fast|immediate) shutdown request/;
		$stopping = 0 if $line =~ /LOG:  database system is shut down/;
		next if $stopping && $line =~ /FATAL:  canceling authentication due to timeout/;

		next
		  unless ($severity // '') =~ /^(?:WARNING|ERROR|FATAL|PANIC)$/
		  || $line =~ /TRAP:|was terminated by signal/;
		push @found, $line unless grep { $line =~ $_ } @allowed;
	}
	return @found;
}

# The server log has no warning and no error but those like the allowed
# ones, and no crash whatsoever.
sub log_is_clean
{
	my ($node, @allowed) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(join("\n", unexpected_lines($node, @allowed)),
		'', 'nothing unexpected in the log of ' . $node->name);
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

1;
