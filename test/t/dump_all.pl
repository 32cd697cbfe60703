# The output of pg_dumpall restores into a fresh cluster, whether pgpubsub is
# preloaded there from the start or later.

use strict;
use warnings;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = new_server('source');
my $file   = PostgreSQL::Test::Utils::tempdir() . '/all.sql';
my $user   = $source->safe_psql('postgres', 'SELECT current_user');

$source->safe_psql(
	'postgres', q{
	CREATE ROLE app LOGIN;
	CREATE ROLE "Odd ""name""" IN ROLE app;
	CREATE DATABASE shop;
	CREATE DATABASE other;
	ALTER DATABASE shop SET pgpubsub.publish_mode = async;
	ALTER ROLE app SET pgpubsub.publish_timeout = '1s';
	CREATE EXTENSION pgpubsub;
	SELECT pgpubsub.subscribe('s', '{news}')});
$source->safe_psql($_, 'CREATE EXTENSION pgpubsub') foreach qw(shop other);
$source->safe_psql(
	'shop', q{
	GRANT EXECUTE ON FUNCTION pgpubsub.poll, pgpubsub.subscribe TO app;
	CREATE TABLE orders (id int PRIMARY KEY, status text);
	SELECT pgpubsub.attach('orders', condition => 'NEW.id > 1', operations => '{insert}');
	SELECT pgpubsub.subscribe('all', '{*}', 'drop');
	SET ROLE app;
	SELECT pgpubsub.subscribe('of_app', '{orders}');
	SET ROLE "Odd ""name""";
	SELECT pgpubsub.subscribe('Odd "one"', ARRAY['a "b"', 'c,d'], 'drop')});
$source->safe_psql('other', q{SELECT pgpubsub.subscribe('s', '{news}')});

# all columns but made_in, which is to tell the databases apart
my $sql = q{SELECT name, owner, channels, on_full, created_at FROM pgpubsub.subscription ORDER BY name};
my %subscriptions = map { $_ => $source->safe_psql($_, $sql) } qw(postgres shop other);

$source->command_ok(
	[ 'pg_dumpall', '-h', $source->host, '-p', $source->port, '-f', $file ],
	'pg_dumpall');
$source->stop;
log_is_clean($source);

foreach my $preload (1, 0)
{
	my $how  = $preload ? 'preloaded' : 'not preloaded';
	my $node = new_server("target_$preload", preload => $preload);
	my ($out, $err) = ('', '');

	IPC::Run::run([ 'psql', '-X', '-q', '-h', $node->host, '-p', $node->port,
			'-d', 'postgres', '-f', $file ], '>', \$out, '2>', \$err);
	$err = join "\n", grep { !/role "\Q$user\E" already exists/ } split /\n/, $err;
	is($err, '', "restored, $how, without an error or warning");
	is($node->safe_psql($_, $sql), $subscriptions{$_},
		"$how: the table of subscriptions in $_")
	  foreach qw(postgres shop other);

	if (!$preload)
	{
		$node->append_conf('postgresql.conf',
			"shared_preload_libraries = 'pgpubsub'");
		$node->restart;
	}
	wait_for_relay($node, $_) foreach qw(postgres shop other);
	ok( $node->poll_query_until(
			'shop',
			'SELECT count(*) = 5 FROM pgpubsub.stat_subscriptions'),
		"$how: all of them work");
	$node->safe_psql('shop', q{INSERT INTO orders VALUES (1, 'no'), (2, 'yes')});
	like(
		join(' ', receive($node, 'shop', 'of_app', 1)),
		qr/^(?:gap:-1 )?orders:\{.*"id":2/,
		"$how: attachments work");
	is( $node->safe_psql(
			'shop', q{SHOW pgpubsub.publish_mode}),
		'async', "$how: settings of the database are there");
	$node->stop;
	log_is_clean($node, qr/ERROR:  role "\Q$user\E" already exists/);
}
done_testing();
