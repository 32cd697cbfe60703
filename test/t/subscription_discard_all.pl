# DISCARD ALL ends the temporary subscriptions of its session, as it ends
# temporary tables and LISTEN: poolers send it before another client gets the
# session.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

# subscriptions that do not give their place back would soon be too many
my $node = new_server('discard', conf => 'pgpubsub.max_subscriptions = 4');

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE ROLE app LOGIN;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgpubsub TO app;
	SELECT pgpubsub.subscribe('lasting', '{news}', 'drop')});

my $admin = client($node);
my $session = client($node, 'postgres', user => 'app');

sub standing
{
	return join ' ', map { $_->[0] } $admin->run('SELECT subscription FROM pgpubsub.stat_subscriptions ORDER BY 1');
}

sub make_temporary
{
	my ($client, $name) = @_;

	return $client->value("SELECT pgpubsub.subscribe('$name', '{news}', temporary => true)");
}

# The plain case, over and over
foreach my $round (1 .. 5)
{
	is(make_temporary($session, $_), 't', "round $round: $_") foreach qw(brief another);
	$session->run('DISCARD ALL') foreach 2 .. $round;
	$session->run("SELECT pgpubsub.unsubscribe('brief'), pgpubsub.unsubscribe('another')")
	  if $round == 1;
	is(standing(), 'lasting', 'only what is not temporary is left');
}
$session->query(q{SELECT * FROM pgpubsub.poll('brief')});
is($session->sqlstate, '42704', 'the next client of the session finds none');
is(make_temporary($admin, 'brief'), 't', 'and another session can have the name');
$session->run('DISCARD ALL');
is(standing(), 'brief lasting', 'it ends no other session\'s');
$admin->run('DISCARD ALL');
is(standing(), 'lasting', 'but its own');

# With the extended protocol
my $script = PostgreSQL::Test::Utils::tempdir() . '/extended.sql';
append_to_file($script, q{
SELECT pgpubsub.subscribe('brief', '{news}', temporary => true);
DISCARD ALL;
SELECT 1 / (2 - count(*)) FROM pgpubsub.stat_subscriptions;
});
$node->command_ok([ 'pgbench', '-n', '-M', 'extended', '-t', '3', '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ],
	'pgbench -M extended');
is(standing(), 'lasting', 'it ends them there too');

# What is no DISCARD ALL, or comes to nothing
make_temporary($session, 'brief');
$session->run("DISCARD $_") foreach qw(PLANS SEQUENCES TEMP);
$session->run('BEGIN; DISCARD TEMP; COMMIT');
$session->run('RESET ALL; DEALLOCATE ALL; CLOSE ALL; UNLISTEN *; SELECT pg_advisory_unlock_all()');
is(standing(), 'brief lasting', 'other DISCARDs leave it');
$session->query('BEGIN; DISCARD ALL');
is($session->sqlstate, '25001', 'DISCARD ALL is refused in a block');
$session->run('ROLLBACK');
$session->query(q{SELECT pgpubsub.publish('news', 'x'); DISCARD ALL});
is($session->sqlstate, '25001', 'and in a query of several statements');
$session->query(q{DO $$BEGIN EXECUTE 'DISCARD ALL'; END$$});
is($session->sqlstate, '25001', 'and in a function');
is(standing(), 'brief lasting', 'then it does nothing');
$session->run(q{SELECT pgpubsub.publish('news', 'goes on')});
is(join(' ', map { $_->[0] } $session->run(q{SELECT payload FROM pgpubsub.poll('brief', timeout => '30s')})),
	'goes on', 'and it works on');
$session->run('DISCARD ALL');
is(standing(), 'lasting', 'until one succeeds');

# A subscription that is not committed
$session->run('BEGIN');
make_temporary($session, 'undone');
$session->run('ROLLBACK');
$session->run('DISCARD ALL');
is(standing(), 'lasting', 'one that was rolled back is no matter');

# Another session of its owner reads it
make_temporary($session, 'shared');
$session->run(q{SELECT pgpubsub.publish('news', $$1$$)});
my $reader = client($node, 'postgres', user => 'app');
$reader->run('BEGIN');
is(scalar($reader->run(q{SELECT * FROM pgpubsub.poll('shared', timeout => '30s')})), 1, 'another session reads it');
$session->run('DISCARD ALL');
$session->query(q{SELECT * FROM pgpubsub.poll('shared')});
is($session->sqlstate, '42704', 'DISCARD ALL does not wait for it; the subscription is no more');
$reader->run('COMMIT');
ok(wait_until(sub { standing() eq 'lasting' }, 'its end'), 'it goes when that lets go');

# ... or waits in poll()
make_temporary($session, 'shared');
$reader->begin(q{SELECT * FROM pgpubsub.poll('shared', timeout => '1min')});
ok(waits_in_extension($admin, $reader), 'another session waits for its events');
$session->run('DISCARD ALL');
$reader->finish;
is($reader->sqlstate, '42704', 'a poll() that waits ends');
ok(wait_until(sub { standing() eq 'lasting' }, 'its end'), 'and the subscription with it');

# ... or drops it
make_temporary($session, 'shared');
$reader->run(q{BEGIN; SELECT pgpubsub.unsubscribe('shared')});
$session->run('DISCARD ALL');
$reader->run('ROLLBACK');
ok(wait_until(sub { standing() eq 'lasting' }, 'its end'), 'an unsubscribe() that is rolled back does not bring it back');

# All that there is room for, at once
is(make_temporary($admin, "again $_"), 't', "place $_ is free again") foreach 1 .. 3;
$admin->run('DISCARD ALL');
is(standing(), 'lasting', 'all end at once');

# The session's end has nothing left to do
make_temporary($session, 'last');
$session->run('DISCARD ALL');
make_temporary($session, 'last');
$session->quit;
ok(wait_until(sub { standing() eq 'lasting' }, 'its end'), 'one made after a DISCARD ALL ends with the session');

$_->quit foreach ($admin, $reader);
$node->stop;
log_is_clean($node,
	qr/ERROR:  (?:subscription "\w+" does not exist|DISCARD ALL cannot)/);
done_testing();
