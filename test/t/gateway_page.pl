# The gateway's page: who may look, what its answers forbid, the numbers as JSON
# and as a stream, and what a browser shows of names that are HTML.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256 sha256_base64);
use JSON::PP;
use MIME::Base64 qw(decode_base64 encode_base64url);
use PgPubsub::Browser;
use PgPubsub::Gateway;
use PgPubsub::Http;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('page');
my $secret = 'a secret of thirty-two bytes, or more';
my $dir = PostgreSQL::Test::Utils::tempdir();

prepare_server($node, sql => q{
	CREATE ROLE looker LOGIN PASSWORD 'secret' IN ROLE pg_monitor;
	CREATE ROLE web LOGIN PASSWORD 'secret';
}, hba => "local all all scram-sha-256\n");
append_to_file("$dir/secret", "$secret\n");

my $http = PostgreSQL::Test::Cluster::get_free_port();
my $gateway = start_gateway($node, user => 'gateway', login => 0, options => [ '--http', "127.0.0.1:$http", '--jwt-key', "$dir/secret", '--name', 'gateway-one' ]);

sub ask { return http_ask($http, @_) }

sub token
{
	my $text = join '.', map { encode_base64url(encode_json($_)) } { alg => 'HS256' }, { exp => int(time) + 600, @_ };

	return http_bearer("$text." . encode_base64url(hmac_sha256($text, $secret)));
}

my $looker = http_basic('looker', 'secret');
my $web = http_basic('web', 'secret');
my $monitor = token(monitor => JSON::PP::true);
my $events = 'Accept: text/event-stream';

# Who may look
foreach my $path ('/', '/stats')
{
	is(ask('GET', $path)->{status}, 401, "$path: nobody");
	like(ask('GET', $path)->{headers}, qr/^WWW-Authenticate: Basic/m, "$path: a browser is told to ask");
	is(ask('GET', $path, [ http_basic('looker', 'wrong') ])->{status}, 401, "$path: a wrong password");
	is(ask('GET', $path, [$web])->{status}, 403, "$path: a role that is no member of pg_monitor");
	is(ask('GET', $path, [$looker])->{status}, 200, "$path: one that is");
	is(ask('GET', $path, [$web])->{status}, 403, "$path: it lets no other role in");
	is(ask('GET', $path, [ token(channels => ['*']) ])->{status}, 403, "$path: a token for channels");
	is(ask('GET', $path, [ token(monitor => 'true') ])->{status}, 403, "$path: a token whose claim is no boolean");
	is(ask('GET', $path, [$monitor])->{status}, 200, "$path: a token with the claim");
	is(ask('POST', $path, [$looker], '')->{status}, 405, "$path: POST");
}
is(ask('HEAD', '/', [ $looker, 'Connection: close' ])->{body}, '', 'HEAD has no body');

# What the page may do
my $answer = ask('GET', '/', [$looker]);
my ($policy) = $answer->{headers} =~ /^Content-Security-Policy: (.*)\r$/m;
my %policy = map { split / /, $_, 2 } split /; /, $policy;
my ($script) = $answer->{body} =~ m{<script>(.*)</script>}s;
my ($style) = $answer->{body} =~ m{<style>(.*)</style>}s;

like($answer->{headers}, qr/^Content-Type: text\/html; charset=utf-8\r$/m, 'the page is HTML');
like($answer->{headers}, qr/^Cache-Control: no-store\r$/m, 'and not kept');
is_deeply(
	\%policy,
	{
		'default-src' => "'none'", 'connect-src' => "'self'", 'base-uri' => "'none'", 'form-action' => "'none'", 'frame-ancestors' => "'none'",
		'script-src' => "'sha256-" . sha256_base64($script) . "='", 'style-src' => "'sha256-" . sha256_base64($style) . "='" },
	'its policy allows its own script and style, and no other host');
unlike($answer->{body}, qr/innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b/, 'names are never HTML');
unlike($answer->{body} =~ s{http://www\.w3\.org/2000/svg}{}r, qr{https?://}, 'there is no foreign host');
is(-s 'programs/gateway/page.html', length $answer->{body}, 'it is the file, whole') if -e 'programs/gateway/page.html';

# The numbers
my $evil = q{<script>document.title='evil'</script>};

$node->safe_psql(
	'postgres', qq{
	SELECT pgpubsub.subscribe('<img src=x onerror=alert(1)>', ARRAY[\$\$$evil\$\$], on_full => 'block');
	SELECT pgpubsub.subscribe('orders', '{orders}');
	SELECT count(pgpubsub.publish(\$\$$evil\$\$, repeat('x', 1000))) FROM generate_series(1, 500);
	SELECT count(pgpubsub.publish('orders', i::text)) FROM generate_series(1, 7) AS i;
});
my $numbers;

sub numbers
{
	$numbers = decode_json(ask('GET', '/stats', [$looker])->{body});
	return $numbers;
}

sub find { my ($key, $name) = @_; return (grep { $_->{$key} eq $name } @{ $numbers->{server}{"${key}s"} })[0]; }
wait_until(sub { numbers(); (find('channel', 'orders') // {})->{published} }, 'events are counted');
is($numbers->{error}, undef, 'the server was asked');
is(find('channel', 'orders')->{published}, 7, 'a channel');
is(find('subscription', 'orders')->{pending}, 7, 'a subscription');
cmp_ok(find('subscription', 'orders')->{lag}, '>', 0, 'its lag');
is(find('subscription', '<img src=x onerror=alert(1)>')->{on_full}, 'block', 'a name that is HTML');
is($numbers->{server}{queue}{relay_state}, 'listening', 'the queue');
is($numbers->{gateway}{up}, JSON::PP::true, 'the gateway');

# The stream
my $stream = http_stream($http, '/stats', [ $looker, $events ]);

like($stream->{head}, qr/^Content-Type: text\/event-stream\r$/m, 'a stream');
my @objects = map { decode_json($stream->event->{data}) } 1 .. 6;
cmp_ok($objects[2]{at}, '>', $objects[1]{at}, 'goes on');

# (the server may have been slow to answer the first)
cmp_ok($objects[5]{at} - $objects[1]{at}, '>=', 1500, 'once a second');
my $by_token = http_stream($http, '/stats', [ $monitor, $events ]);
ok(decode_json($by_token->event->{data})->{gateway}, 'by a token');
$node->safe_psql('postgres', 'REVOKE pg_monitor FROM looker');
like($stream->rest, qr/\A(?:data: \{.*\}\n\n)*\z/, 'a stream ends when its role may not look any more');
is(ask('GET', '/stats', [$looker])->{status}, 403, 'nor may it ask again');
ok(decode_json($by_token->event->{data})->{server}, 'the other one goes on');
$node->safe_psql('postgres', 'GRANT pg_monitor TO looker');
$by_token = http_short_stream($http, '/stats', sub { token(monitor => JSON::PP::true, exp => shift) }, $events);
like($by_token->rest, qr/\}\n\n\z/, 'a stream ends with its token');

# Nobody looks: the server is not asked
ok(
	wait_until(
		sub {
			return $node->safe_psql('postgres', q{
				SELECT count(*) FROM pg_stat_activity
				 WHERE usename = 'gateway' AND query LIKE 'SELECT json_build_object%' AND query_start > now() - interval '3 s'}) eq '0';
		},
		'no look for three seconds'),
	'the server is not asked while nobody looks');

# In a browser
SKIP:
{
	skip 'chromium is not there (Debian package chromium)', 1 if !defined browser_program();
	my $browser = start_browser($dir);
	my $shown = sub { return $browser->value("document.getElementById('$_[0]').textContent") };

	$browser->set_view(1400, 1050);
	$browser->open_page("http://looker:secret\@127.0.0.1:$http/");
	ok(wait_until(sub { ($browser->value(q{document.getElementById('subscriptions')?.rows.length}) // 0) >= 3 }, 'rows'), 'rows appear');
	is($shown->('state'), 'live', 'the page is live');
	is($browser->value(q{document.querySelectorAll('tbody th').length}), $browser->value(q{document.querySelectorAll('tbody tr').length}), 'each row has a header');
	like($shown->('subscriptions'), qr/<img src=x onerror=alert\(1\)>/, "a subscription's name is text");
	like($shown->('channels'), qr/\Q$evil\E/, "a channel's name is text");
	is($browser->value(q{document.querySelectorAll('main script, main img').length}), 0, 'and no element');
	is($browser->value('document.title'), 'pgpubsub', 'nothing of it ran');
	is($shown->('holder'), '<img src=x onerror=alert(1)>', 'who keeps the queue');
	$node->safe_psql('postgres', q{SELECT count(pgpubsub.publish('orders', i::text)) FROM generate_series(1, 3) AS i});
	ok(wait_until(sub { $shown->('channels') =~ /orders1\D*10/ }, 'live'), 'it is live') or diag $shown->('channels');
	$browser->set_view(400, 900);
	cmp_ok($browser->value('document.documentElement.scrollWidth'), '<=', 400, 'it fits a telephone');
	is($browser->errors, '', 'the policy lets the page do what it does');
	take_pictures($browser) if $ENV{PGPUBSUB_PICTURE};
	$browser->stop;
}

# Pictures for the documentation, of something that goes on.
sub take_pictures
{
	my ($browser) = @_;

	$node->safe_psql('postgres', q{
		SELECT pgpubsub.unsubscribe('<img src=x onerror=alert(1)>');
		SELECT pgpubsub.subscribe('billing', '{orders,stock}', on_full => 'block');
		SELECT pgpubsub.subscribe('reports', '{*}', on_full => 'evict');
		SELECT count(*) FROM pgpubsub.poll('orders', 1000);});
	foreach my $i (1 .. 40)
	{
		$node->safe_psql('postgres', "SELECT count(pgpubsub.publish((ARRAY['orders','stock','customers'])[i % 3 + 1], i || repeat('x', 600))) FROM generate_series(1, 100 + (random() * 400)::int) AS i;"
			  . " SELECT count(*) FROM pgpubsub.poll('reports', 300)");
		select undef, undef, undef, 0.8;
	}
	foreach my $view ([ 1200, 860, 0 ], [ 1200, 860, 1 ], [ 400, 1500, 0 ])
	{
		$browser->set_view(@$view);
		my $file = "$ENV{PGPUBSUB_PICTURE}-" . join('-', @$view) . '.png';

		open my $png, '>:raw', $file or die "$file: $!";
		print $png decode_base64($browser->picture);
		close $png or die $!;
	}
	return;
}

# Without the server
$stream = http_stream($http, '/stats', [ $monitor, $events ]);
$node->stop('immediate');
my $object;
do { $object = decode_json($stream->event->{data}) } until !defined $object->{server};
like($object->{error}, qr/the server|terminat|connection/i, 'who looks is told that the server is away');
is(ask('GET', '/stats', [$monitor])->{status}, 200, "the gateway's own numbers are there");
is($gateway->stop, 0, 'the gateway ends well');
unlike($gateway->log, qr/Sanitizer|runtime error/, 'nothing was wrong inside');
done_testing();
