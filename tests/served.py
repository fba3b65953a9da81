"""The suites over the network: with ``--served`` every log that a test opens by its directory is a server's.

The directory is then opened by a `FlightService`, in a thread of the test's process or, with ``--served=process``, in
a process of its own, and the test gets a handle that reaches it over real gRPC on loopback. When the last handle is
closed the service goes as well, so that the directory can be looked at. A child of a test that is given ``log.place``
is another client of the server; one that is given the directory opens that itself, beside the server.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec
import pytest

from mamba_stream import errors
from mamba_stream.core.clock import Clock
from mamba_stream.core.durability import PROMISES
from mamba_stream.dsl.opening import open_log
from mamba_stream.log import opening, store as stores
from mamba_stream.log.index import MAP_SIZE
from mamba_stream.log.log import Log
from mamba_stream.log.remote.address import Address, Credentials
from mamba_stream.log.remote.storage import RemoteStorage, connect

_LENGTH = struct.Struct("<I")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--served",
        nargs="?",
        const="thread",
        choices=("thread", "process"),
        help="let every log be a server's, which runs in a thread or a process of its own; give it behind the paths",
    )
    parser.addoption("--durability", choices=tuple(PROMISES), help="open every log with this durability")


def pytest_configure(config: pytest.Config) -> None:
    level = config.getoption("--durability")
    if level is not None:
        Log.__init__.__defaults__ = (level,)
        open_log.__kwdefaults__["durability"] = level
    kind = config.getoption("--served")
    if kind is not None:
        served = Served(OwnProcess() if kind == "process" else Threads())
        opening.acquire = served.acquire
        config.add_cleanup(served.close)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What looks into a directory's storage is about that, and has nothing to say of a server's."""
    kind = config.getoption("--served")
    marks = {None: (), "thread": ("embedded",), "process": ("embedded", "inside")}[kind]
    if config.getoption("--durability") not in (None, "commit"):
        marks = (*marks, "synced")
    away = [item for item in items if any(item.get_closest_marker(mark) for mark in marks)]
    if away:
        config.hook.pytest_deselected(items=away)
        items[:] = [item for item in items if item not in away]


@contextmanager
def serving(path: Path, clock: Clock | None = None) -> Iterator[str]:
    """The address at which this directory is served meanwhile, whatever the options."""
    backend = Threads()
    place, port = backend.serve(path, clock, MAP_SIZE)
    try:
        yield f"localhost:{port}"
    finally:
        backend.stop(place)


class Backend(Protocol):
    """Serves directories."""

    def serve(self, path: Path, clock: Clock | None, map_size: int) -> tuple[tuple[int, int], int]: ...

    def stop(self, place: tuple[int, int]) -> None: ...

    def close(self) -> None: ...


class Served:
    """Opens logs as `store.acquire` does, but by way of a server."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._storages: dict[tuple[int, int], RemoteStorage] = {}
        os.register_at_fork(after_in_child=self._forked)

    def acquire(self, path: Path, clock: Clock | None = None, map_size: int = MAP_SIZE) -> RemoteStorage:
        with self._lock:
            place, port = self._backend.serve(Path(path), clock, map_size)
            try:
                storage = connect(Address("localhost", port, tls=False), Credentials())
            except BaseException:
                if place not in self._storages:
                    self._backend.stop(place)
                raise
            if place not in self._storages:
                self._storages[place] = storage
                storage.release = self._releasing(place, storage, storage.release)
            return storage

    def close(self) -> None:
        self._backend.close()

    def _releasing(
        self, place: tuple[int, int], storage: RemoteStorage, release: Callable[[], None]
    ) -> Callable[[], None]:
        def released() -> None:
            with self._lock:
                release()
                if storage.handles == 0 and self._pid == os.getpid():
                    del self._storages[place]
                    self._backend.stop(place)

        return released

    def _forked(self) -> None:
        self._lock = threading.RLock()


class Threads:
    """Serves in threads of this process."""

    def __init__(self) -> None:
        self._services: dict[tuple[int, int], tuple[Any, stores.Store]] = {}

    def serve(self, path: Path, clock: Clock | None, map_size: int) -> tuple[tuple[int, int], int]:
        from mamba_stream.server.service import FlightService

        store = stores.acquire(path, clock, map_size)
        status = os.stat(store.path / stores.directory.INDEX)
        place = status.st_dev, status.st_ino
        if place in self._services:
            store.release()
        else:
            self._services[place] = FlightService(store), store
        return place, self._services[place][0].port

    def stop(self, place: tuple[int, int]) -> None:
        service, store = self._services.pop(place)
        service.drain(10)
        service.shutdown()
        store.release()

    def close(self) -> None:
        for place in list(self._services):
            self.stop(place)


class OwnProcess:
    """Serves in one other process, which lives as long as the tests do."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def serve(self, path: Path, clock: Clock | None, map_size: int) -> tuple[tuple[int, int], int]:
        assert clock is None, "a clock does not travel to another process"
        device, number, port = self._do(["serve", os.path.abspath(path), map_size])
        return (device, number), port

    def stop(self, place: tuple[int, int]) -> None:
        self._do(["stop", *place])

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=30)

    def _do(self, command: list[Any]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        _put(self._process.stdin, command)
        answer = _take(self._process.stdout)
        assert answer is not None, f"the server died with {self._process.wait()}"
        if answer["error"] is not None:
            raise getattr(errors, answer["error"], AssertionError)(answer["message"])
        return answer["ok"]


def _put(pipe: BinaryIO, value: Any) -> None:
    data = msgspec.msgpack.encode(value)
    pipe.write(_LENGTH.pack(len(data)) + data)
    pipe.flush()


def _take(pipe: BinaryIO) -> Any:
    prefix = pipe.read(_LENGTH.size)
    return msgspec.msgpack.decode(pipe.read(*_LENGTH.unpack(prefix))) if prefix else None


def _main() -> None:
    backend = Threads()
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not disturb the answers
    while (command := _take(sys.stdin.buffer)) is not None:
        try:
            match command:
                case ["serve", path, map_size]:
                    place, port = backend.serve(Path(path), None, map_size)
                    answer = {"ok": [*place, port], "error": None}
                case ["stop", device, number]:
                    backend.stop((device, number))
                    answer = {"ok": None, "error": None}
                case _:
                    raise AssertionError(command)
        except Exception as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        _put(pipe, answer)
    backend.close()


if __name__ == "__main__":
    _main()
