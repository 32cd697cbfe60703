# A session in async mode whose transactions are at times too large to be staged,
# and so go by NOTIFY: what it publishes comes in its order all the same, to
# subscriptions and to native listeners.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('unstaged_order', start => 0, conf => q{
pgpubsub.publish_mode = async
pgpubsub.staging_size = 64kB
pgpubsub.publish_timeout = 10min
log_statement = none
});
my $points = open_points($node);
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
my $reader   = client($node);
my $writer   = client($node);
my $listener = client($node);
$listener->run('LISTEN c');
$reader->run(q{SELECT pgpubsub.subscribe('s', '{c}', 'block')});

# Each round is 40 events of 1 kB in a transaction, more than can be staged,
# and then five small ones of one event each.
$writer->run(q{
	CREATE PROCEDURE publish(rounds int) LANGUAGE plpgsql AS $$
	DECLARE
		n int := 0;
	BEGIN
		FOR round IN 1 .. rounds LOOP
			FOR i IN 1 .. 40 LOOP
				n := n + 1;
				PERFORM pgpubsub.publish('c', rpad(n::text, 1000));
			END LOOP;
			COMMIT;
			FOR i IN 1 .. 5 LOOP
				n := n + 1;
				PERFORM pgpubsub.publish('c', n::text);
				COMMIT;
			END LOOP;
		END LOOP;
	END $$});

# Both are committed after the relay has read what was notified, and before it
# takes what was staged.
SKIP:
{
	skip 'this build has no debug points', 1 unless defined $points;
	my $offset = log_offset($node);

	close_point($points, 'relay_takes');
	$reader->run(q{SELECT pg_notify('c', 'before')});
	$node->wait_for_log(qr/debug point relay_takes: waiting/, $offset);
	$writer->run('CALL publish(1)');
	open_point($points, 'relay_takes');
	my @rows;
	while (@rows < 46)
	{
		my @new = $reader->run(
			q{SELECT trim(payload) FROM pgpubsub.poll('s', 100, '20s')});
		last unless @new;
		push @rows, map { $_->[0] } @new;
	}
	is("@rows", join(' ', 'before', 1 .. 45),
		'what was staged after it does not overtake what was not staged');
	$listener->wait_for_notifications(46);
}

my $rounds = 50;
my $count  = $rounds * 45;
$writer->begin("CALL publish($rounds)");
my @taken;
while (@taken < $count)
{
	my @new = $reader->run(
		"SELECT coalesce(trim(payload), 'gap') FROM pgpubsub.poll('s', 10000, '20s')");
	last unless @new;
	push @taken, map { $_->[0] } @new;
}
$writer->finish;
is($writer->sqlstate, '', 'the writer has done');
is(scalar @taken, $count, 'a subscription has all');
is(scalar(grep { $taken[$_] != $_ + 1 } 0 .. $#taken), 0, 'in order');
my @heard = map { $_->[2] =~ s/ +$//r } $listener->wait_for_notifications($count);
is(scalar(grep { $heard[$_] != $_ + 1 } 0 .. $#heard), 0, 'so has a native listener');

$node->stop('fast');
server_is_sound($node);
done_testing();
