# Without shared_preload_libraries: triggers and publish() are NOTIFY,
# subscriptions say which setting is missing, views have no rows.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my $node = new_server('basics', preload => 0);

$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');

# Publishing

my $listener = open_session($node);
$listener->query_safe('LISTEN news; LISTEN orders; LISTEN pgpubsub');

$node->safe_psql(
	'postgres', q{
	SELECT pgpubsub.publish('news', 'one');
	BEGIN;
	SELECT pgpubsub.publish('news', 'two');
	SELECT pgpubsub.publish('elsewhere', 'not for us');
	SELECT pgpubsub.publish('news', 'three');
	COMMIT;
	BEGIN;
	SELECT pgpubsub.publish('news', 'rolled back');
	ROLLBACK;
	SELECT pgpubsub.publish('news', NULL);
});
is( join(' ', notifications($listener)),
	'news:one news:two news:three news:',
	'publish() notifies');

$node->safe_psql('postgres',
	"SELECT pgpubsub.publish('news', repeat('x', 8000))");
like(join(' ', notifications($listener)),
	qr/^news:\{"truncated":true,"bytes":8000,"id":"[^"]+"\}$/,
	'a long payload comes as a short one, and not in frames');

$node->safe_psql(
	'postgres', q{
	CREATE TABLE orders (id int PRIMARY KEY, status text);
	SELECT pgpubsub.attach('orders');
	INSERT INTO orders VALUES (1, 'new');
	UPDATE orders SET status = 'paid';
	DELETE FROM orders;
});
my @events = notifications($listener);
is(scalar(@events), 3, 'a trigger notifies');
like($events[0], qr/^orders:\{.*"op":"INSERT".*"status":"new"/,
	'of an insert');
like($events[1], qr/^orders:\{.*"op":"UPDATE".*"status":"paid"/,
	'of an update');
like($events[2], qr/^orders:\{.*"op":"DELETE"/, 'of a delete');

is($node->safe_psql('postgres', 'SELECT relation, channel, level, enabled'
		  . ' FROM pgpubsub.attachments GROUP BY 1, 2, 3, 4'),
	'orders|orders|row|t', 'view attachments works');

$node->safe_psql(
	'postgres', q{
	SET pgpubsub.muted = on;
	INSERT INTO orders VALUES (2, 'silent');
});
is(join(' ', notifications($listener)), '', 'muted mutes');
$listener->quit;

# Subscriptions

foreach my $call (
	"subscribe('s', '{news}')",
	"poll('s')", "ack('s', 1)", "unsubscribe('s')", 'stat_reset()')
{
	fails_with(
		$node, 'postgres',
		"SELECT pgpubsub.$call",
		'55000',
		qr/HINT: .*shared_preload_libraries.* restart/,
		"$call says what is missing");
}

foreach my $view (qw(stat_queue stat_channels stat_subscriptions))
{
	is($node->safe_psql('postgres', "SELECT count(*) FROM pgpubsub.$view"),
		0, "view $view has no rows");
}

# A row by hand, as pg_restore writes it.
$node->safe_psql(
	'postgres', q{
	INSERT INTO pgpubsub.subscription (name, owner, channels, on_full)
	VALUES ('restored', current_user::regrole, '{news}', 'evict')
});
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pgpubsub%'"
	),
	0,
	'no worker runs');

# With the library preloaded from now on, all of it works.

$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pgpubsub'");
$node->restart;
wait_for_relay($node, 'postgres');
$node->safe_psql('postgres', "SELECT pgpubsub.subscribe('s', '{news,orders}')");
$node->safe_psql(
	'postgres', q{
	SELECT pgpubsub.publish('news', 'with subscribers');
	INSERT INTO orders VALUES (3, 'heard');
});
@events = receive($node, 'postgres', 's', 2);
is($events[0], 'news:with subscribers', 'preloaded: publish() is received');
like($events[1], qr/^orders:\{.*"status":"heard"/,
	'preloaded: a trigger that was attached before is received');
is(received($node, 'postgres', 'restored', 1),
	'gap:-1 news:with subscribers',
	'preloaded: a subscription of the table works');

$node->safe_psql('postgres', 'DROP EXTENSION pgpubsub CASCADE');
$node->stop;
log_is_clean($node, qr/ERROR:  pgpubsub is not preloaded/);

# The look at the log, which many tests end with, sees what was not allowed.
my @errors = unexpected_lines($node);
is(scalar(@errors), 5, 'every error is found in the log');
is(scalar(grep { !/ERROR:  pgpubsub is not preloaded/ } @errors),
	0, 'and nothing else');
done_testing();
