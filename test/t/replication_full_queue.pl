# A queue that nobody reads does not stop logical replication: an apply worker
# with an ENABLE ALWAYS trigger waits for publish_timeout, and then goes over the
# limit; so does the worker that copies a table.  For durable channels, which such
# a queue does not concern, the same holds while the relay stands still.  A prepared transaction that
# arrives with events is refused with a hint that works.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $publisher = new_server(
	'full_publisher',
	init => { allows_streaming => 'logical' },
	conf => 'max_prepared_transactions = 5');
my $subscriber = new_server('full_subscriber', conf => q{
pgpubsub.queue_size = 64kB
pgpubsub.staging_size = 64kB
pgpubsub.publish_timeout = 50ms
wal_retrieve_retry_interval = 100ms
max_prepared_transactions = 5
});
my @modes = qw(transactional async durable);
$subscriber->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
wait_for_relay($subscriber, 'postgres');
foreach my $node ($publisher, $subscriber)
{
	foreach my $mode (@modes)
	{
		foreach my $table ($mode, "copied_$mode", "huge_$mode", "prepared_$mode")
		{
			$node->safe_psql('postgres', "CREATE TABLE $table (id int PRIMARY KEY, v text)");
			$subscriber->safe_psql(
				'postgres', qq{
				SELECT pgpubsub.attach('$table', publish_mode => '@{[ $mode eq 'async' ? 'async' : 'transactional' ]}', columns => '{id}',
					durable => @{[ $mode eq 'durable' ? 'true' : 'NULL' ]});
				ALTER TABLE $table ENABLE ALWAYS TRIGGER "!pgpubsub_${table}_row"}) if $node == $subscriber;
		}
	}
}
my $admin = client($subscriber);
$admin->run("SELECT pgpubsub.subscribe('s', '{transactional,async,durable,copied*,huge*}', 'block')");
my $source = $publisher->connstr . ' dbname=postgres';
$publisher->safe_psql('postgres', 'CREATE PUBLICATION p FOR TABLE ' . join(', ', @modes));
$subscriber->safe_psql('postgres',
	"CREATE SUBSCRIPTION sub CONNECTION '$source' PUBLICATION p");

sub synchronized
{
	return $subscriber->poll_query_until('postgres',
		"SELECT count(*) = $_[0] FROM pg_subscription_rel WHERE srsubstate IN ('r', 's')");
}

# The queue is full of the subscriber's own events, and of what waits for them.
synchronized(3);
my $own = 0;
for (; $admin->queue('relay_state') ne 'full' && $own < 1000; $own++)
{
	$admin->query("SELECT pgpubsub.publish('transactional', repeat('x', 1000))");
	last if $admin->{error};
}
is($admin->queue('relay_state'), 'full', 'the queue is full');
$admin->query("SELECT pgpubsub.publish('transactional', 'x')");
is($admin->sqlstate, '53400', 'a session gets an error');

foreach my $mode (@modes)
{
	$publisher->safe_psql('postgres', join ';', map { "INSERT INTO $mode VALUES ($_)" } 1 .. 5);
	$publisher->wait_for_catchup('sub');
	is($admin->value("SELECT count(*) FROM $mode"), 5, "$mode: the apply worker goes on");
}

# More than the staging queue can hold at once, and more than it can hold at all.
$publisher->safe_psql('postgres', "INSERT INTO async SELECT generate_series(6, 155)");
$publisher->safe_psql('postgres', "INSERT INTO async SELECT generate_series($_, $_ + 9)") foreach 156, 166;
$publisher->safe_psql('postgres', "INSERT INTO async SELECT generate_series(176, 1000)");
$publisher->wait_for_catchup('sub');
is($admin->value('SELECT count(*) FROM async'), 1000, 'async: with large transactions too');

# The relay stands still, and its staging queue for durable channels is full.
my $relay = relay_pid($subscriber, 'postgres');
stop_process($admin, $relay);
my $durable = 0;
for (; $durable < 1000; $durable++)
{
	$admin->query("SELECT pgpubsub.publish('durable', repeat('x', 1000))");
	last if $admin->{error};
}
is($admin->sqlstate, '53400', 'the staging queue of durable channels is full');
$publisher->safe_psql('postgres', "INSERT INTO durable VALUES ($_)") foreach 6 .. 10;
$publisher->safe_psql('postgres', 'INSERT INTO durable SELECT generate_series(11, 2000)');
$publisher->wait_for_catchup('sub');
is($admin->value('SELECT count(*) FROM durable'), 2000, 'durable: the apply worker goes on');
kill 'CONT', $relay;

# The workers that copy a table
foreach my $mode (@modes)
{
	$publisher->safe_psql(
		'postgres', qq{
		INSERT INTO copied_$mode SELECT generate_series(1, 10);
		INSERT INTO huge_$mode SELECT generate_series(1, 1000);
		ALTER PUBLICATION p ADD TABLE copied_$mode, huge_$mode});
}
$subscriber->safe_psql('postgres', 'ALTER SUBSCRIPTION sub REFRESH PUBLICATION');
ok(synchronized(9), 'tables are copied');
foreach my $mode (@modes)
{
	is($admin->value("SELECT count(*) FROM copied_$mode") + $admin->value("SELECT count(*) FROM huge_$mode"),
		1010, "$mode: all rows are there");
}
is($admin->queue('relay_state'), 'full', 'the queue is still full');

# A prepared transaction
my $offset = log_offset($subscriber);
$publisher->safe_psql('postgres', 'CREATE PUBLICATION prepared FOR TABLE ' . join(', ', map { "prepared_$_" } @modes));
$subscriber->safe_psql('postgres',
	"CREATE SUBSCRIPTION prepared CONNECTION '$source' PUBLICATION prepared WITH (two_phase = true)");
ok(synchronized(12), 'more tables');
$subscriber->poll_query_until('postgres', "SELECT subtwophasestate = 'e' FROM pg_subscription WHERE subname = 'prepared'");
$publisher->safe_psql('postgres', "BEGIN; INSERT INTO prepared_$_ VALUES (0); PREPARE TRANSACTION '$_'") foreach @modes;
$subscriber->wait_for_log(qr/ERROR: .*cannot PREPARE a transaction that has published events/, $offset);
$subscriber->wait_for_log(qr/HINT: .*ALTER ROLE \.\.\. SET/, $offset);
$admin->run('ALTER ROLE CURRENT_USER SET pgpubsub.muted = on');
$subscriber->poll_query_until('postgres', 'SELECT count(*) = 3 FROM pg_prepared_xacts');
$publisher->safe_psql('postgres', "COMMIT PREPARED '$_'") foreach @modes;
$publisher->wait_for_catchup('prepared');
is($admin->value('SELECT ' . join(' + ', map { "(SELECT count(*) FROM prepared_$_)" } @modes)),
	3, 'a muted role gets prepared transactions');

# All events are there, each once.
my %seen;
my $gaps = 0;
for (my $count = 0; $count < $own + 5 + 1000 + $durable + 2000 + 3 * 1010;)
{
	my @new = $admin->run("SELECT channel, payload, lost FROM pgpubsub.poll('s', 1000, '30s')");

	last unless @new;
	$count += @new;
	foreach my $row (@new)
	{
		$gaps++ if $row->[2];
		next unless ($row->[1] // '') =~ /"id":(\d+)\}/;
		push @{ $seen{ $row->[0] } }, $1;
	}
}
is($gaps, 0, 'nothing is lost');
foreach my $mode (@modes)
{
	my $rows = { transactional => 5, async => 1000, durable => 2000 }->{$mode};

	is(join(' ', @{ $seen{"copied_$mode"} }), join(' ', 1 .. 10), "$mode: events of the copy");
	is(join(' ', @{ $seen{"huge_$mode"} }), join(' ', 1 .. 1000), "$mode: events of the large copy");
	is(join(' ', sort { $a <=> $b } @{ $seen{$mode} }), join(' ', 1 .. $rows), "$mode: events of the apply worker");
}
is(join("\n", grep { /replication worker ERROR:  queue is full/ } split /\n/, slurp_file($subscriber->logfile)),
	'', 'no worker has found the queue full');

$subscriber->stop('fast');
$publisher->stop('fast');
server_is_sound($subscriber);
done_testing();
