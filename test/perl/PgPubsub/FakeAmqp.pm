# A broker that speaks just enough AMQP 0-9-1 to take what is published, and that
# answers as a test wants it: late, in another order, with basic.nack, basic.return,
# connection.blocked, or nonsense.  A real one does so only by chance.

package PgPubsub::FakeAmqp;

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my @brokers;

# Start one.  on_message is called in a process of its own, with the broker, the
# connection, the delivery tag and the body of each message; on_tick, with the broker
# and the connection, some times a second.  What they do is up to mode(), which the
# test may change.
sub new
{
	my ($class, %params) = @_;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $dir  = PostgreSQL::Test::Utils::tempdir();
	my $self = bless { %params, port => $port, dir => $dir, pid => 0 }, $class;
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 5, ReuseAddr => 1) or die "fake: $!";

	$self->set_mode($params{mode} // '');
	append_to_file("$dir/received", '');
	$self->{pid} = fork // die "could not fork: $!";
	if (!$self->{pid})
	{
		local $SIG{PIPE} = 'IGNORE';
		while (my $socket = $listener->accept)
		{
			eval { $self->serve({ socket => $socket, in => '', tag => 0 }) };
			append_to_file("$dir/log", "$@");
			close $socket;
		}
	}
	push @brokers, $self;
	return $self;
}

sub port { my ($self) = @_; return $self->{port}; }

# What the test wants just now.
sub set_mode
{
	my ($self, $mode) = @_;

	open my $out, '>', "$self->{dir}/mode.new" or die $!;
	print $out $mode;
	close $out;
	rename "$self->{dir}/mode.new", "$self->{dir}/mode" or die $!;
	return;
}

sub mode { my ($self) = @_; return slurp_file("$self->{dir}/mode"); }

# What it has to say: connections that were closed as they should be, and errors.
sub log { my ($self) = @_; return -e "$self->{dir}/log" ? slurp_file("$self->{dir}/log") : ''; }

# The bodies that have come, in their order.
sub received { my ($self) = @_; return split /\n/, slurp_file("$self->{dir}/received"); }

END
{
	local $?;

	foreach my $broker (grep { $_->{pid} } @brokers)
	{
		kill 'KILL', $broker->{pid};
		waitpid $broker->{pid}, 0;
	}
}

sub put
{
	my ($connection, $bytes) = @_;

	syswrite($connection->{socket}, $bytes) // die "write: $!";
	return;
}

sub frame { my ($type, $channel, $body) = @_; return pack('C n N', $type, $channel, length $body) . $body . "\xCE"; }

# Send a method.
sub method
{
	my ($connection, $channel, $class, $method, $arguments) = @_;

	put($connection, frame(1, $channel, pack('n n', $class, $method) . ($arguments // '')));
	return;
}

sub ack  { my ($connection, $tag, $multiple) = @_; method($connection, 1, 60, 80, pack('Q> C', $tag, $multiple // 0)); return; }
sub nack { my ($connection, $tag, $multiple) = @_; method($connection, 1, 60, 120, pack('Q> C', $tag, $multiple // 0)); return; }

sub blocked   { my ($connection, $why) = @_; method($connection, 0, 10, 60, pack('C/a*', $why)); return; }
sub unblocked { my ($connection) = @_; method($connection, 0, 10, 61); return; }

sub close_channel
{
	my ($connection, $code, $text) = @_;

	method($connection, 1, 20, 40, pack('n C/a* n n', $code, $text, 60, 40));
	return;
}

# Send the last message back.
sub give_back
{
	my ($connection, $code, $text) = @_;

	method($connection, 1, 60, 50, pack('n C/a* C/a* C/a*', $code, $text, '', $connection->{key}));
	put($connection, frame(2, 1, $connection->{header}));
	put($connection, frame(3, 1, $connection->{body})) if length $connection->{body};
	return;
}

# Serve a connection until it ends.
sub serve
{
	my ($self, $connection) = @_;
	my $select = IO::Select->new($connection->{socket});
	my $greeted = 0;

	while (1)
	{
		if (!$select->can_read(0.1))
		{
			$self->{on_tick}->($self, $connection) if $self->{on_tick} && $connection->{open};
			next;
		}
		sysread $connection->{socket}, $connection->{in}, 65536, length $connection->{in} or return;
		if (!$greeted)
		{
			next if length $connection->{in} < 8;
			substr($connection->{in}, 0, 8) = '';
			$greeted = 1;
			method($connection, 0, 10, 10, pack('C C N N/a* N/a*', 0, 9, 0, 'PLAIN', 'en_US'));
		}
		while (length $connection->{in} >= 8)
		{
			my ($type, $channel, $length) = unpack 'C n N', $connection->{in};

			last if length $connection->{in} < $length + 8;
			my $body = substr $connection->{in}, 7, $length;
			substr($connection->{in}, 0, $length + 8) = '';
			$self->take($connection, $type, $body);
		}
	}
}

# A frame has come.
sub take
{
	my ($self, $connection, $type, $body) = @_;

	if ($type == 1)
	{
		my ($class, $method) = unpack 'n n', $body;
		my $what = "$class.$method";

		method($connection, 0, 10, 30, pack('n N n', 10, 131072, 0)) if $what eq '10.11';
		method($connection, 0, 10, 41, "\0") if $what eq '10.40';
		method($connection, 1, 20, 11, pack('N', 0)) if $what eq '20.10';
		if ($what eq '10.50')
		{
			append_to_file("$self->{dir}/log", "closed well\n");
			method($connection, 0, 10, 51);
		}
		if ($what eq '85.10')
		{
			method($connection, 1, 85, 11);
			$connection->{open} = 1;
		}
		(undef, undef, undef, undef, $connection->{key}) = unpack 'n n n C/a C/a', $body if $what eq '60.40';
	}
	elsif ($type == 2)
	{
		$connection->{header} = $body;
		$connection->{left}   = unpack 'x4 Q>', $body;
		$connection->{body}   = '';
		$self->message($connection) if $connection->{left} == 0;
	}
	elsif ($type == 3)
	{
		$connection->{body} .= $body;
		$connection->{left} -= length $body;
		$self->message($connection) if $connection->{left} == 0;
	}
	return;
}

# A message is whole.
sub message
{
	my ($self, $connection) = @_;

	append_to_file("$self->{dir}/received", "$connection->{body}\n");
	$self->{on_message}->($self, $connection, ++$connection->{tag}, $connection->{body});
	return;
}

1;
