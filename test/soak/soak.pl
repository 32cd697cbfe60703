# Everything at once, for as long as it is told: writers in both publish modes
# and to durable channels, readers of each kind, subscriptions and attachments
# that come and go, terminated and cancelled sessions, reloads, full queues,
# native listeners, VACUUM FREEZE, databases that come and go; in one database
# relays that are stopped, and at the end, if asked for, backends that are
# killed, and the server with all its processes.  Then what was read is compared
# with what was written, and the slots of shared memory are counted.  Run by
# scripts/soak.
#
# In database "exact" the relay is never stopped: read + lost = published, for
# each subscription.  In "restarts" that holds for what was published in async
# mode; transactional events may be missing there, none may come twice.  Events
# of durable channels are all there in any case, once, and in order, to who
# stores them in the transaction that consumes them.
#
#   SOAK_SECONDS=90     how long all phases take together, about
#   SOAK_CRASH=1        the last phase kills backends, and the server
#   SOAK_SEED=...       repeats the dice (not the timing)

use strict;
use warnings;
use FindBin;

use PgPubsub::Test;
use POSIX qw(WNOHANG _exit);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $seconds = $ENV{SOAK_SECONDS} || 90;
my $crash   = $ENV{SOAK_CRASH} // 1;
my $seed    = $ENV{SOAK_SEED} || int(time) % 1000000;

my $max_subscriptions = 36;
my $max_channels      = 38;
my $max_bindings      = 8 * $max_subscriptions + $max_channels;
my @databases         = qw(exact restarts);

my $node = new_server('soak', init => { allows_streaming => 1 }, conf => qq{
pgpubsub.queue_size = 100kB
pgpubsub.staging_size = 68kB
pgpubsub.max_subscriptions = $max_subscriptions
pgpubsub.max_channels = $max_channels
pgpubsub.max_databases = 4
pgpubsub.evict_timeout = 30ms
pgpubsub.publish_timeout = 20s
max_connections = 90
max_worker_processes = 30
autovacuum_naptime = 5s
restart_after_crash = on
log_statement = none
});
my $dir = PostgreSQL::Test::Utils::tempdir();

# as small as it may be, so that its segments are used again and again
my $log_size = $node->safe_psql('postgres', "SELECT min_val || unit FROM pg_settings WHERE name = 'pgpubsub.log_size'");
if ($log_size)
{
	$node->safe_psql('postgres', "ALTER SYSTEM SET pgpubsub.log_size = '$log_size'");
	$node->reload;
}

# how long any one step may take
$PostgreSQL::Test::Utils::timeout_default = 90;
diag "SOAK_SEED=$seed, $seconds seconds" . ($crash ? ', with crashes' : '');

# Which channels, which on_full, how it is read, by how many sessions, and how
# wild they are.
my %subscriptions = (
	drop        => [ '{c1,c2,c3,it,m1}',          'drop',  'take', 1, 2 ],
	drop_look   => [ '{a1,a2,a3}',                'drop',  'look', 1, 1 ],
	evict       => [ '{a1,a2,ia}',                'evict', 'auto', 1, 2 ],
	evict_look  => [ '{c1,a1,m1,it,ia}',          'evict', 'look', 1, 1 ],
	evict_pair  => [ '{a1,c1,m1}',                'evict', 'take', 2, 1 ],
	block       => [ '{a1,a2,a3,ia,c1,c2,it,m1}', 'block', 'take', 1, 1 ],
	block_async => [ '{a*,ia}',                   'block', 'look', 1, 1 ],
	all_pair    => [ '{c*,a*,i*,m*}',             'evict', 'take', 2, 1 ],

	# of durable channels; the ring may lose what the last one reads besides
	durable       => [ '{d1,d2,d3,di,dr}', 'block', 'take', 1, 2 ],
	durable_auto  => [ '{d2,di}',       'block', 'auto', 1, 2 ],
	durable_look  => [ '{d1,d2,di}',    'block', 'look', 1, 1 ],
	durable_ack   => [ '{d1,di,dr}',    'block', 'ack',  1, 2 ],
	durable_pair  => [ '{d*}',          'block', 'take', 2, 1 ],
	durable_rare  => [ '{dr}',          'block', 'take', 1, 1 ],
	durable_mixed => [ '{d1,a1,c1}',    'block', 'take', 1, 1 ],
);
my @channels = qw(c1 c2 c3 a1 a2 a3 m1 it ia d1 d2 d3 di dr);
my %modes = (1 => 'transactional', 2 => 'async', 3 => 'transactional', 4 => 'async');

my ($admin, %phase);

sub connect_admin
{
	$admin = { map { $_ => client($node, $_, application_name => 'admin') } @databases };
}

# Rows that there must not be.
sub none
{
	my ($db, $sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	no_rows($admin->{$db}, $sql, "$phase{name}, $db: $name");
}

# ----------------------------------------------------------------------------
# Those who work until they are told to stop
# ----------------------------------------------------------------------------

my %workers;

sub stopping { return -e "$dir/stop"; }

# A process that repeats a step, with a client of its own, until it is told to
# stop; connects again when it lost its client.  A step may fail with the
# SQLSTATEs allowed, or with the loss of its connection.
sub worker
{
	my ($name, $db, $allowed, $step) = @_;
	my $number = keys %workers;
	my $pid    = fork;

	die "could not fork: $!" unless defined $pid;
	if ($pid)
	{
		$workers{$pid} = $name;
		return;
	}
	my $ok = eval {
		my ($client, $state) = (undef, {});

		srand($seed * 1000 + $phase{number} * 100 + $number);
		until ($name eq 'listener' ? -e "$dir/stop.listener" : stopping())
		{
			if (!$client || $client->{closed})
			{
				# the server may be starting, or full, or drop the database
				$client = eval { client($node, $db, application_name => "soak $name"); };
				next unless $client;
			}
			eval { $step->($client, $state); 1 } and next;
			my $error = $@;

			next if $client->{closed};
			die $error unless $error =~ /\((\w{5})\) in: /;
			die $error unless grep { $_ eq $1 } @$allowed, '57014';
			$client->query('ROLLBACK');
		}
		$client->quit if $client && !$client->{closed};
		1;
	};
	if (!$ok)
	{
		open my $out, '>', "$dir/error.$$";
		print $out "$name: $@";
		close $out;
	}
	_exit($ok ? 0 : 1);
}

# What backends are doing, for a report.
sub activity
{
	return join "\n", map { join ' | ', map { $_ // '' } @$_ } $admin->{exact}->query(
		q{SELECT pid, datname, backend_type, application_name, state, wait_event_type, wait_event, left(query, 100)
		    FROM pg_stat_activity WHERE pid <> pg_backend_pid() ORDER BY pid});
}

# Wait for the workers, all but those named; what they have died of.
sub reap
{
	my ($but) = @_;
	my $deadline = time + 60;
	my $left     = sub { return grep { $workers{$_} ne $but } keys %workers };
	my @bad;

	wait_until(
		sub {
			foreach my $pid ($left->())
			{
				next unless waitpid($pid, WNOHANG) == $pid;
				push @bad, slurp_file("$dir/error.$pid") if -e "$dir/error.$pid";
				push @bad, "$workers{$pid}: ended with $?" if $? && !-e "$dir/error.$pid";
				delete $workers{$pid};
			}
			return !$left->() || time > $deadline;
		},
		'the workers');
	my @stuck = $left->();
	my $names = join ' ', sort map { $workers{$_} } @stuck;

	is($names, '', "$phase{name}: all that works has stopped when told to")
	  or diag activity();
	is(join("\n", @bad), '', "$phase{name}: none has met an error that it must not");
	kill 'KILL', @stuck;
	waitpid($_, 0), delete $workers{$_} foreach @stuck;
}

# Tell everybody to stop; all do, in time, and none has met an error.
sub stop_workers
{
	append_to_file("$dir/stop", '');
	reap('listener');
	unlink "$dir/stop";

	# a backend may have been killed just before
	ok($node->poll_query_until('postgres', 'SELECT true'), "$phase{name}: the server is there");
	$node->safe_psql('postgres', "DROP DATABASE $_ WITH (FORCE)")
	  foreach split /\n/, $node->safe_psql('postgres', "SELECT datname FROM pg_database WHERE datname ~ '^gone'");
}

END
{
	my $status = $?;

	kill 'KILL', keys %workers if %workers;
	$? = $status;
}

# Writers

sub writer_step
{
	my ($who) = @_;

	return sub {
		my ($client) = @_;

		$client->run("SET pgpubsub.publish_timeout = '" . (rand() < 0.1 ? '50ms' : '20s') . "'");
		$client->run("CALL write($who, '$modes{$who}', " . int(1 + rand 60) . ")");
	};
}

# Readers

# Wait until there are more events, or the queue is full, or the log will be.
sub pause
{
	my ($client, $db) = @_;
	my $published = $client->value("SELECT published FROM pgpubsub.stat_queue WHERE datname = '$db'") // 0;

	wait_until(
		sub {
			return 1 if stopping();
			my $more = $client->value(
				"SELECT published NOT BETWEEN $published AND $published + 300 OR relay_state = 'full' OR l.used_bytes > 0.5 * l.log_size"
				  . " FROM pgpubsub.stat_queue JOIN pgpubsub.stat_log AS l USING (datname) WHERE datname = '$db'");
			return !defined $more || $more eq 't';
		},
		'more events');
}

sub reader_step
{
	my ($name, $db) = @_;
	my ($channels, $on_full, $how, $sessions, $wildness) = @{ $subscriptions{$name} };

	return sub {
		my ($client, $state) = @_;
		my $max  = 1 + int(rand(rand() < 0.2 ? 1000 : 100));
		my $dice = rand;

		if ($how eq 'auto')
		{
			$client->run("SELECT take('$name', $max)");
		}
		elsif ($how eq 'ack')
		{
			my ($shown) = $client->run("SELECT look, seq FROM look('$name', $max, 0.8)");

			# it may be shown again
			$client->run("SELECT ack_looked('$name', $shown->[0], $shown->[1])") if $shown && $dice > 0.1;
		}
		elsif ($how eq 'look' && $dice < 0.5)
		{
			# looked at before, by this session or by one that has ended
			$client->run("SELECT count(*) FROM pgpubsub.poll('$name', $max, '100ms', false)") if $dice < 0.2;
			$client->run("SELECT look_and_ack('$name', $max, 0.97)");
		}
		else
		{
			my $take =
			  $how eq 'look'
			  ? "SELECT look_and_ack('$name', $max, 0.99)"
			  : "SELECT take('$name', $max)";

			$client->run('BEGIN');
			for (0 .. int(rand 3))
			{
				if (rand() < 0.15 * $wildness)
				{
					$client->run('SAVEPOINT s');
					$client->run($take);
					$client->run(rand() < 0.8 ? 'ROLLBACK TO s' : 'RELEASE s');
				}
				$client->run($take);
			}
			$client->run($dice > 0.92 ? 'ROLLBACK' : 'COMMIT');
		}
		pause($client, $db) if rand() < 0.03 * $wildness;
		if (rand() < 0.02)
		{
			my $other = $on_full eq 'block' || rand() < 0.5 ? $on_full : $on_full eq 'drop' ? 'evict' : 'drop';

			# it stands already; another on_full changes nothing that is counted
			my $new = $client->value("SELECT pgpubsub.subscribe('$name', '$channels', '$other')");
			die "subscription $name was gone" if $new eq 't';
		}
	};
}

# Subscriptions and channels that come and go

sub churn_step
{
	my ($db) = @_;

	return sub {
		my ($client, $state) = @_;
		my $name     = 'churn' . int rand 9;
		my $channel  = 'n' . int rand 200;
		my $channels = (
			"{$channel}", '{c1}', '{n*}', "{*1,$channel}", '{m1,a*}',
			"{$channel,n" . int(rand 200) . ',n' . int(rand 200) . '}')[ rand 6 ];
		my $on_full   = (qw(drop evict evict))[ rand 3 ];
		my $start     = (qw(now now oldest 1))[ rand 4 ];
		my $temporary = rand() < 0.8 ? 'true' : 'false';
		my $dice      = rand;

		if ($dice < 0.3)
		{
			$client->run("SELECT pgpubsub.subscribe('$name', '$channels', '$on_full', '$start', $temporary)");
			$client->run("SELECT count(*) FROM pgpubsub.poll('$name', 50)") if rand() < 0.5;
			$client->run("SELECT pgpubsub.unsubscribe('$name')");
		}
		elsif ($dice < 0.5)
		{
			# all of it, or its savepoint, is rolled back; block holds nobody before it is committed
			$client->run('BEGIN');
			$client->run("SELECT pgpubsub.unsubscribe('$name')") if rand() < 0.5;
			$client->run('SAVEPOINT s');
			$client->run("SELECT pgpubsub.subscribe('$name', '$channels', 'block', '$start', $temporary)");
			$client->run("SELECT count(*) FROM pgpubsub.poll('$name', 50)") if rand() < 0.5;
			$client->run((rand() < 0.7 ? 'ROLLBACK TO s' : "SELECT pgpubsub.unsubscribe('$name')"));
			$client->run(rand() < 0.5 ? 'ROLLBACK' : 'COMMIT');
		}
		elsif ($dice < 0.6)
		{
			$client->run("SELECT pgpubsub.subscribe('$name', '$channels', '$on_full', '$start', true)");

			# and is left to the end of the session
			$client->quit if rand() < 0.3;
		}
		elsif ($dice < 0.7)
		{
			$client->run("SELECT pgpubsub.unsubscribe('$name')");
		}
		elsif ($dice < 0.9)
		{
			my $mode = rand() < 0.5 ? 'async' : 'transactional';

			$client->run("SET pgpubsub.publish_mode = '$mode'; SET pgpubsub.publish_timeout = '2s'");
			$client->run("SELECT pgpubsub.publish('n' || i % 200, 'churn') FROM generate_series("
				  . int(rand 200) . ', ' . int(rand 400) . ') AS i');
		}
		else
		{
			my $table = 'churn_' . (1 + int rand 2);
			my $level = rand() < 0.5 ? 'row' : 'statement';

			$client->run("SET pgpubsub.publish_timeout = '2s'");
			$client->run("SELECT pgpubsub.attach('$table', '$channel', level => '$level')");
			$client->run("INSERT INTO $table SELECT * FROM generate_series(1, 20)");
			$client->run("SELECT pgpubsub.detach('$table')") if rand() < 0.8;
			$client->run("TRUNCATE $table") if rand() < 0.1;
		}
	};
}

# A native listener that hears everything, and writes it to a file.
sub write_heard
{
	my ($client, $state, $file) = @_;

	foreach my $heard ($client->notifications)
	{
		my ($pid, $channel, $payload) = @$heard;
		my ($writer, $n) =
		  $payload =~ /^\{/
		  ? $payload =~ /"new": ?\{.*"writer": ?(\d+), ?"n": ?(\d+)/
		  : $payload =~ /^(\d+):(\d+)/;

		append_to_file($file, join("\t", ++$state->{rank}, $channel, $writer, $n) . "\n");
	}
}

sub listener_step
{
	my ($file) = @_;

	return sub {
		my ($client, $state) = @_;

		$client->run('LISTEN ' . join('; LISTEN ', grep { !/3$/ } @channels));
		append_to_file("$dir/listens", '');
		until (-e "$dir/stop.listener")
		{
			$client->pump(0.1);
			die 'the listener was disconnected' if $client->{closed};
			write_heard($client, $state, $file);
		}

		# what was committed before this has come when it has ended
		$client->run('SELECT 1');
		write_heard($client, $state, $file);
	};
}

# Native listeners that come and go
sub short_listener_step
{
	return sub {
		my ($client) = @_;

		$client->run('LISTEN ' . (qw(c1 a1 m1 it n1))[ rand 5 ]);
		$client->pump(0.1);
		return if $client->{closed};
		$client->run('UNLISTEN *') if rand() < 0.3;
		$client->quit if rand() < 0.2;
	};
}

# Databases that come and go
sub database_step
{
	return sub {
		my ($client) = @_;
		my ($db, $copy) = map { "gone_$_" } 1 + int rand 3, 4;

		$client->run("CREATE DATABASE $db");

		# it may be terminated before it is there
		my $there = eval { client($node, $db, application_name => 'soak in a database that goes') };
		if (!$there)
		{
			$client->run("DROP DATABASE IF EXISTS $db WITH (FORCE)");
			return;
		}

		eval {
			$there->run('CREATE EXTENSION pgpubsub');
			$there->run("SELECT pgpubsub.set_durable('b*')") if rand() < 0.5;
			$there->run("SELECT pgpubsub.subscribe('s', '{a,b*}')");
			$there->run("SET pgpubsub.publish_mode = 'async'; SELECT pgpubsub.publish('b' || i, 'x') FROM generate_series(1, 5) AS i");
			my $count = 0;
			$count += $there->value("SELECT count(payload) FROM pgpubsub.poll('s', 10, '20s')") until $count >= 5 || stopping();
			$there->run('DROP EXTENSION pgpubsub') if rand() < 0.3;
			1;
		} or $there->{closed} or $there->{error}{C} =~ /^(?:57014|53400)$/ or die $@;
		if (!$there->{closed} && rand() < 0.7)
		{
			$there->quit;
		}
		if ($there->{closed} && rand() < 0.3)
		{
			$client->run("CREATE DATABASE $copy TEMPLATE $db");
			$client->run("DROP DATABASE $copy WITH (FORCE)");
		}
		if ($there->{closed} && rand() < 0.3)
		{
			$client->run("ALTER DATABASE $db RENAME TO ${db}_named");
			$client->run("DROP DATABASE ${db}_named");
		}
		$client->run("DROP DATABASE IF EXISTS $db WITH (FORCE)");
		$there->quit;
	};
}

# Views, VACUUM, reloads
sub keeper_step
{
	my ($db) = @_;

	return sub {
		my ($client) = @_;
		my @insane = map { $_->[0] } $client->run('SELECT what FROM insane LIMIT 3');

		die "a view says what cannot be: @insane" if @insane;
		$client->run('SELECT * FROM pgpubsub.stat_queue, pgpubsub.stat_channels, pgpubsub.attachments');
		$client->run('VACUUM (FREEZE) counter, rows_async, rows_transactional, pgpubsub.subscription')
		  if rand() < 0.1;
		$client->run('VACUUM (FREEZE)') if rand() < 0.01;
		if (rand() < 0.05)
		{
			my $evict = (qw(10ms 30ms 100ms))[ rand 3 ];
			$client->run("ALTER SYSTEM SET pgpubsub.evict_timeout = '$evict'");
			$client->run('SELECT pg_reload_conf()');
		}
		$client->pump(0.05);
	};
}

# Somebody ends sessions, or what they do: any but the listener that hears all.
sub terminator_step
{
	my ($function) = @_;

	return sub {
		my ($client) = @_;

		$client->run(
			"SELECT $function(pid) FROM (SELECT pid FROM pg_stat_activity"
			  . " WHERE application_name ~ '^soak (writer|reader|churn|keeper|short|in)' ORDER BY random() LIMIT 1) AS victim"
		);
		$client->pump(0.2);
	};
}

# Stop the relay of "restarts"; wait for the next one.
sub relay_step
{
	return sub {
		my ($client) = @_;
		my $relay = q{SELECT pid FROM pg_stat_activity WHERE datname = 'restarts' AND backend_type = 'pgpubsub relay'};
		my $pid   = $client->value($relay);

		return unless $pid;
		$client->run("SELECT pg_terminate_backend($pid)");
		wait_until(sub { stopping() || ($client->value($relay) // $pid) != $pid }, 'another relay');
		my $published = $client->value("SELECT published FROM pgpubsub.stat_queue WHERE datname = 'restarts'") // 0;
		wait_until(
			sub {
				stopping()
				  || ($client->value("SELECT published FROM pgpubsub.stat_queue WHERE datname = 'restarts'") // 0) >
				  $published + 100 * rand 20;
			},
			'more events');
	};
}

# Kill a backend: all others go with it.
sub killer_step
{
	return sub {
		my ($client, $state) = @_;
		my ($db, $published) = ((@databases)[ rand 2 ]);

		$published = $client->value("SELECT published FROM pgpubsub.stat_queue WHERE datname = '$db'") // 0;
		wait_until(
			sub {
				stopping()
				  || ($client->value("SELECT coalesce(sum(published), 0) FROM pgpubsub.stat_queue WHERE datname = '$db'")) > 1500;
			},
			'events since the last crash');
		my $pid = $client->value(
			"SELECT pid FROM pg_stat_activity WHERE datname = '$db' AND (application_name ~ '^soak (writer|reader|churn)' OR backend_type = 'pgpubsub relay') ORDER BY random() LIMIT 1"
		);
		return if stopping() || !$pid;
		append_to_file("$dir/killed", "$pid\n");
		kill 'KILL', $pid;
		$client->pump(1) until $client->{closed};
	};
}

# End the server, in one way or another, and start it again.
sub restart_server
{
	my $dice = rand;

	if ($dice < 0.5)
	{
		kill_server($node);
	}
	else
	{
		$node->stop($dice < 0.8 ? 'immediate' : 'fast');
	}
	$node->start;
	append_to_file("$dir/restarted", "$dice\n");
}

# ----------------------------------------------------------------------------
# Phases
# ----------------------------------------------------------------------------

sub subscribe_all
{
	my ($db) = @_;

	foreach my $name (sort keys %subscriptions)
	{
		my ($channels, $on_full) = @{ $subscriptions{$name} };

		$admin->{$db}->run("SELECT pgpubsub.subscribe('$name', '$channels', '$on_full')");
	}
}

my @writer_errors = qw(53400 40P01);
my @churn_errors  = qw(53400 55006 42710 42704 55000 22023 40P01 42P01);

# Start everybody; crashing => 1: backends are killed.
sub start_workers
{
	my (%params) = @_;

	if (!$params{crashing})
	{
		worker('listener', 'exact', [], listener_step("$dir/heard"));
		wait_until(sub { -e "$dir/listens" }, 'the listener');
	}
	foreach my $db (@databases)
	{
		worker("writer $db $_", $db, \@writer_errors, writer_step($_)) foreach sort keys %modes;
		foreach my $name (sort keys %subscriptions)
		{
			worker("reader $db $name $_", $db, [qw(55006 55000)], reader_step($name, $db))
			  foreach 1 .. $subscriptions{$name}[3];
		}
		worker("churn $db $_", $db, \@churn_errors, churn_step($db)) foreach 1 .. 2;
		worker("short $db",  $db, [], short_listener_step());
		worker("keeper $db", $db, [qw(40P01)], keeper_step($db));
	}
	worker('databases', 'postgres', [qw(55006 42P04 3D000 55000)], database_step()) unless $params{crashing};
	if ($params{crashing})
	{
		worker('killer', 'exact', [], killer_step());
		return;
	}
	worker('terminator', 'postgres', [], terminator_step('pg_terminate_backend'));
	worker('canceller',  'postgres', [], terminator_step('pg_cancel_backend'));
	worker('relays',     'exact', [], relay_step());
}

# Let them work for so long; events go through all the time.  restarts: how often
# the server is restarted meanwhile.
sub let_work
{
	my ($duration, %params) = @_;
	my $end        = time + $duration;
	my $interval   = $duration / (($params{restarts} // 0) + 1);
	my $restart_at = time + $interval;
	my %last       = map { $_ => [ 0, time ] } @databases;
	my $stalled    = '';

	while (time < $end && !$stalled)
	{
		if ($params{restarts} && time >= $restart_at && $restart_at < $end - $interval / 2)
		{
			restart_server();
			$restart_at += $interval;
		}
		foreach my $db (@databases)
		{
			my $published = eval {
				connect_admin() if grep { $_->{closed} } values %$admin;
				$admin->{$db}->value("SELECT published FROM pgpubsub.stat_queue WHERE datname = '$db'");
			} // 0;

			$last{$db} = [ $published, time ] if $published != $last{$db}[0];
			$stalled = $db if time - $last{$db}[1] > 60;
		}
		foreach my $error (glob "$dir/error.*")
		{
			$end = 0;
		}
		$admin->{exact}->pump(0.5) unless $admin->{exact}{closed};
	}
	is($stalled, '', "$phase{name}: events go through all the time") or diag activity();
}

# Read all that is left.
sub drain
{
	my ($db) = @_;
	my $client = $admin->{$db};

	# the relay has handled whatever was committed when this returns
	$client->run("SELECT pgpubsub.unsubscribe(name) FROM pgpubsub.subscription WHERE name ~ '^churn'");
	$client->run("SELECT pgpubsub.subscribe('settle', '{settle}', temporary => true); SELECT pgpubsub.unsubscribe('settle')");
	my $left;
	do
	{
		$left = 0;
		foreach my $name (sort keys %subscriptions)
		{
			$left += $client->value("SELECT take('$name', 1000, '0')");
		}
		$left += $client->value("SELECT relay_state <> 'listening' OR staging_used_bytes > 0 FROM pgpubsub.stat_queue WHERE datname = '$db'") eq 't';
	} while $left;
	$client->run("SELECT pgpubsub.subscribe('settle', '{settle}', temporary => true); SELECT pgpubsub.unsubscribe('settle')");
	$client->run('ANALYZE');

	none($db, "SELECT subscription, pending, pending_bytes, state FROM pgpubsub.stat_subscriptions WHERE datname = '$db' AND (pending, state) <> (0, 'idle') AND state <> 'evicted'",
		'nothing is pending, nobody reads');
	none($db, "SELECT relay_state, staging_used_bytes FROM pgpubsub.stat_queue WHERE datname = '$db' AND (relay_state, staging_used_bytes) <> ('listening', 0)",
		'the relay listens, nothing is staged');
	none($db, 'SELECT * FROM insane', 'the views are sane');
}

# Nobody waits in pgpubsub any more, nobody is left over.
sub none_left
{
	my $sql = q{SELECT pid, application_name, wait_event, query FROM pg_stat_activity
	             WHERE application_name ~ '^soak' AND backend_type = 'client backend'};

	wait_until(sub { !$admin->{exact}->run($sql) }, 'the end of all sessions');
	none('exact', $sql, 'no session is left');
}

# What was read, against what was written.
sub check_reading
{
	my ($db, %params) = @_;

	none($db, q{SELECT subscription, channel, writer, n, count(*) FROM taken
	             WHERE channel IS NOT NULL GROUP BY 1, 2, 3, 4 HAVING count(*) > 1}, 'nothing is read twice');
	none($db, q{SELECT subscription, event_id, count(*) FROM taken WHERE event_id IS NOT NULL GROUP BY 1, 2 HAVING count(*) > 1},
		'no id is read twice');
	none($db, q{SELECT event_id, count(DISTINCT (writer, n)) FROM taken WHERE event_id IS NOT NULL GROUP BY 1 HAVING count(DISTINCT (writer, n)) > 1},
		'an id is of one event');
	none($db, q{SELECT t.* FROM taken AS t LEFT JOIN counter AS c USING (writer, channel) WHERE t.channel IS NOT NULL AND t.n > coalesce(c.n, 0)},
		'nothing is read that was not committed');
	none($db, q{SELECT * FROM (
	              SELECT subscription, channel, writer, n, lag(n) OVER (PARTITION BY subscription, channel, writer ORDER BY arrival) AS before
	                FROM taken WHERE channel IS NOT NULL) AS t WHERE before >= n},
		'the events of a writer come in order, on each channel');
	none($db, q{SELECT * FROM (
	              SELECT subscription, channel, id, version, lag(version) OVER (PARTITION BY subscription, channel, id ORDER BY arrival) AS before
	                FROM taken WHERE id IS NOT NULL) AS t WHERE before >= version},
		'the versions of a row never go backwards');
	none($db, q{SELECT * FROM (
	              SELECT subscription, channel, seq, lag(seq) OVER (PARTITION BY subscription ORDER BY arrival) AS before
	                FROM taken WHERE channel IS NOT NULL) AS t WHERE before >= seq},
		'seq increases');
	none($db, q{SELECT channel, writer, n, count(DISTINCT seq) FROM taken WHERE channel IS NOT NULL GROUP BY 1, 2, 3 HAVING count(DISTINCT seq) > 1},
		'an event has the same seq for all');
	none($db, q{SELECT * FROM taken WHERE lost < -1 OR lost = 0}, 'lost is a number or not known');

	my $totals = q{
		SELECT s.subscription, sum(c.n) AS written
		  FROM pgpubsub.stat_subscriptions AS s
		  JOIN counter AS c ON EXISTS (SELECT FROM unnest(s.channels) AS p WHERE c.channel LIKE replace(p, '*', '%'))
		 WHERE s.datname = current_database() GROUP BY 1};
	my $read = q{SELECT subscription, count(channel) AS read, coalesce(sum(lost), 0) AS lost, min(lost) AS least FROM taken GROUP BY 1};

	if ($params{exact})
	{
		none($db, "SELECT * FROM ($totals) AS w FULL JOIN ($read) AS r USING (subscription) WHERE (read + lost) IS DISTINCT FROM written OR least < 0",
			'read + lost = published, for each subscription');
		none($db, "SELECT subscription, r.read, s.delivered, r.lost, s.lost FROM ($read) AS r JOIN pgpubsub.stat_subscriptions AS s USING (subscription)
		            WHERE s.datname = current_database() AND (r.read, r.lost) IS DISTINCT FROM (s.delivered, s.lost::numeric)",
			'stat_subscriptions says the same');
		is($admin->{$db}->value("SELECT relay_restarts FROM pgpubsub.stat_queue WHERE datname = '$db'"),
			0, "$phase{name}, $db: the relay was never started anew");
	}
	else
	{
		none($db, "SELECT * FROM ($totals) AS w JOIN ($read) AS r USING (subscription) WHERE read > written",
			'no more is read than was published');
	}
	if ($params{async})
	{
		# a gap row of -1 hides the number; the view knows it
		none($db, "SELECT subscription, written, r.read, s.delivered, s.lost FROM ($totals) AS w JOIN ($read) AS r USING (subscription)
		             JOIN pgpubsub.stat_subscriptions AS s USING (subscription)
		            WHERE s.datname = current_database() AND s.channels <@ '{a1,a2,a3,a*,ia}'
		              AND (r.read + s.lost IS DISTINCT FROM written OR r.read <> s.delivered)",
			'async: read + lost = published, over restarts of the relay');
	}
	none($db, q{SELECT t.subscription, t.channel, c.writer, c.n, count(*) FROM taken AS t JOIN counter AS c USING (channel, writer)
	             WHERE t.subscription ~ '^block' AND t.channel ~ ANY ($1) GROUP BY 1, 2, 3, 4 HAVING count(*) <> c.n} =~
		  s/\$1/$params{exact} ? q('{.*}') : q('{^a,^ia}')/er,
		"those with block have missed nothing" . ($params{exact} ? '' : ' of what was async'))
	  if $params{exact} || $params{async};
	check_durable($db);
}

# What is promised of durable channels, whatever became of relays and server.
# That nothing was read twice, and in which order, was looked at before.
sub check_durable
{
	my ($db) = @_;

	$admin->{$db}->run('CREATE INDEX IF NOT EXISTS taken_event ON taken (subscription, channel, writer, n); ANALYZE taken');
	none($db, q{SELECT s.subscription, c.channel, c.writer, k, c.n
	              FROM pgpubsub.stat_subscriptions AS s
	              JOIN counter AS c ON EXISTS (SELECT FROM unnest(s.channels) AS p WHERE c.channel LIKE replace(p, '*', '%'))
	             CROSS JOIN generate_series(1, c.n) AS k
	             WHERE s.datname = current_database() AND s.subscription ~ '^durable' AND c.channel ~ '^d'
	               AND NOT EXISTS (SELECT FROM taken AS t
	                                WHERE (t.subscription, t.channel, t.writer, t.n) = (s.subscription, c.channel, c.writer, k))},
		'each event of a durable channel was read');
	none($db, q{SELECT subscription, seq, lost FROM taken
	             WHERE subscription ~ '^durable' AND subscription <> 'durable_mixed' AND (channel IS NULL OR lost IS NOT NULL)
	            UNION ALL
	            SELECT subscription, seq, lost FROM looked WHERE channel IS NULL OR lost IS NOT NULL},
		'no gap row, where all channels are durable');
	none($db, q{SELECT subscription, lost FROM pgpubsub.stat_subscriptions
	             WHERE datname = current_database() AND subscription ~ '^durable' AND subscription <> 'durable_mixed' AND lost <> 0},
		'nor does the view say that they have lost something');
	none($db, q{SELECT * FROM (
	              SELECT subscription, look, channel, seq, lag(seq) OVER (PARTITION BY subscription, look ORDER BY arrival) AS before
	                FROM looked) AS l WHERE before >= seq},
		'seq increases in a look');
	none($db, q{SELECT * FROM (
	              SELECT subscription, look, l.first, max(a.seq) OVER (PARTITION BY subscription ORDER BY look
	                                                                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
	                FROM (SELECT subscription, look, min(seq) AS first FROM looked GROUP BY 1, 2) AS l
	                LEFT JOIN acked AS a USING (subscription, look)) AS l WHERE first <= before},
		'what is shown is behind what was acked');
	none($db, q{SELECT subscription, look, a.seq, a.count AS acked, count(l.channel) AS shown
	              FROM acked AS a JOIN looked AS l USING (subscription, look) WHERE l.seq <= a.seq
	             GROUP BY 1, 2, 3, 4 HAVING count(l.channel) <> a.count},
		'an ack counts what was shown');
}

# The order of the native listener is that of the subscriptions, for events of
# the same publish mode: none is promised between the two.  What a writer in
# async mode sends on m1 may be of either, so there it is for each writer.
sub check_heard
{
	my $client = $admin->{exact};

	$client->run("COPY heard FROM '$dir/heard'");
	$client->run('CREATE INDEX ON heard (channel, writer, n); ANALYZE heard');
	none('exact', q{SELECT channel, writer, n, count(*) FROM heard GROUP BY 1, 2, 3 HAVING count(*) > 1}, 'a native listener hears nothing twice');
	none('exact', q{SELECT c.channel, c.writer, c.n, count(h) FROM counter AS c LEFT JOIN heard AS h USING (channel, writer)
	                 WHERE c.channel NOT IN ('c3', 'a3', 'd3') GROUP BY 1, 2, 3 HAVING count(h) <> c.n}, 'it hears everything');
	none('exact', q{SELECT * FROM (
	                  SELECT subscription, channel, writer, n, rank, lag(rank) OVER (PARTITION BY subscription, substring(channel from '^i?a|^d'), CASE WHEN channel = 'm1' AND writer % 2 = 0 THEN writer END ORDER BY arrival) AS before
	                    FROM taken JOIN heard USING (channel, writer, n)) AS t WHERE before >= rank},
		'subscriptions have the order that it hears');
}

# Every slot is free: all can be taken, and no more.
sub check_slots
{
	my ($db) = @_;
	my $client = client($node, $db, application_name => 'slots');
	my $name   = "$phase{name}, $db";

	foreach my $other (@databases)
	{
		$admin->{$other}->run('SELECT pgpubsub.unsubscribe(name) FROM pgpubsub.subscription');
	}
	is($admin->{exact}->value("SELECT count(*) FROM pgpubsub.stat_subscriptions"), 0, "$name: all are unsubscribed");

	# overwrite what old channels have in the queue
	$client->run("SELECT pgpubsub.subscribe('fill', '{a1}', 'drop', temporary => true)");
	$client->run("SELECT pgpubsub.publish('a1', i || repeat('x', 1000)) FROM generate_series(1, 300) AS i");
	$client->run("SELECT pgpubsub.unsubscribe('fill')");

	my @full = map { "s$_" } 1 .. $max_subscriptions;
	my @channels = ('a1', map { "new$_" } 2 .. $max_channels);
	my $bound = 0;

	foreach my $i (1 .. $max_subscriptions)
	{
		# as many as there are, and one for each of those to come
		my $left  = $max_bindings - $bound - ($max_subscriptions - $i);
		my $count = $left < $max_channels ? $left : $max_channels;
		my $list  = join ',', @channels[ 0 .. $count - 1 ];

		$client->query("SELECT pgpubsub.subscribe('s$i', '{$list}', 'drop', temporary => true)");
		last if $client->{error};
		$bound += $count;
	}
	is($client->{error} ? "$client->{error}{M}: $client->{error}{D}" : '', '', "$name: slots can be taken");
	is($bound, $max_bindings, "$name: all $max_subscriptions subscriptions, $max_channels channels and $max_bindings bindings are free");
	$client->query("SELECT pgpubsub.subscribe('more', '{new1}', temporary => true)");
	is($client->sqlstate, '53400', "$name: and no more than these");
	$client->run("SELECT pgpubsub.unsubscribe('$_')") foreach @full;
	$client->query("SELECT pgpubsub.subscribe('more', '{" . join(',', @channels, 'other') . "}', temporary => true)");
	is($client->sqlstate, '53400', "$name: nor more channels");
	$client->quit;
	wait_until(sub { !$admin->{exact}->value("SELECT count(*) FROM pgpubsub.stat_subscriptions") }, 'the end of temporary subscriptions');
}

# ----------------------------------------------------------------------------

foreach my $db (@databases)
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, slurp_file("$FindBin::RealBin/soak.sql"));
	$node->safe_psql($db, "INSERT INTO counter (writer, channel) SELECT w, c FROM generate_series(1, 4) AS w, unnest('{" . join(',', @channels) . "}'::text[]) AS c");
}
connect_admin();

%phase = (name => 'no crash', number => 1);
srand($seed);
subscribe_all($_) foreach @databases;
start_workers();
let_work($seconds * ($crash ? 0.6 : 0.85));
stop_workers();
drain($_) foreach @databases;
append_to_file("$dir/stop.listener", '');
reap('');
none_left();
foreach my $db (@databases)
{
	diag "$db: " . $admin->{$db}->value(
		q{SELECT format('%s published, %s read, %s lost; full %s times, %s evictions, %s restarts of the relay',
		         (SELECT sum(n) FROM counter), (SELECT count(channel) FROM taken), (SELECT sum(lost) FROM taken WHERE lost > 0),
		         full_count, evictions, relay_restarts)
		    FROM pgpubsub.stat_queue WHERE datname = current_database()})
	  . $admin->{$db}->value(
		q{SELECT format('; log: %s published, %s read, %s rotations, full %s times', appended, read_back, rotations, full_count)
		    FROM pgpubsub.stat_log WHERE datname = current_database()});
}
check_reading('exact', exact => 1);
check_reading('restarts', async => 1);
check_heard();
check_slots($_) foreach @databases;

if ($crash)
{
	%phase = (name => 'crashes', number => 2);
	subscribe_all($_) foreach @databases;
	start_workers(crashing => 1);
	let_work($seconds * 0.25, restarts => 3);
	stop_workers();
	wait_for_relay($node, $_) foreach @databases;
	connect_admin();
	none_left();
	drain($_) foreach @databases;
	check_reading($_) foreach @databases;
	check_slots($_) foreach @databases;
	my @killed = split /\n/, slurp_file("$dir/killed");
	my @restarts = split /\n/, slurp_file("$dir/restarted");
	diag scalar(@killed) . ' backends were killed, ' . scalar(@restarts) . ' times the server was ended';
}

$_->quit foreach values %$admin;
$node->stop('fast');

# Nothing in the server log but what this test brings about.
my @expected = (
	qr/FATAL:  terminating connection due to administrator command/,
	qr/FATAL:  terminating background worker "(?:pgpubsub|logical replication)/,
	qr/FATAL:  database "gone_\d(?:_named)?" does not exist/,
	qr/pgpubsub relay FATAL:  database \d+ does not exist/,
	qr/FATAL:  connection to client lost/,
	# what databases that go away do to autovacuum is core's
	qr/autovacuum worker (?:WARNING|ERROR|FATAL):  /,
	qr/FATAL:  the database system is/,
	qr/ERROR:  cancel(?:ing|ling) (?:statement|autovacuum)/,
	qr/ERROR:  (?:(?:queue|log of durable channels) is full|deadlock detected)/,
	qr/ERROR:  subscription "[^"]*" (?:is being read|already exists|does not exist)/,
	qr/ERROR:  (?:too many (?:subscriptions|channels|bindings))/,
	qr/ERROR:  (?:the relay of this database does not answer|this database has no relay)/,
	qr/WARNING:  (?:no relay for database "gone_|this database gets no relay|no room for channel|pgpubsub queue is (?:more than half )?full|pgpubsub log of durable channels in database "\w+" is full)/,
	qr/WARNING:  too many (?:channels|bindings)/,
	qr/WARNING:  there is no transaction in progress/,
	qr/WARNING:  PID \d+ is not a PostgreSQL (?:backend|server) process/,
	qr/ERROR:  (?:source )?database "gone_\d(?:_named)?" (?:is being accessed|already exists|does not exist)/,
	$crash
	? (
		qr/WARNING:  terminating connection because of (?:crash of another server process|immediate shutdown command)/,
		qr/was terminated by signal 9: Killed/,
		qr/WARNING:  (?:could not open directory "base|some useless files may be left behind)/)
	: ());
my %unexpected;
foreach my $line (split /\n/, slurp_file($node->logfile))
{
	next
	  unless $line =~ /(?:WARNING|ERROR|FATAL|PANIC):  |TRAP:|stuck spinlock|you don't own a lock|was terminated by signal/;
	next if grep { $line =~ $_ } @expected;
	$unexpected{ $line =~ s/^.*?((?:WARNING|ERROR|FATAL|PANIC):)/$1/r } //= $line;
}
is(join("\n", map { $unexpected{$_} } sort keys %unexpected), '', 'nothing unexpected in the server log');
diag "SOAK_SEED=$seed, logs in $PostgreSQL::Test::Utils::log_path" unless Test::More->builder->is_passing;
done_testing();
