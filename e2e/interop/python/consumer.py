"""Averages every 1000 trades of QUEUE_NAME into one document, then acknowledges them. SIGTERM ends it between two trades."""

import json
import os
import signal

import pika
import pymongo

BATCH = 1000

queue = os.environ["QUEUE_NAME"]
stocks = pymongo.MongoClient(os.environ["MONGODB_URL"])[os.environ.get("MONGODB_DB", "stockmarket")]["stocks"]
connection = pika.BlockingConnection(pika.URLParameters(os.environ["RABBITMQ_URL"]))
channel = connection.channel()
channel.queue_declare(queue=queue)
channel.basic_qos(prefetch_count=BATCH)
prices = []


def on_trade(channel, method, _properties, body):
    prices.append(json.loads(body)["price"])
    if len(prices) < BATCH:
        return
    average = round(sum(prices) / len(prices), 2)
    stocks.insert_one({"company": queue, "avgPrice": average})
    channel.basic_ack(delivery_tag=method.delivery_tag, multiple=True)
    prices.clear()
    print(f"stored {average}", flush=True)


signal.signal(signal.SIGTERM, lambda *_: connection.add_callback_threadsafe(channel.stop_consuming))
channel.basic_consume(queue=queue, on_message_callback=on_trade)
print("consuming", flush=True)
channel.start_consuming()
connection.close()
