"""Who takes part: our programs and the peers, as commands.

Rule: all peers read the same environment variables as our programs, and COUNT, after which they end by themselves.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
INSTALLED = Path(os.environ["STOCK_BENCH_INSTALLED"])
OURS = Path(os.environ["STOCK_BENCH_PROGRAMS"])


@dataclass(frozen=True)
class Contestant:
    """A program."""

    name: str
    command: list
    environment: dict = field(default_factory=dict)


PYTHON = str(INSTALLED / "python/bin/python")
ANY_PORT = {"METRICS_PORT": "0"}

CONSUMER = Contestant("ours", [str(OURS / "stock-consumer")], ANY_PORT)
GO_CONSUMER = Contestant("Go amqp091", [str(INSTALLED / "go/consumer")])
GO_PIPELINED = Contestant("Go amqp091, pipelined", [str(INSTALLED / "go/consumer")], {"PIPELINED": "1"})
NODE_CONSUMER = Contestant("Node amqplib", ["node", str(BENCH / "node/consumer.js")])
PIKA_CONSUMER = Contestant("Python pika", [PYTHON, str(BENCH / "python/consumer.py")])
CONSUMERS = [CONSUMER, GO_PIPELINED, GO_CONSUMER, NODE_CONSUMER, PIKA_CONSUMER]

PUBLISHER = Contestant("ours", [str(OURS / "stock-publisher")], ANY_PORT)
GO_PUBLISHER = Contestant("Go amqp091", [str(INSTALLED / "go/publisher")])
NODE_PUBLISHER = Contestant("Node amqplib", ["node", str(BENCH / "node/publisher.js")])
PIKA_PUBLISHER = Contestant("Python pika", [PYTHON, str(BENCH / "python/publisher.py")])
GO_SEQUENCED = Contestant("Go amqp091, our properties", [str(INSTALLED / "go/publisher")], {"SEQUENCED": "1"})
PUBLISHERS = [PUBLISHER, GO_SEQUENCED, GO_PUBLISHER, NODE_PUBLISHER, PIKA_PUBLISHER]

TICKER = Contestant("Go, a ticker", [str(INSTALLED / "go/ticker")])

LIVEVIEW = Contestant("ours", [str(OURS / "stock-liveview")])
NODE_LIVEVIEW = Contestant("Node express and ws", ["node", str(BENCH / "node/liveview.js")])
LIVEVIEWS = [LIVEVIEW, NODE_LIVEVIEW]
SOCKETS = Contestant("sockets", [str(INSTALLED / "go/sockets")])


def wrk(url, seconds):
    """A load of requests: one thread, so that the server has the other core."""
    return Contestant("wrk", ["wrk", "--threads", "1", "--connections", "50", "--duration", f"{seconds}s", "--latency", url])


def perftest(broker_url, queue, *options):
    """RabbitMQ's own load generator, on a queue that is there."""
    command = ["java", "-cp", f"{INSTALLED}/perftest/*", "com.rabbitmq.perf.PerfTest"]
    return Contestant("PerfTest", [*command, "--uri", broker_url, "--predeclared", "--queue", queue, *options])


# A line of PerfTest for each second.
PERFTEST_SECOND = {
    verb: re.compile(rf"time:? ([\d.]+) ?s.*?{verb}: ([\d,]+) msg/s") for verb in ("sent", "received")
}
