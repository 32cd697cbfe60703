# A headless Chromium that tests tell what to do, over a pair of pipes and in the
# DevTools protocol: a page with a stream is never done, so that --dump-dom waits for ever.

package PgPubsub::Browser;

use strict;
use warnings;

use Exporter 'import';
use IO::Select;
use JSON::PP;
use POSIX ();

our @EXPORT = qw(browser_program start_browser);

# The Debian package chromium has it; undef if it is not there.
sub browser_program { return (grep { system("command -v $_ >/dev/null") == 0 } qw(chromium chromium-browser))[0]; }

# Start one that keeps what it must in that directory, with an empty page.
sub start_browser
{
	my ($dir) = @_;

	pipe my $its_in, my $out or die "pipe: $!";
	pipe my $in, my $its_out or die "pipe: $!";
	my $pid = fork // die "fork: $!";
	if (!$pid)
	{
		# it reads commands from 3 and writes answers to 4
		POSIX::dup2(fileno $its_in, 23);
		POSIX::dup2(fileno $its_out, 24);
		POSIX::dup2(23, 3);
		POSIX::dup2(24, 4);
		POSIX::close($_) foreach 23, 24;
		open STDOUT, '>', "$dir/browser.log" or die "$dir/browser.log: $!";
		open STDERR, '>&', \*STDOUT or die $!;
		exec browser_program(), '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--hide-scrollbars',
		  "--user-data-dir=$dir/browser", '--remote-debugging-pipe', 'about:blank'
		  or POSIX::_exit(1);
	}
	close $its_in;
	close $its_out;
	my $self = bless { pid => $pid, in => $in, out => $out, buffer => '', number => 0, errors => [] }, __PACKAGE__;
	my $target = $self->tell('Target.createTarget', { url => 'about:blank' })->{targetId};

	$self->{session} = $self->tell('Target.attachToTarget', { targetId => $target, flatten => JSON::PP::true })->{sessionId};
	$self->tell($_) foreach qw(Runtime.enable Log.enable Page.enable);
	return $self;
}

# The next message.
sub message
{
	my ($self) = @_;

	my $end;
	while (($end = index $self->{buffer}, "\0") < 0)
	{
		die 'the browser has said nothing in time' unless IO::Select->new($self->{in})->can_read(60);
		sysread $self->{in}, $self->{buffer}, 65536, length $self->{buffer} or die 'the browser has ended';
	}
	my $message = substr $self->{buffer}, 0, $end;

	$self->{buffer} = substr $self->{buffer}, $end + 1;
	return decode_json($message);
}

# Give a command, and return its result; what goes wrong in the page is kept.
sub tell
{
	my ($self, $method, $parameters) = @_;
	my $number = ++$self->{number};
	my %command = (id => $number, method => $method, params => $parameters // {});

	$command{sessionId} = $self->{session} if $self->{session};
	local $SIG{PIPE} = 'IGNORE';
	syswrite $self->{out}, encode_json(\%command) . "\0";
	while (1)
	{
		my $message = $self->message;

		if (defined $message->{id} && $message->{id} == $number)
		{
			die "$method: " . encode_json($message->{error}) if $message->{error};
			return $message->{result};
		}
		push @{ $self->{errors} }, encode_json($message->{params})
		  if ($message->{method} // '') =~ /^(?:Runtime\.exceptionThrown|Log\.entryAdded|Page\.javascriptDialogOpening)$/;
	}
}

# What the page has said of errors, and of what it was not allowed.
sub errors { my ($self) = @_; return join "\n", @{ $self->{errors} }; }

sub open_page { my ($self, $url) = @_; return $self->tell('Page.navigate', { url => $url }); }

# The value of an expression in the page.
sub value { my ($self, $expression) = @_; return $self->tell('Runtime.evaluate', { expression => $expression, returnByValue => JSON::PP::true })->{result}{value}; }

# The page's size; dark: as who prefers it dark sees it.
sub set_view
{
	my ($self, $width, $height, $dark) = @_;

	$self->tell('Emulation.setDeviceMetricsOverride', { width => $width, height => $height, deviceScaleFactor => 1, mobile => JSON::PP::false });
	$self->tell('Emulation.setEmulatedMedia', { features => [ { name => 'prefers-color-scheme', value => $dark ? 'dark' : 'light' } ] });
	return;
}

# A picture of it, as the bytes of a PNG in base64.
sub picture { my ($self) = @_; return $self->tell('Page.captureScreenshot', { format => 'png' })->{data}; }

sub stop
{
	my ($self) = @_;

	return unless $self->{pid};
	eval { $self->{session} = undef; $self->tell('Browser.close') };
	close $self->{out};
	kill 'TERM', $self->{pid};
	waitpid $self->{pid}, 0;
	$self->{pid} = 0;
	return;
}

sub DESTROY { my ($self) = @_; local ($?, $@); $self->stop; return; }

1;
