# The full queue: what drop, evict and block do to it and to the writers, what
# a writer that waits is told and how its wait ends, and what the views and
# the log say.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('full_queue', conf => q{
pgpubsub.queue_size = 64kB
pgpubsub.publish_timeout = 1min
pgpubsub.evict_timeout = 1min
log_statement = none
});
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
my $admin = client($node);

sub subscribe
{
	my ($name, $channels, $on_full) = @_;

	$admin->run("SELECT pgpubsub.subscribe('$name', '{$channels}', '$on_full')");
}

# Drop subscriptions and wait until the queue is open again.
sub unsubscribe
{
	$admin->run("SELECT pgpubsub.unsubscribe('$_')") foreach @_;
	$admin->wait_for_queue("relay_state = 'listening'");
}

# Publish so many events of about a kilobyte in one transaction; it does not
# wait if the queue is not full when it begins.
my $published = 0;

sub publish_many
{
	my ($channel, $count) = @_;
	my ($from, $to) = ($published + 1, $published + $count);

	$published = $to;
	$admin->publish_series($channel, $from, $to);
	return ($from, $to);
}

# The same in bytes of a notification that takes no part in the waiting.
sub notify_many
{
	my ($channel, $count) = @_;
	my ($from, $to) = ($published + 1, $published + $count);

	$published = $to;
	$admin->notify_series($channel, $from, $to);
	return ($from, $to);
}

# Fill the queue by events on the channel that a subscription holds.
sub fill
{
	my ($channel, $count) = @_;
	my @range = publish_many($channel, $count // 100);

	$admin->wait_for_queue("relay_state = 'full'");
	return @range;
}

# What a poll returns, as [numbers of messages], [lost of gap rows].
sub poll
{
	my ($name, $max, $session) = @_;
	my @rows = ($session // $admin)->run(
		"SELECT lost, payload::int FROM pgpubsub.poll('$name', $max, '30s')");

	return ([ map { $_->[1] } grep { !defined $_->[0] } @rows ],
		[ map { $_->[0] } grep { defined $_->[0] } @rows ]);
}

# Read until the message with that number, or a later one, has come.
sub read_to
{
	my ($name, $last) = @_;
	my (@messages, @gaps);

	do
	{
		my ($new, $gap) = poll($name, 1000);

		push @messages, @$new;
		push @gaps,     @$gap;
		die "poll('$name') found nothing" unless @$new || @$gap;
	} until (grep { $_ >= $last } @messages);
	return (\@messages, \@gaps);
}

# A session that waits because it publishes on the channel.
sub waiting_writer
{
	my ($channel, %params) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $writer = client($node, $params{db}, application_name => 'writer');

	$writer->run("SET pgpubsub.publish_mode = '$params{mode}'") if $params{mode};
	$writer->run($params{before}) if $params{before};
	$published++;
	$writer->begin(
		$params{sql} // "SELECT pgpubsub.publish('$channel', '$published')");
	ok(waits_in_extension($admin, $writer),
		"$params{name}: a writer waits");
	return $writer;
}

# The writer waits no longer, and has no error.
sub goes_on
{
	my ($writer, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$writer->finish;
	is($writer->sqlstate, '', "$name: the writer goes on");
	$writer->quit;
}

# Who may block

$node->safe_psql(
	'postgres', q{
	CREATE ROLE plain LOGIN;
	CREATE ROLE keeper LOGIN;
	CREATE DATABASE kept OWNER keeper});
$node->safe_psql('kept', 'CREATE EXTENSION pgpubsub');
foreach my $db (qw(postgres kept))
{
	$node->safe_psql($db,
		"GRANT EXECUTE ON FUNCTION pgpubsub.subscribe, pgpubsub.unsubscribe TO plain, keeper"
	);
}
my $plain = client($node, 'kept', user => 'plain');
$plain->query("SELECT pgpubsub.subscribe('s', '{c}', 'block')");
is($plain->sqlstate, '42501', 'on_full block is not for everybody');
ok($plain->{error}{H}, 'with a hint');
foreach my $on_full (qw(drop evict))
{
	is($plain->value("SELECT pgpubsub.subscribe('$on_full', '{c}', '$on_full')"),
		't', "on_full $on_full is");
	$plain->query("SELECT pgpubsub.subscribe('$on_full', '{c}', 'block')");
	is($plain->sqlstate, '42501', "$on_full cannot be turned into block either");
}
$plain->quit;
my $keeper = client($node, 'kept', user => 'keeper');
is($keeper->value("SELECT pgpubsub.subscribe('kept', '{c}', 'block')"),
	't', 'on_full block is for the owner of the database');
$keeper->quit;
$keeper = client($node, 'postgres', user => 'keeper');
$keeper->query("SELECT pgpubsub.subscribe('s', '{c}', 'block')");
is($keeper->sqlstate, '42501', 'and not for the owner of another one');
$keeper->quit;
$node->safe_psql('postgres', 'DROP DATABASE kept');

# drop

subscribe('dropping', 'c', 'drop');
my $relayed = $admin->queue('published');
my ($first, $last) = publish_many('c', 50);
publish_many('c', 50) for 1 .. 5;
$last = $published;
$admin->wait_for_queue('published = ' . ($relayed + 300));
my ($messages, $gaps) = read_to('dropping', $last);
is(scalar @$gaps, 1, 'drop: one gap row');
is($gaps->[0] + @$messages, 300, 'with the exact number');
is("@$messages", join(' ', ($last - $#$messages) .. $last),
	'the oldest were lost');
is($admin->subscription('dropping', 'lost'), $gaps->[0], 'as the view says');
is($admin->queue('full_count'), 0, 'the queue was never full');
unsubscribe('dropping');

# block: a full queue

my $full_count = $admin->queue('full_count');
my $offset     = log_offset($node);
subscribe('blocking', 'c', 'block');
subscribe('behind',   'd', 'drop');
subscribe('reading',  'c', 'drop');
($first) = fill('c');
is($admin->queue('full_count'), $full_count + 1, 'full_count counts');
my $full_ms = $admin->queue('full_ms');
ok($admin->wait_for_queue("full_ms > $full_ms"), 'full_ms grows meanwhile');
is($admin->subscription('blocking', 'state'), 'holding', 'the one that holds is holding');
is($admin->subscription('reading', 'state'), 'idle', 'one with drop is not');
cmp_ok($admin->subscription('blocking', 'pending'), '>=', 50, 'pending');
cmp_ok($admin->queue('used_bytes'), '<=', 65536, 'used_bytes is at most the size');
$node->wait_for_log(qr/WARNING:  .*half full/, $offset);
$node->wait_for_log(qr/DETAIL:  .*"blocking"/, $offset);
pass('past half full a WARNING names who holds');

my $writer = waiting_writer('c', name => 'same channel');
my $second = waiting_writer('d', name => 'another subscribed channel');
my $async  = waiting_writer('c', name => 'async', mode => 'async');
my $other  = client($node);
$other->run("SET pgpubsub.publish_timeout = '1ms'");
foreach my $mode (qw(transactional async))
{
	$other->run("SET pgpubsub.publish_mode = '$mode'");
	$other->query("SELECT pgpubsub.publish('free', '$mode')");
	is($other->sqlstate, '', "$mode: a channel without subscription does not wait");
}

# the error, with nobody that reads

sub check_error
{
	my ($client, $name, $reader) = @_;
	my ($pending, $bytes) = @{
		(   $admin->run(
				"SELECT pending, pending_bytes FROM pgpubsub.stat_subscriptions WHERE subscription = 'blocking'"
			))[0]
	};
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is($client->sqlstate, '53400', "$name: SQLSTATE");
	is($client->{error}{M}, 'queue is full', "$name: message");
	like($client->{error}{D}, qr/"blocking"/, "$name: detail names the subscription");
	like($client->{error}{D}, qr/\b$pending messages/, "$name: how many messages it is behind");
	like($client->{error}{D}, qr/\b$bytes bytes/, "$name: how many bytes");
	like($client->{error}{D}, qr/\d\.\d+ s\b/, "$name: how much time");
	like($client->{error}{D}, $reader, "$name: who reads it");
	ok($client->{error}{H}, "$name: hint");
}

$other->run("SET pgpubsub.publish_timeout = '200ms'");
$other->run("SET pgpubsub.publish_mode = 'transactional'");
$other->query("SELECT pgpubsub.publish('c', 'never')");
check_error($other, 'transactional', qr/nobody/);
cmp_ok($other->duration, '>=', 0.19, 'it has waited for publish_timeout');

$other->run('CREATE TABLE t (a int PRIMARY KEY, b int)');
$other->run("SET pgpubsub.publish_mode = 'async'");
$other->query("INSERT INTO t VALUES (1); SELECT pgpubsub.publish('c', 'never')");
check_error($other, 'async', qr/nobody/);
is($other->value('SELECT count(*) FROM t'), 0, 'its transaction has failed');
$other->run('BEGIN; INSERT INTO t VALUES (1)');
$other->run("SELECT pgpubsub.publish('c', 'never')");
$other->query('COMMIT');
is($other->sqlstate, '53400', 'async: it is COMMIT that fails');
is($other->value('SELECT count(*) FROM t'), 0, 'and has not committed');

# the error, with a reader that does not commit, and who may not wait at all

my $reader = client($node);
$reader->run("BEGIN; SELECT FROM pgpubsub.poll('blocking', 1)");
$other->run("SET pgpubsub.publish_mode = 'transactional'");
$other->query("SELECT pgpubsub.publish('c', 'never')");
check_error($other, 'with a reader', qr/\b$reader->{pid}\b/);
is($admin->subscription('blocking', 'pid'), $reader->{pid}, 'the view shows its pid too');
$published++;
$reader->query("SET LOCAL pgpubsub.publish_timeout = '10min'; SELECT pgpubsub.publish('c', '$published')");
is($reader->sqlstate, '', 'who has consumed does not wait');
my $by_reader = $published;
$reader->run('ROLLBACK');
$reader->run(
	"BEGIN; SET LOCAL pgpubsub.publish_timeout = '10min'; SET LOCAL pgpubsub.publish_mode = 'async'; SELECT FROM pgpubsub.poll('blocking', 1)");
$reader->query("SELECT pgpubsub.publish('c', '$published')");
$reader->query('COMMIT');
is($reader->sqlstate, '', 'nor in async mode');
cmp_ok($reader->duration, '<', 10, 'at once');
is($admin->queue('relay_state'), 'full', 'the queue is full all the while');
ok(!$_->done, 'and a writer still waits') foreach $writer, $second, $async;

# What ends a wait

$other->run("SET pgpubsub.publish_timeout = '10min'");
$other->run("SET statement_timeout = '100ms'");
$other->query("SELECT pgpubsub.publish('c', 'never')");
is($other->sqlstate, '57014', 'statement_timeout ends a wait');
cmp_ok($other->duration, '<', 5, 'at once');
$other->run('RESET statement_timeout');
foreach my $mode (qw(transactional async))
{
	my $victim = waiting_writer('c', name => "$mode, to be cancelled", mode => $mode);

	$published--;
	my $began = time;
	$admin->run("SELECT pg_cancel_backend($victim->{pid})");
	$victim->finish;
	is($victim->sqlstate, '57014', "$mode: pg_cancel_backend ends a wait");
	cmp_ok(time - $began, '<', 5, 'at once');
	is($victim->value('SELECT 1'), 1, 'the session goes on');
	$victim->quit;

	$victim = waiting_writer('c', name => "$mode, to be terminated", mode => $mode);
	$published--;
	$began = time;
	$admin->run("SELECT pg_terminate_backend($victim->{pid})");
	$victim->finish;
	is($victim->sqlstate, '57P01', "$mode: pg_terminate_backend ends a wait");
	cmp_ok(time - $began, '<', 5, 'at once');
	$victim->quit;
}

# One budget for all waits of a transaction

$other->run("SET pgpubsub.publish_timeout = '4s'");
$other->run('BEGIN; SAVEPOINT s');
$other->query("SELECT pgpubsub.publish('c', 'never')");
is($other->sqlstate, '53400', 'budget: the first wait uses it up');
$other->run('ROLLBACK TO s');
$other->query("SELECT pgpubsub.publish('c', 'never')");
is($other->sqlstate, '53400', 'budget: the second has nothing left');
cmp_ok($other->duration, '<', 3, 'and fails at once');
$other->run('ROLLBACK');
$other->query("SELECT pgpubsub.publish('c', 'never')");
cmp_ok($other->duration, '>=', 3.99, 'the next transaction has one of its own');

$other->run("SET pgpubsub.publish_timeout = '6s'");
$other->run('BEGIN');
$other->begin("SELECT pgpubsub.publish('c', '${\ ++$published}')");
ok(waits_in_extension($admin, $other), 'budget: a first wait');
wait_until(
	sub {
		$admin->value(
			"SELECT clock_timestamp() - query_start > '3s' FROM pg_stat_activity WHERE pid = $other->{pid}"
		) eq 't';
	},
	'a wait of 3 s');

# a reader that commits frees room, and wakes the writers

read_to('blocking', $by_reader);
goes_on($writer, 'room by a reader');
goes_on($second, 'room by a reader, another channel');
goes_on($async,  'room by a reader, async');
$other->finish;
is($other->sqlstate, '', 'budget: the first wait ends well');
$admin->wait_for_queue("relay_state = 'listening'");
is($admin->subscription('blocking', 'state'), 'idle', 'the subscription no longer holds');

notify_many('c', 150);
$admin->wait_for_queue("relay_state = 'full'");
$other->query("SELECT pgpubsub.publish('c', 'never')");
is($other->sqlstate, '53400', 'budget: the second wait fails');
cmp_ok($other->duration, '<', 5.5, 'after what the first has left');
$other->run('ROLLBACK');
$other->quit;
$reader->quit;

# blocking has missed nothing

my $writers = $published;
unsubscribe('blocking', 'behind', 'reading');

# What frees room besides

subscribe('blocking', 'c', 'block');
fill('c');
$writer = waiting_writer('c', name => 'unsubscribe');
$admin->run('BEGIN');
$admin->run("SELECT pgpubsub.unsubscribe('blocking')");
$admin->run('ROLLBACK');
ok(!$writer->done, 'unsubscribe: one that is rolled back frees no room');
is($admin->queue('relay_state'), 'full', 'the queue is full on');
$admin->run("SELECT pgpubsub.unsubscribe('blocking')");
goes_on($writer, 'unsubscribe');
$admin->wait_for_queue("relay_state = 'listening'");

subscribe('blocking', 'c', 'block');
fill('c');
$writer = waiting_writer('c', name => 'on_full changes');
subscribe('blocking', 'c', 'drop');
goes_on($writer, 'on_full changes to drop');
unsubscribe('blocking');

subscribe('blocking', 'c,d', 'block');
fill('c');
$writer = waiting_writer('d', name => 'channels change');
subscribe('blocking', 'd', 'block');
goes_on($writer, 'channels change');
unsubscribe('blocking');

# A session whose transaction only looks at a subscription is the only one that
# can read it: when it begins to hold meanwhile, its reader must not wait.

subscribe('looked_at', 'looked_at', 'drop');
$reader = client($node);
$reader->run("SET pgpubsub.publish_timeout = '1s'");
$reader->run("BEGIN; SELECT FROM pgpubsub.poll('looked_at', consume => false)");
$admin->run(
	"UPDATE pgpubsub.subscription SET on_full = 'block' WHERE name = 'looked_at'");
wait_until(sub { $admin->subscription('looked_at', 'on_full') eq 'block' },
	'looked_at: the relay has read the table');
fill('looked_at');
$reader->query("SELECT pgpubsub.publish('looked_at', 'mine')");
is($reader->sqlstate, '', 'looked_at: its reader does not wait');
$reader->run('COMMIT');
$reader->query("SELECT pgpubsub.publish('looked_at', 'never')");
is($reader->sqlstate, '53400', 'looked_at: after its transaction it does');
$reader->quit;
unsubscribe('looked_at');

$reader = client($node);
$reader->run("SELECT pgpubsub.subscribe('brief', '{c}', 'block', temporary => true)");
fill('c');
$writer = waiting_writer('c', name => 'temporary');
$reader->run("BEGIN; SELECT FROM pgpubsub.poll('brief', 10)");
$admin->run("SELECT pg_terminate_backend($reader->{pid})");
goes_on($writer, 'terminated owner of a temporary subscription');
$admin->wait_for_queue("relay_state = 'listening'");
$reader->quit;

# A reader that is terminated has not consumed: it frees no room.
subscribe('blocking', 'c', 'block');
my ($start) = fill('c');
$writer = waiting_writer('c', name => 'terminated reader');
$reader = client($node);
$reader->run("BEGIN; SELECT FROM pgpubsub.poll('blocking', 1000)");
$admin->run("SELECT pg_terminate_backend($reader->{pid})");
wait_until(sub { $reader->pump(0); $reader->{closed} }, 'end of the reader');
wait_until(
	sub {
		$admin->value(
			"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $reader->{pid}"
		) eq 't';
	},
	'end of its backend');
is($admin->queue('relay_state'), 'full', 'a reader that is terminated frees no room');
($messages, $gaps) = read_to('blocking', $published);
goes_on($writer, 'the next reader');
is("@$messages", join(' ', $start .. $published), 'who gets all of it');
is(scalar @$gaps, 0, 'with no gap');

# The writer has a row that the reader wants: the wait ends by its timeout.

$admin->run('TRUNCATE t; INSERT INTO t VALUES (1, 0)');
($start) = fill('c');
$writer = waiting_writer('c',
	name   => 'row lock',
	before => "SET pgpubsub.publish_timeout = '1s'; BEGIN; UPDATE t SET b = 1",
	sql    => "SELECT pgpubsub.publish('c', 'never')");
$published--;
$reader = client($node);
$reader->run("BEGIN; SELECT FROM pgpubsub.poll('blocking', 1000)");
$reader->begin('UPDATE t SET b = 2; COMMIT');
$writer->finish;
is($writer->sqlstate, '53400', 'row lock: the writer gives up');
like($writer->{error}{D}, qr/\b$reader->{pid}\b/, 'and is told who reads') or diag explain $writer->{error};
$writer->quit;
$reader->finish;
is($reader->sqlstate, '', 'the reader goes on');
is($admin->value('SELECT b FROM t'), 2, 'and has its row');
$reader->quit;
read_to('blocking', $start + 99);
$admin->wait_for_queue("relay_state = 'listening'");
unsubscribe('blocking');

# evict

sub set_evict_timeout
{
	my ($value) = @_;

	$admin->run("ALTER SYSTEM SET pgpubsub.evict_timeout = '$value'");
	$node->reload;

	# the relay has been told of it when a new session knows it
	wait_until(
		sub { $node->safe_psql('postgres', 'SHOW pgpubsub.evict_timeout') eq $value },
		'a new setting');
}

my $evictions = $admin->queue('evictions');
is($evictions, 0, 'nothing was evicted until now');
subscribe('one',   'c',  'evict');
subscribe('two',   'c*', 'evict');
subscribe('ahead', 'c',  'evict');
subscribe('drop',  'c',  'drop');
($start) = fill('c', 200);
is($admin->subscription($_, 'state'), 'holding', "$_ holds") foreach qw(one two ahead);
is($admin->subscription('drop', 'state'), 'idle', 'drop does not');
$writer = waiting_writer('c',
	name   => 'eviction',
	before => "SET pgpubsub.publish_timeout = '50ms'");
$async = waiting_writer('c',
	name   => 'eviction, async',
	mode   => 'async',
	before => "SET pgpubsub.publish_timeout = '50ms'");
wait_until(
	sub {
		$admin->value(
			"SELECT clock_timestamp() - query_start > '500ms' FROM pg_stat_activity WHERE pid = $writer->{pid}"
		) eq 't';
	},
	'a wait of 500 ms');
ok(!$_->done, 'who waits for an eviction does not fail after publish_timeout')
  foreach $writer, $async;
is($admin->queue('evictions'), 0, 'none before evict_timeout');

read_to('ahead', $start + 20);
ok( wait_until(
		sub { $admin->subscription('ahead', 'state') eq 'idle' },
		'a subscription that is no longer waited for'),
	'one that has read on holds no more');
$offset = log_offset($node);
set_evict_timeout('100ms');
goes_on($writer, 'eviction');
goes_on($async,  'eviction, async');
$admin->wait_for_queue("relay_state = 'listening'");
set_evict_timeout('1min');
cmp_ok($admin->queue('evictions'), '>=', 2, 'evictions counts');
foreach my $name (qw(one two))
{
	is($admin->subscription($name, 'state'), 'evicted', "$name is evicted");
	$node->wait_for_log(qr/evicted subscription "$name"/, $offset);
	pass("the log says that $name was evicted");
}
foreach my $name (qw(one two drop))
{
	my $lost = $admin->subscription($name, 'lost');
	my $all  = $published - $start + 1;
	my ($messages, $gaps) = read_to($name, $published - 1);

	push @$messages, @{ (poll($name, 1000))[0] } if @$messages + $gaps->[0] < $all;
	is(scalar @$gaps, 1, "$name gets one gap row");
	is($gaps->[0] + @$messages, $all, "$name: with the exact number");
	is($gaps->[0], $lost, "$name: as the view has it");
	is($admin->subscription($name, 'state'), 'idle', "$name is idle again");
	is($admin->subscription($name, 'pending'), 0, "$name has nothing left");
}
$admin->run("SELECT pgpubsub.unsubscribe('$_')") foreach qw(ahead drop);

# It holds again since its poll.
fill('c');
is($admin->subscription($_, 'state'), 'holding', "$_ holds again after its poll")
  foreach qw(one two);
unsubscribe('two', 'one');

# With block beside it: the error names that one, not the one to be evicted.
subscribe('one',      'c', 'evict');
subscribe('blocking', 'c', 'block');
subscribe('elsewhere', 'd', 'block');
fill('c');
my $impatient = client($node);
$impatient->run("SET pgpubsub.publish_timeout = '100ms'");
$impatient->query("SELECT pgpubsub.publish('c', 'never')");
is($impatient->sqlstate, '53400', 'block and evict: a writer fails');
like($impatient->{error}{D}, qr/"blocking"/, 'the one with block is named');
unsubscribe('blocking', 'one');

# block elsewhere, up to date: it does not hold, so the eviction is waited for.
subscribe('one', 'c', 'evict');
fill('c');
is($admin->subscription('elsewhere', 'state'), 'idle', 'a block subscription that has read all does not hold');
$writer = waiting_writer('c',
	name   => 'block elsewhere',
	before => "SET pgpubsub.publish_timeout = '50ms'");
wait_until(
	sub {
		$admin->value(
			"SELECT clock_timestamp() - query_start > '300ms' FROM pg_stat_activity WHERE pid = $writer->{pid}"
		) eq 't';
	},
	'a wait of 300 ms');
ok(!$writer->done, 'block elsewhere does not make the writer fail');
set_evict_timeout('1s');
goes_on($writer, 'block elsewhere');
$admin->wait_for_queue("relay_state = 'listening'");

# Partial reading does not restart evict_timeout, which is 1 s here.
poll('one', 1);
is($admin->subscription('one', 'state'), 'idle', 'a poll begins to hold anew');
$evictions = $admin->queue('evictions');
notify_many('c', 20000);
$admin->wait_for_queue("relay_state = 'full'");
my $began = time;
my $reads = 0;
while ($admin->queue('evictions') == $evictions && time - $began < 20)
{
	$admin->run("SELECT FROM pgpubsub.poll('one', 1)");
	$reads++;
}
cmp_ok($admin->queue('evictions'), '>', $evictions, "evicted although it has read $reads times");
cmp_ok(time - $began, '<', 15, 'in about evict_timeout');
unsubscribe('one', 'elsewhere');

# A fast shutdown ends waits.

set_evict_timeout('1min');
subscribe('blocking', 'c', 'block');
fill('c');
my @waiting = (
	waiting_writer('c', name => 'shutdown'),
	waiting_writer('c', name => 'shutdown, async', mode => 'async'));
$began = time;
$node->stop('fast');
cmp_ok(time - $began, '<', 10, 'shutdown: at once');
foreach my $client (@waiting)
{
	$client->finish;
	is($client->sqlstate, '57P01', 'shutdown: a waiting writer ends');
}

# The warnings: at most one every 5 s

my @times = slurp_file($node->logfile) =~
  /^\S+ (\d\d:\d\d:\d\d\.\d+) [^\n]*WARNING:  [^\n]*half full/mg;
my ($before, $closest);
foreach my $time (@times)
{
	my ($h, $m, $s) = split /:/, $time;
	my $at = ($h * 60 + $m) * 60 + $s;

	if (defined $before)
	{
		my $apart = $at - $before;

		$apart += 86400 if $apart < 0;
		$closest = $apart if !defined $closest || $apart < $closest;
	}
	$before = $at;
}
cmp_ok($closest // 5, '>=', 4.9, 'half-full warnings are 5 s apart, ' . @times . ' in all');
server_is_sound($node);
done_testing();
