# A client of the tests that speaks the protocol itself: it can send a
# statement and look at the answer later, keeps SQLSTATE, message, detail and
# hint of an error apart, and reads hundreds of thousands of rows or
# notifications without a psql in between.

package PgPubsub::Client;

use strict;
use warnings;

use Exporter 'import';
use IO::Select;
use IO::Socket::UNIX;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = qw(
  client
  wait_until
);

# A connected client.  user, application_name: of the session.
sub client
{
	my ($node, $db, %params) = @_;
	my $path = $node->host . '/.s.PGSQL.' . $node->port;
	my $self = bless {
		buffer        => '',
		notifications => [],
		rows          => [],
		error         => undef,
		busy          => 1
	  },
	  __PACKAGE__;

	$self->{socket} = IO::Socket::UNIX->new(Peer => $path)
	  or die "could not connect to $path: $!";
	my $startup = join "\0",
	  'user',             $params{user} // $ENV{PGUSER} // scalar(getpwuid($>)),
	  'database',         $db           // 'postgres',
	  'application_name', $params{application_name} // 'client',
	  'client_encoding',  'UTF8',
	  "\0";
	$self->put(pack('NN', length($startup) + 8, 196608) . $startup);
	$self->finish;
	die "could not log in: $self->{error}{M}" if $self->{error};
	return $self;
}

sub put
{
	my ($self, $bytes) = @_;
	local $SIG{PIPE} = 'IGNORE';

	while (length $bytes)
	{
		my $written = syswrite($self->{socket}, $bytes);

		return unless defined $written;
		$bytes = substr($bytes, $written);
	}
}

# Begin a query.
sub begin
{
	my ($self, $sql) = @_;

	die "client is busy" if $self->{busy};
	utf8::encode($sql) if utf8::is_utf8($sql);
	$self->{busy}  = 1;
	$self->{rows}  = [];
	$self->{error} = undef;
	$self->{began} = time;
	$self->put('Q' . pack('N', length($sql) + 5) . $sql . "\0");
	return $self;
}

# Take what has come, waiting at most so long for something to come; false if
# nothing has.
sub pump
{
	my ($self, $timeout) = @_;

	return 0
	  if $self->{closed} || !IO::Select->new($self->{socket})->can_read($timeout);
	my $got =
	  sysread($self->{socket}, $self->{buffer}, 1 << 18, length $self->{buffer});
	if (!$got)
	{
		$self->{closed} = 1;
		$self->{busy}   = 0;
		$self->{error} //= { C => '', M => 'connection closed' };
		return 1;
	}
	$self->take_messages;
	return 1;
}

sub take_messages
{
	my ($self) = @_;
	my $at = 0;

	while (length($self->{buffer}) - $at >= 5)
	{
		my ($type, $len) = unpack "\@$at aN", $self->{buffer};
		my ($start, $size) = ($at + 5, $len - 4);

		last if length($self->{buffer}) - $start < $size;
		$at = $start + $size;
		if ($type eq 'D')
		{
			my ($count) = unpack "\@$start n", $self->{buffer};
			my $pos = $start + 2;
			my @row;

			for (1 .. $count)
			{
				my ($bytes) = unpack "\@$pos N", $self->{buffer};

				$pos += 4;
				if ($bytes == 0xFFFFFFFF)
				{
					push @row, undef;
					next;
				}
				push @row, substr($self->{buffer}, $pos, $bytes);
				$pos += $bytes;
			}
			push @{ $self->{rows} }, \@row;
		}
		elsif ($type eq 'A')
		{
			push @{ $self->{notifications} },
			  [ unpack "\@$start N Z* Z*", $self->{buffer} ];
		}
		elsif ($type eq 'E')
		{
			my $body = substr($self->{buffer}, $start, $size);

			$self->{error} =
			  { map { substr($_, 0, 1) => substr($_, 1) } grep { length }
				  split /\0/, $body };

			# nothing comes after that
			$self->{closed} = 1 if $self->{error}{V} =~ /FATAL|PANIC/;
			$self->{busy} = 0 if $self->{closed};
		}
		elsif ($type eq 'K')
		{
			($self->{pid}) = unpack "\@$start N", $self->{buffer};
		}
		elsif ($type eq 'Z')
		{
			$self->{busy}  = 0;
			$self->{ended} = time;
		}
	}
	$self->{buffer} = substr($self->{buffer}, $at);
}

# Wait for the end of the query; returns the client.
sub finish
{
	my ($self) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while ($self->{busy})
	{
		$self->pump(1);
		die "query has not ended in time" if $self->{busy} && time > $deadline;
	}
	return $self;
}

# Has the query ended?
sub done
{
	my ($self) = @_;

	1 while $self->{busy} && $self->pump(0);
	return !$self->{busy};
}

# How long the query took, in seconds.
sub duration
{
	my ($self) = @_;

	return $self->{ended} - $self->{began};
}

# Run a query; its rows, each a reference.  An error is left in {error}.
sub query
{
	my ($self, $sql) = @_;

	$self->begin($sql)->finish;
	return @{ $self->{rows} };
}

# Run a query that must not fail; its rows.
sub run
{
	my ($self, $sql) = @_;
	my @rows = $self->query($sql);

	die "$self->{error}{M} ($self->{error}{C}) in: $sql" if $self->{error};
	return @rows;
}

# Run a query that must not fail; the first value of its first row.
sub value
{
	my ($self, $sql) = @_;

	my ($row) = $self->run($sql);

	return $row ? $row->[0] : undef;
}

# Publish one event.
sub publish
{
	my ($self, $channel, $payload) = @_;

	$self->run("SELECT pgpubsub.publish('$channel', '$payload')");
	return;
}

# Publish so many events of a kilobyte in one transaction: numbers, padded with
# spaces.
sub publish_series
{
	my ($self, $channel, $from, $to) = @_;

	$self->run("SELECT count(pgpubsub.publish('$channel', i || repeat(' ', 1000)))"
		  . " FROM generate_series($from, $to) AS i");
	return;
}

# Notify so many of those: a NOTIFY does not wait for room in the queue.
sub notify_series
{
	my ($self, $channel, $from, $to) = @_;

	$self->run("SELECT count(pg_notify('$channel', i || repeat(' ', 1000)))"
		  . " FROM generate_series($from, $to) AS i");
	return;
}

# The value of an expression over the database's row of stat_queue.
sub queue
{
	my ($self, $expression) = @_;

	return $self->value("SELECT $expression FROM pgpubsub.stat_queue"
		  . ' WHERE datname = current_database()');
}

# Wait until a condition over that row is true; false if that takes too long.
sub wait_for_queue
{
	my ($self, $condition) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return wait_until(
		sub { ($self->queue($condition) // '') eq 't' },
		"queue: $condition");
}

# The value of an expression over the subscription's row of stat_subscriptions.
sub subscription
{
	my ($self, $name, $expression) = @_;

	return $self->value("SELECT $expression FROM pgpubsub.stat_subscriptions"
		  . " WHERE subscription = '$name' AND datname = current_database()");
}

# Poll the subscription until it has given that many rows: [channel, payload, pid
# of the publisher] each, or ['gap', lost] for a gap row.  Ends with what it has
# when nothing comes for 30 s.
sub take
{
	my ($self, $subscription, $count) = @_;
	my @rows;

	while (@rows < $count)
	{
		my @new = $self->run(
			"SELECT coalesce(channel, 'gap'), coalesce(payload, lost::text), pid"
			  . " FROM pgpubsub.poll('$subscription', 10000, '30s')");

		last unless @new;
		push @rows, @new;
	}
	return @rows;
}

# Return when the relay has queued all that was committed before.  That a new
# subscription waits for the relay sees to it; the session keeps it, so that it
# can be called again.
sub settle
{
	my ($self) = @_;

	$self->run(
		"SELECT pgpubsub.subscribe('settle', '{settle}', temporary => true)");
	return;
}

# SQLSTATE of the error, or ''.
sub sqlstate
{
	my ($self) = @_;

	return $self->{error} ? $self->{error}{C} : '';
}

# The notifications that have come: [pid, channel, payload] each.
sub notifications
{
	my ($self) = @_;
	my @found = @{ $self->{notifications} };

	$self->{notifications} = [];
	return @found;
}

# Wait for that many notifications.
sub wait_for_notifications
{
	my ($self, $count) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while (@{ $self->{notifications} } < $count)
	{
		last if time > $deadline || $self->{closed};
		$self->pump(1);
	}
	return $self->notifications;
}

sub quit
{
	my ($self) = @_;

	$self->put('X' . pack('N', 4)) unless $self->{closed};
	close $self->{socket};
	$self->{closed} = 1;
}

# Repeat the look until it is true; its value, false if that takes too long.
sub wait_until
{
	my ($look, $name) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	while (time < $deadline)
	{
		my $found = $look->();

		return $found if $found;
		select(undef, undef, undef, 0.01);    # between two looks
	}
	fail('waited for: ' . ($name // 'a state'));
	return 0;
}

1;
