"""A server in a process of its own that is killed and comes back: same port, same directory, another life."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mamba_stream.core.settings import Address
from mamba_stream.server.sockets import bind
from tests.log.neighbour import environment

_SERVER: Final = """
import sys
from pathlib import Path
import mamba_stream, polars, pyarrow.flight
from mamba_stream.log.store import acquire
from mamba_stream.server.service import FlightService
print("warm", flush=True)
sys.stdin.readline()
service = FlightService(acquire(Path(sys.argv[1])), "grpc://localhost:" + sys.argv[2])
print("up", flush=True)
sys.stdin.read()
"""


class Lives:
    """The lives of a server, one after the other.

    A process that has imported everything stands by for the next one: a life begins as soon as the last one ended, and
    clients that are still trying are what it meets.
    """

    def __init__(self, directory: Path) -> None:
        # Nobody else gets it between two lives, nor is it the near end of a client's connection.
        self._kept = bind(Address("localhost", 0), "listen", listening=False)
        self.port: int = self._kept[0].getsockname()[1]
        self.kills = 0
        self._directory = directory
        self._next = self._warm()
        self._now = self._next
        self.begin()

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def begin(self) -> None:
        """Begins the next life; returns once it listens."""
        self._now, self._next = self._next, self._warm()
        self._say(self._now, "warm")
        self._now.stdin.write("go\n")
        self._now.stdin.flush()
        self._say(self._now, "up")

    def kill(self) -> None:
        """Ends this life as a loss of power to the process would."""
        self._now.send_signal(signal.SIGKILL)
        self._now.wait()
        _close(self._now)
        self.kills += 1

    def pause(self) -> None:
        """Stops its time: connections stay, nothing is answered."""
        self._now.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._now.send_signal(signal.SIGCONT)

    def close(self) -> None:
        for process in (self._now, self._next):
            process.kill()
            process.wait()
            _close(process)
        for each in self._kept:
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _warm(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(self._directory), str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    @staticmethod
    def _say(process: subprocess.Popen[str], word: str) -> None:
        line = process.stdout.readline().strip()
        assert line == word, f"the server said {line!r} and not {word!r}; it ended with {process.poll()}"


def _close(process: subprocess.Popen[str]) -> None:
    process.stdin.close()
    process.stdout.close()
