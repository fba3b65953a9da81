"""What one process asks of a job that another one runs, and how it is answered: small records in the log.

A request names the run that it is meant for, so that no later one obeys it. The run takes it, which removes the record,
does it, and leaves an answer, which whoever asked removes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

REQUESTS: Final = "jobs.requests"
"""How the namespace begins of what is asked of a job: ``jobs.requests/JOB``; in it, by the request's number."""
ANSWERS: Final = "jobs.answers"
"""How the namespace begins of the answers: ``jobs.answers/JOB``; in it, ``NUMBER`` and its ``NUMBER/PIECE``."""
RUNS: Final = "jobs.runs"
"""The namespace of what the last run of a job says of itself, by job."""

PIECE: Final = 1_800
"""Bytes of what is too long for one record."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Finish what is in hand, commit, and end."""


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """End at once, without a commit."""


class Rescale(msgspec.Struct, frozen=True, tag="rescale"):
    """Have the tasks run by so many workers."""

    workers: int


class Savepoint(msgspec.Struct, frozen=True, tag="savepoint"):
    """Commit, and keep what is remembered then under a name."""

    name: str


class Describe(msgspec.Struct, frozen=True, tag="describe"):
    """Say what you are doing."""


What = Stop | Cancel | Rescale | Savepoint | Describe


def in_words(what: What) -> str:
    """What is asked, to be said behind "asked to".

    Example:
        >>> in_words(Rescale(4))
        'go on with 4 workers'
    """
    match what:
        case Rescale(workers):
            return f"go on with {workers} workers"
        case Savepoint(name):
            return f"make savepoint {name!r}"
        case Describe():
            return "say what it is doing"
        case Stop() | Cancel():
            return type(what).__name__.lower()


class Request(msgspec.Struct, frozen=True):
    """Something that is asked of a job.

    Attributes:
        run: The number of the run that it is meant for.
        what: What is asked.
        by: Who asks, in words.
    """

    run: int
    what: What
    by: str


class Answer(msgspec.Struct, frozen=True):
    """How far a request has come.

    Attributes:
        state: ``taken``: it is being done; ``done``; or ``refused``.
        text: What there is to say of it.
        error: Of what is refused, the error's class among ours.
        pieces: So many records hold what belongs to it.
    """

    state: str
    text: str = ""
    error: str = ""
    pieces: int = 0


class RunRecord(msgspec.Struct, frozen=True):
    """What a run of a job says of itself.

    Attributes:
        run: Its number; the first of those under which it goes on.
        workers: How many workers run it.
        started: When it began, in microseconds since the epoch.
    """

    run: int
    workers: int
    started: int


_request = msgspec.msgpack.Decoder(Request)
_answer = msgspec.msgpack.Decoder(Answer)
_run = msgspec.msgpack.Decoder(RunRecord)


def encode(value: Request | Answer | RunRecord) -> bytes:
    """The value as msgpack."""
    return msgspec.msgpack.encode(value)


def decode_request(data: bytes) -> Request | None:
    """The request in these bytes; ``None`` where it is none that this version knows."""
    try:
        return _request.decode(data)
    except msgspec.MsgspecError:
        return None


def decode_answer(data: bytes) -> Answer:
    """The answer in these bytes."""
    return _answer.decode(data)


def decode_run(data: bytes) -> RunRecord:
    """The record in these bytes."""
    return _run.decode(data)


def in_pieces(data: bytes) -> list[bytes]:
    """Bytes as values that each fit into a record.

    Example:
        >>> [len(piece) for piece in in_pieces(bytes(4_000))]
        [1800, 1800, 400]
    """
    return [data[at : at + PIECE] for at in range(0, len(data), PIECE)]


def piece_key(number: str, piece: int) -> str:
    """What the record of a piece is called."""
    return f"{number}/{piece:04}"


def joined(number: str, answer: Answer, records: Mapping[str, bytes]) -> bytes:
    """What belongs to an answer."""
    pieces: Sequence[bytes] = [records[piece_key(number, piece)] for piece in range(answer.pieces)]
    return b"".join(pieces)
