# A bridge of the tests.

package PgPubsub::Bridge;

use strict;
use warnings;

use Exporter 'import';
use IO::Socket::INET;
use JSON::PP;
use PgPubsub::Client;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  bridge_says
  start_bridge
  amqp
);

# The program; make test builds it.
my $program = ($ENV{PGPUBSUB_PROGRAMS} // 'programs') . '/pgpubsub-bridge';

plan skip_all => "$program is not there: make programs builds it" unless -x $program;

my @bridges;

# What it says, and whether it has succeeded.
sub bridge_says
{
	my (@args) = @_;
	my $out = '';
	my $good = IPC::Run::run([ $program, @args ], '<', \undef, '>&', \$out);

	return ($good ? '' : 'failed: ') . $out;
}

# Start a bridge from the server's subscription to that URL, and return when it is
# ready.  options: further ones; ready => 0 does not wait; subscription, user, db; port:
# the server's, on loopback, where a proxy may be.
sub start_bridge
{
	my ($node, $url, %params) = @_;
	my $self = bless {
		port => PostgreSQL::Test::Cluster::get_free_port(),
		out  => "$PostgreSQL::Test::Utils::log_path/" . $node->name . '_bridge_' . @bridges . '.log',
	  },
	  __PACKAGE__;
	my $connection = $node->connstr($params{db} // 'postgres');

	$connection =~ s/port=\d+ host=\S+/port=$params{port} host=127.0.0.1/ if $params{port};
	$connection .= " user=$params{user}" if $params{user};
	$self->{command} = [
		$program, '--dbname', $connection, '--subscription', $params{subscription} // 's',
		'--to', $url, '--metrics', "127.0.0.1:$self->{port}", @{ $params{options} // [] }
	];
	push @bridges, $self;
	return $self->start(%params);
}

# Start it, once more perhaps.
sub start
{
	my ($self, %params) = @_;
	my $offset = length $self->log;

	$self->{pid} = fork;
	die "could not fork: $!" unless defined $self->{pid};
	if (!$self->{pid})
	{
		open STDOUT, '>>', $self->{out} or die "$self->{out}: $!";
		open STDERR, '>&', \*STDOUT or die "could not redirect: $!";
		exec @{ $self->{command} } or die "could not run $program: $!";
	}
	$self->wait_for_log(qr/is ready/, $offset) if $params{ready} // 1;
	return $self;
}

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
			return 1 if substr($self->log, $offset // 0) =~ $pattern;
			die "the bridge has ended:\n" . $self->log if $self->has_ended;
			return 0;
		},
		"the bridge's log has $pattern") or die $self->log;
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

# Wait until it ends by itself; its exit status.
sub wait_for_end
{
	my ($self) = @_;

	wait_until(sub { $self->has_ended }, 'the end of a bridge') or die $self->log;
	return $self->{status} >> 8;
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

# What it answers to GET of that path: status and body.
sub get
{
	my ($self, $path) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port}, Timeout => 10)
	  or return ('', '');

	print $socket "GET $path HTTP/1.1\r\nHost: localhost\r\n\r\n";
	$socket->flush;
	my $answer = do { local $/; <$socket> } // '';
	return $answer =~ m{^HTTP/1.1 (\d+).*?\r\n\r\n(.*)}s ? ($1, $2) : ('', $answer);
}

# A number of its metrics.
sub metric
{
	my ($self, $name) = @_;
	my (undef, $text) = $self->get('/metrics');

	return $text =~ /^pgpubsub_bridge_\Q$name\E (\S+)$/m ? $1 : undef;
}

# Wait until a number of its metrics is at least that.
sub wait_for_metric
{
	my ($self, $name, $least) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return wait_until(sub { ($self->metric($name) // 0) >= $least }, "$name is $least") || die $self->log;
}

END
{
	# (the exit status of the test stays)
	local $?;

	$_->stop('KILL') foreach @bridges;
}

# What test/brokers/amqp.py does at the broker; messages as references.
sub amqp
{
	my ($broker, @args) = @_;
	my ($out, $error) = ('', '');

	plan skip_all => "no Python with pika: $error"
	  unless IPC::Run::run([qw(/usr/bin/python3 -c), 'import pika'], '>', \$out, '2>', \$error);
	IPC::Run::run([ '/usr/bin/python3', 'test/brokers/amqp.py', $broker->port, @args ], '<', \undef, '>', \$out, '2>', \$error)
	  or die "amqp.py @args: $error";
	return map { decode_json($_) } split /\n/, $out;
}

1;
