# Requests over HTTP to a gateway, on raw sockets, and streams of events.

package PgPubsub::Http;

use strict;
use warnings;

use Exporter 'import';
use IO::Socket::INET;
use MIME::Base64 qw(encode_base64);

our @EXPORT = qw(
  http_ask
  http_basic
  http_bearer
  http_connection
  http_request
  http_stream
);

# Headers that say who asks.
sub http_basic { my ($user, $password) = @_; return 'Authorization: Basic ' . encode_base64("$user:$password", ''); }
sub http_bearer { return 'Authorization: Bearer ' . shift; }

# A connection on which nothing was said.
sub http_connection
{
	my ($port) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die "could not connect: $!";

	return bless { socket => $socket, buffer => '' }, 'PgPubsub::HttpConnection';
}

# A request, whose headers have no ends.
sub http_request
{
	my ($method, $target, $headers, $body) = @_;
	my @headers = @{ $headers // [] };

	unshift @headers, 'Host: 127.0.0.1' unless grep { /^Host:/ } @headers;
	push @headers, 'Content-Length: ' . length $body if defined $body;
	return join("\r\n", "$method $target HTTP/1.1", @headers, '', '') . ($body // '');
}

# The answer to one request on a connection of its own.
sub http_ask
{
	my ($port, @request) = @_;
	my $connection = http_connection($port);

	$connection->put(http_request(@request));
	return $connection->answer;
}

# A stream whose answer has begun.
sub http_stream
{
	my ($port, $target, $headers) = @_;
	my $connection = http_connection($port);

	$connection->put(http_request('GET', $target, $headers));
	my $answer = $connection->head;
	die "no stream: $answer->{headers}" unless $answer->{status} == 200;
	return $connection;
}

package PgPubsub::HttpConnection;

use strict;
use warnings;
use IO::Select;
use PostgreSQL::Test::Utils;

sub put
{
	my ($self, $bytes) = @_;
	local $SIG{PIPE} = 'IGNORE';

	while (length $bytes)
	{
		my $sent = syswrite $self->{socket}, $bytes;

		last unless defined $sent;
		$bytes = substr $bytes, $sent;
	}
	return;
}

# Read more; false at the end.
sub more
{
	my ($self) = @_;

	die "nothing has come in time, after: $self->{buffer}"
	  unless IO::Select->new($self->{socket})->can_read($PostgreSQL::Test::Utils::timeout_default);
	return sysread $self->{socket}, $self->{buffer}, 65536, length $self->{buffer};
}

# Read until that has come, and return what stands before its end.
sub wait_for
{
	my ($self, $pattern) = @_;

	while (1)
	{
		return $1 if $self->{buffer} =~ s/\A(.*?$pattern)//s;
		$self->more or die "the connection has ended, after: $self->{buffer}";
	}
}

# An answer without its body.
sub head
{
	my ($self) = @_;
	my $head = $self->wait_for(qr/\r\n\r\n/);

	$self->{head} = $head;
	return { status => ($head =~ /^HTTP\/1\.1 (\d+)/)[0], headers => $head };
}

# A whole one.
sub answer
{
	my ($self) = @_;
	my $answer = $self->head;
	my ($length) = $answer->{headers} =~ /^Content-Length: (\d+)/m;

	$answer->{body} = '';
	return $answer if ($length // 0) == 0 || $self->{buffer} eq '' && !eval { $self->more };
	$self->more while length $self->{buffer} < $length;
	$answer->{body} = substr $self->{buffer}, 0, $length;
	$self->{buffer} = substr $self->{buffer}, $length;
	return $answer;
}

# The next event of a stream, as a browser would tell it.
sub event
{
	my ($self) = @_;
	my %event;
	my @data;

	while (1)
	{
		my $line = $self->wait_for(qr/\n/);

		chomp $line;
		next if $line =~ /^:/;
		last if $line eq '' && %event;
		next if $line eq '';
		my ($name, $value) = $line =~ /^(\w+): (.*)$/s or die "no field: $line";
		if ($name eq 'data') { push @data, $value; $event{data} = 1 }
		else { $event{$name} = $value }
	}
	$event{data} = join "\n", @data;
	return \%event;
}

# All up to the end, but for comments.
sub rest
{
	my ($self) = @_;

	1 while $self->more;
	return $self->{buffer} =~ s/^:\n\n//gmr;
}

1;
