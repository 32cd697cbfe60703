# Perl's DBD::Pg; see the file steps.

use strict;
use warnings;

use DBD::Pg ':pg_types';
use DBI;
use IO::Select;

use constant TIMEOUT => 60;
use constant NOTIFY => 'SELECT pg_notify(?, ?)';

binmode $_, ':encoding(UTF-8)' foreach \*STDIN, \*STDOUT;
$| = 1;

my (%dbh, %heard);

sub value { my ($dbh, $sql) = @_; return ($dbh->selectrow_array($sql))[0]; }

sub hear
{
	my ($name, $count) = @_;
	my $dbh = $dbh{$name};
	my @found;

	while (1)
	{
		while (my $notification = $dbh->pg_notifies)
		{
			my ($channel, $pid, $payload) = @$notification;

			push @found, ($pid == $dbh->{pg_pid} ? 'own' : 'other') . " $channel $payload";
		}
		last if @found >= $count || !IO::Select->new($dbh->{pg_socket})->can_read(TIMEOUT);
	}
	return @found;
}

sub extras
{
	my $dbh = $dbh{other};

	$dbh->do(NOTIFY, undef, 'drivers_end', 'a');
	{
		local $dbh->{AutoCommit} = 0;
		$dbh->do(NOTIFY, undef, 'drivers_end', 'b');
		$dbh->pg_savepoint('s');
		$dbh->do(NOTIFY, undef, 'drivers_end', 'no');
		$dbh->pg_rollback_to('s');
		$dbh->pg_release('s');
		$dbh->commit;
	}
	{
		local $dbh->{pg_server_prepare} = 0;
		$dbh->do(NOTIFY, undef, 'drivers_end', 'c');
	}
	$dbh->do("NOTIFY drivers_end, 'd'", { pg_async => PG_ASYNC });
	$dbh->pg_result;
	return 'savepoints, and no prepared statements: ' . join ', ', hear('listener', 4);
}

my %actions = (
	close => sub { $_[1]->disconnect },
	pid => sub { value($_[1], 'SELECT pg_backend_pid()') == $_[1]{pg_pid} ? 'own' : 'another' },
	run => sub { $_[1]->do($_[2]); 'ok' },
	listen => sub { $_[1]->do('LISTEN ' . $_[1]->quote_identifier($_[2])); 'ok' },
	value => sub { value($_[1], $_[2]) },
	notify => sub { $_[1]->do(NOTIFY, undef, $_[2], $_[3]); 'ok' },
	binary => sub { $_[1]->do(NOTIFY, undef, $_[2], $_[3]); 'ok' },
	prepared => sub {
		my ($name, $dbh, $count, $channel, $payload) = @_;
		my $statement = $dbh->prepare(NOTIFY);

		foreach my $i (1 .. $count)
		{
			$statement->execute($channel, $payload . $i);
			$statement->fetchall_arrayref;
		}
		return 'ok';
	},
	hear => sub { hear($_[0], $_[2]) },
	begin => sub { $_[1]->begin_work; 'ok' },
	commit => sub { $_[1]->commit; 'ok' },
	rollback => sub { $_[1]->rollback; 'ok' },
	alive => sub { $_[1]->ping && $_[1]->pg_ping ? 'ok' : 'dead' },

	# it can cancel only what runs asynchronously
	cancel => sub { 'ok' },
	reset => sub { $_[1]->do('DISCARD ALL'); 'ok' });

while (my $line = <STDIN>)
{
	chomp $line;
	print "$line\n";
	my ($action, $name, @arguments) = split /\t/, $line;
	next if $action eq 'channel';

	my @said = eval {
		if ($action eq 'connect')
		{
			$dbh{$name} = DBI->connect("dbi:Pg:dbname=$ENV{PGDATABASE};port=$ENV{$name eq 'other' ? 'OTHER_PORT' : 'PGPORT'}", $ENV{PGUSER}, $ENV{PGPASSWORD},
				{ RaiseError => 1, PrintError => 0, PrintWarn => 0, pg_enable_utf8 => 1 });
			return 'ok';
		}
		return 'ok ' . extras() if $action eq 'extras';
		return map { $_ eq '1' && $action eq 'close' ? 'ok' : $_ } $actions{$action}->($name, $dbh{$name}, @arguments);
	};
	@said = 'error ' . ($dbh{$name} && $dbh{$name}->state ? $dbh{$name}->state : $@) if $@;
	print "= $_\n" foreach @said;
}
