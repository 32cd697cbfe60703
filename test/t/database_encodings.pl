# The views show what is in databases of other encodings: converted where that
# is possible, with "?" in the place of what cannot be shown.

use strict;
use warnings;

use PgPubsub::Test;
use Test::More;

my %encoding = (utf8 => 'UTF8', latin1 => 'LATIN1', latin2 => 'LATIN2', ascii => 'SQL_ASCII');
my $node = new_server('encodings', conf => "pgpubsub.max_databases = 8\n");

foreach my $db (sort keys %encoding)
{
	$node->safe_psql('postgres',
		"CREATE DATABASE $db TEMPLATE template0 ENCODING '$encoding{$db}' LC_COLLATE 'C' LC_CTYPE 'C'");
	$node->safe_psql($db, 'CREATE EXTENSION pgpubsub');
	wait_for_relay($node, $db);
}

# Names by their characters, all of which the database's encoding has; to
# SQL_ASCII they are bytes, here those of UTF8.

sub subscribe
{
	my ($db, $client, $name, $channel) = @_;

	$node->safe_psql($db,
		"SET client_encoding = $client; SELECT pgpubsub.subscribe('$name', ARRAY['$channel', '$channel*'], 'drop')");
}
subscribe('utf8', 'UTF8', "\xc3\xa9t\xc3\xa9_\xe2\x82\xac", "caf\xc3\xa9_\xc5\x82");
subscribe('latin1', 'LATIN1', "\xe9t\xe9", "caf\xe9");
subscribe('latin1', 'LATIN1', "\xe9" x 63, "long");
subscribe('latin2', 'LATIN2', "\xe9\xb3", "w\xb3\xe9");
subscribe('ascii', 'SQL_ASCII', "x\xc3\xa9\xff", "y\xff");
$node->safe_psql('latin1', "SET client_encoding = LATIN1; SELECT pgpubsub.publish('caf\xe9', 'x')");

# What a view shows, each name with its bytes checked by the server.
sub shown
{
	my ($db) = @_;
	my $client = $encoding{$db};

	return [ split /\n/, $node->safe_psql($db, qq{
		SET client_encoding = $client;
		SELECT datname || ' ' || upper(subscription::text) || ' ' || channels::text
		  FROM pgpubsub.stat_subscriptions ORDER BY datname, subscription::text COLLATE "C";
		SELECT datname || ' ' || channel FROM pgpubsub.stat_channels
		 WHERE channel ~ '^(caf|w|y)' ORDER BY datname, channel COLLATE "C"}) ];
}

my $e = "\xc3\xa9";
is_deeply(shown('utf8'), [
	"ascii X??? {y?,y?*}",
	"latin1 ${e}T${e} {caf${e},caf${e}*}",
	'latin1 ' . $e x 31 . ' {long,long*}',
	"latin2 ${e}\xc5\x82 {w\xc5\x82${e},w\xc5\x82${e}*}",
	"utf8 ${e}T${e}_\xe2\x82\xac {caf${e}_\xc5\x82,caf${e}_\xc5\x82*}",
	"ascii y?",
	"latin1 caf$e",
	"latin2 w\xc5\x82$e",
	"utf8 caf${e}_\xc5\x82" ], 'in UTF8');
is_deeply(shown('latin1'), [
	"ascii X??? {y?,y?*}",
	"latin1 \xe9T\xe9 {caf\xe9,caf\xe9*}",
	"latin1 " . "\xe9" x 63 . ' {long,long*}',
	"latin2 \xe9? {w?\xe9,w?\xe9*}",
	"utf8 \xe9T\xe9_? {caf\xe9_?,caf\xe9_?*}",
	"ascii y?",
	"latin1 caf\xe9",
	"latin2 w?\xe9",
	"utf8 caf\xe9_?" ], 'in LATIN1');
is_deeply(shown('latin2'), [
	"ascii X??? {y?,y?*}",
	"latin1 \xe9T\xe9 {caf\xe9,caf\xe9*}",
	"latin1 " . "\xe9" x 63 . ' {long,long*}',
	"latin2 \xe9\xb3 {w\xb3\xe9,w\xb3\xe9*}",
	"utf8 \xe9T\xe9_? {caf\xe9_\xb3,caf\xe9_\xb3*}",
	"ascii y?",
	"latin1 caf\xe9",
	"latin2 w\xb3\xe9",
	"utf8 caf\xe9_\xb3" ], 'in LATIN2, by way of UTF8');
is_deeply(shown('ascii'), [
	"ascii X\xc3\xa9\xff {y\xff,y\xff*}",
	'latin1 ' . '?' x 63 . ' {long,long*}',
	'latin1 ?T? {caf?,caf?*}',
	'latin2 ?? {w??,w??*}',
	'utf8 ?T?_? {caf?_?,caf?_?*}',
	"ascii y\xff",
	'latin1 caf?',
	'latin2 w??',
	'utf8 caf?_?' ], 'in SQL_ASCII, which has no characters but those of ASCII');

# other clients read the same
is($node->safe_psql('utf8', "SET client_encoding = LATIN1; SELECT DISTINCT channel FROM pgpubsub.stat_channels WHERE datname = 'latin1' AND channel ~ '^caf.\$'"),
	"caf\xe9", 'a client of another encoding than the database');

$node->stop;
log_is_clean($node);
done_testing();
