# Names and passwords over HTTP: the gateway answers what the server asks, by whatever
# method, and however much a role has the answer cost, all others are served.

use strict;
use warnings;
use utf8;

use Encode qw(encode);
use PgPubsub::Gateway;
use PgPubsub::Http;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('http_login');

# (a role's own verifier may say any number of iterations)
$node->safe_psql(
	'postgres', encode('UTF-8', q{
	CREATE EXTENSION pgpubsub;
	CREATE ROLE gateway LOGIN IN ROLE pg_monitor;
	GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgpubsub TO gateway;
	CREATE ROLE scram LOGIN PASSWORD 'secret';
	CREATE ROLE plain LOGIN PASSWORD 'secret';
	CREATE ROLE accents LOGIN PASSWORD 'grün² ß';
	CREATE ROLE nologin PASSWORD 'secret';
	CREATE ROLE single LOGIN PASSWORD 'secret' CONNECTION LIMIT 0;
	CREATE ROLE huge LOGIN PASSWORD 'secret';
	CREATE ROLE "trusted" LOGIN;
	UPDATE pg_authid SET rolpassword = replace(rolpassword, '$4096:', '$2000000000:') WHERE rolname = 'huge';
	SET password_encryption = md5;
	CREATE ROLE md5 LOGIN PASSWORD 'secret';
}));
is($node->safe_psql('postgres', q{SELECT rolpassword LIKE 'SCRAM-SHA-256$2000000000:%' FROM pg_authid WHERE rolname = 'huge'}), 't', 'a verifier of many iterations');
unlink $node->data_dir . '/pg_hba.conf';
$node->append_conf(
	'pg_hba.conf', q{
local all gateway trust
local all trusted trust
local all postgres,root trust
local all md5 md5
local all plain password
local all all scram-sha-256
});
$node->reload;

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $gateway;

sub begin_gateway
{
	$gateway = start_gateway($node, user => 'gateway', login => 0, options => [ '--http', "127.0.0.1:$port", '--failed-logins', 1000, @_ ]);
	return;
}

sub login
{
	my ($user, $password) = @_;

	return http_ask($port, 'POST', '/publish', [ http_basic($user, encode('UTF-8', $password)), 'Content-Type: application/json', 'Connection: close' ],
		'{"channel":"c","payload":"p"}');
}

begin_gateway();
is(login($_, 'secret')->{status}, 200, "$_ with its password") foreach qw(scram md5 plain);
is(login($_, 'wrong')->{status}, 401, "$_ with a wrong one") foreach qw(scram md5 plain);
is(login('accents', 'grün² ß')->{status}, 200, 'a password that is no ASCII');
is(login('accents', 'grün2 ß')->{status}, 200, 'one that SASLprep takes for the same');
is(login('accents', 'grun2 ß')->{status}, 401, 'one that it does not');
is(login($_, 'secret')->{status}, 401, $_) foreach qw(nologin nobody trusted);
is(login('single', 'secret')->{status}, 503, 'no connection left for the role');
like(login('huge', 'secret')->{body}, qr/max-scram-iterations/, 'a role whose password costs too much is refused, and told why');
is(login('scram', 'secret')->{status}, 200, 'others are let in');
is($gateway->stop, 0, 'the gateway ends');

# The same, but all is to be computed: until the login has lasted too long.
begin_gateway('--max-scram-iterations', 2147483647, '--login-timeout', 10, '--max-logins', 10);

my $stream = http_stream($port, '/events?channel=c', [ http_basic('scram', 'secret') ]);
my @waiting = map { http_connection($port) } 1 .. 8;

$_->put(http_request('GET', '/events?channel=c', [ http_basic('huge', 'secret') ])) foreach @waiting;
ok(wait_until(sub { (grep { /huge.* authentication/ } `ps -eo args`) >= 8 }, 'eight logins'), 'eight logins that take hours');
is(http_ask($port, 'GET', '/healthz')->{status}, 200, 'meanwhile others are answered');
is(login('scram', 'secret')->{status}, 200, 'and let in');
is($stream->event->{data}, 'p', 'and get their events');
$_->{socket}->close foreach splice @waiting, 0, 4;
is(login('scram', 'secret')->{status}, 200, 'clients that leave meanwhile do no harm');
is($_->answer->{status}, 503, 'a login that takes too long ends') foreach @waiting;
is(login('scram', 'secret')->{status}, 200, 'others are let in');
@waiting = map { http_connection($port) } 1 .. 8;
$_->put(http_request('GET', '/events?channel=c', [ http_basic('huge', 'secret') ])) foreach @waiting;
is(login('scram', 'secret')->{status}, 200, 'while some compute');
is($gateway->stop, 0, 'the gateway ends well');
unlike($gateway->log, qr/Sanitizer|runtime error/, 'nothing was wrong inside');
done_testing();
