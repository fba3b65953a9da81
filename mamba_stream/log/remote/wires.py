"""Streams over which calls are made one after the other: each costs a third of what a call of its own does.

A wire takes a thread at the server, so there are some only while many calls are made.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Final

import msgspec
import pyarrow as pa
from pyarrow import flight

from mamba_stream.core.clock import Clock
from mamba_stream.errors import MambaStreamError, NotAuthenticated, ServerUnavailable
from mamba_stream.log.remote.failing import Lost
from mamba_stream.log.remote.protocol import Asked, Calls, Exchange, Told, decode, encode

_MOST: Final = 4
_LARGEST: Final = 1 << 20
"""Bytes of a call; with more the call itself is not what costs."""
_OFTEN: Final = 10
"""Calls a second that are worth a wire, once there were as many beyond that."""
_UNUSED: Final = 1.0
"""Seconds after which a wire is given back."""
_LOOK: Final = 0.25
_AFTER_FAILURE: Final = 5.0
"""Seconds in which no wire is tried where the server would not have one."""
_LAST: Final = (ServerUnavailable.__name__, NotAuthenticated.__name__)
"""After these there are no more answers."""
_COMMAND: Final = encode(Exchange(calls=Calls()))

Streams = tuple[flight.FlightStreamWriter, flight.FlightStreamReader]


class _Wire:
    """One stream, in use by one thread at a time."""

    def __init__(self, streams: Streams, now: float) -> None:
        self._writer, self._stream = streams
        self.used = now
        self.until: float | None = None
        """When the call under way should have been answered."""

    def welcome(self) -> None:
        """Waits until the server takes calls."""
        self._stream.read_chunk()

    def call(self, message: bytes) -> pa.Buffer:
        self._writer.write_metadata(pa.py_buffer(message))
        return self._stream.read_chunk().app_metadata

    def cut(self) -> None:
        """Ends it, whatever is under way."""
        self._stream.cancel()

    def close(self) -> None:
        """Ends it, where nothing is under way."""
        with contextlib.suppress(pa.ArrowException):
            self._writer.done_writing()
        self._stream.cancel()
        # Arrow writes to standard error why a stream broke that nobody closed.
        with contextlib.suppress(pa.ArrowException):
            self._writer.close()


class Wires:
    """The wires of one connection, for all threads of a process.

    Args:
        exchange: Begins a stream in both directions with this command.
        failed: The error for what such a stream raised.
        clock: This machine's.
    """

    def __init__(
        self,
        exchange: Callable[[bytes], Streams],
        failed: Callable[[pa.ArrowException], BaseException],
        clock: Clock,
    ) -> None:
        self._exchange = exchange
        self._failed = failed
        self._clock = clock
        self._lock = threading.Lock()
        self._free: list[_Wire] = []
        self._all: set[_Wire] = set()
        self._heat, self._at = 0.0, clock.monotonic()
        self._not_before = 0.0
        self._watching = False
        self._closed = False

    def call(self, action: str, body: bytes, timeout: float) -> Told | None:
        """What the server told of a call; ``None`` where there is no wire for it, and it is to be made by itself.

        Raises:
            Lost: The wire broke; whether the server did it is not known.
        """
        wire = self._wire() if len(body) < _LARGEST else None
        if wire is None:
            return None
        wire.until = self._clock.monotonic() + timeout
        whole = False
        try:
            told = decode(wire.call(encode(Asked(action, msgspec.Raw(body)))), Told)
            # A server that is being stopped waits for those who hold on to it.
            whole = told.failure is None or told.failure.code not in _LAST
        except StopIteration:
            raise self._failed(pa.ArrowCancelled("the server ended the stream")) from None
        except pa.ArrowException as error:
            raise self._failed(error) from error
        finally:
            # Whoever was interrupted leaves an answer behind that is not the next one's.
            self._give_back(wire, whole=whole)
        return told

    def close(self) -> None:
        """Ends all; calls under way are answered first, as those that are made by themselves are, or cut when late."""
        with self._lock:
            self._closed = True
            wires, self._free = self._free, []
            self._all.difference_update(wires)
        for wire in wires:
            wire.close()

    def _wire(self) -> _Wire | None:
        with self._lock:
            now = self._clock.monotonic()
            self._heat = max(0.0, self._heat - (now - self._at) * _OFTEN) + 1
            self._at = now
            if self._free:
                return self._free.pop()
            if self._closed or self._heat < _OFTEN or len(self._all) >= _MOST or now < self._not_before:
                return None
            # Others make their calls by themselves until it is known whether the server has one.
            self._not_before = now + _AFTER_FAILURE
        # What is wrong is met by the call itself.
        try:
            wire = _Wire(self._exchange(_COMMAND), now)
        except (MambaStreamError, Lost):
            return None
        try:
            wire.welcome()
        except (pa.ArrowException, StopIteration):
            wire.close()
            return None
        with self._lock:
            self._not_before = 0.0
            self._all.add(wire)
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._watch, name="mamba-stream wires", daemon=True).start()
        return wire

    def _give_back(self, wire: _Wire, *, whole: bool) -> None:
        with self._lock:
            wire.until, wire.used = None, self._clock.monotonic()
            if whole and not self._closed:
                self._free.append(wire)
                return
            self._all.discard(wire)
        wire.close()

    def _watch(self) -> None:
        """Gives back what is not used, and cuts what is not answered."""
        rest = threading.Event()
        while True:
            rest.wait(_LOOK)
            with self._lock:
                now = self._clock.monotonic()
                unused = [wire for wire in self._free if now - wire.used > _UNUSED]
                self._free = [wire for wire in self._free if wire not in unused]
                self._all.difference_update(unused)
                late = [wire for wire in self._all if wire.until is not None and now > wire.until]
                self._watching = bool(self._all)
            for wire in unused:
                wire.close()
            for wire in late:
                wire.cut()
            if not self._watching:
                return
