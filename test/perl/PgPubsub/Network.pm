# A network between this test and what it starts far away, which can be cut: packets
# then vanish in both directions, and no end is told.
#
# It takes a network namespace of our own, which not every machine lets us have:
# network_is_there() says so.  A test uses this module before all others, as it
# runs anew within the namespace.

package PgPubsub::Network;

use strict;
use warnings;

use Exporter 'import';
use Time::HiRes qw(time);

our @EXPORT = qw(
  network_is_there
  network_near
  network_far
  network_for_clients
  network_far_command
  network_cut
  network_mend
);

BEGIN
{
	my @own = qw(unshare --map-current-user --net --keep-caps);
	my $try = 'ip link set lo up && ip link add try type veth peer name out && ip link del try && unshare --net true';

	if (!$ENV{TEST_NETWORK})
	{
		$ENV{TEST_NETWORK} = system("@own sh -c '$try' >/dev/null 2>&1") == 0 ? 'own' : 'none';
		exec @own, $^X, (map { "-I$_" } @INC), $0, @ARGV if $ENV{TEST_NETWORK} eq 'own';
	}
}

# Two wires lead far away: one is cut, and clients have the other.
my %wire = (
	server  => { net => '10.99.1', near => '02:00:00:00:01:01', far => '02:00:00:00:01:02' },
	clients => { net => '10.99.2', near => '02:00:00:00:02:01', far => '02:00:00:00:02:02' },
);
my ($far, $holder);

sub network_is_there { return $ENV{TEST_NETWORK} eq 'own'; }

# Addresses: ours and theirs on the wire that is cut, theirs on the one that is not.
sub network_near { return "$wire{server}{net}.1"; }
sub network_far { return "$wire{server}{net}.2"; }
sub network_for_clients { return "$wire{clients}{net}.2"; }

# What runs a command far away.
sub network_far_command { return ('nsenter', "--net=/proc/$far/ns/net"); }

sub command
{
	system(@_) == 0 or die "could not run @_: $?";
	return;
}

# An end of a wire knows the other's address by itself, and asks nobody.
sub connect_end
{
	my ($at, $name, $own, $other, $other_mac, @prefix) = @_;

	command(@prefix, qw(ip addr add), "$wire{$name}{net}.$own/24", 'dev', "$at-$name");
	command(@prefix, qw(ip link set), "$at-$name", 'up');
	neighbour($at, $name, $other, $other_mac, @prefix);
	return;
}

sub neighbour
{
	my ($at, $name, $other, $mac, @prefix) = @_;

	command(@prefix, qw(ip neigh replace), "$wire{$name}{net}.$other", 'lladdr', $mac, qw(nud permanent dev), "$at-$name");
	return;
}

sub both_ends
{
	my ($do, $name, %mac) = @_;

	$do->('near', $name, ($do == \&connect_end ? 1 : ()), 2, $mac{far});
	$do->('far', $name, ($do == \&connect_end ? 2 : ()), 1, $mac{near}, network_far_command());
	return;
}

sub begin
{
	my $own = readlink "/proc/$$/ns/net";

	$far = open $holder, '|-', qw(unshare --net cat) or die "could not run unshare: $!";

	my $deadline = time + 60;
	while ((readlink("/proc/$far/ns/net") // $own) eq $own)
	{
		die 'no second network' if time > $deadline;
		select(undef, undef, undef, 0.01);    # between two looks
	}
	command(@$_, qw(ip link set lo up)) foreach [], [ network_far_command() ];
	foreach my $name (keys %wire)
	{
		command(qw(ip link add), "near-$name", 'address', $wire{$name}{near},
			qw(type veth peer name), "far-$name", 'address', $wire{$name}{far}, 'netns', $far);
		both_ends(\&connect_end, $name, %{ $wire{$name} });
	}
	return;
}

# What is sent over the wire goes to an address that nobody has.
sub network_cut { both_ends(\&neighbour, 'server', near => '02:00:00:00:99:99', far => '02:00:00:00:99:99'); return; }
sub network_mend { both_ends(\&neighbour, 'server', %{ $wire{server} }); return; }

begin() if network_is_there();

1;
