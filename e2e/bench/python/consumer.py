"""Peer: averages each 1000 events into one document, with pika and pymongo.

Rule: a window is acknowledged after its insert is answered, never before.
"""

import json
import os
import sys

import pika
import pymongo

WINDOW = 1000
PREFETCH = 2000

company, count = os.environ["QUEUE_NAME"], int(os.environ["COUNT"])
database = pymongo.MongoClient(os.environ["MONGODB_URL"], w="majority", journal=True)[os.environ["MONGODB_DB"]]
stocks = database[os.environ["MONGODB_COLLECTION"]]
connection = pika.BlockingConnection(pika.URLParameters(os.environ["RABBITMQ_URL"]))
channel = connection.channel()
taken, total = 0, 0.0


def take(channel, method, _properties, body):
    global taken, total
    total += json.loads(body)["price"]
    taken += 1
    if taken % WINDOW == 0:
        stocks.insert_one({"company": company, "avgPrice": round(total / WINDOW, 2)})
        channel.basic_ack(method.delivery_tag, multiple=True)
        total = 0.0
        if taken == count:
            channel.stop_consuming()


channel.queue_declare(company, durable=True, arguments={"x-queue-type": "quorum"})
channel.basic_qos(prefetch_count=PREFETCH)
channel.basic_consume(company, take)
print("consuming", file=sys.stderr, flush=True)
channel.start_consuming()
connection.close()
