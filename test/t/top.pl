# scripts/top: what it shows of a queue that is full, on 80 columns, and what it says
# where it can show nothing.

use strict;
use warnings;

use PgPubsub::Client;
use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('top', conf => q{
pgpubsub.queue_size = 64kB
pgpubsub.publish_timeout = 1min
log_statement = none
});
$node->safe_psql('postgres', q{
CREATE DATABASE elsewhere;
CREATE EXTENSION pgpubsub;
CREATE ROLE nobody_special LOGIN;
SELECT pgpubsub.set_durable('kept');
SELECT pgpubsub.subscribe(repeat('l', 63), '{orders}', 'block'), pgpubsub.subscribe('reader', '{kept,more}', 'drop');
SELECT pgpubsub.publish('kept', 'x'), pgpubsub.publish('more', 'y');
});
my $admin = client($node);
my $writer = client($node);

$writer->begin(q{SELECT count(pgpubsub.publish('orders', i || repeat(' ', 1000))) FROM generate_series(1, 200) AS i});
$admin->wait_for_queue("relay_state = 'full'");

# What it says on its standard output and on the other one.
sub top
{
	my @args = @_;
	my ($out, $err);

	local $ENV{TOP_EVERY} = 0.2;
	IPC::Run::run([ 'scripts/top', '-h', $node->host, '-p', $node->port, @args ],
		'<', \undef, '>', \$out, '2>', \$err);
	return ($out, $err);
}

my ($out, $err);
{
	local $ENV{TOP_LOOKS} = 2;
	($out, $err) = top('-d', 'postgres');
}
is($err, '', 'it has nothing to complain of');
is(join("\n", grep { length > 80 } split /\n/, $out), '', 'all is on 80 columns');
is(scalar(() = $out =~ /^QUEUE /mg), 2, 'it looks as often as it is told to');
like($out, qr/^postgres +full +64 kB +\d+% +\d+s +0 *$/m, 'the first look has no rates');
like($out, qr/.*^postgres +full +0 +0 +64 kB +\d+% +\d+s +0 *$/ms, 'the next one has');
like($out, qr/^postgres +1 of 8 +1024 MB +0% +\d+s +0 *$/m, 'the log');
like($out, qr/^l{17} +holding +block +\d+ +\d+ kB +\d+s +0 *\n^reader +idle +drop +1 +1 B +\d+s +1 *$/m,
	'the subscriptions, first the one that holds the others');

{
	local $ENV{TOP_ROWS} = 1;
	local $ENV{TOP_LOOKS} = 1;
	($out, $err) = top('-d', 'postgres');
	unlike($out, qr/^reader/m, 'as many subscriptions as there is room for');
	($out, $err) = top('-d', 'elsewhere');
	like($err, qr/database "elsewhere" does not have the extension pgpubsub: connect to one that has it/, 'a database without the extension');
	($out, $err) = top('-d', 'postgres', '-U', 'nobody_special');
	like($err, qr/role "nobody_special" may not see what goes on/, 'a role that may not look');
	local $ENV{TOP_ROWS} = 'many';
	($out, $err) = top('-d', 'postgres');
	like($err, qr/"many" is no number/, 'a setting that is no number');
}

$admin->run(q{SELECT pgpubsub.unsubscribe(repeat('l', 63))});
$writer->finish;
$writer->quit;
$admin->quit;
$node->stop;
done_testing();
