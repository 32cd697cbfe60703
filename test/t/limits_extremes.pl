# The long haul and the far ends: seqs near 2^63, transaction ids beyond 2^32,
# arguments at the ends of bigint, slots used over and over, and the smallest
# and the largest settings.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $max    = '9223372036854775807';
my $client;

# What the last shutdown saved as the highest seq.
sub save_seq
{
	my ($node, $seq, %params) = @_;
	my $magic = unpack 'Q', scalar reverse 'pgpubsub';
	my $path  = $node->data_dir . '/pg_stat/pgpubsub.seq';

	open my $out, '>:raw', $path or die "could not write $path: $!";
	print $out pack 'QQQ', $magic, $seq, $params{check} // ($magic ^ $seq);
	close $out;
}

sub saved_seq
{
	my ($node) = @_;

	return (unpack 'QQQ', slurp_file($node->data_dir . '/pg_stat/pgpubsub.seq'))[1];
}

# It works: events are read, looked at, acked, and lost ones are counted.
sub works
{
	my ($node, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$client = client($node);
	$client->run('SELECT pgpubsub.unsubscribe(name) FROM pgpubsub.subscription');
	$client->run("SELECT pgpubsub.subscribe('s', '{c}', 'drop')");
	$client->run("SELECT pgpubsub.publish('c', i::text) FROM generate_series(1, 10) AS i");
	my @rows = $client->run("SELECT seq, payload FROM pgpubsub.poll('s', 3, '60s', consume => false)");
	push @rows, $client->run("SELECT seq, payload FROM pgpubsub.poll('s', 3, '60s', consume => false)")
	  while @rows < 3;
	@rows = @rows[ -3 .. -1 ];
	is(join(' ', map { $_->[1] } @rows), '1 2 3', "$name: a look");
	is($client->value("SELECT pgpubsub.ack('s', $rows[1][0])"), 2, "$name: an ack");
	my @rest;
	push @rest, $client->run("SELECT seq, payload FROM pgpubsub.poll('s', 100, '60s')") while @rest < 8;
	is(join(' ', map { $_->[1] } @rest), '3 4 5 6 7 8 9 10', "$name: a poll");
	is($rest[0][0], $rows[2][0], "$name: the same seq");
	is($client->subscription('s', 'seq'),
		$rest[-1][0], "$name: the view says the last one");
	$client->run("SELECT pgpubsub.unsubscribe('s')");
	return $rest[-1][0];
}

my $node = new_server('bounds', init => { allows_streaming => 1 }, conf => q{
pgpubsub.queue_size = 100kB
log_statement = none
});
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
my $first = works($node, 'at first');

# ----------------------------------------------------------------------------
# seq
# ----------------------------------------------------------------------------

# Far in the future: seqs go on behind what was saved.
foreach my $power (53, 61)
{
	my $high = (1 << $power) - 5;

	$node->stop('fast');
	save_seq($node, $high);
	$node->start;
	my $seq = works($node, "seqs around 2^$power");
	cmp_ok($seq, '>', (1 << $power), 'they are that high');
	$node->restart;
	cmp_ok(works($node, 'after another restart'), '>', $seq, 'and go on');
}

# More than can ever have been given out is not believed; no seq is negative.
foreach my $high ($max - 1000, $max, 9223372036854775808 + 5, ~0)
{
	my $offset = log_offset($node);

	$node->stop('fast');
	save_seq($node, $high);
	$node->start;
	like(
		slurp_file($node->logfile, $offset),
		qr/LOG:  ignored invalid data in file "pg_stat\/pgpubsub.seq"/,
		"$high in the file is ignored");
	my $seq = works($node, "$high in the file");
	cmp_ok($seq, '>', $first, 'seqs go on with the clock');
	cmp_ok($seq, '<', 1 << 61, 'and not with that');
}
my $offset = log_offset($node);
$node->stop('fast');
save_seq($node, 1 << 61, check => 1);
$node->start;
like(slurp_file($node->logfile, $offset), qr/LOG:  ignored invalid data in file/, 'a wrong check sum is noticed');
cmp_ok(works($node, 'a wrong check sum'), '<', 1 << 61, 'nor is a wrong check sum believed');
my $newest = $client->queue('newest_seq');
$node->stop('fast');
is(saved_seq($node), $newest, 'the newest is saved');
$node->start;

# ----------------------------------------------------------------------------
# Arguments
# ----------------------------------------------------------------------------

$client = client($node);
$client->run("SELECT pgpubsub.subscribe('s', '{c}')");
$client->run("SELECT pgpubsub.publish('c', i::text) FROM generate_series(1, 3) AS i");
$client->settle;
$newest = $client->queue('newest_seq');

sub fails
{
	my ($sql, $sqlstate, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$client->query($sql);
	is($client->sqlstate, $sqlstate, $name);
	ok($client->{error}{H}, 'with a hint') if $client->{error} && $sqlstate ne '22003';
}

fails("SELECT pgpubsub.ack('s', $_)", '22023', "ack($_)") foreach $max, $newest + 1, -1, "-$max - 1";
is($client->value("SELECT pgpubsub.ack('s', 0)"),           0, 'ack(0) acks nothing');
is($client->value("SELECT pgpubsub.ack('s', 1)"),           0, 'ack(1) neither');
is($client->value("SELECT pgpubsub.ack('s', $newest - 3)"), 0, 'nor one below the first');
is($client->value("SELECT pgpubsub.ack('s', $newest)"),     3, 'ack of the newest acks all');
is($client->value("SELECT pgpubsub.ack('s', $newest)"),     0, 'once');

fails("SELECT pgpubsub.subscribe('t', '{c}', start_at => '$_')", '22023', "start_at $_")
  foreach $max, $newest + 2, '9223372036854775808', '18446744073709551616', '-1', "-${max}9", '1e3', '0x10', '', '1 ', 'NOW';
is($client->value("SELECT count(*) FROM pgpubsub.stat_subscriptions WHERE subscription = 't'"),
	0, 'none of them left a subscription');
is($client->value("SELECT pgpubsub.subscribe('t', '{c}', start_at => '" . ($newest + 1) . "')"),
	't', 'start_at the next one');
is($client->value("SELECT count(*) FROM pgpubsub.poll('t')"), 0, 'reads nothing yet');
$client->run("SELECT pgpubsub.unsubscribe('t')");
$client->run("SELECT pgpubsub.subscribe('t', '{c}', start_at => '" . ($newest - 1) . "')");
is($client->value("SELECT string_agg(payload, ' ') FROM pgpubsub.poll('t')"), '2 3', 'start_at one that is there');
$client->run("SELECT pgpubsub.unsubscribe('t')");
foreach my $low (0, 1, $newest - 10)
{
	$client->run("SELECT pgpubsub.subscribe('t', '{c}', start_at => '$low')");
	is($client->value("SELECT string_agg(coalesce(payload, lost::text), ' ') FROM pgpubsub.poll('t')"),
		'-1 1 2 3', "start_at $low: a gap, and all there is");
	$client->run("SELECT pgpubsub.unsubscribe('t')");
}

fails("SELECT * FROM pgpubsub.poll('s', $_)", '22023', "max_messages $_") foreach 0, -1, '-2147483648';
fails("SELECT * FROM pgpubsub.poll('s', -9223372036854775808)", '22023', 'the least max_messages');
fails("SELECT * FROM pgpubsub.poll('s', 9223372036854775808)", '42883', 'max_messages beyond bigint');
$client->run("SELECT pgpubsub.publish('c', '3')");
is($client->value("SELECT payload FROM pgpubsub.poll('s', 9223372036854775807, '30s')"), 3, 'max_messages beyond int');
$client->run("SELECT pgpubsub.publish('c', '4')");
is($client->value("SELECT payload FROM pgpubsub.poll('s', 2147483647, '178000000 years')"),
	4, 'the most messages and the longest timeout');
fails("SELECT * FROM pgpubsub.poll('s', 1, '$_')", '22023', "timeout $_")
  foreach '-1 us', '-178000000 years', '1 month -100 days';
$client->run("SET pgpubsub.max_poll_wait = 1");
is(scalar $client->run("SELECT * FROM pgpubsub.poll('s', 1, '178000000 years')"),
	0, 'a timeout is cut to max_poll_wait');
$client->quit;

# ----------------------------------------------------------------------------
# Transaction ids
# ----------------------------------------------------------------------------

# Epoch 5 makes full transaction ids exceed 2^32; twenty ids later it is epoch
# 6.  What is there has to be frozen, as it would seem to be of the future.
$client = client($node);
$client->run("CREATE TABLE t (id int PRIMARY KEY)");
$client->run("SELECT pgpubsub.attach('t')");
$client->run("SELECT pgpubsub.subscribe('x', '{t}')");
$client->quit;
$node->safe_psql($_, 'VACUUM (FREEZE)') foreach qw(template1 postgres);
$node->stop('fast');
my $xid = 4294967296 - 20;

# the new id's page of the commit log has to be there
my $log = $node->data_dir . sprintf '/pg_xact/%04X', int($xid / (8192 * 4 * 32));
open my $out, '>:raw', $log or die "could not write $log: $!";
print $out "\0" x (32 * 8192);
close $out;
command_ok([ 'pg_resetwal', '-e', 5, '-x', $xid, $node->data_dir ], 'pg_resetwal');
$node->start;
wait_for_relay($node, 'postgres');
$client = client($node);

# Each insert is a transaction; its id is the event's.
my %ids;
foreach my $i (1 .. 50)
{
	my $mode = $i % 2 ? 'transactional' : 'async';

	$client->run("SET pgpubsub.publish_mode = '$mode'");
	$ids{$i} = $client->value(
		"WITH new AS (INSERT INTO t VALUES ($i) RETURNING id) SELECT pg_current_xact_id() FROM new");
}
my %events;
while (keys %events < keys %ids)
{
	my @new = $client->run(
		"SELECT payload::json #>> '{new,id}', payload::json ->> 'id', payload::json ->> 'txid', lost FROM pgpubsub.poll('x', 1000, '60s')"
	);

	last unless @new;
	$events{ $_->[0] } = "$_->[1] $_->[2]" foreach grep { !defined $_->[3] } @new;
}
is(join(', ', map { $events{$_} // 'none' } 1 .. 50),
	join(', ', map { "$ids{$_}-1 $ids{$_}" } 1 .. 50),
	'change events have the full transaction ids');
cmp_ok($ids{1},  '>', 5 << 32, 'which exceed 2^32');
cmp_ok($ids{1},  '<', 6 << 32, 'begin in epoch 5');
cmp_ok($ids{50}, '>', 6 << 32, 'and end in epoch 6');
$client->quit;
$node->stop('fast');
server_is_sound($node);

# ----------------------------------------------------------------------------
# Slots
# ----------------------------------------------------------------------------

# The smallest of everything; each slot is used over and over.
$node = new_server('smallest', conf => q{
pgpubsub.queue_size = 64kB
pgpubsub.staging_size = 64kB
pgpubsub.max_subscriptions = 1
pgpubsub.max_channels = 8
pgpubsub.max_databases = 1
pgpubsub.max_payload = 1kB
log_statement = none
});
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
works($node, 'the smallest settings');
my $times = $ENV{PGPUBSUB_REUSE} // 3000;
$client->run(
	q{CREATE PROCEDURE reuse(times int) LANGUAGE plpgsql AS $$
	DECLARE
		event record;
	BEGIN
		FOR i IN 1 .. times LOOP
			PERFORM pgpubsub.subscribe('s' || i, ARRAY['n' || i], 'drop', temporary => true);
			IF i % 100 = 0 THEN
				COMMIT;
				PERFORM pgpubsub.publish('n' || i, 'event');
				-- what fills the queue: records of old channels go
				PERFORM pgpubsub.publish('n' || i, j || repeat('x', 1000)) FROM generate_series(1, 80) AS j;
				COMMIT;
				SELECT * INTO event FROM pgpubsub.poll('s' || i, 1, '60s');
				IF event.lost IS NULL AND (event.channel, event.payload) IS DISTINCT FROM ('n' || i, 'event') THEN
					RAISE 'n% has %', i, event;
				END IF;
			END IF;
			IF NOT pgpubsub.unsubscribe('s' || i) THEN
				RAISE 'no subscription s%', i;
			END IF;
			COMMIT;
		END LOOP;
	END $$});
my $start = time;
{
	local $PostgreSQL::Test::Utils::timeout_default = 3600;

	$client->run("CALL reuse($times)");
}
note "$times subscriptions took " . (time - $start) . ' s';
is($client->value('SELECT count(*) FROM pgpubsub.stat_subscriptions'),
	0, "$times subscriptions have come and gone in one slot");
cmp_ok($client->value('SELECT count(*) FROM pgpubsub.stat_channels'),
	'<=', 8, 'and as many channels in eight');
works($node, 'after that');

# A row for which there is no room: it can be dropped.
$client->run("SELECT pgpubsub.subscribe('first', '{c}')");
$client->run("INSERT INTO pgpubsub.subscription (name, owner, channels, on_full) VALUES ('second', 'postgres', '{c}', 'drop')");
$node->wait_for_log(qr/WARNING:  too many subscriptions/);
$client->run('CREATE ROLE nobody; GRANT USAGE ON SCHEMA pgpubsub TO nobody; GRANT EXECUTE ON FUNCTION pgpubsub.unsubscribe TO nobody; SET ROLE nobody');
is($client->value("SELECT pgpubsub.unsubscribe('second')"), 'f', 'another role cannot drop what there is no room for');
$client->run('RESET ROLE');
is($client->value("SELECT pgpubsub.unsubscribe('second')"), 't', 'its owner can');
is($client->value("SELECT pgpubsub.unsubscribe('second')"), 'f', 'once');
is($client->value('SELECT string_agg(name, $$ $$) FROM pgpubsub.subscription'), 'first', 'the other one is there');
is($client->value("SELECT pgpubsub.unsubscribe('first')"), 't', 'and is dropped, too');

# The relay may or may not have read a row that was just written.
for my $i (1 .. 20)
{
	$client->run("INSERT INTO pgpubsub.subscription (name, owner, channels, on_full) VALUES ('s$i', 'postgres', '{c}', 'drop')");
	$client->query("SELECT pgpubsub.unsubscribe('s$i')");
	is($client->{rows}[0][0], 't', 'a row that was just written can be dropped');
}
wait_until(sub { $client->value('SELECT count(*) FROM pgpubsub.stat_subscriptions') == 0 }, 'the end of all subscriptions');
is($client->value('SELECT count(*) FROM pgpubsub.subscription'), 0, 'and their rows are gone');
works($node, 'after that, too');
$node->stop('fast');
server_is_sound($node);

# ----------------------------------------------------------------------------
# Settings
# ----------------------------------------------------------------------------

# A queue that is not a power of two, nor a multiple of a page; many rounds
$node->append_conf('postgresql.conf', "pgpubsub.queue_size = 77kB\npgpubsub.staging_size = 91kB\npgpubsub.max_payload = 1MB\n");
$node->start;
works($node, 'a queue of 77 kB');
$client->run("SELECT pgpubsub.subscribe('s', '{c}', 'block')");
foreach my $mode (qw(transactional async))
{
	my ($read, $wrong) = (0, 0);

	$client->run("SET pgpubsub.publish_mode = '$mode'");
	foreach my $length (1 .. 400)
	{
		my $payload_length = $length * 49;

		$client->run("SELECT pgpubsub.publish('c', repeat('$length ', $payload_length / 4))");
		my ($row) = $client->run("SELECT payload = repeat('$length ', $payload_length / 4), lost FROM pgpubsub.poll('s', 1, '60s')");
		$read++ if $row;
		$wrong++ unless $row && $row->[0] eq 't';
		last if $wrong;
	}
	is("$read $wrong", '400 0', "$mode: payloads of all lengths go round it whole");
}
is($client->queue('used_bytes <= queue_size AND queue_size = 77 * 1024'), 't', 'it is not exceeded');
$client->query("SELECT pgpubsub.publish('c', repeat('x', 77 * 256))");
is($client->sqlstate, '', 'a quarter of it can be published');
$client->query("SELECT pgpubsub.publish('c', repeat('x', 77 * 256 + 1))");
is($client->sqlstate, '54000', 'no more');
$client->quit;
$node->stop('fast');

# Have only these lines override the configuration.
sub set
{
	my ($lines) = @_;

	open my $out, '>', $node->data_dir . '/postgresql.auto.conf'
	  or die "could not write: $!";
	print $out "$lines\n";
	close $out;
}

# A value that is not possible: the server starts with the default, and a
# warning names the range.
foreach my $case (
	[ 'queue_size',        '63kB',    '64',   '2147483647' ],
	[ 'queue_size',        '-1',      '64',   '2147483647' ],
	[ 'queue_size',        '3000GB' ],
	[ 'staging_size',      '63kB',    '64',   '2147483647' ],
	[ 'max_databases',     '0',       '1',    '1000' ],
	[ 'max_databases',     '1001',    '1',    '1000' ],
	[ 'max_subscriptions', '0',       '1',    '1000000' ],
	[ 'max_subscriptions', '1000001', '1',    '1000000' ],
	[ 'max_channels',      '7',       '8',    '1000000' ],
	[ 'max_channels',      '1000001', '8',    '1000000' ],
	[ 'max_payload',       '1023',    '1024', '268435456' ],
	[ 'max_payload',       '257MB',   '1024', '268435456' ],
	[ 'publish_timeout',   '-1',      '0',    '2147483647' ],
	[ 'evict_timeout',     '-1',      '0',    '2147483647' ],
	[ 'log_size',          '8191kB',  '8192', '2147483647' ],
	[ 'databases',         'a,,b' ],
	[ 'publish_mode',      'later' ],
	[ 'node_name',         'x' x 256 ])
{
	my ($setting, $value, $least, $most) = @$case;
	my $offset = log_offset($node);

	set("pgpubsub.$setting = '$value'");
	$node->start;
	is( $node->safe_psql('postgres',
			"SELECT setting = boot_val FROM pg_settings WHERE name = 'pgpubsub.$setting'"),
		't', "the server starts with the default for $setting = $value");
	like(
		slurp_file($node->logfile, $offset),
		defined $least
		? qr/WARNING:  .*outside the valid range for parameter "pgpubsub\.$setting" \($least\D* \.\. $most\D*\)/
		: qr/WARNING:  invalid value for parameter "pgpubsub\.$setting": "\Q$value\E"/,
		'and the log says what is possible');
	$node->stop('fast');
}

# The least and the longest are.
set("pgpubsub.queue_size = 64kB\npgpubsub.node_name = '" . 'n' x 255 . "'");
$node->start;
is($node->safe_psql('postgres', 'SELECT length(current_setting($$pgpubsub.node_name$$))'),
	255, 'a long node_name');
$node->stop('fast');

# More than any address space has, or than core can count: the server does not
# start, and says why.
foreach my $case (
	[ "pgpubsub.queue_size = 2047GB",   qr/could not map anonymous shared memory: / ],
	[ "pgpubsub.staging_size = 1000GB", qr/could not map anonymous shared memory: / ],
	[
		"pgpubsub.queue_size = 2047GB\npgpubsub.staging_size = 1000GB\n"
		  . "pgpubsub.max_subscriptions = 1000000\npgpubsub.max_channels = 1000000",
		qr/invalid value for parameter "shared_memory_size": /
	])
{
	my ($sizes, $error) = @$case;
	my ($name) = $sizes =~ /^([^\n]*)/;
	my $offset = log_offset($node);

	set("pgpubsub.max_databases = 1000\n$sizes");
	ok(!$node->start(fail_ok => 1), "the server does not start with $name");
	like(slurp_file($node->logfile, $offset), qr/FATAL:  $error/, 'and says why');
}
set('');
$node->start;
works($node, 'with the old settings again');
$node->stop('fast');
done_testing();
