# The network between two programs of a test: a proxy on loopback, which holds bytes
# back, cuts connections, or garbles what the far side says.

package PgPubsub::Proxy;

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my @proxies;

# A proxy to that port of loopback.
sub new
{
	my ($class, $to) = @_;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 20, ReuseAddr => 1) or die "proxy: $!";

	pipe my $commands, my $write or die $!;
	$write->autoflush(1);
	my $pid = fork;
	die "could not fork: $!" unless defined $pid;
	if (!$pid)
	{
		close $write;
		forward($listener, $commands, $to);
		require POSIX;
		POSIX::_exit(0);
	}
	my $self = bless { port => $port, pid => $pid, write => $write }, $class;
	push @proxies, $self;
	return $self;
}

sub port { my ($self) = @_; return $self->{port}; }

# From now on: pass, hold (bytes wait), cut (each connection that there is ends, and new
# ones at once), or garble (each 20th byte or so from the far side is another one).
sub mode
{
	my ($self, $mode) = @_;

	print { $self->{write} } "$mode\n";
	return;
}

END
{
	local $?;

	foreach my $proxy (@proxies)
	{
		kill 'KILL', $proxy->{pid};
		waitpid $proxy->{pid}, 0;
	}
}

# The child: forward until nobody has commands any more.
sub forward
{
	my ($listener, $commands, $to) = @_;
	my $mode = 'pass';
	my %peer;
	my %far;
	my $end = sub {
		foreach my $socket (@_)
		{
			my $other = delete $peer{$socket} or next;

			delete $peer{$other};
			close $_ foreach $socket, $other;
		}
	};

	local $SIG{PIPE} = 'IGNORE';
	while (1)
	{
		my @sockets = $mode eq 'hold' ? () : grep { defined fileno $_ } map { @$_ } values %far;
		foreach my $ready (IO::Select->new($listener, $commands, @sockets)->can_read)
		{
			if ($ready == $commands)
			{
				sysread $commands, my $lines, 1000 or return;
				foreach my $line (split /\n/, $lines)
				{
					$mode = $line;
					next if $mode ne 'cut';
					close $_ foreach map { @$_ } values %far;
					%far = %peer = ();
				}
				last;
			}
			elsif ($ready == $listener)
			{
				my $near = $listener->accept or next;
				my $far = $mode eq 'cut' ? undef : IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $to);

				if (!$far) { close $near; next; }
				@peer{ $near, $far } = ($far, $near);
				$far{$near} = [ $near, $far ];
			}
			elsif ($peer{$ready})
			{
				my $other = $peer{$ready};

				if (!sysread $ready, my $bytes, 65536)
				{
					delete @far{ $ready, $other };
					$end->($ready);
				}
				else
				{
					if ($mode eq 'garble' && !$far{$ready})
					{
						for my $i (0 .. length($bytes) - 1)
						{
							substr($bytes, $i, 1) = chr int rand 256 if rand() < 0.05;
						}
					}
					while (length $bytes)
					{
						my $sent = syswrite $other, $bytes or last;

						substr($bytes, 0, $sent) = '';
					}
				}
			}
		}
	}
}

1;
