"""Runs one program of the benchmark and measures it from outside.

Rule: processor time is the kernel's account of the whole process, start-up included; nothing is asked of the program itself.
"""

import os
import queue
import re
import signal
import subprocess
import threading
import time

TICKS = os.sysconf("SC_CLK_TCK")
TAIL = 20


def cpu_seconds(pid):
    """User and system time of a process that runs."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def machine_cpu_seconds():
    """What all processes of this machine have used."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _wait, irq, softirq = map(int, file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / TICKS


def memory_mib(pid, field):
    """A figure of /proc/PID/status or smaps_rollup: VmHWM is the peak of what is resident, Pss the fair share of it."""
    source = "smaps_rollup" if field == "Pss" else "status"
    with open(f"/proc/{pid}/{source}") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(f"{field}:"))


class Failed(Exception):
    """A run that gave no figure: it ends the benchmark, for a missing run is not a slow one."""


class Program:
    """A child. Each line of its output is stamped when it arrives."""

    def __init__(self, contestant, environment, silent=False):
        self.name = contestant.name
        self.cpu = None
        self.peak_mib = 0.0
        self._lines = queue.Queue()
        self._tail = []
        output = subprocess.DEVNULL if silent else subprocess.PIPE
        self.started = time.perf_counter()
        self._child = subprocess.Popen(
            contestant.command,
            env={**os.environ, **environment, **contestant.environment},
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )
        self.pid = self._child.pid
        if not silent:
            threading.Thread(target=self._read, daemon=True).start()
        # The peak of rusage also counts what the harness itself had before the exec, and a process that ended has no /proc.
        threading.Thread(target=self._watch_memory, daemon=True).start()

    def _read(self):
        for line in self._child.stdout:
            text = line.decode(errors="replace").rstrip()
            self._tail = [*self._tail[1 - TAIL:], text]
            self._lines.put((time.perf_counter(), text))
        self._lines.put((time.perf_counter(), None))

    def _watch_memory(self):
        while self.cpu is None:
            try:
                self.peak_mib = max(self.peak_mib, memory_mib(self.pid, "VmHWM"))
            except (OSError, StopIteration):
                return
            time.sleep(0.05)

    def failed(self, what):
        return Failed(f"{self.name}: {what}; its last lines:\n    " + "\n    ".join(self._tail))

    def await_line(self, pattern, timeout):
        """When a line came that matches, and the match."""
        deadline = time.perf_counter() + timeout
        while True:
            try:
                at, line = self._lines.get(timeout=max(0.0, deadline - time.perf_counter()))
            except queue.Empty:
                raise self.failed(f"no line {pattern!r} within {timeout} s") from None
            if line is None:
                raise self.failed(f"ended without a line {pattern!r}")
            if match := re.search(pattern, line):
                return at, match

    def lines(self):
        """The lines that no one has awaited, once the program has ended."""
        found = []
        while (item := self._lines.get(timeout=5))[1] is not None:
            found.append(item[1])
        return found

    def stop(self):
        os.kill(self.pid, signal.SIGTERM)

    def wait(self, timeout=30):
        """Waits for a good end; then `cpu` is known."""
        deadline = time.perf_counter() + timeout
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if time.perf_counter() > deadline:
                self.kill()
                raise self.failed(f"did not end within {timeout} s")
            time.sleep(0.01)
        self._child.returncode = os.waitstatus_to_exitcode(status)
        self.cpu = usage.ru_utime + usage.ru_stime
        if self._child.returncode not in (0, -signal.SIGTERM):
            raise self.failed(f"ended with {self._child.returncode}")

    def kill(self):
        """Ends it whatever it does; harmless when it has ended."""
        if self._child.returncode is None:
            self._child.kill()
            self._child.wait()
            self.cpu = self.cpu or 0.0
