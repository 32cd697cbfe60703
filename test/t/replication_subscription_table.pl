# The table of subscriptions where a publication has all tables in it: it does
# not stop subscribers that lack it, and those that have it keep their own
# subscriptions.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $publisher = new_server('publisher', init => { allows_streaming => 'logical' });
my $with      = new_server('with');
my $without   = new_server('without', preload => 0);
my $source    = $publisher->connstr . ' dbname=postgres';

# What the database has, as "name owner channels on_full; ...".
my $table = q{
	SELECT coalesce(string_agg(concat_ws(' ', name, owner, channels, on_full), '; ' ORDER BY name), '')
	  FROM pgpubsub.subscription};

# The next order arrives at the subscriber.
my $order = 0;

sub goes_on
{
	my ($node, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$order++;
	$publisher->safe_psql('postgres', "INSERT INTO orders VALUES ($order)");
	ok( $node->poll_query_until(
			'postgres', "SELECT count(*) = 1 FROM orders WHERE id = $order"),
		"replication goes on: $name");
}

$_->safe_psql('postgres', q{
	CREATE TABLE orders (id int PRIMARY KEY);
	CREATE TABLE audit (id int PRIMARY KEY, was text)})
  foreach $publisher, $with, $without;
$publisher->safe_psql('postgres', q{
	CREATE ROLE app;
	CREATE ROLE heir;
	CREATE PUBLICATION everything FOR ALL TABLES});
$without->safe_psql('postgres',
	"CREATE SUBSCRIPTION one CONNECTION '$source' PUBLICATION everything");
goes_on($without, 'before the extension');

# A subscriber without the extension is not stopped by what pgpubsub does.

my ($ret, $out, $err) = $publisher->psql('postgres', 'CREATE EXTENSION pgpubsub');
like($err, qr/WARNING:  publication "everything" has table pgpubsub\.subscription in it/,
	'CREATE EXTENSION warns');
$publisher->safe_psql(
	'postgres', q{
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgpubsub TO app, heir;
	SELECT pgpubsub.subscribe('stays', '{a}'), pgpubsub.subscribe('mine', '{a}')});
goes_on($without, 'subscribe()');
$publisher->safe_psql(
	'postgres', q{
	BEGIN;
	SELECT pgpubsub.subscribe('stays', '{a,b}', 'drop');
	SAVEPOINT s;
	SELECT pgpubsub.subscribe('undone', '{a}');
	ROLLBACK TO s;
	SELECT pgpubsub.subscribe('stays', '{a,b,c}');
	COMMIT});
goes_on($without, 'subscribe() again');
$publisher->safe_psql('postgres',
	"SELECT pgpubsub.subscribe('large', (SELECT array_agg(md5(i::text)) FROM generate_series(1, 200) AS i))");
goes_on($without, 'a row that is toasted');
$publisher->safe_psql('postgres',
	"SELECT pgpubsub.subscribe('large', (SELECT array_agg(md5(i::text)) FROM generate_series(1, 250) AS i))");
$publisher->safe_psql('postgres', q{SELECT pgpubsub.unsubscribe('large')});
goes_on($without, 'and its end');
$publisher->safe_psql(
	'postgres', q{
	SET ROLE app;
	SELECT pgpubsub.subscribe('of_app', '{a}'), pgpubsub.subscribe('of_app_too', '{a}');
	RESET ROLE;
	REASSIGN OWNED BY app TO heir});
goes_on($without, 'REASSIGN OWNED');
is($publisher->safe_psql('postgres', $table),
	'mine postgres {a} evict; of_app heir {a} evict; of_app_too heir {a} evict; stays postgres {a,b,c} evict',
	'the rows are what they ought to be');
is( $publisher->safe_psql('postgres', q{
		SET enable_seqscan = off;
		SELECT count(*) FROM pgpubsub.subscription WHERE name IN ('mine', 'stays', 'of_app', 'of_app_too', 'large')}),
	4, 'the index finds them');
$publisher->safe_psql('postgres', q{SELECT pgpubsub.unsubscribe('of_app')});
goes_on($without, 'unsubscribe()');
$publisher->safe_psql('postgres', 'DROP OWNED BY heir');
goes_on($without, 'DROP OWNED');

# ... nor by channels that become durable.

$publisher->safe_psql('postgres', q{
	SELECT pgpubsub.set_durable('a'), pgpubsub.set_durable('b*', retain => '1 day')});
goes_on($without, 'set_durable()');
$publisher->safe_psql('postgres', q{
	SELECT pgpubsub.set_durable('a', retain => '1 hour'), pgpubsub.set_durable('b*', false)});
goes_on($without, 'set_durable() that changes and deletes rows');
is($publisher->safe_psql('postgres', 'SELECT * FROM pgpubsub.channel'), 'a|t|01:00:00', 'the rows are what they ought to be');

# ... also to a row that somebody else is changing.

foreach my $case ([ 'REASSIGN OWNED BY app TO heir', 'heir' ], [ 'DROP OWNED BY heir', '' ])
{
	my ($sql, $owner) = @$case;
	my $changes = open_session($publisher, 'postgres');
	my $waits   = open_session($publisher, 'postgres');
	my $role    = $sql =~ /BY (\w+)/ && $1;

	$publisher->safe_psql('postgres', qq{
		GRANT EXECUTE ON FUNCTION pgpubsub.subscribe TO $role;
		SET ROLE $role;
		SELECT pgpubsub.subscribe('raced', '{a}')});
	$changes->query_safe(qq{BEGIN; SELECT pgpubsub.subscribe('raced', '{a,b,$role}')});
	my $pid = session_pid($waits);
	begin_query($waits, $sql);
	ok( $publisher->poll_query_until(
			'postgres', "SELECT wait_event = 'transactionid' FROM pg_stat_activity WHERE pid = $pid"),
		"$sql waits");
	$changes->query_safe('COMMIT');
	(undef, $err) = end_query($waits);
	is($err, '', '... and ends');
	is($publisher->safe_psql('postgres', q{SELECT owner FROM pgpubsub.subscription WHERE name = 'raced'}),
		$owner, '... with its part done');
	close_session($_) foreach $changes, $waits;
}

# ... and the other way round.

$publisher->safe_psql('postgres', q{
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgpubsub TO app, heir;
	GRANT heir TO app});
foreach my $case ([ q{subscribe('raced', '{b}')}, 'f', 'raced heir {b} evict; ' ], [ q{unsubscribe('raced')}, 't', '' ])
{
	my ($call, $result, $row) = @$case;
	my $reassigns = open_session($publisher, 'postgres');
	my $waits     = open_session($publisher, 'postgres');

	$publisher->safe_psql('postgres', q{
		SET ROLE app;
		SELECT pgpubsub.unsubscribe('raced');
		SELECT pgpubsub.subscribe('raced', '{a}')});
	$reassigns->query_safe('BEGIN; REASSIGN OWNED BY app TO heir');
	my $pid = session_pid($waits);
	begin_query($waits, "SELECT pgpubsub.$call");
	ok( $publisher->poll_query_until(
			'postgres', "SELECT wait_event = 'transactionid' FROM pg_stat_activity WHERE pid = $pid"),
		"$call waits");
	$reassigns->query_safe('COMMIT');
	my ($output, $error) = end_query($waits);
	is("$output$error", $result, '... and succeeds');
	is($publisher->safe_psql('postgres', $table),
		"mine postgres {a} evict; ${row}stays postgres {a,b,c} evict", '... with its part done');
	close_session($_) foreach $reassigns, $waits;
}
goes_on($without, 'concurrent changes');

# Triggers and foreign keys have their say, and what they write is replicated.

$publisher->safe_psql(
	'postgres', q{
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.audit SELECT count(*) + 1, concat_ws(' ', TG_OP, OLD.channels) FROM public.audit;
		RETURN NULL;
	END$$;
	CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON pgpubsub.subscription
		FOR EACH ROW EXECUTE FUNCTION note();
	CREATE UNLOGGED TABLE refers (name name REFERENCES pgpubsub.subscription ON DELETE CASCADE);
	SELECT pgpubsub.subscribe('s', '{a}');
	INSERT INTO refers VALUES ('s'), ('stays');
	SELECT pgpubsub.subscribe('s', '{b}')});
is($publisher->safe_psql('postgres', 'SELECT count(*) FROM refers'), 2,
	'a change is no DELETE to a foreign key');
$publisher->safe_psql('postgres', q{SELECT pgpubsub.unsubscribe('s')});
is($publisher->safe_psql('postgres', 'SELECT name FROM refers'), 'stays', 'unsubscribe() is one');
ok( $without->poll_query_until(
		'postgres', q{SELECT string_agg(was, ', ' ORDER BY id) = 'INSERT, UPDATE {a}, DELETE {b}' FROM audit}),
	'what triggers write arrives');
$publisher->safe_psql('postgres', 'DROP TABLE refers; DROP FUNCTION note CASCADE');
goes_on($without, 'triggers');
$publisher->safe_psql(
	'postgres', q{
	CREATE FUNCTION nest() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.name = 'outer' THEN
			PERFORM pgpubsub.subscribe('inner', '{a}');
		END IF;
		RETURN NEW;
	END$$;
	CREATE TRIGGER nest BEFORE INSERT ON pgpubsub.subscription FOR EACH ROW EXECUTE FUNCTION nest();
	SELECT pgpubsub.subscribe('outer', '{a}')});
is( $publisher->safe_psql('postgres', q{
		SELECT string_agg(name, ' ' ORDER BY name) FROM pgpubsub.subscription
		 WHERE name IN ('inner', 'outer') AND made_in = (SELECT oid FROM pg_database WHERE datname = current_database())}),
	'inner outer', 'a trigger that subscribes changes nothing in the row that it is called for');
$publisher->safe_psql('postgres', q{
	DROP FUNCTION nest CASCADE;
	SELECT pgpubsub.unsubscribe('inner'), pgpubsub.unsubscribe('outer')});
goes_on($without, 'triggers that subscribe');

# A crash loses none of it.
$publisher->stop('immediate');
$publisher->start;
is($publisher->safe_psql('postgres', $table),
	'mine postgres {a} evict; stays postgres {a,b,c} evict', 'a crash loses no row');
goes_on($without, 'a crash');
$without->safe_psql('postgres', 'DROP SUBSCRIPTION one');
like(
	query_error($without, 'postgres',
		"CREATE SUBSCRIPTION two CONNECTION '$source' PUBLICATION everything"),
	qr/(?:relation "pgpubsub\.subscription"|schema "pgpubsub") does not exist/,
	'a subscription that is created now misses the table');

# A subscriber with the extension keeps its own.

$with->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	SELECT pgpubsub.subscribe('mine', '{m}', 'block'),
	       pgpubsub.subscribe('long', (SELECT array_agg(md5(i::text)) FROM generate_series(1, 200) AS i))});
my $own = $with->safe_psql('postgres', $table);
$with->safe_psql('postgres', 'DELETE FROM orders');
$with->safe_psql('postgres',
	"CREATE SUBSCRIPTION three CONNECTION '$source' PUBLICATION everything");
ok( $with->poll_query_until(
		'postgres', "SELECT count(*) > 2 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel"),
	'all tables are copied');
is($with->safe_psql('postgres', $table), $own, 'the copy of the table is discarded');
goes_on($with, 'after the copy');
$publisher->safe_psql('postgres', q{
	SELECT pgpubsub.subscribe('new', '{a}'), pgpubsub.subscribe('stays', '{a}'), pgpubsub.unsubscribe('mine')});
goes_on($with, 'subscribe() and unsubscribe()');
is($with->safe_psql('postgres', $table), $own, 'they are discarded');
foreach my $sql (
	q{INSERT INTO pgpubsub.subscription VALUES ('mine', 'postgres', '{a}', 'drop'), ('hand', 'postgres', '{a}', 'drop')},
	q{UPDATE pgpubsub.subscription SET channels = '{z}'},
	q{UPDATE pgpubsub.subscription SET name = 'long' WHERE name = 'hand'},
	q{DELETE FROM pgpubsub.subscription WHERE name = 'mine'},
	q{BEGIN; DELETE FROM pgpubsub.subscription; TRUNCATE pgpubsub.subscription, orders; COMMIT})
{
	$publisher->safe_psql('postgres', $sql);
	goes_on($with, $sql);
	is($with->safe_psql('postgres', $table), $own, '... which is discarded');
}
is($with->safe_psql('postgres', 'SELECT count(*) FROM orders'), 1, 'the other table was truncated');
ok( $with->poll_query_until('postgres', q{SELECT count(*) = 2 FROM pgpubsub.stat_subscriptions}),
	'its subscriptions live');
kill_relay($with, 'postgres');
$with->safe_psql('postgres', q{SELECT pgpubsub.publish('m', 'heard')});
is(received($with, 'postgres', 'mine', 1), 'gap:-1 m:heard', '... and are what the relay finds in the table');
is($publisher->safe_psql('postgres', $table), '', 'the publisher has what was written there');

# A session that is no worker of logical replication writes what it says.
$with->safe_psql(
	'postgres', q{
	SET session_replication_role = replica;
	INSERT INTO pgpubsub.subscription VALUES ('hand', 'postgres', '{a}', 'drop')});
like($with->safe_psql('postgres', $table), qr/^hand postgres \{a\} drop; long /, 'a row by hand is kept');
$with->safe_psql('postgres', 'DROP SUBSCRIPTION three');

# Warnings, where something can be replicated

(undef, undef, $err) = $with->psql('postgres', 'CREATE PUBLICATION in_vain FOR ALL TABLES');
unlike($err, qr/pgpubsub\.subscription/, 'no warning with a wal_level that is too low');
$with->safe_psql('postgres', 'DROP PUBLICATION in_vain');
$with->append_conf('postgresql.conf', 'wal_level = logical');
$with->restart;
foreach my $case (
	[ 'CREATE PUBLICATION p FOR TABLE orders', 0 ],
	[ 'ALTER PUBLICATION p ADD TABLE audit', 0 ],
	[ 'ALTER PUBLICATION p ADD TABLES IN SCHEMA pgpubsub', 1 ],
	[ 'ALTER PUBLICATION p SET TABLE pgpubsub.subscription', 1 ],
	[ 'CREATE PUBLICATION another FOR ALL TABLES', 1 ],
	[ 'ALTER EXTENSION pgpubsub UPDATE', 1 ],
	[ 'DROP PUBLICATION p, another', 0 ])
{
	my ($sql, $warns) = @$case;

	(undef, undef, $err) = $with->psql('postgres', $sql);
	is($err =~ /WARNING:  publication "(?:p|another)" has table pgpubsub\.subscription in it.*^HINT/ms ? 1 : 0,
		$warns, $sql . ($warns ? ' warns' : ' does not warn'));
}

$_->stop foreach $with, $without, $publisher;
log_is_clean($publisher, qr/WARNING:  publication "everything" has table/, qr/terminating|database system was (?:not properly shut down|interrupted)/);
log_is_clean($with, qr/WARNING:  (?:"?wal_level"? is insufficient|logical decoding must be enabled to publish)/, qr/WARNING:  publication "(?:p|another)" has table/, qr/terminating logical replication worker/, qr/terminating background worker/);
log_is_clean($without, qr/terminating logical replication worker/, qr/ERROR:  (?:relation "pgpubsub\.subscription"|schema "pgpubsub") does not exist/, qr/could not (?:receive|send) data|could not connect/);
done_testing();
