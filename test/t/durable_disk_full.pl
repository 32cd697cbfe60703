# Durable channels on a disk that is full: whatever of the log does not fit there,
# its writer gets an error, or the relay tries it again later.  When there is room
# again, all goes on, and each event that was committed comes once, in order.
#
# Parts of the log are moved to a small disk, which scripts/test mounts, and which
# the test fills up and empties.

use strict;
use warnings;

use PgPubsub::Durable;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $disk = $ENV{TEST_SMALL_DISK};

plan(skip_all => 'no small disk to fill up: scripts/test mounts one, as root') unless $disk && -d $disk;

my $node = new_server('durable_disk_full', start => 0, conf => q{
pgpubsub.log_size = 16MB
pgpubsub.staging_size = 512kB
pgpubsub.publish_timeout = 2s
autovacuum = off
log_statement = none
});
my $points = open_points($node, needed => 1);
my $admin  = client($node);
my $mb     = 1024 * 1024;

my @committed;        # payloads, in the order in which they must come
my $number = 0;

# The server's error when a disk is full, with what it cannot do before it.
my $full = qr/could not (?:extend|create|write to|write) file "[^"]*".*(?:No space left on device|wrote only \d+ of \d+ bytes)/;

# ----------------------------------------------------------------------------
# The disk
# ----------------------------------------------------------------------------

# No byte more can be written.
sub fill_disk
{
	open my $out, '>', "$disk/filler" or die "$disk/filler: $!";
	binmode $out;
	1 while defined syswrite($out, 'x' x $mb);
	1 while defined syswrite($out, 'x' x 4096);
	close $out;
	return;
}

# No further file can be made, but those that there are can grow.
sub forbid_files
{
	my $count = 0;

	mkdir "$disk/files" or die "$disk/files: $!";
	while (open my $out, '>', "$disk/files/" . ++$count)
	{
		close $out;
	}
	return;
}

sub free_disk
{
	unlink "$disk/filler", glob "$disk/files/*";
	rmdir "$disk/files";
	return;
}

# Have the relations of that kind, with all that belongs to them, on the small disk,
# or elsewhere again.
sub move
{
	my ($kind, $tablespace) = @_;

	$admin->run(
		qq{
		DO \$\$
		DECLARE
			name regclass;
		BEGIN
			FOR name IN SELECT oid FROM pg_class
			             WHERE relnamespace = 'pgpubsub'::regnamespace AND relname LIKE 'log\\_$kind\\_%' AND relkind = 'm' LOOP
				EXECUTE format('ALTER MATERIALIZED VIEW %s SET TABLESPACE $tablespace', name);
			END LOOP;
			FOR name IN SELECT oid FROM pg_class
			             WHERE relnamespace = 'pgpubsub'::regnamespace AND relname LIKE 'log\\_$kind\\_%' AND relkind = 'i' LOOP
				EXECUTE format('ALTER INDEX %s SET TABLESPACE $tablespace', name);
			END LOOP;
		END \$\$});
	return;
}

# ----------------------------------------------------------------------------
# Writing and reading
# ----------------------------------------------------------------------------

# A transaction with so many events of so many bytes; its SQLSTATE.
sub write_events
{
	my ($client, $count, $bytes) = @_;
	my @payloads = map { $number + $_ } 1 .. $count;

	$number += $count;
	$client->query(
		"BEGIN; INSERT INTO ledger SELECT generate_series($payloads[0], $payloads[-1]);"
		  . " SELECT count(pgpubsub.publish('c', rpad(i::text, $bytes))) FROM generate_series($payloads[0], $payloads[-1]) AS i; COMMIT");
	push @committed, @payloads if $client->sqlstate eq '';
	return $client->sqlstate;
}

# Such transactions until one fails: its SQLSTATE.
sub write_until_error
{
	my ($client, $count, $bytes) = @_;

	foreach (1 .. 20000)
	{
		my $sqlstate = write_events($client, $count, $bytes);

		return $sqlstate if $sqlstate;
	}
	return '';
}

# So many transactions, none of which fails.
sub write_well
{
	my ($transactions, $count, $bytes, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %failed;

	for (1 .. $transactions)
	{
		my $sqlstate = write_events($admin, $count, $bytes);

		$failed{"$sqlstate $admin->{error}{M}"}++ if $sqlstate;
	}
	return is(join(', ', sort keys %failed), '', $name);
}

# Into the table taken, until nothing more comes.
sub read_on
{
	$admin->settle;
	while ($admin->value("SELECT take('s', 1000)") > 0) { }
	return;
}

# The subscription has taken all that was committed, in that order, and nothing
# else; so has the other one seen it, which does not consume.
sub all_is_read
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $list = sub { join ' ', map { $_->[0] } $admin->run($_[0]) };
	my $taken;

	# what could not be noted is tried again
	wait_until(
		sub {
			read_on();
			$taken = $list->("SELECT coalesce(trim(payload), 'gap:' || lost) FROM taken WHERE subscription = 's' ORDER BY n");
			return length $taken >= length "@committed";
		},
		$name);
	ok($taken eq "@committed", "$name: each event has come once, in order")
	  or diag(first_difference($taken, "@committed"));
	ok($list->('SELECT * FROM ledger ORDER BY 1') eq join(' ', sort { $a <=> $b } @committed), "$name: those are the events of what is committed");
	is($admin->value("SELECT count(*) FROM (SELECT seq, lag(seq) OVER (ORDER BY n) AS before FROM taken) AS t WHERE seq <= before"),
		0, "$name: seqs ascend");
	return;
}

sub first_difference
{
	my ($got, $expected) = map { [ split ' ' ] } @_;
	my $at = 0;

	$at++ while $at < @$got && $at < @$expected && $got->[$at] eq $expected->[$at];
	return sprintf '%d and %d events; at %d: got %s, expected %s', scalar @$got, scalar @$expected, $at,
	  join(' ', map { $_ // '' } @$got[ $at .. $at + 5 ]), join(' ', map { $_ // '' } @$expected[ $at .. $at + 5 ]);
}

# How often the server log says that since the offset.
sub count_in_log
{
	my ($like, $offset) = @_;

	return scalar(() = slurp_file($node->logfile, $offset) =~ /$like/g);
}

# Nothing is to come that is not there now: nothing was published by halves.
sub nothing_comes
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return is_quiet($node, 'postgres', 's', $name);
}

# The server goes down, and finds the disk as full as it was when it is up again.
# In between, there is room: core needs it to recover from a crash.
sub restart
{
	my ($how) = @_;
	my $was_full = -e "$disk/filler";

	if ($how eq 'killed')
	{
		kill_server($node);
	}
	else
	{
		$node->stop('fast');
	}
	free_disk();
	comes_to($node, $points, 'relay_start', sub { $node->start });
	$admin = client($node);
	fill_disk() if $was_full;
	open_point($points, 'relay_start');
	return;
}

sub log_bytes
{
	return $admin->value(
		"SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relnamespace = 'pgpubsub'::regnamespace AND relkind = 'm'");
}

# Segments that have rows.
sub used_segments
{
	return $admin->value(
		"SELECT count(*) FROM pg_class WHERE relnamespace = 'pgpubsub'::regnamespace AND relname LIKE 'log\\_row%' AND pg_relation_size(oid) > 0");
}

# ----------------------------------------------------------------------------

free_disk();
mkdir "$disk/tablespace";
$admin->run("CREATE TABLESPACE small LOCATION '$disk/tablespace'");
$admin->run('CREATE EXTENSION pgpubsub');
$admin->run('CREATE TABLE ledger (payload int)');
create_taken($node, 'postgres', payload => 'trim(p.payload)');
$admin->run("SELECT pgpubsub.set_durable('c'), pgpubsub.subscribe('s', '{c}'), pgpubsub.subscribe('looking', '{c}', 'drop')");

# Rows

move('row', 'small');
write_well(20, 1, 1000, 'with rows on the small disk, all is well at first');
fill_disk();
my @writers = map { client($node) } 1 .. 3;
is(write_until_error($_, 1, 1000), '53100', 'the disk is full: a writer gets an error') foreach @writers;
like($writers[0]{error}{M}, $full, 'which says so');
is(write_until_error($_, 150, 1000), '53100', 'so does one of many rows') foreach @writers;
is(write_until_error($writers[0], 3000, 100), '53100', 'and one of very many');
is($writers[0]->value('SELECT 1'), 1, 'its session goes on');
all_is_read('disk full at rows');
nothing_comes('nothing has come of those that failed');
restart('killed');
all_is_read('disk full at rows, the server killed');
free_disk();
write_well(20, 1, 1000, 'when there is room, writers go on');
write_well(2, 3000, 1000, 'with many rows, too');
all_is_read('room for rows again');
move('row', 'pg_default');

# Notes

move('note', 'small');
write_well(20, 1, 1000, 'notes are on the small disk');
all_is_read('notes on the small disk');
fill_disk();
my $offset = log_offset($node);
my $failed = qr/pgpubsub relay could not note events of durable channels: $full/;
wait_until(
	sub {
		write_events($admin, 20, 1000) and die "$admin->{error}{M}\n";
		return count_in_log($failed, $offset) > 0;
	},
	'a relay that cannot note');
write_well(10, 20, 1000, 'the disk is full at notes: writers go on');

# it tries again, and says so now and then
my $relay = relay_pid($node, 'postgres');
my $tries = $admin->value('SELECT txid_current()');
my $cpu   = sub { my @stat = split ' ', slurp_file("/proc/$relay/stat") =~ s/.*\) //sr; return $stat[11] + $stat[12] };
my $used  = $cpu->();
ok(wait_until(sub { count_in_log($failed, $offset) > 1 }, 'a second message'), 'the relay tries again, and says so again');
my ($said, $said_again) = map { my ($h, $m, $s) = split /:/; ($h * 60 + $m) * 60 + $s }
  slurp_file($node->logfile, $offset) =~ /^\S+ ([\d:.]+) [^\n]*$failed/mg;
my $between = ($said_again - $said + 86400) % 86400;
cmp_ok($between, '>=', 4, 'some seconds later');
cmp_ok($admin->value('SELECT txid_current()') - $tries, '<', 10 * ($between + 5), 'it does not try all the time');
cmp_ok($cpu->() - $used, '<', 50 * ($between + 5), 'nor is it busy');
is(count_in_log(qr/ERROR|FATAL|PANIC|WARNING/, $offset), 0, 'nobody gets an error');
is(relay_pid($node, 'postgres'), $relay, 'and the relay is the same');

# what the staging queue has no room for is in the log
my %sqlstates;
$sqlstates{ write_events($admin, 100, 1000) }++ for 1 .. 30;
is(join(' ', sort keys %sqlstates), '', 'much more than the staging queue holds can be committed');
write_well(1, 5000, 100, 'and a large transaction');
free_disk();
all_is_read('room for notes again');
is(relay_pid($node, 'postgres'), $relay, 'the relay is the same one');

# the same, and the server is killed, or restarted, while there is no room
foreach my $how (qw(killed restarted))
{
	fill_disk();
	$offset = log_offset($node);
	wait_until(
		sub {
			write_events($admin, 20, 1000) and die "$admin->{error}{M}\n";
			return count_in_log($failed, $offset) > 0;
		},
		'a relay that cannot note');
	write_well(10, 20, 1000, 'the disk is full at notes');
	restart($how);
	write_well(10, 20, 1000, "the server is $how: writers go on");

	# others do not need the disk
	$admin->run("SELECT pgpubsub.subscribe('other', '{plain}', temporary => true)");
	$admin->publish('plain', 'text');
	is($admin->value("SELECT payload FROM pgpubsub.poll('other', 1, '30s')"), 'text', 'a channel that is not durable can be read');
	$admin->run("SELECT pgpubsub.unsubscribe('other')");
	free_disk();
	all_is_read("room for notes again, after the server was $how");
}
move('note', 'pg_default');

# Positions

move('position', 'small');
write_well(20, 20, 10, 'positions are on the small disk');
fill_disk();
my $reader = client($node);
$admin->settle;
my $sqlstate = '';
wait_until(
	sub {
		$reader->query("SELECT take('s', 1)");
		$sqlstate = $reader->sqlstate;
		return 1 if $sqlstate;
		write_well(1, 20, 10, 'more to read') if $admin->subscription('s', 'pending') < 20;
		return 0;
	},
	'a consumer that finds no room');
is($sqlstate, '53100', 'the disk is full at positions: a consumer gets an error');
like($reader->{error}{M}, $full, 'which says so');
my $next = $admin->value("SELECT payload FROM pgpubsub.poll('s', 1, '30s', consume => false)");
is(trim($next), $committed[ $admin->value("SELECT count(*) FROM taken") ], 'the event is shown again');
$reader->query("SELECT pgpubsub.ack('s', seq) FROM pgpubsub.poll('s', 1, consume => false)");
is($reader->sqlstate, '53100', 'it cannot be acked either');
$reader->query("SELECT pgpubsub.seek('s', 'now')");
is($reader->sqlstate, '53100', 'nor can anything be sought');
$reader->query("SELECT pgpubsub.subscribe('new', '{c}')");
is($reader->sqlstate, '53100', 'nor subscribed to');
$offset = log_offset($node);
$relay  = relay_pid($node, 'postgres');
$reader->run("INSERT INTO pgpubsub.subscription (name, owner, channels, on_full) VALUES ('by_hand', 'postgres', '{c}', 'drop')");
ok($node->wait_for_log(qr/pgpubsub relay could not write positions of new subscriptions: $full/, $offset),
	'the relay tries later to give a position to one that was written by hand');
is(relay_pid($node, 'postgres'), $relay, 'and is the same');
my $by_hand = @committed;
write_well(10, 20, 10, 'writers go on');
is($admin->value("SELECT count(*) FROM pgpubsub.stat_subscriptions WHERE subscription = 'new'"), 0, 'what failed has left nothing');

# After a restart, no seq is given out before the ceiling is raised.
foreach my $how (qw(killed restarted))
{
	$offset = log_offset($node);
	restart($how);
	write_well(10, 20, 10, "the server is $how: writers go on");
	ok($node->wait_for_log(qr/pgpubsub relay [^\n]*$full/, $offset), 'and the relay says that there is no room for the ceiling');
	$admin->run("SELECT pgpubsub.subscribe('other', '{plain}', temporary => true)");
	$admin->publish('plain', 'text');
	is($admin->value("SELECT payload FROM pgpubsub.poll('other', 1, '30s')"), 'text', 'a channel that is not durable can be read');
	$admin->run("SELECT pgpubsub.unsubscribe('other')");
}
free_disk();
all_is_read('room for positions again');
ok( $admin->value("SELECT string_agg(trim(payload), ' ' ORDER BY seq) FROM pgpubsub.poll('by_hand', 100000)") =~
	  /\b@committed[$by_hand .. $#committed]$/,
	'the one that was written by hand gets all since then');
$admin->run("SELECT pgpubsub.unsubscribe('by_hand')");
move('position', 'pg_default');

# Emptying: no new file can be made; or none can be written to, that of a toast
# table's index.  Writers need no new file, and go on.

foreach my $what (qw(files bytes))
{
	move('row', 'small');
	write_events($admin, 500, 1000) and die "$admin->{error}{M}\n" for 1 .. 24;
	$offset = log_offset($node);
	$what eq 'files' ? forbid_files() : fill_disk();
	all_is_read("$what: disk full at emptying");
	$admin->run("SELECT pgpubsub.seek('looking', 'now')");
	ok($node->wait_for_log(qr/pgpubsub relay could not empty a segment of the log: $full/, $offset), 'no segment can be emptied');
	if ($what eq 'files')
	{
		write_well(20, 1000, 1000, 'writers go on');
		all_is_read('they are read');
		cmp_ok(log_bytes(), '>', 20 * $mb, 'the log grows');
	}
	free_disk();
	ok( wait_until(
			sub {
				write_events($admin, 100, 1000) and die "$admin->{error}{M}\n";
				read_on();
				return log_bytes() < 16 * $mb && used_segments() < 8;
			},
			'a log in its limits'),
		'when there is room, it shrinks');
	all_is_read("$what: room to empty again");
	move('row', 'pg_default');
}

restart('killed');
all_is_read('at the end');
is($admin->value("SELECT count(*) FROM pgpubsub.stat_subscriptions WHERE lost <> 0 AND subscription = 's'"), 0, 'nothing is lost');
$_->quit foreach $admin, $reader, @writers;
$node->stop('fast');
server_is_sound($node);
free_disk();

# Everything of the database is on the small disk, which gets full at any moment

my $second = new_server('durable_disk_load', conf => q{
pgpubsub.log_size = 16MB
pgpubsub.queue_size = 1MB
pgpubsub.staging_size = 512kB
pgpubsub.publish_timeout = 30s
autovacuum = off
log_statement = none
});
mkdir "$disk/database";
$second->safe_psql('template1', "CREATE TABLESPACE small LOCATION '$disk/database'");
$second->safe_psql('template1', 'ALTER DATABASE postgres SET TABLESPACE small');
PgPubsub::Durable->prepare($second, pattern => 1);
my $load = PgPubsub::Durable->begin(nodes => [$second], allow => ['53100']);
foreach my $round (1 .. 4)
{
	$load->wait_for_transactions(50) or last;
	my $failures = $load->failures('53100');

	fill_disk();
	ok(wait_until(sub { $load->failures('53100') > $failures + 20 }, 'transactions that fail'), "round $round: the disk is full");
	kill 'TERM', relay_pid($second, 'postgres') if $round % 2 == 0;
	free_disk();
}
$load->finish($second);
$load->check($second);
$second->stop('fast');
$load->log_is_sound($second, $full, qr/background worker "pgpubsub relay" \(PID \d+\) exited/);
done_testing();

sub trim { return $_[0] =~ s/^\s+|\s+$//gr; }
