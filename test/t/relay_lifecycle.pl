# A relay comes with CREATE EXTENSION and goes with DROP EXTENSION; relays and
# the launcher come back when they are ended.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('lifecycle');

# CREATE EXTENSION

my $session = open_session($node);
$session->query_safe('BEGIN; CREATE EXTENSION pgpubsub');
is( $session->query_safe("SELECT pgpubsub.subscribe('early', '{news}')"),
	't', 'subscribe() works in the transaction of CREATE EXTENSION');
is($node->safe_psql('postgres',
		"SELECT datname FROM pg_stat_activity WHERE backend_type = 'pgpubsub relay'"
	),
	'postgres',
	'the relay runs before that transaction commits');
$session->query_safe("SELECT pgpubsub.publish('news', 'inside')");
$session->query_safe('COMMIT');
publish($node, 'postgres', 'news', 'after');
is(received($node, 'postgres', 'early', 2),
	'news:inside news:after',
	'that subscription gets what is published, and no gap');
wait_for_relay($node, 'postgres');

is( $node->safe_psql('postgres',
		"SELECT datname, relay_state, relay_pid = (SELECT pid FROM pg_stat_activity"
		  . " WHERE backend_type = 'pgpubsub relay'), relay_restarts"
		  . " FROM pgpubsub.stat_queue"),
	'postgres|listening|t|0',
	'view stat_queue shows the relay');
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pgpubsub%'"
		  . " AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)"),
	0,
	'neither relay nor launcher holds back the horizon');

# ... rolled back

$node->safe_psql('postgres', 'CREATE DATABASE other');
$session = open_session($node, 'other');
$session->query_safe('BEGIN; CREATE EXTENSION pgpubsub');
$session->query_safe("SELECT pgpubsub.subscribe('undone', '{news}')");
is($node->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pgpubsub relay'"
	),
	2,
	'the second database has a relay');
$session->query_safe('ROLLBACK');
wait_for_relay($node, 'other', count => 0);
ok( $node->poll_query_until(
		'postgres',
		"SELECT count(*) = 0 FROM pgpubsub.stat_queue WHERE datname = 'other'"),
	'a rollback of CREATE EXTENSION stops the relay');

$session->query_safe(
	q{
	BEGIN;
	SAVEPOINT s;
	CREATE EXTENSION pgpubsub;
	SELECT pgpubsub.subscribe('undone', '{news}');
	ROLLBACK TO s;
	COMMIT});
wait_for_relay($node, 'other', count => 0);
pass('and so does a rollback to a savepoint');

$session->query_safe(
	q{
	BEGIN;
	SAVEPOINT s;
	CREATE EXTENSION pgpubsub;
	RELEASE SAVEPOINT s;
	COMMIT});
wait_for_relay($node, 'other');
pass('created in a savepoint that stands, it stays');
is( $session->query_safe('SELECT count(*) FROM pgpubsub.stat_subscriptions'
		  . " WHERE subscription = 'undone'"),
	0,
	'subscriptions of the attempts before are not there');

# Two databases do not hear each other.

$node->safe_psql($_, "SELECT pgpubsub.subscribe('same', '{news}')")
  foreach qw(postgres other);
publish($node, 'postgres', 'news', 'for postgres');
publish($node, 'other',    'news', 'for other');
is(received($node, 'postgres', 'same', 1),
	'news:for postgres', 'the one database hears its own');
is(received($node, 'other', 'same', 1),
	'news:for other', 'and so does the other');
is_quiet($node, $_, 'same', "nothing else in $_") foreach qw(postgres other);
is( $node->safe_psql('postgres',
		'SELECT datname, subscription FROM pgpubsub.stat_subscriptions'
		  . ' ORDER BY 1, 2'),
	"other|same\npostgres|early\npostgres|same",
	'the view shows both');

# DROP EXTENSION

$session->query_safe('BEGIN; DROP EXTENSION pgpubsub; ROLLBACK');
publish($node, 'other', 'news', 'still here');
is(received($node, 'other', 'same', 1),
	'news:still here', 'a rollback of DROP EXTENSION leaves all as it was');

my $waiting = open_session($node, 'other');
begin_query($waiting,
	"SELECT * FROM pgpubsub.poll('same', timeout => '30s')");
ok( $node->poll_query_until(
		'postgres',
		"SELECT state = 'waiting' FROM pgpubsub.stat_subscriptions"
		  . " WHERE subscription = 'same' AND datname = 'other'"),
	'a session waits in poll()');
$session->query_safe('DROP EXTENSION pgpubsub');
wait_for_relay($node, 'other', count => 0);
ok( $node->poll_query_until(
		'postgres',
		"SELECT count(*) = 0 FROM pgpubsub.stat_queue WHERE datname = 'other'"),
	'DROP EXTENSION stops the relay');
my ($output, $error) = end_query($waiting);
is($output, '', 'the session that waited got nothing');
like($error, qr/ERROR:  55000: .*The extension was dropped meanwhile/s,
	'but an error that says why');
$waiting->quit;
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM pgpubsub.stat_subscriptions WHERE datname = 'other'"
	),
	0,
	'its subscriptions are gone');

$session->query_safe('CREATE EXTENSION pgpubsub');
is($session->query_safe("SELECT pgpubsub.subscribe('same', '{news}')"),
	't', 'created again, it does not know them');
publish($node, 'other', 'news', 'second life');
is(received($node, 'other', 'same', 1),
	'news:second life', 'and works');

$session->query_safe(
	q{
	BEGIN;
	DROP EXTENSION pgpubsub;
	CREATE EXTENSION pgpubsub;
	SELECT pgpubsub.subscribe('third', '{news}');
	COMMIT});
publish($node, 'other', 'news', 'third life');
is(received($node, 'other', 'third', 1),
	'news:third life', 'dropped and created in one transaction, it works');
ok( $node->poll_query_until(
		'other',
		'SELECT string_agg(subscription, $$,$$) = $$third$$'
		  . " FROM pgpubsub.stat_subscriptions WHERE datname = 'other'"),
	'with the new subscription only');

my $all_well = 1;
foreach my $i (1 .. 15)
{
	$session->query_safe('DROP EXTENSION pgpubsub');
	$session->query_safe('CREATE EXTENSION pgpubsub');
	$session->query_safe("SELECT pgpubsub.subscribe('loop', '{loop}')")
	  unless $i % 3 == 0;
	$session->query_safe("SELECT pgpubsub.publish('loop', '$i')");
	next if $i % 3 == 0;
	$all_well &&= received($node, 'other', 'loop', 1) eq "loop:$i";
}
ok($all_well, 'CREATE and DROP EXTENSION in a loop work');
wait_for_relay($node, 'other');
$session->query_safe('DROP EXTENSION pgpubsub');
wait_for_relay($node, 'other', count => 0);
$session->quit;

# A relay is ended.

my $temporary = open_session($node);
$node->safe_psql(
	'postgres', q{
	SELECT pgpubsub.unsubscribe('early'), pgpubsub.unsubscribe('same');
	SELECT pgpubsub.subscribe('by_name', '{news,weather}'),
	       pgpubsub.subscribe('by_pattern', '{n*}'),
	       pgpubsub.subscribe('unread', '{news}'),
	       pgpubsub.subscribe('waits', '{nothing}');
});
$temporary->query_safe(
	"SELECT pgpubsub.subscribe('temporary', '{news}', temporary => true)");
publish($node, 'postgres', 'news', $_) foreach ('one', 'two');
is(received($node, 'postgres', $_, 2), 'news:one news:two', "$_ reads")
  foreach qw(by_name by_pattern);

my $writer = open_session($node);
$writer->query_safe("BEGIN; SELECT pgpubsub.publish('news', 'across')");
$waiting = open_session($node);
begin_query($waiting,
	"SELECT coalesce(channel || ':' || payload, 'gap:' || lost)"
	  . " FROM pgpubsub.poll('waits', timeout => '30s')");
ok( $node->poll_query_until(
		'postgres',
		"SELECT state = 'waiting' FROM pgpubsub.stat_subscriptions"
		  . " WHERE subscription = 'waits'"),
	'a session waits in poll()');
kill_relay($node, 'postgres');
is(end_query($waiting), 'gap:-1', 'a waiting poll() gets the gap row');

is( $node->safe_psql('postgres',
		'SELECT relay_state, relay_restarts FROM pgpubsub.stat_queue'),
	'listening|1',
	'relay_restarts counts it');
$writer->query_safe('COMMIT');
publish($node, 'postgres', 'news', 'three');
is( received($node, 'postgres', $_, 2),
	'gap:-1 news:across news:three',
	"$_ gets the gap row once and what comes after")
  foreach qw(by_name by_pattern);
is( received($node, 'postgres', 'unread', 4),
	'gap:-1 news:one news:two news:across news:three',
	'what was not read yet is still there, after the gap row');
is( $temporary->query(
		"SELECT string_agg(coalesce(payload, lost::text), ' ')"
		  . " FROM pgpubsub.poll('temporary', timeout => '30s')"),
	'-1 one two across three',
	'so with a temporary subscription');
publish($node, 'postgres', 'news', 'four');
is(received($node, 'postgres', $_, 1), 'news:four', "$_ has no second gap")
  foreach qw(by_name by_pattern unread);
$waiting->quit;
$temporary->quit;

# A gap row is shown again until it is consumed, and can be acked.

kill_relay($node, 'postgres');
publish($node, 'postgres', 'news', 'five');
is( received($node, 'postgres', 'by_name', 1, consume => 0),
	'gap:-1 news:five', 'a look shows the gap row');
my ($gap_seq, $five_seq) = split /\n/,
  $node->safe_psql('postgres',
	"SELECT seq FROM pgpubsub.poll('by_name', consume => false)");
is($gap_seq, $five_seq - 1, 'its seq is one below the first message');
is($node->safe_psql('postgres', "SELECT pgpubsub.ack('by_name', $gap_seq)"),
	0, 'to ack it consumes no message');
is(received($node, 'postgres', 'by_name', 1, consume => 0),
	'news:five', 'and it is not shown again');
is($node->safe_psql('postgres', "SELECT pgpubsub.ack('by_name', $five_seq)"),
	1, 'the message is acked by itself');
is(received($node, 'postgres', 'by_pattern', 1),
	'gap:-1 news:five', 'the other subscription has its own gap row');
$node->safe_psql('postgres',
	"BEGIN; SELECT * FROM pgpubsub.poll('unread'); ROLLBACK");
is(received($node, 'postgres', 'unread', 1),
	'gap:-1 news:five', 'a rollback brings the gap row back');

# A relay is ended again and again while somebody writes.

$node->safe_psql('postgres', 'CREATE TABLE got (seq bigint, payload text)');
foreach my $i (1 .. 8)
{
	my $pid = relay_pid($node, 'postgres');

	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	publish($node, 'postgres', 'news', "storm $i");
	wait_for_relay($node, 'postgres', not => $pid);
	publish($node, 'postgres', 'news', "calm $i");
	$node->safe_psql('postgres',
		"INSERT INTO got SELECT seq, payload FROM pgpubsub.poll('by_name', timeout => '30s')"
	  )
	  while $node->safe_psql('postgres',
		"SELECT count(*) FROM got WHERE payload = 'calm $i'") == 0;
}
is( $node->safe_psql('postgres',
		"SELECT count(*) FILTER (WHERE payload LIKE 'calm%'),"
		  . " count(*) FILTER (WHERE payload IS NULL) BETWEEN 8 AND 16,"
		  . " count(DISTINCT payload) = count(payload) FROM got"),
	'8|t|t',
	'what is published while a relay listens arrives, once');

# The launcher is ended.

sub launcher_pid
{
	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'pgpubsub launcher'"
	);
}

my $launcher = launcher_pid();
my $relay    = relay_pid($node, 'postgres');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
ok( $node->poll_query_until(
		'postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity"
		  . " WHERE backend_type = 'pgpubsub launcher' AND pid <> $launcher"),
	'the launcher comes back');
is(relay_pid($node, 'postgres'), $relay, 'the relay went on without it');
kill_relay($node, 'postgres');
pass('the new launcher looks after the old relay');

$launcher = launcher_pid();
$relay    = relay_pid($node, 'postgres');
$node->safe_psql('postgres',
	"SELECT pg_terminate_backend($launcher), pg_terminate_backend($relay)");
wait_for_relay($node, 'postgres', not => $relay);
pass('both ended at once come back');
$node->safe_psql('postgres', 'CREATE DATABASE third');
$node->safe_psql('third',    'CREATE EXTENSION pgpubsub');
$node->safe_psql('third',    "SELECT pgpubsub.subscribe('s', '{news}')");
publish($node, 'third', 'news', 'hello');
is(received($node, 'third', 's', 1), 'news:hello',
	'and start relays elsewhere');

# Nothing changed by a relay that is told to reload.
$node->reload;
publish($node, 'third', 'news', 'reloaded');
is(received($node, 'third', 's', 1), 'news:reloaded', 'a reload harms nobody');

$node->stop;
log_is_clean(
	$node,
	qr/ERROR:  this database has no relay any more/);
done_testing();
