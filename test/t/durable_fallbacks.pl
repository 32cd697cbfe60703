# Where async events become NOTIFYs, or writers fail, events of durable channels
# are in the log: a subscription gets each once, in order, without a gap row, when
# all is well again, and a native listener has heard each once.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('durable_fallbacks', conf => q{
pgpubsub.staging_size = 64kB
pgpubsub.queue_size = 64kB
pgpubsub.max_databases = 2
pgpubsub.publish_timeout = 30s
pgpubsub.publish_mode = async
max_prepared_transactions = 0
log_statement = none
});
my ($admin, $writer, $listener);
my $pad = '-' x 1000;

sub connect_all
{
	($admin, $writer, $listener) = map { client($node) } 1 .. 3;
	$listener->run('LISTEN d');
	return;
}

sub restart_with
{
	my (@conf) = @_;

	$_->quit foreach $admin, $writer, $listener;
	$node->append_conf('postgresql.conf', $_) foreach @conf;
	$node->restart;
	connect_all();
	return;
}

# The numbers that rows of [channel, payload, ...] begin with, or what else they are.
sub numbers
{
	return join ' ', map { $_->[0] eq 'gap' ? "gap $_->[1]" : $_->[1] =~ s/-+$//r } @_;
}

# Publish numbers in a transaction each, until it fails; or all of them.
my $count = 0;

sub publish_some
{
	my ($client, $most) = @_;
	my $first = $count + 1;

	for (; $count < $first - 1 + $most; $count++)
	{
		$client->query("SELECT pgpubsub.publish('d', '" . ($count + 1) . "$pad')");
		last if $client->{error};
	}
	return $first .. $count;
}

# The subscription gets these; the listener, too, unless it is new.
sub both_get
{
	my ($name, @expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(numbers($admin->take('s', scalar @expected)), "@expected", "$name: a subscription gets each once");
	is(numbers(map { [ @$_[ 1, 2 ] ] } $listener->wait_for_notifications(scalar @expected)),
		"@expected", "$name: a native listener too");
	$admin->settle;
	$listener->run('SELECT 1');
	is(scalar @{ [ $listener->notifications ] }, 0, "$name: and nothing else");
	is_quiet($node, 'postgres', 's', "$name: nor does the subscription");
	return;
}

$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
connect_all();
$admin->run("SELECT pgpubsub.set_durable('d'), pgpubsub.set_durable('nobody'), pgpubsub.subscribe('s', '{d}', 'block'), pgpubsub.subscribe('away', '{d}', 'evict')");
wait_for_relay($node, 'postgres');

# More than the staging queue has room for

$writer->run("SELECT count(pgpubsub.publish('d', n || '$pad')) FROM generate_series(1, 200) AS n");
$count = 200;
both_get('more than can be staged', 1 .. 200);
publish_some($writer, 5);
both_get('what comes then', 201 .. 205);

# The queue is full

$admin->run("SELECT pgpubsub.subscribe('holds', '{memory}', 'block')");
$writer->run("SET pgpubsub.publish_timeout = '100ms'");
my $held = 0;
while ($held < 2000)
{
	$writer->query("SELECT pgpubsub.publish('memory', '$pad')");
	last if $writer->{error};
	$held++;
}
is($writer->sqlstate, '53400', 'the queue is full');
my @written = publish_some($writer, 300);
is($writer->sqlstate, '', 'the queue is full: events of a durable channel do not wait');
is(scalar @written, 300, 'all are published');
is(numbers($admin->take('s', 300)), "@written", 'the queue is full: a subscription gets each once');
is(numbers(map { [ @$_[ 1, 2 ] ] } $listener->wait_for_notifications(300)), "@written", 'the queue is full: a native listener too');
$admin->run("SELECT pgpubsub.unsubscribe('holds')");
$admin->settle;
$listener->notifications;

# The relay does not go on: the staging queue is full

my $relay = relay_pid($node, 'postgres');
stop_process($admin, $relay);
@written = publish_some($writer, 3000);
is($writer->sqlstate, '53400', 'the relay stands still: a writer fails in the end');
is($writer->{error}{M}, 'queue is full', 'the message');
like($writer->{error}{D}, qr/The relay has not emptied the staging queue/, 'the detail');
cmp_ok(scalar @written, '>', 20, 'some have gone through before');
my $consumer = client($node);
$consumer->run("SET pgpubsub.publish_timeout = '100ms'; BEGIN; SELECT count(*) FROM pgpubsub.poll('away', 1)");
$consumer->run("SELECT pgpubsub.publish('d', 'never')");
$consumer->query('COMMIT');
is($consumer->sqlstate, '53400', 'so does one that has consumed something');
$consumer->quit;
kill 'CONT', $relay;
both_get('the relay goes on', @written);

# No worker for the relay

my $settings = $node->safe_psql('postgres', 'SHOW max_worker_processes');
restart_with('max_worker_processes = 2');
$writer->run("SET pgpubsub.publish_timeout = '100ms'");
@written = publish_some($writer, 3000);
is($writer->sqlstate, '53400', 'no relay can be started: a writer fails in the end');
like($writer->{error}{D}, qr/The relay that empties the staging queue is not running/, 'the detail');
cmp_ok(scalar @written, '>', 20, 'some have gone through before');
restart_with("max_worker_processes = $settings");
wait_for_relay($node, 'postgres');
is(numbers($admin->take('s', scalar @written)), "@written", 'with a relay a subscription gets each once');
is_quiet($node, 'postgres', 's', 'and nothing else');

# pgpubsub is not preloaded

restart_with("shared_preload_libraries = ''");
is($writer->value("SELECT pgpubsub.set_durable('e')"), 't', 'not preloaded: a channel is made durable');
@written = publish_some($writer, 50);
$writer->run("SELECT count(pgpubsub.publish('e', n::text)) FROM generate_series(1, 2000) AS n");
$writer->run("BEGIN; SELECT pgpubsub.publish('d', 'never'); ROLLBACK");
is(numbers(map { [ @$_[ 1, 2 ] ] } $listener->wait_for_notifications(50)), "@written", 'not preloaded: a native listener hears each once');
restart_with("shared_preload_libraries = 'pgpubsub'");
wait_for_relay($node, 'postgres');
is(numbers($admin->take('s', scalar @written)), "@written", 'preloaded again: a subscription gets each once');
$admin->settle;
$listener->run('SELECT 1');
is(scalar @{ [ $listener->notifications ] }, 0, 'preloaded again: native listeners do not hear it again');
is_quiet($node, 'postgres', 's', 'preloaded again: nothing else comes');
$admin->run("SELECT pgpubsub.subscribe('e', '{e}', start_at => 'oldest')");
is(numbers($admin->take('e', 2000)), join(' ', 1 .. 2000), 'a channel made durable then is there from its first event on');

# No place for the database in shared memory

foreach my $db (qw(two three))
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->psql($db, "CREATE EXTENSION pgpubsub; SELECT pgpubsub.set_durable('d')");
}
fails_with($node, 'three', "SELECT pgpubsub.subscribe('s', '{d}')", '55000', qr/max_databases/, 'one database too many');
my $heard = open_session($node, 'three');
$heard->query_safe('LISTEN d');
$node->safe_psql('three', "SELECT pgpubsub.publish('d', '$_')") foreach 1 .. 5;
$node->safe_psql('three', "SELECT count(pgpubsub.publish('d', n::text)) FROM generate_series(6, 2005) AS n");
$node->safe_psql('three', "BEGIN; SELECT pgpubsub.publish('d', 'never'); ROLLBACK");
is(join(' ', notifications($heard)), join(' ', map { "d:$_" } 1 .. 2005), 'no place: a native listener hears each once');
$heard->quit;

# the place of another is free
$node->safe_psql('postgres', 'DROP DATABASE two');
$heard = open_session($node, 'three');
$heard->query_safe('LISTEN d');
$node->safe_psql('three', "SELECT pgpubsub.subscribe('s', '{d}', start_at => 'oldest')");
publish($node, 'three', 'd', 'new');
is(received($node, 'three', 's', 2006, gaps => 1), join(' ', (map { "d:$_" } 1 .. 2005), 'd:new'), 'with a place: a subscription gets each once');
settle($node, 'three');
is(join(' ', notifications($heard)), 'd:new', 'with a place: native listeners do not hear it again');
$heard->quit;

# Who was away reads all.

is(numbers($admin->take('away', $count)), join(' ', 1 .. $count), 'who was away reads all of it, once');

$_->quit foreach $admin, $writer, $listener;
$node->stop('fast');
server_is_sound($node);
done_testing();
