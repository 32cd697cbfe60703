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
		"ALTER MATERIALIZED VIEW pgpubsub.elsewhere RENAME TO $relation", @fails);
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

$admin->quit;
$writer->quit;
$node->stop('fast');
server_is_sound($node);
done_testing();
