# A session that commits many durable events has them in memory once, as with
# async ones: writing them to the log needs little besides.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs /proc' unless -r "/proc/$$/status";
plan skip_all => 'a sanitizer keeps what is freed' if $ENV{SANITIZED};

my $node = new_server('durable_memory', conf => q{
pgpubsub.log_size = 512MB
pgpubsub.max_databases = 1
shared_buffers = 8MB
wal_buffers = 1MB
max_wal_size = 2GB
log_statement = none
});
$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
$node->safe_psql('postgres', "SELECT pgpubsub.set_durable('bulk'), pgpubsub.subscribe('s', '{bulk}')");

# Publish so many events of a length, and commit.  In kB: what the transaction
# has resident of its own before its end, and the most of all until after it.
sub memory
{
	my ($events, $length) = @_;
	my $session = client($node);

	$session->run('BEGIN');
	$session->run("SELECT count(pgpubsub.publish('bulk', rpad(i::text, $length, '.'))) FROM generate_series(1, $events) AS i");
	my $pending = resident_memory($session->{pid});
	$session->run('COMMIT');
	my $peak = peak_memory($session->{pid});
	note "$events events of $length bytes: $pending kB, then $peak kB";
	$session->quit;
	return ($pending, $peak);
}

# small rows, and those that are cut into pieces
foreach my $kind ([ 100000, 300 ], [ 10000, 5000 ])
{
	my ($events, $length) = @$kind;
	my $kb = $events * $length / 1024;
	my ($pending, $peak) = memory($events, $length);

	cmp_ok($pending, '>', $kb, "$length bytes each: the transaction has its events in memory");
	cmp_ok($peak, '<', $pending + 40000, 'and no copies of them as it commits');
	settle($node, 'postgres');
}
is($node->safe_psql('postgres', "SELECT count(*) FROM pgpubsub.poll('s', 200000)"), 110000, 'all of them are read');
$node->stop('fast');
server_is_sound($node);
done_testing();
