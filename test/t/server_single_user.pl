# Single-user mode (postgres --single) has no workers: writers to attached
# tables do not notice, subscriptions say why they cannot be had.

use strict;
use warnings;

use IPC::Run;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('single');

$node->safe_psql(
	'postgres', q{
	CREATE DATABASE other;
	CREATE DATABASE gone;
	CREATE ROLE app;
	CREATE EXTENSION pgpubsub;
	CREATE TABLE orders (id int PRIMARY KEY, status text);
	SELECT pgpubsub.attach('orders'),
	       pgpubsub.attach('orders', 'statements', level => 'statement');
	SELECT pgpubsub.subscribe('s', '{orders,news}'), pgpubsub.subscribe('all', '{*}', 'drop')});
$node->safe_psql($_, 'CREATE EXTENSION pgpubsub') foreach qw(other gone);
$node->safe_psql('postgres', q{
	INSERT INTO orders VALUES (0, 'before');
	INSERT INTO pgpubsub.subscription VALUES ('of_app', 'app', '{news}', 'evict')});
my $seq = $node->safe_psql('postgres',
	q{SELECT pgpubsub.publish('news', 'before');
	  SELECT max(seq) FROM pgpubsub.poll('s', 1, '30s')});
$node->stop;

# What single-user mode answers to statements, one a line.
sub single_user
{
	my ($db, $sql) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ 'postgres', '--single', '-D', $node->data_dir, $db ],
		'<', \$sql, '>', \$out, '2>', \$err);
	is($?, 0, "single-user mode in $db ends well");
	return ($out, join("\n", grep { /ERROR|FATAL|PANIC|WARNING|TRAP/ } split /\n/, $err));
}

my ($out, $err) = single_user('postgres', <<'SQL');
INSERT INTO orders VALUES (1, 'single');
UPDATE orders SET status = 'done' WHERE id = 1;
BEGIN; INSERT INTO orders VALUES (2, 'never'); ROLLBACK;
SET pgpubsub.publish_mode = async;
INSERT INTO orders VALUES (3, 'async');
BEGIN; INSERT INTO orders VALUES (4, 'async'); SAVEPOINT s; DELETE FROM orders; ROLLBACK TO s; COMMIT;
SELECT pgpubsub.publish('news', repeat('x', 100000));
SELECT pgpubsub.publish('news', 'plain');
DROP ROLE app;
DROP DATABASE gone;
ALTER DATABASE other RENAME TO another;
SELECT pgpubsub.relay_start();
SELECT count(*) AS attachments FROM pgpubsub.attachments;
SELECT count(*) AS subscriptions FROM pgpubsub.stat_subscriptions;
SELECT pgpubsub.attach('orders', 'third');
SELECT pgpubsub.detach('orders', 'third') AS detached;
DROP OWNED BY CURRENT_USER RESTRICT;
VACUUM FULL pgpubsub.subscription;
REINDEX TABLE pgpubsub.subscription;
SELECT count(*) AS orders FROM orders;
SQL
like($err, qr/^[^\n]*ERROR:  cannot drop objects owned by role[^\n]*$/,
	'no error but for what is one without pgpubsub');
like($out, qr/relay_start = "f"/, 'no relay is started');
like($out, qr/attachments = "4"/, 'the view of attachments works');
like($out, qr/subscriptions = "0"/, 'others are empty');
like($out, qr/detached = "1"/, 'attach() and detach() work');
like($out, qr/ orders = "4"/, 'all that was committed is there');

($out, $err) = single_user('postgres', <<'SQL');
SELECT pgpubsub.subscribe('s', '{news}');
SELECT pgpubsub.subscribe('new', '{news}', temporary => true);
SELECT * FROM pgpubsub.poll('s', timeout => '1h');
SELECT pgpubsub.ack('s', 1);
SELECT pgpubsub.unsubscribe('s');
SQL
is( join("\n", map { /(ERROR.*)/ } split /\n/, $err),
	join("\n",
		map { "ERROR:  cannot execute pgpubsub.$_() in single-user mode" }
		  qw(subscribe subscribe poll ack unsubscribe)),
	'subscriptions say why they cannot be had');

($out, $err) = single_user('another', <<'SQL');
DROP EXTENSION pgpubsub;
CREATE EXTENSION pgpubsub;
BEGIN; DROP EXTENSION pgpubsub; CREATE EXTENSION pgpubsub; ROLLBACK;
SELECT extversion FROM pg_extension WHERE extname = 'pgpubsub';
SQL
is($err, '', 'DROP and CREATE EXTENSION work');
like($out, qr/extversion = "1.1"/, '... and leave it there');

# The server again

$node->start;
wait_for_relay($node, $_) foreach qw(postgres another);
$node->safe_psql('postgres',
	q{INSERT INTO orders VALUES (5, 'after')});
like(received($node, 'postgres', 's', 1),
	qr/^gap:-1 orders:\{.*"id":5/, 'afterwards all works');
cmp_ok(
	$node->safe_psql('postgres',
		"SELECT newest_seq FROM pgpubsub.stat_queue WHERE datname = 'postgres'"),
	'>', $seq, 'seq goes on');
is( $node->safe_psql('postgres',
		'SELECT string_agg(name, $$ $$ ORDER BY name) FROM pgpubsub.subscription'),
	'all s', 'the subscription of the role that was dropped is gone');
$node->stop;
log_is_clean($node);
done_testing();
