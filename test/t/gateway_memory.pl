# What a client can make the gateway keep has a bound in bytes, whatever it is made of:
# statements, portals, savepoints with their settings, a transaction's actions.  At the
# bound there is an error, and the session goes on when it gives up what it has.

use strict;
use warnings;

use PgPubsub::Gateway;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('memory');

$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');

my $gateway = start_gateway($node, options => [ '--max-session', 2 * 1024 * 1024, '--log-level', 'warning' ]);
my $warm = raw_login($gateway);

$warm->query('LISTEN c');

sub resident
{
	my ($kb) = slurp_file("/proc/$gateway->{pid}/status") =~ /^VmRSS:\s+(\d+) kB$/m;

	return $kb;
}

# Run a batch of extended messages; the error that it ends with, if it does.
sub batch
{
	my ($client, $bytes) = @_;
	my @errors = grep { $_->[0] eq 'E' } $client->talk($bytes . message('S', ''));

	return @errors ? $client->show($errors[0]) : '';
}

# A client does something again and again until there is an error; what that is.
sub until_error
{
	my ($most, $do) = @_;
	my $error = '';

	foreach my $i (1 .. $most)
	{
		$error = $do->($i);
		last if $error ne '';
	}
	return $error;
}

my $full = qr/^E ERROR 53400 the session keeps too much in memory/;
my $text = 'x' x 900_000;
my $before;
my $client;

# The session of a client that has reached the bound goes on.
sub goes_on
{
	my ($name) = @_;

	is($client->show($client->query('ROLLBACK'), $client->query('DISCARD ALL')) =~ /^C DISCARD ALL$/m ? 1 : 0, 1, "$name: all can be given up");
	is($client->show($client->query("NOTIFY c, 'on'")), "C NOTIFY\nZ I", 'and the session goes on');
	return;
}

# Statements
$client = raw_login($gateway);
$before = resident();
like(until_error(200, sub { batch($client, parse_message("s$_[0]", "SELECT '$text'")) }), $full, 'prepared statements');
cmp_ok(resident() - $before, '<', 60_000, 'take no more than the bound');
goes_on('statements');

# Portals, and statements that only these still have
$client = raw_login($gateway);
like(until_error(1, sub {
			batch($client, parse_message('', 'SELECT pg_notify($1, $2)', 25, 25)
				  . join('', map { bind_message("p$_", '', [ 'c', $text ]) } 1 .. 100)) }), $full, 'portals');
goes_on('portals');
$client = raw_login($gateway);
like(until_error(1, sub {
			batch($client, join('', map { parse_message('', "SELECT '$text'") . bind_message("p$_", '') } 1 .. 100)) }), $full, 'statements of portals alone');
goes_on('portals with statements');

# Savepoints, each with other settings
$client = raw_login($gateway);
$before = resident();
$client->query('BEGIN');
$client->query(join ';', map { "SET x.a$_ = '" . 'v' x 1000 . q{'} } 1 .. 150);
like(until_error(1000, sub {
			my @errors = grep { $_->[0] eq 'E' } $client->query("SET x.a = '$_[0]'; SAVEPOINT s$_[0]");

			return @errors ? $client->show($errors[0]) : ''; }), qr/^E ERROR (?:53400|54000) /, 'settings of savepoints');
cmp_ok(resident() - $before, '<', 60_000, 'take no more than the bound');
goes_on('savepoints');

# What a transaction is to do
$client = raw_login($gateway);
$client->query('BEGIN');
like(until_error(100, sub {
			my @errors = grep { $_->[0] eq 'E' } $client->query('UNLISTEN c;' x 2_000);

			return @errors ? $client->show($errors[0]) : ''; }), $full, 'UNLISTEN');
goes_on('UNLISTEN');

# One query
$client = raw_login($gateway);
$before = resident();
like($client->show($client->query('END;' x 30_000)), qr/${full}\nZ I$/, 'a query of very many statements');
cmp_ok(resident() - $before, '<', 80_000, 'takes no more than the bound');
goes_on('a query');

# What is refused is not kept, however long it was.
$client = raw_login($gateway);
is(batch($client, parse_message("s$_", 'WITH ' . 'a ' x 450_000)), '', 'a statement that will be refused can be prepared') foreach 1 .. 5;
is(until_error(100, sub { batch($client, parse_message("t$_[0]", 'WITH ' . 'a ' x 450_000)) }), '', 'a hundred of them, as nothing of them is kept');
like(batch($client, bind_message('', 's1') . execute_message('')), qr/^E ERROR 0A000 WITH is not possible here/, 'but what they are');
goes_on('refused statements');

is($gateway->stop, 0, 'the gateway ends well');
unlike($gateway->log, qr/Sanitizer|runtime error/, 'nothing was wrong inside');
done_testing();
