"""Waiting for commits at a server: one stream for all threads of a process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Final

import pyarrow as pa
from pyarrow import flight

from mamba_stream.errors import LogClosed, MambaStreamError, QuotaExceeded, ServerUnavailable
from mamba_stream.log.remote.connection import PATIENCE, Connection
from mamba_stream.log.remote.failing import Lost, unavailable
from mamba_stream.log.remote.protocol import Exchange, Watch, decode, encode

_PAUSES: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Watcher:
    """Knows the number of the last commit, and wakes who waits for the next."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._lsn = -1
        # Each waits for an event of its own: whoever is interrupted in its wait harms no other.
        self._waiting: set[threading.Event] = set()
        self._thread: threading.Thread | None = None
        self._stream: flight.FlightStreamReader | None = None
        self._failing_since: float | None = None
        self._error: MambaStreamError | None = None
        self._closed = False

    @property
    def known(self) -> int | None:
        """The last commit that was heard of; ``None`` before anybody waited."""
        return self._lsn if self._lsn >= 0 else None

    def wait(self, lsn: int, timeout: float, called: Callable[[], bool] | None = None) -> int:
        """Returns once the log is past ``lsn``, or ``called`` says yes, or after ``timeout`` seconds; the lsn it is at.

        Raises:
            ServerUnavailable: The server went away, and did not come back.
        """
        deadline = self._connection.local.monotonic() + timeout
        event = threading.Event()
        waited = False
        while True:
            with self._lock:
                self._connection.check()
                if waited and self._error is not None:
                    raise self._error
                self._watch()
                now = self._lsn
                left = deadline - self._connection.local.monotonic()
                if now > lsn or (left <= 0 and now >= 0):
                    return now
                if called is not None and called():
                    return now if now >= 0 else lsn
                self._check_failing()
                self._waiting.add(event)
            try:
                waited = True
                event.wait(max(0.0, min(left, 1.0)) if now >= 0 else 1.0)
            finally:
                with self._lock:
                    self._waiting.discard(event)
                event.clear()

    def rouse(self) -> None:
        """Has everybody who waits look whether there is still need to."""
        with self._lock:
            self._wake()

    def close(self) -> None:
        """Ends the stream, and the waits."""
        with self._lock:
            self._closed = True
            if self._stream is not None:
                self._stream.cancel()
            self._wake()

    def _check_failing(self) -> None:
        if (
            self._failing_since is not None
            and self._connection.local.monotonic() - self._failing_since > PATIENCE
        ):
            raise unavailable(self._connection.place, Lost("the connection was lost"))

    def _watch(self) -> None:
        if self._thread is None:
            self._error = None
            self._thread = threading.Thread(target=self._follow, name="mamba-stream watch", daemon=True)
            self._thread.start()

    def _follow(self) -> None:
        attempt = 0
        while not self._closed:
            try:
                self._listen()
                attempt = 0
            except LogClosed:
                break
            except (Lost, ServerUnavailable, QuotaExceeded):
                if self._failing_since is None:
                    attempt = 0
                self._connection.pause(_PAUSES[min(attempt, len(_PAUSES) - 1)])
                attempt += 1
            except MambaStreamError as error:
                # Who waits shall know; who waits later asks anew.
                with self._lock:
                    self._error = error
                    self._failing_since = None
                    self._thread = None
                    self._wake()
                return

    def _listen(self) -> None:
        with self._lock:
            if self._failing_since is None:
                # Until it is heard of: a server may take connections and never answer.
                self._failing_since = self._connection.local.monotonic()
        writer, stream = self._connection.exchange(encode(Exchange(watch=Watch(max(self._lsn, 0)))))
        with self._lock:
            self._stream = stream
            if self._closed:
                stream.cancel()
        try:
            while True:
                lsn = decode(stream.read_chunk().app_metadata, int)
                with self._lock:
                    heard, self._failing_since = self._failing_since is None, None
                    # A log that was put back from a copy has fewer commits than it had.
                    before, self._lsn = self._lsn, lsn
                    if not heard or lsn != before:
                        self._wake()
        except StopIteration:
            return
        except pa.ArrowException as error:
            raise self._connection.failed(error) from error
        finally:
            with contextlib.suppress(pa.ArrowException):
                writer.close()

    def _wake(self) -> None:
        for event in self._waiting:
            event.set()
