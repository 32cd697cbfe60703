# HTTP over TLS, as curl sees it: streams, publishing, whom a client believes, and that
# there is nothing else where it is required.

use strict;
use warnings;

use JSON::PP;
use PgPubsub::Gateway;
use PgPubsub::Http;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs openssl and curl' if system('{ openssl version && curl --version; } >/dev/null 2>&1') != 0;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $node = new_server('http_tls');

$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub; CREATE ROLE web LOGIN');
foreach my $name (qw(one two))
{
	run_log([ qw(openssl req -new -x509 -days 2 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=localhost),
		'-addext', 'subjectAltName=DNS:localhost', '-keyout', "$dir/$name.key", '-out', "$dir/$name.crt" ]) or die "no certificate $name";
	chmod 0600, "$dir/$name.key";
}

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $gateway = start_gateway($node, options => [ '--http', "127.0.0.1:$port", '--tls-cert', "$dir/one.crt", '--tls-key', "$dir/one.key", '--require-tls',
		'--http-heartbeat', '1', '--http-write-timeout', '2', '--client-buffer', '65536' ]);
my $url = "https://localhost:$port";
my @curl = (qw(curl -sS -m 60 -u web:any --resolve), "localhost:$port:127.0.0.1");
my @believing = (@curl, '--cacert', "$dir/one.crt");

# What curl says: its exit status, the answer's status, and the body.
sub ask
{
	my (@command) = @_;
	my ($out, $error) = ('', '');

	IPC::Run::run([ @command, '-w', '\n%{http_code}' ], '<', \undef, '>', \$out, '2>', \$error);
	my $exit = $? >> 8;
	my ($body, $status) = $out =~ /\A(.*)\n(\d+)\z/s;
	return { exit => $exit, status => $status, body => $body, error => $error };
}

# A stream by curl, which has begun; its output comes into {out}.
sub stream
{
	my ($query, @options) = @_;
	my $stream = { out => '' };

	$stream->{run} = IPC::Run::start([ @believing, '-N', '-m', '0', @options, "$url/events?$query" ], '<', \undef, '>', \$stream->{out}, '2>', \$stream->{error}, IPC::Run::timeout(180));
	$stream->{run}->pump until $stream->{out} =~ /^:\n/;
	return $stream;
}

# Who is believed
is(ask(@believing, "$url/healthz")->{status}, 200, 'a request');
my $answer = ask(@curl, '--cacert', "$dir/two.crt", "$url/healthz");
is($answer->{exit}, 60, 'who believes another certificate does not ask');
$answer = ask(@believing, "https://127.0.0.1:$port/healthz");
is($answer->{exit}, 60, 'nor does who asks for another name');
like($answer->{error}, qr/subject name|no alternative certificate/i, 'as it says');
is(ask(@believing, '--tls-max', '1.1', '--tlsv1.0', "$url/healthz")->{status} || 0, '000', 'no older TLS');
is(ask(@believing, '--http2', "$url/healthz")->{status}, 200, 'who would have HTTP/2 gets HTTP/1.1');

# What is required
my $clear = http_ask($port, 'GET', '/healthz');
is($clear->{status}, 403, 'a request in clear is refused');
is(http_ask($port, 'GET', '/events?channel=c', [ http_basic('web', 'any') ])->{status}, 403, 'so is a stream');
is(http_ask($port, 'POST', '/publish', [ http_basic('web', 'any'), 'Content-Type: application/json' ], '{"channel":"c","payload":"clear"}')->{status}, 403, 'and a publication');

# Streams, and publishing
my $stream = stream('channel=c');

$answer = ask(@believing, '-H', 'Content-Type: application/json', '-d', '{"channel":"c","payload":"encrypted"}', "$url/publish");
is($answer->{status}, 200, 'a publication');
is($answer->{body}, qq({"published":1}\n), 'with its number');
$stream->{run}->pump until $stream->{out} =~ /^event: c\ndata: encrypted\nid: (\d+)\n\n/m;
my ($id) = $stream->{out} =~ /^id: (\d+)/m;
unlike($stream->{out}, qr/clear/, 'what was refused has not come');
my $long = 'x' x 20_000;
my $body = encode_json([ map { { channel => 'c', payload => "$_ $long" } } 1 .. 40 ]);

append_to_file("$dir/body", $body);
is(ask(@believing, '-H', 'Content-Type: application/json', '--data-binary', "\@$dir/body", "$url/publish")->{status}, 200, 'a body of many records of TLS');
$stream->{run}->pump until $stream->{out} =~ /^data: 40 x{20000}\nid: \d+\n\n/m;
is(join(' ', $stream->{out} =~ /^data: (\d+) x{20000}\n/mg), join(' ', 1 .. 40), 'and a stream of as many, in order');
my $again = stream('channel=c', '-H', "Last-Event-ID: $id");
$again->{run}->pump until $again->{out} =~ /^data: 40 x{20000}\nid: \d+\n\n/m;
is(join(' ', $again->{out} =~ /^data: (\d+) x{20000}\n/mg), join(' ', 1 .. 40), 'Last-Event-ID');
is(ask(@believing, '-u', 'web:', "$url/events?channel=c")->{status}, 401, 'nobody is let in without a password');

# Several requests on one connection: curl says how many it has made.
my ($out, $error) = ('', '');
IPC::Run::run([ @believing, '-w', '%{http_code} %{num_connects}\n', map { ('-o', '/dev/null', "$url/healthz") } 1 .. 3 ], '<', \undef, '>', \$out, '2>', \$error);
is($out, "200 1\n200 0\n200 0\n", 'a connection is kept');

# A client that takes nothing
$stream->{run}->kill_kill;
my $pid = $again->{run}{KIDS}[0]{PID};
kill 'STOP', $pid;
my $offset = length $gateway->log;
wait_until(
	sub {
		$node->safe_psql('postgres', q{SELECT count(pgpubsub.publish('c', i || repeat('y', 20000))) FROM generate_series(1, 20) AS i});
		return substr($gateway->log, $offset) =~ /takes nothing \(http-write-timeout\)/;
	},
	'it is closed');
is(scalar(() = substr($gateway->log, $offset) =~ /takes nothing/g), 1, 'who takes nothing is closed');
kill 'CONT', $pid;
$again->{run}->kill_kill;

is($gateway->stop, 0, 'the gateway ends well');
unlike($gateway->log, qr/Sanitizer|runtime error/, 'nothing was wrong inside');
done_testing();
