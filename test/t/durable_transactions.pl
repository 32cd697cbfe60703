# Whatever a transaction is like that writes, its events on a durable channel are
# those that it would have on another one, and they are in the log: after a crash
# all of them are read, once, in order.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

# A library that publishes when pgpubsub has seen the commit coming already.
my $library = PostgreSQL::Test::Utils::tempdir() . "/at_commit";
mkdir $library;
PostgreSQL::Test::Utils::append_to_file("$library/Makefile",
		"MODULES = at_commit\nPGXS := \$(shell pg_config --pgxs)\ninclude \$(PGXS)\nvpath %.c "
	  . abs_path(dirname(__FILE__) . '/../at_commit') . "\n");
system_or_bail('make', '-s', '-C', $library, 'with_llvm=no');

my $node = new_server('durable_transactions', conf => qq{
shared_preload_libraries = '$library/at_commit,pgpubsub'
restart_after_crash = on
max_prepared_transactions = 5
log_statement = none
});
my ($admin, $writer);
my @all;    # what the log is to have of channel d

sub connect_all
{
	($admin, $writer) = map { client($node) } 1 .. 2;
	return;
}

# Run the statements one by one; SQLSTATE of the first error, or ''.
sub statements
{
	my ($client, @sql) = @_;

	foreach my $sql (@sql)
	{
		$client->query($sql);
		return $client->sqlstate if $client->{error};
	}
	return '';
}

sub publishing
{
	return map { "SELECT pgpubsub.publish('d', '$_')" } @_;
}

# What the subscription reads: a payload, or "op id" of a change event, each.
sub reads
{
	my ($subscription, $timeout) = @_;

	return $admin->value(
		qq{SELECT string_agg(CASE WHEN lost IS NOT NULL THEN 'gap ' || lost
			WHEN payload ~ '^."' THEN concat_ws(' ', payload::json ->> 'op',
				coalesce(payload::json #>> '{new,id}', payload::json #>> '{old,id}'))
			ELSE payload END, ',') FROM pgpubsub.poll('$subscription', 100000, '$timeout')}) // '';
}

# Just these events have come.
sub get
{
	my ($expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$admin->settle;
	is(reads('s', '0'), join(',', @$expected), $name);
	push @all, @$expected;
	return;
}

$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
connect_all();
$admin->run(
	q{
	SELECT pgpubsub.set_durable('d');
	SELECT pgpubsub.subscribe('s', '{d}'), pgpubsub.subscribe('away', '{d}');
	CREATE TABLE t (id int PRIMARY KEY, v text);
	SELECT pgpubsub.attach('t', 'd')});

# Isolation levels

foreach my $level ('SERIALIZABLE', 'REPEATABLE READ')
{
	my $other = client($node);

	$writer->run("BEGIN ISOLATION LEVEL $level; SELECT count(*) FROM t");
	$other->run("BEGIN ISOLATION LEVEL $level; SELECT count(*) FROM t");
	statements($writer, "INSERT INTO t VALUES (1)", publishing('one'));
	statements($other, "INSERT INTO t VALUES (2)", publishing('two'));
	$writer->run('COMMIT');
	my $state = statements($other, 'COMMIT');
	is($state, $level eq 'SERIALIZABLE' ? '40001' : '', "$level: how the second of two ends");
	get([ 'INSERT 1', 'one', $state ? () : ('INSERT 2', 'two') ], "$level: the events of those that committed");
	$writer->run("BEGIN ISOLATION LEVEL $level; SELECT 1");
	$other->run("UPDATE t SET v = 'x' WHERE id = 1");
	is(statements($writer, publishing('never'), "UPDATE t SET v = 'y' WHERE id = 1"), '40001', "$level: a conflict");
	$writer->run('ROLLBACK');
	get(['UPDATE 1'], "$level: it has no events");
	$writer->run("DELETE FROM t WHERE id = $_") foreach 1, 2;
	get([ 'DELETE 1', $state ? () : 'DELETE 2' ], "$level: they are deleted");
	$other->quit;
}
$writer->run('BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM t');
$admin->run("SELECT pgpubsub.set_durable('d', retain => '1 min')");
statements($writer, publishing('older'), 'COMMIT');
get(['older'], 'a transaction older than a change of the channel');

# Savepoints

is(statements(
		$writer, 'BEGIN', publishing('1'), 'SAVEPOINT a', publishing('never'), 'INSERT INTO t VALUES (1)',
		'ROLLBACK TO a', publishing('2'), 'SAVEPOINT b', 'INSERT INTO t VALUES (2)', 'SAVEPOINT c', publishing('3'),
		'RELEASE c', 'SAVEPOINT d', publishing('never'), 'ROLLBACK TO d', 'RELEASE b', publishing('4'), 'COMMIT'),
	'', 'savepoints');
get([ 1, 2, 'INSERT 2', 3, 4 ], 'savepoints: what was rolled back is not there');
$writer->run(
	q{DO $$
	BEGIN
		FOR i IN 3 .. 6 LOOP
			BEGIN
				INSERT INTO t VALUES (i);
				PERFORM 1 / (i % 2);
			EXCEPTION WHEN division_by_zero THEN
				PERFORM pgpubsub.publish('d', 'caught ' || i);
			END;
		END LOOP;
	END $$});
get([ 'INSERT 3', 'caught 4', 'INSERT 5', 'caught 6' ], 'blocks with EXCEPTION');
$writer->run(
	q{DO $$
	BEGIN
		FOR i IN 7 .. 10 LOOP
			INSERT INTO t VALUES (i);
			IF i % 2 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
		END LOOP;
	END $$});
get([ 'INSERT 7', 'INSERT 9' ], 'transactions of a procedure');

# What runs at commit

$admin->run(
	q{
	CREATE FUNCTION deferred() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pgpubsub.publish('d', 'deferred ' || NEW.id);
		BEGIN
			PERFORM pgpubsub.publish('d', 'inner ' || NEW.id);
			PERFORM 1 / NEW.v::int;
		EXCEPTION WHEN division_by_zero THEN
			INSERT INTO u VALUES (NEW.id);
		END;
		RETURN NULL;
	END $$;
	CREATE TABLE u (id int);
	SELECT pgpubsub.attach('u', 'd');
	CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION deferred();
	CREATE TABLE child (id int REFERENCES t DEFERRABLE INITIALLY DEFERRED);
	SELECT pgpubsub.attach('child', 'd')});
is(statements($writer, 'BEGIN', "INSERT INTO t VALUES (20, '1')", publishing('early'), 'COMMIT'), '', 'a deferred trigger');
get([ 'INSERT 20', 'early', 'deferred 20', 'inner 20' ], 'a deferred trigger: its events are the last');
# (in a transaction block, a server with assertions on does not survive that; nor
# what a block does during the commit, below)
is(statements($writer, "INSERT INTO t VALUES (21, '0')"), '', 'a deferred trigger with an error in a block');
get([ 'INSERT 21', 'deferred 21', 'INSERT 21' ], 'a deferred trigger: what its block has rolled back is not there');
is(statements($writer, 'BEGIN', publishing('never'), 'INSERT INTO child VALUES (99)', 'COMMIT'), '23503', 'a deferred constraint fails');
get([], 'a deferred constraint fails: no events');
$admin->run('DROP TRIGGER deferred ON t');
is(statements($writer, 'BEGIN', q{DECLARE c CURSOR WITH HOLD FOR SELECT pgpubsub.publish('d', 'held ' || i) FROM generate_series(1, 3) AS i}, publishing('early'), 'COMMIT'),
	'', 'a cursor that is held over the commit');
$writer->run('CLOSE c');
get([ 'early', map { "held $_" } 1 .. 3 ], 'a cursor that is held: its events');

my $late_sql = "SELECT pgpubsub.publish('d', 'late ' || i) FROM generate_series(1, 2) AS i; INSERT INTO u VALUES (30)";
foreach my $early (0, 1, 3000)
{
	is(statements($writer,
			'BEGIN', "SET LOCAL at_commit.statement = \$\$$late_sql\$\$",
			"SELECT count(pgpubsub.publish('d', 'early ' || i)) FROM generate_series(1, $early) AS i", 'COMMIT'),
		'', "events during the commit, after $early before it");
	get([ (map { "early $_" } 1 .. $early), 'late 1', 'late 2', 'INSERT 30' ],
		"events during the commit, after $early before it: all come");
}
is(statements($writer,
		q{SELECT set_config('at_commit.statement', $late$DO $$BEGIN PERFORM pgpubsub.publish('d', 'never'); EXCEPTION WHEN division_by_zero THEN END$$$late$, true),
			pgpubsub.publish('d', 'never')}),
	'0A000', 'events during the commit, in a subtransaction: an error');
like($writer->{error}{M}, qr/cannot publish on durable channel "d" in a subtransaction of a transaction that is committing/, 'its message');
is($writer->{error}{H}, 'Publish outside of the subtransaction.', 'its hint');
is(statements($writer, 'BEGIN', "SET LOCAL at_commit.statement = \$\$$late_sql; SELECT 1 / 0\$\$", publishing('never'), 'COMMIT'),
	'22012', 'an error after events during the commit');
get([], 'no event of those that failed');

# Read-only transactions

is(statements($writer, 'BEGIN READ ONLY', publishing('never')), '25006', 'a read-only transaction cannot publish');
like($writer->{error}{M}, qr/cannot publish on durable channel "d" in a read-only transaction/, 'the message');
$writer->run('ROLLBACK');
is(statements($writer, 'BEGIN', publishing('before'), 'SAVEPOINT s', 'SET TRANSACTION READ ONLY', publishing('never')), '25006', 'nor one that became so');
is(statements($writer, 'ROLLBACK TO s', 'SET TRANSACTION READ ONLY', 'COMMIT'), '', 'what it has published before');
get(['before'], 'comes');
$writer->run("CREATE TEMP TABLE temporary (id int); SELECT pgpubsub.attach('temporary', 'd')");
is(statements($writer, 'BEGIN READ ONLY', 'INSERT INTO temporary VALUES (1)'), '25006', 'so with a trigger on a temporary table');
is(statements($writer, 'ROLLBACK', 'INSERT INTO temporary VALUES (2)'), '', 'otherwise it works');
get(['INSERT 2'], 'a temporary table has events');

# Two-phase commit

foreach my $savepoint (0, 1)
{
	is(statements($writer, 'BEGIN', $savepoint ? 'SAVEPOINT s' : (), publishing('never'), $savepoint ? 'RELEASE s' : (), "PREPARE TRANSACTION 'p'"),
		'0A000', 'a transaction with events cannot be prepared');
	like($writer->{error}{M}, qr/^cannot PREPARE a transaction that has published events/, 'the message');
	like($writer->{error}{H}, qr/pgpubsub\.muted/, 'the hint says what works');
}
is(statements($writer, 'BEGIN', 'SAVEPOINT s', publishing('never'), 'ROLLBACK TO s', 'SET LOCAL pgpubsub.muted = on', 'INSERT INTO t VALUES (40)',
		"PREPARE TRANSACTION 'p'", "COMMIT PREPARED 'p'"),
	'', 'one whose events were rolled back, or that is muted, can be');
is($admin->value('SELECT count(*) FROM pg_prepared_xacts'), 0, 'and is committed');
get([], 'no events of these');

# Rows by the thousand, partitions

$writer->run("COPY t FROM PROGRAM 'seq -f \"%.0f	text\" 1001 4000'");
get([ map { "INSERT $_" } 1001 .. 4000 ], 'COPY');
$writer->query("COPY t FROM PROGRAM 'seq -f \"%.0f	text\" 4001 7000; echo 4001'");
isnt($writer->sqlstate, '', 'COPY that fails');
get([], 'has no events');
$admin->run(
	q{
	CREATE TABLE p (id int, region text) PARTITION BY LIST (region);
	CREATE TABLE p_north PARTITION OF p FOR VALUES IN ('north');
	CREATE TABLE p_south PARTITION OF p FOR VALUES IN ('south');
	SELECT pgpubsub.attach('p', 'parts', durable => true), pgpubsub.attach('p', 'memory');
	SELECT pgpubsub.subscribe('parts', '{parts}'), pgpubsub.subscribe('memory', '{memory}')});
$writer->run(
	q{
	INSERT INTO p VALUES (1, 'north'), (2, 'south');
	UPDATE p SET region = 'south' WHERE id = 1;
	UPDATE p SET id = 3 WHERE id = 2;
	CREATE TABLE p_west (id int, region text);
	ALTER TABLE p ATTACH PARTITION p_west FOR VALUES IN ('west');
	INSERT INTO p_west VALUES (4, 'west');
	DELETE FROM p;
	TRUNCATE p});
$admin->settle;
my ($durable, $memory) = map {
	$admin->value(
		qq{SELECT string_agg(concat_ws(' ', payload::json ->> 'op', payload::json ->> 'table', payload::json ->> 'new', payload::json ->> 'old'), E'\\n' ORDER BY seq)
		FROM pgpubsub.poll('$_', 1000, consume => false)})
} qw(parts memory);
is($durable, $memory, 'partitions: the events are those of a channel that is not durable');
cmp_ok(scalar(split /\n/, $durable), '>=', 9, 'there are some');

# Replicas

$writer->run(
	q{
	CREATE TABLE always (id int);
	SELECT pgpubsub.attach('always', 'd');
	ALTER TABLE always ENABLE ALWAYS TRIGGER "!pgpubsub_d_row"});
is(statements($writer, 'SET session_replication_role = replica', 'INSERT INTO t VALUES (50)', 'INSERT INTO always VALUES (51)', publishing('by hand')),
	'', 'session_replication_role is replica');
get([ 'INSERT 51', 'by hand' ], 'session_replication_role: what is ENABLE ALWAYS has events');
$writer->run('RESET session_replication_role');
is(statements($writer, 'BEGIN', 'SET LOCAL pgpubsub.muted = on', 'INSERT INTO t VALUES (52)', 'SET LOCAL pgpubsub.muted = off', 'INSERT INTO t VALUES (53)', 'COMMIT'), '', 'muted');
get(['INSERT 53'], 'what is muted has none');

# The log has them all.

$_->quit foreach $admin, $writer;
$node->stop('immediate');
$node->start;
connect_all();
get([], 'after a crash nothing comes twice');
is(reads('away', '30s'), join(',', @all), 'and who was away reads what there was');

$_->quit foreach $admin, $writer;
$node->stop('fast');
server_is_sound($node);
done_testing();
