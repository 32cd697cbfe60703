# Many streams at a time: each gets each event, once, and costs little memory.
#
# GATEWAY_STREAMS is how many: 1,000 by default, as far as files may be open (ulimit -n).
# GATEWAY_STREAM_KB is what one may cost; the default is for a gateway with the sanitizers,
# which keep what is freed.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256);
use IO::Select;
use MIME::Base64 qw(encode_base64url);
use PgPubsub::Gateway;
use PgPubsub::Http;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $files = `sh -c 'ulimit -n'` + 0;
my $wanted = $ENV{GATEWAY_STREAMS} // 1000;
my $count = $files - 100 < $wanted ? $files - 100 : $wanted;
my $secret = 'a secret of thirty-two bytes, or more';
my $file = PostgreSQL::Test::Utils::tempdir() . '/secret';
my $node = new_server('many');
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $text = join '.', map { encode_base64url($_) } '{"alg":"HS256"}', '{"exp":9999999999,"channels":["all"]}';

$node->safe_psql('postgres', 'CREATE EXTENSION pgpubsub');
append_to_file($file, $secret);

my $gateway = start_gateway($node, options => [ '--http', "127.0.0.1:$port", '--jwt-key', $file, '--log-level', 'warning' ], ready => 1);
my @header = http_bearer("$text." . encode_base64url(hmac_sha256($text, $secret)));
my $first = http_stream($port, '/events?channel=all', \@header);
my $before = resident_memory($gateway->{pid});
my @streams = ($first, map { http_stream($port, '/events?channel=all', \@header) } 2 .. $count);
my $each = (resident_memory($gateway->{pid}) - $before) / ($count - 1);

note sprintf '%d streams, which take %.1f kB each', $count, $each;
cmp_ok($each, '<', $ENV{GATEWAY_STREAM_KB} // 60, 'a stream takes little memory');
$node->safe_psql('postgres', q{SELECT pgpubsub.publish('all', 'first'); SELECT pgpubsub.publish('all', 'second')});

my $good = grep { $_->event->{data} eq 'first' && $_->event->{data} eq 'second' } @streams;

is($good, $count, 'each stream gets each event, in order');
note sprintf 'then %.1f kB', (resident_memory($gateway->{pid}) - $before) / ($count - 1);
like(http_ask($port, 'GET', '/metrics')->{body}, qr/^pgpubsub_gateway_streams $count$/m, 'as many as the metrics say');
$_->{socket}->close foreach @streams;
is($gateway->stop, 0, 'the gateway ends well');
done_testing();
