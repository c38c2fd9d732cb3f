"""Publishes COUNT synthetic trades of COMPANY, plainly: no queue arguments, no properties, no confirms."""

import json
import os
import random

import pika

company = os.environ["COMPANY"]
count = int(os.environ["COUNT"])

connection = pika.BlockingConnection(pika.URLParameters(os.environ["RABBITMQ_URL"]))
channel = connection.channel()
channel.queue_declare(queue=company)
for _ in range(count):
    event = {
        "company": company,
        "eventType": random.choice(["buy", "sell"]),
        "price": round(random.uniform(50, 550), 2),
    }
    channel.basic_publish(exchange="", routing_key=company, body=json.dumps(event))
# The answer to a declaration comes after everything that was sent before it: then the broker has it all.
channel.queue_declare(queue=company)
connection.close()
print(f"published {count}", flush=True)
