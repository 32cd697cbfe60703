# add_channels() and drop_channels() beside other sessions: those that wait for
# the subscription go on waiting, and get the new channels' events once they are
# committed; two that change one subscription take turns.  And what becomes of
# the channels when the server stops or crashes, and in a dump.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('channels_added', start => 0, init => { allows_streaming => 1 },
	conf => "pgpubsub.max_poll_wait = '1h'\npgpubsub.publish_timeout = '30s'\nwal_level = logical\n");
my $points = open_points($node);

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	SELECT pgpubsub.subscribe('s', '{a}', 'drop');
});

my ($admin, $reader, $changer, $second);

sub connect_clients
{
	($admin, $reader, $changer, $second) = map { client($node) } 1 .. 4;
	return;
}
connect_clients();

sub channels
{
	my ($subscription) = @_;

	return $admin->value("SELECT array_to_string(channels, ' ') FROM pgpubsub.stat_subscriptions WHERE subscription = '$subscription'");
}

# SQLSTATE of a query that fails.
sub error_of
{
	my ($client, $sql) = @_;

	$client->query($sql);
	return $client->sqlstate;
}

sub begin_waiting
{
	my ($client, $sql) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$client->begin($sql);
	waits_in_extension($admin, $client) or fail("$sql does not wait");
	return;
}

# The session waits for a lock that another has.
sub waits_for_lock
{
	my ($client) = @_;

	return wait_until(
		sub { $admin->value("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $client->{pid}") eq 't' },
		'a wait for a lock');
}

my $polls = "SELECT channel || ':' || payload FROM pgpubsub.poll('s', 100, '1h')";

sub rows_of
{
	my ($client) = @_;

	$client->finish;
	return $client->sqlstate || join(' ', map { $_->[0] // 'gap' } @{ $client->{rows} });
}

# While a session waits

begin_waiting($reader, $polls);
$changer->run(q{SELECT pgpubsub.add_channels('s', '{b}')});
ok(!$reader->done, 'poll() goes on waiting');
is($admin->subscription('s', "state || ' ' || pid"), "waiting $reader->{pid}", 'and has the subscription still');
is($changer->value(q{SELECT pgpubsub.drop_channels('s', '{a}')}), 1, 'drop_channels() beside it');
ok(!$reader->done, 'poll() goes on waiting');
$admin->publish('a', 'dropped');
$admin->settle;
ok(!$reader->done, 'no event of a channel that is dropped');
$admin->publish('b', 1);
is(rows_of($reader), 'b:1', 'an event of the channel that was added');

begin_waiting($reader, q{CALL pgpubsub.wait('s', '1h')});
$changer->run(q{SELECT pgpubsub.add_channels('s', '{c}')});
ok(!$reader->done, 'CALL wait goes on');
$admin->publish('c', 1);
$reader->finish;
is($reader->sqlstate, '', 'until there is an event of the channel');
is($reader->value("SELECT payload FROM pgpubsub.poll('s')"), '1', 'which is read then');

# Not before commit

begin_waiting($reader, $polls);
$changer->run(q{BEGIN; SELECT pgpubsub.add_channels('s', '{d,e*}'); SAVEPOINT p; SELECT pgpubsub.add_channels('s', '{f}')});
$admin->publish($_, 'early') foreach qw(d e1 f);
$admin->settle;
ok(!$reader->done, 'what is not committed is not read by others');
is(channels('s'), 'b c', 'nor seen');
is(join(' ', sort map { $_->[0] } $second->run("SELECT channel FROM pgpubsub.stat_channels WHERE subscriptions > 0 AND channel IN ('d', 'f')")),
	'd f', 'though the relay listens');
$changer->run('ROLLBACK TO p; COMMIT');
is(rows_of($reader), 'd:early e1:early', 'with the commit it is');
is(channels('s'), 'b c d e*', 'and seen; what was rolled back to a savepoint is not there');
begin_waiting($reader, $polls);
$changer->run(q{BEGIN; SELECT pgpubsub.add_channels('s', '{g,h*}')});
$admin->publish($_, 'gone') foreach qw(g h1);
$changer->run('ROLLBACK');
$admin->publish($_, 'gone') foreach qw(g h1);
$admin->settle;
ok(!$reader->done, 'after a rollback nothing of it');
is(channels('s'), 'b c d e*', 'as before');
is($admin->value("SELECT count(*) FROM pgpubsub.subscription_channel WHERE channel IN ('f', 'g', 'h*')"), 0, 'in the table, too');

# A session that ends in the midst of it
$changer->run(q{BEGIN; SELECT pgpubsub.add_channels('s', '{i}')});
$admin->run("SELECT pg_terminate_backend($changer->{pid}, 30000)");
is(channels('s'), 'b c d e*', 'a session that ends leaves nothing');
$changer = client($node);
$admin->publish('b', 2);
is(rows_of($reader), 'b:2', 'and poll() has gone on');

# One that reads in a transaction: additions do not wait for it

$admin->publish('b', 3);
$reader->run("BEGIN; $polls");
$changer->run(q{SELECT pgpubsub.add_channels('s', '{j}')});
pass('add_channels() while a transaction reads');
$changer->begin(q{SELECT pgpubsub.drop_channels('s', '{j,d}')});
waits_in_extension($admin, $changer) or fail('drop_channels() does not wait');
$reader->run('COMMIT');
$changer->finish;
is($changer->{rows}[0][0], 2, 'drop_channels() waits for its end');
is(channels('s'), 'b c e*', 'both are done');
$reader->run("BEGIN; SELECT * FROM pgpubsub.poll('s', consume => false)");
$changer->run("SET pgpubsub.publish_timeout = '10ms'");
is(error_of($changer, q{SELECT pgpubsub.drop_channels('s', '{b}')}), '55006', 'not for ever');
$changer->run('RESET pgpubsub.publish_timeout');
$reader->run(q{SELECT pgpubsub.add_channels('s', '{k}'), pgpubsub.drop_channels('s', '{e*}')});
$reader->run('COMMIT');
is(channels('s'), 'b c k', 'who reads it may change it');

# Two at once

$changer->run(q{BEGIN; SELECT pgpubsub.add_channels('s', '{l}')});
$second->begin(q{SELECT pgpubsub.add_channels('s', '{l,m}')});
waits_for_lock($second);
$changer->run('COMMIT');
$second->finish;
is($second->sqlstate, '', 'two sessions add one after the other');
is(channels('s'), 'b c k l m', 'and all channels are there, each once');
$changer->run(q{BEGIN; SELECT pgpubsub.add_channels('s', '{n}')});
$second->begin(q{SELECT pgpubsub.add_channels('s', '{n}')});
waits_for_lock($second);
$changer->run('ROLLBACK');
$second->finish;
is(channels('s'), 'b c k l m n', 'where the first rolls back, the second has added it');
$changer->run(q{BEGIN; SELECT pgpubsub.add_channels('s', '{o}')});
$second->begin(q{SELECT pgpubsub.unsubscribe('s')});
waits_for_lock($second);
$reader->run(q{SELECT pgpubsub.subscribe('other', '{x}', 'drop'), pgpubsub.add_channels('other', '{y}')});
pass('another subscription is not concerned');
$changer->run('COMMIT');
$second->finish;
is($second->{rows}[0][0], 't', 'unsubscribe() waits for an addition');
is(error_of($changer, q{SELECT pgpubsub.add_channels('s', '{p}')}), '42704', 'and then there is nothing to add to');
is($admin->value("SELECT count(*) FROM pgpubsub.subscription_channel AS c WHERE NOT EXISTS (SELECT FROM pgpubsub.subscription AS s WHERE s.id = c.subscription)"),
	0, 'nothing is left of it');

# An older snapshot
$changer->run('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
$admin->run(q{SELECT pgpubsub.subscribe('s', '{a,b}', 'drop'), pgpubsub.drop_channels('s', '{b}')});
is(error_of($changer, q{SELECT pgpubsub.add_channels('s', '{b}')}), '40001', 'a subscription that the snapshot does not show');
$changer->run('ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
$admin->run(q{SELECT pgpubsub.add_channels('s', '{b}'), pgpubsub.drop_channels('s', '{b}'), pgpubsub.drop_channels('s', '{a}')});
is(error_of($changer, q{SELECT pgpubsub.add_channels('s', '{a}')}), '40001', 'nor a row of its channel');
$changer->run('ROLLBACK');

# A temporary one of another session
$second->run(q{SELECT pgpubsub.subscribe('t', '{a}', 'drop', temporary => true)});
$changer->run(q{BEGIN; SELECT pgpubsub.add_channels('t', '{q}')});
$second->quit;
ok(wait_until(sub { $admin->value("SELECT count(*) FROM pgpubsub.stat_subscriptions WHERE subscription = 't'") == 0 }, 'the end of a session'),
	'a temporary subscription ends while it is changed');
$changer->run('COMMIT');
$second = client($node);

# The relay reads the table while a change is open
$changer->run(q{BEGIN; SELECT pgpubsub.add_channels('other', '{z}')});
$admin->run("UPDATE pgpubsub.subscription SET channels = '{x,w}' WHERE name = 'other'");
$admin->settle;
$changer->run('COMMIT');
ok(wait_until(sub { join(' ', sort split / /, channels('other')) eq 'w x y z' }, 'the table read again'),
	'a change by hand meanwhile is not lost, nor is the addition');

# Restart and crash

$admin->run(q{SELECT pgpubsub.drop_channels('other', '{x}'), pgpubsub.add_channels('other', '{v*}')});
my $before = join ' ', sort split / /, channels('other');
$_->quit foreach $admin, $reader, $changer, $second;
$node->restart;
wait_for_relay($node, 'postgres');
connect_clients();
$admin->settle;
is(join(' ', sort split / /, channels('other')), $before, 'a restart keeps the channels');
is(channels('s'), '', 'and a subscription without any');
$changer->run(q{SELECT pgpubsub.drop_channels('other', '{y}'), pgpubsub.add_channels('other', '{x}'), pgpubsub.add_channels('s', '{a}')});
$before = join ' ', sort split / /, channels('other');
$_->quit foreach $admin, $reader, $changer, $second;
$node->stop('immediate');
$node->start;
wait_for_relay($node, 'postgres');
connect_clients();
$admin->settle;
is(join(' ', sort split / /, channels('other')), $before, 'so does a crash');
is(channels('s'), 'a', 'where there was none before, too');

# A dump

my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
$node->run_log([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ]);
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE template0');
$node->safe_psql('copy', "\\i $dump");
my $copy = client($node, 'copy');
$copy->settle;
is( join(' ', sort split / /, $copy->value("SELECT array_to_string(channels, ' ') FROM pgpubsub.stat_subscriptions WHERE subscription = 'other' AND datname = 'copy'")),
	$before, 'pg_dump carries the channels on');
is($copy->value('SELECT count(since) FROM pgpubsub.subscription_channel'), 0, 'but not where they began');
$copy->publish('x', 'copied');
is(($copy->take('other', 2))[-1][1], 'copied', 'and they are read');

# Where the relay does not answer
if ($points)
{
	$copy->quit;
	$admin->run("SET pgpubsub.publish_timeout = '300ms'");
	my $relay = relay_pid($node, 'postgres');
	stop_process($second, $relay);
	is(error_of($admin, q{SELECT pgpubsub.add_channels('s', '{b}')}), '55000', 'a relay that does not answer');
	kill 'CONT', $relay;
	is(channels('s'), 'a', 'leaves the subscription as it is');
}

server_is_sound($node);
done_testing();
