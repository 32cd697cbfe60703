# A client of NATS for the tests, which speaks the protocol itself, with JetStream's
# requests; not the library that the bridge uses.

package PgPubsub::NatsClient;

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use PostgreSQL::Test::Utils;

sub new
{
	my ($class, $broker, %login) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $broker->port) or die "nats: $!";
	my $self = bless { socket => $socket, buffer => '', inbox => '_INBOX.test' . int(rand 1e9), number => 0 }, $class;

	$self->line;
	$self->put('CONNECT ' . encode_json({ verbose => JSON::PP::false, pedantic => JSON::PP::false, headers => JSON::PP::true, %login }) . "\r\nSUB $self->{inbox}.* 1\r\nPING\r\n");
	while ((my $line = $self->line) ne 'PONG') { die $line if $line =~ /^-ERR/; }
	return $self;
}

sub put
{
	my ($self, $bytes) = @_;

	syswrite($self->{socket}, $bytes) == length $bytes or die "nats: $!";
	return;
}

# So many bytes more, or at least one line.
sub fill
{
	my ($self) = @_;

	IO::Select->new($self->{socket})->can_read($PostgreSQL::Test::Utils::timeout_default) or die 'nats: no answer';
	sysread($self->{socket}, $self->{buffer}, 65536, length $self->{buffer}) or die 'nats: the end';
	return;
}

sub line
{
	my ($self) = @_;

	$self->fill until $self->{buffer} =~ s/^(.*?)\r\n//;
	return $1;
}

# The next message: its subject, headers as one text, and body.
sub message
{
	my ($self) = @_;

	while (1)
	{
		my $line = $self->line;

		if ($line eq 'PING') { $self->put("PONG\r\n"); next; }
		die "nats: $line" if $line =~ /^-ERR/;
		next unless $line =~ /^(H?)MSG (\S+) 1 +(?:\S+ +)??(?:(\d+) +)?(\d+)$/;
		my ($subject, $head, $length) = ($2, $1 ? $3 : 0, $4);
		$self->fill while length $self->{buffer} < $length + 2;
		my $bytes = substr $self->{buffer}, 0, $length + 2, '';
		return ($subject, substr($bytes, 0, $head), substr($bytes, $head, $length - $head));
	}
}

# A request's answer, decoded.
sub request
{
	my ($self, $subject, $body) = @_;
	my $text = defined $body ? ref $body ? encode_json($body) : $body : '';
	my $reply = "$self->{inbox}." . ++$self->{number};

	$self->put("PUB $subject $reply " . length($text) . "\r\n$text\r\n");
	while (1)
	{
		my ($to, undef, $answer) = $self->message;

		return length $answer ? decode_json($answer) : {} if $to eq $reply;
	}
}

sub api
{
	my ($self, $subject, $body) = @_;
	my $answer = $self->request("\$JS.API.$subject", $body);

	die "nats: $subject: $answer->{error}{description}" if $answer->{error};
	return $answer;
}

# Make a stream, or change it.
sub stream
{
	my ($self, $name, $subjects, %config) = @_;
	my $config = { name => $name, subjects => $subjects, retention => 'limits', storage => 'file', discard => 'new',
		duplicate_window => 120_000_000_000, max_msgs => -1, max_bytes => -1, max_age => 0, max_msg_size => -1, num_replicas => 1, %config };
	my $made = eval { $self->api("STREAM.CREATE.$name", $config) };

	return $made // $self->api("STREAM.UPDATE.$name", $config);
}

sub count
{
	my ($self, $name) = @_;

	return $self->api("STREAM.INFO.$name")->{state}{messages};
}

# The stream's messages: subject, body, and headers by name.
sub messages
{
	my ($self, $name) = @_;
	my $count = $self->count($name);
	my $consumer = $self->api("CONSUMER.CREATE.$name",
		{ stream_name => $name, config => { deliver_policy => 'all', ack_policy => 'none' } })->{name};
	my $ask = encode_json({ batch => 1000, expires => 5_000_000_000 });
	my @messages;

	while (@messages < $count)
	{
		$self->put("PUB \$JS.API.CONSUMER.MSG.NEXT.$name.$consumer $self->{inbox}.next " . length($ask) . "\r\n$ask\r\n");
		for (my $left = 1000; $left > 0 && @messages < $count;)
		{
			my ($subject, $head, $body) = $self->message;

			# what ends a request has a status and no subject of the stream's
			last if $subject =~ /^\Q$self->{inbox}\E/;
			my %headers = map { /^([^:]+): ?(.*)$/ ? ($1 => $2) : () } split /\r\n/, $head;
			push @messages, { subject => $subject, body => $body, headers => \%headers };
			$left--;
		}
	}
	return @messages;
}

1;
