# No client takes what others need: channels, turns, memory, and what only the gateway may
# say to itself.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256);
use MIME::Base64 qw(encode_base64url);
use PgPubsub::Gateway;
use PgPubsub::Http;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('bounds', conf => "pgpubsub.queue_size = 64MB\npgpubsub.max_channels = 400\n");

# (names that the database's encoding lacks are such that the server does not take)
$node->safe_psql('postgres', q{CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0});
prepare_server($node, db => 'latin', sql => q{
	CREATE ROLE one LOGIN;
	CREATE ROLE two LOGIN;
	CREATE ROLE web LOGIN;
	CREATE ROLE "token x" LOGIN;
	CREATE ROLE x LOGIN;
});
$node->safe_psql('latin', 'CREATE ROLE ' . 'r' x 63 . ' LOGIN');

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $web  = http_basic('web', 'any');
my $gateway;

sub begin_gateway
{
	$gateway = start_gateway($node, db => 'latin', user => 'gateway', options => [ '--http', "127.0.0.1:$port", '--name', 'itself', @_ ]);
	return;
}

sub login { my ($user) = @_; return raw_login($gateway, user => $user, database => 'latin', client_encoding => 'UTF8'); }

sub session
{
	my ($what) = @_;

	return $node->safe_psql('postgres',
		q{SELECT a.pid FROM pg_stat_activity a LEFT JOIN pg_locks l ON l.pid = a.pid AND l.locktype = 'advisory'
		  WHERE a.usename = 'gateway' AND l.pid IS } . ($what eq 'stream' ? 'NOT NULL' : 'NULL'));
}

sub listens { my ($client, $prefix, $count) = @_; return $client->show($client->query(join ';', map { "LISTEN $prefix$_" } 1 .. $count)); }

sub publish_some
{
	my ($channel, $from, $to, $bytes) = @_;

	$node->safe_psql('latin', "SELECT count(pgpubsub.publish('$channel', i || repeat('x', " . ($bytes // 0) . "))) FROM generate_series($from, $to) AS i");
	return;
}

# The numbers that a stream gets up to that one, as one text.
sub numbers
{
	my ($stream, $last) = @_;
	my ($first, $before, @odd);

	while (1)
	{
		my $event = $stream->event;
		my ($number) = $event->{data} =~ /^(\d+)/;

		return "$event->{event} $event->{data} behind " . ($before // 'nothing') if !defined $number;
		$first //= $number;
		push @odd, $number if defined $before && $number != $before + 1;
		$before = $number;
		return join ' ', "$first..$number", @odd if $number >= $last;
	}
}

# Distinct channels
begin_gateway('--max-role-channels', 10, '--max-total-channels', 14);
my ($one, $again, $two) = (login('one'), login('one'), login('two'));

like(listens($one, 'c', 10), qr/^(C LISTEN\n){10}Z I$/, 'as many channels as a role may have');
like(listens($again, 'c', 10), qr/^(C LISTEN\n){10}Z I$/, 'the same ones count once');
like($again->show($again->query('LISTEN d')), qr/^E ERROR 53400 too many channels of this role \(max-role-channels\)\nZ I$/m, 'one more, in another session of the role');
is($two->show($two->query('LISTEN c1')), "C LISTEN\nZ I", 'another role has one of these, too');
like(listens($two, 'd', 4), qr/^(C LISTEN\n){4}Z I$/, 'and others');
like($two->show($two->query('LISTEN e')), qr/^E ERROR 53400 too many channels of all clients of the gateway \(max-total-channels\)\nZ I$/m, 'but not more than all may have');
is(http_ask($port, 'GET', '/events?channel=f', [$web])->{status}, 429, 'nor has a stream');
is($again->show($again->query('UNLISTEN *')) . $one->show($one->query('UNLISTEN c10')), "C UNLISTEN\nZ I" x 2, 'one less');
is($two->show($two->query('LISTEN e')), "C LISTEN\nZ I", 'gives its place to another at once');
is($two->show($two->query("NOTIFY e, 'x'")), "C NOTIFY\nA own e x\nZ I", 'which is one');
$_->{socket}->close foreach $one, $again, $two;

# the gateway's own channel
$one = login('one');
like($one->show($one->query("NOTIFY itself, 'x'")), qr/^E ERROR 0A000 channel "itself" is reserved\n/, 'NOTIFY to the gateway itself is refused');
like($one->show($one->query("SELECT pg_notify('itself', 'x')")), qr/^E ERROR 0A000 channel "itself" is reserved\n/m, 'and pg_notify()');
is(http_ask($port, 'POST', '/publish', [ $web, 'Content-Type: application/json' ], '{"channel":"itself","payload":"x"}')->{status}, 400, 'and POST');
is($gateway->stop, 0, 'the gateway ends');

# Other channels instead: as many as are left at the same time leave their room.
begin_gateway('--max-channels', 3, '--max-role-channels', 4, '--max-total-channels', 6);
($one, $again, $two) = (login('one'), login('one'), login('two'));
my $too_many = qr/E ERROR 53400 too many channels/;

listens($one, 'c', 3);
is($one->show($one->query('UNLISTEN c1; LISTEN d')), "C UNLISTEN\nC LISTEN\nZ I", 'max-channels: one instead of another');
is($one->show($one->query('UNLISTEN *; LISTEN e; LISTEN f; LISTEN d')), join("\n", 'C UNLISTEN', ('C LISTEN') x 3, 'Z I'), 'others instead of all');
like($one->show($one->query('UNLISTEN d; LISTEN g; LISTEN h')), qr/$too_many\nZ I$/, 'but no more than that');
is($one->show($one->query("NOTIFY d, 'x'")), "C NOTIFY\nA own d x\nZ I", 'what was to be left then is still there');
is($one->show($one->query('LISTEN d; LISTEN e')), "C LISTEN\nC LISTEN\nZ I", 'nor are those new that are there');
listens($again, 'i', 1);
is($one->show($one->query('UNLISTEN d; LISTEN g')), "C UNLISTEN\nC LISTEN\nZ I", 'max-role-channels, too');
$again->query('LISTEN g');
like($one->show($one->query('UNLISTEN g; LISTEN d')), qr/$too_many of this role.*\nZ I$/, 'unless somebody else of the role stays there');
listens($two, 'j', 2);
is($two->show($two->query('UNLISTEN j1; LISTEN k')), "C UNLISTEN\nC LISTEN\nZ I", 'and max-total-channels');
freeze_process(session('commands'));
$two->put(message('Q', "UNLISTEN j2; LISTEN l\0"));
is($two->next_message(0.2), '', 'while that waits');
my $three = login('web');
like($three->show($three->query('LISTEN j2')), qr/$too_many of all clients/, 'who wants what is being left gets it only where there is room for both');
kill 'CONT', session('commands');
is($two->show($two->read_until('Z')), "C UNLISTEN\nC LISTEN\nZ I", 'the other gets what it wants');
$_->{socket}->close foreach $one, $again, $two, $three;

# While the server drops channels it has the subscription, which the stream waits for,
# however long that takes: it is not lost.
($one, $two) = (login('one'), login('two'));
listens($one, 'kept', 1);
my $locks = client($node, 'latin');
my $offset = log_offset($node);
$locks->run('BEGIN');
$locks->run('LOCK TABLE pgpubsub.subscription_channel IN SHARE MODE');
$two->put(message('Q', "LISTEN p1; LISTEN p2\0"));
ok($node->poll_query_until('postgres', q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%drop_channels%')}), 'the server drops channels');
publish_some('kept1', 1, 1);
ok(wait_until(sub { substr(slurp_file($node->logfile), $offset) =~ /subscription "itself" is being read/ }, 'a poll that fails'), 'and the stream has waited in vain');
$locks->run('COMMIT');
is($one->show($one->next_message), 'A other kept1 1', 'but it has the event then');
is($two->show($two->read_until('Z')), "C LISTEN\nC LISTEN\nZ I", 'and the channels are there');
unlike($gateway->log, qr/is lost/, 'its connection was not lost');
$_->{socket}->close foreach $one, $two;

# What is being left counts for all others until it is left, for the commit may fail:
# else a role that has many commits fail could gather channels without end.
($one, $again, $two) = (login('one'), login('one'), login('two'));
listens($one, 'o', 3);
listens($again, 'p', 1);
listens($two, 'q', 2);
freeze_process(session('commands'));
$one->put(message('Q', "UNLISTEN *; NOTIFY o1, 'x'\0"));
is($one->next_message(0.2), '', 'a commit waits, which leaves all');
like($again->show($again->query('LISTEN r')), qr/$too_many of this role/, 'meanwhile its role has no room');
like($two->show($two->query('LISTEN r')), qr/$too_many of all clients/, 'nor have all others');
kill 'CONT', session('commands');
like($one->show($one->read_until('Z')), qr/^C UNLISTEN\nC NOTIFY\n(A own o1 x\n)?Z I$/, 'it succeeds');
is($again->show($again->query('LISTEN r')), "C LISTEN\nZ I", 'afterwards there is room');
$_->{socket}->close foreach $one, $again, $two;
($one, $two) = map { login('r' x 63 . $_) } 1, 2;
listens($one, 'm', 2);
like(listens($two, 'n', 3), qr/$too_many of this role/, 'a name of which the server reads but a part is the same role');
is($gateway->stop, 0, 'the gateway ends');

# A role and a token's subject that are called the same
my $secret = 'a secret of thirty-two bytes, or more';
my $key = PostgreSQL::Test::Utils::tempdir() . '/secret';
append_to_file($key, $secret);
begin_gateway('--max-role-commits', 1, '--max-role-channels', 1, '--jwt-key', $key);

# A publication of whoever it is, which is not answered yet.
sub publication
{
	my ($who) = @_;
	my $connection = http_connection($port);

	$connection->put(http_request('POST', '/publish', [ $who, 'Content-Type: application/json' ], '{"channel":"c","payload":"x"}'));
	return $connection;
}
my $text = join '.', map { encode_base64url($_) } '{"alg":"HS256"}', '{"exp":9999999999,"sub":"x","channels":["*"],"publish":["*"]}';
my $token = http_bearer("$text." . encode_base64url(hmac_sha256($text, $secret)));
freeze_process(session('commands'));
my @with_server = map { publication($web) } 1 .. 8;
ok(wait_until(sub { http_ask($port, 'GET', '/metrics')->{body} =~ /^pgpubsub_gateway_waiting_commits 8$/m }, 'publications'), 'as many as the server has at a time');
my @waiting = map { publication($_) } http_basic('token x', 'any'), http_basic('x', 'any'), $token;
ok(wait_until(sub { http_ask($port, 'GET', '/metrics')->{body} =~ /^pgpubsub_gateway_waiting_commits 11$/m }, 'publications'), 'each has a turn of its own');
is(http_ask($port, 'POST', '/publish', [ $token, 'Content-Type: application/json' ], '{"channel":"c","payload":"x"}')->{status}, 503, 'but one');
kill 'CONT', session('commands');
is(join(' ', map { $_->answer->{status} } @with_server, @waiting), join(' ', (200) x 11), 'all are published');
my @streams = map { http_stream($port, '/events?channel=' . $_->[0], [ $_->[1] ]) } [ 'a', http_basic('x', 'any') ], [ 'b', $token ];
is(http_ask($port, 'GET', '/events?channel=c', [$token])->{status}, 429, 'and channels of its own');
is($gateway->stop, 0, 'the gateway ends');

# One bad name among others
begin_gateway();
my @clients = map { login('one') } 1 .. 4;
my $commands = session('commands');
my $listen = qr/C LISTEN\nZ I/;

$clients[0]->query('LISTEN before');
freeze_process($commands);
$clients[1]->put(message('Q', "LISTEN first\0"));
is($clients[1]->next_message(0.5), '', 'a LISTEN is with the server');
$clients[2]->put(message('Q', qq(LISTEN "\xe6\x97\xa5"\0)));
$clients[3]->put(message('Q', "LISTEN good\0"));
is($clients[3]->next_message(0.5), '', 'others wait');

# the stream comes back while a name waits that the server does not take
my $offset = length $gateway->log;
my $stream_pid = session('stream');

$node->safe_psql('postgres', "SELECT pg_terminate_backend($stream_pid)");
$gateway->wait_for_log(qr/subscription .* stands/, $offset);
$node->safe_psql('latin', q{SELECT pgpubsub.publish('before', 'x')});
is($clients[0]->show($clients[0]->next_message), 'A other before x', 'what was listened to before goes on');
kill 'CONT', $commands;
like($clients[1]->show($clients[1]->read_until('Z')), qr/^$listen$/, 'a LISTEN');
like($clients[2]->show($clients[2]->read_until('Z')), qr/^E ERROR 22P05 /, 'one that the server does not take');
like($clients[3]->show($clients[3]->read_until('Z')), qr/^$listen$/, 'does not fail another');
$node->safe_psql('latin', q{NOTIFY good, 'x'});
is($clients[3]->show($clients[3]->next_message), 'A other good x', 'which is effective');

# Many UNLISTENs and NOTIFYs of one transaction
$one = login('one');
$one->put(message('Q', join(';', 'BEGIN', (map { "UNLISTEN u$_; NOTIFY u$_" } 1 .. 8000), 'LISTEN kept', "NOTIFY kept, 'x'", 'COMMIT') . "\0"));
my @answers = $one->read_until('Z');
is($one->show(@answers[ -3 .. -1 ]), "C COMMIT\nA own kept x\nZ I", 'a transaction with thousands of UNLISTENs and NOTIFYs');
is($gateway->stop, 0, 'the gateway ends');

# Patterns
begin_gateway('--history', 16 * 1024 * 1024);
my $query = join '&', map { "channel=p$_*" } 1 .. 101;
my $answer = http_ask($port, 'GET', "/events?$query", [$web]);

is($answer->{status}, 400, 'too many patterns');
like($answer->{body}, qr/at most 100 \(max-patterns\)/, 'the limit is said');
$query = join '&', map { "channel=p$_*" } 1 .. 99;
my $stream = http_stream($port, "/events?channel=man*&$query", [$web]);
publish_some('many', 1, 20000);
my $id = $stream->event->{id};
is(numbers($stream, 20000), '2..20000', 'a stream');
my $pattern = http_stream($port, "/events?channel=man*&$query", [ $web, "Last-Event-ID: $id" ]);
is(http_ask($port, 'GET', '/healthz')->{status}, 200, 'while much is compared, others are answered');
publish_some('many', 20001, 21000);
is(numbers($pattern, 21000), '2..21000', 'all of the history, over many turns, and what comes meanwhile');
is($gateway->stop, 0, 'the gateway ends');

# What was missed, in large events, for clients that take nothing
# (whose memory is looked at: the sanitizer must not keep what is freed)
$ENV{ASAN_OPTIONS} = join ':', $ENV{ASAN_OPTIONS} // (), 'quarantine_size_mb=1';
begin_gateway('--history', 0, '--max-resumes', 1, '--resume-timeout', 1, '--client-buffer', 65536);
$stream = http_stream($port, '/events?channel=large', [$web]);
publish_some('large', 1, 1);
$id = $stream->event->{id};
publish_some('large', 2, 51, 900_000);
numbers($stream, 51);

sub resident
{
	my ($kb) = slurp_file("/proc/$gateway->{pid}/status") =~ /^VmRSS:\s+(\d+) kB$/m;

	return $kb;
}

my $before = resident();
my $slow   = http_stream($port, '/events?channel=large', [ $web, "Last-Event-ID: $id" ]);

# (marks, which are not to be seen)
login('one')->query("LISTEN other$_") foreach 1 .. 3;
my $other = http_stream($port, '/events?channel=*', [ $web, "Last-Event-ID: $id" ]);
cmp_ok(resident() - $before, '<', 40_000, 'a client that takes nothing has not much more waiting than client-buffer');
is($other->event->{event}, 'gap', 'and does not keep others from what they have missed: nobody knows what a new pattern has');
is(numbers($other, 51), '2..51', 'what is there, without a mark');
is(numbers($slow, 51), '2..51', 'it gets all once it reads');
is($gateway->stop, 0, 'the gateway ends well');
unlike($gateway->log, qr/Sanitizer|runtime error/, 'nothing was wrong inside');
done_testing();
