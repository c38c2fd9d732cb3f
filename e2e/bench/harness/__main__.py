"""Runs scenarios and writes what they gave: python -m harness [SCENARIO]..."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from . import liveview, machine, report
from .contestants import INSTALLED
from .process import Failed
from .scenarios import SCENARIOS as PROGRAMS
from .servers import Servers, spent

SCENARIOS = {**PROGRAMS, **liveview.SCENARIOS}
DOCUMENT = machine.REPOSITORY / "docs/benchmarks.md"


def warn_if_busy(servers):
    """Figures of a machine that does something else are of no use, and nothing in a rate shows it."""
    before = servers.costs()
    time.sleep(2)
    others = spent(before, servers.costs())["others"] / 2
    if others > 0.2:
        print(f"==> other programs use {others:.1f} cores of this machine: the figures will be rough", flush=True)


def main():
    # As with Ctrl-C: what was started is ended and the queues go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    names = sys.argv[1:] or list(SCENARIOS)
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise SystemExit(f"there is no scenario {unknown[0]}: choose among {', '.join(SCENARIOS)}")
    repeats = int(os.environ.get("REPEATS") or 3)
    servers = Servers()
    os.environ["RABBITMQ_URL"] = servers.broker_url
    warn_if_busy(servers)
    document = DOCUMENT.read_text()
    versions = "\n".join(f"| {what} | {version} |" for what, version in machine.versions(servers).items())
    document = report.place(document, "versions", f"| what | version |\n| --- | --- |\n{versions}")
    for name in names:
        started = time.monotonic()
        print(f"==> {name}", flush=True)
        samples = SCENARIOS[name](servers, repeats)
        # The raw samples, for whoever wants other statistics than the tables'.
        Path(INSTALLED, f"{name}.json").write_text(json.dumps(samples, indent=1, ensure_ascii=False))
        text = report.section(name, samples, machine.machine(), machine.commit())
        document = report.place(document, name, text)
        DOCUMENT.write_text(document)
        print(f"\n{text}\n\n==> {name} done ({time.monotonic() - started:.0f} s)", flush=True)


try:
    main()
except Failed as failure:
    raise SystemExit(f"error: {failure}") from None
