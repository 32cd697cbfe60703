# What was lost and not yet told to a reader stays counted when the subscription
# no longer reads the channel; after stat_reset() no count is below zero.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('reset_lost', conf => "pgpubsub.queue_size = 64kB\n");
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
wait_for_relay($node, 'postgres');
my $client = client($node);

# lost of subscription a_and_b and of channel a
sub lost
{
	return $client->value(
		"SELECT concat_ws(' ', s.lost, c.lost) FROM pgpubsub.stat_subscriptions AS s, pgpubsub.stat_channels AS c WHERE s.subscription = 'a_and_b' AND c.channel = 'a'"
	);
}

# Have events of channel a overwritten; returns as lost().
sub lose
{
	$client->publish_series('a', 1, 200);
	$client->settle;
	return lost();
}

foreach my $reset (0, 1)
{
	my $what = $reset ? 'after stat_reset()' : 'without stat_reset()';

	$client->run("SELECT pgpubsub.stat_reset()");
	$client->run("SELECT pgpubsub.subscribe('a_and_b', '{a,b}', 'drop'), pgpubsub.subscribe('a', '{a}', 'drop')");
	my $before = lose();
	like($before, qr/^[1-9]\d* [1-9]\d*$/, 'events are lost');
	if ($reset)
	{
		$client->run("SELECT pgpubsub.stat_reset()");
		$before = '0 0';
		is(lost(), $before, $what);
	}
	$client->run("SELECT pgpubsub.unsubscribe('a')");
	is(lost(), $before, "$what: the same when one of the subscriptions is dropped");
	$client->run("SELECT pgpubsub.subscribe('a_and_b', '{b}', 'drop')");
	is(lost(), $before, "$what: and when the other one reads other channels");
	$client->run("SELECT pgpubsub.unsubscribe('a_and_b')");
}

$client->quit;
$node->stop;
server_is_sound($node);
done_testing();
