# A queue that stays full for as long as it likes: the relay goes on with
# everything else.  It holds back no xmin, nobody's CREATE INDEX CONCURRENTLY,
# core's NOTIFY queue or a DROP DATABASE, and what it has received meanwhile
# is all there afterwards.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

# What the relay keeps in memory, and what it may have besides, in kB; what a
# sanitizer keeps of its own can be a lot
my $buffer = 64 * 1024;
my $spare  = ($ENV{SANITIZED} ? 512 : 16) * 1024;

my $node = new_server('never_waits', conf => q{
pgpubsub.queue_size = 64kB
pgpubsub.publish_timeout = 5s
autovacuum = off
log_statement = none
});
$node->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(shop other);
$node->safe_psql($_, 'CREATE EXTENSION pgpubsub') foreach qw(shop other);
my $admin = client($node, 'shop');
$admin->run("SET pgpubsub.publish_timeout = '30s'");
$admin->run("SELECT pgpubsub.subscribe('blocking', '{bulk}', 'block')");
my $relay = relay_pid($node, 'shop');

sub is_full
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is( $admin->queue('relay_state'),
		'full', $name);
}

# Notifications number themselves; hundreds to a transaction.
$admin->run(
	q{
	CREATE TABLE peak (usage float);
	CREATE PROCEDURE notify_bulk(first int, last int, bytes int) LANGUAGE plpgsql AS $$
	DECLARE
		padding text := repeat('x', bytes);
	BEGIN
		FOR i IN first .. last LOOP
			PERFORM pg_notify('bulk', i || ' ' || padding);
			IF i % 250 = 0 THEN
				COMMIT;
				INSERT INTO peak SELECT pg_notification_queue_usage();
			END IF;
		END LOOP;
	END $$});

$admin->run('CALL notify_bulk(1, 250, 7900)');
$admin->wait_for_queue("relay_state = 'full'");
cmp_ok(resident_memory($relay), '>', 0, 'the memory of the relay can be seen');

# xmin, vacuum, CREATE INDEX CONCURRENTLY

$admin->run('CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) AS i');
my $xid = $admin->value('SELECT pg_current_xact_id()');
$admin->run('UPDATE t SET i = i + 1') for 1 .. 3;
ok( wait_until(
		sub {
			# it reads what comes in one, but not for long
			$admin->value(
				"SELECT count(*) FROM pg_stat_activity WHERE pid = $relay AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL OR xact_start IS NOT NULL)"
			) == 0;
		},
		'the end of a transaction'),
	'the relay is in no transaction');
cmp_ok($admin->value('SELECT pg_snapshot_xmin(pg_current_snapshot())'),
	'>', $xid, 'xmin moves');
my ($ret, $stdout, $stderr) = $node->psql('shop', 'VACUUM (VERBOSE) t');
like($stderr, qr/ 0 are dead but not yet removable/,
	'VACUUM can remove all that is dead');
$admin->run("SET statement_timeout = '30s'");
$admin->run('CREATE INDEX CONCURRENTLY ON t (i)');
pass('CREATE INDEX CONCURRENTLY ends');
$admin->run('REINDEX TABLE CONCURRENTLY t');
pass('and so does REINDEX CONCURRENTLY');
is_full('while the queue is full');

# New subscriptions come and go.

is($admin->value("SELECT pgpubsub.subscribe('new', '{bulk,else}', 'block')"),
	't', 'subscribe() returns');
is($admin->value("SELECT pgpubsub.subscribe('new', '{b*}', 'evict')"),
	'f', 'also when it changes a subscription');
is($admin->value("SELECT pgpubsub.unsubscribe('new')"), 't', 'unsubscribe() returns');
wait_until(
	sub {
		$admin->value(
			"SELECT count(*) FROM pgpubsub.stat_subscriptions WHERE subscription = 'new'"
		) == 0;
	},
	'the end of the subscription');
$admin->run('SELECT pgpubsub.subscribe($$temporary$$, $${bulk}$$, temporary => true)');
pass('a temporary one too');
is_full('while the queue is full');

# 220 MB of bare notifications

my $last = 28000;
my $bulk = client($node, 'shop');
$bulk->begin("CALL notify_bulk(251, $last, 7900)");
my $memory = 0;
until ($bulk->done)
{
	my $now = resident_memory($relay);

	$memory = $now if $now > $memory;
	$admin->value('SELECT 1');
}
is($bulk->sqlstate, '', 'bare notifications do not wait');
ok( wait_until(
		sub { $admin->value('SELECT pg_notification_queue_usage()') == 0 },
		'an empty NOTIFY queue'),
	'the relay empties core\'s queue');
cmp_ok($admin->value('SELECT max(usage) FROM peak'),
	'<', 0.01, 'which has never had much');
$memory = resident_memory($relay) if resident_memory($relay) > $memory;
cmp_ok($memory, '<', $buffer + $spare, 'the memory of the relay is bounded');
cmp_ok(temporary_bytes($admin, $relay), '>', 100_000_000, 'the rest is in a temporary file');
is_full('the queue is still full');
ok( wait_until(
		sub {
			$admin->value(
				"SELECT count(*) FROM pg_stat_activity WHERE pid = $relay AND backend_xmin IS NOT NULL"
			) == 0;
		},
		'the end of a transaction'),
	'the relay holds no xmin');
$admin->run('DROP INDEX CONCURRENTLY t_i_idx');
pass('DROP INDEX CONCURRENTLY ends');
$bulk->quit;

# Everything is there, in order.

my ($next, $wrong) = (1, 0);
$admin->run('RESET statement_timeout');
while ($next <= $last)
{
	my @rows = $admin->run(
		"SELECT split_part(payload, ' ', 1), length(payload), lost FROM pgpubsub.poll('blocking', 1000, '10s')"
	);

	last unless @rows;
	foreach my $row (@rows)
	{
		$wrong++
		  if defined $row->[2]
		  || $row->[0] != $next
		  || $row->[1] != 7901 + length $next;
		$next++;
	}
}
is($next - 1, $last, 'all is read that was notified');
is($wrong,    0,     'whole and in order');
ok( $admin->wait_for_queue("relay_state = 'listening'"),
	'the queue is not full any more');
is(temporary_bytes($admin, $relay), 0, 'the temporary file is gone, or empty');
cmp_ok(resident_memory($relay), '<', $buffer + $spare, 'and the memory bounded on');
is($admin->subscription('blocking', 'lost'),
	0, 'nothing was lost');
is(relay_pid($node, 'shop'), $relay, 'it was one relay all the time');

# It works as before, and spills once more.

$admin->run('CALL notify_bulk(1, 20000, 7900)');
ok(wait_until(sub { temporary_bytes($admin, $relay) > 10_000_000 }, 'a file'),
	'the next flood goes to a file again');

# Beyond 1 GB of file, one that blocks is evicted too; the number of what it
# has missed is exact all the same.

my $offset = log_offset($node);
$last = 170000;
$admin->run("CALL notify_bulk(20001, $last, 7900)");
ok( wait_until(
		sub {
			$admin->subscription('blocking', 'state') eq 'evicted';
		},
		'the last resort'),
	'beyond 1 GB a subscription that blocks is evicted');
$node->wait_for_log(qr/evicted subscription "blocking"/, $offset);
ok( wait_until(
		sub {
			$admin->value('SELECT pg_notification_queue_usage()') == 0
			  && $admin->queue('relay_state') eq 'listening';
		},
		'the end of the full queue'),
	'the queue is open again');
cmp_ok(resident_memory($relay), '<', $buffer + $spare, 'the memory of the relay was bounded');

# when subscribe() returns, what was sent before is in the queue
$admin->run("SELECT pgpubsub.subscribe('settled', '{settled}', 'drop', temporary => true)");
my @rows = $admin->run(
	"SELECT split_part(payload, ' ', 1), lost FROM pgpubsub.poll('blocking', 1000)");
my $gap = shift @rows;
is($gap->[1] + @rows, $last, 'its gap row has the exact number');
is(join(' ', map { $_->[0] } @rows),
	join(' ', ($last - $#rows) .. $last), 'and the newest are there');

# Databases can be dropped while the queue is full.

$admin->run('CALL notify_bulk(1, 1000, 7900)');
$admin->wait_for_queue("relay_state = 'full'");

is_full('the queue is full again');
$admin->run('SET statement_timeout = 0');
$admin->quit;
$admin = client($node, 'postgres');
$admin->run("SET statement_timeout = '30s'");
$admin->run('DROP DATABASE other');
pass('another database can be dropped');
ok( wait_until(
		sub {
			$admin->value(
				"SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop' AND backend_type = 'client backend'"
			) == 0;
		},
		'end of the sessions'),
	'nobody is connected');
is(relay_pid($node, 'shop'), $relay, 'the relay is still the same');
$admin->run('DROP DATABASE shop');
pass('and so can this one');
is(relay_pid($node, 'shop'), '', 'the relay is gone');
is( $admin->value('SELECT count(*) FROM pg_ls_tmpdir()'),
	0, 'and so is its temporary file');
$node->stop('fast');
server_is_sound($node);
done_testing();
