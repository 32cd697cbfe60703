# Channels that are added to a subscription when the log of durable channels has
# events already: they begin where they were added, whatever becomes of the
# server before the subscription is read, and whatever another session has read
# meanwhile.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('channels_durable', conf => "pgpubsub.publish_timeout = '30s'\n");
my ($admin, $reader, $changer);

sub connect_clients
{
	($admin, $reader, $changer) = map { client($node) } 1 .. 3;
	return;
}

# The server crashes, with all that was committed on disk, and comes up again.
sub crash
{
	$admin->run('SET synchronous_commit = on; CREATE TABLE IF NOT EXISTS flushed (); DROP TABLE flushed');
	$_->quit foreach $admin, $reader, $changer;
	$node->stop('immediate');
	$node->start;
	wait_for_relay($node, 'postgres');
	connect_clients();
	$admin->settle;
	return;
}

# All that the subscription has to read.
sub rest_of
{
	my ($subscription) = @_;

	$admin->settle;
	return join ' ', map { $_->[0] }
	  $reader->run("SELECT coalesce(channel || payload, 'gap:' || lost) FROM pgpubsub.poll('$subscription', 1000)");
}

sub publish_all
{
	my ($payload, @channels) = @_;

	$admin->publish($_, $payload) foreach @channels;
	$admin->settle;
	return;
}

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	SELECT pgpubsub.set_durable(c) FROM unnest('{a,b,c}'::text[]) AS c;
	SELECT pgpubsub.subscribe('keep', '{a,b,c}', 'block');
	SELECT pgpubsub.subscribe('s', '{a}', 'drop'), pgpubsub.subscribe('listed', '{a,b}', 'drop');
});
connect_clients();

publish_all(1, qw(a b));
$changer->run(q{SELECT pgpubsub.add_channels('s', '{b}')});
publish_all(2, qw(b a));
crash();
is(rest_of('s'), 'a1 b2 a2', 'a channel that was added begins there, after a crash');
publish_all(3, qw(a b));
is(rest_of('s'), 'a3 b3', 'and goes on');
crash();
is(rest_of('s'), '', 'what was read does not come again after another');

# A position is written while a channel is added: by who does not read that yet

rest_of('listed');
$changer->run(q{SELECT pgpubsub.drop_channels('s', '{b}')});
publish_all(4, qw(b));
$changer->run(q{BEGIN; SELECT pgpubsub.add_channels('s', '{b}')});
publish_all(5, qw(b a));
is(rest_of('s'), 'a5', 'while it is not committed, another session reads on');
$changer->run('COMMIT');
crash();
is(rest_of('s'), 'b5', 'what came meanwhile is read after the commit, and a crash');
$changer->run(q{SELECT pgpubsub.drop_channels('s', '{b}')});
$changer->run(q{BEGIN; SELECT pgpubsub.add_channels('s', '{b}')});
publish_all(6, qw(b a));
is(rest_of('s'), 'a6', 'likewise');
$changer->run('ROLLBACK');
$changer->run(q{SELECT pgpubsub.add_channels('s', '{b}')});
publish_all(7, qw(b a));
crash();
is(rest_of('s'), 'b7 a7', 'what was added and rolled back does not count');

# Read in the transaction that adds

publish_all(8, qw(c));
$changer->run(q{BEGIN; SELECT pgpubsub.add_channels('s', '{c}')});
publish_all(9, qw(c a c));
is(join(' ', map { "$_->[0]$_->[1]" } $changer->run("SELECT channel, payload FROM pgpubsub.poll('s', 2)")), 'c9 a9', 'the transaction that adds reads');
$changer->run('COMMIT');
crash();
is(rest_of('s'), 'c9', 'and the rest comes after a crash');

# Back to before it was added

publish_all(10, qw(c));
$changer->run(q{SELECT pgpubsub.seek('s', 'oldest')});
crash();
like(rest_of('s'), qr/^a1 b1 .*c8 .*c10$/, 'seek() to before the addition counts after a crash');

# A channel of those that subscribe() was given, dropped and added again

$changer->run(q{SELECT pgpubsub.seek('listed', 'now')});
$changer->run(q{SELECT pgpubsub.drop_channels('listed', '{b}')});
publish_all(11, qw(b a));
$changer->run(q{SELECT pgpubsub.add_channels('listed', '{b}')});
publish_all(12, qw(b));
crash();
is(rest_of('listed'), 'a11 b12', 'a channel that was dropped and added again begins there');
$changer->run(q{SELECT pgpubsub.drop_channels('listed', '{a}')});
publish_all(13, qw(b a));
crash();
is(rest_of('listed'), 'b13', 'one that was dropped does not come back with a crash');

# Of a pattern

$changer->run(q{SELECT pgpubsub.set_durable('p*'), pgpubsub.subscribe('hold', '{p*}', 'block')});
publish_all(14, qw(p1));
$changer->run(q{SELECT pgpubsub.add_channels('listed', '{p*}')});
publish_all(15, qw(p1 p2));
is(rest_of('listed'), 'p115 p215', 'a pattern begins where it is added');
publish_all(16, qw(p2 p1));
crash();
is(rest_of('listed'), 'p216 p116', 'and goes on after a crash');

server_is_sound($node);
done_testing();
