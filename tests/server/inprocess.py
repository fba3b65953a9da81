"""A server in this process that is started anew at its port, and a client whose calls fail as a test says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from mamba_stream.core.clock import Clock
from mamba_stream.core.settings import Address
from mamba_stream.log import Log
from mamba_stream.log.remote.connection import Connection
from mamba_stream.log.remote.failing import Lost
from mamba_stream.log.store import acquire
from mamba_stream.server.service import FlightService
from mamba_stream.server.sockets import bind
from tests.server.load import client_of

Plan = list[tuple[str, BaseException | Callable[[], None]] | None]


class Restarted:
    """A served directory. Each life of the server is a service of its own: it remembers nothing of the one before."""

    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        self.log = Log(acquire(directory, clock))
        # Nobody else gets it between two lives.
        self._kept = bind(Address("localhost", 0), "listen", listening=False)
        self.port: int = self._kept[0].getsockname()[1]
        self.service = FlightService(self.log._shared, f"grpc://{self.address}")

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def restart(self, log: Log | None = None) -> None:
        """Ends this life and begins the next, over another log if one is given."""
        self.service.desk.drain()
        self.service.shutdown()
        self.service = FlightService((log or self.log)._shared, f"grpc://localhost:{self.port}")

    def close(self) -> None:
        self.service.desk.drain()
        self.service.shutdown()
        self.log.close()
        for each in self._kept:
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Line:
    """The line of one client: what happens to its next commits.

    ``("before", what)`` keeps the commit from the server, ``("after", what)`` keeps the answer from the client; ``what``
    is raised, or called and then the connection is lost.
    """

    def __init__(self, log: Log) -> None:
        self.plan: Plan = []
        self.sent = 0
        self._connection: Connection = log._shared._connection
        self._once = self._connection.once
        self._connection.once = self._call

    def _call(self, action: str, *args: Any) -> Any:
        if action != "commit":
            return self._once(action, *args)
        self.sent += 1
        plan = self.plan.pop(0) if self.plan else None
        if plan is None:
            return self._once(action, *args)
        when, what = plan
        if when == "after":
            self._once(action, *args)
        # As the connection does when it finds out.
        self._connection._interrupted = True
        if isinstance(what, BaseException):
            raise what
        what()
        raise Lost("the line went dead")


def client(server: Restarted) -> tuple[Log, Line]:
    """A client with a connection of its own, and its line."""
    log = client_of(server.address)
    return log, Line(log)
