# Durable channels of a database that has no place in shared memory, since others
# have all of them, or the library is not preloaded: events are in the log all the
# same, native listeners get them by NOTIFY, and subscriptions do when there is a
# relay, once.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('durable_without_slot', start => 0, conf => q{
pgpubsub.max_databases = 1
pgpubsub.publish_timeout = 30s
log_statement = none
});
my $points = open_points($node, needed => 1);
my $admin  = client($node);
my ($listener, $writer);

# What comes after that is expected at once, and then comes nothing.
sub reads
{
	my ($subscription, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $count = () = $expected =~ /\S+/g;
	my @rows  = $admin->take($subscription, $count);

	$admin->settle;
	push @rows,
	  $admin->run("SELECT coalesce(channel, 'gap'), coalesce(payload, lost::text) FROM pgpubsub.poll('$subscription', 1000)");
	return is(join(' ', map { $_->[0] eq 'gap' ? "gap:$_->[1]" : $_->[1] } @rows), $expected, $name);
}

# What a native listener has heard, so many; and then nothing.
sub has_heard
{
	my ($expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @expected = split ' ', $expected;
	my @heard    = $listener->wait_for_notifications(scalar @expected);

	$listener->run('SELECT 1');
	return is(join(' ', map { $_->[2] } @heard, $listener->notifications), $expected, $name);
}

sub listen_anew
{
	$listener = client($node);
	$listener->run('LISTEN c');
	return;
}

$admin->run('CREATE EXTENSION pgpubsub');
$admin->run("SELECT pgpubsub.set_durable('c'), pgpubsub.subscribe('s', '{c}', 'block'), pgpubsub.subscribe('all', '{c}')");
$admin->publish('c', 'first');
reads('s', 'first', 'all is well at first');
$admin->quit;
$node->safe_psql('template1', 'CREATE DATABASE other');

# ----------------------------------------------------------------------------
# The library is not preloaded
# ----------------------------------------------------------------------------

sub preload
{
	my ($library) = @_;

	$node->stop('fast');
	$node->append_conf('postgresql.conf', "shared_preload_libraries = '$library'");
	$node->start;
	$admin = client($node);
	listen_anew();
	return;
}
preload('');
$admin->publish('c', $_) foreach qw(bare_1 bare_2);
$admin->run("BEGIN; SELECT pgpubsub.publish('c', 'never'); ROLLBACK");
has_heard('bare_1 bare_2', 'not preloaded: a native listener hears by NOTIFY');
$_->quit foreach $admin, $listener;
preload('pgpubsub');
wait_for_relay($node, 'postgres');
reads('s', 'bare_1 bare_2', 'preloaded: a subscription gets all, once');
$admin->publish('c', 'preloaded');
has_heard('preloaded', 'and a native listener hears nothing again');
reads('s', 'preloaded', 'all is well then');

# ----------------------------------------------------------------------------
# Another database has the slot
# ----------------------------------------------------------------------------

# This one leaves it to the other one.
sub leave_slot
{
	$_->quit foreach $admin, $listener;
	$node->stop('fast');
	$node->append_conf('postgresql.conf', "pgpubsub.databases = 'other'");
	$node->start;
	$node->safe_psql('other', 'CREATE EXTENSION IF NOT EXISTS pgpubsub');
	wait_for_relay($node, 'other');
	$admin = client($node);
	listen_anew();
	return;
}

# The other one goes, and this one may have it.
sub take_slot
{
	my $offset = log_offset($node);

	$node->append_conf('postgresql.conf', "pgpubsub.databases = '*'");
	$node->reload;
	$node->safe_psql('other', 'DROP EXTENSION pgpubsub');
	return $offset;
}
foreach my $round (1, 2)
{
	leave_slot();
	is($node->safe_psql('other', 'SELECT datname FROM pgpubsub.stat_queue'), 'other', 'another database has the slot');
	$admin->publish('c', $_) foreach "slotless_$round", "slotless_again_$round";
	has_heard("slotless_$round slotless_again_$round", 'no slot: a native listener hears by NOTIFY');
	$admin->query("SELECT FROM pgpubsub.poll('s')");
	is($admin->sqlstate, '55000', 'a subscription cannot be read');

	# one has written, and not committed, when the slot is there
	my $pid = comes_to($node, $points, 'durable_rows_written',
		sub { $writer = client($node)->begin("SELECT pgpubsub.publish('c', 'between_$round')") });

	freeze_process($pid);
	open_point($points, 'durable_rows_written');
	my $offset = take_slot();

	ok($node->wait_for_log(qr/pgpubsub relay ERROR:  canceling statement due to lock timeout/, $offset), 'a relay that comes waits for it');
	kill 'CONT', $pid;
	is($writer->finish->sqlstate, '', 'it commits');
	wait_for_relay($node, 'postgres');
	$writer->publish('c', "placed_$round");
	has_heard("between_$round placed_$round", 'a native listener hears each once');
	reads('s', "slotless_$round slotless_again_$round between_$round placed_$round", 'a slot: a subscription gets all, once, in order');
	$writer->quit;
}

# The server is killed after one has committed without a slot, and while another has
# its rows in the log; and the relay ends, or the server is killed again, where it
# looks for what has no note.
foreach my $who (qw(relay server))
{
	leave_slot();
	$admin->publish('c', "slotless_$who");
	comes_to($node, $points, 'durable_rows_written', sub { $writer = client($node)->begin("SELECT pgpubsub.publish('c', 'never')") });
	kill_server($node);
	open_point($points, 'durable_rows_written');
	$node->append_conf('postgresql.conf', "pgpubsub.databases = 'postgres'");
	my $pid = comes_to($node, $points, 'durable_recovers', sub { $node->start });

	if ($who eq 'relay')
	{
		kill 'TERM', $pid or die "relay $pid: $!";
		open_point($points, 'durable_recovers');
		wait_for_relay($node, 'postgres', not => $pid);
	}
	else
	{
		kill_server($node);
		open_point($points, 'durable_recovers');
		$node->start;
	}
	$admin = client($node);
	listen_anew();
	reads('s', "slotless_$who", "killed without a slot, and then the $who ends: a subscription gets what was committed, once");
	$admin->publish('c', "slot_$who");
	has_heard("slot_$who", 'a native listener hears what comes next');
	reads('s', "slot_$who", 'so does the subscription');
}
is($admin->value("SELECT count(*) - count(DISTINCT payload) || ' of ' || count(*) FROM pgpubsub.poll('all', 1000)"), '0 of 16', 'so does one that is read at last');

$_->quit foreach $admin, $listener;
$node->stop('fast');
server_is_sound($node);
done_testing();
