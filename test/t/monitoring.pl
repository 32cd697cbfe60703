# What watches a server: the metrics of monitoring/ through both of Debian's
# exporters into Prometheus, alerts that fire and stop, and each expression of the
# dashboard.

use strict;
use warnings;

use HTTP::Tiny;
use JSON::PP;
use PgPubsub::Client;
use PgPubsub::Test;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# The programs, as Debian's packages have them; make test gets them.
my $programs = $ENV{PGPUBSUB_MONITORING} || '/usr';
my %program = map { $_ => "$programs/bin/$_" }
  qw(prometheus promtool prometheus-postgres-exporter prometheus-sql-exporter);
my ($missing) = grep { !-x $program{$_} } sort keys %program;

plan skip_all => "$missing is not there: install Debian's packages prometheus, prometheus-postgres-exporter and prometheus-sql-exporter"
  if $missing;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $node = new_server('monitoring', conf => q{
listen_addresses = '127.0.0.1'
pgpubsub.queue_size = 64kB
pgpubsub.publish_timeout = 1min
pgpubsub.log_size = 16MB
log_statement = none
});
$node->safe_psql('postgres', q{
CREATE EXTENSION pgpubsub;
CREATE ROLE monitor LOGIN;
GRANT pg_monitor TO monitor;
SELECT pgpubsub.set_durable('kept');
});
my $admin = client($node);

# The text of a file of monitoring/.
sub monitoring_file { return slurp_file("monitoring/$_[0]"); }

#
# The queries run as they are, for a role that may only watch; what pgwatch would
# run, which Debian does not have, runs too.
#
my %sets = monitoring_file('metrics.sql') =~ /^-- set (\w+): .*?\n(SELECT.*?);$/gms;
is(join(' ', sort keys %sets), 'pgpubsub_channel pgpubsub_log pgpubsub_queue pgpubsub_subscription', 'the sets of metrics');
foreach my $set (sort keys %sets)
{
	my $rows = $node->safe_psql('postgres', "SELECT count(*) FROM ($sets{$set}) AS rows", extra_params => [ '-U', 'monitor' ]);
	like($rows, qr/^\d+$/, "metrics.sql: $set");
}
my %pgwatch = monitoring_file('pgwatch.yml') =~ /^  (pgpubsub_\w+):\n.*?^      14: \|\n(.*?)(?=^\S|^  \S)/gms;
is(scalar keys %pgwatch, scalar keys %sets, 'pgwatch.yml has all sets');
foreach my $set (sort keys %pgwatch)
{
	my $row = $node->safe_psql('postgres', "SELECT count(*), bool_and(epoch_ns > 0) FROM ($pgwatch{$set}) AS rows", extra_params => [ '-U', 'monitor' ]);
	like($row, qr/^(0\||\d+\|t$)/, "pgwatch.yml: $set");
}

#
# Start what a user would start: exporters that log in as that role, and Prometheus
# with the example's configuration, every second, and alerts that need not last.
#
my %pids;

# Run a program until the test ends, however that does; what it writes goes to a log.
sub run_program
{
	my ($name, %env) = @_;
	my @command = @{ delete $env{command} };
	my $pid = fork;

	die "could not fork: $!" unless defined $pid;
	if (!$pid)
	{
		local @ENV{ keys %env } = values %env;
		open STDOUT, '>', "$PostgreSQL::Test::Utils::log_path/monitoring_$name.log" or die "log of $name: $!";
		open STDERR, '>&', \*STDOUT or die "could not redirect: $!";
		exec 'setpriv', '--pdeathsig', 'KILL', $program{$name}, @command or die "could not run $name: $!";
	}
	$pids{$name} = $pid;
	return;
}

END
{
	local $?;
	kill 'KILL', values %pids;
	waitpid $_, 0 foreach values %pids;
}

my %port = map { $_ => PostgreSQL::Test::Cluster::get_free_port() } qw(postgres sql prometheus);
my ($host, $server_port) = ($node->host, $node->port);

# exporters are told everything by files and the environment, as Debian's units do;
# that for SQL connects to no socket
(my $for_sql = monitoring_file('sql_exporter.yml')) =~
  s{'postgres://[^']*'}{'postgres://monitor\@127.0.0.1:$server_port/postgres?sslmode=disable'};
$for_sql =~ s/interval: 15s/interval: 1s/;
append_to_file("$dir/sql_exporter.yml", $for_sql);
run_program('prometheus-postgres-exporter',
	DATA_SOURCE_NAME => "user=monitor host=$host port=$server_port dbname=postgres sslmode=disable",
	command => [ '--extend.query-path=monitoring/postgres_exporter.yml', "--web.listen-address=127.0.0.1:$port{postgres}" ]);
run_program('prometheus-sql-exporter',
	command => [ '-config.file', "$dir/sql_exporter.yml", '-web.listen-address', "127.0.0.1:$port{sql}" ]);

(my $config = monitoring_file('prometheus.yml')) =~ s/15s/1s/g;
$config =~ s/localhost:9187/127.0.0.1:$port{postgres}/;
$config =~ s/localhost:9237/127.0.0.1:$port{sql}/;
$config =~ s/\n  - job_name: pgpubsub-gateway.*//s;
append_to_file("$dir/prometheus.yml", $config);
(my $rules = monitoring_file('alerts.yml')) =~ s/for: \d+m/for: 1s/g;
$rules =~ s/\[\d+m\]/[10s]/g;
append_to_file("$dir/alerts.yml", $rules);
run_program('prometheus',
	command => [ "--config.file=$dir/prometheus.yml", "--storage.tsdb.path=$dir/data", "--web.listen-address=127.0.0.1:$port{prometheus}" ]);

# As users are to have them, the rules and the configuration are right.
foreach my $check ([qw(check rules monitoring/alerts.yml)], [qw(test rules monitoring/alerts_test.yml)],
	[qw(check config monitoring/prometheus.yml)])
{
	command_ok([ $program{promtool}, @$check ], "promtool @$check");
}

# What Prometheus answers; undef if it does not (yet).
my $http = HTTP::Tiny->new(timeout => 10);

sub ask
{
	my ($path, %form) = @_;
	my $url = "http://127.0.0.1:$port{prometheus}/api/v1/$path?" . $http->www_form_urlencode(\%form);
	my $answer = $http->get($url);

	return unless $answer->{status} == 200 || $answer->{status} == 400;
	return decode_json($answer->{content});
}

# An expression's values, by the labels that are asked for.
sub values_of
{
	my ($expression, @labels) = @_;
	my $answer = ask('query', query => $expression);

	return {} unless $answer && $answer->{status} eq 'success';
	return { map { join(' ', map { $_ // '' } @{ $_->{metric} }{@labels}) => $_->{value}[1] } @{ $answer->{data}{result} } };
}

# The alerts that fire now, each with the job that it is about.
sub firing
{
	my $answer = ask('alerts') or return '';

	return join ' ', sort map { "$_->{labels}{alertname}/" . ($_->{labels}{job} // '') }
	  grep { $_->{state} eq 'firing' } @{ $answer->{data}{alerts} };
}

# Wait until an expression has that value from both exporters.
sub both_say
{
	my ($expression, $value, $name) = @_;
	my $found;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok(wait_until(sub {
			$found = values_of($expression, 'job');
			return ($found->{postgres} // '') eq $value && ($found->{sql} // '') eq $value;
		}, $expression), $name)
	  or diag explain $found;
	return;
}

both_say('pgpubsub_queue_relay_up{datname="postgres"}', 1, 'both exporters tell that the relay is at work');

# as different from one another as the exporters are, they tell the same metrics
my $names = 'group by (job, __name__) ({__name__=~"pgpubsub_.+"})';
my @known = map { my $set = $_; map { "${set}_$_" } grep { !/^(datname|channel|subscription|on_full)$/ } $sets{$set} =~ /(\w+),? +-- \w/g }
  sort keys %sets;
$admin->run(q{SELECT pgpubsub.subscribe('quiet', '{orders}', 'drop')});
ok(wait_until(sub { my %names; $names{$_}++ foreach map { (split ' ', $_)[1] } keys %{ values_of($names, 'job', '__name__') }; return join(' ', sort keys %names) eq join(' ', sort @known) && !grep { $_ != 2 } values %names; }, 'all metrics'),
	'each metric of metrics.sql comes from both exporters')
  or diag explain [ values_of($names, 'job', '__name__'), \@known ];

#
# A reader that does not read: its share of the queue, then writers that wait, and
# events lost by one that drops.  Each alert fires, and stops.
#
unlike(firing(), qr/Pgpubsub/, 'no alert fires while all is well');
$admin->run(q{SELECT pgpubsub.subscribe('slow', '{orders}', 'block')});
$admin->publish_series('orders', 1, 45);
ok(wait_until(sub { firing() =~ m{PgpubsubQueueHeld/postgres.*PgpubsubQueueHeld/sql} }, 'held'), 'a reader that holds half of the queue is told');
my $writer = client($node);
$writer->begin(q{SELECT count(pgpubsub.publish('orders', i || repeat(' ', 1000))) FROM generate_series(1, 200) AS i});
$admin->wait_for_queue("relay_state = 'full'");
ok(wait_until(sub { firing() =~ m{PgpubsubQueueFull/postgres.*PgpubsubQueueFull/sql} }, 'full'), 'a full queue is told');
$admin->run(q{SELECT pgpubsub.unsubscribe('slow')});
$writer->finish;
ok(wait_until(sub { firing() =~ m{PgpubsubEventsLost/postgres.*PgpubsubEventsLost/sql} }, 'lost'), 'events that were missed are told');
ok(wait_until(sub { firing() !~ /QueueHeld|QueueFull|EventsLost/ }, 'the end'), 'the alerts stop when it is over')
  or diag firing();

# the relay away, and back
$node->append_conf('postgresql.conf', "pgpubsub.databases = 'elsewhere'");
$node->reload;
$admin->wait_for_queue("relay_state = 'stopped'");
ok(wait_until(sub { firing() =~ m{PgpubsubRelayDown/postgres.*PgpubsubRelayDown/sql} }, 'relay down'), 'a relay that is away is told');
$node->append_conf('postgresql.conf', "pgpubsub.databases = '*'");
$node->reload;
ok(wait_until(sub { firing() !~ /RelayDown/ }, 'relay up'), 'and that it is back is seen');

#
# Load, durable events among it: what the dashboard shows is there.
#
$admin->run(q{SELECT pgpubsub.subscribe('reader', '{orders,kept}', 'block')});
my $dashboard = decode_json(monitoring_file('grafana-dashboard.json'));
my @panels = grep { $_->{targets} } @{ $dashboard->{panels} };
cmp_ok(scalar @panels, '>=', 15, 'the dashboard has panels');
foreach my $panel (@panels)
{
	foreach my $target (@{ $panel->{targets} })
	{
		my $expression = $target->{expr};
		my ($answer, $some);

		$expression =~ s/\$datname/.*/g;
		$expression =~ s/\$__rate_interval/10s/g;

		# what is lost is shown only where something is
		my $may_be_empty = $expression =~ /> 0$/;
		$some = wait_until(sub {
				$admin->run(q{SELECT pgpubsub.publish('orders', 'x'), pgpubsub.publish('kept', 'y'); SELECT FROM pgpubsub.poll('reader', 1000)});
				$answer = ask('query', query => $expression);
				return $answer && ($answer->{status} ne 'success' || $may_be_empty || grep { $_->{value}[1] ne 'NaN' } @{ $answer->{data}{result} });
			}, $expression);
		ok($some && $answer->{status} eq 'success', "dashboard: $panel->{title}, $target->{legendFormat}") or diag "$expression: " . encode_json($answer // {});
	}
}

# the server away: its exporter says so, and comes back with it; the one for SQL goes
# on to tell what it was told last
$node->stop('immediate');
ok(wait_until(sub { my $said = values_of('pgpubsub_queue_relay_up{datname="postgres"}', 'job'); return !$said->{postgres} && $said->{sql}; }, 'one exporter has no numbers'),
	'of a server that is away, one exporter tells nothing, and one what it knows');
kill 'KILL', delete $pids{'prometheus-sql-exporter'};
ok(wait_until(sub { firing() =~ /PgpubsubNoNumbers/ }, 'no numbers'), 'a server that is away is told');
$node->start;
ok(wait_until(sub { firing() !~ /PgpubsubNoNumbers/ }, 'numbers'), 'which ends the alert');

$node->stop;
done_testing();
