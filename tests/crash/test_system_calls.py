"""A writer is killed at, or gets an error from, the Nth system call of its kind, for every N of a short script.

``strace`` injects it into a process that has imported everything and stands before its log. After a kill the
log holds what it acknowledged, and goes on. After an error the writer has seen one of the log's own errors,
that said truly whether its operation happened, and it or the next one goes on.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.checker import History, Violation, check, settle
from tests.crash.processes import Crew, Process
from tests.crash.writer import CLEAR

pytestmark = pytest.mark.strace

CHANGING = (
    *("write", "pwrite64", "pwritev", "pwritev2", "writev", "fdatasync", "fsync", "ftruncate", "openat"),
    *("rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "copy_file_range"),
)
LOCKING = ("flock",)
READING = ("pread64", "getdents64", "mmap")
SCRIPT = (
    *(
        "append",
        "transaction",
        "idempotent",
        "transaction",
        "trim",
        "alter",
        "append",
        "seal",
        "alter",
        "append",
        "transaction",
    ),
    *("reopen", "append", "temporary", "refused", "idempotent", "seal", "trim", "append"),
)
_PATIENCE = 30.0


class Injector:
    """Runs the script under strace, with a failure injected or none."""

    def __init__(self, crew: Callable[..., Crew], place: Path, seed: int) -> None:
        self._crew = crew
        self._place = place
        self._seed = seed
        self._runs = 0
        self.durability = "commit"

    def calls(self, kinds: tuple[str, ...]) -> Counter[str]:
        """How often the script makes each of these calls."""
        process, _, _ = self._run(kinds, None)
        process.finish()
        lines = (self._place / "strace").read_text().splitlines()
        return Counter(match[1] for line in lines if (match := re.match(rf"{process.pid}\s+(\w+)\(", line)))

    def kill_at(self, call: str, number: int) -> None:
        """The process is killed as it makes the call for the so-manieth time."""
        process, writers, history = self._run((call,), f"{call}:signal=KILL:when={number}")
        if process.wait() != -signal.SIGKILL:
            # Threads and pools vary a little from run to run.
            process.finish()
        self._go_on(process, writers, history)

    def fail_at(self, call: str, number: int, error: str, *, always: bool = False) -> None:
        """The call fails, once or from then on."""
        when = f"{number}+" if always else str(number)
        process, writers, history = self._run((call,), f"{call}:error={error}:when={when}")
        code = process.wait()
        assert code == 0 or (always and code == CLEAR), f"ended with {code}: {process.complaint()}"
        self._go_on(process, writers, history)

    def _run(self, kinds: tuple[str, ...], injection: str | None) -> tuple[Process, Crew, History]:
        log = self._place / f"log-{self._runs}"
        self._runs += 1
        writers = self._crew(log, "--script", ",".join(SCRIPT), "--durability", self.durability)
        process = writers.begin(self._seed, 0, "--operations", str(len(SCRIPT)), stopped=True)
        _wait(lambda: _status(process.pid, "State").startswith("T"))
        command = ["strace", "-f", "-q", "-o", str(self._place / "strace"), "-p", str(process.pid)]
        command += ["-e", f"trace={','.join(kinds)}", "-e", "signal=none"]
        if injection:
            command += ["-e", f"inject={injection}"]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
        try:
            _wait(lambda: tracer.poll() is not None or _status(process.pid, "TracerPid") != "0")
            process.signal(signal.SIGCONT)
            # It is reaped only when it has ended, and strace with it.
            _wait(lambda: _status(process.pid, "State").startswith("Z"))
        finally:
            if tracer.poll() is None and not _status(process.pid, "State").startswith("Z"):
                tracer.kill()
            complaint = tracer.communicate(timeout=_PATIENCE)[1].decode()
        assert "attach:" not in complaint, complaint
        return process, writers, History(self._seed, script=SCRIPT)

    def _go_on(self, process: Process, writers: Crew, history: History) -> None:
        history.take(process.events())
        settle(check(writers.log, history), history)
        following = writers.begin(self._seed, 0, *history.resumption(0), "--operations", "4")
        following.finish()
        history.take(following.events())
        check(writers.log, history)
        shutil.rmtree(writers.log)


def _status(pid: int, name: str) -> str:
    try:
        found = re.search(rf"^{name}:\s*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return "Z"
    return found[1] if found else "Z"


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.0005)


@pytest.fixture
def injector(crew: Callable[..., Crew], place: Path, seed: int) -> Injector:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: no failures can be injected into system calls")
    return Injector(crew, place, seed)


def _points(counts: Counter[str], share: int | None, seed: int) -> list[tuple[str, int]]:
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


def _sweep(points: list[tuple[str, int]], attempt: Callable[[str, int], None], what: str) -> None:
    wrong = []
    for call, number in points:
        try:
            attempt(call, number)
        except (AssertionError, Violation) as error:
            wrong.append(f"{what} at {call} {number}: {error}")
            if len(wrong) == 5:
                break
    assert not wrong, f"{len(wrong)} of {len(points)}:\n" + "\n".join(wrong)


SHARES = [pytest.param(16, id="16"), pytest.param(None, id="all", marks=pytest.mark.slow)]


@pytest.mark.parametrize("durability", ["commit", "mixed"])
@pytest.mark.parametrize("share", SHARES)
def test_a_writer_killed_at_any_system_call_loses_nothing(
    share: int | None, durability: str, injector: Injector, seed: int
) -> None:
    injector.durability = durability
    points = _points(injector.calls(CHANGING + LOCKING), share, seed)
    _sweep(points, injector.kill_at, "killed")


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("share", SHARES)
def test_a_system_call_that_fails_gives_a_clear_error_and_loses_nothing(
    share: int | None, error: str, injector: Injector, seed: int
) -> None:
    kinds = CHANGING + (READING[:2] if error == "EIO" else ())
    points = _points(injector.calls(kinds), share, seed)
    _sweep(points, lambda call, number: injector.fail_at(call, number, error), error)
