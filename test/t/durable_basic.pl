# What a durable channel promises, one thing at a time: events are there after
# restarts and crashes, without a gap row, and reading them is part of the
# transaction that reads.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('durable_basic', conf => q{
restart_after_crash = on
pgpubsub.log_size = 64MB
default_transaction_isolation = 'read committed'
log_statement = none
});
my $admin;

sub run_sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# The server ends, and starts again.
sub restart
{
	my ($mode) = @_;

	$admin->quit if $admin;
	$node->stop($mode);
	$node->start;
	$admin = client($node);
	return;
}

sub crash { return restart('immediate'); }

# What the subscription gives now: "channel:payload" each, or "gap:lost".
sub reads
{
	my ($subscription, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $count = () = $expected =~ /\S+/g;

	is(received($node, 'postgres', $subscription, $count, gaps => 1), $expected, $name);
	is_quiet($node, 'postgres', $subscription, "$name: nothing else");
	return;
}

sub publish_all
{
	my ($channel, @payloads) = @_;

	publish($node, 'postgres', $channel, $_) foreach @payloads;
	return;
}

run_sql('CREATE EXTENSION pgpubsub');
$admin = client($node);
is($admin->value("SELECT pgpubsub.set_durable('a')"), 't', 'a channel is made durable');
is($admin->value("SELECT pgpubsub.set_durable('a')"), 'f', 'once');
is($admin->value("SELECT pgpubsub.set_durable('a', retain => '1 hour')"), 't', 'keeping events longer is a change');
is($admin->value("SELECT pgpubsub.set_durable('a', retain => '0')"), 't', 'and so is the way back');
$admin->run("SELECT pgpubsub.set_durable('b'), pgpubsub.set_durable('p*')");
$admin->run(
	q{
	SELECT pgpubsub.subscribe('s', '{a,b}'),
	       pgpubsub.subscribe('pattern', '{p*}', 'drop'),
	       pgpubsub.subscribe('never_polled', '{a}', 'block')});
is( $admin->value(
		"SELECT string_agg(channel, ' ' ORDER BY channel) FROM pgpubsub.stat_channels WHERE durable AND datname = 'postgres'"),
	'a b', 'the view shows which are');

# Restarts

foreach my $mode (qw(fast immediate))
{
	publish_all('a', 1, 2);
	publish_all('b', 3);
	publish_all('p1', 4);
	publish_all('p2', 5);
	restart($mode);
	reads('s', 'a:1 a:2 b:3', "$mode: what was unread is read");
	reads('pattern', 'p1:4 p2:5', "$mode: so with a pattern");
	publish_all('a', 6);
	publish_all('p3', 7);
	reads('s', 'a:6', "$mode: and so is what comes then");
	reads('pattern', 'p3:7', "$mode: so with a pattern, on a new channel");
	restart($mode);
	is_quiet($node, 'postgres', $_, "$mode: $_ reads nothing twice") foreach qw(s pattern);
}
reads('never_polled', 'a:1 a:2 a:6 a:1 a:2 a:6', 'who has never polled has it all');

# A subscription that is created right before a crash
run_sql("SELECT pgpubsub.subscribe('created', '{a}')");
publish_all('a', 1);
crash();
reads('created', 'a:1', 'a subscription of before a crash, never polled, reads what came after it was made');
reads('s', 'a:1', 'and so do the others');
run_sql("SELECT pgpubsub.unsubscribe('created'), pgpubsub.unsubscribe('never_polled')");

# Transactions that publish

my $writer = client($node);
$writer->run("BEGIN; SELECT pgpubsub.publish('a', 'never'); ROLLBACK");
$writer->run("BEGIN; SELECT pgpubsub.publish('a', '1'); SAVEPOINT s; SELECT pgpubsub.publish('a', 'never');"
	  . "ROLLBACK TO s; SELECT pgpubsub.publish('b', '2'); SAVEPOINT s; SELECT pgpubsub.publish('a', '3'); COMMIT");
my $open = client($node);
$open->run("BEGIN; SELECT pgpubsub.publish('a', 'never')");
crash();
$_->quit foreach $open, $writer;
reads('s', 'a:1 b:2 a:3', 'what was rolled back, or not committed at a crash, is not there');

# Transactions that read

publish_all('a', 1 .. 4);
settle($node, 'postgres');
my $payloads = "SELECT string_agg(payload, ' ') FROM pgpubsub.poll('s', 2)";
$admin->run('BEGIN');
is($admin->value($payloads), '1 2', 'a transaction reads');
$admin->run('SAVEPOINT s');
is($admin->value($payloads), '3 4', 'in a savepoint too');
$admin->run('ROLLBACK TO s');
is($admin->value($payloads), '3 4', 'again, when that is rolled back');
$admin->run('ROLLBACK');
is($admin->value($payloads), '1 2', 'and all of it, when the transaction is');
$admin->run('BEGIN');
is($admin->value($payloads), '3 4', 'a transaction that does not end');
crash();
reads('s', 'a:3 a:4', 'has read nothing, after a crash');
publish_all('a', 1 .. 3);
settle($node, 'postgres');
$admin->run('BEGIN');
$admin->run('SAVEPOINT s');
is($admin->value($payloads), '1 2', 'a savepoint reads');
$admin->run('RELEASE s');
$admin->run('COMMIT');
crash();
reads('s', 'a:3', 'and its transaction has committed');

# Two sessions

publish_all('a', 1, 2);
settle($node, 'postgres');
my $other = client($node);
$admin->run('BEGIN');
is($admin->value($payloads), '1 2', 'a session reads');
$other->query($payloads);
is($other->sqlstate, '55006', 'another one cannot meanwhile');
like($other->{error}{M} . ($other->{error}{D} // ''), qr/\b$admin->{pid}\b/, 'and is told who does');
$other->begin("SELECT string_agg(payload, ' ') FROM pgpubsub.poll('s', 2, '30s')");
ok(waits_in_extension($admin, $other), 'or it waits');
$admin->run('ROLLBACK');
$other->finish;
is($other->{rows}[0][0], '1 2', 'and reads what the first has not');
$other->quit;
crash();
is_quiet($node, 'postgres', 's', 'for good');

# Kinds of transactions

foreach my $level ('SERIALIZABLE', 'REPEATABLE READ')
{
	$admin->run("BEGIN ISOLATION LEVEL $level");
	$admin->run('SELECT count(*) FROM pg_class');
	publish_all('a', 1, 2);
	settle($node, 'postgres');
	is($admin->value($payloads), '1 2', "$level: what was committed after its snapshot is read");
	$admin->run('ROLLBACK');
	my $second = client($node);
	$second->run("BEGIN ISOLATION LEVEL $level");
	$second->run('SELECT count(*) FROM pg_class');
	$admin->run("BEGIN ISOLATION LEVEL $level");
	is($admin->value("SELECT payload FROM pgpubsub.poll('s', 1)"), '1', "$level: again after a rollback");
	$admin->run('COMMIT');
	is($second->value("SELECT payload FROM pgpubsub.poll('s', 1)"), '2', "$level: the next, in a transaction that began before");
	$second->run('COMMIT');
	$second->quit;
	crash();
	is_quiet($node, 'postgres', 's', "$level: that is kept");
}
publish_all('a', 1);
settle($node, 'postgres');
$admin->run('BEGIN READ ONLY');
is($admin->value("SELECT payload FROM pgpubsub.poll('s', 1, consume => false)"), '1', 'a transaction that is read-only can look');
$admin->query($payloads);
is($admin->sqlstate, '25006', 'but not consume');
$admin->run('ROLLBACK');
reads('s', 'a:1', 'any other can');
$admin->run("BEGIN; SELECT pgpubsub.publish('a', 'never')");
$admin->query("PREPARE TRANSACTION 'x'");
isnt($admin->sqlstate, '', 'a transaction with events cannot be prepared');

# A subscription of durable channels and others

run_sql("SELECT pgpubsub.subscribe('mixed', '{a,memory}', 'drop')");
publish_all('a', 1);
publish_all('memory', 2);
publish_all('a', 3);
settle($node, 'postgres');
is( $admin->value("SELECT string_agg(channel || ':' || payload, ' ' ORDER BY channel, seq) FROM pgpubsub.poll('mixed', 100, '30s')"),
	'a:1 a:3 memory:2', 'of durable channels and others: each in order');
publish_all('a', 4);
publish_all('memory', 5);
publish_all('a', 6);
settle($node, 'postgres');
crash();
reads('mixed', 'gap:-1 a:4 a:6', 'after a crash a gap row, and all that is durable');
publish_all('memory', 7);
publish_all('a', 8);
reads('mixed', 'memory:7 a:8', 'then it goes on');
reads('s', 'a:1 a:3 a:4 a:6 a:8', 'and those of durable channels alone have no gap row');
run_sql("SELECT pgpubsub.unsubscribe('mixed')");

# A channel that is durable no longer

publish_all('b', 1);
is($admin->value("SELECT pgpubsub.set_durable('b', false)"), 't', 'a channel is not durable again');
is($admin->value("SELECT pgpubsub.set_durable('b', false)"), 'f', 'once');
publish_all('b', 2);
publish_all('a', 3);
reads('s', 'b:1 b:2 a:3', 'what was published before and after is read');
publish_all('b', 4);
publish_all('a', 5);
settle($node, 'postgres');
crash();
reads('s', 'gap:-1 a:5', 'what was published after is memory: a gap row');
is($admin->value("SELECT pgpubsub.set_durable('b')"), 't', 'durable once more');
publish_all('b', 6);
crash();
reads('s', 'b:6', 'no gap row');

# Names that are used again

publish_all('a', 1);
settle($node, 'postgres');
run_sql("SELECT pgpubsub.unsubscribe('s'); SELECT pgpubsub.subscribe('s', '{a,b}')");
is_quiet($node, 'postgres', 's', 'a subscription of the same name does not have the position of the last');
publish_all('a', 2);
crash();
reads('s', 'a:2', 'nor after a crash');
run_sql("SELECT pgpubsub.unsubscribe('s'); SELECT pgpubsub.subscribe('s', '{a,b}', start_at => 'oldest')");
my $first = $admin->value("SELECT min(seq) FROM pgpubsub.poll('s', 100000, consume => false)");
crash();
is($admin->value("SELECT min(seq) FROM pgpubsub.poll('s', 100000, '30s', false)"),
	$first, 'one that begins with the oldest does so after a crash too');
$admin->run("BEGIN; SELECT pgpubsub.unsubscribe('s'); SELECT pgpubsub.subscribe('s', '{a,b}'); ROLLBACK");
is($admin->value("SELECT min(seq) FROM pgpubsub.poll('s', 100000, consume => false)"),
	$first, 'a new one that is rolled back changes nothing');
$admin->run("SELECT count(*) FROM pgpubsub.poll('s', 100000)");
is_quiet($node, 'postgres', 's', 'all is read');

# Payloads

$admin->run("SELECT pgpubsub.publish('a', repeat('0123456789', 50000))");
publish_all('a', '');
publish_all('b', 'after');
my $look = "SELECT string_agg(concat_ws(' ', channel, length(payload), md5(payload)), ', ')"
  . " FROM (SELECT channel, payload FROM pgpubsub.poll('s', 10, '30s', false)) AS p";
my $whole = run_sql(
	"SELECT concat_ws(', ', 'a 500000 ' || md5(repeat('0123456789', 50000)), 'a 0 ' || md5(''), 'b 5 ' || md5('after'))");
settle($node, 'postgres');
is($admin->value($look), $whole, 'a large payload, and an empty one');
crash();
is($admin->value($look), $whole, 'after a crash');
is($admin->value("SELECT count(*) FROM pgpubsub.poll('s', 10)"), 3, 'all are read');

# Change events, of a table and of its rows one after another

run_sql(
	q{
	CREATE TABLE orders (id int PRIMARY KEY, status text);
	SELECT pgpubsub.attach('orders', 'b', durable => true);
	INSERT INTO orders VALUES (1, 'new');
	UPDATE orders SET status = 'paid';
	DELETE FROM orders});
crash();
is( $admin->value(
		q{SELECT string_agg(payload::json ->> 'op', ' ') FROM (SELECT payload FROM pgpubsub.poll('s', 10, '30s')) AS p}),
	'INSERT UPDATE DELETE',
	'change events are there after a crash');

# Those who LISTEN

my $listener = client($node);
$listener->run('LISTEN a; LISTEN b');
$writer = client($node);
$writer->publish('a', $_) foreach 1 .. 3;
$writer->run("BEGIN; SELECT pgpubsub.publish('a', 'never'); ROLLBACK");
$writer->run("BEGIN; SELECT pgpubsub.publish('a', 'together_1'); SELECT pgpubsub.publish('b', 'together_2'); COMMIT");
kill_relay($node, 'postgres');
$writer->publish('b', 'end');
my @heard = $listener->wait_for_notifications(6);
is(join(', ', map { "$_->[1]:$_->[2]" } @heard),
	'a:1, a:2, a:3, a:together_1, b:together_2, b:end', 'they hear each event once, in order');
$admin->settle;
$listener->run('SELECT 1');
is(scalar @{ [ $listener->notifications ] }, 0, 'and nothing else');
reads('s', 'a:1 a:2 a:3 a:together_1 b:together_2 b:end', 'and so do subscriptions');

$_->quit foreach $listener, $writer, $admin;
$node->stop('fast');
server_is_sound($node);
done_testing();
