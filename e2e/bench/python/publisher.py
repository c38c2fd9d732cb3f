"""Peer: publishes persistent events with at most 1000 unconfirmed, with pika.

Rule: pika's BlockingConnection waits for each confirm by itself, so this is its SelectConnection.
"""

import json
import os
import random
import sys
import time
from collections import deque

import pika

OUTSTANDING = 1000
PROPERTIES = pika.BasicProperties(content_type="application/json", delivery_mode=2)

company, count = os.environ["COMPANY"], int(os.environ["COUNT"])
unconfirmed = deque()
published = 0
start = 0.0


def publish(channel):
    global published
    while published < count and len(unconfirmed) < OUTSTANDING:
        event = {"company": company, "eventType": random.choice(("buy", "sell")), "price": round(random.uniform(50, 550), 2)}
        channel.basic_publish("", company, json.dumps(event, separators=(",", ":")).encode(), PROPERTIES)
        published += 1
        unconfirmed.append(published)


def confirmed(channel, method):
    if not isinstance(method, pika.spec.Basic.Ack):
        sys.exit("the broker refused an event")
    if method.multiple:
        while unconfirmed and unconfirmed[0] <= method.delivery_tag:
            unconfirmed.popleft()
    else:
        unconfirmed.remove(method.delivery_tag)
    publish(channel)
    if not unconfirmed:
        print(f"confirmed={published} seconds={time.perf_counter() - start:.3f}", file=sys.stderr, flush=True)
        connection.close()


def begin(channel):
    global start
    start = time.perf_counter()
    publish(channel)


def on_channel(channel):
    def declared(_):
        channel.confirm_delivery(lambda frame: confirmed(channel, frame.method), lambda _: begin(channel))

    channel.queue_declare(company, durable=True, arguments={"x-queue-type": "quorum"}, callback=declared)


connection = pika.SelectConnection(
    pika.URLParameters(os.environ["RABBITMQ_URL"]),
    on_open_callback=lambda connection: connection.channel(on_open_callback=on_channel),
    on_close_callback=lambda connection, _: connection.ioloop.stop(),
)
connection.ioloop.start()
