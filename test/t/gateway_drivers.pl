# Any driver listens and notifies through the gateway as on the server.  Each has
# a program in test/drivers that does the steps of the file "steps" there, first on
# the server, then through the gateway, and then with one session on either; what it
# prints must be the same, and what the file says.
#
# A driver that is not there is skipped.  PGPUBSUB_CLIENTS: a directory in which
# scripts/test-clients has put drivers that Debian does not have.

use strict;
use warnings;

use IPC::Run;
use PgPubsub::Gateway;
use PgPubsub::Test;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $programs = 'test/drivers';
my $clients = $ENV{PGPUBSUB_CLIENTS} // '';
my $jdbc = (glob "$clients/postgresql-*.jar")[0] // '/usr/share/java/postgresql.jar';
my $node_modules = -d "$clients/node_modules" ? "$clients/node_modules" : '/usr/share/nodejs';

# Debian's packages are for this one.
my $python = -x '/usr/bin/python3' ? '/usr/bin/python3' : 'python3';

# A driver: its name, what must succeed if it is there, what to run, and where to
# get it.
my @drivers = (
	[ 'psql', [ 'psql', '--version' ], [ $^X, "$programs/psql.pl" ], 'postgresql-client' ],
	[ 'psycopg 3', [ $python, '-c', 'import psycopg' ], [ $python, "$programs/psycopg3.py" ], 'python3-psycopg' ],
	[ 'psycopg 3, asyncio', [ $python, '-c', 'import psycopg' ], [ $python, "$programs/psycopg3.py", 'async' ], 'python3-psycopg' ],
	[ 'psycopg 2', [ $python, '-c', 'import psycopg2' ], [ $python, "$programs/psycopg2_steps.py" ], 'python3-psycopg2' ],
	[ 'asyncpg', [ $python, '-c', 'import asyncpg' ], [ $python, "$programs/asyncpg_steps.py" ], 'python3-asyncpg' ],
	[ 'Ruby pg', [ 'ruby', '-rpg', '-e', '' ], [ 'ruby', "$programs/pg.rb" ], 'ruby-pg' ],
	[ 'DBD::Pg', [ '/usr/bin/perl', '-MDBD::Pg', '-e', '' ], [ '/usr/bin/perl', "$programs/dbd_pg.pl" ], 'libdbd-pg-perl' ],
	[ 'JDBC', [ 'test', '-f', $jdbc ], [ 'java', '-cp', $jdbc, "$programs/Jdbc.java" ], 'libpostgresql-jdbc-java and default-jdk-headless' ],
	[ 'JDBC, simple', [ 'test', '-f', $jdbc ], [ 'java', '-cp', $jdbc, "$programs/Jdbc.java", 'simple' ], 'libpostgresql-jdbc-java and default-jdk-headless' ],
	[ 'node-postgres', [ 'node', '-e', q{require('pg')} ], [ 'node', "$programs/node_pg.js" ], 'node-pg, or npm pg' ],
	[ 'pg-listen', [ 'node', '-e', q{require('pg-listen')} ], [ 'node', "$programs/node_pg.js", 'pg-listen' ], 'npm pg-listen' ],
	[ 'pgx 5', [ 'test', '-x', "$clients/pgx" ], ["$clients/pgx"], 'Go module github.com/jackc/pgx/v5' ],
	[ 'lib/pq', [ 'test', '-x', "$clients/libpq" ], ["$clients/libpq"], 'Go module github.com/lib/pq' ]);

my $node = PostgreSQL::Test::Cluster->new('drivers');

$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pgpubsub'\nlisten_addresses = '127.0.0.1'\nfsync = off\n");
$node->append_conf('pg_hba.conf', "host all all 127.0.0.1/32 scram-sha-256\n");
$node->start;
$node->safe_psql('postgres', q{CREATE EXTENSION pgpubsub; CREATE ROLE driver LOGIN PASSWORD 'secret'});

my $tcp_port = PostgreSQL::Test::Cluster::get_free_port();

# The login leg goes where the gateway is connected: to the address that asks for a
# password.
my $hba = slurp_file($node->data_dir . '/pg_hba.conf');
open my $file, '>', $node->data_dir . '/pg_hba.conf' or die $!;
print $file "local all driver scram-sha-256\n$hba\n" or die $!;
close $file or die $!;
$node->reload;

my $gateway = start_gateway($node, login => 0, options => [ '--listen', "127.0.0.1:$tcp_port" ]);

# The steps as a program is given them, and with what is to come of them.
my $expected = join '', grep { !/^#|^$/ } split /(?<=\n)/, slurp_file("$programs/steps");
$expected =~ s/\{(.)\*(\d+)\}/$1 x $2/ge;
my $input = join '', grep { !/^= / } split /(?<=\n)/, $expected;

# Long ones would make a failure unreadable.
sub shorten
{
	my ($text) = @_;

	$text =~ s/((\w)\2{49,})/"{$2*" . length($1) . '}'/ge;
	return $text;
}

# Two texts are the same; where they differ is shown.
sub same_lines
{
	my ($got, $wanted, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $place = PostgreSQL::Test::Utils::tempdir();

	return if ok($got eq $wanted, $name);
	foreach my $side ([ 'wanted', $wanted ], [ 'got', $got ])
	{
		open my $out, '>', "$place/$side->[0]" or die $!;
		print $out $side->[1] or die $!;
		close $out or die $!;
	}
	IPC::Run::run([ 'diff', '-U', '3', "$place/wanted", "$place/got" ], '>', \my $difference);
	diag $difference;
	return;
}

# What the program prints with its sessions there.
sub prints
{
	my ($command, $port, $other) = @_;
	my ($out, $err) = ('', '');
	local %ENV = (
		%ENV,
		PGHOST     => '127.0.0.1',
		PGPORT     => $port,
		PGUSER     => 'driver',
		PGPASSWORD => 'secret',
		PGDATABASE => 'postgres',
		PGSSLMODE  => 'disable',
		NODE_PATH  => $node_modules,
		PYTHONDONTWRITEBYTECODE => 1,
		OTHER_PORT => $other);

	IPC::Run::run($command, '<', \$input, '>', \$out, '2>', \$err, IPC::Run::timeout(300))
	  or $out .= "it failed: $?\n";
	$out .= "stderr: $err" if $err ne '';
	return shorten($out);
}

foreach my $driver (@drivers)
{
	my ($name, $there, $command, $package) = @$driver;

  SKIP:
	{
		local $ENV{NODE_PATH} = $node_modules;
		my $found = eval { IPC::Run::run($there, '<', \undef, '>', \my $out, '2>', \my $err) };

		skip "$name is not there: $package", 3 unless $found;
		my $server = prints($command, $node->port, $node->port);
		my @extras = $server =~ /^= ok .*\n/mg;
		my $common = $server =~ s/^= ok .*\n//mgr;

		same_lines($common, shorten($expected), "$name on the server: as the steps say");
		same_lines(prints($command, $tcp_port, $tcp_port), $server, "$name through the gateway: as on the server");
		same_lines(prints($command, $tcp_port, $node->port), $server, "$name: one session through the gateway, one on the server");
		note "$name: $_" foreach @extras;
	}
}

# What no driver does by itself: the same on both.
foreach my $case (
	[ 'half-closed', sub {
		my ($session) = @_;

		$session->put(message('Q', "LISTEN a\0") . message('Q', "NOTIFY a, 'x'\0"));
		shutdown $session->{socket}, 1;
		return $session->show($session->read_until('none'));
	} ],
	[ 'Terminate', sub {
		my ($session) = @_;

		$session->put(message('Q', "LISTEN a\0") . message('X', '') . message('Q', "NOTIFY a, 'x'\0"));
		return $session->show($session->read_until('none'));
	} ],
	[ 'half-closed in a transaction', sub {
		my ($session) = @_;

		$session->put(message('Q', "BEGIN; LISTEN a; NOTIFY a, 'x'\0"));
		shutdown $session->{socket}, 1;
		return $session->show($session->read_until('none'));
	} ],
	[ 'a cancel request', sub {
		my ($session, $to) = @_;
		my $cancel = raw_client($to);

		$cancel->put(message('', pack('NNN', 80877102, @$session{qw(pid key)})));
		my $rest = $cancel->next_message;
		return (defined $rest ? 'something' : 'nothing') . "\n" . $session->show($session->query('SELECT 1'));
	} ])
{
	my ($name, $do) = @$case;
	my @shown = map { $do->(raw_login($_), $_) } $node, start_gateway($node);

	is($shown[1], $shown[0], "$name: as on the server");
}

is($gateway->stop, 0, 'the gateway ends well');
unlike($gateway->log, qr/secret/, 'its log has no password');
done_testing();
