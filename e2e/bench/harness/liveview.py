"""The page's scenarios: our liveview beside a plain Node server, under sockets and requests, with few and with many windows.

Rule: all sockets, inserts and times are those of one process of its own (`go/sockets`); a server is looked at from outside.
"""

import contextlib
import datetime
import http.client
import random
import re
import socket
import time

import pymongo

from . import contestants as who
from .process import Failed, Program, cpu_seconds, memory_mib
from .scenarios import interleaved, percentile
from .servers import spent

COMPANIES = 10
# Milliseconds between two windows of any company: ten companies of the default rate (500 events/s) and the default window.
MOVING = 200
# So far apart that each finds the page at rest.
SINGLE = 1000
FEW, MANY = 100, 1_000_000
CHUNK = 10_000


def fill(collection, count):
    """Windows as our consumer writes them, with its indexes."""
    collection.create_indexes([
        pymongo.IndexModel([("company", pymongo.ASCENDING), ("_id", pymongo.DESCENDING)]),
        pymongo.IndexModel(
            [("company", pymongo.ASCENDING), ("window", pymongo.DESCENDING)], unique=True, partialFilterExpression={"window": {"$exists": True}}
        ),
    ])
    fast = collection.with_options(write_concern=pymongo.WriteConcern(w=1))
    now = datetime.datetime.now(datetime.timezone.utc)
    for start in range(0, count, CHUNK):
        fast.insert_many([
            {
                "company": f"C{number % COMPANIES:03}", "avgPrice": round(random.uniform(50, 550), 2), "window": number // COMPANIES, "count": 1000,
                "min": 50.0, "max": 549.99, "open": 300.0, "close": 301.0, "buys": 500, "sells": 500, "firstAt": now, "lastAt": now, "writer": "e2e-bench",
            }
            for number in range(start, min(start + CHUNK, count))
        ], ordered=False)
    # The members that lag would still be busy with it.
    collection.with_options(write_concern=pymongo.WriteConcern(w=3 if count > FEW else "majority", wtimeout=120_000)).insert_one(
        {"company": "C000", "avgPrice": 1.0, "window": count}
    )


@contextlib.contextmanager
def serving(contestant, database):
    """A server of the page that is ready: it, its address, and the seconds from its start until it had prices."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Program(contestant, {"PORT": str(port), "POD_NAME": "bench", "MAX_READERS": "10000", **database})
    try:
        deadline = program.started + 60
        while not has_prices(port):
            if time.perf_counter() > deadline:
                raise program.failed("had no prices after 60 s")
            time.sleep(0.002)
        yield program, port, time.perf_counter() - program.started
        program.stop()
        program.wait()
    finally:
        program.kill()


def has_prices(port):
    """Whether it answers with prices."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/api/prices")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def sockets(servers, contestant, collection, count, interval, seconds, path="/"):
    """So many sockets, opened at once, while windows are inserted."""
    _, database = collection
    servers.quiet()
    with serving(contestant, database) as (program, port, ready):
        empty = memory_mib(program.pid, "VmRSS")
        load = Program(who.SOCKETS, {
            "URL": f"ws://127.0.0.1:{port}{path}", "SOCKETS": str(count), "SECONDS": str(seconds),
            "COMPANIES": str(COMPANIES), "INTERVAL": str(interval), **database,
        })
        try:
            _, connected = load.await_line(r"connected .*seconds=([\d.]+) retries=(\d+)", 120)
            load.await_line("rested", 30)
            rest = memory_mib(program.pid, "VmRSS")
            load.await_line("measuring", 30)
            before, cpu, load_cpu = servers.costs(), cpu_seconds(program.pid), cpu_seconds(load.pid)
            _, measured = load.await_line(r"measured frames=(\d+) octets=(\d+) seconds=([\d.]+) broken=(\d+)", seconds + 30)
            cpu, load_cpu = cpu_seconds(program.pid) - cpu, cpu_seconds(load.pid) - load_cpu
            cost = spent(before, servers.costs(), cpu, load_cpu)
            _, latency = load.await_line(r"latency samples=\d+ p50=([\d.]+) p99=([\d.]+) max=([\d.]+) unseen=([\d.]+)", 60)
            moved = memory_mib(program.pid, "VmRSS")
            if int(measured[4]):
                raise load.failed(f"{measured[4]} of {count} sockets broke")
            load.stop()
            load.wait()
        finally:
            load.kill()
        frames, took = int(measured[1]), float(measured[3])
        return {
            "ready s": ready, "connect s": float(connected[1]), "retries": int(connected[2]),
            "rest MiB": rest, "moved MiB": moved, "peak MiB": program.peak_mib, "KiB/socket": (rest - empty) * 1024 / count,
            "frames/s": frames / took, "bytes/frame": int(measured[2]) / max(1, frames),
            "CPU %": cpu / took * 100, "CPU µs/frame": cpu / max(1, frames) * 1e6,
            "MongoDB %": cost["database"] / took * 100, "client %": load_cpu / took * 100,
            "p50 ms": float(latency[1]), "p99 ms": float(latency[2]), "max ms": float(latency[3]), "unseen %": float(latency[4]) * 100,
            **cost,
        }


def sockets_if_it_can(servers, contestant, *arguments):
    """The same; a peer that cannot have so many sockets at once has no figures and ends no benchmark."""
    try:
        return sockets(servers, contestant, *arguments)
    except Failed as failure:
        if contestant is who.LIVEVIEW:
            raise
        print(f"    {failure}", flush=True)
        return {}


def requests(servers, contestant, collection, path, seconds):
    """As many requests as one thread of wrk gets answered over 50 kept connections."""
    _, database = collection
    servers.quiet()
    with serving(contestant, database) as (program, port, _):
        wrk = Program(who.wrk(f"http://127.0.0.1:{port}{path}", seconds), {})
        try:
            time.sleep(1)
            before, cpu, began = servers.costs(), cpu_seconds(program.pid), time.perf_counter()
            time.sleep(seconds - 2)
            cpu, took = cpu_seconds(program.pid) - cpu, time.perf_counter() - began
            cost = spent(before, servers.costs(), cpu, cpu_seconds(wrk.pid))
            wrk.wait()
        finally:
            wrk.kill()
        said = "\n".join(wrk.lines())
        rate, slowest = re.search(r"Requests/sec:\s*([\d.]+)", said), re.search(r"99%\s*([\d.]+)(us|ms|s)\s", said)
        if not rate or not slowest or "Non-2xx" in said or "Socket errors" in said:
            raise Failed(f"{contestant.name}, {path}: wrk said\n{said}")
        rate, unit = float(rate[1]), {"us": 1e-3, "ms": 1, "s": 1000}[slowest[2]]
        return {
            "requests/s": rate, "p99 ms": float(slowest[1]) * unit, "CPU µs/request": cpu / took / rate * 1e6, "peak MiB": program.peak_mib, **cost,
        }


def pages(port, count):
    """Milliseconds that each of so many requests for the windows of a company took, in order of size."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    took = []
    for number in range(count):
        began = time.perf_counter()
        connection.request("GET", f"/api/companies/C{number % COMPANIES:03}/windows?limit=60")
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise Failed(f"the windows of a company: {answer.status}")
        took.append((time.perf_counter() - began) * 1000)
    connection.close()
    return sorted(took)


def history(servers, contestant, collection, seconds):
    """1000 sockets and the windows of the companies, whatever the number of windows there are."""
    sample = sockets(servers, contestant, collection, 1000, MOVING, seconds)
    with serving(contestant, collection[1]) as (_, port, _):
        took = pages(port, 300)
    return {**sample, "windows p50 ms": percentile(took, 50), "windows p99 ms": percentile(took, 99)}


def run_sockets(servers, repeats):
    """1000 and 10 000 sockets."""
    with servers.collection() as collection:
        fill(collection[0], FEW)
        return interleaved(repeats, {
            f"{contestant.name}: {count:,}".replace(",", " "): lambda contestant=contestant, count=count:
                sockets_if_it_can(servers, contestant, collection, count, MOVING, 10)
            for count in [1000, 10_000]
            for contestant in who.LIVEVIEWS
        })


def run_inserts(servers, repeats):
    """From an insert to the frame of 1000 sockets."""
    paths = {"ours, as our page": (who.LIVEVIEW, "/ws?since="), "ours, whole frames": (who.LIVEVIEW, "/"), who.NODE_LIVEVIEW.name: (who.NODE_LIVEVIEW, "/")}
    with servers.collection() as collection:
        fill(collection[0], FEW)
        return interleaved(repeats, {
            f"{name}: {pace}": lambda contestant=contestant, path=path, interval=interval:
                sockets(servers, contestant, collection, 1000, interval, 20, path)
            for pace, interval in {"one window a second": SINGLE, "five a second": MOVING}.items()
            for name, (contestant, path) in paths.items()
        })


def run_requests(servers, repeats):
    """Requests for the page and for its prices."""
    with servers.collection() as collection:
        fill(collection[0], FEW)
        return interleaved(repeats, {
            f"{contestant.name}: `{path}`": lambda contestant=contestant, path=path: requests(servers, contestant, collection, path, 8)
            for path in ["/", "/api/prices"]
            for contestant in who.LIVEVIEWS
        })


def run_history(servers, repeats):
    """A hundred windows and a million."""
    with servers.collection() as few, servers.collection() as many:
        fill(few[0], FEW)
        print(f"    {MANY} windows are stored", flush=True)
        fill(many[0], MANY)
        return interleaved(repeats, {
            f"{contestant.name}: {count:,} windows".replace(",", " "): lambda contestant=contestant, collection=collection:
                history(servers, contestant, collection, 12)
            for contestant in who.LIVEVIEWS
            for count, collection in {FEW: few, MANY: many}.items()
        })


SCENARIOS = {
    "liveview-sockets": run_sockets,
    "liveview-inserts": run_inserts,
    "liveview-requests": run_requests,
    "liveview-history": run_history,
}
