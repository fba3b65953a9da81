"""A writer is killed at, or gets an error from, the Nth system call of its kind, for every N of a short script.

``strace`` injects it into a process that has imported everything and stands before its log. After a kill the
log holds what it acknowledged, and goes on. After an error the writer has seen one of the log's own errors,
that said truly whether its operation happened, and it or the next one goes on.
"""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.checker import History, Violation, check, settle
from tests.crash.processes import Crew, Process
from tests.crash.tracing import counted, has_ended, points, traced, wait
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


class Injector:
    """Runs the script under strace, with a failure injected or none."""

    def __init__(self, crew: Callable[..., Crew], place: Path, seed: int) -> None:
        self._crew = crew
        self._place = place
        self._trace = place / "strace"
        self._seed = seed
        self._runs = 0
        self.durability = "commit"

    def calls(self, kinds: tuple[str, ...]) -> Counter[str]:
        """How often the script makes each of these calls."""
        process, _, _ = self._run(kinds, None)
        process.finish()
        return counted(self._trace, process.pid)

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
        with traced(process.pid, kinds, self._trace, injection):
            # It is reaped only when it has ended, and strace with it.
            wait(lambda: has_ended(process.pid))
        return process, writers, History(self._seed, script=SCRIPT)

    def _go_on(self, process: Process, writers: Crew, history: History) -> None:
        history.take(process.events())
        settle(check(writers.log, history), history)
        following = writers.begin(self._seed, 0, *history.resumption(0), "--operations", "4")
        following.finish()
        history.take(following.events())
        check(writers.log, history)
        shutil.rmtree(writers.log)


@pytest.fixture
def injector(crew: Callable[..., Crew], place: Path, seed: int) -> Injector:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: no failures can be injected into system calls")
    return Injector(crew, place, seed)


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
    chosen = points(injector.calls(CHANGING + LOCKING), share, seed)
    _sweep(chosen, injector.kill_at, "killed")


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("share", SHARES)
def test_a_system_call_that_fails_gives_a_clear_error_and_loses_nothing(
    share: int | None, error: str, injector: Injector, seed: int
) -> None:
    kinds = CHANGING + (READING[:2] if error == "EIO" else ())
    chosen = points(injector.calls(kinds), share, seed)
    _sweep(chosen, lambda call, number: injector.fail_at(call, number, error), error)
