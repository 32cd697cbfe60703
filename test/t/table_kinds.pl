# Tables of all kinds: node_name, foreign tables, virtual generated columns,
# quoted and non-ASCII names, and tables and types that other sessions change
# while a session lives whose plans and triggers are cached.

use strict;
use warnings;

use JSON::PP ();
use PgPubsub::Test;
use Test::More;

my $node = new_server('tables', conf => "log_statement = none\n");
$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pgpubsub;
	SELECT pgpubsub.subscribe('reader', '{*}', 'block')});
wait_for_relay($node, 'postgres');
my $writer = client($node);
my $admin  = client($node);
my $json   = JSON::PP->new->utf8->canonical;

# The next so many events, decoded.
sub take
{
	my ($count) = @_;

	return map { { channel => $_->[0], %{ $json->decode($_->[0] eq 'gap' ? '{}' : $_->[1]) } } }
	  $admin->take('reader', $count);
}

# These fields of the next event have these values.
sub next_is
{
	my ($name, %expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($event, @more) = take(1);
	my %got = map { $_ => $event->{$_} } keys %expected;

	is($json->encode(\%got), $json->encode(\%expected), $name);
	is(scalar(@more), 0, "$name: one event");
	return $event;
}

# node_name, also for those who are connected

$admin->run(
	q{CREATE TABLE node (a int);
	  SELECT pgpubsub.attach('node'), pgpubsub.attach('node', 'node d', format => 'debezium'),
	         pgpubsub.attach('node', 'node c', format => 'cloudevents'),
	         pgpubsub.attach('node', 'node s', level => 'statement')});
foreach my $name ('Berlin "1" é', '', 'b')
{
	$node->safe_psql('postgres', qq{ALTER SYSTEM SET pgpubsub.node_name = '$name'});
	$node->reload;
	wait_until(sub { $writer->value('SHOW pgpubsub.node_name') eq $name },
		"node_name '$name'");
	$writer->run('INSERT INTO node VALUES (1)');
	my %events  = map { $_->{channel} => $_ } take(4);
	my $expected = $json->encode([ $name eq '' ? undef : $json->decode("[\"@{[ $name =~ s/\"/\\\"/gr ]}\"]")->[0] ]);

	is($json->encode([ $events{$_}{node} ]), $expected, "node_name '$name', $_")
	  foreach 'node', 'node d', 'node s';
	is($json->encode([ $events{'node c'}{data}{node} ]),
		$expected, "node_name '$name', in a cloud event's data");
	is($json->encode([ $events{'node d'}{source}{name} ]),
		$name eq '' ? $json->encode(['postgres']) : $expected,
		"node_name '$name', as Debezium's name of the server");
	is(exists $events{node}{node} ? 1 : 0,
		$name eq '' ? 0 : 1, 'no field without a name');
}
# bytes that are none of the database's encoding
$node->append_conf('postgresql.auto.conf', "pgpubsub.node_name = 'K\xf6ln'");
$node->reload;
wait_until(sub { $writer->value('SELECT octet_length(current_setting($$pgpubsub.node_name$$))') == 4 },
	'node_name in another encoding');
$writer->run('INSERT INTO node VALUES (1)');
is((map { $_->{node} } grep { $_->{channel} eq 'node' } take(4))[0],
	'K?ln', 'a node_name that is no valid text is made one');
$writer->query("SET pgpubsub.node_name = 'x'");
is($writer->sqlstate, '55P02', 'a session cannot set it');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET pgpubsub.node_name');
$node->reload;

# Quoted, mixed-case and non-ASCII names, with every option that names columns

$admin->run(
	q{CREATE SCHEMA "Ünï ""s""";
	  CREATE TABLE "Ünï ""s"""."Tä,b.le" ("Id" int PRIMARY KEY, "naïve, ""x""" text, "from" text, "日本" text);
	  SELECT pgpubsub.attach('"Ünï ""s"""."Tä,b.le"', 'Çhannel "1", 日本', '{insert,update}',
	     columns => ARRAY['naïve, "x"', '日本'], watch => ARRAY['日本', 'from'], condition => 'NEW."naïve, ""x""" <> $$no$$', old_values => 'full')}
);
$writer->run(
	q{SET search_path = "Ünï ""s""";
	  INSERT INTO "Tä,b.le" VALUES (1, 'no', 'b', 'c'), (2, 'yes', 'b', 'c');
	  UPDATE "Tä,b.le" SET "naïve, ""x""" = 'not watched' WHERE "Id" = 2;
	  UPDATE "Tä,b.le" SET "from" = '日本' WHERE "Id" = 2;
	  RESET search_path});
my $names = $json->decode(
	'{"channel":"Çhannel \"1\", 日本","schema":"Ünï \"s\"","table":"Tä,b.le","n":"naïve, \"x\"","j":"日本"}'
);
my ($insert, $update) = take(2);
foreach my $event ($insert, $update)
{
	is($event->{schema},    $names->{schema}, 'schema');
	is($event->{table},     $names->{table},  'table');
	is($json->encode($event->{key}), '{"Id":2}', 'key');
}
is($json->encode([ $insert->{new} ]),
	$json->encode([ { $names->{n} => 'yes', $names->{j} => 'c' } ]), 'new');
is($json->encode([ $update->{old}, $update->{changed} ]),
	$json->encode([ { $names->{n} => 'not watched', $names->{j} => 'c' }, [] ]),
	'old and changed');
is( $admin->value(
		q{SELECT channel || (options - 'condition')::text FROM pgpubsub.attachments WHERE relation = '"Ünï ""s"""."Tä,b.le"'::regclass}
	),
	'Çhannel "1", 日本{"watch": ["日本", "from"], "columns": ["naïve, \"x\"", "日本"], "old_values": "full"}',
	'the view has the names as they are');

# What another session changes: the writer's plans and trigger are cached

$admin->run(
	q{CREATE TYPE mood AS ENUM ('sad');
	  CREATE TYPE pair AS (a int, b text);
	  CREATE DOMAIN small AS int CHECK (VALUE < 10);
	  CREATE TABLE live (id int PRIMARY KEY, m mood, p pair, s small, ps pair[], r int4range, gone text);
	  SELECT pgpubsub.attach('live', operations => '{insert,update,delete}')});
$writer->run(
	q{PREPARE ins(int) AS INSERT INTO live (id, m, p) VALUES ($1, 'sad', '(1,x)');
	  CREATE FUNCTION upd(int) RETURNS void LANGUAGE plpgsql AS $$BEGIN UPDATE live SET s = coalesce(s, 0) + 1 WHERE id = $1; END$$;
	  CREATE FUNCTION del(int) RETURNS void LANGUAGE plpgsql AS $$BEGIN DELETE FROM live WHERE id = $1; END$$});
my %row = (id => 1, m => 'sad', p => { a => 1, b => 'x' }, s => undef, ps => undef, r => undef, gone => undef);

# a round of cached statements; the row as it is after the first
sub round
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$row{id}++;
	$writer->run("EXECUTE ins($row{id})");
	next_is("$name: insert", op => 'INSERT', new => {%row});
	$writer->run("SELECT upd($row{id})");
	next_is(
		"$name: update",
		op      => 'UPDATE',
		new     => { %row, s => 1 },
		old     => { s => undef },
		changed => ['s']);
	$writer->run("SELECT del($row{id})");
	next_is("$name: delete", op => 'DELETE', old => { %row, s => 1 }, key => { id => $row{id} });
}
round('before') foreach 1 .. 6;    # plans become generic
$admin->run("ALTER TABLE live ADD extra text DEFAULT 'd'");
$row{extra} = 'd';
round('a column more');
$admin->run('ALTER TABLE live DROP gone');
delete $row{gone};
round('a column less');
$admin->run('ALTER TABLE live RENAME extra TO "Extra é"');
$row{ $json->decode('["Extra é"]')->[0] } = delete $row{extra};
round('a column renamed');
$admin->run("ALTER TABLE live ADD g int GENERATED ALWAYS AS (id * 2) STORED");
{
	$row{id}++;
	$row{g} = $row{id} * 2;
	$writer->run("EXECUTE ins($row{id})");
	next_is('a stored generated column', new => {%row});
	$writer->run("UPDATE live SET id = 1000 WHERE id = $row{id}");
	next_is(
		'it changes with what it is made of',
		old     => { id => $row{id}, g => $row{g} },
		key     => { id => 1000 },
		changed => [ 'id', 'g' ]);
}
$admin->run('ALTER TABLE live DROP g');
delete $row{g};
$admin->run(q{ALTER TYPE mood RENAME VALUE 'sad' TO 'glad'});
$admin->run(q{ALTER TYPE mood ADD VALUE 'sad'});
$row{id}++;
$writer->run("EXECUTE ins($row{id}); UPDATE live SET m = 'glad' WHERE id = $row{id}");
is(join(' ', map { $_->{new}{m} } take(2)), 'sad glad', 'an enum with a value renamed and one added');
$writer->run(q{UPDATE live SET p = '(2,y)', ps = '{"(3,z)",NULL}', r = '[1,3]', s = 9 WHERE id = 1000});
next_is(
	'composites, arrays of them, ranges and domains',
	changed => [ 'p', 's', 'ps', 'r' ],
	old     => { p => { a => 1, b => 'x' }, ps => undef, r => undef, s => undef });
$admin->run('ALTER TABLE live DROP p, DROP ps');
$admin->run('ALTER TYPE pair RENAME ATTRIBUTE b TO "B b"');
$admin->run(q{ALTER TABLE live ADD p pair DEFAULT '(1,x)'});
$writer->run('UPDATE live SET s = 8 WHERE id = 1000');
is($json->encode((take(1))[0]{new}{p}), '{"B b":"x","a":1}', 'a composite type with an attribute renamed');
$admin->run('ALTER TABLE live SET SCHEMA "Ünï ""s"""');
$writer->run('UPDATE "Ünï ""s""".live SET s = 7 WHERE id = 1000');
next_is('a table in another schema now', schema => $names->{schema}, table => 'live');

# A partition's columns may lie in another order, and change

$admin->run(
	q{CREATE TABLE part (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
	  CREATE TABLE part_1 (gone int, v text, id int NOT NULL);
	  ALTER TABLE part_1 DROP gone;
	  ALTER TABLE part ATTACH PARTITION part_1 FOR VALUES FROM (0) TO (10);
	  SELECT pgpubsub.attach('part', watch => '{v}')});
$writer->run('PREPARE part(int) AS INSERT INTO part VALUES ($1, $$v$$)');
$writer->run('EXECUTE part(1)');
next_is('a partition', partition => 'part_1', new => { id => 1, v => 'v' });
$admin->run('CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20)');
$writer->run('EXECUTE part(11)');
next_is('one that came later', partition => 'part_2', table => 'part');
$admin->run('ALTER TABLE part ADD w int DEFAULT 5');
$writer->run('EXECUTE part(2)');
next_is('a column more', partition => 'part_1', new => { id => 2, v => 'v', w => 5 });
$admin->run('ALTER TABLE part DETACH PARTITION part_1; SELECT pgpubsub.attach($$part_1$$, $$alone$$)');
$writer->run("INSERT INTO part_1 VALUES ('x', 3, 6)");
next_is('one that is none any more', channel => 'alone', table => 'part_1', new => { id => 3, v => 'x', w => 6 });

# Virtual generated columns are left out, and cannot be asked for

SKIP:
{
	skip 'virtual generated columns came with 18', 8
	  if $node->pg_version < 18;
	$admin->run(
		q{CREATE TABLE virt (id int PRIMARY KEY, a int, v int GENERATED ALWAYS AS (a * 2) VIRTUAL, s int GENERATED ALWAYS AS (a * 3) STORED);
		  SELECT pgpubsub.attach('virt')});
	$writer->run('INSERT INTO virt VALUES (1, 2)');
	next_is('a virtual column is left out', new => { id => 1, a => 2, s => 6 });
	$writer->run('UPDATE virt SET a = 3');
	next_is('also from what changed', old => { a => 2, s => 6 }, changed => [ 'a', 's' ]);
	foreach my $option ('columns', 'watch')
	{
		$admin->query("SELECT pgpubsub.attach('virt', $option => '{v}')");
		is($admin->sqlstate, '0A000', "$option cannot name it");
		like($admin->{error}{M}, qr/"v" is a virtual generated column/, 'and says why');
	}
}

# Foreign tables: a write through this server is an event

SKIP:
{
	my $available = $admin->value(
		"SELECT count(*) = 2 FROM pg_available_extensions WHERE name IN ('postgres_fdw', 'file_fdw')"
	);
	skip 'no postgres_fdw and file_fdw here', 1 if $available eq 'f';
	my ($host, $port) = ($node->host, $node->port);

	$admin->run(
		qq{CREATE EXTENSION postgres_fdw;
		   CREATE EXTENSION file_fdw;
		   CREATE SERVER self FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
		   CREATE USER MAPPING FOR PUBLIC SERVER self OPTIONS (user '} . $admin->value('SELECT current_user') . qq{');
		   CREATE TABLE behind (id int PRIMARY KEY, v text, "W w" jsonb);
		   CREATE FOREIGN TABLE front (id int, "V v" text OPTIONS (column_name 'v'), "W w" jsonb) SERVER self OPTIONS (table_name 'behind');
		   CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
		   CREATE FOREIGN TABLE file (a text) SERVER files OPTIONS (filename '/dev/null');
		   SELECT pgpubsub.attach('front'), pgpubsub.attach('file')});
	$writer->run(q{INSERT INTO front VALUES (1, 'x', '{"a":1}')});
	next_is('a foreign table', op => 'INSERT', table => 'front', new => { id => 1, 'V v' => 'x', 'W w' => { a => 1 } });
	$writer->run(q{UPDATE front SET "V v" = 'y'});
	my $event = next_is('its update', old => { 'V v' => 'x' }, changed => ['V v']);
	ok(!exists $event->{key}, 'it has no key');
	$writer->run('DELETE FROM front');
	next_is('its delete', op => 'DELETE', old => { id => 1, 'V v' => 'y', 'W w' => { a => 1 } });
	$writer->run("INSERT INTO behind VALUES (2)");
	$admin->query(q{SELECT pgpubsub.attach('front', level => 'statement')});
	is($admin->sqlstate, '0A000', 'no statement level');
	like($admin->{error}{M}, qr/does not support foreign tables/, 'and says why');
	$writer->query("INSERT INTO file VALUES ('x')");
	is($writer->sqlstate, '0A000', 'what cannot be written makes no event');
	is_quiet($node, 'postgres', 'reader', 'a write behind a foreign table is no event');
}

# What cannot be attached

$admin->run(
	q{CREATE VIEW a_view AS SELECT 1 AS a;
	  CREATE TEMP TABLE own_temp (a int);
	  CREATE UNLOGGED TABLE unlogged (a int)});
$writer->run('CREATE TEMP TABLE their_temp (a int)');
my $temp = $writer->value("SELECT 'their_temp'::regclass::oid");
$admin->query("SELECT pgpubsub.attach('a_view')");
is($admin->sqlstate, '42809', 'a view');
$admin->query("SELECT pgpubsub.attach($temp, 'x')");
is($admin->sqlstate, '0A000', "another session's temporary table");
like($admin->{error}{M}, qr/temporary table of another session/, 'says so');
$admin->run("SELECT pgpubsub.attach('own_temp'), pgpubsub.attach('unlogged')");
$admin->run('INSERT INTO own_temp VALUES (1)');
next_is('a temporary table of its own', table => 'own_temp', new => { a => 1 });
$writer->run('INSERT INTO unlogged VALUES (1)');
next_is('an unlogged table', table => 'unlogged', new => { a => 1 });

$_->quit foreach $writer, $admin;
$node->stop;
server_is_sound($node);
log_is_clean(
	$node,
	qr/ERROR:  parameter "pgpubsub.node_name" cannot be changed now/,
	qr/ERROR:  .* is a virtual generated column/,
	qr/ERROR:  level statement does not support foreign tables/,
	qr/ERROR:  cannot insert into foreign table "file"/,
	qr/ERROR:  "a_view" is not a table/,
	qr/ERROR:  "their_temp" is a temporary table of another session/);
done_testing();
