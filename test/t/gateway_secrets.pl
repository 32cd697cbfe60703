# No password and no token stays in the gateway's memory behind the login, or the request,
# that it was for.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256);
use JSON::PP;
use MIME::Base64 qw(encode_base64 encode_base64url);
use PgPubsub::Gateway;
use PgPubsub::Http;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('secrets');
my $dir = PostgreSQL::Test::Utils::tempdir();
my $key = 'a secret of thirty-two bytes, or more';

$node->safe_psql('postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE ROLE gateway LOGIN;
	GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgpubsub TO gateway;
	CREATE ROLE plain LOGIN PASSWORD 'Xylophone-Quagmire';
	CREATE ROLE web LOGIN PASSWORD 'Jukebox-Zeppelin';
	CREATE ROLE scram LOGIN PASSWORD 'Harmonium-Vivisection';
});
unlink $node->data_dir . '/pg_hba.conf';
$node->append_conf('pg_hba.conf', q{
local all gateway trust
local all postgres trust
local all scram scram-sha-256
local all all password
});
$node->reload;
append_to_file("$dir/key", $key);

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $gateway = start_gateway($node, user => 'gateway', login => 0, options => [ '--http', "127.0.0.1:$port", '--jwt-key', "$dir/key" ]);

# The process' memory that it can write to; undef if that cannot be read.
sub memory
{
	my $memory = '';

	open my $maps, '<', "/proc/$gateway->{pid}/maps" or return undef;
	open my $file, '<:raw', "/proc/$gateway->{pid}/mem" or return undef;
	while (my $line = <$maps>)
	{
		my ($from, $to) = $line =~ /^(\w+)-(\w+) rw/ or next;

		# (shadow memory of the sanitizer's is large, and has none of it)
		next if hex($to) - hex($from) > 256 * 1024 * 1024;
		sysseek $file, hex($from), 0 or next;
		my $left = hex($to) - hex($from);
		while ($left > 0)
		{
			my $got = sysread $file, my $some, $left > 4194304 ? 4194304 : $left;

			last unless $got;
			$memory .= $some;
			$left -= $got;
		}
	}
	return $memory;
}

plan skip_all => 'the memory of a process cannot be read here' unless defined memory() && length memory();

sub is_gone
{
	my ($needle, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(scalar(() = memory() =~ /\Q$needle\E/g), 0, "$name: gone");
	return;
}

# PostgreSQL's protocol, with a password in clear: one that is right, one that is
# wrong, and one that comes in two parts
foreach my $case ([ 'Xylophone-Quagmire', 'Z' ], [ 'Xylophone-Hullabaloo', 'E' ])
{
	my ($password, $end) = @$case;
	my $client = raw_client($gateway);

	$client->put(message('', pack('N', 196608) . "user\0plain\0database\0postgres\0\0"));
	$client->read_until('R');
	$client->put(substr message('p', "$password\0"), 0, 20);
	is_deeply([ http_ask($port, 'GET', '/nothing')->{status} ], [404], 'a part of a password') foreach 1 .. 2;
	$client->put(substr message('p', "$password\0"), 20);
	my @messages = $client->read_until($end);

	is($messages[-1][0], $end, "$password: $end");
	is_gone(substr($password, 0, 13), 'a password');
}

# HTTP: a token, and the words of Basic, and the password they are made of
my $text = join '.', map { encode_base64url(encode_json($_)) } { alg => 'HS256' }, { exp => time + 600, publish => ['c'], channels => ['c'] };
my $token = "$text." . encode_base64url(hmac_sha256($text, $key));
my $json = 'Content-Type: application/json';
my $body = encode_json({ channel => 'c', payload => 'x' });
my $connection = http_connection($port);

$connection->put(http_request('POST', '/publish', [ http_bearer($token), $json ], $body));
is($connection->answer->{status}, 200, 'a token');
is_gone(substr($token, -30), 'a token on a connection that is kept');
$connection = http_stream($port, '/events?channel=c', [ http_bearer($token) ]);
is_gone(substr($token, -30), 'a token of a stream');
foreach my $case ([ 'web', 'Jukebox-Zeppelin', 200 ], [ 'web', 'Jukebox-Hullabaloo', 401 ], [ 'scram', 'Harmonium-Vivisection', 200 ], [ 'scram', 'Harmonium-Hullabaloo', 401 ])
{
	my ($user, $password, $status) = @$case;

	$connection = http_connection($port);
	$connection->put(http_request('POST', '/publish', [ http_basic($user, $password), $json ], $body));
	is($connection->answer->{status}, $status, "$user with $password");
	is_gone(substr(encode_base64("$user:$password", ''), 0, 20), 'Basic');
	is_gone(substr($password, 0, 10), 'its password');
}

# What comes behind a request does not keep that.
my $request = http_request('POST', '/publish', [ http_bearer($token), $json ], $body);
$connection = http_connection($port);
$connection->put(substr $request, 0, 40);
is_deeply([ http_ask($port, 'GET', '/nothing')->{status} ], [404], 'a part of a request') foreach 1 .. 2;
$connection->put(substr($request, 40) . 'POST');
is($connection->answer->{status}, 200, 'a token, and some of the next request');
is_gone(substr($token, -30), 'a token before a request that is not whole');

is($gateway->stop, 0, 'the gateway ends well');
done_testing();
