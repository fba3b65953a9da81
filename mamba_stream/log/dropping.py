"""What is left of deleted topics goes in steps: nobody waits for the write lock as long as millions of entries take.

A deletion takes the topic away, and its first entries and producers with it. If there are more, a record says that
what lies under the topic's number is nothing any more. They go a bounded number at a time, with deletions and trims
that come later, and in upkeep; each step is whole in itself.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from mamba_stream.log import repeating, rows

if TYPE_CHECKING:
    from mamba_stream.log.ledger import Ledger
    from mamba_stream.log.views import View

AT_ONCE: Final = 2_000
"""Rows of the index that one commit takes away, about, at most."""
_NAMESPACE: Final = "_dropped"
_PREFIX: Final = rows.record_key(_NAMESPACE, "")
_LEFT: Final = b"1"


def record_key(topic: int) -> bytes:
    """The key of the record that a deleted topic has as long as entries of it are left."""
    return rows.record_key(_NAMESPACE, str(topic))


def left(view: View) -> bool:
    """Whether something is left of topics that were deleted."""
    return next(view.items(_PREFIX), None) is not None


def drop(ledger: Ledger, topic: int) -> None:
    """Takes away the first rows of a topic that is deleted now, and notes it where there are more."""
    if _taken_away(ledger, topic, AT_ONCE) >= AT_ONCE:
        ledger.put(record_key(topic), _LEFT)


def clear(ledger: Ledger) -> bool:
    """Takes away some of what is left of topics that were deleted; whether that was all."""
    room = AT_ONCE
    for key in ledger.keys(_PREFIX):
        room -= _taken_away(ledger, int(key[len(_PREFIX) :]), room)
        if room <= 0:
            return False
        ledger.delete(key)
    return True


def _taken_away(ledger: Ledger, topic: int, most: int) -> int:
    """How many rows went, about; fewer than ``most`` where that was all."""
    taken = _entries_away(ledger, topic, most)
    while taken < most and (found := ledger.first(rows.number_key(rows.PRODUCER, topic), 1)):
        repeating.forget_key(ledger, found[0][0])
        taken += repeating.REMEMBERED_SEQUENCES
    return taken


def _entries_away(ledger: Ledger, topic: int, most: int) -> int:
    lying: Counter[int] = Counter()
    entries = ledger.first(rows.number_key(rows.ENTRY, topic), most)
    for key, value in entries:
        lying[rows.unpack_entry(value).file] += 1
        ledger.delete(key)
    for number, count in lying.items():
        file = ledger.file(number)
        # What is lost lies in no file.
        if file is not None:
            ledger.set_file(number, msgspec.structs.replace(file, live=file.live - count))
    return len(entries)
