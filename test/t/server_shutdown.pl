# An orderly shutdown is no alarm: the launcher and the relays end without a
# FATAL message.  A relay or a launcher that is terminated comes back.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('shutdown', conf => 'log_min_messages = debug1');
my @databases = qw(postgres template1 one);

$node->safe_psql('postgres', 'CREATE DATABASE one');
$node->safe_psql($_, 'CREATE EXTENSION pgpubsub') foreach @databases;
$node->safe_psql('one', "SELECT pgpubsub.subscribe('s', '{news}')");

# All relays and the launcher have nothing to do.
sub all_idle
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok( $node->poll_query_until(
			'postgres', q{
			SELECT count(*) FILTER (WHERE backend_type = 'pgpubsub relay') = 3
			   AND count(*) FILTER (WHERE backend_type = 'pgpubsub launcher') = 1
			   AND bool_and(wait_event_type = 'Extension')
			  FROM pg_stat_activity WHERE backend_type LIKE 'pgpubsub%'}),
		'all are idle');
}

foreach my $mode (qw(fast smart))
{
	all_idle();
	$node->safe_psql('one',
		"SET pgpubsub.publish_mode = async; SELECT pgpubsub.publish('news', 'x')");
	like(received($node, 'one', 's', 1),
		qr/^(?:gap:-1 )?news:x$/, 'the subscription is read');
	all_idle();
	my $offset = log_offset($node);
	$node->stop($mode);
	my $log = slurp_file($node->logfile, $offset);
	unlike($log, qr/FATAL: .*pgpubsub/, "$mode shutdown: no FATAL message");
	is(scalar(() = $log =~ /DEBUG:  pgpubsub (?:relay|launcher) shutting down/g),
		4, "$mode shutdown: each ended of itself");
	$node->start;
}

# Somebody terminates them.
all_idle();
my $offset = log_offset($node);
kill_relay($node, 'one');
pass('a relay that is terminated comes back');
is(received($node, 'one', 's', 1, gaps => 1), 'gap:-1', 'with a gap row');
my $launcher = $node->safe_psql('postgres',
	"SELECT pid FROM pg_stat_activity WHERE backend_type = 'pgpubsub launcher'");
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
ok( $node->poll_query_until(
		'postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pgpubsub launcher' AND pid <> $launcher"
	),
	'so does the launcher');
kill_relay($node, 'one');
pass('and does its work');
unlike(
	slurp_file($node->logfile, $offset),
	qr/FATAL: .*pgpubsub/,
	'that is no alarm either');

$node->stop;
log_is_clean($node);
done_testing();
