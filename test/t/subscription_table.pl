# The table of subscriptions written behind pgpubsub's back; what patterns know
# after a restart; and sessions that would wait for themselves.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('table', conf => "pgpubsub.queue_size = 256kB\npgpubsub.max_subscriptions = 3\nmax_prepared_transactions = 2");

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	SELECT pgpubsub.subscribe('s', '{a}')});

# Rows that came while the trigger was off, as logical replication writes them,
# are loaded when somebody asks for them.

$node->safe_psql(
	'postgres', q{
	SET session_replication_role = replica;
	INSERT INTO pgpubsub.subscription (name, owner, channels, on_full)
	VALUES ('quiet', 'postgres', '{a}', 'evict')});
is($node->safe_psql('postgres', q{SELECT count(*) FROM pgpubsub.poll('quiet')}),
	'0', 'poll() loads a row that the relay has not heard of');
$node->safe_psql('postgres', q{SELECT pgpubsub.publish('a', 'one')});
is(received($node, 'postgres', 'quiet', 1), 'a:one', '... and the subscription reads');
$node->safe_psql(
	'postgres', q{
	SET session_replication_role = replica;
	INSERT INTO pgpubsub.subscription (name, owner, channels, on_full)
	VALUES ('quieter', 'postgres', '{a}', 'evict')});
is($node->safe_psql('postgres', q{SELECT pgpubsub.subscribe('quieter', '{a,b}')}),
	'f', 'so does subscribe()');
$node->safe_psql(
	'postgres', q{
	SET session_replication_role = replica;
	INSERT INTO pgpubsub.subscription (name, owner, channels, on_full)
	VALUES ('too_many', 'postgres', '{a}', 'evict')});
fails_with($node, 'postgres', $_, '55000', qr/could not be loaded.*max_subscriptions/s, "no room for it: $_")
  foreach q{SELECT * FROM pgpubsub.poll('too_many')}, q{SELECT pgpubsub.subscribe('too_many', '{a}')};
$node->safe_psql('postgres', q{SELECT pgpubsub.unsubscribe('quieter')});
is($node->safe_psql('postgres', q{SELECT lost FROM pgpubsub.poll('too_many')}),
	'-1', 'it is there once there is room, and may have missed something');
is($node->safe_psql('postgres', q{SELECT pgpubsub.unsubscribe('too_many'), pgpubsub.unsubscribe('quiet')}),
	't|t', 'and can be dropped');

# A row that is deleted by hand: subscribe() does not believe that it stays.

foreach my $channels ('{a}', '{a,b}')
{
	fails_with(
		$node,
		'postgres',
		qq{BEGIN; DELETE FROM pgpubsub.subscription WHERE name = 's'; SELECT pgpubsub.subscribe('s', '$channels'); COMMIT;},
		'55000',
		qr/going away/,
		"after a DELETE, $channels");
	fails_with(
		$node,
		'postgres',
		qq{BEGIN; DROP EXTENSION pgpubsub; CREATE EXTENSION pgpubsub; SELECT pgpubsub.subscribe('s', '$channels'); COMMIT;},
		'55000',
		qr/going away/,
		"in a new extension, $channels");
}
is($node->safe_psql('postgres', q{SELECT pgpubsub.subscribe('s', '{a}')}), 'f', 'all that was undone');

# Patterns know the channels of triggers, also after a restart.

$node->safe_psql(
	'postgres', q{
	CREATE TABLE t (id int);
	SELECT pgpubsub.attach('t', 'attached'), pgpubsub.subscribe('all', '{*}');
	CREATE TRIGGER by_hand AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION pgpubsub.notify_change('channel=by_hand');
	CREATE TRIGGER named AFTER DELETE ON t FOR EACH ROW EXECUTE FUNCTION pgpubsub.notify_change()});
$node->restart;
wait_for_relay($node, 'postgres');
$node->safe_psql('postgres', q{SELECT pgpubsub.subscribe('more', '{att*,by_*,t}')});
$node->safe_psql('postgres', qq{NOTIFY $_, 'bare'}) foreach qw(attached by_hand t);
is(received($node, 'postgres', 'all', 3), 'gap:-1 attached:bare by_hand:bare t:bare', 'a pattern of before');
is(received($node, 'postgres', 'more', 3), 'attached:bare by_hand:bare t:bare', 'a new one');
$node->safe_psql('postgres', q{SELECT pgpubsub.unsubscribe('all'), pgpubsub.unsubscribe('more'), pgpubsub.unsubscribe('s')});

# Whoever may be what the full queue waits for does not wait for it.

foreach my $mode ('transactional', 'async')
{
	foreach my $first (
		q{SELECT * FROM pgpubsub.poll('holds', 1, consume => false)},
		q{SELECT pgpubsub.unsubscribe('holds')},
		q{SELECT pgpubsub.subscribe('holds', '{full}', 'drop')},
		q{SELECT * FROM pgpubsub.poll('holds', 1)})
	{
		$node->safe_psql(
			'postgres', q{
			SELECT pgpubsub.subscribe('holds', '{full}', 'block');
			SELECT count(pgpubsub.publish('full', i || repeat('x', 1000))) FROM generate_series(1, 400) AS i});
		$node->poll_query_until('postgres', q{SELECT relay_state = 'full' FROM pgpubsub.stat_queue})
		  or fail('not full');
		my ($ret, undef, $err) = $node->psql(
			'postgres', qq{
			SET pgpubsub.publish_timeout = '1h';
			SET pgpubsub.publish_mode = $mode;
			SET statement_timeout = '60s';
			BEGIN;
			$first;
			SELECT pgpubsub.publish('full', 'not in vain');
			COMMIT}, on_error_stop => 1);
		is($err, '', "$mode: $first, then a write");
		$node->safe_psql('postgres', q{SELECT pgpubsub.unsubscribe('holds')});
		$node->poll_query_until('postgres', q{SELECT relay_state = 'listening' FROM pgpubsub.stat_queue})
		  or fail('still full');
	}
}

# A transaction that called what it cannot prepare is refused, whatever came
# of it.

$node->safe_psql('postgres', q{SELECT pgpubsub.subscribe('s', '{a}')});
fails_with($node, 'postgres', "BEGIN; SELECT pgpubsub.$_; PREPARE TRANSACTION 'p'", '0A000', qr/cannot prepare/, $_)
  foreach q{poll('s')}, q{ack('s', 0)}, q{subscribe('s', '{a}')}, q{unsubscribe('none')};

$node->safe_psql(
	'postgres', q{
	BEGIN;
	SELECT pgpubsub.poll('s', consume => false);
	SAVEPOINT p;
	SELECT pgpubsub.poll('s');
	UPDATE pgpubsub.subscription SET on_full = on_full;
	ROLLBACK TO p;
	PREPARE TRANSACTION 'p';
	COMMIT PREPARED 'p'});
pass('a look may be prepared, and what was rolled back');

# The relay waits for nobody who has the table's index locked.

my $session = open_session($node, 'postgres');
$session->query_safe('BEGIN; REINDEX TABLE pgpubsub.subscription');
kill_relay($node, 'postgres');
$node->safe_psql('postgres', q{SELECT pgpubsub.publish('a', 'while it is locked')});
is(received($node, 'postgres', 's', 1), 'gap:-1 a:while it is locked',
	'a relay that starts while the index is locked relays');
$session->query_safe('COMMIT');
close_session($session);
is($node->safe_psql('postgres', q{SELECT pgpubsub.subscribe('s', '{a}')}), 'f', 'and does what it is asked for');

# In a database that is left out, a reader is not left waiting.

$node->safe_psql('postgres', q{SELECT pgpubsub.publish('a', 'the last')});
$node->poll_query_until('postgres', q{SELECT pending = 1 FROM pgpubsub.stat_subscriptions WHERE subscription = 's'});
$node->append_conf('postgresql.conf', "pgpubsub.databases = 'another'");
$node->reload;
wait_for_relay($node, 'postgres', count => 0);
is(received($node, 'postgres', 's', 1), 'a:the last', 'what is in the queue is read');
my $offset = log_offset($node);
$node->psql('postgres', q{SELECT * FROM pgpubsub.poll('s', timeout => '60s')});
$node->wait_for_log(qr/ERROR:  this database has no relay/, $offset);
pass('then there is an error');
$node->append_conf('postgresql.conf', "pgpubsub.databases = '*'");
$node->reload;
wait_for_relay($node, 'postgres');
$node->safe_psql('postgres', q{SELECT pgpubsub.publish('a', 'the first')});
is(received($node, 'postgres', 's', 1), 'gap:-1 a:the first', 'and a gap row once it is let in');

$node->stop;
log_is_clean(
	$node,
	qr/WARNING:  pgpubsub queue is (?:more than half )?full/,
	qr/WARNING:  too many subscriptions/,
	qr/WARNING:  no relay for database "postgres"/,
	qr/ERROR:  this database has no relay/,
	qr/ERROR:  (?:subscription "(?:s|too_many)" (?:is going away|could not be loaded)|cannot prepare a transaction)/);
done_testing();
