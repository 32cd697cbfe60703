# Durable channels, read from the log and from the queue by turns, a thousand times,
# while others write, and with pauses of the reader and of the relay in between: each event comes once, in order, whichever of the two
# it comes from.  Of a channel that is not durable, beside them, as many are lost as
# the gap rows say.
#
#   SEAM_CROSSINGS=9000 how often at least; 1000 by default
#   SEAM_SEED=...       repeats the dice, not the timing

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;
use Time::HiRes qw(time);

my $crossings = $ENV{SEAM_CROSSINGS} // 1000;
my $seed      = $ENV{SEAM_SEED}   // int(time * 1000) % 1000000;

note "SEAM_SEED=$seed";
srand($seed);

# The queue holds some sixty events of a kilobyte.
my $node = new_server('durable_seam', start => 0, conf => q{
pgpubsub.queue_size = 64kB
pgpubsub.staging_size = 256kB
pgpubsub.publish_timeout = 30s
log_statement = none
});
my $points = open_points($node, needed => 1);
my %pauses;

my ($writer, $second, $reader, $admin) = map { client($node) } 1 .. 4;

# Channels c and d are durable, m is memory.  The numbers of each channel are those
# of a writer, who publishes on it alone: c1 and d1, c2 and d2.  A transaction has
# so many events on each, and perhaps one on m.
$admin->run('CREATE EXTENSION pgpubsub');
$admin->run(q{
	CREATE SEQUENCE m;
	CREATE TABLE numbers (channel text PRIMARY KEY, n int);
	INSERT INTO numbers VALUES ('c1', 0), ('d1', 0), ('c2', 0), ('d2', 0);
	CREATE PROCEDURE pour(who int, transactions int, events int, bytes int) LANGUAGE plpgsql AS $$
	DECLARE
		c text := 'c' || who;
		d text := 'd' || who;
		number int := (SELECT n FROM numbers WHERE channel = c);
	BEGIN
		FOR i IN 1 .. transactions LOOP
			FOR j IN 1 .. events LOOP
				number := number + 1;
				PERFORM pgpubsub.publish(c, rpad(number::text, bytes));
				PERFORM pgpubsub.publish(d, rpad(number::text, bytes / 2));
			END LOOP;
			UPDATE numbers SET n = number WHERE channel IN (c, d);
			IF who = 2 AND random() < 0.3 THEN
				PERFORM pgpubsub.publish('m', rpad(nextval('m')::text, bytes));
			END IF;
			COMMIT;
		END LOOP;
	END $$});
$admin->run("SELECT pgpubsub.set_durable('c*'), pgpubsub.set_durable('d*')");
$admin->run(
	q{SELECT pgpubsub.subscribe('all', '{c1,c2,d1,d2}', 'block'), pgpubsub.subscribe('pattern', '{c*}', 'evict'),
	pgpubsub.subscribe('mixed', '{d1,m,d2}', 'drop'), pgpubsub.subscribe('rare', '{d*,c1}', 'block')});

# What each subscription has had: the last number of each channel, the last seq,
# how many, and how many were lost; and all that was wrong.
my %had;
my @wrong;

# Take in rows that a subscription has consumed.
sub take_in
{
	my ($subscription, @rows) = @_;
	my $had = $had{$subscription} //= { seq => 0, events => 0, lost => 0, numbers => {} };

	foreach my $row (@rows)
	{
		my ($seq, $channel, $number, $lost) = @$row;

		if (defined $lost)
		{
			push @wrong, "$subscription: gap row of $lost at $seq" if $subscription ne 'mixed' || $lost < 1;
			push @wrong, "$subscription: gap row $seq behind $had->{seq}" if $seq < $had->{seq};
			$had->{lost} += $lost;
			next;
		}
		my $before = $had->{numbers}{$channel} // 0;

		push @wrong, "$subscription: seq $seq behind $had->{seq}" if $seq <= $had->{seq};
		push @wrong, "$subscription: $channel $number behind $before"
		  if $channel eq 'm' ? $number <= $before : $number != $before + 1;
		$had->{numbers}{$channel} = $number;
		$had->{seq} = $seq;
		$had->{events}++;
	}
	return;
}

sub poll_sql
{
	my ($subscription, $max, $consume) = @_;

	return "SELECT seq, channel, trim(payload), lost FROM pgpubsub.poll('$subscription', $max, consume => "
	  . ($consume ? 'true' : 'false') . ')';
}

# Read a few: at once; after a look, which must have shown the same; or after a
# transaction that was rolled back.  Returns how many there were.
sub reads
{
	my ($subscription, $max) = @_;
	my $how = rand;
	my @shown;

	if ($how < 0.15)
	{
		@shown = $reader->run(poll_sql($subscription, $max, 0));
	}
	elsif ($how < 0.3)
	{
		$reader->run('BEGIN');
		@shown = $reader->run(poll_sql($subscription, $max, 1));
		$reader->run('ROLLBACK');
	}
	my @rows = $reader->run(poll_sql($subscription, $max, 1));
	take_in($subscription, @rows);

	# (a poll may end where the queue was overwritten; and a gap may have grown)
	pop @shown while @shown > @rows;
	foreach my $i ($subscription eq 'mixed' ? () : 0 .. $#shown)
	{
		next if "@{ $shown[$i] }[ 0 .. 2 ]" eq "@{ $rows[$i] }[ 0 .. 2 ]";
		push @wrong, "$subscription: @{ $shown[$i] }[ 0 .. 2 ] was shown, then came @{ $rows[$i] }[ 0 .. 2 ]";
		last;
	}
	return scalar @rows;
}

# A reader stops between its look at the queue and that at the log, or the relay
# between noting events and showing them, and much happens meanwhile.
sub stop_between
{
	my ($point) = @_;

	$pauses{$point}++;
	if ($point eq 'poll_seam')
	{
		my $subscription = (qw(all pattern mixed rare))[ rand 4 ];

		comes_to($node, $points, $point, sub { $reader->begin(poll_sql($subscription, 1 + int rand 300, 1)) });
		$writer->run('CALL pour(1, ' . (1 + int rand 40) . ', 2, 1000)');
		$admin->settle;
		open_point($points, $point);
		$reader->finish;
		push @wrong, "a poll has failed: $reader->{error}{M}" if $reader->{error};
		take_in($subscription, @{ $reader->{rows} });
	}
	else
	{
		comes_to($node, $points, $point, sub { $writer->begin('CALL pour(1, 20, 1, 500)') });
		reads($_, 1 + int rand 100) foreach qw(all pattern mixed);
		open_point($points, $point);
		$writer->finish;
	}
	return;
}

# How often events have come from the log after the queue, or the other way round.
sub crossed
{
	return $reader->value("SELECT current_setting('pgpubsub.debug_crossings')");
}

# Enough of that, with enough pauses on both sides?
sub is_done
{
	return crossed() >= $crossings && !grep { ($pauses{$_} // 0) < $crossings / 10 } qw(poll_seam durable_noted);
}

for (my $round = 1; !is_done(); $round++)
{
	# Much is written before anybody reads: by many transactions, which go through
	# the queue, or by one that passes by it.
	if (rand() < 0.7)
	{
		$writer->run('CALL pour(1, ' . (20 + int rand 30) . ', 1, ' . (1000 + int rand 1000) . ')');
	}
	else
	{
		$writer->run('CALL pour(1, 1, ' . (20 + int rand 100) . ', 1000)');
	}

	# One goes on to write while others read; they come to the end of it all.
	$second->begin('CALL pour(2, ' . (5 + int rand 20) . ', ' . (1 + int rand 2) . ', ' . (10 + int rand 1500) . ')');
	my @readers = (qw(all pattern mixed), $round % 10 == 0 ? 'rare' : ());
	my $done    = 0;

	while (!$done)
	{
		my $any = 0;

		$done = $second->done;
		$any += reads($_, 1 + int rand(rand() < 0.3 ? 200 : 20)) foreach @readers;
		$done &&= $any == 0;
	}
	push @wrong, "a writer has failed: $second->{error}{M}" if $second->{error};
	stop_between($round % 2 == 0 ? 'durable_noted' : 'poll_seam');
	last if @wrong;
}
$admin->settle;
foreach my $subscription (qw(all pattern mixed rare))
{
	1 while reads($subscription, 100);
}
is(join("\n", splice @wrong, 0, 10), '', 'each event comes once, in order, with the seq that it was shown with')
  or diag "SEAM_SEED=$seed";

my %numbers  = map { $_->[0] => $_->[1] } $admin->run('SELECT channel, n FROM numbers');
my %channels = (all => [qw(c1 c2 d1 d2)], pattern => [qw(c1 c2)], mixed => [qw(d1 d2)], rare => [qw(c1 d1 d2)]);

foreach my $subscription (sort keys %channels)
{
	is(join(' ', map { "$_ " . ($had{$subscription}{numbers}{$_} // 0) } @{ $channels{$subscription} }),
		join(' ', map { "$_ $numbers{$_}" } @{ $channels{$subscription} }),
		"$subscription has read all to the end");
}
my $durable = $numbers{d1} + $numbers{d2};
my $memory  = $admin->value('SELECT last_value FROM m');
is($had{mixed}{events} + $had{mixed}{lost}, $durable + $memory, 'what is not durable came, or was counted as lost');
cmp_ok($had{mixed}{lost}, '<', $memory, 'some of it came');
is($admin->value("SELECT string_agg(subscription || ' ' || pending || ' ' || lost, ', ' ORDER BY subscription) FROM pgpubsub.stat_subscriptions WHERE subscription <> 'settle'"),
	"all 0 0, mixed 0 $had{mixed}{lost}, pattern 0 0, rare 0 0", 'the view says so, too');
cmp_ok(crossed(), '>=', $crossings, 'from the log to the queue, and back');
cmp_ok($pauses{$_}, '>=', $crossings / 10, "with pauses at $_") foreach qw(poll_seam durable_noted);
note crossed() . " crossings, $pauses{poll_seam} and $pauses{durable_noted} pauses; $had{all}{events} events; $had{mixed}{lost} of $memory lost";

$_->quit foreach $writer, $second, $reader, $admin;
$node->stop('fast');
server_is_sound($node);
done_testing();
