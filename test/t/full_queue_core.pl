# The server's own NOTIFY queue is full, because a session that listens stays
# in a transaction: what is staged for async publishing stays there, the relay
# tries again and does not end, writers go on until the staging queue is full,
# and everything comes, once and in order, when that session lets go.  The same
# holds for what is staged of durable channels.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('core_queue_full', conf => q{
pgpubsub.publish_mode = async
pgpubsub.staging_size = 256kB
pgpubsub.queue_size = 8MB
log_statement = none
});

# From 17 on the queue's size is a setting; before, it is 8 GB.
if ($node->safe_psql('postgres',
		"SELECT count(*) FROM pg_settings WHERE name = 'max_notify_queue_pages'") == 0)
{
	$node->stop('fast');
	plan skip_all => 'the size of the NOTIFY queue cannot be set before PostgreSQL 17';
}
$node->append_conf('postgresql.conf', 'max_notify_queue_pages = 64');
$node->restart;
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
wait_for_relay($node, 'postgres');

my $admin    = client($node);
my $writer   = client($node);
my $listener = client($node);
my $blocker  = client($node);
my $relay    = relay_pid($node, 'postgres');
my $pad      = '-' x 1000;
$admin->run("SELECT pgpubsub.subscribe('s', '{c}', 'block')");
$admin->run("SELECT pgpubsub.set_durable('durable'), pgpubsub.subscribe('durable', '{durable}', 'block')");
$listener->run('LISTEN c');
$listener->run('LISTEN durable');

# A session that listens and stays in a transaction keeps the queue.  (From 19
# on, only what is sent on its channels.)
$blocker->run('LISTEN c');
$blocker->run('BEGIN');
$blocker->run('SELECT 1');

# Read all there is now.
my @taken;

sub take
{
	push @taken, $admin->run("SELECT split_part(payload, '-', 1), pid, lost FROM pgpubsub.poll('s', 10000, '0')");
	$listener->pump(0);
}

# Publish until core's queue is full, and then until staging is.
my $count  = 0;
my $offset = log_offset($node);
$writer->run("SET pgpubsub.publish_timeout = '1s'");
while ($count < 5000)
{
	$writer->query("SELECT pgpubsub.publish('c', '" . ($count + 1) . "$pad')");
	last if $writer->{error};
	$count++;
	take();
}
cmp_ok($count, '>', 64 * 7, "$count transactions of async writers commit");
is($writer->sqlstate, '53400', 'then staging is full: SQLSTATE');
is($writer->{error}{M}, 'queue is full', 'message');
like($writer->{error}{D}, qr/NOTIFY queue is full/, 'the detail names core\'s queue');
like($writer->{error}{H}, qr/pg_notification_queue_usage/, 'the hint says where to look');
wait_until(sub { take(); @taken >= $count }, 'all events');
is(scalar @taken, $count, 'a subscription gets all of it meanwhile');
cmp_ok($admin->queue('notify_queue_usage'),
	'>', 0.9, 'the view says so too');
cmp_ok($admin->queue('staging_used_bytes'),
	'>', 200000, 'and that staging is full');

# The relay says so at most every five seconds, tries all the time, and is the
# same.
ok($node->wait_for_log(qr/pgpubsub relay could not notify staged events.*\n.*\n?(?s:.*)pgpubsub relay could not notify staged events/, $offset),
	'the relay says so, and again after some seconds');
my @times = slurp_file($node->logfile, $offset) =~
  /^\S+ (\S+) .*pgpubsub relay could not notify/mg;
my @seconds = map { my ($h, $m, $s) = split /:/; ($h * 60 + $m) * 60 + $s } @times;
my $apart = $seconds[1] - $seconds[0];
$apart += 86400 if $apart < 0;    # over midnight
cmp_ok($apart, '>', 4.9, 'but not at each try');
is(relay_pid($node, 'postgres'), $relay, 'the relay is the same');
is($admin->queue('relay_state'), 'listening', 'and listens');

# Durable channels have a staging queue of their own.
my $logged = 0;
for (; $logged < 5000; $logged++)
{
	$writer->query("SELECT pgpubsub.publish('durable', '" . ($logged + 1) . "$pad')");
	last if $writer->{error};
}
cmp_ok($logged, '>', 100, "$logged transactions of writers to a durable channel commit");
is($writer->sqlstate, '53400', 'then their staging queue is full: SQLSTATE');
like($writer->{error}{D}, qr/NOTIFY queue is full/, 'the detail names core\'s queue');
$admin->settle;
is( join(' ', map { $_->[1] =~ s/-+$//r } $admin->take('durable', $logged)),
	join(' ', 1 .. $logged),
	'a subscription gets them meanwhile');

# Others go on as far as they do not need core's queue.
is($admin->value("SELECT pgpubsub.subscribe('other', '{d}')"), 't', 'subscribe() works meanwhile');
is(scalar $admin->run("SELECT * FROM pgpubsub.poll('other')"), 0, 'and poll()');
$admin->run("SELECT pgpubsub.unsubscribe('other')");
my $native = client($node);
$native->query("NOTIFY c, 'never'");
isnt($native->sqlstate, '', 'NOTIFY itself fails');
$native->query("SET pgpubsub.publish_mode = 'transactional'");
$native->query("SELECT pgpubsub.publish('c', 'never')");
isnt($native->sqlstate, '', 'and so does publishing in transactional mode');
$native->quit;

# A writer that waits goes on when the queue is let go.
$writer->run("SET pgpubsub.publish_timeout = '10min'");
$writer->begin("SELECT pgpubsub.publish('c', '" . ++$count . "$pad')");
ok(waits_in_extension($admin, $writer), 'a writer waits');
$blocker->run('COMMIT');
$blocker->quit;    # or the notifications that it does not take hold the queue
ok(wait_until(sub { $listener->pump(0); return $writer->done; }, 'the writer'), 'it ends');
$writer->finish;
is($writer->sqlstate, '', 'and goes on when that session has ended its transaction');
wait_until(sub { take(); @taken >= $count }, 'all events');
$admin->settle;
take();
is(join(' ', map { $_->[0] // "gap $_->[2]" } @taken),
	join(' ', 1 .. $count),
	"a subscription has got all $count events once and in order");
is(scalar(grep { $_->[1] != $writer->{pid} } @taken), 0, 'from their writer');
my @heard = $listener->wait_for_notifications($count + $logged);
foreach my $channel ([ c => $count ], [ durable => $logged ])
{
	my ($name, $last) = @$channel;

	is(join(' ', map { $_->[2] =~ s/-+$//r } grep { $_->[1] eq $name } @heard),
		join(' ', 1 .. $last),
		"a native listener of channel $name too");
}
is_quiet($node, 'postgres', 'durable', 'nothing comes twice');
is(relay_pid($node, 'postgres'), $relay, 'the relay is still the same');
$admin->wait_for_queue("staging_used_bytes = 0");

$node->stop('fast');
server_is_sound($node);
done_testing();
