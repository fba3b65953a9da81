"""Members of a group as the storms see them: processes with a journal each, which come, are killed, and come again."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests import forking
from tests.crash.processes import child_environment

PATIENCE = 120.0


class Crowd:
    """The members of one group.

    Args:
        module: What a member runs, with the log and its journal as arguments.
        log: The log.
        place: Where journals are kept, and what members complain of.
        environment: Theirs.
    """

    def __init__(self, module: str, log: Path, place: Path, environment: dict[str, str]) -> None:
        self._module = module
        self._log = log
        self._place = place
        self._environment = child_environment(environment)
        self.journals: list[Path] = []
        self.there: list[forking.Process] = []

    def begin(self) -> None:
        """One more comes."""
        self.journals.append(self._place / f"journal-{len(self.journals)}")
        arguments = [sys.executable, "-m", self._module, str(self._log), str(self.journals[-1])]
        with (self._place / f"errors-{len(self.journals)}").open("wb") as errors:
            self.there.append(forking.Process(arguments, env=self._environment, stderr=errors))

    def begun(self, process: forking.Process) -> bool:
        """Whether it is beyond its imports, and takes a signal as it should."""
        journal = self.journal_of(process)
        return journal.exists() and journal.stat().st_size > 0

    def journal_of(self, process: forking.Process) -> Path:
        """Where a member writes what it does."""
        return Path(process.args[-1])

    def remove(self, process: forking.Process, how: signal.Signals) -> None:
        """One goes, by this signal."""
        self._check(process)
        self.there.remove(process)
        process.send_signal(how)
        assert process.wait(PATIENCE) == (0 if how == signal.SIGTERM else -how)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Polls until it holds; nobody may end by itself until then."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "it did not come true"
            for process in self.there:
                self._check(process)
            time.sleep(0.01)

    def disband(self) -> None:
        """Nobody is left."""
        for process in self.there:
            process.kill()
            process.wait()

    def _check(self, process: forking.Process) -> None:
        if process.poll() is not None:
            number = self.journals.index(self.journal_of(process)) + 1
            complaint = (self._place / f"errors-{number}").read_text(errors="replace")[-2000:]
            raise AssertionError(f"a member ended by itself, with {process.returncode}: {complaint}")
