"""A log that is served, by a server that can be stopped and started anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mamba_stream.log import Log, locate
from mamba_stream.log.store import Store, acquire
from mamba_stream.server.service import FlightService
from tests.log.pictures import unsound


class Server:
    """Serves a directory at one port, in this process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store: Store = acquire(path)
        self.service = FlightService(self.store)
        self.port = self.service.port

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def client(self) -> Log:
        return locate(self.address)

    def stop(self) -> None:
        self.service.drain(10)
        self.service.shutdown()

    def start(self) -> None:
        self.service = FlightService(self.store, f"grpc://localhost:{self.port}")

    def restart(self) -> None:
        """Another life of the server: it remembers nothing of what it answered before."""
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        self.store.release()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """When the test is over the directory must be sound."""
    made = Server(tmp_path / "log")
    yield made
    made.close()
    assert unsound(tmp_path / "log") == []


@pytest.fixture
def log(server: Server) -> Iterator[Log]:
    """A client of it."""
    with server.client() as opened:
        yield opened
