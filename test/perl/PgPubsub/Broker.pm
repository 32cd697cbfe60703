# Brokers of the tests, each private to its test: on loopback, with a folder of its
# own, as the user that runs the test.

package PgPubsub::Broker;

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(basename);
use IO::Socket::INET;
use POSIX ();
use PgPubsub::Client;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  start_rabbitmq
  start_nats
  start_redis
  start_kafka
  start_tls
);

# Programs that Debian puts where only root looks.
$ENV{PATH} .= ':/usr/sbin';

my @brokers;

# A broker of that kind, that is not running; port: where it will listen.
sub new_broker
{
	my ($kind, %params) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();

	my $self = bless {
		kind => $kind,
		dir  => $dir,
		port => PostgreSQL::Test::Cluster::get_free_port(),
		# (other tests, which run at the same time, have brokers of that kind, too)
		out  => "$PostgreSQL::Test::Utils::log_path/" . basename($0, '.pl') . "_${kind}_" . @brokers . '.log',
		%params
	  },
	  __PACKAGE__;

	push @brokers, $self;
	return $self;
}

sub port { my ($self) = @_; return $self->{port}; }
sub dir  { my ($self) = @_; return $self->{dir}; }
sub log  { my ($self) = @_; return -e $self->{out} ? slurp_file($self->{out}) : ''; }

# Run the command in a process of its own; its pid.
sub run
{
	my ($self, @command) = @_;
	my $pid = fork;

	die "could not fork: $!" unless defined $pid;
	if (!$pid)
	{
		# a session of its own, so that all that it starts can be ended together
		POSIX::setsid();
		open STDIN,  '<',  '/dev/null' or die $!;
		open STDOUT, '>>', $self->{out} or die "$self->{out}: $!";
		open STDERR, '>&', \*STDOUT or die "could not redirect: $!";
		# (which ends with this test, even if that is killed)
		exec qw(setpriv --pdeathsig KILL --), @command or die "could not run $command[0]: $!";
	}
	return $pid;
}

# Start it, once more perhaps, and return when it takes connections.
sub start
{
	my ($self) = @_;
	local @ENV{ keys %{ $self->{env} // {} } } = values %{ $self->{env} // {} };

	$self->{pid} = $self->run(@{ $self->{command} });
	wait_until(
		sub {
			if (waitpid($self->{pid}, 1) != 0)
			{
				$self->{pid} = 0;
				die "the broker has ended:\n" . $self->log;
			}
			return $self->{is_up}->($self);
		},
		"a $self->{kind} that is up") or die $self->log;
	return $self;
}

# Does somebody listen at that port?
sub listens
{
	my ($port) = @_;

	return defined IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 5);
}

# End it with that signal, with all processes that it has started.
sub stop
{
	my ($self, $signal) = @_;
	local ($?, $!);

	return unless $self->{pid};
	kill $signal // 'TERM', -$self->{pid};
	kill 'CONT', -$self->{pid};
	waitpid $self->{pid}, 0;
	$self->{pid} = 0;
	return;
}

sub kill9   { my ($self) = @_; $self->stop('KILL'); return; }
sub freeze  { my ($self) = @_; kill 'STOP', -$self->{pid}; return; }
sub go_on   { my ($self) = @_; kill 'CONT', -$self->{pid}; return; }

END
{
	local $?;

	foreach my $broker (@brokers)
	{
		$broker->{pid} && $broker->stop('KILL');
		$broker->{at_end}->($broker) if $broker->{at_end};
	}
}

# RabbitMQ.  conf: lines of rabbitmq.conf.
sub start_rabbitmq
{
	my (%params) = @_;
	my $server = '/usr/lib/rabbitmq/bin/rabbitmq-server';

	plan skip_all => 'no rabbitmq-server' unless -x $server;
	my $self = new_broker('rabbitmq');
	my ($dir, $port) = ($self->dir, $self->port);
	my $epmd = PostgreSQL::Test::Cluster::get_free_port();

	append_to_file("$dir/rabbitmq.conf", "listeners.tcp.1 = 127.0.0.1:$port\nlog.console = true\nlog.file = false\n" . ($params{conf} // ''));
	append_to_file("$dir/enabled_plugins", "[].\n");
	$self->{env} = {
		HOME                          => $dir,
		ERL_EPMD_PORT                 => $epmd,
		ERL_EPMD_ADDRESS              => '127.0.0.1',
		RABBITMQ_NODENAME             => "pgpubsub$port\@localhost",
		RABBITMQ_DIST_PORT            => PostgreSQL::Test::Cluster::get_free_port(),
		RABBITMQ_MNESIA_BASE          => "$dir/mnesia",
		RABBITMQ_LOG_BASE             => "$dir/log",
		RABBITMQ_CONFIG_FILE          => "$dir/rabbitmq.conf",
		RABBITMQ_CONF_ENV_FILE        => "$dir/none.conf",
		RABBITMQ_ENABLED_PLUGINS_FILE => "$dir/enabled_plugins",
		RABBITMQ_PID_FILE             => "$dir/pid",
		RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS => '+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none',
		ERL_CRASH_DUMP                => "$dir/crash.dump",
	};
	$self->{command} = [$server];
	$self->{is_up} = sub { return listens($port) };

	# it starts a daemon that tells where its nodes are, and does not end as long as it
	# knows one
	$self->{at_end} = sub {
		local @ENV{qw(ERL_EPMD_PORT ERL_EPMD_ADDRESS)} = ($epmd, '127.0.0.1');
		wait_until(sub { system("epmd -kill >>$self->{out} 2>&1") == 0 }, 'the end of epmd');
	};
	return $self->start;
}

# A command of rabbitmqctl; what it has written.
sub ctl
{
	my ($self, @args) = @_;
	local @ENV{ keys %{ $self->{env} } } = values %{ $self->{env} };
	my ($out, $error) = ('', '');

	IPC::Run::run([ '/usr/lib/rabbitmq/bin/rabbitmqctl', '-q', @args ], '<', \undef, '>', \$out, '2>', \$error)
	  or die "rabbitmqctl @args: $out$error";
	return $out;
}

# NATS with JetStream.  conf: lines of its configuration.
sub start_nats
{
	my (%params) = @_;

	plan skip_all => 'no nats-server' unless grep { -x "$_/nats-server" } split /:/, $ENV{PATH};
	my $self = new_broker('nats');
	my ($dir, $port) = ($self->dir, $self->port);

	append_to_file("$dir/nats.conf",
		"host: 127.0.0.1\nport: $port\njetstream { store_dir: \"$dir/store\" }\n" . ($params{conf} // ''));
	$self->{command} = [ 'nats-server', '-c', "$dir/nats.conf" ];
	$self->{is_up} = sub { return listens($port) };
	return $self->start;
}

# Redis, whose append-only file is flushed at each write.  conf: lines of its
# configuration.
sub start_redis
{
	my (%params) = @_;

	plan skip_all => 'no redis-server' unless grep { -x "$_/redis-server" } split /:/, $ENV{PATH};
	my $self = new_broker('redis');
	my ($dir, $port) = ($self->dir, $self->port);

	append_to_file("$dir/redis.conf",
		"bind 127.0.0.1\nport $port\ndir $dir\nappendonly yes\nappendfsync always\nsave \"\"\n" . ($params{conf} // ''));
	$self->{command} = [ 'redis-server', "$dir/redis.conf" ];
	$self->{is_up} = sub { return ($self->redis('PING') // '') eq 'PONG' };
	return $self->start;
}

# A command of Redis, over a connection of its own, on which it logs in if there is a
# password: a string, undef, a list in a reference; dies of an error.
sub redis
{
	my ($self, @args) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->port, Timeout => 5) // return undef;
	my $read = sub {
		my ($read) = @_;
		my $line = <$socket> // die 'the end';

		$line =~ s/\r\n$//;
		my ($kind, $rest) = $line =~ /^(.)(.*)$/;
		return $rest if $kind eq '+' || $kind eq ':';
		die $rest if $kind eq '-';
		return undef if $rest < 0;
		return [ map { $read->($read) } 1 .. $rest ] if $kind eq '*';
		read $socket, my $bytes, $rest + 2;
		return substr $bytes, 0, $rest;
	};

	foreach my $password (grep { defined } $self->{password})
	{
		print $socket "*2\r\n\$4\r\nAUTH\r\n\$" . length($password) . "\r\n$password\r\n";
		$socket->flush;
		$read->($read);
	}
	print $socket '*' . @args . "\r\n", map { '$' . length($_) . "\r\n$_\r\n" } @args;
	$socket->flush;
	return eval { $read->($read) } // do { die $@ if $@ && $@ !~ /LOADING|the end/; undef };
}

# Kafka, which Debian does not have: librdkafka's mock cluster of that many brokers,
# in a process of its own.
sub start_kafka
{
	my (%params) = @_;
	my $tool = ($ENV{PGPUBSUB_PROGRAMS} // 'programs') . '/kafka-mock';

	plan skip_all => "$tool is not there" unless -x $tool;
	my $self = new_broker('kafka', tool => $tool);

	POSIX::mkfifo("$self->{dir}/refuse", 0600) or die "no FIFO: $!";
	$self->{command} = [ $tool, 'serve', $params{brokers} // 3, "$self->{dir}/refuse" ];
	$self->{is_up} = sub {
		$self->{hosts} = $1 if $self->log =~ /^serves (\S+)$/m;
		return defined $self->{hosts};
	};
	return $self->start;
}

# TLS before that port, with the certificate and the key of NAME.crt and NAME.key; its
# port.  With a user and a password it is a Kafka that wants these: see
# test/brokers/tls.py.
sub start_tls
{
	my ($port, $name, @login) = @_;
	my $self = new_broker('tls');

	$self->{command} = [ '/usr/bin/python3', 'test/brokers/tls.py', $self->port, $port, "$name.crt", "$name.key", @login ];
	$self->{is_up} = sub { return $self->log =~ /^listens$/m };
	$self->start;
	return $self->port;
}

# Have the mock refuse what kafka_mock.c says.
sub refuse
{
	my ($self, $what) = @_;
	my $offset = length $self->log;

	append_to_file("$self->{dir}/refuse", "$what\n");
	wait_until(sub { substr($self->log, $offset) =~ /^done \Q$what\E$/m }, "a mock that refuses: $what") or die $self->log;
	return;
}

# Put down from now on what comes to the topic, as the mock keeps little of it.
sub follow
{
	my ($self, $topic) = @_;
	my $follower = new_broker('follower', tool => $self->{tool});

	$follower->{pid} = $follower->run($self->{tool}, 'consume', $self->{hosts}, $topic, -1);
	$self->{follower} = $follower;
	return;
}

# What has come since, once there are so many different payloads: lines of the tool.
sub followed
{
	my ($self, $count) = @_;
	my (@lines, %seen);

	wait_until(
		sub {
			@lines = grep { /^\d+\t/ } split /\n/, $self->{follower}->log;
			%seen = map { ((split /\t/)[6] => 1) } @lines;
			return keys %seen >= $count;
		},
		"$count messages of Kafka");
	$self->{follower}->stop;
	return @lines;
}

# All messages of a topic, in the order of each partition: lines of the tool.
sub consume
{
	my ($self, $topic, $count) = @_;
	my ($out, $error) = ('', '');

	IPC::Run::run([ $self->{tool}, 'consume', $self->{hosts}, $topic, $count ], '<', \undef, '>', \$out, '2>', \$error)
	  or die "consume $topic: $out$error";
	return split /\n/, $out;
}

1;
