# Who may log in is the server's to say: what a client is told through the
# gateway is what the server tells it; and who gives no proof is refused.

use strict;
use warnings;

use PgPubsub::Gateway;
use PgPubsub::Test;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('login');

prepare_server($node, sql => q{
	CREATE ROLE scram LOGIN PASSWORD 'secret';
	CREATE ROLE plain LOGIN PASSWORD 'secret';
	CREATE ROLE trusted LOGIN;
	CREATE ROLE rejected LOGIN PASSWORD 'secret';
	CREATE ROLE nologin PASSWORD 'secret';
	CREATE ROLE expired LOGIN PASSWORD 'secret' VALID UNTIL '2001-01-01';
	CREATE ROLE unlimited LOGIN PASSWORD 'secret' CONNECTION LIMIT 0;
	SET password_encryption = md5;
	CREATE ROLE md5 LOGIN PASSWORD 'secret';
	CREATE DATABASE other;
}, hba => q{
local all trusted trust
local all plain password
local all md5 md5
local all rejected reject
local all all scram-sha-256
});

my $gateway = start_gateway($node, user => 'gateway', login => 0, options => ['--session-check', '1']);

# What psql says to a query, and its exit status.
sub psql_says
{
	my ($to, $user, $password, $sql, $db) = @_;
	local %ENV = (%ENV, PGPASSWORD => $password, PGCONNECT_TIMEOUT => 60);
	my $out = '';
	my $in = '';
	my $run = IPC::Run::run(
		[ 'psql', '-XAtw', '-h', $to->host, '-p', $to->port, '-U', $user, '-d', $db // 'postgres', '-c', $sql ],
		'<', \$in, '>&', \$out);
	my ($host, $port) = ($to->host, $to->port);

	$out =~ s/\Q$host\E\/\.s\.PGSQL\.$port/SOCKET/g;
	return $out . ($run ? '' : 'failed');
}

# Those that the server lets in.
foreach my $user (qw(scram md5 plain))
{
	is(psql_says($gateway, $user, 'secret', 'SELECT current_user'), "$user\n", "$user logs in");
}

# Those that it does not: the same words.
foreach my $case (
	[qw(scram wrong)], [qw(md5 wrong)], [qw(plain wrong)], [qw(nobody secret)], [qw(nologin secret)],
	[qw(expired secret)], [qw(rejected secret)], [qw(unlimited secret)], [ 'scram', '' ])
{
	my ($user, $password) = @$case;
	my $said = psql_says($node, $user, $password, 'SELECT 1');

	like($said, qr/failed/, "the server refuses $user with password '$password'");
	is(psql_says($gateway, $user, $password, 'SELECT 1'), $said, 'and so does the gateway');
}

# What the gateway refuses itself.
like(psql_says($gateway, 'trusted', '', 'SELECT 1'), qr/FATAL:  login without a proof is refused/, 'no login without a proof');
like(psql_says($gateway, 'scram', 'secret', 'SELECT 1', 'other'),
	qr/FATAL:  database "other" cannot be connected to here.*This gateway serves database "postgres"/s, 'another database');
like(psql_says($gateway, 'scram', 'secret', 'SELECT 1', 'none'), qr/FATAL:  database "none" cannot/, 'no database');

# A client with a password in clear text, message by message.
sub log_in_with
{
	my (%params) = @_;
	my $client = raw_client($gateway);
	my %startup = (user => 'plain', database => 'postgres', %{ $params{startup} // {} });

	$client->put(message('', pack('N', $params{protocol} // 196608) . join("\0", %startup) . "\0\0"));
	my @messages = $client->read_until('R');

	$client->put(message('p', ($params{password} // 'secret') . "\0") . ($params{behind} // ''))
	  if @messages && $messages[-1][0] eq 'R';
	push @messages, $client->read_until('Z');
	foreach my $m (@messages)
	{
		($client->{pid}, $client->{key}) = unpack 'NN', $m->[1] if $m->[0] eq 'K';
	}
	return ($client, @messages);
}

my ($client, @messages) = log_in_with();
is($messages[-1][0], 'Z', 'a login by message');
cmp_ok($client->{pid}, '>', 1 << 22, 'has a pid that no backend has');
is($client->show($client->query('SELECT pg_backend_pid()')), "T pg_backend_pid:23:4:0\nD own pid\nC SELECT 1\nZ I", 'which pg_backend_pid() returns');

my ($second) = log_in_with();
isnt($second->{pid}, $client->{pid}, 'pids differ');
isnt($second->{key}, $client->{key}, 'keys differ');

# What is sent behind the password is the gateway's to read.
($client, @messages) = log_in_with(behind => message('Q', "CREATE TABLE smuggled ()\0"));
is($messages[-1][0], 'Z', 'a query behind the password does not harm the login');
like($client->show($client->read_until('Z')), qr/^E ERROR 0A000/, 'and is refused by the gateway');
is($node->safe_psql('postgres', "SELECT to_regclass('smuggled')"), '', 'the server has not seen it');

($client, @messages) = log_in_with(startup => { replication => 'true' });
like($client->show(@messages), qr/^E FATAL 0A000/, 'no replication');
($client, @messages) = log_in_with(startup => { client_encoding => 'LATIN1' });
like($client->show(@messages), qr/E FATAL 22023 client_encoding must be UTF8/, 'no other encoding');
($client, @messages) = log_in_with(startup => { options => '-c no_such=1' });
like($client->show(@messages), qr/E FATAL 42704/, 'bad options are refused by the server');
($client, @messages) = log_in_with(protocol => 196610, startup => { '_pq_.new' => 'x' });
is($messages[0][0], 'v', 'a newer protocol is negotiated');
is($messages[0][1], pack('NNZ*', 0, 1, '_pq_.new'), 'down to 3.0, without its options');
is($messages[-1][0], 'Z', 'and the login goes on');
($client, @messages) = log_in_with(protocol => 131072);
like($client->show(@messages), qr/^E FATAL 0A000/, 'no older protocol');

# Requests for encryption
my $answer;

$client = raw_client($gateway);
$client->put(pack('NN', 8, 80877104));
is(sysread($client->{socket}, $answer, 1) && $answer, 'N', 'GSSENCRequest');
$client->put(pack('NN', 8, 80877103));
is(sysread($client->{socket}, $answer, 1) && $answer, 'N', 'SSLRequest');
$client->put(pack('NN', 8, 80877103) . message('', pack('N', 196608) . "user\0plain\0\0"));
like($client->show($client->read_until('Z')), qr/^E FATAL 08P01/, 'nothing may stand behind it');

# A role that may not connect any more
($client) = log_in_with();
$node->safe_psql('postgres', 'ALTER ROLE plain NOLOGIN');
like($client->show($client->read_until('Z')), qr/^E FATAL 28000 .*may not connect any more/, 'the session of a role that is NOLOGIN now ends');

# Cut off
my $silent = start_gateway($node, user => 'gateway', login => 0, options => [ '--login-timeout', '1' ]);
$client = raw_client($silent);
like($client->show($client->read_until('Z')), qr/^E FATAL 08006 canceling authentication due to timeout/, 'a silent client is cut off');

# One login at a time, many offered
my $narrow = start_gateway($node, user => 'gateway', login => 0, options => [ '--max-logins', '1' ]);
my @runs;
my @outs = ('') x 20;

{
	local $ENV{PGPASSWORD} = 'secret';

	foreach my $i (0 .. 19)
	{
		push @runs, IPC::Run::start(
			[ 'psql', '-XAtw', $narrow->connstr($i % 2 ? 'scram' : 'md5'), '-c', 'SELECT current_user' ],
			'<', \undef, '>&', \$outs[$i]);
	}
	$_->finish foreach @runs;
}
is(join('', sort @outs), ("md5\n" x 10) . ("scram\n" x 10), 'twenty logins, one at a time');

# While many events are delivered, one login at a time has the server; those that wait for
# their clients' answers do not keep it from others.
my $busy = start_gateway($node, user => 'gateway', options => [ '--busy-logins', '1', '--max-logins', '8', '--client-buffer', 64 * 1024 * 1024 ]);
my @listeners = map { raw_login($busy) } 1 .. 50;
$_->query('LISTEN busy') foreach @listeners;
my $parent = $$;
my $publisher = fork;
die "could not fork: $!" unless defined $publisher;
if (!$publisher)
{
	my $session = client($node, 'postgres');

	$session->run(q{SELECT count(pgpubsub.publish('busy', i::text)) FROM generate_series(1, 500) AS i}) while getppid() == $parent;
	POSIX::_exit(0);
}
is((unpack 'N Z* Z*', $listeners[-1]->next_message->[1])[1], 'busy', 'many events are delivered');
my @silent = map { raw_client($busy) } 1 .. 3;
foreach my $login (@silent)
{
	$login->put(message('', pack('N', 196608) . "user\0scram\0database\0postgres\0\0"));
	is($login->next_message->[0], 'R', 'a login is asked for its password, and does not answer');
}
{
	local $ENV{PGPASSWORD} = 'secret';
	my $said;

	is(IPC::Run::run([ 'psql', '-XAtw', $busy->connstr('scram'), '-c', 'SELECT current_user' ], '<', \undef, '>&', \$said) && $said, "scram\n", 'another one is let in');
}
kill 'KILL', $publisher;
waitpid $publisher, 0;

my $full = start_gateway($node, user => 'gateway', login => 0, options => [ '--max-clients', '1' ]);
$client = raw_client($full);
$second = raw_client($full);
like($second->show($second->read_until('Z')), qr/^E FATAL 53300 sorry, too many clients already/, 'max-clients');

foreach ($gateway, $silent, $narrow, $busy, $full)
{
	is($_->stop, 0, 'the gateway ends well');
}
unlike($gateway->log, qr/secret/, 'the log has no password');

done_testing();
