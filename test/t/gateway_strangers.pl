# Who has not logged in has little of the gateway: one request for encryption of each
# kind, a bounded time, and a bounded number of bytes; and what was said in clear is
# not behind TLS.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256);
use IO::Socket::INET;
use JSON::PP;
use MIME::Base64 qw(encode_base64url);
use PgPubsub::Gateway;
use PgPubsub::Http;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

plan skip_all => 'needs openssl' if system('openssl version >/dev/null 2>&1') != 0;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $node = new_server('strangers');
my $secret = 'a secret of thirty-two bytes, or more';

$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub; CREATE ROLE web LOGIN');
append_to_file("$dir/secret", $secret);
run_log([ qw(openssl req -new -x509 -days 2 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=localhost),
	'-keyout', "$dir/key", '-out', "$dir/crt" ]) or die 'no certificate';
chmod 0600, "$dir/key";

my $tcp = PostgreSQL::Test::Cluster::get_free_port();
my $http = PostgreSQL::Test::Cluster::get_free_port();
my $gateway = start_gateway($node,
	options => [ '--listen', "127.0.0.1:$tcp", '--http', "127.0.0.1:$http", '--tls-cert', "$dir/crt", '--tls-key', "$dir/key",
		'--jwt-key', "$dir/secret", '--login-timeout', '2', '--max-logins', '1' ]);

sub token
{
	my (%claims) = (exp => int(time) + 600, @_);
	my $text = join '.', map { encode_base64url(encode_json($_)) } { alg => 'HS256' }, \%claims;

	return http_bearer("$text." . encode_base64url(hmac_sha256($text, $secret)));
}

# A connection with PostgreSQL's protocol, over TCP.
sub tcp_client
{
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $tcp) or die $!;

	return bless { socket => $socket, buffer => '' }, 'PgPubsub::RawClient';
}

my $ssl_request = pack('NN', 8, 80877103);
my $gss_request = pack('NN', 8, 80877104);
my $hello = "\x16\x03\x01\x00\x05hello\r\n\r\n";

# ----------------------------------------------------------------------------
# TLS
# ----------------------------------------------------------------------------

# over HTTP, it begins with the first byte or never
my $connection = http_connection($http);
$connection->put(http_request('GET', '/healthz'));
is($connection->answer->{status}, 200, 'a request in clear');
$connection->put($hello);
is($connection->answer->{status}, 400, 'TLS does not begin behind it');
$connection = http_connection($http);
$connection->put($hello);
unlike($connection->rest, qr/^HTTP/, 'it begins with the first byte');

# and with PostgreSQL's protocol, there or behind the request for it
my $answer;
my $client = tcp_client();
$client->put($gss_request);
is(sysread($client->{socket}, $answer, 1) && $answer, 'N', 'GSS is not to be had');
$client->put($hello);
like($client->show($client->read_until('E')), qr/^E FATAL 08P01/, 'TLS does not begin behind that without a request for it');

# each is asked for once
foreach my $again ([ $gss_request, '1234.5680', 'GSSENCRequest' ], [ $ssl_request, '1234.5679', 'SSLRequest' ])
{
	my ($request, $version, $name) = @$again;

	# (at the Unix socket, where there is no TLS)
	$client = raw_client($gateway);
	foreach (1 .. 2)
	{
		$client->put($request eq $gss_request ? $gss_request : $ssl_request);
		last if $_ == 2;
		is(sysread($client->{socket}, $answer, 1) && $answer, 'N', "$name is answered");
	}
	is($client->show($client->read_until('E')), "E FATAL 0A000 unsupported frontend protocol $version: server supports 3.0 to 3.0", "$name once");
}
$client = raw_client($gateway);
foreach ($gss_request, $ssl_request)
{
	$client->put($_);
	is(sysread($client->{socket}, $answer, 1) && $answer, 'N', 'one of each');
}
$client->put($gss_request);
like($client->show($client->read_until('E')), qr/^E FATAL 0A000/, 'and no more');

# ----------------------------------------------------------------------------
# Time
# ----------------------------------------------------------------------------

# Ask again and again, until the connection ends: how often that was; 0 if it does not.
sub ask_on
{
	my ($connection, @request) = @_;
	my $began = time;
	my $count = 0;

	while (time - $began < 30)
	{
		$connection->put(http_request(@request));
		my $answer = eval { $connection->answer };

		return $count unless $answer;
		$count++;
		return $count if $answer->{headers} =~ /^Connection: close/m;
	}
	return 0;
}

foreach my $request ([ 'GET', '/healthz' ], [ 'GET', '/nothing' ], [ 'GET', '/events?channel=x' ])
{
	cmp_ok(ask_on(http_connection($http), @$request), '>', 1, "@$request[0, 1]: the connection is kept, for as long as a login may take");
}
$connection = http_connection($http);
$connection->put(http_request('GET', '/events?channel=x', [ http_bearer('nonsense') ]) x 100);
is($connection->answer->{status}, 401, 'a token that is none');
is($connection->rest, '', 'is looked at once on a connection');
my $silent = http_connection($http);
$silent->put(http_request('GET', '/healthz'));
is($silent->answer->{status}, 200, 'who asks once, and then nothing');
my $began = time;
is($silent->rest, '', 'is cut off');
cmp_ok(time - $began, '<', 30, 'long before http-idle');

# who is known may stay
my @json = ('Content-Type: application/json');
my $body = encode_json({ channel => 'c', payload => 'x' });
my $known = http_connection($http);
$known->put(http_request('POST', '/publish', [ http_basic('web', 'any'), @json ], $body));
is($known->answer->{status}, 200, 'a role');
my $holder = http_connection($http);
$holder->put(http_request('POST', '/publish', [ token(publish => ['c']), @json ], $body));
is($holder->answer->{status}, 200, 'a token');
ask_on(http_connection($http), 'GET', '/healthz');
$known->put(http_request('GET', '/healthz'));
is($known->answer->{status}, 200, 'a role may stay longer');
$holder->put(http_request('POST', '/publish', [ token(publish => ['c']), @json ], $body));
is($holder->answer->{status}, 200, 'so may who has shown a token');

# ----------------------------------------------------------------------------
# Bytes
# ----------------------------------------------------------------------------

# a body that may not be published is not taken
$connection = http_connection($http);
$connection->put(http_request('POST', '/publish', [ token(channels => ['c']), @json, 'Content-Length: 1000000' ]));
$answer = $connection->answer;
is($answer->{status}, 403, 'a token that may publish nothing is refused before the body comes');
like($answer->{headers}, qr/^Connection: close\r$/m, 'and the connection ends');
is($connection->rest, '', 'as it is said');
$connection = http_connection($http);
$connection->put(http_request('POST', '/publish', [ token(publish => ['c']), 'Content-Length: 1000000', 'Expect: 100-continue' ]));
is($connection->answer->{status}, 415, 'so is a body of another type');

sub resident
{
	my ($kb) = slurp_file("/proc/$gateway->{pid}/status") =~ /^VmRSS:\s+(\d+) kB$/m;

	return $kb;
}

# The server takes logins, and answers none; many send much behind theirs.
is($gateway->stop, 0, 'the gateway ends well');
$gateway = start_gateway($node, options => [ '--listen', "127.0.0.1:$tcp", '--http', "127.0.0.1:$http", '--max-logins', '1' ]);
my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
my $before = resident();
my $startup = message('', pack('N', 196608) . "user\0web\0database\0postgres\0\0");
my @ahead;

kill 'STOP', $postmaster;
foreach my $i (1 .. 300)
{
	my $login = $i % 2 ? $startup : http_request('GET', '/events?channel=x', [ http_basic('web', 'any') ]);

	push @ahead, $i % 2 ? tcp_client() : http_connection($http);
	$ahead[-1]->put($login);
	$ahead[-1]{socket}->blocking(0);
	$ahead[-1]->put('x' x 200_000);
}
is(http_ask($http, 'GET', '/healthz')->{status}, 200, 'all is taken that is to be') foreach 1 .. 2;
cmp_ok(resident() - $before, '<', 16_000, 'what 300 strangers send ahead of their logins takes less than 16 MB');
@ahead = ();
kill 'CONT', $postmaster;

is($gateway->stop, 0, 'the gateway ends well');
unlike($gateway->log, qr/Sanitizer|runtime error/, 'nothing was wrong inside');
done_testing();
