# seek() and start_at of durable channels to where events are gone: the next gap
# row counts them, where the log knows, and says -1 where it does not.  The gap
# belongs to the position: it is rolled back with it, and outlives the server with
# it.  And what cannot be sought is an error.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('durable_seek', conf => q{
pgpubsub.log_size = 8MB
pgpubsub.queue_size = 64kB
wal_writer_delay = 10s
log_statement = none
});
my ($admin, $writer, %number, %seq);

sub connect_clients
{
	$admin  = client($node);
	$writer = client($node);
	return;
}

# Publish so many events of a kilobyte on the channel.
sub fill
{
	my ($channel, $count) = @_;
	my $from = ($number{$channel} // 0) + 1;

	$number{$channel} = $from + $count - 1;
	$writer->run("SELECT count(pgpubsub.publish('$channel', rpad(i::text, 1000))) FROM generate_series($from, $number{$channel}) AS i");
	$admin->settle;
	return;
}

# Read all there is: "channel:number" and "gap:lost"; keeps the events' seqs.
sub read_all
{
	my ($subscription) = @_;
	my @all;

	$admin->settle;
	while (my @rows = $admin->run("SELECT coalesce(channel, 'gap'), coalesce(trim(payload), lost::text), seq FROM pgpubsub.poll('$subscription', 1000)"))
	{
		foreach my $row (@rows)
		{
			push @all, "$row->[0]:$row->[1]";
			$seq{ $all[-1] } = $row->[2];
		}
	}
	return @all;
}

# The first row that a look shows.
sub next_row
{
	my ($subscription) = @_;
	my ($row) = $admin->run("SELECT coalesce(channel, 'gap') || ':' || coalesce(trim(payload), lost::text) FROM pgpubsub.poll('$subscription', 1, consume => false)");

	return $row ? $row->[0] : 'none';
}

sub seek_to
{
	my ($subscription, $seq) = @_;

	return $admin->run("SELECT pgpubsub.seek('$subscription', '$seq')");
}

sub used_segments
{
	return $admin->value(
		"SELECT count(*) FROM pg_class WHERE relnamespace = 'pgpubsub'::regnamespace AND relname LIKE 'log_row%' AND pg_relation_size(oid) > 0"
	);
}

sub crash
{
	$_->quit foreach $admin, $writer;
	$node->stop('immediate');
	$node->start;
	wait_for_relay($node, 'postgres');
	connect_clients();
	return;
}

# What is read from an event of channel a on is a gap row that counts what is
# missing, and then the rest, in order.
sub is_counted
{
	my ($rows, $first, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @rows = @$rows;
	my ($lost) = ($rows[0] // '') =~ /^gap:(\d+)$/;
	my @numbers = map { /^a:(\d+)$/ ? $1 : $_ } @rows[ (defined $lost ? 1 : 0) .. $#rows ];

	is(scalar(grep { !/^\d+$/ } @numbers), 0, "$name: no other gap");
	cmp_ok($numbers[-1], '==', $number{a}, "$name: the last event");
	return is($lost, $number{a} - $first + 1 - @numbers, "$name: the gap row counts what is missing");
}

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE ROLE other LOGIN;
	GRANT USAGE ON SCHEMA pgpubsub TO other;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgpubsub TO other;
	SELECT pgpubsub.set_durable('a'), pgpubsub.set_durable('rare'), pgpubsub.set_durable('idle');
	SELECT pgpubsub.subscribe('s', '{a}', 'drop'), pgpubsub.subscribe('both', '{a,rare}', 'drop'),
	       pgpubsub.subscribe('hold', '{rare}', 'block'), pgpubsub.subscribe('idle', '{idle}', 'drop');
});
connect_clients();

# The first segment stays, for "hold" has not read what is in it; those behind it
# are emptied
fill('idle', 3);
fill('a', 20);
fill('rare', 1);
fill('a', 20);
read_all('both');
read_all('idle');
foreach (1 .. 8)
{
	fill('a', 500);
	read_all($_) foreach 's', 'both';
}
fill('a', 30);
read_all($_) foreach 's', 'both';
ok(wait_until(sub { used_segments() == 2 }, 'two segments'), 'the first segment and the last are used');

my $middle = 1500;
seek_to('s', $seq{'a:1'});
my @rows = read_all('s');
is("@rows[1 .. 40]", join(' ', map { "a:$_" } 1 .. 40), 'seek back: the first segment is read');
is_counted(\@rows, 1, 'seek back');
is(join(' ', read_all('s')), '', 'and no gap twice');
seek_to('s', $seq{'a:11'});
is_counted([ read_all('s') ], 11, 'seek to another event');
seek_to('both', $seq{'rare:1'});
@rows = read_all('both');
is($rows[1], 'rare:1', 'seek to an event of a channel of two');
is_counted([ grep { $_ ne 'rare:1' } @rows ], 21, 'the gap is in the other channel');
seek_to('s', $seq{"a:$middle"});
@rows = read_all('s');
is($rows[0], 'gap:-1', 'seek to an event that is gone, where nobody has counted');
is($rows[-1], "a:$number{a}", 'the rest is read');
seek_to('s', $seq{"a:$number{a}"});
is(join(' ', read_all('s')), "a:$number{a}", 'seek to an event that is there: no gap');
is($admin->value("SELECT pgpubsub.seek('s', '$seq{\"a:1\"}')"), $seq{'a:1'}, 'seek tells what comes next');
seek_to('s', 'now');
is(next_row('s'), 'none', 'sought once more: no gap of where it was not read');

# A new subscription, too
$admin->run("SELECT pgpubsub.subscribe('new', '{a}', 'drop', '$seq{\"a:5\"}')");
is_counted([ read_all('new') ], 5, 'start_at an event, and some are gone');

# Rolled back
$admin->run('BEGIN');
seek_to('s', $seq{"a:$middle"});
is(next_row('s'), 'gap:-1', 'in a transaction, seek to what is gone');
$admin->run('SAVEPOINT p');
seek_to('s', $seq{'a:1'});
like(next_row('s'), qr/^gap:\d{4}$/, 'and to where it is counted');
$admin->run('ROLLBACK TO p');
is(next_row('s'), 'gap:-1', 'the savepoint is rolled back: it is the first gap again');
seek_to('s', $seq{"a:$number{a}"});
is(next_row('s'), "a:$number{a}", 'seek to what is there: no gap');
$admin->run('ROLLBACK');
is(next_row('s'), 'none', 'the transaction is rolled back: no gap, and nothing to read');
foreach my $to ('a:1', "a:$middle")
{
	$admin->run('BEGIN');
	seek_to('s', $seq{$to});
	$admin->run('ROLLBACK');
	is(next_row('s'), 'none', "seek to $to alone rolled back: no gap");
}
is($admin->subscription('s', 'pending'), 0, 'nothing is pending');

# Looked at and acked
foreach my $to ('a:1', "a:$middle")
{
	seek_to('s', $seq{$to});
	my ($gap) = $admin->run("SELECT seq, lost FROM pgpubsub.poll('s', 1, consume => false)");
	like($gap->[1], qr/^(?:-1|\d{4})$/, "seek to $to: a look shows the gap");
	$admin->run("SELECT pgpubsub.ack('s', $gap->[0])");
	like(next_row('s'), qr/^a:/, 'acked, it is not told again');
	$admin->run('BEGIN');
	seek_to('s', $seq{$to});
	($gap) = $admin->run("SELECT seq, lost FROM pgpubsub.poll('s', 1, consume => false)");
	$admin->run("SELECT pgpubsub.ack('s', $gap->[0])");
	like(next_row('s'), qr/^a:/, 'nor in one transaction');
	$admin->run('COMMIT');
	like(next_row('s'), qr/^a:/, 'nor after it');
}

# A gap that was shown, and is not there any more when something is acked
seek_to('s', $seq{'a:1'});
like(next_row('s'), qr/^gap:\d{4}$/, 'a look shows a gap');
seek_to('s', $seq{"a:$number{a}"});
$admin->run("SELECT pgpubsub.ack('s', $seq{\"a:$number{a}\"})");
is(next_row('s'), 'none', 'sought elsewhere, and acked: nothing is left of it');
$admin->run('BEGIN');
seek_to('s', $seq{'a:1'});
like(next_row('s'), qr/^gap:\d{4}$/, 'a look shows a gap');
$admin->run('ROLLBACK');
fill('a', 1);
read_all('both');
my ($row) = $admin->run("SELECT seq FROM pgpubsub.poll('s', 1, consume => false)");
$admin->run("SELECT pgpubsub.ack('s', $row->[0])");
is(next_row('s'), 'none', 'rolled back, and acked: nothing is left of it');
seek_to('s', $seq{'a:1'});
read_all('s');

# A crash after the commit
foreach my $to ('a:1', "a:$middle")
{
	my $first = $to eq 'a:1' ? 1 : 0;

	seek_to('s', $seq{$to});
	crash();
	seek_to('both', 'now');
	@rows = read_all('s');
	is_counted(\@rows, 1, 'sought, and then a crash') if $first;
	is($rows[0], 'gap:-1', 'sought what is gone, and then a crash') if !$first;
	crash();
	is(join(' ', read_all('s')), '', 'told once, over a crash too');
}

# The relay takes more, before the gap was told
$admin->run("SELECT pgpubsub.unsubscribe('hold')");
seek_to('s', $seq{"a:$middle"});
foreach (1 .. 16)
{
	fill('a', 500);
	read_all('both');
}
is(next_row('s'), 'gap:-1', 'what is not known stays so when more is lost');
crash();
@rows = read_all('s');
is($rows[0], 'gap:-1', 'over a crash, too');
is($rows[-1], "a:$number{a}", 'and then comes what is there');

# A channel whose events are all gone, for long
foreach my $how ('live', 'after a crash')
{
	crash() if $how ne 'live';
	seek_to('idle', $seq{'idle:3'} + 1);
	is(next_row('idle'), 'none', "a channel that had nothing since, $how: no gap");
	seek_to('idle', $seq{'idle:2'});
	is(next_row('idle'), 'gap:-1', 'one that had: a gap');
	read_all('idle');
}
fill('idle', 1);
read_all('idle');
seek_to('idle', $seq{'idle:3'} + 1);
is(join(' ', read_all('idle')), 'idle:4', 'its next event goes on from what it has had');

# What cannot be sought, and what can

my %wrong = (
	"pgpubsub.seek('s', NULL)"                             => '22004',
	"pgpubsub.seek(NULL, 'now')"                           => '22004',
	"pgpubsub.seek('unknown', 'now')"                      => '42704',
	"pgpubsub.seek('s', '-1')"                             => '22023',
	"pgpubsub.seek('s', '')"                               => '22023',
	"pgpubsub.seek('s', 'infinity')"                       => '22023',
	"pgpubsub.seek('s', 'tomorrow')"                       => '22023',
	"pgpubsub.seek('s', '99999999999999999999')"           => '22023',
	"pgpubsub.seek('s', '9223372036854775807')"            => '22023',
	"pgpubsub.seek('s', '2999-12-31 00:00:00+00')"         => '22023',
	"pgpubsub.seek('s', (now() + '1 minute')::text)"       => '22023',
	"pgpubsub.seek(repeat('s', 64), 'now')"                => '22023',
	"pgpubsub.subscribe('n', '{a}', start_at => '9223372036854775807')"  => '22023',
	"pgpubsub.subscribe('n', '{a}', start_at => '2999-12-31 00:00:00+00')" => '22023');
foreach my $call (sort keys %wrong)
{
	$admin->query("SELECT $call");
	is($admin->sqlstate, $wrong{$call}, "$call: $wrong{$call}");
}
my $newest = $admin->value("SELECT newest_seq FROM pgpubsub.stat_log WHERE datname = 'postgres'");
$admin->query("SELECT pgpubsub.seek('s', '@{[ $newest + 1000000000 ]}')");
like($admin->{error}{M}, qr/^start_at \d+ was not given out yet$/, 'a seq of the future: message');
like($admin->{error}{D}, qr/^The newest event of this database has seq \d+\.$/, 'detail');
$admin->query("SELECT pgpubsub.seek('s', (now() + '1 minute')::text)");
like($admin->{error}{M}, qr/^start_at .* is in the future$/, 'a time of the future: message');
seek_to('s', $newest + 1);
fill('a', 1);
is(join(' ', read_all('s')), "a:$number{a}", 'the next seq can be sought');

my $other = client($node, 'postgres', user => 'other');
$other->query("SELECT pgpubsub.seek('s', 'oldest')");
is($other->sqlstate, '42501', "another user's subscription: 42501");
$other->run("BEGIN; SELECT pgpubsub.subscribe('others', '{a}')");
$other->run('COMMIT');
$other->run('BEGIN READ ONLY');
$other->query("SELECT pgpubsub.seek('others', 'oldest')");
is($other->sqlstate, '25006', 'in a read-only transaction: 25006');
$other->run('ROLLBACK');
$other->run("BEGIN; SELECT pgpubsub.seek('others', 'now')");
$admin->query("SELECT pgpubsub.seek('others', 'oldest')");
is($admin->sqlstate, '55006', 'while another session reads: 55006');
like($admin->{error}{D}, qr/^Process $other->{pid} /, 'which names it');
$other->run('COMMIT');
is($admin->query("SELECT pgpubsub.seek('others', 'oldest')"), 1, 'and then it can be done');
is(next_row('s'), 'none', 'after all that, nothing is left to be read');

# A channel that is not durable any more, after a crash
$admin->run("SELECT pgpubsub.set_durable('former'), pgpubsub.subscribe('former', '{former}', 'drop')");
fill('former', 3);
$admin->run("SELECT pgpubsub.set_durable('former', false)");
$other->quit;
crash();
is($admin->subscription('former', 'pending'), 3, 'what it has in the log is pending');
is(join(' ', grep { !/^gap:-1$/ } read_all('former')), 'former:1 former:2 former:3', 'and is read');

$_->quit foreach $admin, $writer;
$node->stop('fast');
server_is_sound($node);
done_testing();
