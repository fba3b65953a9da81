"""A process under ``strace``, which kills it, or has a call fail, at the so-manieth of its system calls of a kind."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

_PATIENCE = 60.0


@contextlib.contextmanager
def traced(pid: int, calls: Iterable[str], trace: Path, injection: str | None = None) -> Iterator[None]:
    """Lets a process that stops itself go on under a tracer; the block waits for its end, and does not reap it before.

    Args:
        pid: The process.
        calls: The calls that are looked at.
        trace: Where they are written down.
        injection: What is to happen at one of them, as ``strace -e inject=`` has it.
    """
    wait(lambda: _status(pid, "State").startswith("T"))
    command = ["strace", "-f", "-q", "-o", str(trace), "-p", str(pid)]
    command += ["-e", f"trace={','.join(calls)}", "-e", "signal=none"]
    command += ["-e", f"inject={injection}"] if injection else []
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        wait(lambda: tracer.poll() is not None or _status(pid, "TracerPid") != "0")
        os.kill(pid, signal.SIGCONT)
        yield
    finally:
        if tracer.poll() is None and not has_ended(pid):
            tracer.kill()
        complaint = tracer.communicate(timeout=_PATIENCE)[1].decode()
    assert "attach:" not in complaint, complaint


def counted(trace: Path, pid: int | None = None) -> Counter[str]:
    """How often each call was made, by one thread or by all."""
    who = r"\d+" if pid is None else str(pid)
    lines = trace.read_text().splitlines()
    return Counter(match[1] for line in lines if (match := re.match(rf"{who}\s+(\w+)\(", line)))


def points(counts: Counter[str], share: int | None, seed: int) -> list[tuple[str, int]]:
    """(call, number): all, or so many, spread over the kinds, with the rare ones first."""
    if share is None:
        return [(call, n) for call, count in sorted(counts.items()) for n in range(1, count + 1)]
    rng = random.Random(seed)
    chosen: set[tuple[str, int]] = set()
    queues = {call: rng.sample(range(1, count + 1), count) for call, count in sorted(counts.items())}
    while len(chosen) < share and queues:
        for call in list(queues):
            if len(chosen) < share:
                chosen.add((call, queues[call].pop()))
            if not queues[call]:
                del queues[call]
    return sorted(chosen)


def has_ended(pid: int) -> bool:
    """Whether a process is over, reaped or not."""
    return _status(pid, "State").startswith("Z")


def wait(condition: Callable[[], bool]) -> None:
    """Until it holds."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.0005)


def _status(pid: int, name: str) -> str:
    try:
        found = re.search(rf"^{name}:\s*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return "Z"
    return found[1] if found else "Z"
