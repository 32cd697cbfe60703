# Async mode keeps the order of the rows' versions: sixteen sessions change
# the same ten rows as fast as they can, and nobody, subscription or native
# listener, sees a row's versions out of order; nor when the relay is
# terminated again and again, and then still every event once.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $rows         = 10;
my $clients      = 16;
my $transactions = $ENV{PGPUBSUB_TRANSACTIONS} // 2_000;    # of each client

my $node = new_server('order', conf => q{
pgpubsub.publish_mode = async
pgpubsub.publish_timeout = 1min
pgpubsub.evict_timeout = 5min
synchronous_commit = off
max_connections = 50
autovacuum_naptime = 1s
log_statement = none
});
my $dir = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
my $admin = client($node);

# Rows and their versions.  A payload is "row version", or a change event of
# attach(), whose pieces are picked from the text.
$admin->run(
	qq{
	CREATE TABLE by_hand (id int PRIMARY KEY, v int NOT NULL) WITH (fillfactor = 10);
	CREATE TABLE by_trigger (LIKE by_hand INCLUDING ALL) WITH (fillfactor = 10);
	INSERT INTO by_hand SELECT i, 0 FROM generate_series(1, $rows) AS i;
	INSERT INTO by_trigger SELECT i, 0 FROM generate_series(1, $rows) AS i;
	SELECT pgpubsub.attach('by_trigger', 'by_trigger', '{update}', old_values => 'none');
	SELECT pgpubsub.subscribe('exact', '{by_hand,by_trigger}', 'block');
	SELECT pgpubsub.subscribe('pattern', '{by_*}', 'evict');
	SELECT pgpubsub.subscribe('one', '{by_hand}', 'block')});

# Single rows, two rows, and one whose last change is in a savepoint that is
# rolled back, so that its lock is held but nothing is said of it.
my %scripts = (
	hand => q{
\set id random(1, 10)
WITH u AS (UPDATE by_hand SET v = v + 1 WHERE id = :id RETURNING id, v)
SELECT pgpubsub.publish('by_hand', id || ' ' || v) FROM u;
},
	trigger => q{
\set id random(1, 10)
UPDATE by_trigger SET v = v + 1 WHERE id = :id;
},
	two => q{
\set id random(1, 9)
BEGIN;
WITH u AS (UPDATE by_hand SET v = v + 1 WHERE id = :id RETURNING id, v)
SELECT pgpubsub.publish('by_hand', id || ' ' || v) FROM u;
UPDATE by_trigger SET v = v + 1 WHERE id = :id + 1;
COMMIT;
},
	undone => q{
\set id random(1, 10)
BEGIN;
WITH u AS (UPDATE by_hand SET v = v + 1 WHERE id = :id RETURNING id, v)
SELECT pgpubsub.publish('by_hand', id || ' ' || v) FROM u;
SAVEPOINT s;
WITH u AS (UPDATE by_hand SET v = v + 1 WHERE id = :id RETURNING id, v)
SELECT pgpubsub.publish('by_hand', id || ' ' || v) FROM u;
ROLLBACK TO s;
COMMIT;
});
my @pgbench = (
	'pgbench', '-n', '-M', 'prepared', '-t', $transactions, '-c', $clients, '-j', 2);
foreach my $name (sort keys %scripts)
{
	append_to_file("$dir/$name.sql", $scripts{$name});
	push @pgbench, '-f',
	  "$dir/$name.sql@" . { hand => 10, trigger => 6, two => 2, undone => 1 }->{$name};
}
push @pgbench, 'postgres';

# A reader keeps, for each table and row, the last version that it has seen.
# What is wrong about the next one goes into its report.
sub new_report
{
	return {
		last     => {},
		events   => 0,
		backward => 0,
		twice    => 0,
		missing  => 0,
		gaps     => 0,
		known    => 0,
		other    => 0,
		first    => ''
	};
}

sub note_event
{
	my ($report, $channel, $payload) = @_;
	my ($id, $v) =
	  $channel eq 'by_hand'
	  ? split(/ /, $payload)
	  : $payload =~ /"new":\{"id":(\d+),"v":(\d+)\}/;

	if (!defined $v || $v !~ /^\d+$/)
	{
		$report->{other}++;
		$report->{first} ||= "$channel $payload";
		return;
	}
	my $last = $report->{last}{"$channel $id"} // 0;
	my $kind =
	    $v == $last + 1 ? ''
	  : $v == $last     ? 'twice'
	  : $v < $last      ? 'backward'
	  :                   'missing';

	$report->{events}++;
	$report->{last}{"$channel $id"} = $v;
	return unless $kind;
	$report->{$kind} += $kind eq 'missing' ? $v - $last - 1 : 1;
	$report->{first} ||= "$channel $id: $v after $last";
}

sub write_report
{
	my ($path, $report) = @_;

	append_to_file($path,
		join("\n", map { "$_=$report->{$_}" } grep { $_ ne 'last' } sort keys %$report)
		  . "\n");
}

sub read_report
{
	return { map { split /=/, $_, 2 } split /\n/, slurp_file($_[0]) };
}

# Subscriptions, each in a process of its own, until "end" has come.
sub read_subscription
{
	my ($name, $ends, $path) = @_;
	my $session = client($node);
	my $report  = new_report();

	while ($ends > 0)
	{
		foreach my $row (
			$session->run(
				"SELECT channel, payload, lost FROM pgpubsub.poll('$name', 10000, '2s')"
			))
		{
			if (!defined $row->[0])
			{
				$report->{ $row->[2] < 0 ? 'gaps' : 'known' }++;
			}
			elsif ($row->[1] eq 'end') { $ends--; }
			else                       { note_event($report, @$row[ 0, 1 ]); }
		}
	}
	write_report($path, $report);
}

# A native listener
sub listen_natively
{
	my ($path, $ready) = @_;
	my $session = client($node);
	my $report  = new_report();
	my $ends    = 2;

	$session->run('LISTEN by_hand; LISTEN by_trigger');
	append_to_file($ready, 'listening');
	while ($ends > 0)
	{
		$session->pump(10);
		die 'the connection is closed' if $session->{closed};
		foreach my $found ($session->notifications)
		{
			if ($found->[2] eq 'end') { $ends--; }
			else                      { note_event($report, @$found[ 1, 2 ]); }
		}
	}
	write_report($path, $report);
}

my %ends = (exact => 2, pattern => 2, one => 1);

# Let them all change rows; terminate the relay meanwhile, or not.
sub run_load
{
	my ($name, $terminate) = @_;
	my $killed = 0;
	my $last_pid = 0;

	$admin->run('UPDATE by_hand SET v = 0');
	$admin->run("SET pgpubsub.muted = on");
	$admin->run('UPDATE by_trigger SET v = 0');
	$admin->run('RESET pgpubsub.muted');
	foreach my $subscription (sort keys %ends)
	{
		in_child("$dir/$name.$subscription",
			sub {
				read_subscription($subscription, $ends{$subscription},
					"$dir/$name.$subscription");
			});
	}
	in_child("$dir/$name.native",
		sub { listen_natively("$dir/$name.native", "$dir/$name.ready") });
	wait_until(sub { -e "$dir/$name.ready" }, 'the native listener');

	my $program = begin_program($node, @pgbench);
	my $load = $program->{run};
	while ($terminate && $load->pumpable)
	{
		# a relay that has relayed something is terminated
		my ($pid, $published) = @{
			(   $admin->run(
					"SELECT relay_pid, published FROM pgpubsub.stat_queue WHERE relay_state = 'listening'"
				))[0] // []
		};
		eval { $load->pump_nb };
		if ($pid
			&& $pid != $last_pid
			&& wait_until(
				sub {
					eval { $load->pump_nb };
					return 1 unless $load->pumpable;
					$admin->queue('published') >
					  $published + 2000;
				},
				'events'))
		{
			$admin->run("SELECT pg_terminate_backend($pid)");
			$killed++;
			$last_pid = $pid;
		}
	}
	ok($load->finish, "$name: pgbench has met no error") or diag $program->{out};
	note $program->{out} =~ /(tps = [\d.]+)/;
	wait_for_relay($node, 'postgres', not => $last_pid);

	# the last events
	$admin->run("SELECT pgpubsub.publish('by_hand', 'end'), pgpubsub.publish('by_trigger', 'end')");
	join_children("$name: no reader has met an error");

	my %written = map { $_ => $admin->value("SELECT sum(v) FROM $_") } qw(by_hand by_trigger);
	my $all = $written{by_hand} + $written{by_trigger};

	note "$name: $all updates, relay terminated $killed times";
	foreach my $reader (sort(keys %ends), 'native')
	{
		my $report = read_report("$dir/$name.$reader");
		my $count  = $reader eq 'one' ? $written{by_hand} : $all;

		is($report->{backward}, 0,
			"$name: $reader has seen no version out of order")
		  or diag "first: $report->{first}";
		is($report->{other}, 0, "$name: $reader: nothing strange")
		  or diag "first: $report->{first}";
		is($report->{twice},   0, "$name: $reader: none twice");
		is($report->{missing}, 0, "$name: $reader: none missing");
		is($report->{events}, $count, "$name: $reader: $count events")
		  or diag "first: $report->{first}";
		is($report->{known}, 0, "$name: $reader has lost nothing");
		cmp_ok($report->{gaps}, '<=', $killed,
			"$name: $reader: no more gap rows than new relays")
		  if $reader ne 'native';
	}
	return ($all, $killed);
}

my ($all) = run_load('steady', 0);
cmp_ok($all, '>=', $clients * $transactions, "there were $all updates");
is($admin->queue('relay_restarts'),
	0, 'the relay was not started anew');

($all, my $killed) = run_load('terminated', 1);
cmp_ok($killed, '>=', 3, "the relay was terminated $killed times");
cmp_ok($all, '>=', $clients * $transactions, "there were $all updates");
is($admin->queue('relay_restarts'),
	$killed, 'and as often started anew');
$node->stop('fast');
server_is_sound($node);
done_testing();
