"""What the operator costs: time to converge, requests to the API server, memory.

Rule: requests are the API server's own audit, memory is the kernel's; what the operator's lease costs is counted apart, for it does not grow.
"""

import collections
import concurrent.futures
import http.client
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

from . import machine, report

STATE = Path(os.environ["STOCK_BENCH_STATE"])
PKI = STATE / "pki"
AUDIT = STATE / "audit.log"
BENCHMARKS = machine.REPOSITORY / "docs/benchmarks.md"
DEPLOYMENT = machine.REPOSITORY / "charts/stockpipeline/templates/deployment.yaml"
NAMESPACE = "bench"
GROUP = f"/apis/stockpipeline.io/v1alpha1/namespaces/{NAMESPACE}/stockpipelines"
NODES = 10
# Pipelines that share a virtual host: the broker compares each policy with each queue of its own.
TOGETHER = 20
FOREIGN = 10_000
# Longer than every interval of the operator.
REST, LOOK = 45, 60


class Api:
    """The API server, one connection per thread."""

    def __init__(self):
        self.address = urllib.parse.urlsplit(os.environ["STOCK_BENCH_API"]).netloc
        self.context = ssl.create_default_context(cafile=PKI / "ca.crt")
        self.context.load_cert_chain(PKI / "admin.crt", PKI / "admin.key")
        self.local = threading.local()

    def __call__(self, method, path, body=None, kind="application/json"):
        body = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        for _ in range(3):
            connection = getattr(self.local, "connection", None)
            if connection is None:
                connection = self.local.connection = http.client.HTTPSConnection(self.address, context=self.context, timeout=120)
            try:
                connection.request(method, path, body, {"Content-Type": kind} if body else {})
                answer = connection.getresponse()
                text = answer.read()
            except (http.client.HTTPException, OSError):
                self.local.connection = None
                continue
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path}: {answer.status} {text[:300].decode(errors='replace')}")
            return json.loads(text)
        raise RuntimeError(f"{method} {path}: no answer")


api = Api()


def say(text):
    print(f"    {text}", flush=True)


def each(act, items, threads=8):
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return list(pool.map(act, items))


def metadata(name, **more):
    return {"name": name, **more}


def management(method, path, body=None):
    """The broker's management interface."""
    url = urllib.parse.urlsplit(os.environ["STOCK_TEST_MANAGEMENT_URL"])
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
    token = __import__("base64").b64encode(f"{url.username}:{url.password}".encode()).decode()
    connection.request(method, f"/api/{path}", json.dumps(body) if body is not None else None,
                       {"Authorization": f"Basic {token}", "Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def allocator():
    """The settings of jemalloc as the chart gives them."""
    return re.search(r"name: _RJEM_MALLOC_CONF\s+value: (\S+)", DEPLOYMENT.read_text())[1]


class Operator:
    """The release build, as a process of its own with a certificate of its own."""

    def __init__(self):
        images = {f"STOCK_IMAGE_{part}": part.lower() for part in ("WORKLOADS", "BROKER", "DATABASE", "EDGE")}
        environment = {"KUBECONFIG": str(STATE / "stockpipeline-operator.kubeconfig"), "POD_NAMESPACE": NAMESPACE,
                       "LISTEN": "127.0.0.1:0", "RUST_LOG": "warn", **images,
                       "_RJEM_MALLOC_CONF": allocator()}
        def start():
            with open(STATE / "operator.log", "ab") as log:
                return subprocess.Popen([os.environ["STOCK_BENCH_OPERATOR"], "run"], env=environment, stdout=log, stderr=log)

        self.start, self.process = start, start()

    def memory(self):
        """MiB now and at its highest."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return tuple(int(re.search(rf"{key}:\s+(\d+)", status)[1]) / 1024 for key in ("VmRSS", "VmHWM"))

    def cpu(self):
        """Seconds of the processor."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def keep(self):
        """Starts it again where it ended, as a kubelet would: on a machine that is too busy it may lose its lease."""
        if self.process.poll() is not None:
            say("the operator lost its lease and is started again")
            self.process = self.start()

    def end(self):
        self.process.terminate()
        self.process.wait(30)


class Audit:
    """The operator's requests from now on."""

    def __init__(self):
        self.offset = AUDIT.stat().st_size if AUDIT.exists() else 0

    def requests(self):
        """`{(verb, resource): count}`; a watch counts when it is opened."""
        counts = collections.Counter()
        with open(AUDIT, encoding="utf-8") as log:
            log.seek(self.offset)
            for line in log:
                if not line.endswith("\n"):
                    break
                event = json.loads(line)
                if (event["verb"] == "watch") != (event["stage"] == "ResponseStarted"):
                    continue
                reference = event.get("objectRef", {})
                name = "/".join(filter(None, (reference.get("resource"), reference.get("subresource"))))
                counts[event["verb"], name] += 1
        return counts

    def summary(self):
        """Reads, writes, watches, without the lease."""
        counts = {key: count for key, count in self.requests().items() if key[1] != "leases"}
        reads = sum(count for (verb, _), count in counts.items() if verb in ("get", "list"))
        watches = sum(count for (verb, _), count in counts.items() if verb == "watch")
        return {"reads": reads, "writes": sum(counts.values()) - reads - watches, "watches": watches}


def pipeline(index, symbols, secrets):
    secret = f"servers-{index // TOGETHER % secrets}"
    return {
        "apiVersion": "stockpipeline.io/v1alpha1", "kind": "StockPipeline", "metadata": metadata(f"p{index}"),
        "spec": {
            "companies": [{"symbol": symbol} for symbol in symbols],
            # The broker is not what is measured, and a thousand quorum queues would be most of the work.
            "broker": {"queueType": "Classic", "external": {"secret": secret}},
            "database": {"external": {"secret": secret, "key": "mongodb"}},
        },
    }


def ready():
    """How many pipelines are ready, and one that is not with its reason."""
    count, other = 0, None
    for item in api("GET", GROUP)["items"]:
        conditions = {condition["type"]: condition for condition in item.get("status", {}).get("conditions", [])}
        condition = conditions.get("Ready")
        current = item.get("status", {}).get("observedGeneration") == item["metadata"]["generation"]
        if current and condition and condition["status"] == "True":
            count += 1
        else:
            other = f"{item['metadata']['name']}: {condition and condition['message']}"
    return count, other


def await_ready(operator, count, limit):
    """Seconds until so many are ready."""
    began, told = time.monotonic(), 0.0
    while True:
        operator.keep()
        looked = time.monotonic()
        now, other = ready()
        took = time.monotonic() - began
        if now >= count:
            return took
        if took > limit:
            raise SystemExit(f"after {took:.0f} s {now} of {count} are ready; {other}")
        if took - told > 20:
            told = took
            say(f"{took:.0f} s: {now} of {count} ready; {str(other)[:150]}")
        # A look at a thousand of them costs the API server what it would do meanwhile.
        time.sleep(max(1, 9 * (time.monotonic() - looked)))


def begin():
    """Nodes, definition, namespace."""
    for index in range(NODES):
        api("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata(f"node-{index}", labels={"kubernetes.io/hostname": f"node-{index}"})})
    definition = (machine.REPOSITORY / "crds/stockpipelines.yaml").read_bytes()
    name = "stockpipelines.stockpipeline.io"
    api("PATCH", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}?fieldManager=bench&force=true", definition, "application/apply-patch+yaml")
    api("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata(NAMESPACE)})
    while True:
        try:
            return api("GET", GROUP)
        except RuntimeError:
            time.sleep(0.2)


def make_servers(count):
    """A virtual host and a Secret for every `TOGETHER` pipelines."""
    amqp, managed = os.environ["STOCK_TEST_RABBITMQ_URL"].rpartition("/")[0], os.environ["STOCK_TEST_MANAGEMENT_URL"]
    for index in range(count):
        host = f"bench-{index}"
        assert management("PUT", f"vhosts/{host}", {}) in (201, 204)
        assert management("PUT", f"permissions/{host}/guest", {"configure": ".*", "write": ".*", "read": ".*"}) in (201, 204)
        content = {"url": f"{amqp}/{host}", "management-url": managed, "mongodb": os.environ["STOCK_TEST_MONGODB_URL"]}
        api("POST", f"/api/v1/namespaces/{NAMESPACE}/secrets",
            {"apiVersion": "v1", "kind": "Secret", "metadata": metadata(f"servers-{index}"), "stringData": content})


def remove_servers(count):
    for index in range(count):
        management("DELETE", f"vhosts/bench-{index}")
        api("DELETE", f"/api/v1/namespaces/{NAMESPACE}/secrets/servers-{index}")


def clear():
    """Removes all pipelines and waits until nothing of them is left."""
    api("DELETE", GROUP)
    while sum(len(api("GET", path + "?limit=1")["items"]) for path in (
        GROUP, f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", f"/api/v1/namespaces/{NAMESPACE}/pods",
    )):
        time.sleep(1)


def settled(operator, pipelines):
    """What all of it costs while nothing changes."""
    time.sleep(REST)
    audit, cpu = Audit(), operator.cpu()
    time.sleep(LOOK)
    cost = audit.summary()
    now, highest = operator.memory()
    detail = {" ".join(key): count for key, count in audit.requests().most_common(8)}
    say(f"{LOOK} s at rest: {cost}, {detail}, {now:.1f} MiB (highest {highest:.1f})")
    return {
        "reads/s per pipeline": cost["reads"] / LOOK / pipelines, "writes at rest": cost["writes"], "watches at rest": cost["watches"],
        "MiB": now, "peak MiB": highest, "CPU %": 100 * (operator.cpu() - cpu) / LOOK,
    }


def converge(operator, count, companies, secrets, limit):
    """Makes so many pipelines and waits until they are ready."""
    run = int(time.time())
    audit = Audit()
    began = time.monotonic()
    each(lambda index: api("POST", GROUP, pipeline(index, [f"S{index}.{company}.{run}" for company in range(companies)], secrets)), range(count))
    await_ready(operator, count, limit)
    took = time.monotonic() - began
    say(f"{count} ready after {took:.0f} s: {audit.summary()}")
    return {"seconds": took, **audit.summary()}


def foreign():
    """As many Secrets, ConfigMaps and Pods of others."""
    api("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata("foreign")})
    content = "x" * 2000

    def make(index):
        name = f"foreign-{index}"
        of = lambda kind, **more: {"apiVersion": "v1", "kind": kind, "metadata": metadata(name, labels={"app": name}), **more}
        api("POST", "/api/v1/namespaces/foreign/secrets", of("Secret", stringData={"content": content}))
        api("POST", "/api/v1/namespaces/foreign/configmaps", of("ConfigMap", data={"content": content}))
        # On a node that is there, so that kwok runs them.
        spec = {"nodeName": f"node-{index % NODES}", "containers": [{"name": "c", "image": "i"}]}
        api("POST", "/api/v1/namespaces/foreign/pods", of("Pod", spec=spec))

    each(make, range(FOREIGN), 16)


def hundred(results):
    say("100 pipelines of 3 companies")
    make_servers(5)
    operator = Operator()
    figures = converge(operator, 100, 3, 5, 900) | settled(operator, 100)
    results["100 pipelines of 3 companies"] = figures
    # A new process reads all there is and finds nothing to do.
    operator.end()
    operator = Operator()
    results["the same after a restart of the operator"] = settled(operator, 100)
    say(f"{FOREIGN} foreign Secrets, ConfigMaps and Pods")
    before = operator.memory()[0]
    foreign()
    results["the same beside 30 000 foreign objects"] = settled(operator, 100)
    say(f"memory {before:.1f} MiB before, {operator.memory()[0]:.1f} MiB after")
    operator.end()
    clear()
    remove_servers(5)


def versions():
    """Resource version of every object of the operator's."""
    found = {}
    for group, resources in (("/api/v1", ("secrets", "configmaps", "services")), ("/apis/apps/v1", ("deployments", "statefulsets", "replicasets")),
                             ("/apis/policy/v1", ("poddisruptionbudgets",)), ("/api/v1", ("pods",))):
        for resource in resources:
            for item in api("GET", f"{group}/namespaces/{NAMESPACE}/{resource}")["items"]:
                found[f"{resource}/{item['metadata']['name']}"] = item["metadata"]["resourceVersion"]
    return found


def companies(results):
    say("200 companies in one pipeline")
    make_servers(1)
    operator = Operator()
    figures = converge(operator, 1, 200, 1, 600) | settled(operator, 1)
    results["1 pipeline of 200 companies"] = figures
    before, audit, began = versions(), Audit(), time.monotonic()
    spec = api("GET", f"{GROUP}/p0")["spec"]
    patch = {"spec": {"companies": [*spec["companies"], {"symbol": f"NEW.{int(time.time())}"}]}}
    api("PATCH", f"{GROUP}/p0", patch, "application/merge-patch+json")
    await_ready(operator, 1, 300)
    took, cost = time.monotonic() - began, audit.summary()
    after = versions()
    touched = [name for name, version in before.items() if after.get(name) != version]
    made = sorted(name for name in after if name not in before)
    say(f"one more company: ready after {took:.0f} s, {cost}; touched {touched}; made {made}")
    if touched:
        raise SystemExit(f"a new company touched {touched}")
    results["one company more beside them"] = {"seconds": took, **cost, "other objects touched": 0, "objects made": len(made)}
    operator.end()
    clear()
    remove_servers(1)


def thousand(results):
    say("1000 pipelines of 1 company")
    make_servers(50)
    operator = Operator()
    results["1000 pipelines of 1 company"] = converge(operator, 1000, 1, 50, 3000) | settled(operator, 1000)
    # A new process reads all there is and finds nothing to do.
    operator.end()
    audit, began, operator = Audit(), time.monotonic(), Operator()
    time.sleep(REST)
    now, highest = operator.memory()
    results["the same after a restart of the operator"] = {**audit.summary(), "MiB": now, "peak MiB": highest}
    operator.end()


SCENARIOS = {"hundred": hundred, "companies": companies, "thousand": thousand}
COLUMNS = [
    ("all ready, s", "seconds", 0), ("reads", "reads", 0), ("writes", "writes", 0), ("at rest: reads/s each", "reads/s per pipeline", 3),
    ("writes in 1 min", "writes at rest", 0), ("MiB", "MiB", 1), ("peak MiB", "peak MiB", 1), ("CPU %", "CPU %", 1),
]


def table(results):
    lines = ["| | " + " | ".join(head for head, _, _ in COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    for name, figures in results.items():
        cells = (f"{figures[key]:,.{digits}f}".replace(",", " ") if key in figures else "–" for _, key, digits in COLUMNS)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(wanted):
    begin()
    for name in wanted or SCENARIOS:
        results = {}
        SCENARIOS[name](results)
        (STATE / f"{name}.json").write_text(json.dumps(results, indent=1))
        print(table(results), flush=True)
        # Each in its own place, with its own date: a run of one keeps what the others measured.
        note = f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, commit {machine.commit()}; {machine.machine()}"
        text = f"{table(results)}\n\n<sub>{note}</sub>"
        BENCHMARKS.write_text(report.place(BENCHMARKS.read_text(), f"operator-{name}", text))


if __name__ == "__main__":
    main(sys.argv[1:])
