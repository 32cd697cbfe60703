# psql; see the file steps.  It shows a notification behind the command that
# finds it; a pg_notify() with parameters is one with quoted variables.

use strict;
use warnings;

use IPC::Open2;

$| = 1;
my (%sessions);

# What psql writes until it is done with that.
sub talk
{
	my ($session, $text) = @_;
	my @lines;
	my ($in, $out) = @$session{qw(in out)};

	print $in "$text\n\\echo behind it\n";
	while (my $line = <$out>)
	{
		chomp $line;
		last if $line eq 'behind it';
		if ($line =~
			/^Asynchronous notification "(.*?)" (?:with payload "(.*)" )?received from server process with PID (\d+)\.$/)
		{
			push @{ $session->{heard} }, [ $3, $1, $2 // '' ];
			next;
		}
		push @lines, $line;
	}
	return @lines;
}

sub said
{
	my (@lines) = @_;

	return map { /^(?:psql:[^ ]* )?ERROR:  (\w{5})/ ? "error $1" : () } @lines;
}

sub run { my ($session, $sql) = @_; return (said(talk($session, "$sql;")), 'ok')[0]; }

sub notify
{
	my ($session, $channel, $payload) = @_;

	s/(['\\])/$1 eq '\\' ? '\\\\' : "\\'"/ge foreach $channel, $payload;
	return (said(talk($session, "\\set channel '$channel'\n\\set payload '$payload'\nSELECT pg_notify(:'channel', :'payload') \\g /dev/null")), 'ok')[0];
}

my %actions = (
	connect => sub {
		my ($name) = @_;
		my $session = { heard => [] };
		local $ENV{PGPORT} = $ENV{OTHER_PORT} if $name eq 'other';

		$session->{process} = open2($session->{out}, $session->{in}, 'exec psql -XAtq -v VERBOSITY=sqlstate 2>&1');
		$session->{in}->autoflush;
		$sessions{$name} = $session;
		($session->{pid}) = talk($session, 'SELECT pg_backend_pid();');
		return 'ok';
	},
	close => sub {
		my ($name) = @_;
		my $session = delete $sessions{$name};

		close $session->{in};
		close $session->{out};
		waitpid $session->{process}, 0;
		return 'ok';
	},
	pid => sub { (talk($sessions{ $_[0] }, 'SELECT pg_backend_pid();'))[0] == $sessions{ $_[0] }{pid} ? 'own' : 'another' },
	listen => sub {
		my ($name, $channel) = @_;

		$channel =~ s/"/""/g;
		return run($sessions{$name}, "LISTEN \"$channel\"");
	},
	run => sub { run($sessions{ $_[0] }, $_[1] =~ s/; (?=[A-Z])/\\; /gr) },
	value => sub { (talk($sessions{ $_[0] }, "$_[1];"))[0] },
	notify => sub { notify($sessions{ $_[0] }, @_[ 1, 2 ]) },
	binary => sub { notify($sessions{ $_[0] }, @_[ 1, 2 ]) },
	prepared => sub {
		my ($name, $count, $channel, $payload) = @_;

		notify($sessions{$name}, $channel, $payload . $_) foreach 1 .. $count;
		return 'ok';
	},
	hear => sub {
		my ($name, $count) = @_;
		my $session = $sessions{$name};
		my $deadline = time + 60;

		talk($session, 'SELECT 1 \g /dev/null') while @{ $session->{heard} } < $count && time < $deadline;
		return map { ($_->[0] == $session->{pid} ? 'own' : 'other') . " $_->[1] $_->[2]" } splice @{ $session->{heard} };
	},
	begin => sub { run($sessions{ $_[0] }, 'BEGIN') },
	commit => sub { run($sessions{ $_[0] }, 'COMMIT') },
	rollback => sub { run($sessions{ $_[0] }, 'ROLLBACK') },
	alive => sub { run($sessions{ $_[0] }, '/* nothing */') },

	# (only what runs can be cancelled)
	cancel => sub { 'ok' },
	reset => sub { run($sessions{ $_[0] }, 'DISCARD ALL') },
	extras => sub {
		talk($sessions{other}, '\set AUTOCOMMIT off');
		run($sessions{other}, "NOTIFY drivers_end, 'a'");
		run($sessions{other}, 'COMMIT');
		talk($sessions{other}, '\set AUTOCOMMIT on');
		talk($sessions{other}, '\set ON_ERROR_ROLLBACK on');
		run($sessions{other}, $_) foreach 'BEGIN', "NOTIFY drivers_end, 'b'", 'LISTEN', "NOTIFY drivers_end, 'c'", 'COMMIT';
		talk($sessions{listener}, '\c');
		($sessions{listener}{pid}) = talk($sessions{listener}, 'SELECT pg_backend_pid();');
		return 'ok AUTOCOMMIT, ON_ERROR_ROLLBACK and \c';
	});

while (my $line = <STDIN>)
{
	chomp $line;
	print "$line\n";
	my ($action, @arguments) = split /\t/, $line;
	next if $action eq 'channel';
	print "= $_\n" foreach $actions{$action}->(@arguments);
}
