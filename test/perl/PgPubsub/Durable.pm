# Load on durable channels, and what must hold of it, whatever was killed
# meanwhile.
#
# Writers run transactions.  Each writes into table ledger what it publishes, so
# that ledger has, after any crash, what subscriptions must get.  It publishes by
# triggers and by publish(), in both publish modes; some of it in savepoints that
# are rolled back, and some transactions are rolled back altogether.  A writer notes each transaction
# whose commit was reported to it in a file: the server must still have it.
#
# Two subscriptions are read in transactions that write what they read into table
# taken.  Two are looked at and acked; what was seen and what was acked is kept in
# files, since that must be known after a crash too.
#
# All of them connect again when they lose their connection, to whichever of the
# servers is not a standby.
#
#   DURABLE_SEED=...    repeats the dice, not the timing
#   DURABLE_WRITERS=4   how many writers

package PgPubsub::Durable;

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my %readers = (
	every   => [ '{d1,d2,d3,d4}', 'take' ],
	pattern => [ '{d*}',          'take' ],
	pair    => [ '{d1,d3}',       'look' ],
	looking => [ '{d1,d2,d4}',    'look' ],
);

# Rows of 15 bytes: so the size of a file says how many there are.
my $reported_line = "%3d\t%10d\n";

# What the load needs in the database: tables, functions, durable channels,
# subscriptions.  on_full: of the subscriptions; pattern => 1: the channels are
# made durable by a pattern.
sub prepare
{
	my ($class, $node, %params) = @_;
	my $on_full = $params{on_full} // 'block';

	$node->safe_psql(
		'postgres', q{
		CREATE EXTENSION pgpubsub;
		CREATE TABLE ledger (mark text, channel text, writer int, transaction int, part int, bytes int);
		CREATE TABLE done (writer int, transaction int);
		CREATE TABLE item (id int PRIMARY KEY, version int, mark text);
		CREATE TABLE bulk (mark text PRIMARY KEY, filler text);
		INSERT INTO item SELECT i, 0, 'first' FROM generate_series(0, 6) AS i;

		-- what the readers read, and what they are to read
		CREATE TABLE reads (subscription text, channel text, how text);
		CREATE TABLE taken (
			n bigint GENERATED ALWAYS AS IDENTITY, subscription text, seq bigint, channel text,
			mark text, item int, version int, bytes int, lost bigint);

		-- the files of the writers, and of those who look
		CREATE TABLE reported (writer int, transaction int);
		CREATE TABLE looked (
			n bigint GENERATED ALWAYS AS IDENTITY, subscription text, look int, seq bigint, channel text,
			mark text, item int, version int, bytes int, lost bigint);
		CREATE TABLE acked (subscription text, look int, seq bigint);

		-- One thing that a transaction publishes, with its parts from the given
		-- one on.  A transaction changes one item only: no deadlocks.
		CREATE FUNCTION write(who int, n int, part int, what text) RETURNS void LANGUAGE plpgsql AS $$
		DECLARE
			name text := format('%s:%s:%s', who, n, part);
			to_channel text := 'd' || (1 + n % 4);
			payload text := name;
		BEGIN
			IF what = 'item' THEN
				UPDATE item SET version = version + 1, mark = name WHERE id = n % 7;
				INSERT INTO ledger VALUES (name, 'd1', who, n, part);
			ELSIF what = 'bulk' THEN
				INSERT INTO bulk
				SELECT format('%s:%s:%s', who, n, part + i), repeat('b', 100) FROM generate_series(0, 299) AS i;
				INSERT INTO ledger
				SELECT format('%s:%s:%s', who, n, part + i), 'd4', who, n, part + i FROM generate_series(0, 299) AS i;
			ELSIF what = 'fail' THEN
				BEGIN
					PERFORM pgpubsub.publish(to_channel, 'never');
					INSERT INTO bulk VALUES (name, 'never');
					UPDATE item SET version = version + 1, mark = 'never' WHERE id = n % 7;
					RAISE division_by_zero;
				EXCEPTION WHEN division_by_zero THEN
				END;
			ELSE
				payload := name || repeat(' ', CASE what WHEN 'big' THEN 50000 ELSE n % 300 END);
				PERFORM pgpubsub.publish(to_channel, payload);
				INSERT INTO ledger VALUES (name, to_channel, who, n, part, length(payload));
			END IF;
		END $$;

		CREATE FUNCTION events(s name, max_messages int, consume boolean)
		RETURNS TABLE (seq bigint, channel text, mark text, item int, version int, bytes int, lost bigint)
		LANGUAGE sql AS $$
			SELECT p.seq, p.channel, coalesce(j.new ->> 'mark', split_part(p.payload, ' ', 1)),
			       (j.new ->> 'id')::int, (j.new ->> 'version')::int,
			       CASE WHEN j.new IS NULL THEN length(p.payload) END, p.lost
			  FROM pgpubsub.poll(s, max_messages, '1s', consume) AS p
			 CROSS JOIN LATERAL (SELECT CASE WHEN p.payload LIKE '_"id":%' THEN p.payload::json -> 'new' END) AS j(new)
		$$;

		CREATE FUNCTION take(s name, max_messages int) RETURNS bigint LANGUAGE sql AS $$
			WITH rows AS (
				INSERT INTO taken (subscription, seq, channel, mark, item, version, bytes, lost)
				SELECT s, e.* FROM events(s, max_messages, true) AS e
				RETURNING 1)
			SELECT count(*) FROM rows
		$$;
	});

	$node->safe_psql(
		'postgres',
		$params{pattern}
		? q{
		SELECT pgpubsub.set_durable('d*');
		SELECT pgpubsub.attach('item', 'd1', '{update}'), pgpubsub.attach('bulk', 'd4')}
		: q{
		SELECT pgpubsub.attach('item', 'd1', '{update}', durable => true);
		SELECT pgpubsub.set_durable('d2'), pgpubsub.set_durable('d3'), pgpubsub.set_durable('d4');
		SELECT pgpubsub.attach('bulk', 'd4')});
	foreach my $name (sort keys %readers)
	{
		my ($channels, $how) = @{ $readers{$name} };

		$node->safe_psql(
			'postgres', qq{
			SELECT pgpubsub.subscribe('$name', '$channels', '$on_full');
			INSERT INTO reads
			SELECT DISTINCT '$name', c.channel, '$how'
			  FROM (VALUES ('d1'), ('d2'), ('d3'), ('d4')) AS c(channel)
			  JOIN unnest('$channels'::text[]) AS p ON c.channel LIKE replace(p, '*', '%')});
	}
	return;
}

# Start writers and readers.  nodes: the servers that there are, or will be; allow:
# SQLSTATEs with which their transactions may fail besides.
sub begin
{
	my ($class, %params) = @_;
	my $self = bless {
		nodes   => $params{nodes},
		writers => $ENV{DURABLE_WRITERS} || 4,
		seed    => $ENV{DURABLE_SEED} || int(time * 1000) % 1000000,
		allow   => $params{allow} // [],
		dir     => PostgreSQL::Test::Utils::tempdir()
	}, $class;

	note "DURABLE_SEED=$self->{seed}";
	srand($self->{seed});
	foreach my $who (1 .. $self->{writers})
	{
		$self->worker("writer_$who", [qw(53400)], $self->writer_step($who));
	}

	# 55006: the last session of a reader may not be gone yet; 55000: there may be
	# no relay
	foreach my $name (sort keys %readers)
	{
		$self->worker("reader_$name", [qw(55006 55000)], $self->reader_step($name));
	}
	return $self;
}

# ----------------------------------------------------------------------------
# Those who work until they are told to stop
# ----------------------------------------------------------------------------

# A connection to the server that is not a standby, or nothing.
sub connect_any
{
	my ($self, $name) = @_;

	foreach my $node (@{ $self->{nodes} })
	{
		my $client = eval { client($node, 'postgres', application_name => "durable $name") } or next;
		my $in_recovery = eval { $client->value('SELECT pg_is_in_recovery()') };

		return $client if defined $in_recovery && $in_recovery eq 'f';
		$client->quit;
	}
	return;
}

# A child that repeats a step, until that returns true.  A step may fail with one
# of the SQLSTATEs allowed, or with the loss of its connection.
sub worker
{
	my ($self, $name, $allowed, $step) = @_;
	my $path   = "$self->{dir}/$name";
	my $number = ++$self->{workers};

	push @{ $self->{paths} }, $path;
	in_child(
		$path,
		sub {
			my ($client, $state, $done) = (undef, {}, 0);

			srand($self->{seed} + $number);
			until ($done)
			{
				wait_until(sub { $client = $self->connect_any($name) }, "a server for $name")
				  if !$client || $client->{closed};
				die "no server\n" unless $client;
				next if eval { $done = $step->($client, $state); 1 };
				my $error = $@;

				next if $client->{closed};
				die $error unless $error =~ /\((\w{5})\) in: / && grep { $_ eq $1 } @$allowed, @{ $self->{allow} };
				append_to_file("$self->{dir}/failed", "$name $1\n");
				$client->query('ROLLBACK');
			}
			$client->quit;
			append_to_file("$path.ended", '');
		});
	return;
}

# What a transaction does, in statements; the last ends it.
sub transaction
{
	my ($who, $n) = @_;
	my @kinds = (qw(item item item small small small fail), (qw(big bulk small small small small))[ rand 6 ]);
	my $part  = 0;
	my $some  = sub {
		return map {
			my $what = $kinds[ rand @kinds ];

			$part += 1000;
			"SELECT write($who, $n, $part, '$what')";
		} 0 .. int rand 3;
	};
	my @statements = (
		'BEGIN',
		'SET LOCAL pgpubsub.publish_mode = ' . (rand() < 0.5 ? 'async' : 'transactional'),
		"INSERT INTO done VALUES ($who, $n)", $some->());

	push @statements, 'SAVEPOINT s', $some->(), rand() < 0.6 ? 'ROLLBACK TO s' : 'RELEASE s', $some->()
	  if rand() < 0.3;
	return (@statements, rand() < 0.1 ? 'ROLLBACK' : 'COMMIT');
}

sub writer_step
{
	my ($self, $who) = @_;

	return sub {
		my ($client, $state) = @_;
		return 1 if -e "$self->{dir}/stop";
		my $n          = ++$state->{n};
		my @statements = transaction($who, $n);

		# one message to the server, or one each
		$client->run($_) foreach rand() < 0.5 ? join(';', @statements) : @statements;
		append_to_file("$self->{dir}/writer_$who.reported", sprintf($reported_line, $who, $n))
		  if $statements[-1] eq 'COMMIT';
		return 0;
	};
}

# Reads what there is; true if that was nothing, and nothing is to come.
sub reader_step
{
	my ($self, $name) = @_;
	my $how = $readers{$name}[1] eq 'take' ? \&take_some : \&look_and_ack;

	return sub {
		my ($client, $state) = @_;

		# looked for before reading
		my $last = -e "$self->{dir}/finish";
		my $max  = 1 + int(rand(rand() < 0.2 ? 1000 : 100));

		return !$how->($self, $client, $state, $name, $max) && $last;
	};
}

# How many rows there were.
sub take_some
{
	my ($self, $client, $state, $name, $max) = @_;
	my $take = "SELECT take('$name', $max)";

	return $client->value($take) if rand() < 0.5;
	$client->run('BEGIN');
	if (rand() < 0.3)
	{
		$client->run('SAVEPOINT s');
		$client->run($take);
		$client->run(rand() < 0.7 ? 'ROLLBACK TO s' : 'RELEASE s');
	}
	my $count = $client->value($take);

	$client->run(rand() < 0.9 ? 'COMMIT' : 'ROLLBACK');
	return $count;
}

# How many rows there were.
sub look_and_ack
{
	my ($self, $client, $state, $name, $max) = @_;
	my $look = ++$state->{look};
	my @rows = $client->run("SELECT * FROM events('$name', $max, false)");

	return 0 unless @rows;
	append_to_file("$self->{dir}/reader_$name.looked",
		join '', map { join("\t", $name, $look, map { $_ // '\N' } @$_) . "\n" } @rows);

	# to be looked at again, all or some
	return scalar @rows if rand() < 0.1;
	my $seq = $rows[ rand() < 0.2 ? int rand @rows : -1 ][0];

	$client->run("SELECT pgpubsub.ack('$name', $seq)");
	append_to_file("$self->{dir}/reader_$name.acked", "$name\t$look\t$seq\n");
	return scalar @rows;
}

# ----------------------------------------------------------------------------
# For the test
# ----------------------------------------------------------------------------

# How many transactions have reported their commit.
sub transactions
{
	my ($self) = @_;
	my $bytes = 0;

	$bytes += -s $_ foreach glob "$self->{dir}/*.reported";
	return int($bytes / length(sprintf($reported_line, 0, 0)));
}

# How many transactions have failed with that SQLSTATE.
sub failures
{
	my ($self, $sqlstate) = @_;
	my $file = "$self->{dir}/failed";

	return -e $file ? scalar(() = slurp_file($file) =~ / $sqlstate$/mg) : 0;
}

# How many transactions have waited for room in vain.
sub refused
{
	my ($self) = @_;

	return $self->failures('53400');
}

# Wait until so many more have; the test ends if a writer or a reader has failed.
# or_refused => 1: or until one has waited for room in vain.
sub wait_for_transactions
{
	my ($self, $count, %params) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $goal    = $self->transactions + $count;
	my $refused = $self->refused;

	return wait_until(
		sub {
			my ($error) = glob "$self->{dir}/*.error";

			die "$error: " . slurp_file($error) if $error;
			return $self->transactions >= $goal || $params{or_refused} && $self->refused > $refused;
		},
		"$count transactions");
}

# Stop the writers, have the readers read all that is left, and stop them.
sub finish
{
	my ($self, $node) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	append_to_file("$self->{dir}/stop", '');
	wait_until(
		sub {
			return !grep { /writer_\d+$/ && !-e "$_.ended" && !-e "$_.error" } @{ $self->{paths} };
		},
		'the end of the writers');
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pgpubsub.stat_queue WHERE datname = 'postgres' AND relay_state = 'listening'")
	  or fail('waited for the relay');
	settle($node, 'postgres');
	$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pgpubsub.stat_subscriptions WHERE pending > 0')
	  or fail('waited until nothing is pending');
	append_to_file("$self->{dir}/finish", '');
	join_children('no writer and no reader has met an error');
	return;
}

# All that was promised, looked at on the server that there is now.  reported => 0,
# looked => 0: it does not have all that the writers, or those who look, have met.
sub check
{
	my ($self, $node, %params) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $client = client($node);
	my $none   = sub {
		my ($name, $sql) = @_;
		local $Test::Builder::Level = $Test::Builder::Level + 1;

		no_rows($client, $sql, $name);
	};

	$client->run('TRUNCATE reported, looked, acked');
	foreach my $what (($params{reported} // 1) ? 'reported' : (), ($params{looked} // 1) ? qw(looked acked) : ())
	{
		my $columns =
		  $what eq 'looked' ? '(subscription, look, seq, channel, mark, item, version, bytes, lost)' : '';

		$client->run("COPY $what $columns FROM '$_'") foreach glob "$self->{dir}/*.$what";
	}
	$client->run('CREATE INDEX IF NOT EXISTS ledger_mark ON ledger (mark)');
	$client->run('ANALYZE');
	$client->run(
		q{
		CREATE TEMP VIEW consumed AS
			SELECT l.* FROM looked AS l JOIN acked AS a USING (subscription, look)
			 WHERE l.seq <= a.seq AND l.channel IS NOT NULL;

		-- what was read, and what of it in one go; gap rows are another matter
		CREATE TEMP VIEW read AS
			SELECT * FROM (
				SELECT subscription, 0 AS look, n, seq, channel, mark, item, version, bytes FROM taken
				UNION ALL
				SELECT subscription, look, n, seq, channel, mark, item, version, bytes FROM looked) AS r
			 WHERE channel IS NOT NULL});

	$none->('what reported its commit is there', q{SELECT * FROM reported EXCEPT SELECT * FROM done});
	$none->(
		'each event was taken', q{
		SELECT r.subscription, l.* FROM reads AS r JOIN ledger AS l USING (channel)
		 WHERE r.how = 'take'
		   AND NOT EXISTS (SELECT FROM taken AS t
		                    WHERE (t.subscription, t.channel, t.mark) = (r.subscription, l.channel, l.mark))});
	$none->(
		'none was taken twice', q{
		SELECT subscription, mark, count(*), min(seq), max(seq) FROM read WHERE look = 0 GROUP BY 1, 2 HAVING count(*) > 1});
	$none->(
		'each event was seen by those who look', q{
		SELECT r.subscription, l.* FROM reads AS r JOIN ledger AS l USING (channel)
		 WHERE r.how = 'look'
		   AND NOT EXISTS (SELECT FROM looked AS t
		                    WHERE (t.subscription, t.channel, t.mark) = (r.subscription, l.channel, l.mark))})
	  if $params{looked} // 1;
	$none->(
		'what was acked never comes again', q{
		SELECT l.subscription, l.look, l.seq, l.mark, c.look, c.seq
		  FROM looked AS l JOIN consumed AS c USING (subscription, mark) WHERE l.look > c.look});
	$none->(
		'what comes is behind what was acked', q{
		SELECT * FROM (
			SELECT subscription, look, l.first,
			       max(a.seq) OVER (PARTITION BY subscription ORDER BY look
			                        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
			  FROM (SELECT subscription, look, min(seq) AS first FROM read WHERE look > 0 GROUP BY 1, 2) AS l
			  LEFT JOIN acked AS a USING (subscription, look)) AS w
		 WHERE first <= before});
	$none->(
		'nothing comes that was not committed', q{
		SELECT r.* FROM read AS r
		 WHERE NOT EXISTS (SELECT FROM ledger AS l WHERE (l.channel, l.mark) = (r.channel, r.mark))});
	$none->(
		'payloads are whole', q{
		SELECT r.subscription, r.seq, r.mark, r.bytes, l.bytes FROM read AS r JOIN ledger AS l USING (mark)
		 WHERE r.bytes <> l.bytes});
	$none->(
		'no gap row', q{
		SELECT subscription, seq, channel, lost FROM taken WHERE channel IS NULL OR lost IS NOT NULL
		UNION ALL
		SELECT subscription, seq, channel, lost FROM looked WHERE channel IS NULL OR lost IS NOT NULL});
	$none->(
		'the order is that of seq', q{
		SELECT * FROM (SELECT *, lag(seq) OVER (PARTITION BY subscription, look ORDER BY n) AS before FROM read) AS w
		 WHERE seq <= before});
	$none->(
		'no seq names two events', q{
		SELECT seq, min(mark), max(mark) FROM read GROUP BY 1 HAVING count(DISTINCT mark) > 1});
	$none->(
		'an event that was consumed has one seq', q{
		SELECT mark, min(seq), max(seq) FROM (SELECT mark, seq FROM read WHERE look = 0 UNION ALL SELECT mark, seq FROM consumed) AS w
		 GROUP BY 1 HAVING count(DISTINCT seq) > 1});
	$none->(
		'versions of a row come in order', q{
		SELECT * FROM (
			SELECT *, lag(version) OVER (PARTITION BY subscription, look, item ORDER BY n) AS before
			  FROM read WHERE item IS NOT NULL) AS w
		 WHERE version <= before});
	$none->(
		'what a writer sends on a channel comes in order', q{
		SELECT * FROM (
			SELECT r.subscription, r.seq, r.mark, r.channel, w.place,
			       lag(w.place) OVER (PARTITION BY r.subscription, r.look, r.channel, w.place[1] ORDER BY r.n) AS before
			  FROM read AS r CROSS JOIN LATERAL (SELECT string_to_array(r.mark, ':')::int[]) AS w(place)
			 WHERE r.mark ~ '^\d+:\d+:\d+$') AS w
		 WHERE place <= before});
	$none->(
		'and the view says that none is lost', q{
		SELECT subscription, pending, lost FROM pgpubsub.stat_subscriptions
		 WHERE datname = current_database() AND (pending, lost) <> (0, 0)});

	my ($counts) = $client->run(
		q{
		SELECT (SELECT count(*) FROM done), (SELECT count(*) FROM ledger),
		       (SELECT count(*) FROM taken), (SELECT count(*) FROM looked), (SELECT count(*) FROM consumed)});
	$client->quit;
	cmp_ok($counts->[1], '>', 0, 'there are events');
	note sprintf '%d transactions, %d reported, %d refused, %d events; %d taken, %d looked at, %d of them acked',
	  $counts->[0], $self->transactions, $self->refused, @$counts[ 1 .. 4 ];
	diag "DURABLE_SEED=$self->{seed}, files in $self->{dir}" unless Test::More->builder->is_passing;
	return $counts->[1];
}

# The server log tells of nothing but what a test with this load brings about, and
# what is allowed besides.
sub log_is_sound
{
	my ($self, $node, @allowed) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	log_is_clean(
		$node, @allowed,
		qr/WARNING:  pgpubsub queue is (?:more than half )?full/,
		qr/WARNING:  pgpubsub log of durable channels in database "[^"]*" is full/,
		qr/ERROR:  (?:queue|log of durable channels) is full/,
		qr/ERROR:  subscription "[^"]*" is being read/,
		qr/ERROR:  (?:the relay of this database does not answer|this database has no relay)/,
		qr/FATAL:  connection to client lost/,

		# a page of the backup may be newer than what is replayed at first
		qr/startup WARNING:  xlog min recovery request \S+ is past current point/,
		qr/autovacuum worker (?:WARNING|ERROR|FATAL):  /,
		qr/WARNING:  there is no transaction in progress/,
		qr/WARNING:  terminating connection because of (?:crash of another server process|immediate shutdown command)/);
	return;
}

1;
