#!/usr/bin/python3
"""TLS before a broker that speaks none, and what an authenticated Kafka adds: for the tests.

usage: tls.py PORT BROKER_PORT CERTIFICATE KEY [USER PASSWORD]

Listens at PORT of 127.0.0.1 with that certificate, and passes on what comes to
BROKER_PORT.  With a user and a password the broker is librdkafka's mock of one Kafka
broker, which knows neither TLS nor SASL: the address that it tells clients is changed to
PORT, and SASL PLAIN is answered here.
"""
import select
import socket
import ssl
import struct
import sys
import threading

API_VERSIONS, SASL_HANDSHAKE, SASL_AUTHENTICATE = 18, 17, 36


class Kafka:
    """One connection to Kafka: what is answered here, and what is changed on its way."""

    def __init__(self, port, broker_port, user, password):
        self.addresses = [struct.pack('>H9sI', 9, b'127.0.0.1', number) for number in (broker_port, port)]
        self.login = b'\0' + user.encode() + b'\0' + password.encode()
        self.asked = {}
        self.trusted = False

    def take_request(self, frame):
        """The answer to a request; None: it is passed on; empty: the connection ends."""
        key, version, correlation, length = struct.unpack('>hhih', frame[:10])
        body = frame[10 + max(length, 0):]
        if key == SASL_HANDSHAKE:
            good = body[2:] == b'PLAIN'
            return struct.pack('>ihih5s', correlation, 0 if good else 33, 1, 5, b'PLAIN')
        if key == SASL_AUTHENTICATE:
            self.trusted = body[4:] == self.login
            if self.trusted:
                return struct.pack('>ihhi', correlation, 0, -1, 0) + (b'\0' * 8 if version > 0 else b'')
            text = b'Authentication failed'
            return struct.pack('>ihh', correlation, 58, len(text)) + text + struct.pack('>i', 0) + (b'\0' * 8 if version > 0 else b'')
        self.asked[correlation] = key, version
        return None if self.trusted or key == API_VERSIONS else b''

    def take_answer(self, frame):
        """An answer as the client gets it."""
        (correlation,) = struct.unpack('>i', frame[:4])
        key, version = self.asked.pop(correlation, (None, None))
        if key == API_VERSIONS and version < 3:
            (count,) = struct.unpack('>i', frame[6:10])
            end = 10 + count * 6
            more = struct.pack('>hhhhhh', SASL_HANDSHAKE, 0, 1, SASL_AUTHENTICATE, 0, 1)
            return frame[:6] + struct.pack('>i', count + 2) + frame[10:end] + more + frame[end:]
        return frame.replace(*self.addresses)


class Frames:
    """Bytes as they come to frames: a length and so many bytes."""

    def __init__(self):
        self.waiting = b''

    def take(self, some):
        self.waiting += some
        while len(self.waiting) >= 4:
            (length,) = struct.unpack('>i', self.waiting[:4])
            if len(self.waiting) < 4 + length:
                return
            frame, self.waiting = self.waiting[4:4 + length], self.waiting[4 + length:]
            yield frame


def framed(frame):
    return struct.pack('>i', len(frame)) + frame


def pass_requests(some, near, far, kafka, frames):
    for frame in frames.take(some):
        answer = kafka.take_request(frame)
        if answer is None:
            far.sendall(framed(frame))
        elif answer:
            near.sendall(framed(answer))
        else:
            raise OSError('who has not logged in asks')


def pass_answers(some, near, kafka, frames):
    for frame in frames.take(some):
        near.sendall(framed(kafka.take_answer(frame)))


def work(near, far, kafka):
    """Pass on what comes until one side closes."""
    frames = Frames(), Frames()
    while True:
        ready = [near] if near.pending() else select.select([near, far], [], [])[0]
        for source in ready:
            some = source.recv(65536)
            if not some:
                return
            if kafka is None:
                (far if source is near else near).sendall(some)
            elif source is near:
                pass_requests(some, near, far, kafka, frames[0])
            else:
                pass_answers(some, near, kafka, frames[1])


def serve(client, context, port, broker_port, login):
    try:
        with context.wrap_socket(client, server_side=True) as near, \
                socket.create_connection(('127.0.0.1', broker_port)) as far:
            work(near, far, Kafka(port, broker_port, *login) if login else None)
    except (OSError, struct.error) as error:
        print(error, flush=True)
        client.close()


def main():
    port, broker_port, certificate, key, *login = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(('127.0.0.1', int(port)))
    print('listens', flush=True)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client, context, int(port), int(broker_port), login), daemon=True).start()


main()
