# Whatever a client sends, the gateway goes on, and so do all other clients: every
# message cut off at every byte and with every wrong length, before and after
# the login, and noise.  It is built with the sanitizers, which end it at the
# first byte that is read out of bounds, and at its end for memory that was lost.

use strict;
use warnings;

use IO::Select;
use PgPubsub::Gateway;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('hostile', conf => "log_statement = none\n");

$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');

my $gateway = start_gateway($node, options => [ '--max-logins', '4', '--log-level', 'warning' ]);
my $watcher = raw_login($gateway);

$watcher->query('LISTEN alive');

# The gateway still serves others.
sub is_alive
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is($watcher->show($watcher->query("NOTIFY alive, 'yes'")), "C NOTIFY\nA own alive yes\nZ I", "$name: the gateway lives")
	  or BAIL_OUT($gateway->log);
	return;
}

# Send the bytes to a connection, end it for sending, and read all it says.
sub shout
{
	my ($client, $bytes) = @_;

	$client->put($bytes);
	shutdown $client->{socket}, 1;
	1 while $client->next_message;
	return;
}

my $startup = message('', pack('N', 196608) . "user\0$ENV{PGUSER}\0database\0postgres\0\0");
my %messages = (
	query    => message('Q', "LISTEN \"x\"; SELECT pg_notify('x', E'\\x41'); BEGIN; SAVEPOINT s\0"),
	parse    => parse_message('p', 'SELECT pg_notify($1, $2)', 25, 25),
	bind     => parse_message('', 'SELECT pg_notify($1, $2)') . bind_message('', '', [ 'x', undef ], [ 0 ]) . execute_message('', 1),
	describe => parse_message('', 'SELECT 1') . describe_message('S', '') . close_message('S', ''),
	function => message('F', pack('N n n N a n', 1, 1, 1, 1, 'x', 0)),
	copy     => message('d', 'data') . message('c', '') . message('f', "no\0") . message('H', '') . message('S', ''),
	password => message('p', "secret\0"),
);

# Before the login
shout(raw_client($gateway), substr($startup, 0, $_)) foreach 0 .. length($startup) - 1;
is_alive('a startup packet that is cut off');
shout(raw_client($gateway), pack('NN', 16, 80877102) . substr(pack('NN', $watcher->{pid}, 1), 0, $_)) foreach 0 .. 8;
is_alive('a cancel request that is cut off');
foreach my $length (0 .. 9, 10_000, 10_005, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
{
	shout(raw_client($gateway), pack('N', $length) . "\0\3\0\0user\0x\0\0" x 20);
}
is_alive('wrong lengths of a startup packet');

# After it
foreach my $name (sort keys %messages)
{
	my $bytes = $messages{$name};

	for my $cut (1 .. length $bytes)
	{
		# (a login for each would take long: half of them)
		next if $cut % 2 && $cut < length $bytes;
		shout(raw_login($gateway), substr $bytes, 0, $cut);
	}
	foreach my $length (0, 3, 4, 5, length($bytes) - 2, length($bytes), 0x7FFFFFFF, 0xFFFFFFFF)
	{
		shout(raw_login($gateway), substr($bytes, 0, 1) . pack('N', $length) . substr($bytes, 5));
	}
	is_alive($name);
}
shout(raw_login($gateway), pack('C N', $_, 8) . "abc\0") foreach 0 .. 255;
is_alive('every type');

# Noise, the same in every run
my $state = 42;

sub noise
{
	my ($count) = @_;

	return pack 'C*', map { $state = ($state * 1103515245 + 12345) % 2147483648; ($state >> 16) & 255 } 1 .. $count;
}
shout(raw_client($gateway), noise(200)) foreach 1 .. 100;
shout(raw_login($gateway), message('Q', noise(100) . "\0") . message('B', noise(50)) . message('P', noise(50)) . message('S', '')) foreach 1 .. 100;
is_alive('noise');

# Much at once: many statements of one query, deep in commits and comments.
my $client = raw_login($gateway);
$client->put(message('Q', ('BEGIN; LISTEN a; COMMIT;' x 30_000) . "\0"));
my @answers = $client->read_until('Z');
is(scalar(grep { $_->[0] eq 'C' } @answers), 90_000, '30,000 commits in one query') if $ENV{GATEWAY_LONG};
is($answers[-1][0], 'Z', 'a query of many commits ends');
$client = raw_login($gateway);
$client->put(message('Q', ('/*' x 400_000) . "\0"));
is($client->read_until('Z') ? 'Z' : '', 'Z', 'comments that nest deeply');
$client->put(message('Q', ('BEGIN;' . 'SAVEPOINT s;' x 50_000) . "\0"));
@answers = $client->read_until('Z');
is($answers[-1][0], 'Z', 'many savepoints');
shout(raw_login($gateway), 'Q' . pack('N', 64 * 1024 * 1024) . 'x' x 1000);
is_alive('much at once');

# Much to answer, from a client that reads nothing: no more is taken than client-buffer
# allows, and all comes once it reads.
sub resident
{
	my ($kb) = slurp_file("/proc/$gateway->{pid}/status") =~ /^VmRSS:\s+(\d+) kB$/m;

	return $kb;
}

$client = raw_login($gateway);
$client->put(parse_message('', "SELECT '" . 'x' x 500_000 . "'") . message('S', ''));
$client->read_until('Z');
my $before = resident();
my $batch  = (bind_message('', '', [], []) . execute_message('')) x 400 . message('S', '');
$client->put($batch);
shutdown $client->{socket}, 1;
is_alive('a client that reads no answers');
cmp_ok(resident() - $before, '<', 100_000, 'answers of 200 MB take less than 100 MB');
@answers = $client->read_until('Z');
is(scalar(grep { $_->[0] eq 'D' } @answers), 400, 'all of them come, and the end of the sending before that ends nothing');
@answers = ();

# Clients that leave while they wait, many at a time
foreach my $i (1 .. 50)
{
	$client = raw_login($gateway);
	$client->put(message('Q', "LISTEN w$i; NOTIFY w$i\0") x 3);
	close $client->{socket};
}
is_alive('clients that leave');

is($gateway->stop, 0, 'no sanitizer has anything to say at the end');
unlike($gateway->log, qr/Sanitizer|runtime error/, 'nor before');
done_testing();
