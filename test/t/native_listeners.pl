# Async events are sent to native listeners wherever there is one, however it
# came to listen, and whenever: what is committed after its LISTEN it gets.
# Where nobody listens the relay sends nothing.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('native_listeners', conf => q{
pgpubsub.publish_mode = async
autovacuum = off
});
$node->safe_psql('postgres', 'CREATE DATABASE other');

# one that listens before the extension is there
my $first = client($node);
$first->run('LISTEN c');
$node->safe_psql($_, 'CREATE EXTENSION pgpubsub') foreach qw(postgres other);
my $writer = client($node);
$writer->run(q{SELECT pgpubsub.subscribe('s', '{c}')});
my $count = 0;

# Publish, and have it delivered to the subscription.
sub publish_and_poll
{
	$writer->run("SELECT pgpubsub.publish('c', '" . ++$count . "')");
	my @rows = $writer->run(q{SELECT payload FROM pgpubsub.poll('s', 100, '20s')});
	is("@{$rows[-1]}", $count, "the subscription gets $count");
}

# How many transaction ids are used by that many events, which use none.
sub ids_of_events
{
	my $before = $writer->value('SELECT pg_current_xact_id()');

	publish_and_poll() foreach 1 .. 5;
	$writer->wait_for_queue("staging_used_bytes = 0");
	return $writer->value('SELECT pg_current_xact_id()') - $before - 1;
}

publish_and_poll();
is(join(' ', map { $_->[2] } $first->wait_for_notifications(1)),
	$count, 'a session that listened before the extension came');
cmp_ok(ids_of_events(), '>', 0, 'the relay sends what somebody may hear');
$first->wait_for_notifications(5);
$first->quit;
wait_until(
	sub { $writer->value("SELECT count(*) FROM pg_stat_activity WHERE pid = $first->{pid}") == 0 },
	'the end of that session');

# in another database
my $elsewhere = client($node, 'other');
$elsewhere->run('LISTEN c');
is(ids_of_events(), 0, 'nothing is sent where nobody listens');

my $second = client($node);
$second->run(q{DO $$ BEGIN EXECUTE 'LISTEN c'; END $$});
publish_and_poll();
is(join(' ', map { $_->[2] } $second->wait_for_notifications(1)),
	$count, 'one that listens from within a block');
$second->run('BEGIN');
$second->run('UNLISTEN *');
$second->run('ROLLBACK');
publish_and_poll();
is(join(' ', map { $_->[2] } $second->wait_for_notifications(1)),
	$count, 'and goes on after a rollback');
$second->quit;

# What is committed after a LISTEN is heard.
my $missed = 0;
foreach my $round (1 .. 50)
{
	my $listener = client($node);

	$listener->run('LISTEN c');
	$writer->run("SELECT pgpubsub.publish('c', 'round $round')");
	my @heard = map { $_->[2] } $listener->wait_for_notifications(1);
	$missed++ unless "@heard" eq "round $round";
	$listener->quit;
}
is($missed, 0, 'a new session hears what is published after its LISTEN, each time');

$node->stop('fast');
server_is_sound($node);
done_testing();
