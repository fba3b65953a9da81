"""Waking: a commit in one process ends the wait of a follower in another, without polling.

Every process with a thread that waits has a Unix datagram socket in the log's ``wake`` directory; a commit
sends one byte to each. A byte that is lost costs a slow poll, never a row: what woke a waiter is not in the byte.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
from collections import deque
from pathlib import Path

from mamba_stream.core.clock import Clock

_GRAIN_NS = 20_000_000
"""File systems stamp a directory no finer than this."""
_numbers = itertools.count()


class Waker:
    """Tells every waiter of a log, in any process, that something was committed."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._seen = -1
        self._names: list[str] = []

    def announce(self) -> None:
        """Wakes all waiters. Never fails: a waiter that cannot be woken polls."""
        try:
            changed = os.fstat(self._fd).st_mtime_ns
            # A directory that changed within the clock's grain of the last look may have changed since.
            if changed != self._seen:
                self._names = os.listdir(self._fd)
                self._seen = changed if self._clock.now() * 1000 - changed > _GRAIN_NS else -1
        except OSError:
            # Without a descriptor to be had, those that were there at the last look are woken.
            pass
        for name in self._names:
            try:
                self._socket.sendto(b"\0", _address(self._directory, self._fd, name))
            except ConnectionRefusedError:
                # Its process died: a socket nobody reads is only in the way.
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self._fd)
            except OSError:
                # Full (it will wake anyway) or gone.
                continue

    def close(self) -> None:
        self._socket.close()
        os.close(self._fd)


class Ear:
    """Hears of commits for all waiting threads of a process: one of them listens, and tells the others.

    A socket for each thread would cost every commit a byte for each, and a process that has a thousand
    followers its descriptors.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._heard = 0
        self._listener: int | None = None
        # Each waits at a lock of its own: a condition does not bear a signal's handler that raises.
        self._others: deque[threading.Lock] = deque()
        self._closed = False
        self._name = f"{os.getpid()}-{next(_numbers)}"
        self._fd: int | None = None
        self._socket: socket.socket | None = None
        # Without a descriptor to be had, or where the path is too long for a socket, the slow poll remains.
        with contextlib.suppress(OSError):
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._name, dir_fd=self._fd)
            made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                made.bind(_address(directory, self._fd, self._name))
            except OSError:
                made.close()
            else:
                self._socket = made

    @property
    def heard(self) -> int:
        """A number that grows with what is heard: take it before looking whether there is need to wait."""
        return self._heard

    def wait(self, heard: int, timeout: float) -> None:
        """Returns when something was heard since ``heard`` was taken, or after about ``timeout`` seconds."""
        while (turn := self._turn(heard)) is not None:
            called = False
            try:
                called = turn.acquire(timeout=timeout)
            finally:
                if not called:
                    self._give_up(turn)
            if not called:
                return
        if self._listener != threading.get_ident():
            return
        woken = False
        try:
            woken = self._listen(timeout)
        finally:
            with self._lock:
                self._listener = None
                self._heard += woken
                if self._closed:
                    self._shut()
                # Otherwise one of them listens on.
                self._call(len(self._others) if woken else 1)

    def rouse(self) -> None:
        """Ends all waits, as if something had been heard."""
        with self._lock:
            self._heard += 1
            self._call(len(self._others))
            if self._listener is not None and self._socket is not None and self._fd is not None:
                # Full it is only if it is about to wake.
                with contextlib.suppress(OSError):
                    self._socket.sendto(b"\0", _address(self._directory, self._fd, self._name))

    def close(self) -> None:
        """Ends all waits, once the next commit is announced."""
        with self._lock:
            self._closed = True
            self._heard += 1
            self._call(len(self._others))
            if self._nobody_listens():
                self._shut()

    def _turn(self, heard: int) -> threading.Lock | None:
        """Where to wait for the one that listens; none where there is no need, or where it is us who listens now."""
        with self._lock:
            if self._heard != heard or self._closed:
                return None
            if self._nobody_listens():
                self._listener = threading.get_ident()
                return None
            turn = threading.Lock()
            turn.acquire()
            self._others.append(turn)
            return turn

    def _nobody_listens(self) -> bool:
        # Nor does one that is here: it was interrupted.
        return self._listener in (None, threading.get_ident())

    def _give_up(self, turn: threading.Lock) -> None:
        with self._lock:
            if turn in self._others:
                self._others.remove(turn)
            else:
                # It was called at this very moment: another is to come in its place.
                self._call(1)

    def _call(self, most: int) -> None:
        for _ in range(min(most, len(self._others))):
            self._others.popleft().release()

    def _listen(self, timeout: float) -> bool:
        if self._socket is None:
            return not threading.Event().wait(timeout)
        try:
            self._socket.settimeout(timeout)
            self._socket.recv(16)
            self._socket.settimeout(0)
            while True:
                self._socket.recv(16)
        except TimeoutError:
            return False
        except BlockingIOError:
            return True

    def _shut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._fd)
            self._socket.close()
        if self._fd is not None:
            os.close(self._fd)


def _address(directory: Path, fd: int, name: str) -> str:
    # A socket's path has at most 107 bytes; through the descriptor, where the system has that, any does.
    return f"/proc/self/fd/{fd}/{name}" if _BY_DESCRIPTOR else str(directory / name)


_BY_DESCRIPTOR = os.path.exists("/proc/self/fd")
