# The gateway's command line and its configuration file.

use strict;
use warnings;

use PgPubsub::Gateway;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $program = ($ENV{PGPUBSUB_PROGRAMS} // 'programs') . '/pgpubsub-gateway';

# What it says, and whether it has succeeded.
sub says
{
	my (@args) = @_;
	my ($out, $in) = ('', '');
	my $good = IPC::Run::run([ $program, @args ], '<', \$in, '>&', \$out);

	return ($good ? '' : 'failed: ') . $out;
}

my $help = says('--help');

unlike($help, qr/^failed/, '--help succeeds');
like($help, qr/^  --$_\b/m, "--help tells of $_")
  foreach qw(dbname listen socket-dir port name allow-unproven-login config client-buffer max-clients max-logins);
like(says(), qr/^failed: .*--dbname is needed/, 'without a server');
like(says('--dbname', 'x'), qr/^failed: .*--listen or --socket-dir is needed/, 'without a place to listen');
like(says('--nonsense'), qr/^failed: .*unknown option "--nonsense"/, 'an unknown option');
like(says('nonsense'), qr/^failed: .*unexpected argument/, 'an argument');
like(says('--dbname'), qr/^failed: .*needs a value/, 'a missing value');
like(says('--max-clients=0'), qr/^failed: .*takes a number from 1 to/, 'a number out of range');
like(says('--max-clients', '12x'), qr/^failed: .*not "12x"/, 'no number');
like(says('--dbname', 'x', '--listen', '127.0.0.1'), qr/^failed: .*ADDRESS:PORT/s, 'an address without a port');
like(says('--dbname', 'x', '--listen', ':0', '--name', 'a*'), qr/^failed: .*reserved/, 'a name that is a pattern');
like(says('--dbname', 'x', '--listen', ':0', '--log-level', 'loud'), qr/^failed: .*log-level is/, 'a level that there is not');

# The file
my $node = new_server('options');
my $file = PostgreSQL::Test::Utils::tempdir() . '/gateway.conf';

$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
append_to_file($file, "# a comment\n\n name = from-the-file \nmax-channels = 1\nallow-unproven-login = on\n");

my $gateway = start_gateway($node, login => 0, options => [ '--config', $file, '--max-statements', '1' ]);
my $client = raw_login($gateway);

is($node->safe_psql('postgres', 'SELECT subscription FROM pgpubsub.stat_subscriptions'), 'from-the-file', 'options come from the file');
like($client->show($client->query('LISTEN a; LISTEN b')), qr/E ERROR 53400 too many channels/, 'limits, too');
like($client->show($client->talk(parse_message('a', '') . parse_message('b', '') . message('S', ''))), qr/E ERROR 53400 too many prepared/, 'and those of the command line hold');
like(says('--config', "$file.none"), qr/^failed: .*could not open file/, 'no such file');
append_to_file($file, "nonsense = 1\n");
like(says('--config', $file), qr/^failed: .*line 6: unknown option "nonsense"/, 'an unknown option in the file');

is($gateway->stop, 0, 'the gateway ends well');
done_testing();
