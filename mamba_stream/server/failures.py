"""Errors on their way to a client: our own name for them beside the right status, and nothing of how we are built."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from typing import Any, Final, TypeVar

import pyarrow as pa
from pyarrow import flight

from mamba_stream.errors import (
    CommitUnknown,
    DataCorrupted,
    DiskFull,
    InvalidInput,
    LogUnavailable,
    MambaStreamError,
    NotAuthenticated,
    NotAuthorized,
    QuotaExceeded,
    ServerUnavailable,
)
from mamba_stream.log.remote.protocol import Failure, encode

_log = logging.getLogger("mamba_stream.server")
_INTERNAL: Final = "Internal"
_LONGEST: Final = 3_000
_LONGEST_STATUS: Final = 1_800
"""Bytes of a message beside an error, and of its status. Both are headers, of which gRPC lets no more through than 8 KB
in all; every byte of the second that is not ASCII becomes three."""
RETRIABLE: Final = (QuotaExceeded, ServerUnavailable)
"""What our clients try again by themselves."""
_T = TypeVar("_T")


def told(error: BaseException) -> flight.FlightError:
    """The error as a client gets it."""
    if isinstance(error, flight.FlightError):
        return error
    failure = failure_of(error)
    if failure.code == _INTERNAL:
        return flight.FlightInternalError(failure.message, extra_info=encode(failure))
    status = _cut(
        f"{failure.code}: {failure.message}",
        _LONGEST_STATUS if failure.message.isascii() else _LONGEST_STATUS // 3,
    )
    return _kind(error)(status, extra_info=encode(failure))


def failure_of(error: BaseException) -> Failure:
    """What lies beside an error as a client gets it; what is no error of ours is written to the server's own log."""
    if isinstance(error, pa.ArrowInvalid):
        # Bytes that Arrow could not make sense of, found before anything was done with them.
        error = InvalidInput(f"not readable as Arrow data: {str(error).splitlines()[0]:.200}")
    if not isinstance(error, MambaStreamError):
        reference = secrets.token_hex(4)
        _log.error("internal error %s", reference, exc_info=error)
        return Failure(code=_INTERNAL, message=f"the server failed; its log has the cause under {reference}")
    message = _cut(str(error), _LONGEST)
    failure = Failure(code=type(error).__name__, message=message, retriable=_is_retriable(error))
    if isinstance(error, QuotaExceeded):
        failure.retry_after_ms = max(1, round(error.retry_after * 1000))
    if isinstance(error, DataCorrupted):
        failure.topic, failure.partition, failure.offset = error.topic, error.partition, error.offset
    return failure


def code_of(error: BaseException) -> str:
    """The name by which an error is counted."""
    return type(error).__name__ if isinstance(error, MambaStreamError) else _INTERNAL


def answered_each(items: Iterator[_T]) -> Iterator[_T]:
    """Items of which only errors as clients get them come out."""
    try:
        yield from items
    except GeneratorExit:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, a client must get an answer
        raise told(error) from None


def _cut(text: str, most: int) -> str:
    """What of a text has at most so many bytes; what cannot be encoded at all is written out."""
    data = text.encode(errors="backslashreplace")
    return data.decode() if len(data) <= most else data[: most - 3].decode(errors="ignore") + "…"


def _is_retriable(error: MambaStreamError) -> bool:
    return isinstance(error, (*RETRIABLE, DiskFull))


def _kind(error: BaseException) -> Any:
    if isinstance(error, NotAuthenticated):
        return flight.FlightUnauthenticatedError
    if isinstance(error, NotAuthorized):
        return flight.FlightUnauthorizedError
    if isinstance(error, QuotaExceeded | LogUnavailable):
        return flight.FlightUnavailableError
    if isinstance(error, CommitUnknown | DataCorrupted):
        return flight.FlightInternalError
    return flight.FlightServerError
