"""What the figures were measured on: the machine and the versions of everything.

Rule: a version is asked of the thing itself, or read where it is pinned.
"""

import json
import os
import platform
import re
import subprocess
from pathlib import Path

from .contestants import BENCH, PYTHON

REPOSITORY = BENCH.parent.parent


def machine():
    """One line."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    model = model[1].strip() if model else platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB, Linux {platform.release()}"


def commit():
    """The commit measured; a star when the programs may differ from it."""
    short = said(["git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"])
    changed = said(["git", "-C", str(REPOSITORY), "status", "--porcelain", "--", "workloads", "wire", "Cargo.lock"])
    return short + "*" * bool(changed)


def said(command):
    """The first line of what a command prints."""
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return (run.stdout or run.stderr).strip().partition("\n")[0]


def versions(servers):
    """`{what: version}`."""
    go = dict(re.findall(r"([^/\s]+)(?:/v\d+)? v(\S+)$", (BENCH / "go/go.mod").read_text(), re.MULTILINE))
    go["go"] = said(["go", "version"]).split()[2].removeprefix("go")
    node = json.loads((BENCH / "node/package.json").read_text())["dependencies"]
    python = dict(line.split("==") for line in (BENCH / "python/requirements.txt").read_text().split())
    rust = dict(re.findall(r'name = "(lapin|mongodb|axum|tungstenite)"\nversion = "([^"]+)"', (REPOSITORY / "Cargo.lock").read_text()))
    perftest = re.search(r"<artifactId>perf-test</artifactId>\s*<version>([^<]+)", (BENCH / "perftest/pom.xml").read_text())[1]
    return {
        **servers.versions,
        "ours": f"{said(['rustc', '--version']).split(' (')[0]}, lapin {rust['lapin']}, mongodb {rust['mongodb']}, axum {rust['axum']}, tungstenite {rust['tungstenite']}",
        "Go": f"{go['go']}, amqp091-go {go['amqp091-go']}, mongo-driver {go['mongo-driver']}, gorilla/websocket {go['websocket']}",
        "Node": f"{said(['node', '--version'])}, amqplib {node['amqplib']}, mongodb {node['mongodb']}, express {node['express']}, ws {node['ws']}",
        "Python": f"{said([PYTHON, '--version']).split()[1]}, pika {python['pika']}, pymongo {python['pymongo']}",
        "PerfTest": f"{perftest}, {said(['java', '-version'])}",
        "wrk": said(["dpkg-query", "--show", "--showformat", "${Version}", "wrk"]),
    }
