#!/usr/bin/python3
"""What the tests do at RabbitMQ, with pika: a client that is not the bridge's.

usage: amqp.py PORT COMMAND ARGUMENT...; commands may follow each other behind "--".

  queue NAME [ARGUMENTS]        declare a durable queue; arguments as JSON
  exchange NAME TYPE            declare a durable exchange
  bind QUEUE EXCHANGE KEY
  delete-exchange NAME
  purge QUEUE
  take QUEUE COUNT              consume so many, a line of JSON for each
  drain QUEUE                   consume what is there, a line of JSON for each
"""
import json
import sys

import pika


def show(method, properties, body):
    print(json.dumps({
        'exchange': method.exchange,
        'routing_key': method.routing_key,
        'redelivered': method.redelivered,
        'content_type': properties.content_type,
        'delivery_mode': properties.delivery_mode,
        'message_id': properties.message_id,
        'type': properties.type,
        'app_id': properties.app_id,
        'timestamp': properties.timestamp,
        'headers': properties.headers,
        'body': body.decode(),
    }))


def take(channel, queue, count):
    left = int(count)
    if left == 0:
        return
    for method, properties, body in channel.consume(queue, inactivity_timeout=60):
        if method is None:
            sys.exit('nothing has come for 60 s')
        show(method, properties, body)
        left -= 1
        if left == 0:
            channel.basic_ack(method.delivery_tag, multiple=True)
            break
        if left % 500 == 0:
            channel.basic_ack(method.delivery_tag, multiple=True)
    channel.cancel()


def drain(channel, queue):
    while True:
        count = channel.queue_declare(queue, passive=True).method.message_count
        if count == 0:
            return
        take(channel, queue, count)


def run(channel, command, *args):
    if command == 'queue':
        channel.queue_declare(args[0], durable=True, arguments=json.loads(args[1]) if len(args) > 1 else None)
    elif command == 'exchange':
        channel.exchange_declare(args[0], args[1], durable=True)
    elif command == 'bind':
        channel.queue_bind(args[0], args[1], args[2])
    elif command == 'delete-exchange':
        channel.exchange_delete(args[0])
    elif command == 'purge':
        channel.queue_purge(args[0])
    elif command == 'take':
        take(channel, *args)
    elif command == 'drain':
        drain(channel, *args)
    else:
        sys.exit(__doc__)


def main():
    port, *rest = sys.argv[1:]
    connection = pika.BlockingConnection(pika.ConnectionParameters('127.0.0.1', int(port)))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=1000)
    command = []
    for argument in rest + ['--']:
        if argument != '--':
            command.append(argument)
        elif command:
            run(channel, *command)
            command = []
    connection.close()


main()
