"""Streams in both directions: whoever watches for commits, holds a lock, or commits in pieces."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa
from pyarrow import flight

from mamba_stream.core.names import check_name
from mamba_stream.errors import AccessDenied, InvalidInput, NotAuthenticated
from mamba_stream.log.remote.protocol import Exchange, TakeLock, Told, Watch, decode, encode
from mamba_stream.log.storage import Lock
from mamba_stream.server.belongings import need_of_lock
from mamba_stream.server.desk import Desk
from mamba_stream.server.gate import Caller
from mamba_stream.server.pieces import commit_in_pieces

_LONGEST_HOLDER: Final = 200
_SILENCE: Final = 30.0
"""Seconds of silence after which a client that answered is taken for gone."""
_LOOK: Final = 1.0
"""Seconds between two looks whether who holds a lock still may."""
_SIGN: Final = 5.0
"""Seconds between two signs of life, also where there is nothing new. The client's gRPC asks for one every half minute,
and the server's breaks a connection over which it is asked often and sends nothing: with it went every lock."""


def exchange(
    desk: Desk,
    caller: Caller,
    context: flight.ServerCallContext,
    descriptor: flight.FlightDescriptor,
    stream: flight.MetadataRecordBatchReader,
    answers: Any,
    called: Callable[[Caller, Any], Told],
) -> None:
    """Serves the exchange that a descriptor's command asks for, for as long as it lasts; ``called`` makes a call."""
    if descriptor.descriptor_type != flight.DescriptorType.CMD:
        raise InvalidInput("an exchange's descriptor is a command: an Exchange message")
    request = decode(descriptor.command, Exchange)
    if sum(each is not None for each in (request.watch, request.lock, request.pieces, request.calls)) != 1:
        raise InvalidInput("an exchange is one of watch, lock, pieces, and calls")
    if request.watch is not None:
        _watch(desk, caller, context, request.watch, answers)
    elif request.lock is not None:
        _lock(desk, caller, request.lock, stream, answers)
    elif request.calls is not None:
        _calls(caller, stream, answers, called)
    else:
        commit_in_pieces(
            desk, caller, stream, answers, paced=request.pieces is not None and request.pieces.paced
        )


def _calls(
    caller: Caller,
    stream: flight.MetadataRecordBatchReader,
    answers: Any,
    called: Callable[[Caller, Any], Told],
) -> None:
    """Answers calls until the client ends it, or is gone."""
    answers.write_metadata(pa.py_buffer(encode(True)))
    with contextlib.suppress(StopIteration, pa.ArrowException):
        while True:
            told = called(caller, stream.read_chunk().app_metadata)
            answers.write_metadata(pa.py_buffer(encode(told)))
            if told.failure is not None and told.failure.code == NotAuthenticated.__name__:
                # Who is not known any more keeps no thread of ours.
                return


def _watch(desk: Desk, caller: Caller, context: flight.ServerCallContext, watch: Watch, answers: Any) -> None:
    """Tells the last commit's number at once, whenever it is another, and now and then."""

    def gone() -> bool:
        # Whose token ended hears of nothing more.
        desk.gate.check(caller, ())
        return bool(context.is_cancelled())

    lsn = desk.storage.lsn()
    while not gone() and not desk.draining:
        answers.write_metadata(pa.py_buffer(encode(lsn)))
        lsn = desk.pulse.wait(lsn, _SIGN, gone)


def _lock(
    desk: Desk, caller: Caller, request: TakeLock, stream: flight.MetadataRecordBatchReader, answers: Any
) -> None:
    """Holds a lock until the client lets go, or is gone."""
    for text in (request.space, request.name):
        check_name(text, "lock")
    need = need_of_lock("write", request.space, request.name)
    desk.gate.check(caller, (need,))
    holder = " ".join(request.holder.split())[:_LONGEST_HOLDER] or f"a client at {caller.peer}"
    lock = desk.storage.lock(request.space, request.name, holder)
    if lock is None:
        answers.write_metadata(pa.py_buffer(encode(False)))
        return
    answers.write_metadata(pa.py_buffer(encode(True)))
    holding = _Holding(desk, lock, answers, lambda: desk.gate.check(caller, (need,)))
    # This thread reads: a stream that another one reads must not end with the call.
    try:
        with contextlib.suppress(StopIteration, pa.ArrowException):
            while True:
                stream.read_chunk()
                holding.hear()
    finally:
        holding.end()
    if holding.refused is not None:
        raise holding.refused


class _Holding:
    """A lock that a client holds: gives it signs of life, and lets go where it is gone, silent, or may not any longer.

    Attributes:
        refused: Why the client may not hold it any longer.
    """

    def __init__(self, desk: Desk, lock: Lock, answers: Any, check: Callable[[], None]) -> None:
        self.refused: AccessDenied | None = None
        self._desk = desk
        self._lock = lock
        self._answers = answers
        self._check = check
        self._ended = threading.Event()
        self._heard: float | None = None
        self._thread = threading.Thread(target=self._give_signs, name="mamba-stream lock", daemon=True)
        self._thread.start()

    def hear(self) -> None:
        """The client answered."""
        self._heard = self._now()

    def end(self) -> None:
        """The client's side of the stream has ended, however that was."""
        self._ended.set()
        self._thread.join()

    def _give_signs(self) -> None:
        with contextlib.suppress(pa.ArrowException):
            look, looks = min(_LOOK, _SIGN), 0
            while not self._ended.wait(look) and not self._desk.draining and self._holds():
                looks += 1
                if looks * look >= _SIGN:
                    looks = 0
                    self._answers.write_metadata(pa.py_buffer(encode(True)))
        self._lock.release()
        if not self._ended.is_set():
            with contextlib.suppress(pa.ArrowException):
                self._answers.write_metadata(pa.py_buffer(encode(False)))

    def _holds(self) -> bool:
        """Not who answered signs of life and does so no more, as its machine is gone, or the line; nor who may not."""
        try:
            self._check()
        except AccessDenied as error:
            self.refused = error
            return False
        return self._heard is None or self._now() - self._heard <= _SILENCE

    def _now(self) -> float:
        return self._desk.storage.clock.monotonic()
