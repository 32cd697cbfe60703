# Any role can NOTIFY on the reserved channel.  Whatever is sent there, the
# relay goes on, counts what is no frame, and real events arrive intact, once
# and in order.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

# A quarter of either queue bounds what the relay puts together.
my $limit = 262144;
my $node  = new_server('forged_frames',
	conf => "pgpubsub.queue_size = '4MB'\npgpubsub.staging_size = '1MB'\n");

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE ROLE mallory LOGIN;
	CREATE TABLE orders (id int PRIMARY KEY, note text);
	SELECT pgpubsub.attach('orders');
	SELECT pgpubsub.subscribe('reader', '{orders,news,é}', 'evict'),
	       pgpubsub.subscribe('all', '{*}', 'drop');
});
wait_for_relay($node, 'postgres');
my $relay   = relay_pid($node, 'postgres');
my $writer  = client($node);
my $reader  = client($node);
my $mallory = client($node, 'postgres', user => 'mallory');

$mallory->query("SELECT pgpubsub.publish('news', 'x')");
is($mallory->sqlstate, '42501', 'a role without grants');

# The next events: "channel payload" each, or "gap".
sub take
{
	my ($count) = @_;

	return map { $_->[0] eq 'gap' ? 'gap' : "$_->[0] $_->[1]" } $reader->take('reader', $count);
}

# Of all that was sent before.
sub bad_frames
{
	$writer->settle;
	return $writer->queue('bad_frames');
}

# CRC-32C of a string, as frames have it.
sub crc
{
	my $crc = 0xffffffff;

	foreach my $byte (unpack 'C*', $_[0])
	{
		$crc ^= $byte;
		$crc = $crc & 1 ? $crc >> 1 ^ 0x82f63b78 : $crc >> 1 foreach 1 .. 8;
	}
	return sprintf '%08x', $crc ^ 0xffffffff;
}

# A frame: id, part, parts, channel and data; or with another length of the
# channel, or another crc.
sub frame
{
	my ($id, $part, $parts, $channel, $data, %other) = @_;

	return join ' ', $id, $part, $parts, $other{crc} // '00000000',
	  $other{channel_len} // length $channel, $channel . $data;
}

# Have the client send these in one transaction: each the text of a frame, or
# a reference to channel and payload.
sub send_all
{
	my ($client, @sent) = @_;

	$client->run('BEGIN');
	foreach my $sent (@sent)
	{
		my ($channel, $payload) = ref $sent ? @$sent : ('pgpubsub', $sent);

		$payload =~ s/'/''/g;
		$client->run("SELECT pg_notify('$channel', '$payload')");
	}
	$client->run('COMMIT');
}

# Text of characters of all lengths, of so many bytes or a little less, unlike
# any other.
my $made = 0;

sub long_text
{
	my ($bytes) = @_;
	my $head = 'text ' . ++$made . ' ';
	my $text = $head . "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80" x
	  (($bytes - length $head) / 10);

	return $text;
}

# Publish a long text, and one by a trigger; what must be received of them.
sub publish_real
{
	my ($mode) = @_;
	my $text = long_text(30000);
	my $note = long_text(20000);

	$writer->run(
		"SET pgpubsub.publish_mode = '$mode'; SELECT pgpubsub.publish('news', '$text')"
	);
	$writer->run("INSERT INTO orders VALUES ($made, '$note')");
	return ("news $text",
		qr/^orders \{.*"op":"INSERT".*"note":"\Q$note\E"\},"txid"/);
}

# These came, in this order, and nothing else.
sub received_are
{
	my ($name, @expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @got = take(scalar @expected);
	my @wrong;

	foreach my $i (0 .. ($#got > $#expected ? $#got : $#expected))
	{
		my ($got, $expected) = ($got[$i] // 'nothing', $expected[$i] // 'nothing');

		push @wrong, "$i: " . substr($got, 0, 100)
		  unless ref $expected ? $got =~ $expected : $got eq $expected;
	}
	return is(join("\n", @wrong), '', $name);
}

my $reserved = 'pgpubsub';
my $digits   = '1' x 7999;
my $data     = 'x' x 7900;

# name, how many bad frames are counted, what is sent, what arrives of it
my @attacks = (
	[ 'empty text',     1, [''] ],
	[ 'a space',        1, [' '] ],
	[ 'spaces',         1, [ ' ' x 7999 ] ],
	[ '7,999 digits',   1, [$digits] ],
	[ 'digits, spaces', 1, [ '2 ' x 3999 ] ],
	[ 'JSON',           1, ['{"id":"1-1","op":"INSERT"}'] ],
	[ 'control characters', 1, [ join '', map { chr } 1 .. 31 ] ],
	[ 'several at once', 5, [ 'a', 'b', "c'; DROP TABLE orders --", '%s%n', '\\' ] ],

	# headers
	[ 'only an id',       1, ['1-1'] ],
	[ 'an empty id',      1, [ frame('', 1, 1, 'news', 'x') ] ],
	[ 'an id too long',   1, [ frame('i' x 64, 1, 1, 'news', 'x') ] ],
	[ 'no channel',       1, ['1-1 1 1 00000000'] ],
	[ 'part 0',           1, [ frame('1-1', 0, 1, 'news', 'x') ] ],
	[ 'no parts',         1, [ frame('1-1', 0, 0, 'news', 'x') ] ],
	[ 'part 2 of 1',      1, [ frame('1-1', 2, 1, 'news', 'x') ] ],
	[ 'part -1',          1, [ frame('1-1', -1, 1, 'news', 'x') ] ],
	[ 'part +1',          1, [ frame('1-1', '+1', 1, 'news', 'x') ] ],
	[ 'part 1.0',         1, [ frame('1-1', '1.0', 1, 'news', 'x') ] ],
	[ 'part 2^32 + 1',    1, [ frame('1-1', 4294967297, 4294967297, 'news', 'x') ] ],
	[ 'eleven digits',    1, [ frame('1-1', '00000000001', 1, 'news', 'x') ] ],
	[ 'crc in capitals',  1, [ frame('1-1', 1, 1, 'news', 'x', crc => '0000000A') ] ],
	[ 'crc of 9 digits',  1, [ frame('1-1', 1, 1, 'news', 'x', crc => '000000000') ] ],
	[ 'no crc',           1, [ frame('1-1', 1, 1, 'news', 'x', crc => '') ] ],
	(
		map { [ "channel length '$_'", 1, [ frame('1-1', 1, 1, 'news', 'x', channel_len => $_) ] ] }
		  '', 0, 6, 64, 99, 100, -4, '4x', '0x4'
	),
	[ 'a channel too long', 1, [ frame('1-1', 1, 1, 'n' x 64, 'x') ] ],
	[ 'the reserved channel', 1, [ frame('1-1', 1, 1, $reserved, 'x') ] ],
	[ 'a frame in a frame', 1, [ frame('1-1', 1, 1, $reserved, frame('1-2', 1, 1, 'news', 'x')) ] ],
	[ 'half a character of a channel', 0, [ frame('1-1', 1, 1, "\xc3\xa9", 'x', channel_len => 1) ] ],
	[ 'a channel that nobody reads', 0, [ frame('1-1', 1, 1, 'nobody', 'x') ] ],

	# parts
	[ 'the last part alone', 1, [ frame('1-1', 2, 2, 'news', 'x') ] ],
	[ 'parts backwards', 2, [ map { frame('1-1', $_, 2, 'news', 'x') } 2, 1 ] ],
	[ 'a part missing', 2, [ map { frame('1-1', $_, 3, 'news', 'x') } 1, 3 ] ],
	[ 'a part twice', 3, [ frame('1-1', 1, 3, 'news', 'x'), frame('1-1', 2, 3, 'news', 'x'), frame('1-1', 2, 3, 'news', 'y'), frame('1-1', 3, 3, 'news', 'x') ] ],
	[ 'the first part twice', 2, [ map { frame('1-1', 1, 2, 'news', $_) } 'x', 'y' ] ],
	[ 'the number of parts changes', 2, [ frame('1-1', 1, 2, 'news', 'x'), frame('1-1', 2, 3, 'news', 'x') ] ],
	[ 'the id changes', 2, [ frame('1-1', 1, 2, 'news', 'x'), frame('1-2', 2, 2, 'news', 'x') ] ],
	[ 'the id grows', 2, [ frame('1-1', 1, 2, 'news', 'x'), frame('1-11', 2, 2, 'news', 'x') ] ],
	[ 'the channel changes', 2, [ frame('1-1', 1, 2, 'news', 'x'), frame('1-1', 2, 2, 'orders', 'x') ] ],
	[ 'the crc changes', 2, [ frame('1-1', 1, 2, 'news', 'x'), frame('1-1', 2, 2, 'news', 'x', crc => '00000001') ] ],
	[ 'an event that does not end', 1, [ frame('1-1', 1, 2, 'news', 'x') ] ],
	[ 'as many parts as can be claimed', 1, [ frame('1-1', 1, 4294967295, 'news', 'x') ] ],
	[ 'the last of as many', 1, [ frame('1-1', 4294967295, 4294967295, 'news', 'x') ] ],
	[ 'one part more than can be claimed', 1, [ frame('1-1', 1, 4294967296, 'news', 'x') ] ],
	[ 'more than the queues take', 7,
		[ map { frame('1-1', $_, 40, 'news', $data) } 1 .. 40 ] ],
	[ 'exactly so much', 0,
		[ (map { frame('1-1', $_, 34, 'orders', $data) } 1 .. 33), frame('1-1', 34, 34, 'orders', 'x' x ($limit - 33 * 7900)) ],
		[ 'orders ' . 'x' x $limit ] ],
	[ 'one byte more', 1,
		[ (map { frame('1-1', $_, 34, 'orders', $data) } 1 .. 33), frame('1-1', 34, 34, 'orders', 'x' x ($limit - 33 * 7900 + 1)) ] ],
	[ 'another notification in between', 2,
		[ frame('1-1', 1, 2, 'news', 'x'), [ 'news', 'in between' ], frame('1-1', 2, 2, 'news', 'x') ],
		['news in between'] ],

	# NOTIFY news would have done the same
	[ 'a whole event', 0,
		[ map { frame('1-1', $_, 2, 'news', "part $_ ") } 1, 2 ],
		['news part 1 part 2 '] ],
	[ 'an empty one', 0, [ frame('1-1', 1, 1, "\xc3\xa9", '') ], ["\xc3\xa9 "] ],
	[ 'two at once', 1,
		[ frame('1-1', 1, 2, 'news', 'lost'), frame('1-2', 1, 1, 'news', 'won') ],
		['news won'] ],
);

foreach my $attack (@attacks)
{
	my ($name, $count, $sent, $arrives) = @$attack;
	my $before = bad_frames();
	my @expected;

	send_all($mallory, @$sent);
	push @expected, @{ $arrives // [] };
	push @expected, publish_real('transactional');
	received_are("$name: real events come through", @expected);
	is(bad_frames() - $before, $count, "$name: $count counted");
}

# Async events come back to the relay from its own NOTIFY, which it sends if
# anybody listens.

my $listener = client($node);
$listener->run('LISTEN nothing');
foreach my $attack (grep { $_->[0] =~ /end|between|queues|whole|7,999/ } @attacks)
{
	my ($name, $count, $sent, $arrives) = @$attack;

	send_all($mallory, @$sent);
	received_are("$name: async events come through",
		@{ $arrives // [] }, publish_real('async'));
}

# Others' events between the parts of a forged one: what is being put together
# is dropped, and so is the rest of it.

foreach my $mode ('transactional', 'async')
{
	my $before = bad_frames();
	my @expected;

	send_all($mallory, frame('7-1', 1, 3, 'news', 'x'));
	push @expected, publish_real($mode);
	received_are("$mode: real events after a first part", @expected);
	send_all($mallory, frame('7-1', 2, 3, 'news', 'x'));
	@expected = publish_real($mode);
	received_are("$mode: real events after a second part", @expected);
	send_all($mallory, frame('7-1', 3, 3, 'news', 'x'));
	@expected = publish_real($mode);
	received_are("$mode: real events after a last part", @expected);
	is(bad_frames() - $before, 3, "$mode: each counted");
}

# Parts from two sessions make no event, even if they would fit.

my $other  = client($node, 'postgres', user => 'mallory');
my $before = bad_frames();
send_all($mallory, frame('8-1', 1, 2, 'news', 'of two'));
send_all($other,   frame('8-1', 2, 2, 'news', ' sessions'));
received_are('parts from two sessions', publish_real('transactional'));
is(bad_frames() - $before, 2, 'are two bad frames');

# A frame that claims to stand for a notification takes nobody else's away,
# nor any but the next one.

my $word = long_text(100);
send_all($mallory, frame('9-1', 1, 1, 'news', 'forged', crc => crc($word)));
$writer->run("SET pgpubsub.publish_mode = 'transactional'");
$writer->run("SELECT pgpubsub.publish('news', '$word')");
received_are("a forged frame hides no other session's event",
	'news forged', "news $word");
send_all(
	$mallory,
	frame('9-2', 1, 1, 'news', 'forged', crc => crc($word)),
	[ 'news', $word ],
	[ 'news', 'next' ]);
received_are("and of its own session's only the one that it stands for",
	'news forged', 'news next');

# A storm: some sessions send nothing but rubbish, others real events.

$node->safe_psql(
	'postgres', q{
	CREATE PROCEDURE rubbish(seed float8, times int) LANGUAGE plpgsql AS $$
	DECLARE
		frame text;
		parts int;
	BEGIN
		PERFORM setseed(seed);
		FOR t IN 1 .. times LOOP
			FOR i IN 1 .. 1 + (random() * 3)::int LOOP
				parts := 1 + (random() * 3)::int;
				frame := format('%s %s %s %s 5 rages%s', (random() * 3)::int, 1 + floor(random() * parts)::int, parts,
				                lpad(to_hex((random() * 2000000000)::int), 8, '0'), repeat('é', (random() * 3000)::int));
				IF random() < 0.3 THEN
					frame := overlay(frame PLACING chr(1 + (random() * 300)::int) FROM 1 + (random() * 20)::int FOR (random() * 3)::int);
				END IF;
				PERFORM pg_notify(CASE WHEN random() < 0.1 THEN 'orders2' ELSE 'pgpubsub' END, frame);
			END LOOP;
			COMMIT;
		END LOOP;
	END $$;
	CREATE PROCEDURE honest(who int, times int, mode text) LANGUAGE plpgsql AS $$
	BEGIN
		FOR t IN 1 .. times LOOP
			PERFORM set_config('pgpubsub.publish_mode', mode, true);
			PERFORM pgpubsub.publish('news', who || ' ' || t || ' ' || repeat('é', 3000 + t * 40));
			COMMIT;
		END LOOP;
	END $$;
	GRANT EXECUTE ON PROCEDURE rubbish TO mallory;
});
$before = bad_frames();
my $times  = 100;
my @storm  = ($mallory, $other);
my @honest = ($writer, client($node));
$storm[$_]->begin("CALL rubbish(0.$_, 1000)") foreach 0, 1;
$honest[$_]->begin(
	"CALL honest($_, $times, '" . ($_ ? 'async' : 'transactional') . "')")
  foreach 0, 1;
my @got = take(2 * $times);
$_->finish foreach @storm, @honest;
is(join(' ', grep { $_ } map { $_->sqlstate } @storm, @honest),
	'', 'a storm of rubbish: nobody fails');
foreach my $who (0, 1)
{
	my @expected =
	  map { "news $who $_ " . "\xc3\xa9" x (3000 + $_ * 40) } 1 .. $times;
	my @theirs = grep { /^news $who / } @got;

	ok("@theirs" eq "@expected",
		"writer $who: all events, intact, once and in order");
}
cmp_ok(bad_frames() - $before, '>', 500, 'bad frames were counted');
is(scalar(grep { !/^news [01] / } @got), 0, 'and nothing else came');

# After all that

is_quiet($node, 'postgres', 'reader', 'no event was made up');
is( $writer->value(
		"SELECT count(*) FROM pgpubsub.poll('all', 100000) WHERE channel = 'pgpubsub'"
	),
	0,
	'no pattern has matched the reserved channel');

# A frame that stands for a notification that never came hides none that comes
# after the relay has begun, or ended and begun again, to listen.

$writer->run("SELECT pgpubsub.unsubscribe('all')");
sub later_are
{
	my ($name, @expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @got = map { $_->[1] } $reader->take('later', scalar @expected);

	return is(join(' ', @got), join(' ', @expected), $name);
}
send_all($mallory, frame('10-1', 1, 1, 'later', 'forged', crc => crc('word')));
$writer->run("SELECT pgpubsub.subscribe('later', '{later}')");
send_all($mallory, [ 'later', 'word' ], [ 'later', 'next' ]);
later_are('a frame from before LISTEN hides nothing', 'word', 'next');
send_all($mallory, frame('10-2', 1, 1, 'later', 'forged', crc => crc('word')));
later_are('a frame that is read', 'forged');
$writer->run("SELECT pgpubsub.unsubscribe('later')");
$writer->run("SELECT pgpubsub.subscribe('later', '{later}')");
send_all($mallory, [ 'later', 'word' ], [ 'later', 'next' ]);
later_are('a frame from before UNLISTEN hides nothing', 'word', 'next');
$writer->run("SELECT pgpubsub.unsubscribe('later')");
is($writer->queue('relay_restarts'),
	0, 'the relay was not started anew');
is(relay_pid($node, 'postgres'), $relay, 'it is the same');
$node->stop;
server_is_sound($node);
log_is_clean($node, qr/ERROR:  permission denied for function publish/);
done_testing();
