# A backend or the relay is killed while many publish in async mode: the
# server comes back, and so does everything of pgpubsub; what had not committed
# never appears, and what may be missing is shown as a gap row.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('crash', init => { allows_streaming => 1 }, conf => q{
restart_after_crash = on
pgpubsub.publish_mode = async
pgpubsub.queue_size = 1MB
pgpubsub.staging_size = 256kB
pgpubsub.evict_timeout = 100ms
max_connections = 50
log_statement = none
});
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
my $admin = client($node);

# Each transaction writes down what it publishes; every fifth is rolled back,
# and one in between publishes in a subtransaction that is.
$admin->run(
	q{
	CREATE TABLE written (id text PRIMARY KEY);
	CREATE TABLE asked (id text);
	CREATE PROCEDURE write(who text) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. 10000000 LOOP
			INSERT INTO written VALUES (who || ':' || i);
			PERFORM pgpubsub.publish('c' || i % 3, who || ':' || i);
			BEGIN
				PERFORM pgpubsub.publish('c' || i % 3, 'never');
				RAISE division_by_zero;
			EXCEPTION WHEN division_by_zero THEN
			END;
			IF i % 5 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
		END LOOP;
	END $$;
	SELECT pgpubsub.subscribe('evict', '{c0,c1,c2}', 'evict'),
	       pgpubsub.subscribe('drop', '{c*}', 'drop'),
	       pgpubsub.subscribe('block', '{c1}', 'block')});

my %seen;          # payloads, by who has seen them
my $round = 0;

# What there is to read now; counts gap rows by what they say.
sub read_all
{
	my ($client, $gaps) = @_;

	foreach my $name (qw(evict drop block))
	{
		foreach my $row (
			$client->query(
				"SELECT payload, lost FROM pgpubsub.poll('$name', 100000)"))
		{
			if   (defined $row->[0]) { $seen{ $row->[0] }{$name}++; }
			else                     { $gaps->{$name}{ $row->[1] }++; }
		}
	}
}

# Everybody writes and reads; then that process is killed.
sub crash
{
	my ($name, $who) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$round++;
	my $listener = client($node);
	$listener->run('LISTEN c0; LISTEN c1; LISTEN c2');
	my $open = client($node);
	$open->run('BEGIN');
	$open->run("SELECT pgpubsub.publish('c1', 'never')");
	my @writers = map { client($node) } 1 .. 6;
	$writers[$_]->begin("CALL write('$round.$_')") foreach 0 .. $#writers;

	my $reader = client($node);
	my $start  = $reader->queue('published');
	wait_until(
		sub {
			read_all($reader, {});
			$listener->pump(0);
			return $reader->queue('published') >
			  $start + 3000;
		},
		'events');
	is(join('', map { $_->sqlstate } @writers), '', "$name: writers write");
	my $reached = grep { $_->{busy} } @writers;
	my $offset = log_offset($node);

	kill 'KILL', $who->(\@writers, $reader, $open);
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
	ok($node->poll_query_until('postgres', 'SELECT true'), "$name: the server comes back");
	$listener->pump(0) until $listener->{closed};
	$seen{ $_->[2] }{native}++ foreach $listener->notifications;
	$_->quit foreach @writers, $reader, $open, $listener;

	wait_for_relay($node, 'postgres');
	$admin = client($node);
	is( $admin->value(
			"SELECT string_agg(subscription || ' ' || on_full, ', ' ORDER BY subscription) FROM pgpubsub.stat_subscriptions"
		),
		'block block, drop drop, evict evict',
		"$name: the subscriptions come back");
	is($admin->queue('staging_used_bytes'),
		0, "$name: nothing is staged");

	my %gaps;
	read_all($admin, \%gaps);
	read_all($admin, \%gaps);
	is_deeply(
		\%gaps,
		{ map { $_ => { -1 => 1 } } qw(evict drop block) },
		"$name: each has one gap row") or diag explain \%gaps;

	# it goes on as before
	my $writer = client($node);
	$writer->run('LISTEN c1');
	$writer->run(
		"INSERT INTO written SELECT 'after $round.' || i FROM generate_series(1, 100) AS i;"
		  . "SELECT count(pgpubsub.publish('c1', 'after $round.' || i)) FROM generate_series(1, 100) AS i");
	foreach my $subscription (qw(evict drop block))
	{
		my @rows = $admin->run(
			"SELECT payload, pid FROM pgpubsub.poll('$subscription', 1000, '20s')");

		push @rows, $admin->run(
			"SELECT payload, pid FROM pgpubsub.poll('$subscription', 1000, '20s')")
		  while @rows < 100 && $rows[-1];
		is( join(' ', map { $_->[0] } @rows),
			join(' ', map { "after $round.$_" } 1 .. 100),
			"$name: $subscription reads what is published now");
		is($rows[0][1], $writer->{pid}, "$name: from its writer");
	}
	is(scalar @{ [ $writer->wait_for_notifications(100) ] },
		100, "$name: native listeners too");
	$writer->quit;

	# nothing is known of transactions that have not committed
	my %written = map { $_->[0] => 1 } $admin->run('SELECT id FROM written');
	my @unknown = grep { !$written{$_} } sort keys %seen;
	is(scalar @unknown, 0, "$name: none of " . (scalar keys %seen) . " events is of a transaction that has not committed")
	  or diag "@unknown[0 .. ($#unknown > 9 ? 9 : $#unknown)]";
	my @twice = grep {
		my $id = $_;
		grep { $_ > 1 } values %{ $seen{$id} }
	} sort keys %seen;
	is(scalar @twice, 0, "$name: nothing has come twice")
	  or diag "@twice[0 .. ($#twice > 9 ? 9 : $#twice)]";
	return;
}

crash('a writer is killed', sub { return $_[0][0]{pid} });
crash('a reader is killed', sub { return $_[1]{pid} });
crash('the relay is killed', sub { return relay_pid($node, 'postgres') });
crash('one with uncommitted events is killed', sub { return $_[2]{pid} });

# A transaction that has its place in the staging queue, and waits in its
# commit, is killed.  It has committed; what is lost is shown as a gap.
my $round_name = 'one that commits is killed';
hold_commits($node);
my $slow = client($node);
$slow->begin("INSERT INTO asked VALUES ('slow'); SELECT pgpubsub.publish('c1', 'slow')");
ok(commit_waits($node, $slow), 'a commit that waits');
cmp_ok($admin->queue('staging_used_bytes'),
	'>', 0, "$round_name: it has its place");
my $offset = log_offset($node);
kill 'KILL', $slow->{pid};
$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
ok($node->poll_query_until('postgres', 'SELECT true'), "$round_name: the server comes back");
$slow->quit;
$admin = client($node);
release_commits($node);
wait_for_relay($node, 'postgres');
is($admin->queue('staging_used_bytes'),
	0, "$round_name: nothing is staged");
my @rows = $admin->run("SELECT payload, lost FROM pgpubsub.poll('block', 10, '20s')");
is(scalar @rows, 1, "$round_name: there is one row");
is($rows[0][1], -1, 'a gap row');

$node->stop('fast');
server_is_sound($node, allow => qr/terminated by signal 9: Killed/);
done_testing();
