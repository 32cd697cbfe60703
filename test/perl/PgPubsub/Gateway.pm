# A gateway of the tests, and a client that speaks the protocol message by
# message, to a gateway or to a server.

package PgPubsub::Gateway;

use strict;
use warnings;

use Exporter 'import';
use IO::Select;
use IO::Socket::UNIX;
use PgPubsub::Client;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = qw(
  prepare_server
  start_gateway
  raw_client
  raw_login
  message
  parse_message
  bind_message
  execute_message
  describe_message
  close_message
);

# The program; make test builds it.
my $program = ($ENV{PGPUBSUB_PROGRAMS} // 'programs') . '/pgpubsub-gateway';

plan skip_all => "$program is not there: make programs builds it" unless -x $program;

my @gateways;

# Give a server the extension, and a role "gateway" with the rights that doc/gateway.md
# names.  db: in another database than postgres; sql: what is to be done there besides;
# hba: who else than the gateway and the test is let in, and how, in place of everybody.
sub prepare_server
{
	my ($node, %params) = @_;

	$node->safe_psql($params{db} // 'postgres', q{
		CREATE EXTENSION pgpubsub;
		CREATE ROLE gateway LOGIN IN ROLE pg_monitor;
		GRANT USAGE ON SCHEMA pgpubsub TO gateway;
		GRANT EXECUTE ON FUNCTION pgpubsub.subscribe, pgpubsub.unsubscribe, pgpubsub.add_channels, pgpubsub.drop_channels,
			pgpubsub.poll, pgpubsub.publish(text, text) TO gateway;
		GRANT EXECUTE ON PROCEDURE pgpubsub.wait TO gateway;
	} . ($params{sql} // ''));
	return unless defined $params{hba};
	unlink $node->data_dir . '/pg_hba.conf';
	$node->append_conf('pg_hba.conf', 'local all gateway,' . getpwuid($>) . " trust\n$params{hba}");
	$node->reload;
	return;
}

# Start a gateway for the server, and return when it is ready.  options: further
# ones; ready => 0 does not wait; login => 0 insists on a proof; by: what runs the
# program.
sub start_gateway
{
	my ($node, %params) = @_;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $self = bless {
		host => $node->host,
		port => $port,
		out  => $params{log} // "$PostgreSQL::Test::Utils::log_path/"
		  . $node->name . "_gateway_$port.log",
	  },
	  __PACKAGE__;
	my $connection = $node->connstr($params{db} // 'postgres');

	$connection .= " user=$params{user}" if $params{user};
	$self->{pid} = fork;
	die "could not fork: $!" unless defined $self->{pid};
	if (!$self->{pid})
	{
		open STDOUT, '>>', $self->{out} or die "$self->{out}: $!";
		open STDERR, '>&', \*STDOUT or die "could not redirect: $!";
		exec @{ $params{by} // [] }, $program, '--dbname', $connection, '--socket-dir', $self->{host},
		  '--port', $port,
		  ($params{login} // 1) ? '--allow-unproven-login' : (),
		  @{ $params{options} // [] }
		  or die "could not run $program: $!";
	}
	push @gateways, $self;
	$self->wait_for_log(qr/is ready/) if $params{ready} // 1;
	return $self;
}

sub host { my ($self) = @_; return $self->{host}; }
sub port { my ($self) = @_; return $self->{port}; }

# What it has written so far.
sub log
{
	my ($self) = @_;
	return -e $self->{out} ? slurp_file($self->{out}) : '';
}

# Wait until it has written that, perhaps behind what was there before.
sub wait_for_log
{
	my ($self, $pattern, $offset) = @_;

	wait_until(
		sub {
			die "the gateway has ended:\n" . $self->log if $self->has_ended;
			return substr($self->log, $offset // 0) =~ $pattern;
		},
		"the gateway's log has $pattern") or die $self->log;
	return;
}

sub has_ended
{
	my ($self) = @_;

	return 1 if !$self->{pid};
	return 0 if waitpid($self->{pid}, 1) == 0;
	$self->{status} = $?;
	$self->{pid}    = 0;
	return 1;
}

# End it with SIGTERM, and return its exit status.
sub stop
{
	my ($self, $signal) = @_;

	return $self->{status} if !$self->{pid};
	kill $signal // 'TERM', $self->{pid};
	waitpid $self->{pid}, 0;
	$self->{pid} = 0;
	return $self->{status} = $?;
}

# The connection string of a role.
sub connstr
{
	my ($self, $user, $db) = @_;

	return "host=$self->{host} port=$self->{port} user=$user dbname=" . ($db // 'postgres');
}

END
{
	# (the exit status of the test stays)
	local $?;

	$_->stop foreach @gateways;
}

# A message of that type; a startup packet has type ''.
sub message
{
	my ($type, $body) = @_;

	return $type . pack('N', length($body) + 4) . $body;
}

sub parse_message
{
	my ($name, $sql, @types) = @_;

	return message('P', "$name\0$sql\0" . pack('n N*', scalar @types, @types));
}

# values: text, or undef; formats: of the results.
sub bind_message
{
	my ($portal, $statement, $values, $formats) = @_;
	my $body = "$portal\0$statement\0" . pack('n n', 0, scalar @{ $values // [] });

	$body .= defined $_ ? pack('N/a*', $_) : pack('N', 0xFFFFFFFF) foreach @{ $values // [] };
	$body .= pack 'n n*', scalar @{ $formats // [] }, @{ $formats // [] };
	return message('B', $body);
}

sub execute_message  { my ($portal, $rows) = @_; return message('E', "$portal\0" . pack('N', $rows // 0)); }
sub describe_message { my ($kind, $name) = @_; return message('D', "$kind$name\0"); }
sub close_message    { my ($kind, $name) = @_; return message('C', "$kind$name\0"); }

# A connection to whatever has a host and a port; nothing was said yet.
sub raw_client
{
	my ($to) = @_;
	my $path = $to->host . '/.s.PGSQL.' . $to->port;
	my $socket = IO::Socket::UNIX->new(Peer => $path) or die "could not connect to $path: $!";

	return bless { socket => $socket, buffer => '' }, 'PgPubsub::RawClient';
}

# A connection that has logged in without a password; the messages of the login
# are in {login}.
sub raw_login
{
	my ($to, %params) = @_;
	my $client = raw_client($to);

	$params{user}     //= PostgreSQL::Test::Utils->can('get_user_name') ? '' : '';
	$params{user}     = $ENV{PGUSER} // getpwuid($>) if $params{user} eq '';
	$params{database} //= 'postgres';
	$client->put(message('', pack('N', 196608) . join("\0", %params) . "\0\0"));
	$client->{login} = [ $client->read_until('Z') ];
	foreach my $m (@{ $client->{login} })
	{
		($client->{pid}, $client->{key}) = unpack 'NN', $m->[1] if $m->[0] eq 'K';
	}
	return $client;
}

package PgPubsub::RawClient;

use strict;
use warnings;
use Time::HiRes qw(time);

sub put
{
	my ($self, $bytes) = @_;
	local $SIG{PIPE} = 'IGNORE';

	while (length $bytes)
	{
		my $sent = syswrite $self->{socket}, $bytes;

		last unless defined $sent;
		$bytes = substr $bytes, $sent;
	}
	return;
}

# The next message, [type, body]; undef at the end of the connection.  Dies if
# none comes in time, or returns '' if a timeout was given and none has come.
sub next_message
{
	my ($self, $timeout) = @_;
	my $deadline = time + ($timeout // $PostgreSQL::Test::Utils::timeout_default);

	while (1)
	{
		if (length $self->{buffer} >= 5)
		{
			my ($type, $length) = unpack 'aN', $self->{buffer};

			if (length $self->{buffer} > $length)
			{
				my $body = substr $self->{buffer}, 5, $length - 4;

				$self->{buffer} = substr $self->{buffer}, $length + 1;
				return [ $type, $body ];
			}
		}
		my $left = $deadline - time;
		if ($left < 0 || !IO::Select->new($self->{socket})->can_read($left))
		{
			return '' if defined $timeout;
			die 'no message has come in time';
		}
		my $got = sysread $self->{socket}, $self->{buffer}, 65536, length $self->{buffer};
		return undef unless $got;
	}
}

# All messages up to one of that type, or to the end of the connection.
sub read_until
{
	my ($self, $type) = @_;
	my @messages;

	while (my $message = $self->next_message)
	{
		push @messages, $message;
		last if $message->[0] eq $type;
	}
	return @messages;
}

# Send the bytes, and read up to that many ReadyForQuery.
sub talk
{
	my ($self, $bytes, $count) = @_;
	my @messages;

	$self->put($bytes);
	push @messages, $self->read_until('Z') foreach 1 .. ($count // 1);
	return @messages;
}

sub query
{
	my ($self, $sql) = @_;

	return $self->talk(PgPubsub::Gateway::message('Q', "$sql\0"));
}

# What the messages say, one line each, without what differs between a server
# and a gateway: pids, and where in the server an error comes from.
sub show
{
	my ($self, @messages) = @_;

	return join "\n", map { $self->show_message(@$_) } @messages;
}

sub show_message
{
	my ($self, $type, $body) = @_;
	my $own = $self->{pid} // 0;

	if ($type eq 'E' || $type eq 'N')
	{
		my %field = map { substr($_, 0, 1) => substr($_, 1) } grep { length } split /\0/, $body;

		return "$type $field{S} $field{C} $field{M}" . (defined $field{P} ? " at $field{P}" : '');
	}
	if ($type eq 'A')
	{
		my ($pid, $channel, $payload) = unpack 'N Z* Z*', $body;

		return 'A ' . ($pid == $own ? 'own' : 'other') . " $channel $payload";
	}
	if ($type eq 'D')
	{
		my ($count, $rest) = unpack 'n a*', $body;
		my @values;

		for (1 .. $count)
		{
			(my $length, $rest) = unpack 'N a*', $rest;
			push @values, $length == 0xFFFFFFFF ? 'NULL' : substr($rest, 0, $length);
			$rest = substr $rest, $length if $length != 0xFFFFFFFF;
		}
		return 'D ' . join ' ', map { $_ eq $own || $_ eq pack('N', $own) ? 'own pid' : $_ } @values;
	}
	if ($type eq 'T')
	{
		my ($count, $rest) = unpack 'n a*', $body;
		my @columns;

		for (1 .. $count)
		{
			(my ($name, undef, undef, $oid, $size, undef, $format), $rest) =
			  unpack 'Z* N n N n N n a*', $rest;
			push @columns, "$name:$oid:$size:$format";
		}
		return 'T ' . join ' ', @columns;
	}
	if ($type eq 't')
	{
		my (undef, @types) = unpack 'n N*', $body;
		return "t @types";
	}
	$body =~ s/\0$//;
	$body =~ s/\0/=/g;
	return "$type $body";
}

1;
