"""Writing processes as the crash tests see them: watched through their journals, and killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.crash.journal import Tail
from tests.crash.nursery import Nursery

PATIENCE = 60.0
_GLANCE = 0.0005


class Process:
    """A writer."""

    def __init__(self, nursery: Nursery, pid: int, journal: Path, errors: Path) -> None:
        self._nursery = nursery
        self._errors = errors
        self._tail = Tail(journal)
        self._code: int | None = None
        self.pid = pid

    def events(self) -> list[dict[str, Any]]:
        """What it wrote into its journal so far."""
        return self._tail.events()

    def acknowledged(self) -> int:
        return sum(event["k"] == "ack" for event in self.events())

    def ended(self) -> bool:
        if self._code is None:
            self._code = self._nursery.poll(self.pid)
        return self._code is not None

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Polls until the condition holds; the process must be alive until then."""
        deadline = time.monotonic() + PATIENCE
        glances = 0
        while not condition():
            glances += 1
            if glances % 64 == 0 and self.ended() and not condition():
                raise AssertionError(f"the writer ended by itself ({self._code}): {self.complaint()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing for {PATIENCE} s; last: {self.events()[-1:]}")
            time.sleep(_GLANCE)

    def wait_for_acks(self, more: int) -> None:
        """Waits until so many more operations were acknowledged than are now."""
        goal = self.acknowledged() + more
        self.wait_for(lambda: self.acknowledged() >= goal)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills it at once; it must not have ended by itself."""
        os.kill(self.pid, signal.SIGKILL)
        code = self.wait()
        if code != -signal.SIGKILL:
            raise AssertionError(f"the writer ended by itself ({code}): {self.complaint()}")

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        if self._code is None:
            self._code = self._nursery.wait(self.pid)
        return self._code

    def finish(self) -> None:
        """Waits for it to come to its end, without an error."""
        code = self.wait()
        if code:
            raise AssertionError(f"the writer ended with {code}: {self.complaint()}")

    def discard(self) -> None:
        """Makes sure that it is gone."""
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def complaint(self) -> str:
        return self._errors.read_text(errors="replace")[-4000:] if self._errors.exists() else ""


class Crew:
    """The writers of one log."""

    def __init__(self, nursery: Nursery, log: Path, place: Path, *options: str) -> None:
        self.log = log
        self._nursery = nursery
        self._place = place
        self._options = options
        self._all: list[Process] = []

    def begin(
        self, seed: int, writer: int, *arguments: str, plant: str = "", stopped: bool = False
    ) -> Process:
        """A process that writes."""
        journal = self._place / f"journal-{len(self._all)}"
        errors = self._place / f"errors-{len(self._all)}"
        given = [str(self.log), str(journal), "--seed", str(seed), "--writer", str(writer)]
        pid = self._nursery.begin(
            [*given, *self._options, *arguments], errors=errors, plant=plant, stopped=stopped
        )
        self._all.append(Process(self._nursery, pid, journal, errors))
        return self._all[-1]

    def disband(self) -> None:
        """Makes sure that nobody is left."""
        for process in self._all:
            process.discard()


def child_environment(environment: dict[str, str], **extra: str) -> dict[str, str]:
    """For writers: threads that would only cost start-up are left out."""
    return {**environment, "POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", **extra}
