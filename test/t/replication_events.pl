# Logical replication: what a subscriber applies is no event there, unless its
# trigger is enabled REPLICA or ALWAYS; the publisher's writes are its own.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $publisher = new_server('publisher', init => { allows_streaming => 'logical' });
my $subscriber = new_server('subscriber');
my @tables = qw(origin replica always disabled);

foreach my $node ($publisher, $subscriber)
{
	$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
	$node->safe_psql(
		'postgres',
		"CREATE TABLE $_ (id int PRIMARY KEY, v text); SELECT pgpubsub.attach('$_')"
	) foreach @tables;
	$node->safe_psql('postgres', "SELECT pgpubsub.subscribe('s', '{*}')");
}
$subscriber->safe_psql(
	'postgres', q{
	SELECT pgpubsub.attach('always', 'statements', level => 'statement');
	ALTER TABLE replica ENABLE REPLICA TRIGGER "!pgpubsub_replica_row";
	ALTER TABLE always ENABLE ALWAYS TRIGGER "!pgpubsub_always_row";
	ALTER TABLE disabled DISABLE TRIGGER "!pgpubsub_disabled_row"});
is( $subscriber->safe_psql(
		'postgres',
		'SELECT trigger, enabled FROM pgpubsub.attachments WHERE level = $$row$$ ORDER BY 1'
	),
	'!pgpubsub_always_row|t
!pgpubsub_disabled_row|f
!pgpubsub_origin_row|t
!pgpubsub_replica_row|t',
	'the view says what is disabled');

# rows that are copied when the subscription begins are no events either
$publisher->safe_psql('postgres',
	"SET pgpubsub.muted = on; INSERT INTO $_ VALUES (1, 'copied')")
  foreach @tables;
my $source = $publisher->connstr . ' dbname=postgres';
$publisher->safe_psql('postgres', 'CREATE PUBLICATION p FOR TABLE ' . join(', ', @tables));
$subscriber->safe_psql('postgres',
	"CREATE SUBSCRIPTION sub CONNECTION '$source' PUBLICATION p");
$subscriber->wait_for_subscription_sync($publisher, 'sub')
  if $subscriber->can('wait_for_subscription_sync');
ok( $subscriber->poll_query_until(
		'postgres',
		"SELECT count(*) = 0 FROM pg_subscription_rel WHERE srsubstate NOT IN ('r', 's')"
	),
	'the tables are copied');

# Events as "channel op", in the order in which they came.
sub events
{
	my ($node, $count) = @_;
	my @rows = receive($node, 'postgres', 's', $count);

	return join ' ', map { /^([^:]+):.*?"op":"(\w+)".*?"v":"(\w*)/ ? "$1 $2 $3" : $_ } @rows;
}

# when subscribe() returns, the relay has handled whatever was committed
settle($subscriber, 'postgres');
is( join(
		', ',
		sort split /\n/,
		$subscriber->safe_psql(
			'postgres',
			"SELECT concat_ws(' ', channel, payload::jsonb ->> 'op', payload::jsonb #>> '{new,v}') FROM pgpubsub.poll('s', 1000)"
		)),
	'always INSERT copied, replica INSERT copied',
	'the copy is an event only with ENABLE REPLICA and ENABLE ALWAYS');

foreach my $table (@tables)
{
	$publisher->safe_psql(
		'postgres', qq{
		INSERT INTO $table VALUES (2, 'new');
		UPDATE $table SET v = 'newer' WHERE id = 2;
		DELETE FROM $table WHERE id = 2});
	is( events($publisher, 3),
		"$table INSERT new $table UPDATE newer $table DELETE newer",
		"publisher: events of $table");
}
$publisher->wait_for_catchup('sub');
is( events($subscriber, 6),
	join(' ', map { ("$_ INSERT new", "$_ UPDATE newer", "$_ DELETE newer") } qw(replica always)),
	'subscriber: those of ENABLE REPLICA and ENABLE ALWAYS, each once');
is_quiet($subscriber, 'postgres', 's', 'and no others');

# writes of its own: all but the disabled one and REPLICA
$subscriber->safe_psql('postgres', "INSERT INTO $_ VALUES (3, 'own')") foreach @tables;
is( events($subscriber, 3),
	'origin INSERT own always INSERT own statements INSERT own',
	'subscriber: events of its own writes');
is_quiet($subscriber, 'postgres', 's', 'and no others');

# as a session that replays changes by itself
$subscriber->safe_psql('postgres',
	"SET session_replication_role = replica; INSERT INTO $_ VALUES (4, 'replayed')")
  foreach @tables;
is( events($subscriber, 2),
	'replica INSERT replayed always INSERT replayed',
	'session_replication_role is heeded');
is_quiet($subscriber, 'postgres', 's', 'and no others');

# muted mutes them all
$subscriber->safe_psql('postgres',
	"SET pgpubsub.muted = on; INSERT INTO $_ VALUES (5, 'muted'); DELETE FROM $_; TRUNCATE $_")
  foreach @tables;
is_quiet($subscriber, 'postgres', 's', 'a muted session has no events');
$subscriber->safe_psql(
	'postgres', q{
	BEGIN;
	SET LOCAL pgpubsub.muted = on;
	INSERT INTO origin VALUES (6, 'muted');
	SET LOCAL pgpubsub.muted = off;
	INSERT INTO origin VALUES (7, 'heard');
	SAVEPOINT s;
	SET LOCAL pgpubsub.muted = on;
	INSERT INTO origin VALUES (8, 'muted');
	ROLLBACK TO s;
	INSERT INTO origin VALUES (9, 'heard');
	COMMIT;
	INSERT INTO origin VALUES (10, 'heard')});
is( events($subscriber, 3),
	join(' ', ('origin INSERT heard') x 3),
	'muted counts when the row changes');

$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION sub');
$_->stop foreach $subscriber, $publisher;
log_is_clean($publisher);
log_is_clean($subscriber,
	qr/terminating logical replication worker/);
done_testing();
