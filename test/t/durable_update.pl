# The extension is updated from a version that has no log, under subscriptions that
# are read on, and a channel is made durable at once: its events are in the log from
# then on, and what was consumed of them does not come again after a crash.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('durable_update', start => 0, conf => q{
autovacuum = off
log_statement = none
});
my $points = open_points($node, needed => 1);
my ($admin, $writer);

sub connect_all
{
	($admin, $writer) = map { client($node) } 1 .. 2;
	return;
}

# The server is killed, and comes up again.
sub crash
{
	kill_server($node);
	$node->start;
	connect_all();
	return;
}

# What comes after that is expected at once, in whatever order, and then comes
# nothing.
sub reads
{
	my ($subscription, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $count = () = $expected =~ /\S+/g;
	my @rows  = $admin->take($subscription, $count);

	$admin->settle;
	push @rows,
	  $admin->run("SELECT coalesce(channel, 'gap'), coalesce(payload, lost::text) FROM pgpubsub.poll('$subscription', 1000)");
	return is(join(' ', reverse sort map { $_->[0] eq 'gap' ? "gap:$_->[1]" : $_->[1] } @rows), $expected, $name);
}

foreach my $how ('at once', 'one after the other')
{
	$node->safe_psql('postgres', "CREATE EXTENSION pgpubsub VERSION '1.0'");
	connect_all();
	$admin->run("SELECT pgpubsub.subscribe('s', '{c}'), pgpubsub.subscribe('away', '{c}')");

	# the relay has not heard of the update when there is something in the log
	comes_to($node, $points, 'relay_takes', sub { $admin->publish('c', 'older') });
	$admin->run('BEGIN') if $how eq 'at once';
	$admin->run('ALTER EXTENSION pgpubsub UPDATE');
	$admin->run("SELECT pgpubsub.set_durable('c')");
	$admin->run('COMMIT') if $how eq 'at once';
	$writer->publish('c', 'first');
	open_point($points, 'relay_takes');
	reads('s', 'older first', "$how: all comes");
	is($admin->value("SELECT appended FROM pgpubsub.stat_log WHERE datname = 'postgres'"), 1, "$how: what was published since is in the log");
	$writer->publish('c', 'second');
	$admin->settle;
	crash();
	reads('s', 'second', "$how: what was consumed does not come again after a crash");

	# what was only in memory is gone, and nobody knows that there was something
	reads('away', 'second first', "$how: who has consumed nothing has all that is in the log");
	crash();
	reads($_, '', "$how: $_ has its position then") foreach qw(s away);
	$_->quit foreach $admin, $writer;
	$node->safe_psql('postgres', 'DROP EXTENSION pgpubsub');
	wait_for_relay($node, 'postgres', count => 0);
}

$node->stop('fast');
server_is_sound($node);
done_testing();
