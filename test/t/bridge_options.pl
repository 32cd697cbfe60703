# The bridge's command line and its configuration file.

use strict;
use warnings;

use PgPubsub::Bridge;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $help = bridge_says('--help');

unlike($help, qr/^failed/, '--help succeeds');
like($help, qr/^  --$_\b/m, "--help tells of $_")
  foreach qw(dbname subscription to exchange routing-key subject topic stream placeholder on-unroutable
  dead-letter password-file tls tls-ca tls-cert tls-key kafka-config batch window buffer confirm-timeout
  drain-timeout metrics log-level config check help);

my @good = ('--dbname', 'x', '--subscription', 's', '--to', 'amqp://localhost');

like(bridge_says(), qr/^failed: .*--dbname is needed/, 'without a server');
like(bridge_says('--dbname', 'x'), qr/^failed: .*--subscription is needed/, 'without a subscription');
like(bridge_says('--dbname', 'x', '--subscription', 's'), qr/^failed: .*--to is needed/, 'without a broker');
like(bridge_says('--nonsense'), qr/^failed: .*unknown option "--nonsense"/, 'an unknown option');
like(bridge_says('nonsense'), qr/^failed: .*unexpected argument/, 'an argument');
like(bridge_says('--dbname'), qr/^failed: .*needs a value/, 'a missing value');

# Each option with a value that is none: what it says of that.
foreach my $case (
	[ 'subscription', 'x' x 64, 'takes 1 to 63 bytes' ],
	[ 'subscription', '', 'takes 1 to 63 bytes' ],
	[ 'to', 'localhost', '--to takes SCHEME://HOST' ],
	[ 'to', 'smtp://localhost', 'unknown kind of broker "smtp://"' ],
	[ 'to', 'amqp://localhost:x', 'no valid user, host, port or path' ],
	[ 'to', 'redis://localhost/x', 'ends in a database\'s number' ],
	[ 'exchange', 'x' x 256, 'takes at most 255 bytes' ],
	[ 'routing-key', 'x' x 256, 'takes at most 255 bytes' ],
	[ 'routing-key', '{tabel}', 'unknown name "\{tabel\}" in template' ],
	[ 'routing-key', 'a{', 'a brace stands alone' ],
	[ 'subject', 'x', 'option subject is for NATS, and --to names AMQP' ],
	[ 'topic', 'x', 'option topic is for Kafka' ],
	[ 'stream', 'x', 'option stream is for Redis' ],
	[ 'kafka-config', 'x', 'option kafka-config is for Kafka' ],
	[ 'on-unroutable', 'x', 'is stop, drop or dead-letter, not "x"' ],
	[ 'on-unroutable', 'dead-letter', 'need each other' ],
	[ 'dead-letter', 'x', 'need each other' ],
	[ 'password-file', '/none', 'could not read a password from file "/none"' ],
	[ 'tls-cert', 'x', 'need each other' ],
	[ 'tls-key', 'x', 'need each other' ],
	[ 'batch', '0', 'takes a number from 1 to' ],
	[ 'window', '1x', 'not "1x"' ],
	[ 'buffer', '0', 'takes a number from 1 to' ],
	[ 'confirm-timeout', '-1', 'takes a number from 1 to' ],
	[ 'drain-timeout', 'x', 'takes a number from 0 to' ],
	[ 'metrics', 'x', 'takes ADDRESS:PORT' ],
	[ 'metrics', 'nohost:1', 'takes ADDRESS:PORT' ],
	[ 'metrics', '127.0.0.1:99999', 'takes ADDRESS:PORT' ],
	[ 'log-level', 'loud', 'log-level is' ],
	[ 'config', '/none', 'could not open file "/none"' ])
{
	my ($option, $value, $says) = @$case;

	like(bridge_says(@good, "--$option=$value"), qr/^failed: .*$says/, "--$option " . substr $value, 0, 30);
}
like(bridge_says(@good, '--to', 'nats://localhost', '--subject', 'a b'), qr/^failed: .*takes no spaces and no wildcards/, 'a subject with a space');
like(bridge_says(@good, '--to', 'nats://localhost', '--subject', 'a..b'), qr/^failed: .*takes tokens with dots between/, 'one with an empty token');
like(bridge_says(@good, '--to', 'kafka://localhost', '--topic', 'a b'), qr/^failed: .*option topic takes a topic/, 'a topic with a space');
like(bridge_says(@good, '--to', 'nats://localhost', '--on-unroutable', 'dead-letter', '--dead-letter', 'a..b'), qr/^failed: .*takes a subject/, 'a dead letter that is no subject');
like(bridge_says(@good, '--to', 'kafka://localhost', '--on-unroutable', 'dead-letter', '--dead-letter', 'a b'), qr/^failed: .*takes a topic/, 'one that is no topic');

# Both sides are looked at, with everything else right.
my $check = bridge_says('--dbname', 'host=/none dbname=x', '--subscription', 's', '--to', 'amqp://me:secret@127.0.0.1:1', '--check');

like($check, qr/^failed: .*no connection to the server: .*no connection to the broker: 127.0.0.1 port 1: /s, '--check tells of both sides');
unlike($check, qr/secret/, 'and shows no password');

# The file
my $file = PostgreSQL::Test::Utils::tempdir() . '/bridge.conf';

append_to_file($file, "# a comment\n\ndbname = host=/none\nsubscription=s\n to = amqp://u:secret\@127.0.0.1:1\nrouting-key = {tabel}\n");
like(bridge_says('--config', $file, '--check'), qr/^failed: .*unknown name "\{tabel\}"/, 'options come from the file');
like(bridge_says('--config', $file, '--routing-key', 'x', '--check'), qr/no connection to the broker/, 'and those of the command line count for more');
append_to_file($file, "nonsense = 1\n");
like(bridge_says('--config', $file), qr/^failed: .*line 7: unknown option "nonsense"/, 'an unknown option in the file');
done_testing();
