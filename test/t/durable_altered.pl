# Somebody alters the relations that the log of durable channels is in: indexes
# them, refreshes, renames, drops, moves or gives them away.  What does no harm
# goes on as before.  All else has whoever needs the relation say so, 55000, and
# nobody skip an event or get a wrong one; the server and the relay go on, and so
# does everything when it was undone.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('durable_altered', conf => q{
pgpubsub.log_size = 64MB
pgpubsub.queue_size = 64kB
allow_in_place_tablespaces = on
autovacuum = off
log_statement = none
});
my $admin;
my $writer;
my $number = 0;      # of the last event that was published
my $acked  = 0;      # and of the last that was acked
my $said   = 0;      # the relay has said that it notes nothing
my @live;            # events that are to be read live yet

# Publish the next event; the SQLSTATE.
sub publishes
{
	my $next = $number + 1;

	$writer->query("SELECT pgpubsub.publish('a', rpad('$next', 1000))");
	push @live, ++$number if $writer->sqlstate eq '';
	return $writer->sqlstate;
}

# Look at the log's first events: the SQLSTATE, or their numbers.
sub looks
{
	my @rows = $admin->query("SELECT coalesce(trim(payload), 'gap') FROM pgpubsub.poll('old', 3, consume => false)");

	return $admin->sqlstate || join ' ', map { $_->[0] } @rows;
}

# Ack the next event from the log: the SQLSTATE, or its number.
sub acks
{
	my ($row) = $admin->query("SELECT seq, trim(payload) FROM pgpubsub.poll('acking', 1, consume => false)");

	return $admin->sqlstate if $admin->sqlstate;
	$admin->query("SELECT pgpubsub.ack('acking', $row->[0])");
	$acked = $row->[1] unless $admin->sqlstate;
	return $admin->sqlstate || $row->[1];
}

# What has come to who reads live.
sub reads_live
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @rows = map { "$_->[1]" =~ s/\s+$//r } $admin->take('live', scalar @live);

	is("@rows", "@live", $name);
	@live = ();
	return;
}

# Alter, see what becomes of the four who use the log, undo, and see that all go
# on.  fails: which of publish, look,
# ack, note and take do.
sub altered
{
	my ($name, $alter, $undo, @fails) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %fails  = map { $_ => 1 } @fails;
	my $offset = log_offset($node);
	my $relay  = relay_pid($node, 'postgres');
	my $next   = $acked + 1;

	$admin->run($alter);
	is(publishes(), $fails{publish} ? '55000' : '', "$name: publish");
	like($writer->{error}{M}, qr/^(?:relation "log_row_1" of pgpubsub's log is not as the extension made it|the log of durable channels is not there)$/,
		"$name: message")
	  if $fails{publish};
	is(looks(), $fails{look} ? '55000' : '1 2 3', "$name: a look into the log");
	is(acks(), $fails{ack} ? '55000' : $next, "$name: ack");
	if ($fails{note})
	{
		# it says so every 5 s
		ok($node->wait_for_log(qr/LOG:  pgpubsub relay could not note events of durable channels: (?:relation|the log)/, $offset),
			"$name: the relay says why it notes nothing")
		  if !$said++;
		is($admin->value("SELECT count(*) FROM pgpubsub.poll('live')"), 0, "$name: nobody gets what is not noted");
	}
	elsif ($fails{take})
	{
		$admin->query("SELECT * FROM pgpubsub.poll('live', 10, '30s')");
		is($admin->sqlstate, '55000', "$name: a live reader");
	}
	else
	{
		reads_live("$name: a live reader");
	}
	$admin->run($undo) if $undo;
	is(publishes(), '', "$name: publish when it was undone");
	reads_live("$name: a live reader then");
	is(looks(), '1 2 3', "$name: a look into the log then");
	$next = $acked + 1;
	is(acks(), $next, "$name: ack then");
	is(relay_pid($node, 'postgres'), $relay, "$name: the relay is the same");
	return;
}

# All that has the log use more than a segment, and all that keeps the ring small
$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	CREATE ROLE other;
	CREATE TABLE empty (i int PRIMARY KEY);
	CREATE TABLE fails (i int REFERENCES empty DEFERRABLE INITIALLY DEFERRED);
	CREATE TABLESPACE elsewhere LOCATION '';
	CREATE ACCESS METHOD other_heap TYPE TABLE HANDLER heap_tableam_handler;
	CREATE SEQUENCE trapped;
	CREATE FUNCTION trap(t text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM nextval('public.trapped');
		RETURN t;
	END $$;
	CREATE FUNCTION trap_compare(a text, b text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM nextval('public.trapped');
		RETURN bttextcmp(a, b);
	END $$;
	CREATE OPERATOR CLASS trap_ops FOR TYPE text USING btree AS
		OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 trap_compare(text, text);
	SELECT pgpubsub.set_durable('a', retain => '1 day');
	SELECT pgpubsub.subscribe('old', '{a}', 'drop'), pgpubsub.subscribe('acking', '{a}', 'drop'), pgpubsub.subscribe('live', '{a}', 'drop');
});
$admin  = client($node);
$writer = client($node);

# rows that are rolled back lie between the others: whoever moves rows would have
# them take other places
foreach my $part (1 .. 100)
{
	$writer->query("BEGIN; SELECT pgpubsub.publish('a', rpad('never', 1000)); INSERT INTO fails VALUES (1); COMMIT");
	is($writer->sqlstate, '23503', 'a transaction fails after it has written to the log') if $part == 1;
	publishes();
}
reads_live('all come while nothing is altered');
is(looks(), '1 2 3', 'the first are in the log');
is($admin->subscription('old', 'from_log'), 't', 'and in the log alone');

# What does no harm

altered('VACUUM FULL',     'VACUUM FULL');
altered("CLUSTER log_note_1", 'CLUSTER pgpubsub.log_note_1 USING log_note_1_channel_last_seq_idx');
altered('VACUUM', 'VACUUM (FREEZE, ANALYZE)');
altered('REINDEX', 'REINDEX TABLE pgpubsub.log_note_1');
altered('REINDEX CONCURRENTLY', 'REINDEX TABLE CONCURRENTLY pgpubsub.log_note_1');
foreach my $relation ('log_row_1', 'log_note_1', 'log_position_1')
{
	altered(
		"another tablespace for $relation",
		"ALTER MATERIALIZED VIEW pgpubsub.$relation SET TABLESPACE elsewhere",
		"ALTER MATERIALIZED VIEW pgpubsub.$relation SET TABLESPACE pg_default");
	altered(
		"another owner of $relation",
		"ALTER MATERIALIZED VIEW pgpubsub.$relation OWNER TO other",
		"ALTER MATERIALIZED VIEW pgpubsub.$relation OWNER TO CURRENT_USER");
	altered("settings of $relation", "ALTER MATERIALIZED VIEW pgpubsub.$relation SET (fillfactor = 20, autovacuum_enabled = true)");
	foreach my $action ('ADD COLUMN more int', 'ALTER COLUMN xid TYPE text', 'DROP COLUMN xid', 'SET UNLOGGED')
	{
		$admin->query("ALTER TABLE pgpubsub.$relation $action");
		like($admin->sqlstate, qr/^(?:42809|0A000)$/, "nobody can do to $relation: $action");
	}
	$admin->query("DROP MATERIALIZED VIEW pgpubsub.$relation");
	is($admin->sqlstate, '2BP01', "nor drop $relation");
}
altered('another name for a column',
	'ALTER MATERIALIZED VIEW pgpubsub.log_row_1 RENAME COLUMN channel TO other',
	'ALTER MATERIALIZED VIEW pgpubsub.log_row_1 RENAME COLUMN other TO channel');

# What does

my %users = (log_row_1 => [ 'publish', 'look', 'ack' ], log_note_1 => [ 'look', 'ack', 'note' ], log_position_1 => [ 'ack', 'take' ]);

foreach my $relation (sort keys %users)
{
	my @fails = @{ $users{$relation} };
	my ($column) = $relation eq 'log_position_1' ? '(id::text)' : 'channel';

	altered("another name for $relation",
		"ALTER MATERIALIZED VIEW pgpubsub.$relation RENAME TO elsewhere",
		"ALTER MATERIALIZED VIEW pgpubsub.elsewhere RENAME TO $relation", @fails)
	  if $relation ne 'log_row_1';
	altered("an index on $relation",
		"CREATE INDEX other ON pgpubsub.$relation ($column)", 'DROP INDEX pgpubsub.other', @fails);
	altered("an index on an expression, on $relation",
		"CREATE INDEX other ON pgpubsub.$relation (public.trap($column)); SELECT setval('trapped', 1)",
		'DROP INDEX pgpubsub.other', @fails);
	altered("$relation is said to be populated",
		"UPDATE pg_class SET relispopulated = true WHERE oid = 'pgpubsub.$relation'::regclass",
		"UPDATE pg_class SET relispopulated = false WHERE oid = 'pgpubsub.$relation'::regclass", @fails);
}
is($admin->value('SELECT last_value FROM trapped'), 1, 'no code of an index was run');

# Another index in the place of the extension's
my $index = 'CREATE INDEX log_note_1_channel_last_seq_idx ON pgpubsub.log_note_1';
my $drop  = 'DROP INDEX pgpubsub.log_note_1_channel_last_seq_idx';

foreach my $other (
	'(channel, last_seq DESC)', '(channel DESC, last_seq DESC)', '(channel, last_seq NULLS FIRST)',
	'(channel COLLATE "POSIX", last_seq)', '(channel text_pattern_ops, last_seq)', '(channel trap_ops, last_seq)',
	'(last_seq, channel)', '(channel, last_seq, events)', '(channel, last_seq) INCLUDE (events)',
	"(channel, last_seq) WHERE channel <> 'a'", '(channel, first_seq)')
{
	altered("the index is $other", "$drop; $index $other; SELECT setval('trapped', 1)", "$drop; $index (channel, last_seq)", @{ $users{log_note_1} });
}
altered('the index is a brin index', "$drop; CREATE INDEX other ON pgpubsub.log_note_1 USING brin (channel, last_seq)",
	"DROP INDEX pgpubsub.other; $index (channel, last_seq)", @{ $users{log_note_1} });
altered('there is no index', $drop, "$index (channel, last_seq)", @{ $users{log_note_1} });
altered('another one like it', 'CREATE INDEX other ON pgpubsub.log_note_1 (channel, last_seq)', 'DROP INDEX pgpubsub.other');
is($admin->value('SELECT last_value FROM trapped'), 1, 'no code of an operator class was run');

# where rows of a segment cannot be found, writers turn to the next
altered('another name for log_row_1', 'ALTER MATERIALIZED VIEW pgpubsub.log_row_1 RENAME TO elsewhere',
	'ALTER MATERIALIZED VIEW pgpubsub.elsewhere RENAME TO log_row_1', 'look', 'ack');

# Emptying: the relay cannot empty a segment that is altered, and says so

# Segments that have rows.
sub used_segments
{
	return $admin->value(
		"SELECT count(*) FROM pg_class WHERE relnamespace = 'pgpubsub'::regnamespace AND relname LIKE 'log_row%' AND pg_relation_size(oid) > 0"
	);
}

# Publish until so many segments are in use.
sub fill
{
	my ($segments) = @_;

	until (used_segments() >= $segments)
	{
		$writer->run("SELECT count(pgpubsub.publish('a', rpad(i::text, 1000))) FROM generate_series($number + 1, $number + 200) AS i");
		$number += 200;
		$admin->settle;
	}
	return;
}

sub set_log_size
{
	my ($size) = @_;

	$admin->run("ALTER SYSTEM SET pgpubsub.log_size = '$size'");
	$admin->run('SELECT pg_reload_conf()');
	ok(wait_until(sub { $admin->value("SELECT current_setting('pgpubsub.log_size')") eq $size }, 'the new log_size'),
		"log_size is $size");
	return;
}

# What the log has on disk, by its view.
sub used_bytes
{
	return $admin->value("SELECT used_bytes FROM pgpubsub.stat_log WHERE datname = 'postgres'");
}

sub read_all
{
	my ($subscription) = @_;
	my @all;

	$admin->settle;
	while (my @rows = $admin->run("SELECT coalesce(trim(payload), 'gap:' || lost) FROM pgpubsub.poll('$subscription', 1000)"))
	{
		push @all, map { $_->[0] } @rows;
	}
	return @all;
}

$admin->run("SELECT pgpubsub.set_durable('a', retain => '0')");
foreach my $relation ('log_row_1', 'log_note_1')
{
	my $offset = log_offset($node);

	set_log_size('8MB');
	$admin->run("SELECT pgpubsub.unsubscribe(name) FROM pgpubsub.subscription");
	fill(1) if wait_until(sub { used_segments() <= 1 }, 'an empty log');
	$admin->run("SELECT pgpubsub.subscribe('old', '{a}', 'block')");
	my $first = $number + 1;
	fill(3);
	until ($admin->value("SELECT pg_relation_size('pgpubsub.log_row_1')") > 0)
	{
		read_all('old');
		fill(3);
	}
	$first = $number + 1;
	$admin->run("CREATE INDEX other ON pgpubsub.$relation (xid)") if $relation eq 'log_row_1';
	$admin->run("CREATE INDEX other ON pgpubsub.$relation (channel, first_seq)") if $relation ne 'log_row_1';
	$admin->run("SELECT pgpubsub.seek('old', 'now')");
	ok($node->wait_for_log(qr/LOG:  pgpubsub relay could not [a-z ]+: relation "$relation"/, $offset),
		"$relation has another index: the relay says why it empties nothing");
	cmp_ok($admin->value("SELECT pg_relation_size('pgpubsub.log_row_1')"), '>', 0, 'and does not');
	$admin->run('DROP INDEX pgpubsub.other');
	ok(wait_until(sub { used_segments() <= 1 }, 'one segment'), 'when it was undone, it does');
}

# log_size is lowered below what is used

foreach my $on_full ('drop', 'block')
{
	set_log_size('24MB');
	$admin->run("SELECT pgpubsub.unsubscribe('old')");
	$admin->run("SELECT pgpubsub.subscribe('old', '{a}', '$on_full')");
	my $first = $number + 1;
	fill(6);
	my $used = used_bytes();
	cmp_ok($used, '>', 12 * 1024 * 1024, "$on_full: much is used");
	set_log_size('8MB');
	is($admin->value("SELECT log_size FROM pgpubsub.stat_log WHERE datname = 'postgres'"), 8 * 1024 * 1024, 'the view has the new size');
	if ($on_full eq 'drop')
	{
		$writer->run("SELECT pgpubsub.publish('a', rpad('@{[ ++$number ]}', 1000))");
		ok(wait_until(sub { used_bytes() < 10 * 1024 * 1024 }, 'a log of 8MB'), 'the log shrinks to it');
	}
	else
	{
		$writer->run("SET pgpubsub.publish_timeout = '500ms'");
		ok( wait_until(
				sub {
					$writer->query("SELECT count(pgpubsub.publish('a', rpad(i::text, 1000))) FROM generate_series($number + 1, $number + 200) AS i");
					$number += 200 if $writer->sqlstate eq '';
					return $writer->sqlstate;
				},
				'an error'),
			'writers get an error');
		is($writer->sqlstate, '53400', 'which says that the log is full');
		like($writer->{error}{D}, qr/^Subscription "old" has not read/, 'and for whom');
		cmp_ok(used_bytes(), '>', $used - 1024 * 1024, 'since nothing is lost');
		is($admin->value("SELECT held_by FROM pgpubsub.stat_log WHERE datname = 'postgres'"), 'old', 'the view says so');
	}
	my @rows = read_all('old');
	my $lost = $rows[0] =~ /^gap:(\d+)$/ ? $1 : 0;
	shift @rows if $lost;
	is($lost > 0, $on_full eq 'drop', 'lost is what the subscription lets be lost');
	is("$rows[0] $rows[-1] " . @rows, join(' ', $first + $lost, $number, $number - $first - $lost + 1), 'all else is read');
	ok( wait_until(
			sub {
				$writer->query("SELECT pgpubsub.publish('a', rpad('@{[ $number + 1 ]}', 1000))");
				$number++ if $writer->sqlstate eq '';
				return used_bytes() < 10 * 1024 * 1024;
			},
			'a log of 8MB'),
		'and the log has its size');
}

# What cannot be undone: rows were rewritten, or are gone.  Who reads is told, and
# can go on behind that.

set_log_size('64MB');
$writer->run('RESET pgpubsub.publish_timeout');
my %destroyed = (
	'rows are rewritten' =>
	  [ 'XX001', 'ALTER MATERIALIZED VIEW pgpubsub.%s SET ACCESS METHOD other_heap; ALTER MATERIALIZED VIEW pgpubsub.%s SET ACCESS METHOD heap', 'log_row' ],
	'rows are refreshed' => [ 'XX001', 'REFRESH MATERIALIZED VIEW pgpubsub.%s; REFRESH MATERIALIZED VIEW pgpubsub.%s WITH NO DATA', 'log_row' ],
	'notes are refreshed' => [ '55000', 'REFRESH MATERIALIZED VIEW pgpubsub.%s WITH NO DATA', 'log_note' ],
	'notes are refreshed, and more come' => [ 'gap', 'REFRESH MATERIALIZED VIEW pgpubsub.%s WITH NO DATA', 'log_note' ]);
foreach my $how (sort keys %destroyed)
{
	my ($error, $sql, $kind) = @{ $destroyed{$how} };

	$admin->run("SELECT pgpubsub.unsubscribe('old')");
	ok(wait_until(sub { used_segments() <= 1 }, 'one segment'), 'nothing is in the log but in one segment');
	$admin->run("SELECT pgpubsub.subscribe('old', '{a}', 'drop')");
	$writer->run("SELECT count(pgpubsub.publish('a', rpad(i::text, 1000))) FROM generate_series($number + 1, $number + 100) AS i");
	$number += 100;
	$admin->settle;
	my $relation = $admin->value(
		"SELECT relname FROM pg_class WHERE relnamespace = 'pgpubsub'::regnamespace AND relname LIKE 'log_row%' AND pg_relation_size(oid) > 0") =~
	  s/log_row/$kind/r;
	$admin->run(sprintf $sql, $relation, $relation);
	if ($error eq 'gap')
	{
		is(publishes(), '', "$how: publish");
		$admin->settle;
		my @rows = read_all('old');
		is("$rows[0] $rows[-1]", "gap:-1 $number", 'a gap row says that events are missing');
	}
	else
	{
		is(looks(), $error, "$how: a look");
		like($admin->{error}{H}, qr/pgpubsub\.seek\(\)/, 'which says how to go on');
		$admin->run("SELECT pgpubsub.seek('old', 'now')");
		is(publishes(), '', 'publish');
		is(join(' ', read_all('old')), $number, 'behind that, all goes on');
	}
}

# A relation is dropped: who needs it says so, and the extension can be created anew.

foreach my $relation ('log_row_1', 'log_note_1', 'log_position_1')
{
	$admin->run('DROP EXTENSION pgpubsub');
	wait_for_relay($node, 'postgres', count => 0);
	$admin->run("CREATE EXTENSION pgpubsub; SELECT pgpubsub.set_durable('a'), pgpubsub.subscribe('old', '{a}', 'drop')");
	my $first = $number + 1;
	publishes() foreach 1 .. 100;
	$admin->settle;
	is($admin->subscription('old', 'from_log'), 't', 'the first events are in the log alone');
	my $relay = relay_pid($node, 'postgres');
	$admin->run("ALTER EXTENSION pgpubsub DROP MATERIALIZED VIEW pgpubsub.$relation; DROP MATERIALIZED VIEW pgpubsub.$relation");
	is(publishes(), '', "$relation is dropped: publish");
	is(looks(), $relation eq 'log_position_1' ? join(' ', $first .. $first + 2) : '55000', "$relation is dropped: a look into the log");
	$admin->query("SELECT pgpubsub.poll('old', 10)");
	is($admin->sqlstate, '55000', "$relation is dropped: who consumes gets an error");
	is($admin->{error}{M}, 'the log of durable channels is not there', 'message');
	like($admin->{error}{D}, qr/^Relation "$relation" does not belong to the extension/, 'which names it');
	like($admin->{error}{H}, qr/drop the extension and create it anew/, 'and says what to do');
	is(relay_pid($node, 'postgres'), $relay, "$relation is dropped: the relay is the same");
}
$admin->run('DROP EXTENSION pgpubsub');
wait_for_relay($node, 'postgres', count => 0);
$admin->run("CREATE EXTENSION pgpubsub; SELECT pgpubsub.set_durable('a'), pgpubsub.subscribe('live', '{a}', 'drop')");
@live = ();
is(publishes(), '', 'created anew, all goes on');
reads_live('and is read');

$admin->quit;
$writer->quit;
$node->stop('fast');
server_is_sound($node);
done_testing();
