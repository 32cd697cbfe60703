# pg_dump and pg_restore carry subscriptions and attachments; the relay
# follows what somebody writes into pgpubsub.subscription by hand.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('restore');
my $dir  = PostgreSQL::Test::Utils::tempdir();

# Subscriptions of the database, as shared memory has them, without the times.
sub subscriptions
{
	my ($db) = @_;

	return $node->safe_psql(
		$db,
		"SELECT string_agg(concat_ws(' ', subscription, owner, array_to_string(channels, ','), on_full), '; ' ORDER BY subscription)"
		  . " FROM pgpubsub.stat_subscriptions WHERE datname = '$db'");
}

# Wait until they are that.
sub subscriptions_become
{
	my ($db, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$node->poll_query_until(
		$db,
		"SELECT coalesce(string_agg(concat_ws(' ', subscription, owner, array_to_string(channels, ','), on_full), '; ' ORDER BY subscription), '') = \$\$$expected\$\$"
		  . " FROM pgpubsub.stat_subscriptions WHERE datname = '$db'");
	return is(subscriptions($db), $expected, $name);
}

# All that there is to know of the database's attachments.
sub attachments
{
	my ($server, $db) = @_;

	return $server->safe_psql(
		$db,
		'SELECT a.*, t.tgenabled, pg_get_triggerdef(t.oid)'
		  . ' FROM pgpubsub.attachments AS a JOIN pg_trigger AS t ON (t.tgrelid, t.tgname) = (a.relation, a.trigger)'
		  . ' ORDER BY a.relation::text, a.trigger');
}

# Which channels the database says are durable.
sub durable
{
	my ($server, $db) = @_;

	return $server->safe_psql($db, 'SELECT * FROM pgpubsub.channel ORDER BY channel');
}

# A database with all there is

$node->safe_psql(
	'postgres', q{
	CREATE ROLE app LOGIN;
	CREATE DATABASE source;
});
$node->safe_psql(
	'source', q{
	CREATE EXTENSION pgpubsub;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgpubsub TO app;
	CREATE TABLE orders (id int PRIMARY KEY, status text, note text, "Mixed, é" text);
	CREATE TABLE measures (at int, value int) PARTITION BY RANGE (at);
	CREATE TABLE measures_1 PARTITION OF measures FOR VALUES FROM (0) TO (10);
	INSERT INTO orders VALUES (1, 'old', 'quiet');
	SELECT pgpubsub.attach('orders', 'Orders of "today"', watch => '{status}',
		condition => $$NEW.note IS DISTINCT FROM 'quiet'$$, operations => '{insert,update}');
	SELECT pgpubsub.attach('measures');
	SELECT pgpubsub.attach('orders', 'statements', level => 'statement');
	SELECT pgpubsub.attach('orders', 'options é', '{insert,update,delete,truncate}', '{id,"Mixed, é"}', '{"Mixed, é",note}',
		old_values => 'full', format => 'debezium', publish_mode => 'async');
	SELECT pgpubsub.attach('orders', 'cloudy', '{delete,truncate}', level => 'statement', format => 'cloudevents', old_values => 'key');
	SELECT pgpubsub.attach('orders', 'disabled'), pgpubsub.attach('orders', 'always', '{insert}');
	ALTER TABLE orders DISABLE TRIGGER "!pgpubsub_disabled_row";
	ALTER TABLE orders ENABLE ALWAYS TRIGGER "!pgpubsub_always_row";
	SELECT pgpubsub.subscribe('all', '{*}', 'drop'),
	       pgpubsub.subscribe('Some "thing"', ARRAY['Orders of "today"', 'with, comma']),
	       pgpubsub.subscribe('blocking', '{measures}', 'block');
	SELECT pgpubsub.set_durable('archive *', retain => '1 mon 1 day'), pgpubsub.set_durable('archive é'),
	       pgpubsub.set_durable('archive 1', false);
	SET ROLE app;
	SELECT pgpubsub.subscribe('of_app', '{measures}');
});
my $created =
  $node->safe_psql('source', 'SELECT name, created_at FROM pgpubsub.subscription ORDER BY 1');

# A database that is alive is dumped, and keeps on.
$node->command_ok(
	[
		'pg_dump', '-Fc', '-h', $node->host, '-p', $node->port, '-f',
		"$dir/dump", 'source'
	],
	'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE target');
$node->command_ok(
	[
		'pg_restore', '--exit-on-error', '-h', $node->host, '-p', $node->port,
		'-d',         'target',          "$dir/dump"
	],
	'pg_restore');
wait_for_relay($node, 'target');
subscriptions_become('target', subscriptions('source'),
	'the restored database has its subscriptions');
is( $node->safe_psql(
		'target', 'SELECT name, created_at FROM pgpubsub.subscription ORDER BY 1'),
	$created,
	'created when they were');
my $attached = attachments($node, 'source');
like($attached, qr/^orders\|!pgpubsub_disabled_row\|.*\|f\|D\|/m,
	'one of the attachments is disabled');
is(attachments($node, 'target'), $attached, 'and its attachments');
my $durable = durable($node, 'source');
is($durable, "archive *|t|1 mon 1 day\narchive 1|f|00:00:00\narchive é|t|00:00:00", 'some of the channels are durable');
is(durable($node, 'target'), $durable, 'and they are there');

$node->safe_psql(
	'target', q{
	INSERT INTO orders VALUES (2, 'new', 'quiet');
	INSERT INTO orders VALUES (3, 'new', 'loud');
	UPDATE orders SET note = note || '!' WHERE id = 3;
	UPDATE orders SET status = 'paid' WHERE id = 3;
	INSERT INTO measures VALUES (5, 50);
});
my @events =
  grep { !/^gap/ } receive($node, 'target', 'Some "thing"', 2);
is(scalar(@events), 2, 'conditions and watched columns work there');
like($events[0], qr/^Orders of "today":\{.*"op":"INSERT".*"id":3/,
	'an insert');
like($events[1], qr/^Orders of "today":\{.*"op":"UPDATE".*"paid"/,
	'an update');
like((grep { !/^gap/ } receive($node, 'target', 'of_app', 1))[0],
	qr/^measures:\{.*"partition":"measures_1"/,
	'and partitions');
fails_with($node, 'target', q{SELECT * FROM pgpubsub.poll('all')},
	'42501', qr/must be owner/, 'owners are who they were', user => 'app');

# Rows of the dump are not events: triggers come after the data.
unlike(
	join(' ', receive($node, 'target', 'all', 1, consume => 0)),
	qr/"id":1\D/,
	'the restored rows were no events');

# A server that has never seen any of it, from either kind of dump.
my $fresh = new_server('fresh');
$fresh->safe_psql('postgres', 'CREATE ROLE app LOGIN');
$node->command_ok(
	[
		'pg_dump', '-h', $node->host, '-p', $node->port, '-f',
		"$dir/dump.sql", 'source'
	],
	'pg_dump as SQL');
foreach my $kind ('custom', 'sql')
{
	my @to = ('-h', $fresh->host, '-p', $fresh->port, '-d', $kind);

	$fresh->safe_psql('postgres', "CREATE DATABASE $kind");
	$fresh->command_ok(
		$kind eq 'custom'
		? [ 'pg_restore', '--exit-on-error', @to, "$dir/dump" ]
		: [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', @to, '-f', "$dir/dump.sql" ],
		"a fresh server: restore, $kind");
	wait_for_relay($fresh, $kind);
	is(attachments($fresh, $kind), $attached, "$kind: its attachments");
	is(durable($fresh, $kind), $durable, "$kind: its durable channels");
	is($fresh->safe_psql($kind, q{SELECT count(*) FROM pg_class WHERE relnamespace = 'pgpubsub'::regnamespace AND relkind = 'm' AND relispopulated}),
		0, "$kind: its log is its own");
	is( $fresh->safe_psql(
			$kind,
			'SELECT name, owner, channels, on_full, created_at FROM pgpubsub.subscription ORDER BY 1'),
		$node->safe_psql(
			'source',
			'SELECT name, owner, channels, on_full, created_at FROM pgpubsub.subscription ORDER BY 1'),
		"$kind: its subscriptions");

	# when subscribe() returns, the relay has read the table
	$fresh->safe_psql($kind,
		"SELECT pgpubsub.subscribe('new', '{o*,cloudy,statements,always,disabled}', 'block')");
	$fresh->safe_psql(
		$kind, q{
		SET pgpubsub.publish_mode = 'async';
		INSERT INTO orders VALUES (4, 'new', 'quiet', 'x');
		UPDATE orders SET status = 'paid', "Mixed, é" = 'y' WHERE id = 4;
		UPDATE orders SET note = 'loud', status = 'sent' WHERE id = 4;
		DELETE FROM orders WHERE id = 4;
		INSERT INTO measures VALUES (5, 50)});
	my @got = grep { !/^gap/ } receive($fresh, $kind, 'new', 10);
	my %times;

	/^([^:]+):/ and $times{$1}++ foreach @got;
	is(join(', ', map { "$_ $times{$_}" } sort keys %times),
		'always 1, cloudy 1, options é 4, statements 4',
		"$kind: events of all but the disabled one");
	is(scalar(grep { /^options é:.*"before":\{"id":4,"Mixed, é":"x"\},"after":\{"id":4,"Mixed, é":"y"\}/ } @got),
		1, "$kind: with their options");
	my @orders = grep { !/^gap/ } receive($fresh, $kind, 'Some "thing"', 1);
	like($orders[0], qr/^Orders of "today":\{.*"op":"UPDATE".*"loud"/,
		"$kind: a restored subscription reads");
	like((grep { !/^gap/ } receive($fresh, $kind, 'of_app', 1))[0],
		qr/^measures:\{.*"partition":"measures_1"/,
		"$kind: another one, too");
}
$fresh->stop;
log_is_clean($fresh);

# In parts, as users do: schema first, then data.
$node->safe_psql('postgres', 'CREATE DATABASE in_parts');
foreach my $section (qw(pre-data data post-data))
{
	$node->command_ok(
		[
			'pg_restore', '--exit-on-error', '-h', $node->host, '-p',
			$node->port,  '-d', 'in_parts', "--section=$section",
			"$dir/dump"
		],
		"pg_restore --section=$section");
}
subscriptions_become('in_parts', subscriptions('source'),
	'subscriptions restored in parts are there');
is(durable($node, 'in_parts'), $durable, 'and durable channels');

# A restore that is one transaction, and parallel
foreach my $option ('--single-transaction', '--jobs=2')
{
	$node->safe_psql('postgres', 'CREATE DATABASE again');
	$node->command_ok(
		[
			'pg_restore', '--exit-on-error', '-h', $node->host, '-p',
			$node->port,  '-d', 'again', $option, "$dir/dump"
		],
		"pg_restore $option");
	if (subscriptions_become('again', subscriptions('source'),
			"subscriptions restored with $option are there"))
	{
		publish($node, 'again', 'measures', 'restored');
		is((receive($node, 'again', 'all', 1))[-1],
			'measures:restored', 'and work');
	}
	$node->safe_psql('postgres', 'DROP DATABASE again');
}
$node->safe_psql('postgres', "DROP DATABASE $_")
  foreach qw(source target in_parts);

# The extension and a row in one transaction, and the relay starts meanwhile
$node->safe_psql('postgres', 'CREATE DATABASE again');
my $missing = 0;
foreach (1 .. 25)
{
	$node->safe_psql(
		'again', q{
		DROP EXTENSION IF EXISTS pgpubsub;
		BEGIN;
		CREATE EXTENSION pgpubsub;
		INSERT INTO pgpubsub.subscription (name, owner, channels, on_full)
		VALUES ('at once', current_user::regrole, '{news}', 'evict');
		COMMIT});

	# when subscribe() returns, the relay has done what was asked before
	$node->safe_psql('again', "SELECT pgpubsub.subscribe('now', '{now}')");
	$missing++
	  if subscriptions('again') !~ /at once/;
}
is($missing, 0,
	'rows written in the transaction of CREATE EXTENSION are followed');
$node->safe_psql('postgres', 'DROP DATABASE again');

# The table written by hand

$node->safe_psql('postgres', 'CREATE DATABASE hand');
$node->safe_psql('hand',     'CREATE EXTENSION pgpubsub');
wait_for_relay($node, 'hand');
my $owner = $node->safe_psql('hand', 'SELECT current_user');

$node->safe_psql(
	'hand', q{
	INSERT INTO pgpubsub.subscription (name, owner, channels, on_full)
	VALUES ('a', current_user::regrole, '{news}', 'evict'),
	       ('b', 'app', '{n*}', 'drop')});
subscriptions_become('hand', "a $owner news evict; b app n* drop",
	'INSERT is followed');
publish($node, 'hand', 'news', 'one');
is(received($node, 'hand', $_, 1), 'news:one', "$_ reads") foreach qw(a b);

$node->safe_psql(
	'hand', q{
	BEGIN;
	INSERT INTO pgpubsub.subscription (name, owner, channels, on_full)
	VALUES ('never', current_user::regrole, '{news}', 'evict');
	DELETE FROM pgpubsub.subscription WHERE name = 'a';
	ROLLBACK});
publish($node, 'hand', 'news', 'two');
is(received($node, 'hand', 'a', 1),
	'news:two', 'a rollback changes nothing');
is(subscriptions('hand'), "a $owner news evict; b app n* drop",
	'not even in the view');

$node->safe_psql('hand',
	q{UPDATE pgpubsub.subscription SET channels = '{news,weather}', on_full = 'block' WHERE name = 'a'}
);
subscriptions_become('hand', "a $owner news,weather block; b app n* drop",
	'UPDATE is followed');
publish($node, 'hand', 'weather', 'rain');
publish($node, 'hand', 'news', 'three');
is(received($node, 'hand', 'a', 2),
	'weather:rain news:three', 'the new channel is read, without a gap');

$node->safe_psql('hand',
	q{UPDATE pgpubsub.subscription SET owner = 'app' WHERE name = 'a'});
subscriptions_become('hand', 'a app news,weather block; b app n* drop',
	'a change of the owner is followed');

$node->safe_psql('hand',
	q{UPDATE pgpubsub.subscription SET channels = '{weather}' WHERE name = 'a'}
);
subscriptions_become('hand', 'a app weather block; b app n* drop',
	'a channel is taken away');
publish($node, 'hand', 'news',    'not for a');
publish($node, 'hand', 'weather', 'sun');
is(received($node, 'hand', 'a', 1), 'weather:sun', 'and not read any more');

$node->safe_psql('hand', q{DELETE FROM pgpubsub.subscription WHERE name = 'b'});
subscriptions_become('hand', 'a app weather block', 'DELETE is followed');
fails_with($node, 'hand', q{SELECT * FROM pgpubsub.poll('b')},
	'42704', qr/"b" does not exist/, 'it is no more');

# ... while a reader has the subscription

my $reader = open_session($node, 'hand');
publish($node, 'hand', 'weather', 'snow');
$reader->query_safe('BEGIN');
is( $reader->query_safe(
		"SELECT payload FROM pgpubsub.poll('a', timeout => '30s')"),
	'snow', 'a reader has the subscription');
$node->safe_psql('hand',
	q{UPDATE pgpubsub.subscription SET channels = '{weather,news}', on_full = 'drop' WHERE name = 'a'}
);
$node->safe_psql('hand', "SELECT pgpubsub.subscribe('other', '{other}')");
$reader->query_safe('COMMIT');
subscriptions_become('hand',
	"a app weather,news drop; other $owner other evict",
	'an UPDATE meanwhile is followed when it lets go');
publish($node, 'hand', 'news', 'four');
is(received($node, 'hand', 'a', 1),
	'news:four', 'what was read stays read, the new channel is read');

publish($node, 'hand', 'news', 'five');
$reader->query_safe('BEGIN');
is( $reader->query_safe(
		"SELECT payload FROM pgpubsub.poll('a', timeout => '30s')"),
	'five', 'a reader has it again');
$node->safe_psql('hand', q{DELETE FROM pgpubsub.subscription WHERE name = 'a'});
$node->safe_psql('hand', "SELECT pgpubsub.subscribe('other', '{other,more}')");
is(session_error($reader, 'COMMIT'), '',
	'a DELETE meanwhile does not fail its commit');
subscriptions_become('hand', "other $owner other,more evict",
	'and is followed then');

# ... while a reader waits
begin_query($reader,
	"SELECT * FROM pgpubsub.poll('other', timeout => '30s')");
ok( $node->poll_query_until(
		'hand',
		"SELECT state = 'waiting' FROM pgpubsub.stat_subscriptions"
		  . " WHERE subscription = 'other'"),
	'a reader waits');
$node->safe_psql('hand',
	q{UPDATE pgpubsub.subscription SET channels = '{other,late}' WHERE name = 'other'}
);
publish($node, 'hand', 'other', 'you may go');
like(scalar(end_query($reader)), qr/\|other\|you may go\|/,
	'it gets what it waits for');
subscriptions_become('hand', "other $owner other,late evict",
	'an UPDATE meanwhile is followed at the latest when its wait ends');
publish($node, 'hand', 'late', 'at last');
is(received($node, 'hand', 'other', 1),
	'late:at last', 'the new channel is read');

begin_query($reader,
	"SELECT * FROM pgpubsub.poll('other', timeout => '30s')");
ok( $node->poll_query_until(
		'hand',
		"SELECT state = 'waiting' FROM pgpubsub.stat_subscriptions"
		  . " WHERE subscription = 'other'"),
	'a reader waits again');
$node->safe_psql('hand', 'TRUNCATE pgpubsub.subscription');
my ($output, $error) = end_query($reader);
like($error, qr/ERROR:  42704: subscription "other" does not exist/,
	'TRUNCATE ends its wait with an error');
subscriptions_become('hand', '', 'and takes all subscriptions away');
$reader->quit;

# Rows that make no sense are refused, or ignored with a warning.
foreach my $values ("('x', current_user::regrole, '{a}', 'explode')",
	"('x', 0, NULL, 'drop')")
{
	isnt(
		query_error(
			$node,
			'hand',
			"INSERT INTO pgpubsub.subscription (name, owner, channels, on_full) VALUES $values"
		),
		'',
		"refused: $values");
}
my $offset = log_offset($node);
$node->safe_psql(
	'hand', q{
	INSERT INTO pgpubsub.subscription (name, owner, channels, on_full)
	VALUES ('bad', current_user::regrole, '{}', 'evict'),
	       ('reserved', current_user::regrole, '{pgpubsub}', 'evict'),
	       ('good', current_user::regrole, '{news}', 'evict')});
subscriptions_become('hand', "good $owner news evict",
	'bad rows do not stop the good ones');
$node->wait_for_log(qr/WARNING:  ignored row "bad" of table/, $offset);
$node->wait_for_log(qr/WARNING:  ignored row "reserved" of table/, $offset);
publish($node, 'hand', 'news', 'six');
is(received($node, 'hand', 'good', 1), 'news:six', 'and those work');

$node->stop;
log_is_clean(
	$node,
	qr/ERROR:  must be owner of subscription "all"/,
	qr/ERROR:  subscription "(?:b|other)" does not exist/,
	qr/ERROR:  new row for relation "subscription" violates check constraint/,
	qr/ERROR:  null value in column "channels"/,
	qr/WARNING:  channels cannot be empty/,
	qr/WARNING:  channel name "pgpubsub" is reserved/,
	qr/WARNING:  ignored row "(?:bad|reserved)"/);
done_testing();
