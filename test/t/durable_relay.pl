# Durable channels: the relay, the launcher and the server are stopped all the time
# while many write and read.  Nobody misses an event, or gets one twice, and the
# order is kept.
#
#   DURABLE_ROUNDS=60   how often; 15 by default
#   DURABLE_SEED=...    repeats the dice, not the timing

use strict;
use warnings;

use PgPubsub::Durable;
use PgPubsub::Test;
use Test::More;

my $rounds = $ENV{DURABLE_ROUNDS} // 15;

my $node = new_server('durable_relay', conf => q{
pgpubsub.queue_size = 1MB
pgpubsub.staging_size = 512kB
pgpubsub.log_size = 32MB
pgpubsub.publish_timeout = 5s
log_statement = none
});

PgPubsub::Durable->prepare($node, pattern => 1);
my $load = PgPubsub::Durable->begin(nodes => [$node]);

sub pid_of
{
	my ($kind) = @_;

	return $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pgpubsub $kind' LIMIT 1");
}

# End a worker; returns when there is another.
sub terminate
{
	my ($kind) = @_;
	my $pid = pid_of($kind);

	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)") if $pid;
	another($kind, $pid || 0);
	return;
}

sub another
{
	my ($kind, $pid) = @_;
	my $where = $kind eq 'relay' ? "EXISTS (SELECT FROM pgpubsub.stat_queue WHERE relay_state = 'listening')" : 'true';

	$node->poll_query_until('postgres',
		"SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'pgpubsub $kind' AND pid <> $pid AND $where")
	  or fail("waited for another $kind");
	return;
}

# The worker does not go on until so many transactions have ended, or one of them
# could not, without it.
sub pause
{
	my ($kind, $transactions, $meanwhile) = @_;
	my $watcher = client($node);
	my $pid     = pid_of($kind);

	if ($pid && stop_process($watcher, $pid))
	{
		my $ok = eval {
			$meanwhile->() if $meanwhile;
			$load->wait_for_transactions($transactions, or_refused => 1);
			1;
		};
		kill 'CONT', $pid;
		die $@ unless $ok;
	}
	$watcher->quit;
	return;
}

# Relay and launcher stand still together, until writers have waited for as long as
# publish_timeout says and were refused.
sub pause_both
{
	my $watcher = client($node);
	my $refused = $load->refused;
	my @stopped;
	my $ok = eval {
		foreach my $kind (qw(launcher relay))
		{
			my $pid = wait_until(sub { pid_of($kind) }, "a $kind");

			push @stopped, $pid if $pid && stop_process($watcher, $pid);
		}
		wait_until(sub { $load->refused > $refused }, 'a writer that is refused');
		1;
	};
	kill 'CONT', @stopped;
	die $@ unless $ok;
	is(scalar @stopped, 2, 'relay and launcher stood still, longer than writers wait');
	$watcher->quit;
	return;
}

my @actions = (
	[ 'the relay is terminated' => sub { terminate('relay') } ],
	[
		'the relay is terminated five times' => sub { terminate('relay') foreach 1 .. 5 }
	],
	[ 'the launcher is terminated'  => sub { terminate('launcher') } ],
	[ 'the relay stands still'      => sub { pause('relay', 50) } ],
	[ 'the launcher stands still'   => sub { pause('launcher', 50) } ],
	[ 'both stand still'            => \&pause_both ],
	[
		'no relay is started' => sub {
			my $pid = pid_of('relay') || 0;

			pause('launcher', 50,
				sub { $node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)") if $pid });
			another('relay', $pid);
		}
	],
	[
		'both are terminated' => sub {
			$node->safe_psql('postgres',
				"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'pgpubsub %'");
			another($_, 0) foreach qw(launcher relay);
		}
	],
	[ 'a fast restart' => sub { $node->restart } ],
	[
		'an immediate restart' => sub { $node->stop('immediate'); $node->start }
	],
	[
		'readers are terminated' => sub {
			$node->safe_psql('postgres',
				"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'durable reader%'");
		}
	]);

# each at least once, as far as there are rounds
my @order = sort { $a->[0] <=> $b->[0] } map { [ int($_ / @actions) + rand, $_ ] } 0 .. $rounds - 1;

foreach my $round (1 .. $rounds)
{
	my ($name, $do) = @{ $actions[ $order[ $round - 1 ][1] % @actions ] };
	my $transactions = int rand(rand() < 0.3 ? 10 : 200);

	note "round $round, after $transactions transactions: $name";
	$load->wait_for_transactions($transactions) or last;
	$do->();
}
$load->wait_for_transactions(100);
$load->finish($node);
$load->check($node);

$node->stop('fast');
$load->log_is_sound($node);
done_testing();
