"""A listener's process, seen from the supervisor: what it was told, what it said, whether it lives."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from mamba_stream.errors import InvalidInput
from mamba_stream.server import orders
from mamba_stream.server.listener import memory_of
from mamba_stream.server.orders import Figures, Orders, Sender, ToSupervisor

Report = Callable[[orders.Said], None]
"""Takes down what a listener says that happened."""
Serve = Callable[[socket.socket], Callable[[float], object]]
"""Takes our end of the socket over which a listener has the index written, and closes it when the other end is; what
it gives waits for that."""

_ENVIRONMENT: Final = {
    # A heap for every thread would be reserved many times over, and count as memory.
    "MALLOC_ARENA_MAX": "4",
    # Nor are batches taken from another heap, which reserves a gigabyte before it holds anything: gRPC, which has no
    # answer to memory that is refused, then finds nothing left of what the listener may take.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_MMAP_THRESHOLD_": str(8 << 20),
    "PYTHONUNBUFFERED": "1",
    # What gRPC says of connections that broke is nothing that a server's owner has to know.
    "GRPC_VERBOSITY": "NONE",
}
# What a batch lay in is for the next one: to give the pages back and take them anew costs as much as receiving it.
_KEPT: Final = 32 << 20
"""Bytes at the end of a heap that stay with the process when they are free."""
_SHARE_KEPT: Final = 64
"""And at most one part in so many of what the process may take: there are a few heaps."""
_LONGEST_LINE: Final = 500
_LAST_COMMIT: Final = 30.0
"""Seconds that the last commit of an ended process may take."""
_LAST_WORDS: Final = 2.0
"""Seconds that the reading of what an ended process has said may take."""


class Child:
    """A process that listens. Started by a thread that lives as long as it shall: the process ends with that."""

    def __init__(self, command: Sequence[str], given: Orders, report: Report, serve: Serve) -> None:
        self._changed = threading.Condition()
        self._report = report
        self._prepared = False
        self._port: int | None = None
        self._failed: str | None = None
        self._let_go = False
        self._left: int | None = None
        self._asked = 0
        self._counted = 0
        self._figures = Figures()
        self._over = False
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = self._started(command, theirs.fileno(), given.memory)
            except BaseException:
                ours.close()
                raise
            given = msgspec.structs.replace(given, registry=theirs.fileno())
        self._served = serve(ours)
        assert self._process.stdin is not None
        self._sender = Sender(self._process.stdin)
        for target in (self._listen, self._overhear):
            threading.Thread(target=target, name=target.__name__, daemon=True).start()
        self._sender.send(given)

    @staticmethod
    def _started(command: Sequence[str], registry: int, memory: int) -> subprocess.Popen[bytes]:
        kept = min(_KEPT, memory // _SHARE_KEPT)
        return subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C at a terminal is for the supervisor.
            start_new_session=True,
            env={**os.environ, **_ENVIRONMENT, "MALLOC_TRIM_THRESHOLD_": str(kept)},
            pass_fds=[registry],
        )

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def port(self) -> int | None:
        """Where it listens; ``None`` as long as it does not."""
        return self._port

    @property
    def over(self) -> bool:
        """Whether nothing more comes from it."""
        return self._over

    @property
    def failed(self) -> str | None:
        """Why it cannot serve, however often that is tried."""
        return self._failed

    @property
    def left(self) -> int | None:
        """How many calls it cut off when it left as it was told; ``None`` where it did not, or not yet."""
        return self._left

    @property
    def memory(self) -> int:
        """How many bytes it uses; 0 where that cannot be told."""
        found = memory_of(self.pid)
        return found[1] if found else 0

    def listen(self) -> None:
        """Lets it take the address."""
        self._sender.send(orders.Listen())

    def reload(self) -> None:
        """Lets it read its users again."""
        self._sender.send(orders.Reload())

    def leave(self, timeout: float, *, hand_over: bool = False) -> None:
        """Lets it finish, and end."""
        self._sender.send(orders.Leave(timeout, hand_over))

    def figures(self, timeout: float) -> tuple[Figures, bool]:
        """What it did; and whether it answered within so many seconds, or this is what it said before."""
        with self._changed:
            self._asked += 1
            number = self._asked
        self._sender.send(orders.Count(number))
        with self._changed:
            answered = self._changed.wait_for(lambda: self._counted >= number or self._over, timeout)
            return self._figures, answered and self._counted >= number

    def wait_prepared(self, timeout: float) -> bool:
        """Waits until it could take the address; whether it can."""
        with self._changed:
            self._changed.wait_for(lambda: self._prepared or self._failed or self._over, timeout)
            return self._prepared

    def wait_ready(self, timeout: float) -> bool:
        """Waits until it answers calls; whether it does."""
        with self._changed:
            self._changed.wait_for(lambda: self._port or self._failed or self._over, timeout)
            return self._port is not None

    def wait_let_go(self, timeout: float) -> bool:
        """Waits until the address is free; whether it is."""
        with self._changed:
            self._changed.wait_for(lambda: self._let_go or self._over, timeout)
            return self._let_go or self._over

    def wait(self, timeout: float) -> int | None:
        """Waits until it ended, at most so many seconds; its exit code, negative for a signal."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        with self._changed:
            # What it said at last is still to be read.
            self._changed.wait_for(lambda: self._over, _LAST_WORDS)
        # What it committed at last happens now or never: the next one may be asked whether it did.
        self._served(_LAST_COMMIT)
        return code

    def kill(self) -> None:
        """Ends it now."""
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        pipe = self._process.stdout
        assert pipe is not None
        try:
            while (message := orders.receive(pipe, ToSupervisor)) is not None:
                if isinstance(message, orders.Said):
                    self._report(message)
                    continue
                with self._changed:
                    self._take(message)
                    self._changed.notify_all()
        except InvalidInput as error:
            # Whoever writes this is not a listener any more: hostile bytes may have come through.
            self._report(orders.Said("error", "listener not understood", {"reason": str(error)}))
            self._process.kill()
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()
            pipe.close()
            self._sender.close()

    def _take(self, message: ToSupervisor) -> None:
        match message:
            case orders.Prepared():
                self._prepared = True
            case orders.Ready(port):
                self._port = port
            case orders.Failed(reason):
                self._failed = reason
            case orders.LetGo():
                self._let_go = True
            case orders.Left(cut, figures):
                self._left, self._figures = cut, figures
            case orders.Counted(number, figures):
                self._counted, self._figures = number, figures

    def _overhear(self) -> None:
        pipe = self._process.stderr
        assert pipe is not None
        with pipe:
            for line in iter(lambda: pipe.readline(1 << 16), b""):
                self._tell(line)

    def _tell(self, line: bytes) -> None:
        if text := line.decode(errors="replace").strip()[:_LONGEST_LINE]:
            self._report(orders.Said("warning", "listener wrote", {"line": text}))
