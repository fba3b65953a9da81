"""Streams in both directions: whoever watches for commits, and whoever holds a lock."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Final

import pyarrow as pa
from pyarrow import flight

from mamba_stream.core.names import check_name
from mamba_stream.errors import InvalidInput
from mamba_stream.log.remote.protocol import Exchange, TakeLock, Watch, decode, encode
from mamba_stream.server.belongings import need_of_lock
from mamba_stream.server.desk import Desk
from mamba_stream.server.gate import Caller

_LONGEST_HOLDER: Final = 200
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
) -> None:
    """Serves the exchange that a descriptor's command asks for, for as long as it lasts."""
    if descriptor.descriptor_type != flight.DescriptorType.CMD:
        raise InvalidInput("an exchange's descriptor is a command: an Exchange message")
    request = decode(descriptor.command, Exchange)
    if (request.watch is None) == (request.lock is None):
        raise InvalidInput("an exchange is either watch or lock")
    if request.watch is not None:
        _watch(desk, caller, context, request.watch, answers)
    elif request.lock is not None:
        _lock(desk, caller, request.lock, stream, answers)


def _watch(desk: Desk, caller: Caller, context: flight.ServerCallContext, watch: Watch, answers: Any) -> None:
    """Tells the last commit's number at once, whenever it is another, and now and then."""
    lsn = desk.storage.lsn()
    while not context.is_cancelled() and not desk.draining:
        answers.write_metadata(pa.py_buffer(encode(lsn)))
        desk.gate.check(caller, ())
        lsn = desk.pulse.wait(lsn, _SIGN, context.is_cancelled)


def _lock(
    desk: Desk, caller: Caller, request: TakeLock, stream: flight.MetadataRecordBatchReader, answers: Any
) -> None:
    """Holds a lock until the client lets go, or is gone."""
    for text in (request.space, request.name):
        check_name(text, "lock")
    desk.gate.check(caller, (need_of_lock("write", request.space, request.name),))
    holder = " ".join(request.holder.split())[:_LONGEST_HOLDER] or f"a client at {caller.peer}"
    lock = desk.storage.lock(request.space, request.name, holder)
    if lock is None:
        answers.write_metadata(pa.py_buffer(encode(False)))
        return
    try:
        ended = _end_of(stream)
        while not desk.draining:
            answers.write_metadata(pa.py_buffer(encode(True)))
            if ended.wait(_SIGN):
                break
    finally:
        lock.release()


def _end_of(stream: flight.MetadataRecordBatchReader) -> threading.Event:
    """Is set when the client's side of the stream has ended, however that was."""
    ended = threading.Event()

    def read() -> None:
        try:
            with contextlib.suppress(StopIteration, pa.ArrowException):
                stream.read_chunk()
        finally:
            ended.set()

    threading.Thread(target=read, name="mamba-stream lock", daemon=True).start()
    return ended
