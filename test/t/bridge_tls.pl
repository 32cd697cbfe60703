# TLS to brokers: whom the bridge believes, what it says of a certificate for another
# name or by another authority, and logins and events over it.  Kafka's TLS and SASL are
# played by test/brokers/tls.py, as librdkafka's mock cluster knows neither.

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
make_certificate('elsewhere', 'DNS:elsewhere.example,IP:127.1.2.3');
make_certificate('client', 'DNS:client.example');

my $node = new_server('tls');

$node->safe_psql('postgres', q{
	CREATE EXTENSION pgpubsub;
	SELECT pgpubsub.set_durable('*');
	SELECT pgpubsub.subscribe(s, '{a}') FROM unnest('{rabbitmq,nats,redis,kafka}'::text[]) AS s});

# What a check of that URL says.
sub check
{
	my ($url, @options) = @_;

	return bridge_says('--dbname', $node->connstr('postgres'), '--subscription', 'redis', '--to', $url, '--check', @options);
}

# Whom the bridge believes at these ports, where "here" and "elsewhere" are shown.
# (librabbitmq looks at a certificate's names alone, not at its addresses.)
sub certificates
{
	my ($kind, $url, $here, $elsewhere) = @_;
	my $failed = qr/^failed: [^\n]*error: no connection to the broker: /;

	is(check("${url}localhost:$here", '--tls-ca', "$dir/here.crt"), "pgpubsub-bridge: all is well\n", "$kind: a certificate that is believed");
	like(check("${url}127.0.0.1:$here", '--tls-ca', "$dir/here.crt"), $kind eq 'rabbitmq' ? qr/the certificate is for another name/ : qr/^pgpubsub-bridge: all is well\n\z/, "$kind: for an address");
	like(check("${url}localhost:$here", '--tls-ca', "$dir/elsewhere.crt"), qr/${failed}[^\n]*(?:certificate verify failed|self-signed certificate|see --tls-ca)[^\n]*\n\z/, "$kind: another authority");
	like(check("${url}localhost:$here", '--tls'), qr/${failed}[^\n]*(?:certificate verify failed|self-signed certificate|see --tls-ca)[^\n]*\n\z/, "$kind: none of the system's");
	foreach my $host (qw(localhost 127.0.0.1))
	{
		like(check("$url$host:$elsewhere", '--tls-ca', "$dir/elsewhere.crt"), qr/${failed}[^\n]*(?:hostname mismatch|another name|IP address mismatch|certificate verify failed)[^\n]*\n\z/i, "$kind: a certificate for another name than $host");
	}
	like(check("${url}localhost:$here", '--tls-ca', "$dir/none.crt"), qr/^failed: /, "$kind: no file of authorities");
	return;
}

# A thousand events, from the subscription of the broker's name.
sub events_over_tls
{
	my ($kind, $url, @options) = @_;
	my $bridge = start_bridge($node, $url, subscription => $kind, options => [ '--tls-ca', "$dir/here.crt", @options ]);

	$bridge->wait_for_metric('acked_total', 1000);
	is($bridge->stop, 0, "$kind: the bridge ends");
	return;
}

$node->safe_psql('postgres', q{SELECT count(pgpubsub.publish('a', i::text)) FROM generate_series(1, 1000) AS i});
my $expected = join ' ', 1 .. 1000;

# NATS, where TLS begins when the server has said who it is
my %nats;
foreach my $name (qw(here elsewhere))
{
	$nats{$name} = start_nats(conf => "tls { cert_file: \"$dir/$name.crt\", key_file: \"$dir/$name.key\" }\n");
}
certificates('nats', 'nats://', map { $_->port } @nats{qw(here elsewhere)});
like(check('nats://localhost:' . $nats{here}->port), qr/^failed: [^\n]*no connection to the broker: [^\n]*\n\z/, 'nats: without TLS where it is needed');

# RabbitMQ
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $broker = start_rabbitmq(conf => "listeners.ssl.1 = 127.0.0.1:$port\nssl_options.cacertfile = $dir/here.crt\n"
	  . "ssl_options.certfile = $dir/here.crt\nssl_options.keyfile = $dir/here.key\n");

certificates('rabbitmq', 'amqps://', $port, start_tls($broker->port, "$dir/elsewhere"));
like(check("amqp://localhost:$port"), qr/^failed: [^\n]*no connection to the broker: [^\n]*\n\z/, 'rabbitmq: without TLS where it is needed');
like(check('amqps://localhost:' . $broker->port, '--tls-ca', "$dir/here.crt"), qr/^failed: [^\n]*no connection to the broker: [^\n]*\n\z/, 'rabbitmq: with TLS where there is none');
amqp($broker, 'queue', 'a');
events_over_tls('rabbitmq', "amqps://localhost:$port");
is(join(' ', map { $_->{body} } amqp($broker, 'take', 'a', 1000)), $expected, 'rabbitmq: events, in order');

# Redis, which asks for the client's certificate, too
$port = PostgreSQL::Test::Cluster::get_free_port();
my $redis = start_redis(conf => "tls-port $port\ntls-cert-file $dir/here.crt\ntls-key-file $dir/here.key\ntls-ca-cert-file $dir/client.crt\ntls-auth-clients optional\n");
my @own = ('--tls-cert', "$dir/client.crt", '--tls-key', "$dir/client.key");

certificates('redis', 'rediss://', $port, start_tls($redis->port, "$dir/elsewhere"));
like(check("redis://localhost:$port"), qr/^failed: [^\n]*no connection to the broker: [^\n]*\n\z/, 'redis: without TLS where it is needed');
like(check('rediss://localhost:' . $redis->port, '--tls-ca', "$dir/here.crt"), qr/^failed: [^\n]*no connection to the broker: [^\n]*TLS: [^\n]*\n\z/, 'redis: with TLS where there is none');
$redis->redis(qw(CONFIG SET tls-auth-clients yes));
like(check("rediss://localhost:$port", '--tls-ca', "$dir/here.crt"), qr/^failed: [^\n]*no connection to the broker: [^\n]*(?:certificate required|reset by peer|closed)[^\n]*\n\z/, 'redis: without a certificate that is asked for');
like(check("rediss://localhost:$port", '--tls-ca', "$dir/here.crt", '--tls-cert', "$dir/client.crt", '--tls-key', "$dir/here.key"), qr/^failed: [^\n]*could not read the files of --tls-cert and --tls-key/, 'redis: a key of another certificate');
is(check("rediss://localhost:$port", '--tls-ca', "$dir/here.crt", @own), "pgpubsub-bridge: all is well\n", 'redis: with one');
$redis->redis(qw(CONFIG SET requirepass secret));
events_over_tls('redis', "rediss://:secret\@localhost:$port", @own);
$redis->{password} = 'secret';
is(join(' ', map { my %f = @{ $_->[1] }; $f{payload} } @{ $redis->redis(qw(XRANGE a - +)) }), $expected, 'redis: events, in order');

# Kafka: TLS, and SASL PLAIN
my $kafka = start_kafka(brokers => 1);
my ($plain) = $kafka->{hosts} =~ /:(\d+)$/;
my $guarded = start_tls($plain, "$dir/here", 'me', 'secret');

certificates('kafka', 'kafka://me:secret@', $guarded, start_tls($plain, "$dir/elsewhere", 'me', 'secret'));
my $check = check("kafka://me:wrong\@localhost:$guarded", '--tls-ca', "$dir/here.crt");
like($check, qr/^failed: [^\n]*no connection to the broker: [^\n]*Authentication failed[^\n]*\n\z/, 'kafka: a wrong password');
unlike($check, qr/wrong/, 'which is not shown');
like(check("kafka://localhost:$guarded", '--tls-ca', "$dir/here.crt"), qr/^failed: [^\n]*no connection to the broker: [^\n]*\n\z/, 'kafka: without one');
like(check("kafka://me:secret\@localhost:$guarded"), qr/^failed: [^\n]*no connection to the broker: [^\n]*\n\z/, 'kafka: without TLS where it is needed');
events_over_tls('kafka', "kafka://me:secret\@localhost:$guarded", '--topic', 'events');
is(join(' ', map { (split /\t/)[6] } $kafka->consume('events', 1000)), $expected, 'kafka: events, in order');

server_is_sound($node);
done_testing();
