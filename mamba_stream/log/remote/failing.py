"""What went wrong at the server, as the error that the same call raises over a directory."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Final

import msgspec
import pyarrow as pa
from pyarrow import flight

from mamba_stream import errors
from mamba_stream.errors import (
    DataCorrupted,
    MambaStreamError,
    NotAuthenticated,
    NotAuthorized,
    QuotaExceeded,
    ServerUnavailable,
    TopicNotFound,
)
from mamba_stream.log.remote.protocol import Failure
from mamba_stream.log.rows import TopicRow

CODES: Final = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, MambaStreamError)
}
"""Our errors by their code, which is their name."""

_NOT_CONNECTED: Final = "failed to connect"
"""What gRPC says where there was nobody to hear the call."""
_PREFACE: Final = "Flight returned unavailable error, with message: "
_NOT_UNDERSTOOD: Final = {
    "certificate verify": "shows a certificate of an authority that is not known here: name who signed it by "
    "MAMBA_STREAM_CA, or as ca in a profile",
    "is not in peer certificate": "shows a certificate that is not for this host: connect by a name that it has",
    "wrong version number": "does not speak TLS: write grpc:// before its address, and do without MAMBA_STREAM_CA",
    "handshake failed": "does not agree on TLS with this client",
    "parsing HTTP/2": "is no mamba-stream server: is that its port?",
    "SETTINGS": "says nothing: is that a mamba-stream server's port?",
}
"""What is wrong where somebody is there but no connection comes about, by what gRPC says."""
_HUNG_UP: Final = ("Socket closed", "reset by peer")
_SECURE: Final = "grpc+tls://"
_failures = msgspec.msgpack.Decoder(Failure)


class Lost(Exception):
    """The connection failed, or the answer did not come: the call may be made again, if that does no harm.

    Attributes:
        sent: Whether the server may have heard the call.
    """

    def __init__(self, reason: str, *, sent: bool = True) -> None:
        super().__init__(reason)
        self.sent = sent


def error_of(failure: pa.ArrowException, place: str) -> MambaStreamError | Lost:
    """Our error for what a Flight call raised; :class:`Lost` where it says nothing about the call itself."""
    told = _told(failure)
    if told is not None:
        return error_told(told)
    if isinstance(failure, flight.FlightUnauthenticatedError):
        return NotAuthenticated(f"{place} refuses: {_first_line(failure)}")
    if isinstance(failure, flight.FlightUnauthorizedError):
        return NotAuthorized(f"{place} refuses: {_first_line(failure)}")
    reason = _first_line(failure)
    return Lost(reason, sent=_NOT_CONNECTED not in reason)


def _told(failure: pa.ArrowException) -> Failure | None:
    info = getattr(failure, "extra_info", b"")
    if not info:
        return None
    try:
        return _failures.decode(info)
    except msgspec.MsgspecError:
        return None


def error_told(told: Failure) -> MambaStreamError:
    """Our error, as the server told it."""
    kind = CODES.get(told.code, MambaStreamError)
    if kind is QuotaExceeded:
        return QuotaExceeded(told.message, retry_after=(told.retry_after_ms or 1000) / 1000)
    if kind is DataCorrupted:
        return DataCorrupted(told.message, topic=told.topic, partition=told.partition, offset=told.offset)
    if told.code not in CODES:
        return MambaStreamError(f"{told.code}: {told.message}")
    return kind(told.message)


def unavailable(place: str, lost: Lost) -> ServerUnavailable:
    """Nothing answers there, or not as a server that this client can talk to."""
    if (why := _why(place, str(lost))) is not None and not lost.sent:
        return ServerUnavailable(f"what listens on {place} {why} ({lost})")
    if not lost.sent:
        return ServerUnavailable(
            f'nothing listens on {place}: run "mamba-stream serve", or pass a directory ({lost})'
        )
    return ServerUnavailable(f"the server at {place} does not answer: {lost}")


def _why(place: str, reason: str) -> str | None:
    """Why no connection comes about although somebody listens; ``None`` where nobody does."""
    if any(each in reason for each in _HUNG_UP):
        if place.startswith(_SECURE):
            return (
                "closes the connection: where it asks clients for certificates, show a valid one by "
                "MAMBA_STREAM_CERTIFICATE and MAMBA_STREAM_KEY, or in a profile"
            )
        return (
            "closes the connection: where it speaks TLS, name who signed its certificate by MAMBA_STREAM_CA or in a "
            f"profile, or write {_SECURE} before its address"
        )
    return next((words for said, words in _NOT_UNDERSTOOD.items() if said in reason), None)


@contextlib.contextmanager
def naming(topic: TopicRow) -> Iterator[None]:
    """Names a topic that is gone: the server knows it by its number only."""
    try:
        yield
    except TopicNotFound as error:
        raise TopicNotFound(f"topic {topic.name!r} was deleted") from error


def _first_line(failure: BaseException) -> str:
    text = str(failure).split(". gRPC client debug context", 1)[0]
    return text.split("\n", 1)[0].removeprefix(_PREFACE)[:300]
