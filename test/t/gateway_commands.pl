# What clients publish goes to the server over one connection: none starves the
# others, a server that is slow is waited for, and one that answers nothing is not.

use strict;
use warnings;

use IO::Select;
use JSON::PP;
use PgPubsub::Gateway;
use PgPubsub::Http;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('commands', conf => "pgpubsub.queue_size = 64kB\nrestart_after_crash = on\n");

$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub; CREATE ROLE flood LOGIN; CREATE ROLE other LOGIN');

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $gateway = start_gateway($node, options => [ '--http', "127.0.0.1:$port", '--server-timeout', '4', '--max-role-commits', '20' ]);

sub publication
{
	my ($role, $payload) = @_;

	return http_request('POST', '/publish', [ http_basic($role, 'any'), 'Content-Type: application/json' ], encode_json({ channel => 'c', payload => $payload }));
}

# A connection that has published, so that its role is known.
sub publisher
{
	my ($role) = @_;
	my $connection = http_connection($port);

	$connection->put(publication($role, 'first'));
	die 'no publication' if $connection->answer->{status} != 200;
	return $connection;
}

# Does the gateway answer?  Then it has also taken what was sent to it before.
sub is_alive
{
	my ($name) = @_;

	is(http_ask($port, 'GET', '/nothing')->{status}, 404, $name) foreach 1 .. 2;
	return;
}

# ----------------------------------------------------------------------------
# A server that is slow: the queue is full, and each publish() waits a second in vain.
# ----------------------------------------------------------------------------

my @flood = map { publisher('flood') } 1 .. 60;
my $other = publisher('other');
my $session = raw_login($gateway, user => 'flood');

$node->safe_psql('postgres', q{
	SELECT pgpubsub.subscribe('holds', '{c}', 'block');
	SELECT count(pgpubsub.publish('c', i || repeat('x', 1000))) FROM generate_series(1, 100) AS i});
wait_until(sub { $node->safe_psql('postgres', q{SELECT state FROM pgpubsub.stat_subscriptions WHERE subscription = 'holds'}) eq 'holding' }, 'the queue is full');
$_->put(publication('flood', 'x')) foreach @flood;
is_alive('sixty are asked for at once');
is($session->show($session->query('UNLISTEN *')), "C UNLISTEN\nZ I", 'who notifies nothing needs no room');
my @refused = grep { IO::Select->new($_->{socket})->can_read(0) } @flood;
my @answers = map { $_->answer } @refused;

cmp_ok(scalar @answers, '>=', 30, 'beyond so many of one role there is no room');
is(scalar(grep { $_->{status} == 503 && $_->{headers} =~ /^Retry-After: 1\r$/m } @answers), scalar @answers, 'which is said, and when to try again');
$other->put(publication('other', 'x'));
my $answer = $other->answer;

is($answer->{status}, 429, "another role's turn comes");
like($answer->{body}, qr/queue is full/, 'though the server has no room either');
my %refused = map { $_ => 1 } @refused;
@answers = map { $refused{$_} ? () : $_->answer } @flood;
is(scalar(grep { $_->{status} == 504 } @answers), 0, 'no outcome is unknown of a server that answers, if slowly');
cmp_ok(scalar(grep { $_->{status} == 429 } @answers), '>=', 8, 'who was sent there is waited for');
unlike($gateway->log, qr/the connection for commands is lost/, 'and the connection stays');

$node->safe_psql('postgres', q{SELECT pgpubsub.unsubscribe('holds')});
$node->safe_psql('postgres', q{SELECT count(pgpubsub.publish('c', 'x'))});
is($_->[1]->answer->{status}, 200, $_->[0]) foreach map { $_->[1]->put(publication($_->[0], 'x')); $_ } [ flood => $flood[0] ], [ other => $other ];
is($gateway->stop, 0, 'the gateway ends well');

# ----------------------------------------------------------------------------
# A server that answers nothing
# ----------------------------------------------------------------------------

# The state that the kernel names for the process; '' if it is gone.
sub process_state
{
	my ($pid) = @_;

	open my $file, '<', "/proc/$pid/stat" or return '';
	return (<$file> // '') =~ /\) (\w)/ ? $1 : '';
}

$gateway = start_gateway($node, options => [ '--http', "127.0.0.1:$port", '--server-timeout', '1' ]);
my ($one, $two, $three) = (publisher('other'), raw_login($gateway), publisher('flood'));
my $backend = $node->safe_psql('postgres', q{
	SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pgpubsub-gateway%' AND query LIKE '%pgpubsub.publish(%'});

kill 'STOP', $backend;
wait_until(sub { process_state($backend) eq 'T' }, "the server's process has stopped");
$one->put(publication('other', 'one') . publication('other', 'behind'));
$two->put(message('Q', "NOTIFY two\0"));
is_alive('two are with the server');
is($one->answer->{status}, 504, 'one outcome is unknown');
is($two->show($two->read_until('Z')), "E ERROR 08007 the outcome of the transaction is unknown\nZ I", 'so is the other');
like($gateway->log, qr/the connection for commands is lost: the server does not answer/, 'the connection is given up');
kill 'CONT', $backend;
is($one->answer->{status}, 200, 'on another one, the next is done');

# Who goes on asking does not keep a connection that answers nothing.
$backend = $node->safe_psql('postgres', q{
	SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pgpubsub-gateway%' AND query LIKE '%pgpubsub.publish(%'});
kill 'STOP', $backend;
wait_until(sub { process_state($backend) eq 'T' }, "the server's process has stopped");
my $offset = length $gateway->log;
$three->put(publication('flood', 'three'));
my $asked = 0;
wait_until(
	sub {
		my $asker = raw_login($gateway);

		$asker->put(message('Q', "NOTIFY asked\0"));
		$asked++;
		push @flood, $asker;
		return substr($gateway->log, $offset) =~ /the connection for commands is lost/;
	},
	'it is given up');
cmp_ok($asked, '>', 1, 'however many ask');
is($three->answer->{status}, 504, 'so who waits is told');
kill 'CONT', $backend;

is($gateway->stop, 0, 'it ends well');
unlike($gateway->log, qr/Sanitizer|runtime error/, 'nothing was wrong inside');
done_testing();
