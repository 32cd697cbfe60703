# README.md and the pages in doc/ say what is true: every ```sql block of a page
# is run, in order, by one psql -q as superuser of a database "shop"; an
# untagged ``` block that follows is its output, and must be what psql wrote.
# A block without one must run without error.  Each page has a server of its
# own, so that its examples can be followed without those of another page.
#
# What differs from run to run is masked on both sides, see masked(), and
# white space does not count, so that a page can fold long lines.
#
# Events take a moment to reach the queue.  Before a statement that looks at
# it, the script waits until the relay has handled all that was committed; a
# reader of the page is slower than that.
#
# Where the text before a block has a line "pg_ctl restart ...", the server is
# restarted, in mode immediate, and psql connects again.
#
# Leaves the pages with the output of this run in its results: in changed/
# where it differs, in all/ everywhere.  scripts/documents takes them over from
# one of the two.

use strict;
use warnings;
use File::Basename qw(basename dirname);
use File::Path qw(make_path);
use FindBin;

use PgPubsub::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $width = 110;                          # a page's lines of output
my $results = "$PostgreSQL::Test::Utils::tmp_check/documents";
my $tree = "$FindBin::RealBin/../..";

# Columns whose values are another in each run: numbers of sequence, process
# and transaction, times, sizes of what holds such numbers; and who runs it.
my $varying =
  qr/^(?:seq|oldest_seq|newest_seq|pid|relay_pid|\w+_bytes|\w+_at|\w+_ms|\w+_seconds|stats_reset|notify_queue_usage|owner)$/;

# How many events fill the queue depends on the bytes of those before them.
my $many = qr/^(?:pending|lost)$/;

my @pages = grep { slurp_file("$tree/$_") =~ /^```sql$/m }
  map { substr($_, length("$tree/")) } "$tree/README.md",
  glob("$tree/doc/*.md");
my $count = 0;

mkdir $results;
foreach my $page (@pages)
{
	$count += check_page($page);
}
cmp_ok($count, '>', 50, 'the pages have blocks of sql');
diag("scripts/documents puts into the pages what was written instead")
  unless Test::More->builder->is_passing;
done_testing();

# Run the blocks of a page, compare, write the page with its new outputs, and
# return how many blocks it has.
sub check_page
{
	my ($page) = @_;

	# text, and references to blocks: their line, sql, and output (undef if the
	# page shows none)
	my @parts = split_page(slurp_file("$tree/$page"));
	my @blocks = grep { ref } @parts;
	my $name = lc(basename($page, '.md'));
	my $place = "$results/$name";
	my $node = new_server("documents_$name");

	mkdir $place;
	$node->safe_psql('postgres', 'CREATE DATABASE shop');
	my @outputs = run_blocks($node, $place, @blocks);

	for my $i (0 .. $#blocks)
	{
		my ($block, $output) = ($blocks[$i], $outputs[$i]);
		my $what = "$page, sql at line $block->{line}";

		if (defined $block->{output})
		{
			$block->{new} = folded($output);
			$block->{same} =
			  is(masked($output), masked($block->{output}), $what);
			diag("psql wrote:\n$block->{new}") unless $block->{same};
		}
		else
		{
			unlike($output, qr/^(?:ERROR|FATAL|WARNING):|^invalid command/m,
				$what);
		}
	}
	write_page("$results/changed/$page", 0, @parts);
	write_page("$results/all/$page", 1, @parts);
	$node->stop;
	return scalar @blocks;
}

# Text and blocks in turn.
sub split_page
{
	my ($text) = @_;
	my @found;
	my $at = 0;

	while ($text =~ /^```sql\n(.*?)^```\n(?:\n```\n(.*?)^```\n)?/gms)
	{
		my ($sql, $output, $from, $to) = ($1, $2, $-[0], $+[0]);
		my $before = substr($text, 0, $from);

		push @found, substr($text, $at, $from - $at),
		  {
			sql     => $sql,
			output  => $output,
			line    => 1 + ($before =~ tr/\n//),
			restart => substr($text, $at, $from - $at) =~ /^pg_ctl restart /m
		  };
		$at = $to;
	}
	push @found, substr($text, $at);
	return @found;
}

# The statements of a block, each with its backslash command if it ends with
# one: a line that ends with a semicolon or has a backslash command is a last
# one.
sub statements
{
	my ($sql) = @_;
	my @found = ('');

	foreach my $line (split /^/, $sql)
	{
		$found[-1] .= $line;
		push @found, '' if $line =~ /(?:;|\\\w+[^;]*)\s*(?:--.*)?$/;
	}
	return grep { /\S/ } @found;
}

# Run them all on this server, with files in that place, and return the output
# of each.
sub run_blocks
{
	my ($node, $place, @run) = @_;
	my $script = "$place/script.sql";
	my $log = "$place/output";
	my $settle = "$place/settle";
	my $reloaded = "$place/reloaded";
	my $restart = "$place/restart";
	my $sql = '';

	write_file($settle, <<'END');
psql -X -q -d shop -o /dev/null </dev/null 2>/dev/null \
	-c BEGIN -c "SET pgpubsub.publish_timeout = '60s'" \
	-c "SELECT pgpubsub.subscribe('settle', '{orders}', temporary => true)" \
	-c ROLLBACK
END

	# a reload has reached all sessions once a new one knows of it
	write_file($reloaded, <<'END');
until [ "$(psql -X -A -t -d shop -c 'SELECT pg_conf_load_time()' </dev/null)" != "$LOADED" ]
do :; done
END
	write_file($restart,
		    "pg_ctl restart -w -m immediate -D '@{[$node->data_dir]}'"
		  . " -l '@{[$node->logfile]}' >'$restart.log' 2>&1\n");
	for my $i (0 .. $#run)
	{
		$sql .= "\\! sh '$restart'\n\\c\n" if $run[$i]{restart};
		$sql .= "\\echo \@\@\@ $i\n";
		foreach my $statement (statements($run[$i]{sql}))
		{
			$sql .= "\\! sh '$settle'\n"
			  if $statement =~ /pgpubsub\.(?:poll|ack|stat_)/;
			$sql .= "SELECT pg_conf_load_time() AS loaded \\gset\n"
			  . "\\setenv LOADED :loaded\n"
			  if $statement =~ /pg_reload_conf/;
			$sql .= $statement;
			$sql .= "\\! sh '$reloaded'\n" if $statement =~ /pg_reload_conf/;
		}
	}
	write_file($script, $sql);

	local %ENV = %ENV;
	$ENV{PGHOST} = $node->host;
	$ENV{PGPORT} = $node->port;
	system("psql -X -q -d shop <'$script' >'$log' 2>&1") == 0
	  or die "psql failed: see $log";

	my @parted = split /^\@\@\@ \d+\n/m, slurp_file($log);
	shift @parted;
	s/\n+\z/\n/ foreach @parted;
	return @parted;
}

# The output without what differs from run to run, and without white space.
sub masked
{
	my ($text) = @_;
	my @columns;

	# long lines are folded
	$text =~ s/,\n {8}(?=\S)/,/g;

	# with \x, one column a line
	$text =~ s/^(\w+)( +\| ).+$/$1 =~ $varying ? "$1$2<$1>" : $&/gme;

	# tables: the line before a ruler has the names of the columns
	my @lines = split /\n/, $text;
	for my $i (0 .. $#lines)
	{
		my @cells = split /\|/, $lines[$i];

		s/^\s+|\s+$//g foreach @cells;
		@columns = @cells if ($lines[$i + 1] // '') =~ /^-[-+]*$/;
		@columns = () if $lines[$i] =~ /^\(\d+ rows?\)$/;
		next if @cells != @columns || $lines[$i] =~ /^-/;
		for my $j (0 .. $#cells)
		{
			$cells[$j] = "<$columns[$j]>"
			  if $columns[$j] =~ $varying && $cells[$j] =~ /\d/
			  || $columns[$j] =~ $many && $cells[$j] =~ /^\d{3,}$/;
		}
		$lines[$i] = join '|', @cells;
	}
	$text = join "\n", @lines;

	# members of events: transaction, process, times
	$text =~ s/("id":")\d+-/$1<txid>-/g;
	$text =~ s/("(?:txid|txId|pid|ts_ms)":)\d+/$1<number>/g;

	# anywhere
	$text =~ s/\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d(?::?\d\d)?)/<time>/g;
	$text =~ s/\b(PID|pid|process) \d+/$1 <pid>/gi;
	$text =~ s/\d+ messages, \d+ bytes and [\d.]+ s/<backlog>/g;
	$text =~ s/\b1[78]\d{14}\b/<seq>/g;

	$text =~ s/-{3,}/---/g;
	$text =~ s/\s+//g;
	return $text;
}

# The output as a page shows it: no rulers and headers wider than its lines,
# and longer lines folded at a comma.
sub folded
{
	my ($text) = @_;
	my $result = '';

	foreach my $line (split /\n/, $text)
	{
		$line =~ s/\s+$//;
		if ($line =~ /^-[-+]*-{40,}$/)
		{
			$line = substr($line, 0, $width);
		}
		elsif (length $line > $width || $line =~ / {40,}\w+$/)
		{
			$line =~ s/ {20,}(\w+)$/ $1/;
		}
		while (length $line > $width)
		{
			my $comma = rindex($line, ',', $width - 1);

			last if $comma < 20 || index($line, '|', $comma) >= 0;
			$result .= substr($line, 0, $comma + 1) . "\n";
			$line = ' ' x 8 . substr($line, $comma + 1);
		}
		$result .= "$line\n";
	}
	return $result;
}

# A page with the outputs of this run, all of them or those that differ.
sub write_page
{
	my ($path, $all, @parts) = @_;

	make_path(dirname($path));
	open my $out, '>', $path or die "could not write $path: $!";
	foreach my $part (@parts)
	{
		if (!ref $part)
		{
			print $out $part;
			next;
		}
		print $out "```sql\n$part->{sql}```\n";
		next unless defined $part->{output};
		print $out "\n```\n",
		  $all || !$part->{same} ? $part->{new} : $part->{output}, "```\n";
	}
	close $out;
}

sub write_file
{
	my ($path, $text) = @_;

	open my $out, '>', $path or die "could not write $path: $!";
	print $out $text;
	close $out;
}
