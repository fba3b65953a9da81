"""What is left in the records of topics that were deleted: removed by the next member that joins a group.

Numbers of topics are never given twice, so nobody needs these records any more. Users keep records of their own, under
any name: only what reads as ours is touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from mamba_stream.errors import DiskFull
from mamba_stream.log import Log
from mamba_stream.messaging.books import Place
from mamba_stream.messaging.pending import Pending, due_of

_AT_ONCE: Final = 256
"""Records in a change set."""
_RUN: Final = re.compile(r"[0-9a-f]{16}\.[0-9a-f]{16}")
_CURSOR: Final = re.compile(r"\d+\.\d")
_CHUNK: Final = re.compile(r"\d+/\d+")
_runs = msgspec.msgpack.Decoder(Pending)
_cursors = msgspec.msgpack.Decoder(tuple[int, int])
_marks = msgspec.msgpack.Decoder(tuple[bytes, bytes])


def sweep_deleted(log: Log, group: str, now: int) -> None:
    """Removes what a group noted of topics that are there no more, and what became of dead letters that are not.

    Messages that are somebody's until a time yet to come are left to him: what he does with them counts. Where the disk
    is full, it is left to the next.

    Args:
        log: The log.
        group: The group that shared topics.
        now: Microseconds since the epoch.
    """

    def is_cursor(key: str, value: bytes) -> bool:
        return bool(_CURSOR.fullmatch(key) and _cursors.decode(value))

    def is_run(key: str, value: bytes) -> bool:
        return bool(_RUN.fullmatch(key)) and not (_runs.decode(value).session and due_of(key) > now)

    def is_letter(key: str, value: bytes) -> bool:
        # What became of a chunk of them, or how far a partition was trimmed.
        chunk = _CHUNK.fullmatch(key) is not None and bool(_marks.decode(value))
        return chunk or (key.isdecimal() and value.isdigit())

    kinds = {f"cursor/{group}/": is_cursor, f"pending/{group}/": is_run, "letters/": is_letter}
    found = {
        (space, int(number)): is_ours
        for prefix, is_ours in kinds.items()
        for space in log.namespaces(prefix)
        if (number := space.removeprefix(prefix)).isdecimal()
    }
    # After the records: what is seen there and not here is gone, and did not come in between.
    gone = {number for number in {number for _, number in found} if not log.numbered(number)}
    over = [
        place
        for (space, number), is_ours in found.items()
        if number in gone
        for place in _ours(log, space, is_ours)
    ]
    over += [
        (f"groups/{number}", group)
        for space, number in found
        if number in gone and space.startswith("cursor/")
    ]
    with suppress(DiskFull):
        for first in range(0, len(over), _AT_ONCE):
            with log.transaction() as transaction:
                for place in over[first : first + _AT_ONCE]:
                    transaction.delete_record(*place)


def _ours(log: Log, space: str, is_ours: Callable[[str, bytes], bool]) -> list[Place]:
    places = []
    for key, value in log.records(space).items():
        with suppress(msgspec.MsgspecError):
            if is_ours(key, value):
                places.append((space, key))
    if space.startswith("letters/") and not any("/" in key for _, key in places):
        # A mere number may be anybody's.
        return []
    return places
