# A channel that open transactions have published on stays known, however
# often and in whichever way they did; when they have ended, its place can be
# taken by another one.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('publishers', conf => 'pgpubsub.max_channels = 8');

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE TABLE items (id int);
	SELECT pgpubsub.attach('items', 'old');
});
wait_for_relay($node, 'postgres');
my $writer = client($node);
my $other  = client($node);

# Which channels are known after others have asked for all places.
sub known_after_others
{
	my ($prefix) = @_;

	$other->run("SELECT pgpubsub.publish('$prefix' || i, '') FROM generate_series(1, 9) AS i");
	return join ' ', map { $_->[0] }
	  $other->run("SELECT channel FROM pgpubsub.stat_channels WHERE channel !~ '^$prefix' ORDER BY 1");
}

# The same once the relay has let go of what it listens to no more.
sub gone_after_others
{
	my ($prefix) = @_;
	my $known;

	wait_until(sub { ($known = known_after_others($prefix)) eq '' },
		'a relay that has let go');
	return $known;
}

# Publish on the channel, and on another one between, in each way.
my $publish = q{
	INSERT INTO items VALUES (1);
	SELECT pgpubsub.publish('old', 'a'), pgpubsub.publish('new', 'b'), pgpubsub.publish('old', 'c');
	SAVEPOINT s;
	INSERT INTO items VALUES (2);
	SELECT pgpubsub.publish('old', 'd');
	ROLLBACK TO s;
	INSERT INTO items VALUES (3);
	SELECT pgpubsub.publish('new', 'e'), pgpubsub.publish('old', 'f');
};
my $number = 0;

foreach my $mode ('transactional', 'async')
{
	foreach my $end ('COMMIT', 'ROLLBACK')
	{
		my $name = "$mode, $end";

		$writer->run("SET pgpubsub.publish_mode = '$mode'");
		$writer->run('BEGIN');
		$writer->run($publish);
		is(known_after_others('x' . ++$number), 'new old', "$name: what is published on stays");
		$writer->run($publish);
		$writer->run($end);

		# nothing of async events is on its way
		$other->run("SELECT pgpubsub.subscribe('s', '{t}'), pgpubsub.unsubscribe('s')");
		is(gone_after_others('y' . $number), '', "$name: and goes when the transaction has ended");
	}
}

# a second transaction counts for itself
$writer->run("SET pgpubsub.publish_mode = 'transactional'");
my $second = client($node);
foreach ($writer, $second)
{
	$_->run('BEGIN');
	$_->run($publish);
}
$writer->run('COMMIT');
is(known_after_others('z'), 'new old', 'while another one has published on it, it stays');
$other->run("SELECT pgpubsub.subscribe('s', '{ol*}')");
$second->run('COMMIT');
ok( $node->poll_query_until(
		'postgres', "SELECT pending = 5 FROM pgpubsub.stat_subscriptions WHERE subscription = 's'"),
	'and a pattern that is subscribed meanwhile gets its events');

$node->stop;
server_is_sound($node);
log_is_clean($node);
done_testing();
