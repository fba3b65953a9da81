"""Scrubbing the log of a server in the background: slowly, round after round, and what is damaged is an event."""

from __future__ import annotations

import threading
from typing import Final

from mamba_stream.errors import MambaStreamError
from mamba_stream.log import Log
from mamba_stream.server.events import Events

_EVERY: Final = 10.0
"""Seconds between two looks."""
_REST: Final = 3600.0
"""Seconds between two rounds."""


class Scrubber:
    """A thread that looks at so many bytes a second, as long as the log is open.

    Attributes:
        batches: How many were looked at.
        bytes: Their bytes.
        findings: What was damaged or missing.
    """

    def __init__(
        self, log: Log, rate: int, events: Events, *, every: float = _EVERY, rest: float = _REST
    ) -> None:
        """Looks at nothing before :meth:`start`.

        Args:
            log: The log.
            rate: Bytes a second.
            events: Is told of what is damaged.
            every: Seconds between two looks.
            rest: Seconds between two rounds.
        """
        self.batches = self.bytes = self.findings = 0
        self._log = log
        self._most = max(1, int(rate * every))
        self._events = events
        self._every, self._rest = every, rest
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scrubber", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it, behind the look that is under way."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause = self._every
        while not self._over.wait(pause):
            pause = self._look()

    def _look(self) -> float:
        """One look; how long to wait for the next."""
        try:
            found = self._log.scrub(self._most)
        except MambaStreamError as error:
            self._events("warning", "scrubbing failed", reason=str(error))
            return self._rest
        self.batches += found.batches
        self.bytes += found.bytes
        self.findings += len(found.findings)
        for finding in found.findings:
            self._events(
                "error",
                "stored bytes are damaged",
                topic=finding.topic,
                partition=finding.partition,
                offset=finding.offset,
                reason=finding.what,
            )
        return self._rest if found.done else self._every
