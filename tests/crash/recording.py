"""Traces of everything that processes asked of the disk, and what becomes of a log where the power fails meanwhile."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests import forking
from tests.crash import disk

_WORKERS, _MANY = 2, 200
"""How many processes look at so many states or more; fewer would be looked at sooner than another one has started."""


@dataclass(frozen=True)
class Recording:
    """A trace of everything that writers asked of the disk."""

    trace: Path
    root: Path
    seed: int
    place: Path
    environment: dict[str, str]
    module: str = "tests.crash.powerloss"
    """What builds states, and looks at them."""

    def length(self) -> int:
        return sum(1 for _ in disk.calls(self.trace.read_bytes()))

    def marked(self, what: str) -> int:
        """How many calls came before something was told."""
        calls = enumerate(disk.calls(self.trace.read_bytes()))
        return next(
            number
            for number, call in calls
            if call.kind == disk.MARK and json.loads(call.data).get("what") == what
        )

    def states(self, count: int, since: int = 0, until: int | None = None) -> list[tuple[int, int]]:
        """So many moments (numbers of calls), each with a seed for what is left then."""
        rng = random.Random(self.seed)
        most = self.length() if until is None else until
        return sorted((rng.randint(since, most), rng.randrange(1 << 32)) for _ in range(count))


def examined(recording: Recording, states: list[tuple[int, int]], *, stop: bool = False) -> list[str]:
    """What is wrong with which states; with ``stop`` only the first that is."""
    workers = []
    count = _WORKERS if len(states) >= _MANY and not stop else 1
    for number in range(count):
        command = _command(recording, recording.place / f"state-{number}")
        worker = forking.Process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=recording.environment
        )
        assert worker.stdin is not None
        worker.stdin.write("".join(f"{json.dumps(s)}\n" for s in states[number::count]))
        worker.stdin.close()
        workers.append(worker)
    found: list[str] = []
    for worker in workers:
        found += _answers(worker, recording, stop=stop)
    return found


def _answers(worker: forking.Process, recording: Recording, *, stop: bool) -> list[str]:
    found: list[str] = []
    state = None
    unrecorded: list[str] = []
    assert worker.stdout is not None
    with worker.stdout as lines:
        for line in lines:
            answer = json.loads(line)
            state = answer.get("begin", state)
            unrecorded = answer.get("unrecorded", unrecorded)
            if answer.get("wrong"):
                found.append(_again(state, recording) + "\n    ".join(["", *answer["wrong"][:4]]))
                if stop:
                    worker.kill()
                    worker.wait()
                    return found
    if worker.wait():
        found.append(f"{_again(state, recording)}\n    the process ended with {worker.returncode}")
    # LMDB's table of locks is shared memory, and made anew after a loss of power.
    assert [path for path in unrecorded if not path.endswith("/lock.mdb")] == []
    return found


def _command(recording: Recording, where: Path) -> list[str]:
    arguments = [recording.trace, recording.root, recording.seed, where]
    return [sys.executable, "-m", recording.module, *map(str, arguments)]


def _again(state: list[int] | None, recording: Recording) -> str:
    """A command that builds the state once more, and leaves it to be looked at."""
    return f"echo '{json.dumps(state)}' | {' '.join(_command(recording, Path('/tmp/state')))}"
