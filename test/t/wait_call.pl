# CALL wait(): it holds no snapshot, is in nobody's way, and is woken by all
# that there is to wake it.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('call_wait', conf => "pgpubsub.max_poll_wait = '1h'\n");

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE TABLE other (id int PRIMARY KEY, n int);
	INSERT INTO other SELECT i, i FROM generate_series(1, 1000) AS i;
	SELECT pgpubsub.subscribe('s', '{news,weather}'),
	       pgpubsub.subscribe('t', '{w*}'),
	       pgpubsub.subscribe('u', '{news}');
});

my $watcher = client($node, 'postgres');
my $first   = client($node, 'postgres');
my $second  = client($node, 'postgres');

my $call_s = "CALL pgpubsub.wait('s', '1h')";
my $do_s   = "DO \$\$BEGIN CALL pgpubsub.wait('s', '1h'); END\$\$";

# Begin the statement in the session; return when it waits.
sub begin_wait
{
	my ($client, $sql) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$client->begin($sql);
	waits_in_extension($watcher, $client) or fail("$sql does not wait");
	return;
}

# The wait ends without an error; what is to be read then.
sub ends_with
{
	my ($client, $subscription, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$client->finish;
	is($client->sqlstate, '', "$name: no error");
	is( join(' ', map { $_->[0] } $client->run(
				"SELECT coalesce(channel || ':' || payload, 'gap:' || lost) FROM pgpubsub.poll('$subscription')"
			)),
		$expected,
		$name);
	return;
}

sub fails
{
	my ($client, $sqlstate, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$client->finish;
	is($client->sqlstate, $sqlstate, $name);
	return;
}

# What pg_stat_activity says of the session.
sub activity
{
	my ($client, $expression) = @_;

	return $watcher->value(
		"SELECT $expression FROM pg_stat_activity WHERE pid = $client->{pid}");
}

# state|pid of the subscription, pid as the name of the session
sub state_of
{
	my ($subscription) = @_;
	my $state = $watcher->subscription($subscription, "state || '|' || coalesce(pid, 0)");

	$state =~ s/\|$first->{pid}$/|first/;
	$state =~ s/\|$second->{pid}$/|second/;
	$state =~ s/\|0$/|nobody/;
	return $state;
}

# No snapshot

begin_wait($first,  $call_s);
begin_wait($second, $do_s);
is(state_of('s'), 'waiting|first', 'the view shows who waits');
is( activity($first,
		"concat_ws(' ', state, backend_xid, backend_xmin, xact_start)"),
	'active',
	'CALL wait holds no transaction');
is( $watcher->value(
		"SELECT count(*) FROM pg_locks WHERE pid = $first->{pid}"),
	0,
	'and no lock');
is(activity($second, "concat_ws(' ', state, backend_xid, backend_xmin)"),
	'active', 'in a DO block, no snapshot');
$watcher->run('CREATE INDEX CONCURRENTLY other_n ON other (n)');
$watcher->run('REINDEX INDEX CONCURRENTLY other_n');
is( $watcher->value(
		"SELECT indisvalid FROM pg_index WHERE indexrelid = 'other_n'::regclass"),
	't',
	'CREATE INDEX CONCURRENTLY does not wait for it');
$watcher->run('DELETE FROM other');
ok( wait_until(
		sub {
			# others have snapshots, too, but not for long
			$watcher->run('VACUUM other');
			return $watcher->value("SELECT pg_relation_size('other')") == 0;
		},
		'VACUUM'),
	'nor does VACUUM leave anything for it');
ok(!$first->done && !$second->done, 'both wait still');

# an interrupt that is none of its business
$watcher->run('CREATE DATABASE elsewhere');
$watcher->run('DROP DATABASE elsewhere');
$watcher->run("SELECT pg_log_backend_memory_contexts($first->{pid})");
ok( wait_until(
		sub { slurp_file($node->logfile) =~ /logging memory contexts of PID $first->{pid}/ },
		'memory contexts'),
	'it answers');
waits_in_extension($watcher, $first);
ok(!$first->done && !$second->done, 'and waits on');

$watcher->publish('news', 'one');
$second->finish;
is($second->sqlstate, '', 'one event wakes both');
ends_with($first, 's', 'news:one', 'one of them gets it');
is(state_of('s'), 'idle|nobody', 'nobody waits any more');

$watcher->run("SELECT * FROM pgpubsub.poll('u')");
begin_wait($first, "SELECT * FROM pgpubsub.poll('u', timeout => '1h')");
isnt(activity($first, 'backend_xmin'),
	undef, 'a poll that waits does hold a snapshot, as its text says');
$watcher->publish('news', 'for u');
$first->finish;
$watcher->run("SELECT * FROM pgpubsub.poll('s')");

# What wakes it

foreach my $sql ($call_s, $do_s)
{
	foreach my $channel (qw(news weather news))
	{
		begin_wait($first, $sql);
		$watcher->publish($channel, 'hello');
		ends_with($first, 's', "$channel:hello", "woken by $channel");
	}
	begin_wait($first, $sql);
	$watcher->run("NOTIFY news, 'native'");
	ends_with($first, 's', 'news:native', 'by a native NOTIFY');

	begin_wait($first, $sql);
	$watcher->publish('news', 'x' x 100000);
	ends_with($first, 's', 'news:' . 'x' x 100000, 'by a long event');
}

# not by what is rolled back, or goes elsewhere; nor by what another one consumes
begin_wait($first, $call_s);
$watcher->run('BEGIN');
$watcher->publish('news', 'undone');
$watcher->run('ROLLBACK');
$watcher->publish('elsewhere', 'hello');
$watcher->publish('news',      'done');
ends_with($first, 's', 'news:done', 'by nothing that is not committed or not its');

# by a channel that its pattern matches, and that nobody knew; then by another
$watcher->run("SELECT * FROM pgpubsub.poll('t')");
foreach my $channel (qw(wonderful worse wonderful))
{
	begin_wait($first, "CALL pgpubsub.wait('t', '1h')");
	$watcher->publish($channel, 'new');
	ends_with($first, 't', "$channel:new", "by $channel, of a pattern");
}

# by a gap
begin_wait($first, $call_s);
kill_relay($node, 'postgres');
ends_with($first, 's', 'gap:-1', 'by a gap');

# Another session reads

$watcher->publish('news', 'to be kept');
$second->run('BEGIN');
is($second->value("SELECT payload FROM pgpubsub.poll('s', timeout => '1h')"),
	'to be kept', 'another session reads');
begin_wait($first, $call_s);
is(state_of('s'), 'reading|second', 'the wait has not claimed anything');
$second->run('ROLLBACK');
ends_with($first, 's', 'news:to be kept',
	'a wait ends when its reader is rolled back');

$watcher->publish('news', 'to be consumed');
$second->run('BEGIN');
is($second->value("SELECT payload FROM pgpubsub.poll('s', timeout => '1h')"),
	'to be consumed', 'another session reads');
begin_wait($first, $call_s);
$second->run('COMMIT');
wait_until(sub { state_of('s') eq 'waiting|first' }, 'first waits');
$watcher->publish('news', 'more');
ends_with($first, 's', 'news:more',
	'not when it has consumed all there was; the next one wakes');

# a poll that waits takes the events, and the wait goes on
begin_wait($first, "SELECT payload FROM pgpubsub.poll('s', timeout => '1h')");
begin_wait($second, $call_s);
$watcher->publish('news', 'for the poll');
is($first->finish->{rows}[0][0], 'for the poll', 'a poll gets the event');
wait_until(sub { state_of('s') eq 'waiting|second' }, 'second waits');
$watcher->publish('news', 'for the wait');
ends_with($second, 's', 'news:for the wait', 'and a wait the next one');

# Two that wait are woken when a reader lets go, and not by each other for ever.

sub switches
{
	my ($client) = @_;
	my ($count) = slurp_file("/proc/$client->{pid}/status") =~
	  /^voluntary_ctxt_switches:\s+(\d+)/m;

	return $count;
}

begin_wait($first, $call_s);
begin_wait($second, $call_s);
$watcher->run("SELECT * FROM pgpubsub.poll('s')");
wait_until(sub { state_of('s') =~ /waiting/ }, 'both wait again');
my $before = switches($first) + switches($second);
state_of('s') foreach 1 .. 100;
cmp_ok(switches($first) + switches($second) - $before,
	'<', 50, 'both are quiet while nothing happens');
$watcher->publish('news', 'for both');
$second->finish;
ends_with($first, 's', 'news:for both', 'until an event comes');

# The subscription is changed, dropped, made again

begin_wait($first, $call_s);
is($second->value("SELECT pgpubsub.subscribe('s', '{news,late}')"),
	'f', 'subscribe() is not in the way of a wait');
wait_until(sub { state_of('s') eq 'waiting|first' }, 'first waits');
$watcher->publish('late', 'hello');
ends_with($first, 's', 'late:hello', 'it waits for the new channel too');

begin_wait($first, $call_s);
$second->run('BEGIN');
$second->run("SELECT pgpubsub.unsubscribe('s')");
$second->run("SELECT pgpubsub.subscribe('s', '{again}')");
waits_in_extension($watcher, $first);
$second->run('ROLLBACK');
wait_until(sub { state_of('s') eq 'waiting|first' }, 'first waits');
$watcher->publish('news', 'as before');
ends_with($first, 's', 'news:as before', 'a change that is rolled back is none');

begin_wait($first, $call_s);
$second->run('BEGIN');
$second->run("SELECT pgpubsub.unsubscribe('s')");
$second->run("SELECT pgpubsub.subscribe('s', '{again}')");
waits_in_extension($watcher, $first);
$second->run('COMMIT');
wait_until(sub { state_of('s') eq 'waiting|first' }, 'first waits');
$watcher->publish('again', 'anew');
ends_with($first, 's', 'again:anew', 'one that is dropped and made again');

foreach my $sql ($call_s, $do_s)
{
	begin_wait($first, $sql);
	is($second->value("SELECT pgpubsub.unsubscribe('s')"),
		't', 'unsubscribe() is not in the way');
	fails($first, '42704', 'the wait ends with its subscription');
	$second->run("SELECT pgpubsub.subscribe('s', '{news}')");
}

begin_wait($first, $call_s);
$second->run("DELETE FROM pgpubsub.subscription WHERE name = 's'");
fails($first, '42704', 'or when its row is deleted');
$second->run("SELECT pgpubsub.subscribe('s', '{news}')");

# it becomes another role's, while a member of the old one waits
$second->run(
	q{CREATE ROLE a; CREATE ROLE b;
	GRANT EXECUTE ON PROCEDURE pgpubsub.wait TO a;
	GRANT EXECUTE ON FUNCTION pgpubsub.subscribe TO a;
	SET ROLE a; SELECT pgpubsub.subscribe('owned', '{owned}'); RESET ROLE});
$first->run('SET ROLE a');
begin_wait($first, "CALL pgpubsub.wait('owned', '1h')");
$second->run('REASSIGN OWNED BY a TO b');
wait_until(
	sub {
		return $watcher->subscription('owned', 'owner') eq 'b';
	},
	'the relay to read who owns it');
$watcher->publish('owned', 'secret');
fails($first, '42501', 'it ends when the subscription is no longer its own');
$first->run('RESET ROLE');

# Cut short

foreach my $sql ($call_s, $do_s)
{
	$first->run("SET statement_timeout = '10ms'");
	$first->begin($sql);
	fails($first, '57014', 'statement_timeout ends it');
	$first->run('RESET statement_timeout');

	begin_wait($first, $sql);
	$watcher->run("SELECT pg_cancel_backend($first->{pid})");
	fails($first, '57014', 'pg_cancel_backend() ends it');
	is(state_of('s'), 'idle|nobody', 'nobody waits then');
	is($first->value('SELECT 1'), '1', 'and the session goes on');

	my $victim = client($node, 'postgres');

	begin_wait($victim, $sql);
	$watcher->run("SELECT pg_terminate_backend($victim->{pid})");
	fails($victim, '57P01', 'pg_terminate_backend() ends it');
	wait_until(sub { state_of('s') eq 'idle|nobody' }, 's is idle');

	$victim = client($node, 'postgres');
	begin_wait($victim, $sql);
	close $victim->{socket};
	ok( wait_until(
			sub { !defined activity($victim, 'pid') }, 'the end of a backend'),
		'it ends with its client');
	is(state_of('s'), 'idle|nobody', 'and nobody waits any more');

	# the setting by which core looks for dead clients disturbs nothing
	$first->run("SET client_connection_check_interval = '1ms'");
	begin_wait($first, $sql);
	$watcher->publish('news', 'still here');
	ends_with($first, 's', 'news:still here', 'it is woken as often as that');
	$first->run('RESET client_connection_check_interval');
}

# The extended protocol

append_to_file($node->basedir . '/wait.sql',
	"CALL pgpubsub.wait('s', '1ms');\nSELECT count(*) FROM pgpubsub.poll('s', timeout => '1h', consume => false);\n"
);
append_to_file($node->basedir . '/pipeline.sql',
	"\\startpipeline\nINSERT INTO other VALUES (1, 1);\nCALL pgpubsub.wait('s', '1ms');\n\\endpipeline\n"
);
$watcher->publish('news', 'for pgbench');
$first->run("SELECT * FROM pgpubsub.poll('s', timeout => '1h', consume => false)");
foreach my $protocol (qw(simple extended prepared))
{
	$node->command_ok(
		[
			'pgbench', '-n', '-M', $protocol, '-t', '5', '-f',
			$node->basedir . '/wait.sql', 'postgres'
		],
		"protocol $protocol");
}
$node->command_checks_all(
	[
		'pgbench', '-n', '-M', 'extended', '-t', '1', '-f',
		$node->basedir . '/pipeline.sql', 'postgres'
	],
	2,
	[],
	[qr/pgpubsub\.wait cannot run inside a transaction block/],
	'not in a pipeline, whose beginning it would commit');
is($first->value('SELECT count(*) FROM other'),
	0, 'and nothing of that is committed');
$first->run("SELECT * FROM pgpubsub.poll('s')");

# No wake-up is lost: consumers that wait and poll, without a timeout that would
# help them on, get all that is published meanwhile.

my $clients = 4;
my $each    = 500;

append_to_file($node->basedir . '/publish.sql',
	"SELECT pgpubsub.publish('news', 'event');\n");
$watcher->run("SELECT pgpubsub.subscribe('v', '{n*}')");
$watcher->run("SELECT * FROM pgpubsub.poll('u')");
foreach my $subscription (qw(s u v))
{
	in_child(
		$node->basedir . "/consumer_$subscription",
		sub {
			my $client = client($node, 'postgres');
			my $got    = 0;

			while ($got < $clients * $each)
			{
				$client->run("CALL pgpubsub.wait('$subscription', '1h')");
				$got += $client->value(
					"SELECT count(payload) FROM pgpubsub.poll('$subscription', 10)");
			}
			$client->quit;
		});
}
$node->command_ok(
	[
		'pgbench', '-n', '-c', $clients, '-t', $each, '-f',
		$node->basedir . '/publish.sql', 'postgres'
	],
	'events are published');
join_children('consumers that wait and poll get all of them');

# The extension goes

begin_wait($first, $call_s);
$second->run('DROP EXTENSION pgpubsub CASCADE');
fails($first, '55000', 'a wait ends with the extension');

$_->quit foreach $watcher, $first, $second;
server_is_sound($node);
$node->stop;
done_testing();
