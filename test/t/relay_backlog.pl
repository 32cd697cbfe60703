# What a relay had received and not queued when it stops is lost, and a gap row
# says so.  A subscription that was made behind those events, or a transaction
# that had it open, misses none of those that come afterwards.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $backlog = 400;

my $node = new_server('relay_backlog', conf => q{
pgpubsub.queue_size = 64kB
pgpubsub.publish_timeout = 30s
pgpubsub.evict_timeout = 1min
log_statement = none
});
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');

# after that a relay has no reason to read the table again when it starts
$node->restart;
wait_for_relay($node, 'postgres');
my $admin = client($node);

# Have a backlog stand in the relay's memory behind a queue that is full for the
# sake of another channel.
sub fill
{
	$admin->run("SELECT pgpubsub.subscribe('early', '{full}', 'block')");
	$admin->run("SELECT pgpubsub.subscribe('listens', '{c}', 'drop')");
	$admin->notify_series('c', 1, 10);
	$admin->notify_series('full', 1, 100);
	$admin->notify_series('c', 11, $backlog);
	ok( $admin->wait_for_queue("relay_state = 'full' AND pg_notification_queue_usage() = 0"),
		'the queue is full, and the relay has read the rest');
}

# End the relay, and free the queue.
sub restart_relay
{
	kill_relay($node, 'postgres');
	$admin->run("SELECT pgpubsub.unsubscribe('$_')") foreach qw(early listens);
	$admin->wait_for_queue("relay_state = 'listening'");
}

# Read from all of them in turn, in their transactions, until each has so many
# events more; returns for each what it has got, and what gap rows say.
sub read_in_turn
{
	my ($count, %session) = @_;
	my @names = sort keys %session;
	my (%numbers, %lost);
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while (time < $deadline
		&& grep { @{ $numbers{$_} // [] } < $count } @names)
	{
		foreach my $name (@names)
		{
			my @rows = $session{$name}->run(
				"SELECT payload::int, lost FROM pgpubsub.poll('$name', 1000, '100ms')"
			);

			foreach my $row (@rows)
			{
				push @{ $lost{$name} },    $row->[1] if defined $row->[1];
				push @{ $numbers{$name} }, $row->[0] unless defined $row->[1];
			}

			# others may wait for the room that this makes
			$session{$name}->run('COMMIT') if $session{$name} != $admin && @rows;
			$session{$name}->run('BEGIN')  if $session{$name} != $admin && @rows;
		}
	}
	return
	  map { $_ => "@{ $numbers{$_} // [] } lost @{ $lost{$_} // [] }" } @names;
}

my ($from, $to) = (1001, 1000 + $backlog);
my $whole = join(' ', $from .. $to) . ' lost -1';

# Two that were made while the backlog stood, one of which changed its channels
# then; nobody reads them while the queue fills up again.

$admin->run("SELECT pgpubsub.subscribe('changed', '{other}', 'block')");
fill();
$admin->run("SELECT pgpubsub.subscribe('late', '{c}', 'block')");
$admin->run("SELECT pgpubsub.subscribe('changed', '{other,c}', 'block')");
restart_relay();
$admin->notify_series('c', $from, $to);
$admin->wait_for_queue("relay_state = 'full'");
my %got = read_in_turn($backlog, late => $admin, changed => $admin);
is($got{late}, $whole, 'what comes after the relay is held for who came before');
is($got{changed}, $whole, 'and for who has changed its channels');
$admin->wait_for_queue("relay_state = 'listening'");
is( $admin->value(
		"SELECT string_agg(format('%s %s %s', subscription, delivered, lost), ', ' ORDER BY subscription) FROM pgpubsub.stat_subscriptions"
	),
	"changed $backlog 0, late $backlog 0",
	'nothing known was lost');
$admin->run("SELECT pgpubsub.unsubscribe('$_')") foreach qw(changed late);

# Transactions that have the subscription open over the relay's restart: one
# polls on, one goes back to a savepoint, one has looked and acks.

my @names = qw(goes_on goes_back acks);
fill();
$admin->run("SELECT pgpubsub.subscribe('$_', '{c}', 'block')") foreach @names;
my %session = map { $_ => client($node) } @names;
foreach my $name (@names)
{
	$session{$name}->run('BEGIN');
	is($session{$name}->value("SELECT count(*) FROM pgpubsub.poll('$name')"),
		0, "$name: nothing to read yet");
}
$session{goes_back}->run('SAVEPOINT s');
restart_relay();
$admin->notify_series('c', $from, $to);
$admin->wait_for_queue("relay_state = 'full'");
is( $session{goes_back}->value(
		"SELECT string_agg(coalesce(lost, payload::int)::text, ' ') FROM pgpubsub.poll('goes_back', 3, '10s')"
	),
	"-1 $from " . ($from + 1) . ' ' . ($from + 2),
	'an open transaction polls the next events');
$session{goes_back}->run('ROLLBACK TO s');
my @looked = $session{acks}->run(
	"SELECT payload::int, lost, seq FROM pgpubsub.poll('acks', 10, '10s', consume => false)"
);
is(join(' ', map { $_->[1] // $_->[0] } @looked),
	join(' ', -1, $from .. $from + 9),
	'a look in an open transaction shows them');
is($session{acks}->value("SELECT pgpubsub.ack('acks', $looked[-1][2])"),
	10, 'and ack() consumes them');
%got = read_in_turn($backlog - 10, %session);
is($got{goes_on}, $whole, 'an open transaction that polls on misses nothing');
is($got{goes_back}, $whole, 'nor does one that went back to a savepoint');
is( $got{acks},
	join(' ', $from + 10 .. $to) . ' lost ',
	'nor one that looked and acked');
$_->quit foreach values %session;
$admin->quit;
$node->stop('fast');
server_is_sound($node);
done_testing();
