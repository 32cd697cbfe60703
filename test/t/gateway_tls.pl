# TLS between clients and the gateway, and between the gateway and the server; and
# what the gateway says of addresses, as the server sees only its own.

use strict;
use warnings;

use IO::Socket::INET;
use PgPubsub::Gateway;
use PgPubsub::Test;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs openssl' if system('openssl version >/dev/null 2>&1') != 0;

my $dir = PostgreSQL::Test::Utils::tempdir();

# Make a certificate for localhost that is its own authority: NAME.crt, NAME.key.
sub make_certificate
{
	my ($name) = @_;

	run_log([ qw(openssl req -new -x509 -days 2 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1), '-subj', '/CN=localhost',
		'-addext', 'subjectAltName=DNS:localhost', '-keyout', "$dir/$name.key", '-out', "$dir/$name.crt" ]) or die "no certificate $name";
	chmod 0600, "$dir/$name.key";
	return;
}

sub copy_certificate
{
	my ($from, $to) = @_;

	foreach my $kind (qw(crt key))
	{
		unlink "$dir/$to.$kind";
		system('cp', '-p', "$dir/$from.$kind", "$dir/$to.$kind") == 0 or die 'cp';
	}
	return;
}

make_certificate($_) foreach qw(one two server);
copy_certificate('one', 'used');

my $node = new_server('gateway_tls');
prepare_server($node, sql => q{
	ALTER ROLE gateway PASSWORD 'upstream';
	CREATE ROLE scram LOGIN PASSWORD 'secret';
	CREATE ROLE other LOGIN PASSWORD 'secret';
}, hba => q{
local all all scram-sha-256
hostssl all all 127.0.0.1/32 scram-sha-256
});

# What psql says to some queries, and "failed" if it does; where: more of the
# connection string.
sub psql_says
{
	my ($where, $sql, $password) = @_;
	local %ENV = (%ENV, PGPASSWORD => $password // 'secret', PGCONNECT_TIMEOUT => 60);
	my ($in, $out) = ($sql, '');
	my $run = IPC::Run::run([ 'psql', '-XAtwq', '-v', 'ON_ERROR_STOP=1', '-d', "user=scram dbname=postgres $where" ], '<', \$in, '>&', \$out);

	return $out . ($run ? '' : 'failed');
}

# A gateway at a TCP port, too; returns it and how psql finds that port.
sub start_at_port
{
	my (@options) = @_;
	my $port    = PostgreSQL::Test::Cluster::get_free_port();
	my $gateway = start_gateway($node, user => 'gateway', login => 0, options => [ '--listen', "127.0.0.1:$port", @options ]);

	return ($gateway, "host=localhost hostaddr=127.0.0.1 port=$port", $port);
}

# ----------------------------------------------------------------------------
# Clients
# ----------------------------------------------------------------------------

my $config = "$dir/gateway.conf";

# Write the configuration, and have it read again.
sub configure
{
	my ($gateway, @lines) = @_;

	open my $file, '>', $config or die "$config: $!";
	print $file join "\n", @lines, '';
	close $file;
	return unless $gateway;
	my $offset = length $gateway->log;

	kill 'HUP', $gateway->{pid};
	$gateway->wait_for_log(qr/the configuration (?:was read again|stays as it was)/, $offset);
	return;
}

my @tls = ("tls-cert = $dir/used.crt", "tls-key = $dir/used.key");

configure(undef, @tls, 'require-tls = on');
my ($gateway, $tcp, $port) = start_at_port('--config', $config);
my $full = "$tcp sslmode=verify-full sslrootcert=$dir/one.crt";

like(psql_says($full, "\\conninfo\nSELECT current_user;"), qr/SSL connection \(protocol: TLSv1\.[23].*\nscram/, 'verify-full logs in');
is(psql_says("$full ssl_max_protocol_version=TLSv1.2", 'SELECT 1'), "1\n", 'with TLS 1.2, too');
like(psql_says("$full ssl_min_protocol_version=TLSv1 ssl_max_protocol_version=TLSv1.1", 'SELECT 1'), qr/failed/, 'not with TLS 1.1');
like(psql_says("$full", 'SELECT 1', 'wrong'), qr/password authentication failed.*failed/s, 'not with a wrong password');
like(psql_says("$full channel_binding=require", 'SELECT 1'), qr/channel binding (?:is )?required.*failed/s, 'no channel to bind to where the server has none');
like(psql_says("$tcp sslmode=verify-full sslrootcert=$dir/two.crt", 'SELECT 1'), qr/certificate verify failed.*failed/s, 'who believes others does not connect');
like(psql_says("$tcp sslmode=disable", 'SELECT 1'), qr/FATAL:  connections without TLS are not allowed.*failed/s, 'TLS can be required');
is(psql_says('host=' . $gateway->host . ' port=' . $gateway->port . ' sslmode=prefer', 'SELECT 1'), "1\n", 'not at the Unix socket, which has none');

# A stream of long events
{
	my ($in, $out) = ("LISTEN big;\n\\echo listening\n", '');
	local $ENV{PGPASSWORD} = 'secret';
	my $psql = IPC::Run::start([ 'psql', '-XAtwq', '-d', "user=scram dbname=postgres $full" ], '<', \$in, '>&', \$out, IPC::Run::timeout(180));

	$psql->pump until $out =~ /listening/;
	$node->safe_psql('postgres', "SELECT pg_notify('big', i || repeat('x', 7900)) FROM generate_series(1, 300) AS i");
	until (scalar(() = $out =~ /^Asynchronous notification "big"/mg) == 300)
	{
		$in .= "SELECT 1;\n";
		$psql->pump while length $in;
		$psql->pump_nb;
	}
	$in .= "\\q\n";
	$psql->finish;
	my @numbers = $out =~ /payload "(\d+)x{7900}"/g;
	is_deeply(\@numbers, [ 1 .. 300 ], 'events come whole, and in their order');
}

# What nobody should send
{
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die $!;
	my $answer = '';

	$socket->syswrite(pack('NN', 8, 80877103) . message('', pack('N', 196608) . "user\0scram\0\0"));
	1 while $socket->sysread($answer, 8192, length $answer);
	like($answer, qr/^E.*08P01.*invalid startup packet/s, 'what somebody has put behind the request in clear is refused');

	$socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die $!;
	$socket->syswrite(pack('NN', 8, 80877103));
	$socket->sysread($answer, 1);
	is($answer, 'S', 'TLS is to be had');
	$socket->syswrite("no TLS\n" x 10);
	$answer = '';
	1 while $socket->sysread($answer, 8192, length $answer);
	unlike($answer, qr/^E/, 'who has asked for TLS and does not speak it is not answered in clear');
	$gateway->wait_for_log(qr/closed: TLS fails: /);
}

# Direct TLS
foreach my $case ([ 1, '-alpn', 'postgresql' ], [0], [ 0, '-alpn', 'http/1.1' ])
{
	my ($good, @options) = @$case;
	my $startup = message('', pack('N', 196608) . "user\0scram\0database\0postgres\0\0");
	my $out = '';

	IPC::Run::run([ qw(timeout 60 openssl s_client -quiet -no_ign_eof -connect), "127.0.0.1:$port", @options ], '<', \$startup, '>', \$out, '2>', '/dev/null') if !$good;
	if ($good)
	{
		my $s_client = IPC::Run::start([ qw(openssl s_client -quiet -connect), "127.0.0.1:$port", @options ], '<', \$startup, '>', \$out, '2>', '/dev/null', IPC::Run::timeout(180));

		$s_client->pump until length $out > 20;
		$s_client->kill_kill;
	}
	is($out =~ /^R.*SCRAM-SHA-256/s ? 1 : 0, $good, "TLS from the first byte, with '@options'");
}

# Another certificate
configure($gateway, @tls, 'require-tls = on', 'no-such-option = 1');
like($gateway->log, qr/the configuration stays as it was: .*line 4: unknown option "no-such-option"/, 'a wrong configuration is not taken');
is(psql_says($full, 'SELECT 1'), "1\n", 'and what was is as it was');
copy_certificate('two', 'used');
chmod 0644, "$dir/used.key";
configure($gateway, @tls, 'require-tls = on');
like($gateway->log, qr/the configuration stays as it was: TLS key .* can be read by others/, 'nor is a key that others can read');
is(psql_says($full, 'SELECT 1'), "1\n", 'and the old one is used');
chmod 0600, "$dir/used.key";
configure($gateway, @tls);
like(psql_says($full, 'SELECT 1'), qr/certificate verify failed/, 'a new certificate takes effect at SIGHUP');
is(psql_says("$tcp sslmode=verify-full sslrootcert=$dir/two.crt", 'SELECT 1'), "1\n", 'for who believes it');
is(psql_says("$tcp sslmode=disable", 'SELECT 1'), "1\n", 'and TLS is required no more');
configure($gateway, @tls, 'name = another');
like($gateway->log, qr/option name is another one only after a restart/, 'where it is does not change');

# ----------------------------------------------------------------------------
# Addresses
# ----------------------------------------------------------------------------

configure($gateway, 'allow = 10.0.0.0/8, 2001:db8::/32');
like(psql_says("$tcp sslmode=disable", 'SELECT 1'), qr/connections from this address are not allowed.*failed/s, 'an address that is not allowed');
is(psql_says('host=' . $gateway->host . ' port=' . $gateway->port, 'SELECT 1'), "1\n", 'a Unix socket has none');
configure($gateway, 'allow = 10.0.0.0/8, 127.0.0.0/9');
is(psql_says("$tcp sslmode=disable", 'SELECT 1'), "1\n", 'one that is');
foreach my $wrong ('127.0.0.0/33', '127.0.0', 'localhost', '::/129', '127.0.0.1/')
{
	configure($gateway, "allow = $wrong");
	like($gateway->log, qr/not "\Q$wrong\E"/, "$wrong is no network");
}

# Guessing
configure($gateway, 'failed-logins = 3');
{
	# one has failed before
	like(psql_says("$tcp sslmode=disable", 'SELECT 1', 'wrong'), qr/password authentication failed/, 'a wrong password') foreach 2 .. 3;
	like(psql_says("$tcp sslmode=disable", 'SELECT 1'), qr/too many logins as this role from this address have failed.*failed/s, 'after too many the right one is not tried');
	is(psql_says("$tcp sslmode=disable user=other", 'SELECT current_user'), "other\n", 'but that of another role from there is');
}
my $local = 'host=' . $gateway->host . ' port=' . $gateway->port;
like(psql_says($local, 'SELECT 1', 'wrong'), qr/password authentication failed/, 'a wrong password at the Unix socket') foreach 1 .. 4;
is(psql_says($local, 'SELECT 1'), "1\n", 'where nobody stands for the others');

# Old sessions
configure($gateway, 'max-session-age = 1', 'session-check = 1');
like(psql_says('host=' . $gateway->host . ' port=' . $gateway->port, 'SELECT 1 \watch 0.2'),
	qr/the session is too old.*failed/s, 'an old session ends');
is($gateway->stop, 0, 'the gateway ends');

# ----------------------------------------------------------------------------
# The server
# ----------------------------------------------------------------------------

my $data = $node->data_dir;

system('cp', '-p', "$dir/server.crt", "$dir/server.key", $data) == 0 or die 'cp';
$node->append_conf('postgresql.conf', q{
ssl = on
listen_addresses = '127.0.0.1'
});
$node->restart;

# A gateway that goes to the server with TLS
sub start_behind_tls
{
	my ($mode, $roots, @options) = @_;
	my $connection = 'host=localhost hostaddr=127.0.0.1 port=' . $node->port . " dbname=postgres user=gateway password=upstream sslmode=$mode sslrootcert=$dir/$roots.crt";
	my $listen = PostgreSQL::Test::Cluster::get_free_port();
	my $started = start_gateway($node, login => 0, ready => 0, options => [ '--dbname', $connection, '--listen', "127.0.0.1:$listen", @options ]);

	return ($started, "host=localhost hostaddr=127.0.0.1 port=$listen", $listen);
}

($gateway, $tcp) = start_behind_tls('verify-full', 'server');
$gateway->wait_for_log(qr/is ready/);
is(psql_says($tcp, 'SELECT current_user'), "scram\n", 'a client in clear, a server with TLS');
like(psql_says($tcp, 'SELECT 1', 'wrong'), qr/password authentication failed.*failed/s, 'with a wrong password');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'gateway' AND NOT ssl"), '0', "the gateway's own connections have TLS");
$gateway->stop;

($gateway, $tcp) = start_behind_tls('verify-full', 'server', '--tls-cert', "$dir/one.crt", '--tls-key', "$dir/one.key");
$gateway->wait_for_log(qr/is ready/);
like($gateway->log, qr/WARNING.*clients with TLS cannot log in by scram-sha-256 unless/i, 'TLS on both sides, with another certificate: it is said');
$full = "$tcp sslmode=verify-full sslrootcert=$dir/one.crt";
like(psql_says($full, 'SELECT 1'), qr/failed/, 'who binds the password to the channel cannot log in');
is(psql_says("$full channel_binding=disable", 'SELECT 1'), "1\n", 'who does not can');
$gateway->stop;

($gateway, $tcp, $port) = start_behind_tls('verify-full', 'server', '--tls-cert', "$dir/one.crt", '--tls-key', "$dir/one.key", '--ask-password', '--failed-logins', 3);
$gateway->wait_for_log(qr/is ready/);
is(psql_says($full = "$tcp sslmode=verify-full sslrootcert=$dir/one.crt", "SELECT current_user;\nSHOW client_encoding;"), "scram\nUTF8\n", 'who is asked for the password can, too');
like(psql_says($full, 'SELECT 1', 'wrong'), qr/FATAL:  password authentication failed for user "scram".*failed/s, 'not with a wrong one: what the server says');
like(psql_says("$full user=nobody", 'SELECT 1'), qr/password authentication failed for user "nobody".*failed/s, 'nor as nobody');
like(psql_says("$full channel_binding=require", 'SELECT 1'), qr/channel binding (?:is )?required.*failed/s, 'nor who insists on a binding');
is(psql_says("$tcp sslmode=disable", 'SELECT current_user'), "scram\n", 'without TLS nobody is asked');
foreach my $case ([ "x", 'invalid password packet size' ], [ "\0", 'empty password returned by client' ], [ "a\0b\0", 'invalid password packet size' ])
{
	my ($in, $out) = (message('', pack('N', 196608) . "user\0scram\0database\0postgres\0\0") . message('p', $case->[0]), '');

	IPC::Run::run([ qw(timeout 60 openssl s_client -quiet -starttls postgres -connect), "127.0.0.1:$port" ], '<', \$in, '>', \$out, '2>', '/dev/null');
	like($out, qr/^R\0\0\0\x08\0\0\0\x03E.*$case->[1]/s, $case->[1]);
}
# one has failed; the next are asked before they do
my @asked = map { { in => message('', pack('N', 196608) . "user\0scram\0database\0postgres\0\0"), out => '' } } 1 .. 4;
foreach my $login (@asked)
{
	$login->{run} = IPC::Run::start([ qw(openssl s_client -quiet -starttls postgres -connect), "127.0.0.1:$port" ], '<', \$login->{in}, '>', \$login->{out}, '2>', '/dev/null', IPC::Run::timeout(180));
	$login->{run}->pump until length $login->{out} >= 9;
}
foreach my $login (@asked)
{
	$login->{in} .= message('p', "wrong\0");
	$login->{run}->pump until $login->{out} =~ /^R.{8}E.*\0C(\w+)\0/s;
	$login->{state} = $1;
	$login->{run}->kill_kill;
}
is(join(' ', map { $_->{state} } @asked), '28P01 28P01 53400 53400', 'and are not tried when too many have failed');
unlike($gateway->log, qr/secret|clients with TLS cannot log in/, 'and nothing is said');
$gateway->stop;

($gateway, $tcp) = start_behind_tls('verify-full', 'server', '--tls-cert', "$dir/server.crt", '--tls-key', "$dir/server.key");
$gateway->wait_for_log(qr/is ready/);
$full = "$tcp sslmode=verify-full sslrootcert=$dir/server.crt";
is(psql_says("$full channel_binding=require", 'SELECT 1'), "1\n", "with the server's certificate the password can be bound to the channel");
unlike($gateway->log, qr/clients with TLS cannot log in/, 'and nothing is said');
$gateway->stop;

# Certificates that are revoked: one of the two that an authority has signed.
my @new_key = qw(-nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1);

append_to_file("$dir/san", 'subjectAltName=DNS:localhost');
run_log([ qw(openssl req -new -x509 -days 2 -subj /CN=authority), @new_key, '-keyout', "$dir/authority.key", '-out', "$dir/authority.crt" ]) or die 'no authority';
foreach my $which ([ 'valid', 16 ], [ 'revoked', 17 ])
{
	my ($name, $serial) = @$which;

	run_log([ qw(openssl req -new -subj /CN=localhost), @new_key, '-keyout', "$dir/$name.key", '-out', "$dir/$name.csr" ]) or die "no request $name";
	run_log([ qw(openssl x509 -req -days 2 -set_serial), $serial, '-in', "$dir/$name.csr", '-CA', "$dir/authority.crt", '-CAkey', "$dir/authority.key",
		'-extfile', "$dir/san", '-out', "$dir/$name.crt" ]) or die "no certificate $name";
	chmod 0600, "$dir/$name.key";
}
append_to_file("$dir/index", "R\t400101000000Z\t200101000000Z\t11\tunknown\t/CN=localhost\n");
append_to_file("$dir/ca.conf", "[ca]\ndefault_ca = d\n[d]\ndatabase = $dir/index\ndefault_md = sha256\ndefault_crl_days = 2\n");
run_log([ qw(openssl ca -gencrl -config), "$dir/ca.conf", '-cert', "$dir/authority.crt", '-keyfile', "$dir/authority.key", '-out', "$dir/revoked.crl" ]) or die 'no list';

# The server gets that certificate.
sub serve_with
{
	my ($name) = @_;

	system("cat '$dir/$name.crt' >'$data/server.crt' && cat '$dir/$name.key' >'$data/server.key'") == 0 or die 'cat';
	$node->reload;
	wait_until(sub { psql_says('host=localhost hostaddr=127.0.0.1 port=' . $node->port . " sslmode=verify-full sslrootcert=$dir/authority.crt sslcrl=$dir/revoked.crl", 'SELECT 1')
			=~ ($name eq 'revoked' ? qr/certificate verify failed/ : qr/^1$/) }, "the server has the certificate $name");
	return;
}

serve_with('valid');
($gateway, $tcp) = start_behind_tls('verify-full', 'authority', '--dbname', 'host=localhost hostaddr=127.0.0.1 port=' . $node->port
	  . " dbname=postgres user=gateway password=upstream sslmode=verify-full sslrootcert=$dir/authority.crt sslcrl=$dir/revoked.crl");
$gateway->wait_for_log(qr/is ready|FATAL/);
is(psql_says($tcp, 'SELECT current_user'), "scram\n", 'a client logs in at a server whose certificate is not revoked');
serve_with('revoked');
like(psql_says($tcp, 'SELECT 1'), qr/certificate verify failed.*failed/s, 'but at one whose certificate is it does not');
serve_with('valid');

# a list that is just being written when the server comes back
rename "$dir/revoked.crl", "$dir/whole.crl" or die "$dir/revoked.crl: $!";
append_to_file("$dir/revoked.crl", '');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'gateway'});
$gateway->wait_for_log(qr/could not load revoked certificates from/);
rename "$dir/whole.crl", "$dir/revoked.crl" or die "$dir/whole.crl: $!";
ok(wait_until(sub { psql_says($tcp, 'SELECT current_user') eq "scram\n" }, 'a login'), 'a list that cannot be read is read again later');
is($gateway->stop, 0, 'the gateway ends');

# A server that the gateway does not believe
($gateway, $tcp) = start_behind_tls('verify-ca', 'one');
$gateway->wait_for_log(qr/certificate verify failed/);
is($gateway->stop, 0, 'a server with another certificate is not connected to');

$node->stop('fast');
server_is_sound($node);
done_testing();
