# The gateway over HTTP: who may ask, streams of events, publishing, health and
# metrics, as curl and raw sockets see them.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256);
use JSON::PP;
use MIME::Base64 qw(encode_base64url);
use PgPubsub::Gateway;
use PgPubsub::Http;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('http');
my $secret = 'a secret of thirty-two bytes, or more';
my $dir = PostgreSQL::Test::Utils::tempdir();

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE ROLE gateway LOGIN IN ROLE pg_monitor;
	GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgpubsub TO gateway;
	CREATE ROLE web LOGIN PASSWORD 'se:cret';
	CREATE ROLE trusted LOGIN;
});
unlink $node->data_dir . '/pg_hba.conf';
$node->append_conf(
	'pg_hba.conf', q{
local all gateway trust
local all trusted trust
local all postgres trust
local all all scram-sha-256
});
$node->reload;
append_to_file("$dir/secret", "$secret\n");
system_or_bail('openssl', 'genpkey', '-quiet', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048', '-out', "$dir/private.pem");
system_or_bail('openssl', 'pkey', '-in', "$dir/private.pem", '-pubout', '-out', "$dir/public.pem");

my $http = PostgreSQL::Test::Cluster::get_free_port();
my $gateway = start_gateway($node, user => 'gateway', login => 0,
	options => [ '--http', "127.0.0.1:$http", '--jwt-key', "$dir/secret", '--jwt-audience', 'events',
		'--cors-origin', 'https://one.example, https://two.example', '--http-head-timeout', '1', '--http-heartbeat', '1', '--failed-logins', '1000' ]);

my $audience = 'events';

# A token with those claims; header: another one than that of HS256.
sub token
{
	my ($claims, %params) = @_;
	my %claims = (exp => int(time) + 600, aud => $audience, %$claims);

	delete $claims{$_} foreach grep { !defined $claims{$_} } keys %claims;
	my $text = join '.', map { encode_base64url(encode_json($_)) } $params{header} // { alg => 'HS256', typ => 'JWT' }, \%claims;

	return "$text." . encode_base64url($params{sign} ? $params{sign}->($text) : hmac_sha256($text, $params{secret} // $secret));
}

# The answer to one request on a connection of its own.
sub ask { return http_ask($http, @_) }

sub publish_body { my @events = @_; return encode_json(@events == 1 ? $events[0] : \@events); }

# A stream whose answer has begun.
sub stream { return http_stream($http, @_) }

my $web = http_basic('web', 'se:cret');
my $answer;

# Health, and what is not there
is(ask('GET', '/healthz')->{status}, 200, '/healthz needs no login');
is(ask('HEAD', '/healthz', ['Connection: close'])->{body}, '', 'HEAD has no body');
is(ask('GET', '/nothing')->{status}, 404, 'no such path');
is(ask('DELETE', '/events')->{status}, 405, 'no such method');

# Who may ask: Basic
is(ask('GET', '/events?channel=a')->{status}, 401, 'no login');
like(ask('GET', '/events?channel=a')->{headers}, qr/^WWW-Authenticate: Basic/m, 'the answer says how');
is(ask('GET', '/events?channel=a', [ http_basic(@$_) ])->{status}, 401, "$_->[0] with password '$_->[1]'")
  foreach [qw(web wrong)], [ 'web', '' ], [qw(nobody secret)], [ '', 'x' ];
is(ask('GET', '/events?channel=a', [ http_basic('trusted', 'x') ])->{status}, 401, 'a password that the server does not ask for proves nothing');
is(ask('GET', '/events?channel=a', ['Authorization: Basic ?'])->{status}, 401, 'a malformed one');
is(ask('GET', '/events?channel=a', [ $web, $web ])->{status}, 400, 'two');

# Who may ask: tokens
my @refused = (
	[ 'expired' => token({ exp => int(time) - 1 }) ],
	[ 'without an end' => token({ exp => undef }) ],
	[ 'not valid yet' => token({ nbf => int(time) + 600 }) ],
	[ 'for others' => token({ aud => 'others' }) ],
	[ 'with another key' => token({}, secret => 'x' x 40) ],
	[ 'alg: none' => token({}, header => { alg => 'none' }) ],
	[ 'alg: none, unsigned' => token({}, header => { alg => 'none' }) =~ s/[^.]*$//r ],
	[ 'alg: RS256' => token({}, header => { alg => 'RS256' }) ],
	[ 'no token' => 'nonsense' ],
);

is(ask('GET', '/events?channel=a', [ http_bearer($_->[1]) ])->{status}, 401, "a token that is refused: $_->[0]") foreach @refused;
is(ask('GET', '/events?channel=a', [ http_bearer(token({})) ])->{status}, 403, 'a token without channels reads none');
is(ask('GET', '/events?channel=b', [ http_bearer(token({ channels => ['a'] })) ])->{status}, 403, 'a token for another channel');
is(ask('GET', '/events?channel=n*', [ http_bearer(token({ channels => ['news.*'] })) ])->{status}, 403, 'a token for less than the pattern');
is(ask('GET', '/events?channel=a', [ http_bearer(token({ channels => 'a' })) ])->{status}, 401, 'channels that are no array');

# What may be asked for
is(ask('GET', $_, [$web])->{status}, 400, $_)
  foreach '/events', '/events?channel=', '/events?channel=pgpubsub', '/events?channel=' . 'x' x 64, '/events?channel=%ff', '/events?channel=%zz',
  '/events?channel=a&lastEventId=x', '/events?channel=a&lastEventId=-1', '/events?channel=a&lastEventId=999999999999999999';
is(ask('GET', '/events?channel=a', [ $web, 'Last-Event-ID: 1x' ])->{status}, 400, 'a malformed Last-Event-ID');
is(ask('GET', '/events?channel=a', [ $web, 'Last-Event-ID: 9999999999999999' ])->{status}, 400, 'one of the future');

# Events: channels, patterns, the form
my $stream = stream('/events?channel=one&channel=two&channel=news.*&channel=news.x', [$web]);

like($stream->{head}, qr/^$_\r$/m, "the stream's head: $_")
  foreach 'Content-Type: text/event-stream', 'Cache-Control: no-store', 'X-Accel-Buffering: no';
$node->safe_psql('postgres', q{
	SELECT pgpubsub.publish('one', '1'); SELECT pgpubsub.publish('three', '2'); SELECT pgpubsub.publish('news.x', '3');
	SELECT pgpubsub.publish('two', E'a\nb\r\nc\rd\n'); NOTIFY one, '';
	SELECT pgpubsub.publish('news.y', 'last');});
my @events = map { $stream->event } 1 .. 5;
is(join(' ', map { "$_->{event}=$_->{data}" } @events), "one=1 news.x=3 two=a\nb\nc\nd\n one= news.y=last", 'names and patterns, none twice, lines of their own');
cmp_ok($events[0]{id}, '<', $events[1]{id}, 'ids grow');

my $by_token = stream('/events?channel=news.*', [ http_bearer(token({ channels => [ 'x', 'news.*' ] })) ]);
my $by_cookie = stream('/events?channel=x', [ 'Cookie: other=1; pgpubsub_token=' . token({ channels => ['x'] }) ]);

$node->safe_psql('postgres', q{SELECT pgpubsub.publish('news.z', 'z'); SELECT pgpubsub.publish('x', 'x')});
is($by_token->event->{data}, 'z', 'by a token');
is($by_cookie->event->{data}, 'x', 'by a cookie');
$by_token->wait_for(qr/(?m:^):\n/);
pass('a stream without events has comments');
is($stream->event->{data}, 'z', 'the first one goes on');

# odd names
$stream = stream('/events?channel=gap&channel=a%0Ab%25', [$web]);
$node->safe_psql('postgres', q{SELECT pgpubsub.publish('gap', '{"lost":1}'); SELECT pgpubsub.publish(E'a\nb%', '1')});
is($stream->event->{event}, '%67ap', 'a channel cannot pass for a gap');
is($stream->event->{event}, 'a%0Ab%25', 'nor can a name break a line');

# the end of a token is the end of its stream
$stream = stream('/events?channel=x', [ http_bearer(token({ channels => ['x'], exp => int(time) + 2 })) ]);
is($stream->rest, '', 'a stream ends with its token');

# curl
SKIP:
{
	skip 'curl is not there', 1 if system('command -v curl >/dev/null') != 0;
	my $out = "$dir/curl.out";
	my $curl = IPC::Run::start([ 'curl', '-sN', '-u', 'web:se:cret', "http://127.0.0.1:$http/events?channel=curl" ], '>', $out);

	wait_until(sub { -s $out }, 'curl has a stream');
	$node->safe_psql('postgres', q{SELECT pgpubsub.publish('curl', 'hello')});
	wait_until(sub { slurp_file($out) =~ /^event: curl\ndata: hello\nid: \d+\n\n/m }, 'curl -N gets events');
	$curl->kill_kill;
	like(slurp_file($out), qr/data: hello/, 'curl -N gets events');
}

# Resuming
my $count = 0;

sub numbers
{
	my ($channel, $count_of) = @_;
	my $from = $count + 1;

	$count += $count_of;
	$node->safe_psql('postgres', "SELECT count(pgpubsub.publish('$channel', i::text)) FROM generate_series($from, $count) AS i");
	return join ' ', $from .. $count;
}

$stream = stream('/events?channel=log', [$web]);
my $expected = numbers('log', 10);
@events = map { $stream->event } 1 .. 10;
is(join(' ', map { $_->{data} } @events), $expected, 'ten events');
my $id = $events[4]{id};
my $again = stream('/events?channel=log', [ $web, "Last-Event-ID: $id" ]);
is(join(' ', map { $again->event->{data} } 1 .. 5), '6 7 8 9 10', 'Last-Event-ID resumes from memory');
$again = stream("/events?channel=log&lastEventId=$id", [ $web, 'Last-Event-ID:' ]);
$expected = '6 7 8 9 10 ' . numbers('log', 3);
is(join(' ', map { $again->event->{data} } 1 .. 8), $expected, 'and goes on; as a parameter, too, though the header be there and empty');

# Publishing
my $listener = stream('/events?channel=pub', [$web]);
my $json = 'Content-Type: application/json';

$answer = ask('POST', '/publish', [ $web, $json ], publish_body({ channel => 'pub', payload => 'hello' }));
is($answer->{status}, 200, 'POST /publish');
is($answer->{body}, qq({"published":1}\n), 'says how many');
is($listener->event->{data}, 'hello', 'and it comes');
ask('POST', '/publish', [ $web, $json ], publish_body({ channel => 'pub', payload => { a => 1 } }, { channel => 'pub', payload => 'x' x 20000 }));
is($listener->event->{data}, '{"a":1}', 'JSON');
is(length $listener->event->{data}, 20000, 'several, and longer than NOTIFY takes');
is(ask('POST', '/publish', [$json], publish_body({ channel => 'pub', payload => 'x' }))->{status}, 401, 'not without a login');
is(ask('POST', '/publish', [ $json, http_bearer(token({ channels => ['pub'] })) ], publish_body({ channel => 'pub', payload => 'x' }))->{status}, 403, 'not without the claim');
is(ask('POST', '/publish', [ $json, http_bearer(token({ publish => ['pu*'] })) ], publish_body({ channel => 'pub', payload => 'claimed' }))->{status}, 200, 'with it');
is($listener->event->{data}, 'claimed', 'it comes');
is(ask('POST', '/publish', [ $json, http_bearer(token({ publish => ['pub'] })) ],
		publish_body({ channel => 'pub', payload => 'x' }, { channel => 'other', payload => 'x' }))->{status}, 403, 'all or nothing');
is(ask('POST', '/publish', [ $web, $json ], $_)->{status}, 400, "a body that is none: $_")
  foreach '', '{', '[]', '{}', '1', '{"channel":"pub"}', '{"channel":"a*","payload":"x"}', '{"channel":"","payload":"x"}', '{"channel":1,"payload":"x"}';
is(ask('POST', '/publish', [ $web, 'Content-Type: text/plain' ], '{"channel":"pub","payload":"x"}')->{status}, 415, 'another type');
is(ask('POST', '/publish', [ $web, $json, 'Content-Length: 100000000' ])->{status}, 413, 'too long');
is(ask('POST', '/publish', [ $json, 'Origin: https://evil.example', 'Cookie: pgpubsub_token=' . token({ publish => ['pub'] }) ],
		publish_body({ channel => 'pub', payload => 'forged' }))->{status}, 403, "a cookie does not publish for another page");
is(ask('POST', '/publish', [ $json, 'Origin: http://127.0.0.1', 'Cookie: pgpubsub_token=' . token({ publish => ['pub'] }) ],
		publish_body({ channel => 'pub', payload => 'own' }))->{status}, 200, "but for its own");
is($listener->event->{data}, 'own', 'which comes, and nothing of the others');

# CORS
$answer = ask('OPTIONS', '/publish', [ 'Origin: https://two.example', 'Access-Control-Request-Method: POST' ]);
is($answer->{status}, 204, 'a preflight');
like($answer->{headers}, qr/^Access-Control-Allow-Origin: https:\/\/two\.example\r$/m, 'of an origin that may');
is(ask('OPTIONS', '/publish', [ "Origin: $_", 'Access-Control-Request-Method: POST' ])->{status}, 403, "not of $_")
  foreach 'https://two.example.evil', 'http://two.example', 'null';
unlike(ask('GET', '/healthz', ['Origin: https://evil.example'])->{headers}, qr/Access-Control-Allow/, 'nor an answer');

# HTTP/1.1
my $connection = http_connection($http);
$connection->put(http_request('GET', '/healthz') . http_request('GET', '/nothing') . http_request('POST', '/publish', [ $web, $json ], publish_body({ channel => 'pub', payload => 'kept' })) . http_request('GET', '/healthz'));
is(join(' ', map { $connection->answer->{status} } 1 .. 4), '200 404 200 200', 'requests on one connection, sent ahead');
is($listener->event->{data}, 'kept', 'are done');
$connection->put(http_request('POST', '/publish', [ $web, $json ], publish_body({ channel => 'pub', payload => 'more' })));
is($connection->answer->{status}, 200, 'and it is kept');
$connection->put(http_request('POST', '/publish', [ http_basic('web', 'wrong'), $json ], publish_body({ channel => 'pub', payload => 'x' })));
is($connection->answer->{status}, 403, 'a connection does not change its user');
$connection = http_connection($http);
$connection->put("GET /healthz HTTP/1.0\r\n\r\n");
like($connection->rest, qr/^HTTP\/1\.1 200 OK\r\n.*Connection: close/s, 'HTTP/1.0 closes');
$connection = http_connection($http);
$connection->put("GET /healthz HTTP/1.1\r\nHost:");
is($connection->answer->{status}, 408, 'headers that are too slow');
is(ask('GET', '/healthz', [ 'X: ' . 'x' x 9000 ])->{status}, 431, 'headers that are too long');
is(ask('GET', '/healthz', [ ('X: x') x 200 ])->{status}, 431, 'too many of them');
$connection = http_connection($http);
$connection->put("nonsense\r\n\r\n");
is($connection->answer->{status}, 400, 'no request');
$connection = http_connection($http);
$connection->put(http_request('POST', '/publish', [ $web, $json, 'Content-Length: 100', 'Expect: 100-continue' ]));
is($connection->head->{status}, 100, 'Expect: 100-continue');
is($connection->answer->{status}, 408, 'a body that does not come');

# Metrics
$answer = ask('GET', '/metrics');
is($answer->{status}, 200, '/metrics');
like($answer->{headers}, qr/^Content-Type: text\/plain; version=0\.0\.4/m, 'of the type that Prometheus reads');
like($answer->{body}, $_, "metrics have $_")
  foreach qr/^pgpubsub_gateway_clients\{face="http"\} [1-9]/m, qr/^pgpubsub_gateway_clients\{face="postgresql"\} 0$/m,
  qr/^pgpubsub_gateway_deliveries_total [1-9]/m, qr/^pgpubsub_gateway_dropped_total 0$/m, qr/^pgpubsub_gateway_upstream_up 1$/m,
  qr/^pgpubsub_channel_published_total\{channel="log"\} 13$/m, qr/^pgpubsub_subscription_lag_seconds\{subscription="gateway-[^"]+"\} [0-9.]+$/m;
is(ask('GET', '/metrics', ["Host: $_"])->{status}, 200, "of this machine, as $_") foreach '127.0.0.1', "LOCALHOST:$http", "[::1]:$http";
is(ask('GET', '/metrics', ["Host: $_"])->{status}, 401, "not of a page that calls this machine $_")
  foreach 'evil.example', "evil.example:$http", '127.0.0.1.evil.example', 'localhost.evil.example', '10.0.0.1', '[::2]', '[::1', '::1';
is(ask('GET', '/metrics', ['Origin: http://127.0.0.1'])->{status}, 401, 'nor of any page');
is(ask('GET', '/metrics', [ 'Host: gateway.example', $web ])->{status}, 200, 'a role may ask by any name');
SKIP:
{
	skip 'promtool is not there (Debian package prometheus)', 1 if system('command -v promtool >/dev/null') != 0;
	my $said = '';

	ok(IPC::Run::run([ 'promtool', 'check', 'metrics' ], '<', \$answer->{body}, '>&', \$said), 'promtool check metrics') or diag $said;
}

is($gateway->stop, 0, 'the gateway ends well');
unlike($gateway->log, qr/Sanitizer|runtime error/, 'nothing was wrong inside');

# RS256
$gateway = start_gateway($node, user => 'gateway', login => 0, options => [ '--http', "127.0.0.1:$http", '--jwt-key', "$dir/public.pem", '--metrics-login', '--metrics-rows', '2' ]);

sub rsa_sign
{
	my ($text) = @_;
	my $signature = '';

	IPC::Run::run([ 'openssl', 'dgst', '-sha256', '-sign', "$dir/private.pem" ], '<', \$text, '>', \$signature) or die 'openssl failed';
	return $signature;
}
my $rs256 = { alg => 'RS256' };

is(ask('GET', '/events?channel=a', [ http_bearer(token({ channels => ['a'] }, header => $rs256, sign => \&rsa_sign)) ])->{status}, 401, 'an audience where none is set');
like($gateway->log, qr/client \d+ \(127\.0\.0\.1:\d+\): token refused: the token is for an audience \(aud\), and the gateway has no name for that \(jwt-audience\)/, 'which the log says');
undef $audience;

$stream = stream('/events?channel=a', [ http_bearer(token({ channels => ['a'] }, header => $rs256, sign => \&rsa_sign)) ]);
$node->safe_psql('postgres', q{SELECT pgpubsub.publish('a', 'rs')});
is($stream->event->{data}, 'rs', 'RS256');
is(ask('GET', '/events?channel=a', [ http_bearer(token({ channels => ['a'] }, header => $rs256)) ])->{status}, 401, 'a wrong signature');
is(ask('GET', '/events?channel=a', [ http_bearer(token({ channels => ['a'] }, secret => slurp_file("$dir/public.pem"))) ])->{status}, 401, 'the public key is no secret');
is(ask('GET', '/metrics')->{status}, 401, '--metrics-login');
my $many = stream('/events?' . join('&', map { "channel=many$_" } 1 .. 5), [$web]);
$answer = ask('GET', '/metrics', [$web]);
is($answer->{status}, 200, 'with a login');
is(scalar(() = $answer->{body} =~ /^pgpubsub_channel_published_total\{/mg), 2, 'it has so many channels as metrics-rows says');
like($answer->{body}, qr/^pgpubsub_channels (?:[5-9]|\d\d+)$/m, 'and how many there are');
is(ask('GET', '/metrics', [ http_bearer(token({ channels => ['a'] }, header => $rs256, sign => \&rsa_sign)) ])->{status}, 403, 'a token does not do');
is($gateway->stop, 0, 'the gateway ends well');
done_testing();
