"""The scenarios: each runs its contestants in shuffled order, repeat after repeat, and gives one sample per run.

Rule: a sample holds plain numbers under the names that the report prints; a run that fails ends the benchmark.
"""

import datetime
import random
import statistics
import time
import urllib.request

from . import contestants as who
from .process import Failed, Program, cpu_seconds, memory_mib
from .servers import next_windows, spent, watch

WINDOW = 1000
CONFIRMED = r"confirmed=(\d+) .*?seconds=([\d.]+)"
# PerfTest's figures of its first seconds are those of a JVM that starts.
WARM_AFTER = 3.5


def interleaved(repeats, runs):
    """Runs `{name: function}` in a new order each time; gives `{name: [sample, ...]}` in the order of `runs`."""
    samples = {name: [] for name in runs}
    for repeat in range(repeats):
        for name in random.sample(list(runs), len(runs)):
            sample = runs[name]()
            samples[name].append(sample)
            figures = ", ".join(f"{key} {value:,.4g}" for key, value in sample.items())
            print(f"    {repeat + 1}/{repeats} {name}: {figures}", flush=True)
    return samples


def fill(servers, queue, count, environment=None):
    """Puts events into a queue, confirmed, and waits until the servers are quiet again."""
    run = Program(who.GO_PUBLISHER, {"COMPANY": queue, "COUNT": str(count), **(environment or {})})
    try:
        run.await_line(CONFIRMED, 120)
        run.wait()
    finally:
        run.kill()
    servers.expect_depth(queue, count)
    servers.quiet()


def drain(servers, contestant, count, filling=None):
    """One consumer empties a queue: from its word that it consumes to the moment its last window is seen in the database."""
    with servers.queues(1) as [queue], servers.collection() as (collection, database):
        fill(servers, queue, count, filling)
        with watch(collection) as stream:
            environment = {"QUEUE_NAME": queue, "COUNT": str(count), **database}
            before = servers.costs()
            run = Program(contestant, environment)
            try:
                began, _ = run.await_line("consuming", 20)
                windows = [seen for _, (seen, _) in zip(range(count // WINDOW), next_windows(stream, began + 120))]
                if len(windows) < count // WINDOW:
                    raise run.failed(f"stored {len(windows)} windows of {count // WINDOW} within 120 s")
                ended = windows[-1]
                if contestant is who.CONSUMER:
                    run.stop()
                run.wait()
            finally:
                run.kill()
            cost = spent(before, servers.costs(), run.cpu)
        # What was not acknowledged would be back in the queue.
        servers.expect_depth(queue, 0)
        return {
            "events/s": count / (ended - began),
            "seconds": ended - began,
            "since start": ended - run.started,
            "CPU µs/event": run.cpu / count * 1e6,
            "peak MiB": run.peak_mib,
            **cost,
        }


def drain_by_perftest(servers, count):
    """PerfTest empties a queue, with the same prefetch and acknowledgements and without any database."""
    options = ["--consumers", "1", "--producers", "0", "--qos", "2000", "--multi-ack-every", "1000", "--cmessages", str(count)]
    with servers.queues(1) as [queue]:
        fill(servers, queue, count)
        return perftest(servers, queue, options, "received", 120)


def perftest(servers, queue, options, verb, timeout):
    """Runs PerfTest to its end and reads its figures of each second, the last and incomplete one excluded."""
    before = servers.costs()
    run = Program(who.perftest(servers.broker_url, queue, *options), {})
    try:
        run.wait(timeout)
    finally:
        run.kill()
    cost = spent(before, servers.costs(), run.cpu)
    seconds = []
    for line in run.lines():
        if match := who.PERFTEST_SECOND[verb].search(line):
            seconds.append((float(match[1]), int(match[2].replace(",", ""))))
    events, last = 0, 0.0
    for at, rate in seconds:
        events, last = events + rate * (at - last), at
    warm = [rate for at, rate in seconds[:-1] if at > WARM_AFTER]
    if not warm:
        raise run.failed(f"no second after the first {WARM_AFTER} s")
    return {"events/s": statistics.fmean(warm), "CPU µs/event": run.cpu / events * 1e6, "peak MiB": run.peak_mib, **cost}


def publish(servers, contestant, count):
    """One publisher fills a queue; it times itself from its first publish to its last confirm."""
    with servers.queues(1) as [queue]:
        servers.quiet()
        environment = {"COMPANY": queue, "COUNT": str(count), "TICKER_INTERVAL": "0"}
        before = servers.costs()
        run = Program(contestant, environment)
        try:
            _, match = run.await_line(CONFIRMED, 120)
            run.wait()
        finally:
            run.kill()
        cost = spent(before, servers.costs(), run.cpu)
        if int(match[1]) != count:
            raise run.failed(f"confirmed {match[1]} events, not {count}")
        servers.expect_depth(queue, count)
        return {"events/s": count / float(match[2]), "CPU µs/event": run.cpu / count * 1e6, "peak MiB": run.peak_mib, **cost}


def publish_by_perftest(servers, seconds):
    """PerfTest publishes for some seconds."""
    options = ["--producers", "1", "--consumers", "0", "--confirm", "1000", "--flag", "persistent", "--size", "64"]
    with servers.queues(1) as [queue]:
        servers.quiet()
        return perftest(servers, queue, [*options, "--time", str(seconds)], "sent", seconds + 30)


def pace(servers, contestant, seconds):
    """A publisher of nominally 1000 events/s, watched through the length of its queue."""
    with servers.queues(1) as [queue]:
        servers.quiet()
        environment = {"COMPANY": queue, "TICKER_INTERVAL": "1"}
        before = servers.costs()
        run = Program(contestant, environment, silent=True)
        try:
            deadline = time.perf_counter() + 20
            while servers.depth(queue) < 1000:
                if time.perf_counter() > deadline:
                    raise run.failed("published less than 1000 events in 20 s")
                time.sleep(0.05)
            cpu, points = cpu_seconds(run.pid), []
            while not points or points[-1][0] - points[0][0] < seconds:
                asked = time.perf_counter()
                depth = servers.depth(queue)
                points.append(((asked + time.perf_counter()) / 2, depth))
                time.sleep(0.25)
            cpu = cpu_seconds(run.pid) - cpu
            run.stop()
            run.wait()
        finally:
            run.kill()
        cost = spent(before, servers.costs(), run.cpu)
        (start, first), (end, last) = points[0], points[-1]
        rate = (last - first) / (end - start)
        drift = max(abs(depth - first - 1000 * (at - start)) for at, depth in points)
        return {
            "events/s": rate,
            "off %": (rate / 1000 - 1) * 100,
            "furthest events": drift,
            "CPU µs/event": cpu / (last - first) * 1e6,
            **cost,
        }


def latency(servers, consumer, batch, seconds):
    """Two companies at 1000 events/s: from the publication of a window's last event until a reader of the majority sees it."""
    with servers.queues(2) as queues, servers.collection() as (collection, database), watch(collection) as stream:
        servers.quiet()
        programs, before = [], servers.costs()
        try:
            for queue in queues:
                # The peers end by a count, which is not reached here.
                environment = {"QUEUE_NAME": queue, "COUNT": "1000000000", "BATCH_SIZE": str(batch), **database}
                programs.append(Program(consumer, environment))
            for program in programs:
                program.await_line("consuming", 20)
            programs.append(Program(who.PUBLISHER, {"COMPANIES": ",".join(queues), "TICKER_INTERVAL": "1"}))
            latencies = []
            for _, document in next_windows(stream, time.perf_counter() + seconds + 3):
                published = document["lastAt"].replace(tzinfo=datetime.timezone.utc).timestamp()
                latencies.append((time.time() - published) * 1000)
            cost = spent(before, servers.costs(), *(cpu_seconds(program.pid) for program in programs))
        finally:
            for program in reversed(programs):
                program.kill()
        # The first second is the start of everything.
        measured = sorted(latencies[2 * 1000 // batch:])
        if len(measured) < 0.8 * seconds * 2000 / batch:
            raise Failed(f"{consumer.name}: {len(measured)} windows of {batch} in {seconds} s at 2000 events/s")
        return {
            "p50 ms": percentile(measured, 50),
            "p99 ms": percentile(measured, 99),
            "max ms": measured[-1],
            "windows": len(measured),
            **cost,
        }


def percentile(ordered, percent):
    """The smallest value that so many percent do not exceed."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def companies(servers, count, seconds):
    """So many companies of 100 events/s: one publisher for all, a consumer each."""
    with servers.queues(count) as queues, servers.collection() as (collection, database):
        servers.quiet()
        consumers, publisher = [], None
        try:
            for queue in queues:
                consumers.append(Program(who.CONSUMER, {"QUEUE_NAME": queue, **database}))
            for consumer in consumers:
                consumer.await_line("consuming", 120)
            publisher = Program(who.PUBLISHER, {"COMPANIES": ",".join(queues), "TICKER_INTERVAL": "10"})
            _, metrics = publisher.await_line(r"metrics on http://[\d.]+:(\d+)", 30)
            # All start within one instant; their first windows say that they have settled.
            deadline = time.perf_counter() + 60
            while len(collection.distinct("company")) < count:
                if time.perf_counter() > deadline:
                    raise publisher.failed("not every company has a window after 60 s")
                time.sleep(0.2)
            began, before = time.perf_counter(), servers.costs()
            confirmed = events_confirmed(metrics[1])
            cpu_before = [cpu_seconds(program.pid) for program in [publisher, *consumers]]
            time.sleep(seconds)
            cpu = [cpu_seconds(program.pid) - was for program, was in zip([publisher, *consumers], cpu_before)]
            took = time.perf_counter() - began
            rate = (events_confirmed(metrics[1]) - confirmed) / took / count
            cost = spent(before, servers.costs(), *cpu)
            memory = [memory_mib(consumer.pid, "Pss") for consumer in consumers]
            peak = max(consumer.peak_mib for consumer in consumers)
            publisher_peak = publisher.peak_mib
        finally:
            for program in [publisher, *consumers]:
                if program:
                    program.kill()
        part = 100 / took / count
        return {
            "events/s": rate,
            "publisher %": cpu[0] * part, "consumers %": sum(cpu[1:]) * part, "broker %": cost["broker"] * part,
            "database %": cost["database"] * part, "all %": (sum(cpu) + cost["broker"] + cost["database"]) * part,
            "consumer MiB": statistics.fmean(memory), "consumer peak MiB": peak, "publisher peak MiB": publisher_peak,
            "others": cost["others"],
        }


def events_confirmed(port):
    """What our publisher says that the broker has confirmed, of all companies."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(line.split()[-1]) for line in lines if line.startswith("stock_publisher_events_confirmed_total"))


def by_name(contestants, run):
    """`{name: function}` for [`interleaved`]."""
    return {contestant.name: lambda contestant=contestant: run(contestant) for contestant in contestants}


def run_drain(servers, repeats):
    runs = by_name(who.CONSUMERS, lambda consumer: drain(servers, consumer, 200_000))
    runs["PerfTest, no database"] = lambda: drain_by_perftest(servers, 600_000)
    return interleaved(repeats, runs)


def run_sequenced(servers, repeats):
    consumers = [who.CONSUMER, who.GO_PIPELINED, who.GO_CONSUMER]
    return interleaved(repeats, by_name(consumers, lambda consumer: drain(servers, consumer, 200_000, {"SEQUENCED": "1"})))


def run_backlog(servers, repeats):
    return interleaved(repeats, by_name(who.CONSUMERS, lambda consumer: drain(servers, consumer, 22_000)))


def run_memory(servers, repeats):
    counts = [22_000, 200_000, 600_000]
    return interleaved(repeats, {f"{count:,}": lambda count=count: drain(servers, who.CONSUMER, count) for count in counts})


def run_publish(servers, repeats):
    runs = by_name(who.PUBLISHERS, lambda publisher: publish(servers, publisher, 200_000))
    runs["PerfTest"] = lambda: publish_by_perftest(servers, 12)
    return interleaved(repeats, runs)


def run_pace(servers, repeats):
    return interleaved(repeats, by_name([who.PUBLISHER, who.TICKER], lambda publisher: pace(servers, publisher, 20)))


def run_latency(servers, repeats):
    return interleaved(repeats, {
        f"{consumer.name}, windows of {batch}": lambda consumer=consumer, batch=batch: latency(servers, consumer, batch, 20)
        for batch in [1000, 100]
        for consumer in [who.CONSUMER, who.GO_CONSUMER]
    })


def run_companies(servers, repeats):
    return interleaved(repeats, {str(count): lambda count=count: companies(servers, count, 20) for count in [1, 10, 100]})


SCENARIOS = {
    "drain": run_drain,
    "sequenced": run_sequenced,
    "backlog": run_backlog,
    "memory": run_memory,
    "publish": run_publish,
    "pace": run_pace,
    "latency": run_latency,
    "companies": run_companies,
}
