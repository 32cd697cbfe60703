# Async publishing: what rolls back is never sent, nothing is folded, order and
# writer stand, and where the staging queue is no way to go, the event is
# published as a NOTIFY of the transaction after all.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# Half of staging_size is the most that a transaction can stage; a quarter of
# it is the longest payload.
my $node = new_server('async', init => { allows_streaming => 1 }, conf => q{
pgpubsub.staging_size = 64kB
pgpubsub.queue_size = 8MB
pgpubsub.publish_timeout = 30s
max_prepared_transactions = 10
max_connections = 50
log_statement = none
});
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
wait_for_relay($node, 'postgres');
my $admin = client($node);
my $relay = relay_pid($node, 'postgres');
$admin->run(
	q{
	SELECT pgpubsub.subscribe('reader', '{c,d}');
	SELECT pgpubsub.subscribe('pattern', '{new*}')});
my $listener = client($node);
$listener->run('LISTEN c; LISTEN d; LISTEN quiet');
my $writer = client($node);
$writer->run("SET pgpubsub.publish_mode = 'async'");

# The subscription and the native listener have got just these, in this order,
# on channel c; from the writer, and from the relay.
sub both_get
{
	my ($expected, $name, %params) = @_;
	my @expected = @$expected;
	my $native_pid = $params{native_pid} // relay_pid($node, 'postgres');
	my $pid        = $params{pid}        // $writer->{pid};
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$admin->settle;
	my @taken  = $admin->take('reader', scalar @expected);
	my @native = $listener->wait_for_notifications(scalar @expected);

	is(join(' ', map { $_->[1] } @taken),
		"@expected", "$name: subscription");
	is(join(' ', map { $_->[2] } @native), "@expected", "$name: native");
	is(join(' ', uniq(map { $_->[2] } @taken)),
		@expected ? $pid : '', "$name: the pid is the writer's");
	is(join(' ', uniq(map { $_->[0] } @native)),
		@expected ? $native_pid : '', "$name: native listeners see the sender's");
}

sub uniq
{
	my %seen;

	return grep { !$seen{$_}++ } @_;
}

# Statements one after the other, each by itself
sub statements
{
	my ($client, @sql) = @_;

	$client->run($_) foreach @sql;
}

sub publishing
{
	return map { "SELECT pgpubsub.publish('c', '$_')" } @_;
}

# Commit and rollback

$writer->run((publishing('one'))[0]);
both_get(['one'], 'commit');
statements($writer, 'BEGIN', publishing('never'), 'ROLLBACK', publishing('two'));
both_get(['two'], 'rollback');
statements($writer, 'BEGIN', publishing('never'));
$writer->query('SELECT 1/0');
statements($writer, 'COMMIT', publishing('three'));
both_get(['three'], 'error');

statements(
	$writer, 'BEGIN', publishing('1'),
	'SAVEPOINT a', publishing('never2'),
	'ROLLBACK TO a', publishing('3'), 'SAVEPOINT b',
	publishing('4'),         'RELEASE b',      'SAVEPOINT c', 'SAVEPOINT d',
	publishing('never5'),    'RELEASE d',      'ROLLBACK TO c',
	publishing('6'),         'SAVEPOINT e',    'SAVEPOINT f', publishing('7'),
	'SAVEPOINT g',        publishing('never'), 'ROLLBACK TO g', 'RELEASE f',
	'RELEASE e',          publishing('8'),     'COMMIT');
both_get([ 1, 3, 4, 6, 7, 8 ], 'savepoints');
statements($writer, 'BEGIN', 'SAVEPOINT a', publishing('never'), 'SAVEPOINT b',
	publishing('never'), 'RELEASE b', 'ROLLBACK TO a', publishing('9'), 'COMMIT');
both_get([9], 'the first event was rolled back');
statements($writer, 'BEGIN', 'SAVEPOINT a', publishing('never'),
	'ROLLBACK TO a', 'COMMIT');
both_get([], 'nothing is left');

# what is rolled back does not count towards what can be staged
$writer->run('BEGIN');
$writer->run((publishing('before'))[0]);
$writer->run('SAVEPOINT s');
$writer->run(
	"SELECT count(pgpubsub.publish('c', i || repeat('x', 5000))) FROM generate_series(1, 200) AS i");
statements($writer, 'ROLLBACK TO s', publishing('after'), 'COMMIT');
both_get([ 'before', 'after' ], 'a megabyte that was rolled back');

$writer->run(
	q{DO $$
	BEGIN
		PERFORM pgpubsub.publish('c', 'outer');
		FOR i IN 1 .. 4 LOOP
			BEGIN
				PERFORM pgpubsub.publish('c', 'inner' || i);
				IF i % 2 = 0 THEN RAISE division_by_zero; END IF;
			EXCEPTION WHEN division_by_zero THEN
				PERFORM pgpubsub.publish('c', 'caught' || i);
			END;
		END LOOP;
	END $$});
both_get([qw(outer inner1 caught2 inner3 caught4)], 'PL/pgSQL');

$admin->run(
	q{CREATE TABLE t (id int PRIMARY KEY, v text);
	  CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$
	  BEGIN
	    PERFORM pgpubsub.publish('c', 'deferred' || NEW.id);
	    RETURN NULL;
	  END $$;
	  CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
	    FOR EACH ROW EXECUTE FUNCTION late()});
statements($writer, 'BEGIN', 'INSERT INTO t VALUES (1)', publishing('early'), 'COMMIT');
both_get([qw(early deferred1)], 'a deferred trigger');
$admin->run('DROP TRIGGER late ON t');

# Order, and nothing folded

$writer->run(
	"SELECT count(pgpubsub.publish('c', i::text)) FROM generate_series(1, 300) AS i");
both_get([ 1 .. 300 ], 'many in a transaction');
$writer->run("DO \$\$ BEGIN FOR i IN 1 .. 300 LOOP PERFORM pgpubsub.publish('c', i::text); COMMIT; END LOOP; END \$\$");
both_get([ 1 .. 300 ], 'many transactions');
statements($writer, 'BEGIN', publishing(qw(a a b a a)), 'COMMIT', publishing(qw(a a)));
both_get([qw(a a b a a a a)], 'identical ones');

my $long = 'x' x 10000;
statements($writer, 'BEGIN', publishing($long, $long, 'short', $long), 'COMMIT');
$admin->settle;
my @taken  = $admin->take('reader', 4);
my @native = $listener->wait_for_notifications(4);
is(join(' ', map { $_->[1] } @taken),
	"$long $long short $long", 'long payloads: a subscription gets all of it, each');
is(join(' ', uniq(map { $_->[2] } @taken)), $writer->{pid}, 'with the pid of the writer');
like(
	join(' ', map { $_->[2] } @native),
	qr/^(\{"truncated": ?true,[^ ]*"bytes": ?10000\b[^ ]*\}) \g1 short \g1$/,
	'native listeners get a notice of it, each');
$writer->query((publishing('x' x 16385))[0]);
is($writer->sqlstate, '54000', 'a payload beyond max_payload fails at once');
$writer->run((publishing('x' x 16384))[0]);
is(length(($admin->take('reader', 1))[0][1]), 16384, 'one of max_payload does not');
$listener->wait_for_notifications(1);

# the same events in the same order for both, with several writers

$admin->run(
	q{CREATE PROCEDURE write(who int, transactions int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR t IN 1 .. transactions LOOP
			FOR i IN 1 .. 1 + (random() * 3)::int LOOP
				PERFORM pgpubsub.publish(CASE WHEN random() < 0.5 THEN 'c' ELSE 'd' END,
					CASE WHEN random() < 0.3 THEN 'same'
					     WHEN random() < 0.05 THEN repeat(who || ' ' || t || ' ' || i, 1200)
					     ELSE who || ':' || t || ':' || i END);
			END LOOP;
			COMMIT;
		END LOOP;
		PERFORM pgpubsub.publish('quiet', 'end');
	END $$});
my @writers = map { client($node) } 1 .. 4;
$_->run("SET pgpubsub.publish_mode = 'async'") foreach @writers;
$writers[$_]->begin("CALL write($_, 300)") foreach 0 .. 3;
my $ended = 0;
my @heard;
$listener->{notifications} = [];
while ($ended < 4)
{
	my @new = $listener->wait_for_notifications(1);

	last unless @new;
	$ended += grep { $_->[1] eq 'quiet' } @new;
	push @heard, grep { $_->[1] ne 'quiet' } @new;
}
$_->finish foreach @writers;
$admin->settle;
@taken = $admin->take('reader', scalar @heard);
my $differences = 0;
foreach my $i (0 .. ($#heard > $#taken ? $#heard : $#taken))
{
	my ($channel, $payload) = $heard[$i] ? @{ $heard[$i] }[ 1, 2 ] : ('', '');
	my ($their_channel, $theirs) = $taken[$i] ? @{ $taken[$i] } : ('', '');

	next
	  if $channel eq $their_channel
	  && ($payload eq $theirs
		|| length $theirs > 7999 && $payload =~ /"bytes": ?${\ length $theirs}\b/);
	$differences++ or diag "$i: $channel $payload / $their_channel $theirs";
}
is($differences, 0,
	"subscription and native listener: the same order of " . @heard . " events");
is(join(' ', sort { $a <=> $b } uniq(map { $_->[2] } @taken)),
	join(' ', sort { $a <=> $b } map { $_->{pid} } @writers),
	'the pids are those of the writers');
my %last;
my $backward = 0;
foreach my $row (@taken)
{
	next unless $row->[1] =~ /^(\d+):(\d+):(\d+)$/;
	my $now = $2 * 10 + $3;

	$backward++ if $now <= ($last{$1} // 0);
	$last{$1} = $now;
}
is($backward, 0, 'each writer in its order, over both channels');

# The staging queue is full most of the time here; it comes free each time.

my $stuck = 0;
foreach my $round (1 .. 60)
{
	local $PostgreSQL::Test::Utils::timeout_default = 30;

	$_->begin("CALL write(1, 200)") foreach @writers;
	$stuck = 1
	  unless wait_until(sub { !grep { !$_->done } @writers }, 'the writers');
	$stuck = 1
	  unless $admin->wait_for_queue("staging_used_bytes = 0");
	$stuck = 1 if grep { $_->{error} } @writers;
	$admin->settle;
	while ($admin->run("SELECT FROM pgpubsub.poll('reader', 100000)")) { }
	$listener->done;
	last if $stuck;
}
is($stuck, 0, 'a staging queue that was full comes free again, in each of 60 rounds')
  or die 'the staging queue is stuck';
is($listener->value('SELECT pg_notification_queue_usage()'), 0, 'nothing is on its way');
$listener->notifications;
$_->quit foreach @writers;

# A channel without a subscription

statements($writer, 'BEGIN', map { "SELECT pgpubsub.publish('quiet', '$_')" } qw(a a b));
$writer->run('COMMIT');
is(join(' ', map { $_->[2] } $listener->wait_for_notifications(3)),
	'a a b', 'native listeners of a channel without subscription');

# frames are for what a subscription gets by NOTIFY
$listener->run('LISTEN pgpubsub');
$writer->run("SELECT pgpubsub.publish('quiet', repeat('x', 8000))");
$writer->run("SELECT pgpubsub.publish('c', repeat('x', 8000))");
$admin->settle;
is(join(' ', map { $_->[1] } $listener->wait_for_notifications(2)),
	'quiet c', 'a long event that is staged has no frames');
is(($admin->take('reader', 1))[0][1], 'x' x 8000, 'a subscription gets it whole');
$writer->run("SET pgpubsub.publish_mode = 'transactional'");
$writer->run("SELECT pgpubsub.publish('quiet', repeat('x', 8000))");
is(join(' ', map { $_->[1] } $listener->wait_for_notifications(3)),
	'pgpubsub pgpubsub quiet', 'a transactional one always has');
$writer->run("SET pgpubsub.publish_mode = 'async'");
$listener->run('UNLISTEN pgpubsub');

# Patterns, on channels that nobody has seen before

statements(
	$writer, 'BEGIN',
	(map { "SELECT pgpubsub.publish('$_', '$_')" } qw(new1 new2 new1 new3)), 'COMMIT');
is(join(' ', map { $_->[0] } $admin->take('pattern', 4)),
	'new1 new2 new1 new3', 'a pattern gets the first event of a new channel');
$writer->run("SELECT pgpubsub.publish('new4', '$long')");
is(($admin->take('pattern', 1))[0][1], $long, 'also when it is long');

# More than can be staged: published at once, in its order

foreach my $round (1 .. 3)
{
	my @expected;

	foreach my $part (1 .. 3)
	{
		my $count = $part == 2 ? 60 : 5;

		$writer->run(
			"SELECT count(pgpubsub.publish('c', '$round.$part.' || i || repeat('-', 1000))) FROM generate_series(1, $count) AS i"
		);
		push @expected, map { "$round.$part.$_" } 1 .. $count;
	}
	$admin->settle;
	foreach my $what ([ 'subscription', 1, $admin->take('reader', 70) ],
		[ 'native', 2, $listener->wait_for_notifications(70) ])
	{
		my ($name, $column, @rows) = @$what;

		is(join(' ', map { $_->[$column] =~ s/-+$//r } @rows),
			"@expected", "more than can be staged: $name, in order");
	}
}

TODO:
{
	local $TODO = 'what cannot be staged is published by Async_Notify(), which folds';

	$writer->run(
		"SELECT count(pgpubsub.publish('c', i % 2 || repeat('-', 1000))) FROM generate_series(1, 60) AS i"
	);
	$admin->settle;
	@taken = $admin->run("SELECT payload FROM pgpubsub.poll('reader', 100)");
	is(scalar @taken, 60, 'more than can be staged, with identical ones: none is folded');
	$listener->query('SELECT 1');
	$listener->notifications;
}

# Publish mode of a trigger, and of the session

$admin->run(
	q{CREATE TABLE async_table (id int); CREATE TABLE plain_table (id int); CREATE TABLE any_table (id int);
	  SELECT pgpubsub.attach('async_table', 'd', publish_mode => 'async'),
	         pgpubsub.attach('plain_table', 'd', publish_mode => 'transactional'),
	         pgpubsub.attach('any_table', 'd')});
foreach my $mode (qw(async transactional))
{
	$writer->run("SET pgpubsub.publish_mode = '$mode'");
	foreach my $case (
		[ 'async_table', $relay ],
		[ 'plain_table', $writer->{pid} ],
		[ 'any_table', $mode eq 'async' ? $relay : $writer->{pid} ])
	{
		my ($table, $sender) = @$case;

		$writer->run("INSERT INTO $table VALUES (1)");
		is(($listener->wait_for_notifications(1))[0][0],
			$sender, "trigger of $table, session $mode");
		is(($admin->take('reader', 1))[0][2],
			$writer->{pid}, 'the pid for the subscription is the same');
	}
}
$writer->run("SET pgpubsub.publish_mode = 'transactional'");
statements($writer, 'BEGIN', publishing(qw(a a)), 'COMMIT');
both_get(['a'], 'transactional: identical ones are folded', native_pid => $writer->{pid});
$writer->run("SET pgpubsub.publish_mode = 'async'");

# PREPARE TRANSACTION

foreach my $mode (qw(async transactional))
{
	$writer->run("SET pgpubsub.publish_mode = '$mode'");
	foreach my $savepoint ('', 'SAVEPOINT s; SAVEPOINT t', 'SAVEPOINT s')
	{
		statements($writer, 'BEGIN', split(/; /, $savepoint), publishing('never'));
		$writer->run('SAVEPOINT u; RELEASE t; ROLLBACK TO s; RELEASE s') if $savepoint =~ /t/;
		statements($writer, publishing('never')) if $savepoint =~ /t/;
		$writer->run('RELEASE s') if $savepoint eq 'SAVEPOINT s';
		$writer->query("PREPARE TRANSACTION 'p'");
		is($writer->sqlstate, '0A000', "$mode: PREPARE TRANSACTION with events fails");
		like($writer->{error}{H} // '', qr/pgpubsub\.muted/, 'the hint says what works');
	}
	is($admin->value('SELECT count(*) FROM pg_prepared_xacts'), 0, 'nothing is prepared');
	foreach my $again ('SAVEPOINT t; RELEASE t', 'SAVEPOINT t')
	{
		statements($writer, 'BEGIN', 'SAVEPOINT s', publishing('never'), split(/; /, $again), publishing('never'), 'ROLLBACK TO s');
		$writer->run("PREPARE TRANSACTION 'p'");
		$writer->run("COMMIT PREPARED 'p'");
	}
	both_get([], "$mode: PREPARE TRANSACTION after the events were rolled back");
}
$writer->run("SET pgpubsub.publish_mode = 'async'");

# A commit that takes its time is overtaken, and comes when it is done.

my $slow = client($node);
$slow->run("SET pgpubsub.publish_mode = 'async'; SET synchronous_commit = local");
$slow->run('CREATE TABLE slow (i int)');
$slow->run('RESET synchronous_commit');
hold_commits($node);
$slow->begin("INSERT INTO slow VALUES (1); SELECT pgpubsub.publish('c', 'slow')");
ok(commit_waits($node, $slow), 'a commit that waits');
$writer->run('SET synchronous_commit = local');
statements($writer, publishing('quick'));
both_get(['quick'], 'a commit that waits is overtaken');
$writer->run(
	"SELECT count(pgpubsub.publish('d', i || repeat('-', 1000))) FROM generate_series(1, 60) AS i"
);
is(scalar @{ [ $admin->take('reader', 60) ] }, 60, 'one that cannot be staged overtakes it too');
$listener->wait_for_notifications(60);
$listener->notifications;
cmp_ok($admin->queue('staging_used_bytes'),
	'>', 0, 'it keeps its place');
$admin->run("SELECT pg_cancel_backend($slow->{pid})");
$slow->finish;
both_get(['slow'], 'it is published when it is done', pid => $slow->{pid});
$slow->quit;
release_commits($node);
$writer->run('RESET synchronous_commit');
$admin->wait_for_queue("staging_used_bytes = 0");

# The staging queue is full: a writer waits, for as long as it may.

stop_process($admin, $relay);
my $filled = 0;
$writer->run("SET pgpubsub.publish_timeout = '200ms'");
while ($filled < 2000)
{
	$writer->query("SELECT pgpubsub.publish('c', '" . ($filled + 1) . "')");
	last if $writer->{error};
	$filled++;
}
cmp_ok($filled, '>', 100, "the staging queue takes $filled events");
cmp_ok($filled, '<', 2000, 'and then it is full');
is($writer->sqlstate, '53400', 'full staging queue: SQLSTATE');
is($writer->{error}{M}, 'queue is full', 'message');
like($writer->{error}{D}, qr/staging queue/, 'detail');
ok($writer->{error}{H}, 'hint');
cmp_ok($writer->duration, '>=', 0.19, 'after publish_timeout');
cmp_ok($admin->queue('staging_used_bytes'),
	'>', 60000, 'the view says that it is full');
$writer->run("SET pgpubsub.publish_timeout = '10min'");
$writer->begin((publishing('never'))[0]);
ok(waits_in_extension($admin, $writer), 'a writer waits for the staging queue');
$admin->run("SELECT pg_cancel_backend($writer->{pid})");
$writer->finish;
is($writer->sqlstate, '57014', 'pg_cancel_backend ends the wait');
$writer->begin((publishing('waited'))[0]);
ok(waits_in_extension($admin, $writer), 'a writer waits again');
my $rollback = client($node);
$rollback->run("SET pgpubsub.publish_mode = 'async'");
statements($rollback, 'BEGIN', publishing('never'), 'ROLLBACK');
$rollback->quit;
kill 'CONT', $relay;
$writer->finish;
is($writer->sqlstate, '', 'and goes on when there is room');
$writer->run('RESET pgpubsub.publish_timeout');
both_get([ 1 .. $filled, 'waited' ], 'full staging queue');

# A session ends before what it has staged is sent.

stop_process($admin, $relay);
my $gone = client($node);
$gone->run("SET pgpubsub.publish_mode = 'async'");
$gone->run("SELECT pgpubsub.publish('c', 'gone')");
$admin->run("SELECT pg_terminate_backend($gone->{pid}, 30000)");
$gone->quit;
kill 'CONT', $relay;
both_get(['gone'], 'its session is gone', pid => $gone->{pid});

# No relay: a NOTIFY of the transaction

$admin->run("ALTER SYSTEM SET pgpubsub.databases = 'elsewhere'");
$node->reload;
wait_for_relay($node, 'postgres', count => 0);
statements($writer, publishing('alone'));
my @found = $listener->wait_for_notifications(1);
is("@{$found[0]}", "$writer->{pid} c alone", 'no relay: published in the transaction');
my $fresh = client($node);
$fresh->run("SET pgpubsub.publish_mode = 'async'");
$fresh->run("SELECT pgpubsub.publish('c', '$long')");
@found = $listener->wait_for_notifications(1);
like("@{$found[0]}", qr/^$fresh->{pid} c \{"truncated"/, 'also from a new session');
$fresh->quit;
$admin->run('ALTER SYSTEM RESET pgpubsub.databases');
$node->reload;
wait_for_relay($node, 'postgres');
my ($gap) = $admin->take('reader', 1);
is("@$gap[0, 1]", 'gap -1', 'a new relay: a gap row');
statements($writer, publishing('again'));
both_get(['again'], 'with a relay again');

# Nobody has seen what must not be.
is(join(' ', grep { $_->[1] =~ /never/ } $admin->take('pattern', 0)), '', 'nothing else came');
is( $admin->queue('staging_used_bytes'),
	0, 'the staging queue is empty');
is($admin->queue('bad_frames'),
	0, 'no frame was bad');
$node->stop('fast');
server_is_sound($node);
done_testing();
