# The log of durable channels keeps its size on disk, whoever writes and however
# fast, and loses nothing before it must.

use strict;
use warnings;

use List::Util qw(max sum0);
use PgPubsub::Test;
use Test::More;

my $mb    = 1024 * 1024;
my $size  = 16 * $mb;
my $share = $size / 8;

my $node = new_server('durable_log_size', conf => q{
pgpubsub.log_size = 16MB
pgpubsub.queue_size = 256kB
pgpubsub.publish_timeout = 2min
log_statement = none
});
my $admin;

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE PROCEDURE fill(channel text, events int, bytes int, many int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. events LOOP
			PERFORM pgpubsub.publish(channel, CASE WHEN bytes < 8000 THEN rpad(i::text, bytes) ELSE
				(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, bytes / 32)) END);
			IF i % many = 0 THEN
				COMMIT;
			END IF;
		END LOOP;
	END $$;
	SELECT pgpubsub.set_durable('a');
});
$admin = client($node);

# The files that the relations of the log have now: not what was unlinked, but is
# there, empty, until the next checkpoint.
my $log_bytes = q{
	SELECT sum((pg_stat_file(pg_relation_filepath(i.relid), true)).size)
	  FROM (SELECT unnest(ARRAY[c.oid, t.oid] || array(SELECT indexrelid::oid FROM pg_index WHERE indrelid IN (c.oid, t.oid))) AS relid
	          FROM pg_class AS c LEFT JOIN pg_class AS t ON t.oid = c.reltoastrelid
	         WHERE c.relnamespace = 'pgpubsub'::regnamespace AND c.relkind = 'm') AS i
	 WHERE i.relid <> 0};

# The log's bytes while the writers go on: the most that were seen.
sub most_bytes
{
	my (@writers) = @_;
	my $most = 0;

	do
	{
		$most = max($most, $admin->value($log_bytes));
	} until (!grep { !$_->done } @writers);
	foreach my $writer (@writers)
	{
		$writer->finish;
		is($writer->sqlstate, '', 'a writer comes to its end');
	}
	return $most;
}

sub set_log_size
{
	my ($value) = @_;

	$admin->run("ALTER SYSTEM SET pgpubsub.log_size = '$value'");
	$admin->run('SELECT pg_reload_conf()');
	wait_until(sub { $node->safe_psql('postgres', 'SHOW pgpubsub.log_size') eq $value }, 'the setting');
	return;
}

# Nobody reads; writers do not pause.  What is held is the oldest, which is lost
{
	my @writers = map { client($node) } 1 .. 4;
	my $many = 100;

	$admin->run("SELECT pgpubsub.set_durable('a', retain => '1 hour')");
	$admin->run("SELECT pgpubsub.subscribe('s', '{a}', 'drop')");
	$_->begin("CALL fill('a', 25000, 1000, $many)") foreach @writers;

	# a segment, and what each writer adds that has found room
	my $most = most_bytes(@writers);
	note(sprintf('at most %.1f MB', $most / $mb));
	cmp_ok($most, '<', $size + $share + @writers * $many * 1200, 'writers that do not pause keep the size');
	cmp_ok($most, '>', $size / 2, 'and use it');
	$admin->settle;
	cmp_ok($admin->value("SELECT rotations FROM pgpubsub.stat_log WHERE datname = 'postgres'"), '>', 40, 'the segments have taken turns');

	# payloads that have to be kept beside their rows
	
	$_->begin("CALL fill('a', 1000, 20000, 10)") foreach @writers;
	$most = most_bytes(@writers);
	note(sprintf('at most %.1f MB', $most / $mb));
	cmp_ok($most, '>', $size / 2, 'long payloads use it, too');
	cmp_ok($most, '<', $size + $share + @writers * 10 * 22_000, 'and keep it');
	$_->quit foreach @writers;
	$admin->run("SELECT pgpubsub.unsubscribe('s')");
}

# After a start nothing is lost that there is room for
{
	my $writer = client($node);
	my $before;

	# seven of the eight segments, and a bit
	$admin->run("SELECT pgpubsub.set_durable('a', retain => '0')");
	$writer->run("CALL fill('a', 100, 1000, 100)");
	wait_until(sub { $admin->value($log_bytes) < $size / 4 }, 'the log is emptied, but for the segment in use');
	$admin->run("SELECT pgpubsub.set_durable('a', retain => '1 hour')");
	$writer->run("CALL fill('a', 1000, 1000, 100)") while $admin->value($log_bytes) < $size - 1.6 * $share;
	$admin->settle;
	$before = $admin->value("SELECT oldest_seq FROM pgpubsub.stat_log WHERE datname = 'postgres'");
	$_->quit foreach $writer, $admin;
	$node->stop('immediate');
	$node->start;
	$admin = client($node);
	wait_for_relay($node, 'postgres');
	$writer = client($node);
	$writer->run("CALL fill('a', 300, 1000, 100)");
	$admin->settle;
	wait_until(sub { $admin->value("SELECT used_bytes FROM pgpubsub.stat_log WHERE datname = 'postgres'") > 0 }, 'a look');
	is($admin->value("SELECT oldest_seq FROM pgpubsub.stat_log WHERE datname = 'postgres'"), $before, 'a start of the server has nothing emptied');
	$writer->quit;
}

# Who waits in COMMIT for room goes on when log_size is raised
{
	my $writer = client($node);

	$admin->run("SELECT pgpubsub.set_durable('a', retain => '0')");
	$admin->run("SELECT pgpubsub.subscribe('held', '{a}', 'block')");
	$writer->begin("CALL fill('a', 30000, 1000, 100)");
	wait_until(
		sub { $admin->value("SELECT held_by = 'held' FROM pgpubsub.stat_log WHERE datname = 'postgres'") eq 't' },
		'the log is full');
	wait_until(sub { waits_in_extension($admin, $writer) }, 'the writer waits');
	cmp_ok($admin->value($log_bytes), '<', $size + $share + 150_000, 'in its size');
	set_log_size('64MB');
	ok(wait_until(sub { $writer->done }, 'the writer'), 'it ends');
	$writer->finish;
	is($writer->sqlstate, '', 'without an error');
	is($admin->value("SELECT pending FROM pgpubsub.stat_subscriptions WHERE subscription = 'held'"), 30_000, 'nothing is lost');

	# lowered again, it is full at once; dropped, it shrinks
	set_log_size('16MB');
	$writer->begin("CALL fill('a', 10000, 1000, 100)");
	wait_until(
		sub { $admin->value("SELECT held_by = 'held' FROM pgpubsub.stat_log WHERE datname = 'postgres'") eq 't' },
		'the log is full again');
	wait_until(sub { waits_in_extension($admin, $writer) }, 'the writer waits again');
	$admin->run("SELECT pgpubsub.unsubscribe('held')");
	ok(wait_until(sub { $writer->done }, 'the writer'), 'it ends, too');
	$writer->finish;
	is($writer->sqlstate, '', 'without an error, too');
	ok(wait_until(sub { $admin->value($log_bytes) < $size + $share }, 'the log'), 'the log has its size again');
	$writer->quit;
}

$admin->quit;
server_is_sound($node);
done_testing();
