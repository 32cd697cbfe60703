# Durable channels: the server is killed at random moments, again and again, while
# many write and read.  Every event of a transaction that has committed comes
# all the same, in order; once, to those who read in the transaction of their
# results.  There is no gap row.
#
#   DURABLE_CRASHES=30  how often; 8 by default
#   DURABLE_SEED=...    repeats the dice, not the timing

use strict;
use warnings;

use PgPubsub::Durable;
use PgPubsub::Test;
use Test::More;

my $crashes = $ENV{DURABLE_CRASHES} // 8;

# The log is small, so that its segments are used again all the time.
my $node = new_server('durable_crash', conf => q{
restart_after_crash = on
pgpubsub.queue_size = 1MB
pgpubsub.staging_size = 512kB
pgpubsub.log_size = 32MB
pgpubsub.publish_timeout = 30s
log_statement = none
});

PgPubsub::Durable->prepare($node, pattern => 1);
my $load = PgPubsub::Durable->begin(nodes => [$node]);

# One process of the server is killed: it ends all others, and starts anew.
sub kill_one
{
	my $kinds = (
		"'pgpubsub relay'", "'pgpubsub relay'", "'pgpubsub launcher'", "'checkpointer'",
		"'client backend'", "'client backend'")[ rand 6 ];
	my $offset = log_offset($node);
	my $pid    = $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = $kinds AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1");

	note "killing $kinds $pid";
	return unless $pid && kill 'KILL', $pid;
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
	ok($node->poll_query_until('postgres', 'SELECT true'), 'the server comes back');
	return;
}

foreach my $round (1 .. $crashes)
{
	# some come before the relay has found what the last one has left
	my $transactions = int rand(rand() < 0.3 ? 10 : 500);
	my $one          = rand() < 0.25;

	note "crash $round, after $transactions transactions, of " . ($one ? 'one process' : 'all processes');
	$load->wait_for_transactions($transactions) or last;
	if ($one)
	{
		kill_one();
		next;
	}
	kill_server($node);
	$node->start;
}
$load->wait_for_transactions(200);
$load->finish($node);
$load->check($node);
note $node->safe_psql('postgres',
	"SELECT rotations || ' rotations, ' || segments || ' segments, ' || used_bytes || ' bytes' FROM pgpubsub.stat_log WHERE datname = 'postgres'");

# and all that is still so after a shutdown
$node->restart;
is($node->safe_psql('postgres', "SELECT take('every', 10) + take('pattern', 10)"), 0, 'nothing is left after a restart');
is($node->safe_psql('postgres', "SELECT count(*) FROM events('$_', 10, false)"), 0, "nor for $_")
  foreach qw(pair looking);

$node->stop('fast');
$load->log_is_sound($node, qr/terminated by signal 9: Killed/);
done_testing();
