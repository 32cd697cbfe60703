# poll() that waits: woken by events, let go of when it is cancelled, when its
# client dies, and through a transaction pooler.

use strict;
use warnings;

use IPC::Run;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('waiting', conf => "max_connections = 60\n");

# Wait until the subscription is in that state; by that pid.
sub state_becomes
{
	my ($subscription, $state, $pid) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok( $node->poll_query_until(
			'postgres',
			"SELECT state = '$state' AND pid IS NOT DISTINCT FROM $pid FROM pgpubsub.stat_subscriptions"
			  . " WHERE subscription = '$subscription'"),
		"$subscription is $state");
}

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	SELECT pgpubsub.subscribe('s', '{news,weather}'),
	       pgpubsub.subscribe('t', '{w*}'),
	       pgpubsub.subscribe('u', '{news}');
});

# Woken

my $first    = open_session($node);
my $second   = open_session($node);
my $pid      = session_pid($first);
my $poll     = "SELECT channel, payload FROM pgpubsub.poll('s', timeout => '30s')";
my $poll_all = "SELECT string_agg(payload, ' ') FROM pgpubsub.poll('%s', timeout => '30s')";

foreach my $channel (qw(news weather news))
{
	begin_query($first, $poll);
	state_becomes('s', 'waiting', $pid);
	publish($node, 'postgres', $channel, 'hello');
	is(end_query($first), "$channel|hello", "a waiting poll() is woken by $channel");
}
state_becomes('s', 'idle', 'NULL');

# an event of another channel, a rollback, and an empty transaction wake nobody
begin_query($first, $poll);
state_becomes('s', 'waiting', $pid);
publish($node, 'postgres', 'elsewhere', 'hello');
$node->safe_psql('postgres',
	"BEGIN; SELECT pgpubsub.publish('news', 'undone'); ROLLBACK");
publish($node, 'postgres', 'news', 'done');
is(end_query($first), 'news|done', 'only by what it waits for');

# by a channel that its pattern matches and that nobody knew
is(received($node, 'postgres', 't', 1), 'weather:hello', 't has read so far');
begin_query($first, sprintf($poll_all, 't'));
state_becomes('t', 'waiting', $pid);
publish($node, 'postgres', 'wonderful', 'new');
is(end_query($first), 'new', 'by a new channel that its pattern matches');
begin_query($first, sprintf($poll_all, 't'));
state_becomes('t', 'waiting', $pid);
publish($node, 'postgres', 'worse', 'newer');
is(end_query($first), 'newer', 'by another one');

# by a long event
begin_query($first,
	"SELECT length(payload) FROM pgpubsub.poll('s', timeout => '30s')");
state_becomes('s', 'waiting', $pid);
publish($node, 'postgres', 'news', 'x' x 100000);
is(end_query($first), '100000', 'by an event too long for a NOTIFY');

# by a change of its own subscription, by another session
begin_query($first, $poll);
state_becomes('s', 'waiting', $pid);
is( $second->query(
		"SELECT pgpubsub.subscribe('s', '{news,weather,late}')"),
	'f', 'subscribe() changes a subscription whose reader waits');
state_becomes('s', 'waiting', $pid);
publish($node, 'postgres', 'late', 'hello');
is(end_query($first), 'late|hello', 'and it waits for the new channel, too');
begin_query($first, $poll);
state_becomes('s', 'waiting', $pid);
is($second->query("SELECT pgpubsub.unsubscribe('s')"),
	't', 'unsubscribe() drops a subscription whose reader waits');
my ($output, $error) = end_query($first);
like($error, qr/ERROR:  42704: subscription "s" does not exist/,
	'the reader gets an error');
$second->query("SELECT pgpubsub.subscribe('s', '{news,weather}')");

# several readers of several subscriptions, woken by one event each
$node->safe_psql('postgres', "SELECT * FROM pgpubsub.poll('u')");
begin_query($first,  sprintf($poll_all, 's'));
begin_query($second, sprintf($poll_all, 'u'));
state_becomes('s', 'waiting', $pid);
state_becomes('u', 'waiting', session_pid_of($second, 'u'));
publish($node, 'postgres', 'news', 'for all');
is(end_query($first),  'for all', 'one reader is woken');
is(end_query($second), 'for all', 'and so is the other');

sub session_pid_of
{
	my ($session, $subscription) = @_;

	$node->poll_query_until('postgres',
		"SELECT pid IS NOT NULL FROM pgpubsub.stat_subscriptions WHERE subscription = '$subscription'"
	);
	return $node->safe_psql('postgres',
		"SELECT pid FROM pgpubsub.stat_subscriptions WHERE subscription = '$subscription'"
	);
}

# Cut short

$first->query_safe("SET pgpubsub.max_poll_wait = '10ms'");
is($first->query("SELECT count(*) FROM pgpubsub.poll('s', timeout => '1 year')"),
	0, 'max_poll_wait cuts the timeout');
$first->query_safe('RESET pgpubsub.max_poll_wait');
is($first->query("SELECT count(*) FROM pgpubsub.poll('s', timeout => '10ms')"),
	0, 'a timeout passes without an event');

# statement_timeout, cancel, a rollback to a savepoint: nothing stays locked

fails_with($first, undef,
	"SET statement_timeout = '10ms'; SELECT * FROM pgpubsub.poll('s', timeout => '30s')",
	'57014', qr/statement timeout/, 'statement_timeout ends a wait');
$first->query_safe('RESET statement_timeout');
state_becomes('s', 'idle', 'NULL');
publish($node, 'postgres', 'news', 'after timeout');
is(received($node, 'postgres', 's', 1),
	'news:after timeout', 'another session reads then');

begin_query($first, $poll);
state_becomes('s', 'waiting', $pid);
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
($output, $error) = end_query($first);
like($error, qr/ERROR:  57014: canceling statement due to user request/,
	'pg_cancel_backend() ends a wait');
state_becomes('s', 'idle', 'NULL');
publish($node, 'postgres', 'news', 'after cancel');
is(received($node, 'postgres', 's', 1),
	'news:after cancel', 'another session reads then');
$first->query_safe('BEGIN; SAVEPOINT a');
fails_with($first, undef,
	"SET LOCAL statement_timeout = '10ms'; SELECT * FROM pgpubsub.poll('s', timeout => '30s')",
	'57014', qr/statement timeout/, 'a wait in a savepoint ends');
$first->query_safe('ROLLBACK TO a');
publish($node, 'postgres', 'news', 'after savepoint');
is(received($node, 'postgres', 's', 1), 'news:after savepoint',
	'after ROLLBACK TO another session reads, though the transaction is open');
$first->query_safe('COMMIT');

# A second reader waits for the first.

publish($node, 'postgres', 'news', 'only one');
$first->query_safe('BEGIN');
is($first->query($poll), 'news|only one', 'a session reads');
fails_with($second, undef, "SELECT * FROM pgpubsub.poll('s')",
	'55006', qr/Process $pid has it/, 'a second one is told who has it');
fails_with(
	$second, undef, "SELECT pgpubsub.unsubscribe('s')",
	'55006', qr/Process $pid has it.*\nHINT:  .*pg_terminate_backend/,
	'and so is who wants to drop it');
begin_query($second, $poll);
ok( $node->poll_query_until(
		'postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE pid <> $pid"
		  . " AND wait_event_type = 'Extension' AND query LIKE 'SELECT channel, payload FROM pgpubsub.poll%'"
	),
	'or waits, with a timeout');
$first->query_safe('ROLLBACK');
is(end_query($second), 'news|only one',
	'and gets what the first has rolled back');

# The session ends, in any way: it lets go.

sub lets_go
{
	my ($how, $sub, $waits) = @_;
	my $session = open_session($node);
	my $its_pid = session_pid($session);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	publish($node, 'postgres', 'news', "before $how");
	$session->query_safe('BEGIN');
	if ($waits)
	{
		received($node, 'postgres', 's', 1);
		begin_query($session, $poll);
		state_becomes('s', 'waiting', $its_pid);
	}
	else
	{
		is($session->query($poll), "news|before $how", 'a session reads');
		state_becomes('s', 'reading', $its_pid);
	}
	$sub->($session, $its_pid);
	state_becomes('s', 'idle', 'NULL');
	close_session($session);
	publish($node, 'postgres', 'news', "after $how");
	is( received($node, 'postgres', 's', $waits ? 1 : 2),
		($waits ? '' : "news:before $how ") . "news:after $how",
		"$how: another session reads all that was not committed");
}

foreach my $waits (0, 1)
{
	my $what = $waits ? 'in a wait' : 'in a transaction';

	lets_go(
		"terminated $what",
		sub {
			$node->safe_psql('postgres', "SELECT pg_terminate_backend($_[1])");
		},
		$waits);
	lets_go("client killed $what", sub { $_[0]->{run}->signal('KILL') },
		$waits);
}
$first->quit;
$second->quit;

# A transaction pooler

SKIP:
{
	my ($pgbouncer) = grep { -x } map { "$_/pgbouncer" } '/usr/sbin',
	  split /:/, $ENV{PATH};
	skip 'pgbouncer is not there', 1 unless defined $pgbouncer;

	my $dir     = PostgreSQL::Test::Utils::tempdir();
	my $port    = PostgreSQL::Test::Cluster::get_free_port();
	my $clients = 20;
	my $user    = $node->safe_psql('postgres', 'SELECT current_user');

	append_to_file("$dir/users", "\"$user\" \"\"\n");
	append_to_file(
		"$dir/pgbouncer.ini", join "\n",
		'[databases]',
		"postgres = host=" . $node->host . " port=" . $node->port . " user=$user",
		'[pgbouncer]',
		'listen_addr =',
		"unix_socket_dir = $dir",
		"listen_port = $port",
		'auth_type = trust',
		"auth_file = $dir/users",
		'pool_mode = transaction',
		'default_pool_size = 4',
		'max_client_conn = 100',
		"logfile = $dir/log",
		"pidfile = $dir/pid",
		'');
	my $out    = '';
	my $bouncer = IPC::Run::start([ $pgbouncer, '-q', "$dir/pgbouncer.ini" ],
		'<', \undef, '>&', \$out);
	my @connection = ('-h', $dir, '-p', $port, '-U', $user);
	my $up = wait_until(
		sub {
			return IPC::Run::run(
				[ 'psql', '-XAtq', @connection, '-c', 'SELECT 1', 'postgres' ],
				'<', \undef, '>&', \my $ignored) || !$bouncer->pumpable;
		},
		'pgbouncer');
	ok($up && $bouncer->pumpable, 'pgbouncer is up') || diag($out);

	$node->safe_psql(
		'postgres', qq{
		CREATE TABLE taken (subscription text, payload text);
		SELECT pgpubsub.subscribe('client_' || i, ARRAY['to_' || i % 5, 'all'])
		  FROM generate_series(0, $clients - 1) AS i;
		SELECT pgpubsub.publish('to_' || i % 5, 'message ' || i)
		  FROM generate_series(1, 500) AS i;
		SELECT pgpubsub.publish('all', 'message for all ' || i)
		  FROM generate_series(1, 20) AS i});

	# Have the relay queue what was published: what a client has to read takes
	# all but two of its polls, which do not wait for long.
	settle($node, 'postgres');

	# polls in a transaction; looks and acks in transactions of their own
	append_to_file(
		"$dir/poll.sql", q{
BEGIN;
INSERT INTO taken SELECT 'client_' || :client_id, payload
  FROM pgpubsub.poll('client_' || :client_id, 7, '20ms');
COMMIT;
});
	append_to_file(
		"$dir/ack.sql", q{
\set upto 0
INSERT INTO taken SELECT 'client_' || :client_id, payload
  FROM pgpubsub.poll('client_' || :client_id, 7, '20ms', false);
SELECT coalesce(max(seq), 0) AS upto FROM pgpubsub.poll('client_' || :client_id, 7, '20ms', false) \gset
\if :upto > 0
SELECT pgpubsub.ack('client_' || :client_id, :upto);
\endif
});
	foreach my $script (qw(poll ack))
	{
		$node->command_ok(
			[
				'pgbench', '-n', @connection, '-c', $clients, '-j', 2, '-t',
				20, '-f', "$dir/$script.sql", 'postgres'
			],
			"$clients clients over 4 connections: $script");
		is( $node->safe_psql(
				'postgres', q{
				SELECT min(count), max(count), min(count) = count(DISTINCT count) * 120
				  FROM (SELECT count(DISTINCT payload) AS count, count(*) AS rows
				          FROM taken GROUP BY subscription) AS x
				 WHERE count = rows}),
			'120|120|t',
			"each client has read all of its own, once: $script");
		$node->safe_psql(
			'postgres', q{
			TRUNCATE taken;
			SELECT pgpubsub.publish('to_' || i % 5, 'message ' || i)
			  FROM generate_series(1, 500) AS i;
			SELECT pgpubsub.publish('all', 'message for all ' || i)
			  FROM generate_series(1, 20) AS i});
		settle($node, 'postgres');
	}
	is( $node->safe_psql(
			'postgres', "SELECT count(*) FROM pgpubsub.stat_subscriptions"
			  . " WHERE subscription LIKE 'client%' AND pid IS NOT NULL"),
		0,
		'no subscription is left in the hands of a pooled connection');
	$bouncer->signal('INT');
	$bouncer->finish;
}

$node->stop;
log_is_clean(
	$node,
	qr/ERROR:  canceling statement due to/,
	qr/ERROR:  subscription "s" does not exist/,
	qr/ERROR:  subscription "s" is being read by another session/,
	qr/FATAL:  connection to client lost/);
done_testing();
