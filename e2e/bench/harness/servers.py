"""The real servers that all contestants share: queues, collections, and what the servers themselves cost.

Rule: every run has a queue and a collection of its own, which are gone after it.
"""

import contextlib
import json
import os
import secrets
import time
import urllib.request

import pika
import pymongo

from .process import Failed, cpu_seconds, machine_cpu_seconds

QUORUM = {"x-queue-type": "quorum"}


def database():
    """The replica set of three where it runs, for that is what a pipeline has; else the single member."""
    for name in ("STOCK_TEST_REPLICA_SET_URL", "STOCK_TEST_MONGODB_URL"):
        if url := os.environ.get(name):
            client = pymongo.MongoClient(url, serverSelectionTimeoutMS=5_000)
            with contextlib.suppress(pymongo.errors.ServerSelectionTimeoutError):
                client.admin.command("ping")
                return url, client
    raise Failed("no database answers: set STOCK_TEST_REPLICA_SET_URL or STOCK_TEST_MONGODB_URL")


class Servers:
    """Broker and database at the addresses of the environment, on this machine: their processes are looked at."""

    def __init__(self):
        self.broker_url = os.environ["STOCK_TEST_RABBITMQ_URL"]
        self._management = os.environ["STOCK_TEST_MANAGEMENT_URL"]
        self._broker = None
        self.database_url, self._database = database()
        self._name = f"bench_{secrets.token_hex(4)}"
        self._node = self._running_node()
        members = self._database.admin.command("hello")["hosts"]
        direct = [pymongo.MongoClient(f"mongodb://{host}/?directConnection=true") for host in members]
        self._member_pids = [client.admin.command("serverStatus")["pid"] for client in direct]
        self.versions = {
            "RabbitMQ": f"{self._ask('/api/overview')['rabbitmq_version']}, one node",
            "Erlang": self._ask("/api/overview")["erlang_version"],
            "MongoDB": f"{self._database.server_info()['version']}, {len(members)} member{'s' * (len(members) > 1)}",
        }

    def _running_node(self):
        """The broker's node; one that has just started says little about itself at first."""
        while "os_pid" not in (node := self._ask("/api/nodes")[0]):
            time.sleep(0.1)
        return node

    def _ask(self, path):
        scheme, _, rest = self._management.partition("://")
        credentials, _, host = rest.rpartition("@")
        user, _, password = credentials.partition(":")
        passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
        passwords.add_password(None, f"{scheme}://{host}", user, password, is_authenticated=True)
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
        with opener.open(f"{scheme}://{host}{path}", timeout=10) as answer:
            return json.load(answer)

    def _channel(self):
        # A connection that lay idle through a long run may have missed heartbeats.
        with contextlib.suppress(pika.exceptions.AMQPError):
            if self._broker and self._broker.is_open:
                self._broker.process_data_events()
        if not self._broker or not self._broker.is_open:
            self._broker = pika.BlockingConnection(pika.URLParameters(self.broker_url))
        return self._broker.channel()

    @contextlib.contextmanager
    def queues(self, count):
        """New quorum queues; the names are companies."""
        names = [f"BENCH-{secrets.token_hex(3)}-{number}" for number in range(count)]
        channel = self._channel()
        for name in names:
            channel.queue_declare(name, durable=True, arguments=QUORUM)
        channel.close()
        try:
            yield names
        finally:
            channel = self._channel()
            for name in names:
                channel.queue_delete(name)
            channel.close()

    @contextlib.contextmanager
    def collection(self):
        """A new collection, as an environment for programs and for us to watch."""
        name = f"stocks_{secrets.token_hex(3)}"
        collection = self._database[self._name].create_collection(name)
        try:
            yield collection, {"MONGODB_URL": self.database_url, "MONGODB_DB": self._name, "MONGODB_COLLECTION": name}
        finally:
            self._database.drop_database(self._name)

    def depth(self, name):
        """Messages ready in a queue, asked of the queue itself: the management API's figures are seconds old."""
        channel = self._channel()
        try:
            return channel.queue_declare(name, passive=True).method.message_count
        finally:
            channel.close()

    def costs(self):
        """Processor seconds so far of broker, database and the whole machine."""
        return {
            "broker": cpu_seconds(self._node["os_pid"]),
            "database": sum(map(cpu_seconds, self._member_pids)),
            "machine": machine_cpu_seconds(),
        }

    def quiet(self, timeout=30):
        """Waits until the servers have done what earlier runs left them to do."""
        deadline = time.perf_counter() + timeout
        before = self.costs()
        while time.perf_counter() < deadline:
            time.sleep(0.5)
            now = self.costs()
            if all(now[name] - before[name] < 0.1 for name in ("broker", "database")):
                return
            before = now
        print(f"    the servers were still busy after {timeout} s", flush=True)

    def expect_depth(self, name, count, timeout=10):
        """A queue must hold exactly so much, or what was measured was something else."""
        deadline = time.perf_counter() + timeout
        while (found := self.depth(name)) != count:
            if time.perf_counter() > deadline:
                raise Failed(f"queue {name} holds {found} events, not {count}")
            time.sleep(0.1)


def spent(before, after, *programs):
    """What a run cost beside the programs; `others` is the rest of the machine, the harness included."""
    cost = {name: after[name] - before[name] for name in before}
    others = cost["machine"] - cost["broker"] - cost["database"] - sum(programs)
    return {"broker": cost["broker"], "database": cost["database"], "others": max(0.0, others)}


def watch(collection):
    """A change stream of inserted documents, as a majority has them."""
    return collection.watch([{"$match": {"operationType": "insert"}}], max_await_time_ms=200)


def next_windows(stream, deadline):
    """Each new document and when it was seen, until the deadline."""
    while time.perf_counter() < deadline:
        if change := stream.try_next():
            yield time.perf_counter(), change["fullDocument"]
