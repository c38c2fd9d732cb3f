"""Samples become tables, and the tables take their places in docs/benchmarks.md.

Rule: a cell is the median of the repeats with the lowest and highest in brackets; ratios are of medians of one table.
"""

import datetime
import re
import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A figure of the samples; `digits` after the point. With `ratio` a further column says how ours compares."""

    head: str
    key: str
    digits: int = 0
    ratio: bool = False


RATE = Column("events/s", "events/s", ratio=True)
CPU = Column("CPU µs/event", "CPU µs/event", 1, ratio=True)
PEAK = Column("peak MiB", "peak MiB", 1)
BROKER = Column("broker CPU s", "broker", 1)
DATABASE = Column("MongoDB CPU s", "database", 1)

# Of each scenario: its first column's head, the others, the contestant that the ratios are about.
TABLES = {
    "drain": ("consumer", [RATE, CPU, PEAK, BROKER, DATABASE], "ours"),
    "sequenced": ("consumer", [RATE, CPU, PEAK, BROKER, DATABASE], "ours"),
    "backlog": ("consumer", [
        Column("s", "seconds", 2, ratio=True),
        Column("s with start-up", "since start", 2, ratio=True),
        PEAK,
    ], "ours"),
    "memory": ("backlog", [PEAK, Column("events/s", "events/s"), Column("CPU µs/event", "CPU µs/event", 1)], None),
    "publish": ("publisher", [RATE, CPU, PEAK, BROKER], "ours"),
    "pace": ("publisher", [
        Column("events/s", "events/s", 1),
        Column("off the pace, %", "off %", 2),
        Column("furthest from the line, events", "furthest events", 1),
        CPU,
    ], "ours"),
    "latency": ("consumer", [
        Column("p50 ms", "p50 ms", 1),
        Column("p99 ms", "p99 ms", 1),
        Column("longest ms", "max ms", 1),
        Column("windows", "windows"),
    ], None),
    "companies": ("companies", [
        Column("events/s each", "events/s"),
        Column("publisher", "publisher %", 2),
        Column("consumer", "consumers %", 2),
        Column("broker", "broker %", 2),
        Column("MongoDB", "database %", 2),
        Column("all", "all %", 2),
        Column("MiB of a consumer", "consumer MiB", 1),
        Column("its peak MiB", "consumer peak MiB", 1),
        Column("publisher's peak MiB", "publisher peak MiB", 1),
    ], None),
    "liveview-sockets": ("server: sockets", [
        Column("all open after s", "connect s", 2),
        Column("MiB at rest", "rest MiB", 1),
        Column("KiB a socket", "KiB/socket", 1),
        Column("peak MiB", "peak MiB", 1),
        Column("frames/s", "frames/s"),
        Column("CPU, % of a core", "CPU %", 1),
        Column("CPU µs/frame", "CPU µs/frame", 1),
        Column("p50 ms", "p50 ms"),
        Column("p99 ms", "p99 ms"),
    ], None),
    "liveview-inserts": ("server: windows", [
        Column("p50 ms", "p50 ms"),
        Column("p99 ms", "p99 ms"),
        Column("longest ms", "max ms"),
        Column("frames/s", "frames/s"),
        Column("bytes a frame", "bytes/frame"),
        Column("CPU, % of a core", "CPU %", 1),
        Column("CPU µs/frame", "CPU µs/frame", 1),
    ], None),
    "liveview-requests": ("server: request", [
        Column("requests/s", "requests/s"),
        Column("p99 ms", "p99 ms", 1),
        Column("CPU µs/request", "CPU µs/request", 1),
        Column("peak MiB", "peak MiB", 1),
    ], None),
    "liveview-history": ("server: windows stored", [
        Column("ready after s", "ready s", 2),
        Column("MiB at rest", "rest MiB", 1),
        Column("peak MiB", "peak MiB", 1),
        Column("CPU, % of a core", "CPU %", 1),
        Column("MongoDB's", "MongoDB %", 1),
        Column("p50 ms", "p50 ms"),
        Column("p99 ms", "p99 ms"),
        Column("not shown within 3 s, %", "unseen %", 1),
        Column("windows of a company, p50 ms", "windows p50 ms", 1),
        Column("p99 ms", "windows p99 ms", 1),
    ], None),
}

def cell(samples, column):
    """Median (lowest–highest)."""
    values = [sample[column.key] for sample in samples if column.key in sample]
    if not values:
        return "–"
    shown = [f"{value:,.{column.digits}f}".replace(",", " ") for value in (statistics.median(values), min(values), max(values))]
    return shown[0] if shown[1] == shown[2] else f"{shown[0]} ({shown[1]}–{shown[2]})"


def ratio(ours, theirs, key):
    """Ours divided by theirs."""
    ours, theirs = ([sample[key] for sample in samples] for samples in (ours, theirs))
    return f"{statistics.median(ours) / statistics.median(theirs):.2f}"


def table(scenario, samples):
    """Markdown of one scenario."""
    first, columns, ours = TABLES[scenario]
    heads = [first]
    for column in columns:
        heads += [column.head] + (["ours ÷ it"] if column.ratio and ours else [])
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for name, runs in samples.items():
        cells = [name]
        for column in columns:
            cells.append(cell(runs, column))
            if column.ratio and ours:
                cells.append("" if name == ours else ratio(samples[ours], runs, column.key))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def section(scenario, samples, machine, commit):
    """The table, and below it where and when it is from: sections may be measured on different days."""
    repeats = max(map(len, samples.values()))
    now = datetime.datetime.now(datetime.timezone.utc)
    note = f"{now:%Y-%m-%d %H:%M} UTC, commit {commit}, {repeats} repeat{'s' * (repeats > 1)}; {machine}"
    if others := [sample["others"] for runs in samples.values() for sample in runs if "others" in sample]:
        note += f"; CPU of everything else per run: median {statistics.median(others):.1f} s, at most {max(others):.1f} s"
    return f"{table(scenario, samples)}\n\n<sub>{note}</sub>"


def place(document, name, text):
    """Puts a text between its markers."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(document):
        raise SystemExit(f"docs/benchmarks.md has no place for {name}: write {begin} and {end} into it")
    return pattern.sub(lambda _: f"{begin}\n{text}\n{end}", document)
