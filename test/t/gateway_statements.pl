# What a session says and hears through the gateway is what it would on the
# server: the same messages go to both, and the answers are compared, message by
# message.  Only what the gateway refuses differs, and is looked at by itself.

use strict;
use warnings;

use PgPubsub::Gateway;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('statements');

$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');

my $gateway = start_gateway($node);

# Have both do the same, each in a session of its own; steps are functions that
# are given the session and return messages.
sub same
{
	my ($name, @steps) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @shown;

	foreach my $to ($node, $gateway)
	{
		my $session = raw_login($to);

		push @shown, join "\n--\n", map { $session->show($_->($session)) } @steps;
		$session->put(message('X', ''));
	}
	is($shown[1], $shown[0], $name);
	return;
}

# The same simple queries.
sub same_queries
{
	my (@queries) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	same(join(' | ', map { substr $_, 0, 60 } @queries),
		map { my $sql = $_; sub { $_[0]->query($sql) } } @queries);
	return;
}

# The same messages up to a Sync, some at a time.
sub same_batches
{
	my ($name, @batches) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	same($name, map { my $batch = $_; sub { $_[0]->talk($batch . message('S', '')) } } @batches);
	return;
}

# Login

my @logins;

foreach my $to ($node, $gateway)
{
	my $session = raw_login($to, application_name => 'me', client_encoding => 'utf-8');

	push @logins, $session->show(grep { $_->[0] ne 'K' } @{ $session->{login} });
}
is($logins[1], $logins[0], 'a login gives the same parameters');

# Simple queries

same_queries('');
same_queries(';');
same_queries('/* nothing */ -- here');
same_queries('SELECT 1');
same_queries('select 1 as "One", \'x\' AS y');
same_queries('SELECT');
same_queries('SELECT pg_backend_pid()');
same_queries('SELECT version(), current_schema(), current_schema, current_database(), current_catalog, current_user, session_user, user');
same_queries('SELECT pg_advisory_unlock_all()');
same_queries('SELECT 1; SELECT 2; SELECT 3');
same_queries('LISTEN a', "NOTIFY a, 'x'", 'UNLISTEN a', "NOTIFY a, 'y'", 'SELECT 1');
same_queries('LISTEN a', 'NOTIFY a', "NOTIFY a, ''");
same_queries('LISTEN "Ab c"', "NOTIFY \"Ab c\", 'it''s'", "NOTIFY ab, 'no'");
same_queries('LISTEN a', q{SELECT pg_notify('a', 'x')}, q{SELECT pg_notify(('a'),('y')) AS z}, q{SELECT pg_catalog.pg_notify('a', NULL)});
same_queries('LISTEN a; LISTEN b', "NOTIFY b, '1'; NOTIFY a, '2'; NOTIFY b, '3'; SELECT 1");
same_queries("LISTEN a; NOTIFY a, 'x'");
same_queries("NOTIFY a, 'x'; LISTEN a", "UNLISTEN *; NOTIFY a, 'y'");
same_queries('LISTEN a', "NOTIFY a, 'x'; NOTIFY a, 'x'; NOTIFY a, 'z'; NOTIFY a, 'x'");
same_queries('LISTEN ' . 'x' x 70, "NOTIFY " . 'x' x 63 . ", 'found'");
same_queries('LISTEN ' . "\xc3\xb6" x 40, "NOTIFY " . "\xc3\xb6" x 31 . ", 'found'");
same_queries('LISTEN a', "NOTIFY a, '" . 'x' x 7999 . "'");
same_queries("NOTIFY a, '" . 'x' x 8000 . "'");
same_queries(q{SELECT pg_notify('', 'x')}, q{SELECT pg_notify(NULL, 'x')}, q{SELECT pg_notify('} . 'x' x 64 . q{', 'x')});
same_queries('LISTEN a', q{NOTIFY a, E'a\\n\\x41\\101\\u00f6'}, 'NOTIFY a, $q$dollar$q$', "NOTIFY a, 'one'\n 'two'");
same_queries(q{LISTEN U&"d\0061t\+000061"}, q{NOTIFY data, 'x'}, q{NOTIFY U&"d!0061ta" UESCAPE '!', U&'\00e4\\\\'}, q{UNLISTEN U&"data"}, 'NOTIFY data');
same_queries(q{LISTEN U&"a\00"}, q{LISTEN U&"\D83D"}, q{LISTEN U&"a" UESCAPE x}, q{LISTEN U&"a" UESCAPE 'a'}, q{LISTEN U&"x\0000"}, q{LISTEN U&""});
same_queries('LISTEN a', 'SET standard_conforming_strings = off', q{NOTIFY a, U&'x'}, q{NOTIFY U&"\0061", 'x'});
same_queries('LISTEN a', 'SET escape_string_warning = off', 'SET standard_conforming_strings = off', q{NOTIFY a, 'a\\\\b'}, 'RESET ALL', q{NOTIFY a, 'a\\\\b'});

# Errors

same_queries('LISTEN');
same_queries("LISTEN 'a'");
same_queries('LISTEN a b');
same_queries('SELECT 1; LISTEN; SELECT 2');
same_queries("LISTEN a, 'b'", "NOTIFY a 'b'", "NOTIFY a, 'b", 'NOTIFY a, $x$b');
same_queries('LISTEN "a', 'LISTEN ""', 'BEGIN ISOLATION LEVEL', 'SELECT 1 /* open');
same_queries('SAVEPOINT s', 'RELEASE s', 'ROLLBACK TO s', 'COMMIT AND CHAIN', 'ROLLBACK AND CHAIN');
same_queries('CLOSE c', 'DEALLOCATE p', 'SET server_version = 1');
same_queries("SELECT '\xff'");

# Transactions

same_queries('BEGIN', 'LISTEN a', "NOTIFY a, 'x'", 'SELECT 1', 'COMMIT', 'SELECT 1');
same_queries('LISTEN a', 'BEGIN', "NOTIFY a, 'x'", 'ROLLBACK', "NOTIFY a, 'y'");
same_queries('BEGIN', 'LISTEN a', 'ROLLBACK', "NOTIFY a, 'y'");
same_queries('BEGIN', 'SAVEPOINT', 'SELECT 1', 'ROLLBACK', 'SELECT 1');
same_queries('BEGIN', 'CLOSE c', 'SELECT 1', 'LISTEN a', 'COMMIT', "NOTIFY a, 'x'");
same_queries('COMMIT', 'ROLLBACK', 'BEGIN', 'BEGIN', 'END', 'ABORT');
same_queries('LISTEN a', 'BEGIN', "NOTIFY a, '1'", 'SAVEPOINT s', "NOTIFY a, '2'", 'ROLLBACK TO s', "NOTIFY a, '3'", 'COMMIT');
same_queries('LISTEN a', 'BEGIN', 'SAVEPOINT s', 'CLOSE c', 'ROLLBACK TO SAVEPOINT s', "NOTIFY a, '3'", 'RELEASE SAVEPOINT s', 'COMMIT');
same_queries('BEGIN', 'SAVEPOINT a', 'SAVEPOINT b', 'RELEASE a', 'ROLLBACK TO b', 'ROLLBACK');
same_queries('LISTEN a', "BEGIN; NOTIFY a, '1'; COMMIT; NOTIFY a, '2'; CLOSE c; NOTIFY a, '3'", 'SELECT 1');
same_queries('LISTEN a', "NOTIFY a, '1'; BEGIN; NOTIFY a, '2'", "NOTIFY a, '3'", 'COMMIT');
same_queries('LISTEN a', "NOTIFY a, '1'; COMMIT; NOTIFY a, '2'", "NOTIFY a, '1'; ROLLBACK; NOTIFY a, '2'");
same_queries('LISTEN a', 'BEGIN', "NOTIFY a, '1'", 'COMMIT AND CHAIN', "NOTIFY a, '2'", 'ROLLBACK AND CHAIN', "NOTIFY a, '3'", 'COMMIT');
same_queries('BEGIN ISOLATION LEVEL SERIALIZABLE', 'SHOW TRANSACTION ISOLATION LEVEL', 'COMMIT', 'SHOW transaction_isolation');
same_queries('BEGIN READ ONLY', 'LISTEN a', 'COMMIT', 'START TRANSACTION', 'COMMIT WORK', 'begin transaction isolation level repeatable read, read write, not deferrable', 'SHOW TRANSACTION ISOLATION LEVEL', 'end');
same_queries('SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY', 'SHOW transaction_isolation', 'SHOW transaction_read_only', 'BEGIN', 'SHOW TRANSACTION ISOLATION LEVEL', 'SHOW transaction_read_only', 'COMMIT',
	'SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE', 'SHOW default_transaction_read_only', 'BEGIN ISOLATION LEVEL READ COMMITTED', 'SHOW TRANSACTION ISOLATION LEVEL', 'SET TRANSACTION READ ONLY', 'SHOW transaction_read_only', 'COMMIT', 'SHOW transaction_read_only', 'RESET ALL', 'SHOW transaction_isolation');
same_queries('SHOW transaction_read_only', 'BEGIN', 'SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ', 'SHOW transaction_isolation', 'ROLLBACK', 'SHOW transaction_isolation', "SET default_transaction_isolation = 'repeatable read'", 'SHOW transaction_isolation');

# Settings

same_queries("SET application_name = 'x'", 'SHOW application_name', 'RESET application_name', 'SHOW application_name');
same_queries('BEGIN', "SET application_name = 'x'", 'ROLLBACK', 'SHOW application_name');
same_queries('BEGIN', "SET LOCAL application_name = 'x'", 'SHOW application_name', 'COMMIT', 'SHOW application_name');
same_queries('BEGIN', "SET application_name = 'x'", 'SAVEPOINT s', "SET application_name = 'y'", 'ROLLBACK TO s', 'COMMIT', 'SHOW application_name');
same_queries("SET TIME ZONE 'Europe/Berlin'", 'SHOW TIME ZONE', 'SHOW timezone', "SET timezone TO 'UTC'", 'RESET TIME ZONE');
same_queries('SHOW server_version', 'SHOW client_encoding', 'SHOW server_encoding', "SET client_encoding TO 'utf-8'", "SET NAMES 'UTF8'");
same_queries('SET extra_float_digits = 3', 'SET statement_timeout TO 0', 'SHOW extra_float_digits');
same_queries('LISTEN a', "SET application_name = 'x'", 'DISCARD ALL', 'SHOW application_name', "NOTIFY a, 'x'");
same_queries('BEGIN', 'DISCARD ALL', 'ROLLBACK', 'DISCARD PLANS', 'DISCARD TEMP', 'DISCARD SEQUENCES');
same_queries('CLOSE ALL', 'DEALLOCATE ALL', 'RESET SESSION AUTHORIZATION');
same_queries("SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;");

# The extended protocol

my $sync = message('S', '');

same_batches('an empty one', '');
same_batches('SELECT 1',
	parse_message('', 'SELECT 1') . bind_message('', '') . describe_message('P', '') . execute_message(''));
same_batches('SELECT 1, binary',
	parse_message('', 'select 1') . bind_message('', '', [], [1]) . describe_message('P', '') . execute_message(''));
same_batches('an empty statement',
	parse_message('', '') . describe_message('S', '') . bind_message('', '') . describe_message('P', '') . execute_message('', 1));
same_batches('LISTEN and NOTIFY',
	parse_message('l', 'LISTEN a') . describe_message('S', 'l') . bind_message('', 'l') . execute_message(''),
	parse_message('n', "NOTIFY a, 'x'") . bind_message('', 'n') . execute_message(''),
	bind_message('', 'n') . execute_message('') . bind_message('', 'n') . execute_message(''),
	close_message('S', 'n') . close_message('S', 'none') . close_message('P', 'none'),
	bind_message('', 'n'));
same_batches('pg_notify with parameters',
	parse_message('l', 'LISTEN a') . bind_message('', 'l') . execute_message(''),
	parse_message('p', 'SELECT pg_notify($1, $2)') . describe_message('S', 'p'),
	bind_message('', 'p', [ 'a', 'x' ]) . describe_message('P', '') . execute_message(''),
	bind_message('', 'p', [ 'a', undef ], [1]) . execute_message('', 1),
	bind_message('', 'p', [ '', 'x' ]) . execute_message(''),
	bind_message('', 'p', ['a']) . execute_message(''),
	bind_message('', 'p', [ 'a', "\xff" ]) . execute_message(''));
same_batches('types of parameters',
	parse_message('p', 'SELECT pg_notify($1, $2)', 1043, 1043) . describe_message('S', 'p'),
	parse_message('q', 'SELECT pg_notify($1, $2)', 25) . describe_message('S', 'q'),
	parse_message('p', 'SELECT 1'));
same_batches('portals',
	parse_message('', 'SELECT 1') . bind_message('', '') . execute_message('', 1) . execute_message('', 1) . execute_message(''),
	parse_message('', 'SELECT 1') . bind_message('p', '') . describe_message('P', 'p') . execute_message('p'),
	execute_message('p'),
	describe_message('P', 'p'),
	describe_message('S', 'none'));
same_batches('errors, and what is passed over',
	parse_message('', 'LISTEN') . bind_message('', '') . execute_message(''),
	parse_message('', 'SELECT 1; SELECT 2'),
	parse_message('', 'SELECT 1') . bind_message('', '') . execute_message(''));
same_batches('transactions',
	parse_message('', 'LISTEN a') . bind_message('', '') . execute_message(''),
	parse_message('', 'BEGIN') . bind_message('', '') . execute_message('') . parse_message('', "NOTIFY a, '1'") . bind_message('', '') . execute_message(''),
	parse_message('', 'SHOW TRANSACTION ISOLATION LEVEL') . bind_message('', '') . describe_message('P', '') . execute_message(''),
	parse_message('', 'COMMIT') . bind_message('', '') . execute_message(''),
	parse_message('', "NOTIFY a, '2'") . bind_message('', '') . execute_message('') . parse_message('', "CLOSE c") . bind_message('', '') . execute_message(''),
	parse_message('', 'SELECT 1') . bind_message('', '') . execute_message(''));
same('queries and batches, mixed and pipelined',
	sub { $_[0]->talk(message('Q', "LISTEN a\0") . message('Q', "NOTIFY a, '1'\0") . message('Q', "SELECT 1\0"), 3) },
	sub { $_[0]->talk(parse_message('', "NOTIFY a, '2'") . bind_message('', '') . execute_message('') . $sync . message('Q', "SELECT 2\0"), 2) },
	sub { $_[0]->talk(parse_message('', 'SELECT 1') . message('H', '') . bind_message('', '') . execute_message('') . $sync) });

# What is refused, and leaves the session as it was

my $session = raw_login($gateway);

foreach my $sql ('SELECT * FROM pg_class', 'CREATE TABLE t ()', "SELECT pg_notify('a', 'b') FROM pg_class",
	'SET ROLE x', 'COPY t FROM stdin', "PREPARE TRANSACTION 'x'", 'LISTEN "a*"', 'LISTEN pgpubsub', "NOTIFY pgpubsub, 'x'")
{
	like($session->show($session->query($sql)), qr/^E ERROR 0A000 .*\nZ I$/, "$sql is refused");
}
like($session->show($session->query("SET client_encoding TO 'LATIN1'")), qr/^E ERROR 22023 .*\nZ I$/, 'another encoding is refused');
like($session->show($session->query('BEGIN; LISTEN a; SELECT now()')), qr/E ERROR 0A000 .*\nZ E$/, 'a block has failed then');
like($session->show($session->query('ROLLBACK')), qr/^C ROLLBACK\nZ I$/, 'and is rolled back');
like($session->show($session->talk(message('F', pack('N n n n', 1, 0, 0, 0)))), qr/^E ERROR 0A000/, 'a function call');

is($gateway->stop, 0, 'the gateway ends by SIGTERM');
is($node->safe_psql('postgres', 'SELECT count(*) FROM pgpubsub.stat_subscriptions'), 0, 'and drops its subscription');

done_testing();
