# What a native LISTEN client gets of an event that is too long for a NOTIFY,
# field by field, while subscribers get the whole; where that begins, and where
# it ends: subscribers get the short form too, or, from publish(), an error.
# In both publish modes.

use strict;
use warnings;

use JSON::PP ();
use PgPubsub::Test;
use Test::More;

# The longest payload that can be published here.
my $max  = 200000;
my $node = new_server('short_form',
	conf => "pgpubsub.max_payload = $max\nlog_statement = none\n");

$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE TABLE plain (id int, "k é" text, v text, w text, PRIMARY KEY (id, "k é"));
	CREATE TABLE no_key (v text);
	CREATE SCHEMA "Other é";
	CREATE TABLE "Other é"."T a" (LIKE plain INCLUDING ALL);
	CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY LIST (id);
	CREATE TABLE part_1 PARTITION OF part DEFAULT;
	SELECT pgpubsub.attach('plain');
	SELECT pgpubsub.attach('no_key');
	SELECT pgpubsub.attach('part');
	SELECT pgpubsub.attach('"Other é"."T a"', 'statements', level => 'statement');
	SELECT pgpubsub.attach('"Other é"."T a"', 'debezium', format => 'debezium', old_values => 'full');
	SELECT pgpubsub.attach('"Other é"."T a"', 'cloudevents', format => 'cloudevents');
	SELECT pgpubsub.attach('"Other é"."T a"', 'cloudy statements', format => 'cloudevents', level => 'statement');
	SELECT pgpubsub.subscribe('reader', '{*}', 'block');
});
wait_for_relay($node, 'postgres');
my $writer   = client($node);
my $reader   = client($node);
my $listener = client($node);
$listener->run(
	'LISTEN plain; LISTEN no_key; LISTEN part; LISTEN statements; LISTEN debezium; LISTEN cloudevents; LISTEN "cloudy statements"; LISTEN text'
);

my $json = JSON::PP->new->canonical;

# Publish what the statements do, and have both readers read it: references to
# [channel, payload] of the subscriber's events and of the native ones.
sub both
{
	my ($count, @statements) = @_;

	$writer->run($_) foreach @statements;
	my @whole = $reader->take('reader', $count);
	my @short = map { [ @$_[ 1, 2 ] ] } $listener->wait_for_notifications($count);
	is(scalar(@whole), $count, "$count events for subscribers");
	is(join(' ', map { $_->[0] } @short),
		join(' ', map { $_->[0] } @whole),
		'the same ones for native listeners');
	return (\@whole, \@short);
}

# The fields of a short event, and that each has the value that the whole one
# has; fields that come in addition or are another's are given with theirs.
sub short_is
{
	my ($short, $whole, $fields, %more) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($s, $w) = map { $json->decode($_->[1]) } $short, $whole;
	my $name = "$short->[0], $fields";

	cmp_ok(length $whole->[1], '>', 7999, "$name: the whole one is long");
	cmp_ok(length $short->[1], '<=', 7999, "$name: the short one is not");
	is(join(' ', sort keys %$s),
		join(' ', sort split(/ /, $fields), keys %more),
		"$name: just these fields");
	foreach my $field (sort keys %$s)
	{
		my $expected = exists $more{$field} ? $more{$field} : $w->{$field};

		is($json->encode([ $s->{$field} ]),
			$json->encode([$expected]), "$name: $field");
	}
	return ($s, $w);
}

my $true   = JSON::PP::true();
my $long   = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80" x 3000;
my $other  = '"Other é"."T a"';
my $common = 'id op schema table key txid pid ts';
my $no_key = 'id op schema table txid pid ts';

foreach my $mode ('transactional', 'async')
{
	note $mode;
	$writer->run("SET pgpubsub.publish_mode = '$mode'");

	# plain, of rows
	my ($whole, $short) = both(
		3,
		"INSERT INTO plain VALUES (1, 'b', '$long', 'w')",
		"UPDATE plain SET v = 'short'",
		"UPDATE plain SET v = '$long', w = 'x'");
	my ($event, $all) =
	  short_is($short->[0], $whole->[0], $common, truncated => $true);
	is($event->{op}, 'INSERT', 'op is said');
	is($json->encode($event->{key}), '{"id":1,"k é":"b"}', 'and the key');
	is($event->{pid}, $writer->{pid}, 'pid is the writer');
	is(length $json->encode([ $all->{new}{v} ]),
		length($long) + 4, 'subscribers get all of it');
	short_is($short->[1], $whole->[1], $common, truncated => $true);
	short_is($short->[2], $whole->[2], $common, truncated => $true);
	is(join(' ', sort keys %{ $json->decode($whole->[2][1]) }),
		'changed id key new old op pid schema table ts txid',
		'subscribers get new, old and changed');
	($whole, $short) = both(1, 'DELETE FROM plain');
	short_is($short->[0], $whole->[0], $common, truncated => $true);

	# one whose key changed has the old key too, both or none
	$writer->run("SET pgpubsub.muted = on; INSERT INTO plain VALUES (1, 'b', '$long'); RESET pgpubsub.muted");
	($whole, $short) = both(1, "UPDATE plain SET id = 2");
	($event) = short_is($short->[0], $whole->[0], "$common old_key", truncated => $true);
	is($json->encode($event->{old_key}), '{"id":1,"k é":"b"}', 'the old key');
	($whole, $short) = both(1, qq{UPDATE plain SET "k é" = repeat('\xe2\x82\xac', 2550)});
	short_is($short->[0], $whole->[0], "$common old_key", truncated => $true);
	($whole, $short) = both(1, qq{UPDATE plain SET "k é" = repeat('x', 1000)});
	short_is($short->[0], $whole->[0], $no_key, truncated => $true);
	$writer->run('SET pgpubsub.muted = on; DELETE FROM plain; RESET pgpubsub.muted');

	# without a key, on a partition, and with a key that is itself too long
	($whole, $short) = both(1, "INSERT INTO no_key VALUES ('$long')");
	short_is($short->[0], $whole->[0], $no_key, truncated => $true);
	($whole, $short) = both(1, "INSERT INTO part VALUES (1, '$long')");
	short_is($short->[0], $whole->[0], "$common partition",
		truncated => $true);
	$writer->run('SET pgpubsub.muted = on; DELETE FROM part; RESET pgpubsub.muted');
	($whole, $short) = both(1,
		"ALTER TABLE plain DROP CONSTRAINT plain_pkey; INSERT INTO plain VALUES (1, 'b', '$long'); DELETE FROM plain WHERE false");
	short_is($short->[0], $whole->[0], $no_key, truncated => $true);
	$writer->run('SET pgpubsub.muted = on; DELETE FROM plain; RESET pgpubsub.muted');
	$writer->run(
		'ALTER TABLE plain ADD CONSTRAINT plain_pkey PRIMARY KEY (id, w)');
	foreach my $length (2500, 2650)
	{
		($whole, $short) = both(1,
			"INSERT INTO plain VALUES (1, 'b', 'v', repeat('\xe2\x82\xac', $length))");
		short_is($short->[0], $whole->[0],
			$length == 2500 ? $common : $no_key,
			truncated => $true);
	}
	$writer->run(
		'SET pgpubsub.muted = on; DELETE FROM plain; RESET pgpubsub.muted;'
		  . 'ALTER TABLE plain DROP CONSTRAINT plain_pkey; ALTER TABLE plain ALTER w DROP NOT NULL; ALTER TABLE plain ADD CONSTRAINT plain_pkey PRIMARY KEY (id, "k é")');

	# debezium, cloudevents, statements
	foreach my $statement (
		"INSERT INTO $other SELECT i, 'k', '$long' FROM generate_series(1, 20) AS i",
		"UPDATE $other SET v = v || 'x'",
		"DELETE FROM $other")
	{
		# 20 rows, and the statement's, which are more than one payload holds
		$writer->run($statement);
		my @whole = $reader->run(
			"SELECT channel, payload FROM pgpubsub.poll('reader', 1000, '$PgPubsub::Test::wait')"
		);
		until (grep({ $_->[0] eq 'statements' && $_->[1] =~ /"part":(\d+),"parts":\1,/ } @whole)
			&& grep({ $_->[0] eq 'cloudy statements' && $_->[1] =~ /"part":(\d+),"parts":\1,/ } @whole)
			&& grep({ $_->[0] eq 'debezium' } @whole) == 20
			&& grep({ $_->[0] eq 'cloudevents' } @whole) == 20)
		{
			my @new = $reader->run(
				"SELECT channel, payload FROM pgpubsub.poll('reader', 1000, '$PgPubsub::Test::wait')"
			);
			last unless @new;
			push @whole, @new;
		}
		my @short = map { [ @$_[ 1, 2 ] ] } $listener->wait_for_notifications(scalar @whole);

		is(join(' ', map { $_->[0] } @short),
			join(' ', map { $_->[0] } @whole),
			'the same events in the same order');
		my %seen;
		foreach my $i (0 .. $#whole)
		{
			my $channel = $whole[$i][0];

			# the first and the last of each are enough
			next
			  if $seen{$channel}++ && grep { $_->[0] eq $channel } @whole[ $i + 1 .. $#whole ];
			if ($channel eq 'statements')
			{
				short_is($short[$i], $whole[$i], "$no_key count part parts",
					truncated => $true);
			}
			elsif ($channel eq 'debezium')
			{
				my $row = $json->decode($whole[$i][1]);

				$row = $row->{after} // $row->{before};
				short_is(
					$short[$i], $whole[$i], 'id source op ts_ms',
					truncated => $true,
					key       => { map { $_ => $row->{$_} } 'id', 'k é' });
			}
			else
			{
				my $data = $json->decode($whole[$i][1])->{data};

				delete $data->{$_} foreach qw(new old changed rows);
				$data->{truncated} = $true;
				short_is(
					$short[$i], $whole[$i],
					'specversion id source type time datacontenttype'
					  . ($channel eq 'cloudevents' ? ' subject' : ''),
					data => $data);
			}
		}
	}

	# publish()

	($whole, $short) = both(1, "SELECT pgpubsub.publish('text', '$long')");
	is($whole->[0][1], $long, 'a published text is whole');
	my $length = length $long;
	like($short->[0][1],
		qr/^\{"truncated":true,"bytes":$length,"id":"[0-9a-f]{32}"\}$/,
		'native listeners get its length and an id');

	# the id is of channel and payload
	my ($again) = (both(1, "SELECT pgpubsub.publish('text', '$long')"))[1];
	is($again->[0][1], $short->[0][1], 'the same for the same text');
	($again) = (both(1, "SELECT pgpubsub.publish('text', '${long}x')"))[1];
	isnt($json->decode($again->[0][1])->{id},
		$json->decode($short->[0][1])->{id}, 'another for another');

	# where parts end: characters of each length at each offset, and each
	# length near the border

	my @texts;
	foreach my $character ('x', "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80")
	{
		push @texts, map { 'x' x $_ . $character x (24000 / length $character) } 0 .. 4;
	}
	push @texts, map { 'y' x $_ } 7998 .. 8001, 15800 .. 15870;
	push @texts, map { "\xc3\xa9" x 3900 . 'z' x $_ } 198 .. 202;
	push @texts, 'm' x $max;
	my (@different, @native);
	foreach my $text (@texts)
	{
		$writer->run("SELECT pgpubsub.publish('text', '$text')");
	}
	my @got = map { $_->[1] } $reader->take('reader', scalar @texts);
	@native = map { $_->[2] } $listener->wait_for_notifications(scalar @texts);
	foreach my $i (0 .. $#texts)
	{
		my $bytes = length $texts[$i];

		push @different, "whole: $bytes" if $texts[$i] ne ($got[$i] // '');
		push @different, "native: $bytes"
		  unless $bytes > 7999
		  ? $native[$i] =~ /^\{"truncated":true,"bytes":$bytes,"id":"[^"]*"\}$/
		  : $native[$i] eq $texts[$i];
	}
	is("@different", '', scalar(@texts) . ' texts come whole, up to max_payload');
	is(scalar(@got), scalar(@texts), 'and once');

	# the same border for events: one of each length up to max_payload

	my $fill;
	foreach my $target (7998, 7999, 8000, 8001, 20000, $max - 1, $max)
	{
		my ($whole, $short, $text);

		# a time has no trailing zeros, and ids may grow by a digit: an event
		# may be shorter or longer than the one before it
		for (1 .. 50)
		{
			$fill //= 1000;
			($text) = 'f' x $fill;
			$writer->run("INSERT INTO no_key VALUES ('$text')");
			($whole) = $reader->run(
				"SELECT payload FROM pgpubsub.poll('reader', 1000, '$PgPubsub::Test::wait')"
			);
			($short) = $listener->wait_for_notifications(1);
			if ($whole->[0] =~ /"truncated":true\}$/)
			{
				$fill--;
				next;
			}
			last if length $whole->[0] == $target;
			$fill += $target - length $whole->[0];
		}
		is(length $whole->[0], $target, "an event of $target bytes");
		is($json->decode($whole->[0])->{new}{v}, $text, 'whole');
		ok( $target > 7999
			? $short->[2] =~ /"truncated":true\}$/
			: $short->[2] eq $whole->[0],
			'for native listeners ' . ($target > 7999 ? 'short' : 'too'));
	}

	# one byte more is an error of publish(), long before commit, and leaves the
	# rest alone

	sub fails_too_large
	{
		my ($sql, $detail, $name) = @_;
		local $Test::Builder::Level = $Test::Builder::Level + 1;

		$writer->run('BEGIN');
		$writer->run("SELECT pgpubsub.publish('text', '$name')");
		$writer->run('SAVEPOINT s');
		$writer->query($sql);
		is($writer->sqlstate, '54000', "$name: 54000 at once");
		like($writer->{error}{D} // '', $detail, "$name: its detail");
		like($writer->{error}{H} // '', qr/pgpubsub\.max_payload/,
			"$name: its hint");
		$writer->run('ROLLBACK TO s');
		$writer->run('COMMIT');
		my ($whole, $short) = both(1);
		is("$whole->[0][1] $short->[0][1]", "$name $name",
			"$name: the rest is published");
	}
	my $over = $max + 1;
	fails_too_large(
		"SELECT pgpubsub.publish('text', repeat('x', $over))",
		qr/channel "text" has $over bytes; at most $max can/,
		"publish, $mode");

	# and leaves an event without what makes it too large, for both
	($whole, $short) = both(6,
		"INSERT INTO no_key VALUES (repeat('x', $max))",
		"INSERT INTO plain VALUES (1, 'b', repeat('x', $max), 'w')",
		"INSERT INTO $other VALUES (1, 'k', repeat('x', $max))");
	foreach my $i (0 .. 5)
	{
		my $channel = $whole->[$i][0];
		my $e = $json->decode($whole->[$i][1]);

		is($short->[$i][1], $whole->[$i][1], "$channel, too large: the same for both");
		if ($channel eq 'debezium')
		{
			is(join(' ', sort keys %$e), 'id key op source truncated ts_ms', "$channel: its fields");
			is($json->encode($e->{key}), '{"id":1,"k é":"k"}', "$channel: its key");
			next;
		}
		is($json->encode([ delete $e->{subject} ]), $channel eq 'cloudevents' ? '["{\"id\":1,\"k é\":\"k\"}"]' : '[null]', "$channel: its subject");
		$e = $e->{data} if $channel =~ /^cloud/;
		is(join(' ', sort keys %$e),
			join(' ', sort split(/ /, ($channel =~ /statements/ ? "$no_key count rows" : $channel eq 'no_key' ? $no_key : $common) . ' truncated')),
			"$channel: its fields");
		is($json->encode($e->{rows}), '[{"key":{"id":1,"k é":"k"}}]', "$channel: the row's key")
		  if $e->{rows};
	}
	$writer->run("SET pgpubsub.muted = on; DELETE FROM $other; DELETE FROM plain; DELETE FROM no_key; RESET pgpubsub.muted");
}

# Text of more than 1 GB cannot be made: the size of the value tells it before.
$writer->run(
	q{CREATE TABLE huge (t text, j jsonb, a text[]);
	SELECT pgpubsub.attach('huge', 'huge_' || c, columns => ARRAY[c]) FROM unnest('{t,j,a}'::name[]) AS c;
	INSERT INTO huge SELECT x, to_jsonb(x), ARRAY[x] FROM repeat(E'\x01', 180000000) AS x;
	DROP TABLE huge});
my @huge = $reader->run(
	"SELECT channel, payload::json ->> 'truncated' FROM pgpubsub.poll('reader', 1000, '$PgPubsub::Test::wait')"
);
is(join(' ', sort map { "@$_" } @huge), 'huge_a true huge_j true huge_t true', 'values whose text would have more than 1 GB');

is($writer->queue('bad_frames'),
	0, 'no frame was bad');
$node->stop;
server_is_sound($node);
log_is_clean($node, qr/ERROR:  payload is too large/);
done_testing();
