# TLS to brokers: whom the bridge believes, and what it says of a certificate for
# another name or by another authority.

use strict;
use warnings;

use PgPubsub::Bridge;
use PgPubsub::Broker;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs openssl' if system('openssl version >/dev/null 2>&1') != 0;

my $dir = PostgreSQL::Test::Utils::tempdir();

# A certificate that is its own authority: NAME.crt, NAME.key.
sub make_certificate
{
	my ($name, $subject) = @_;

	run_log([ qw(openssl req -new -x509 -days 2 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1), '-subj', '/CN=test',
		'-addext', "subjectAltName=$subject", '-keyout', "$dir/$name.key", '-out', "$dir/$name.crt" ]) or die "no certificate $name";
}

make_certificate('here', 'DNS:localhost,IP:127.0.0.1');
make_certificate('elsewhere', 'DNS:elsewhere.example');

my $node = new_server('tls');
my @from = ('--dbname', $node->connstr('postgres'), '--subscription', 's');

$node->safe_psql('postgres', q{CREATE EXTENSION pgpubsub; SELECT pgpubsub.set_durable('*'); SELECT pgpubsub.subscribe('s', '{a}')});

# A check that must succeed, and one that must not.
sub check
{
	my ($url, @options) = @_;

	return bridge_says(@from, '--to', $url, '--check', @options);
}

# NATS, with one certificate and then the other
my %nats;
foreach my $name (qw(here elsewhere))
{
	my $broker = start_nats(conf => "tls { cert_file: \"$dir/$name.crt\", key_file: \"$dir/$name.key\" }\n");

	$nats{$name} = 'nats://127.0.0.1:' . $broker->port;
}
is(check($nats{here}, '--tls-ca', "$dir/here.crt"), "pgpubsub-bridge: all is well\n", 'NATS: a certificate that is believed');
like(check($nats{here}, '--tls-ca', "$dir/elsewhere.crt"), qr/^failed: .*no connection to the broker: .*(certificate|SSL|TLS)/si, 'NATS: another authority');
like(check($nats{elsewhere}, '--tls-ca', "$dir/elsewhere.crt"), qr/^failed: .*no connection to the broker: .*(hostname|certificate|SSL|TLS|IP address)/si, 'NATS: another name');
like(check($nats{here}, '--tls-ca', "$dir/none.crt"), qr/^failed: /, 'NATS: no such file');

# RabbitMQ; amqps with the right name and with a wrong one
my $plain = PostgreSQL::Test::Cluster::get_free_port();
my $broker = start_rabbitmq(conf => "listeners.ssl.1 = 127.0.0.1:$plain\nssl_options.cacertfile = $dir/here.crt\n"
	  . "ssl_options.certfile = $dir/here.crt\nssl_options.keyfile = $dir/here.key\n");

is(check("amqps://localhost:$plain", '--tls-ca', "$dir/here.crt"), "pgpubsub-bridge: all is well\n", 'AMQP: a certificate that is believed');
like(check("amqps://localhost.localdomain:$plain", '--tls-ca', "$dir/here.crt"), qr/^failed: .*(another name|resolv|hostname)/si, 'AMQP: another name');
like(check("amqps://ip6-localhost:$plain", '--tls-ca', "$dir/here.crt"), qr/^failed: /s, 'AMQP: where nobody listens');
like(check("amqps://localhost:$plain", '--tls-ca', "$dir/elsewhere.crt"), qr/^failed: .*no connection to the broker: .*see --tls-ca/s, 'AMQP: another authority');
like(check("amqp://localhost:$plain"), qr/^failed: .*no connection to the broker/s, 'AMQP: without TLS where it is needed');

# Events over TLS
amqp($broker, 'queue', 'a');
my $bridge = start_bridge($node, "amqps://localhost:$plain", options => [ '--tls-ca', "$dir/here.crt" ]);
$node->safe_psql('postgres', q{SELECT count(pgpubsub.publish('a', i::text)) FROM generate_series(1, 1000) AS i});
is(join(' ', map { $_->{body} } amqp($broker, 'take', 'a', 1000)), join(' ', 1 .. 1000), 'AMQP: events over TLS, in order');
is($bridge->stop, 0, 'the bridge ends');
server_is_sound($node);
done_testing();
