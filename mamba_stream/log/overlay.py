"""Rows of the index over which newer ones lie, that are not on the disk yet: read as one, written to the upper.

What was deleted is an empty value in the upper, since rows are never empty: it hides the row below.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, cast

from mamba_stream.log import rows
from mamba_stream.log.views import Draft, View

if TYPE_CHECKING:
    import lmdb

GONE: Final = b""
_MOST_REMEMBERED: Final = 1_024


class OverlaidView(View):
    """The index at one moment, in two layers."""

    def __init__(self, upper: lmdb.Transaction, lower: lmdb.Transaction) -> None:
        super().__init__(lower)
        self._upper = upper

    def get(self, key: bytes) -> bytes | None:
        sealed = cast("bytes | None", self._upper.get(key))
        if sealed is None:
            return super().get(key)
        return None if sealed == GONE else rows.unseal(key, sealed)

    def openings(self, prefix: bytes) -> Iterator[bytes]:
        at = prefix
        while (found := next(self.sealed(prefix, at), None)) is not None:
            opening, _, _ = found[0][len(prefix) :].partition(b"\0")
            yield opening
            at = prefix + opening + b"\1"

    def floor(self, key: bytes, prefix: bytes) -> bytes | None:
        at, inclusive = key, True
        while True:
            found = [
                candidate
                for layer in (self._upper, self._transaction)
                if (candidate := _floor(layer, at, prefix, inclusive)) is not None
            ]
            if not found:
                return None
            at, inclusive = max(found), False
            if self._upper.get(at) != GONE:
                return at

    @property
    def rows(self) -> int:
        hidden = sum(
            (self._transaction.get(key) is not None) - (value != GONE)
            for key, value in _from(self._upper, b"\1", b"")
        )
        return self._transaction.stat()["entries"] - hidden

    def sealed(self, prefix: bytes, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        upper, lower = _from(self._upper, start, prefix), _from(self._transaction, start, prefix)
        above, below = next(upper, None), next(lower, None)
        while above is not None or below is not None:
            if above is None or (below is not None and below[0] < above[0]):
                assert below is not None
                yield below
                below = next(lower, None)
                continue
            if below is not None and below[0] == above[0]:
                below = next(lower, None)
            if above[1] != GONE:
                yield above
            above = next(upper, None)


class Memory:
    """What the last commit to the upper saw and wrote, as long as nobody has committed since, in any process.

    Whoever has the upper's lock begins with :meth:`recall`, and says with :meth:`keep` that it has committed.

    Attributes:
        rows: Values under the keys that were asked for.
        unsynced: The numbers of files that are known to hold bytes that may not be on the disk.
        written: Whether anything was put since.
    """

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes | None] = {}
        self.unsynced: set[int] = set()
        self.written = False
        self._moment: tuple[int, int] | None = None

    def recall(self, upper: int, lower: int) -> bool:
        """Whether transactions of these numbers see what is remembered; otherwise all of it is forgotten."""
        # Until it is kept again, it holds what may never be committed.
        moment, self._moment, self.written = self._moment, None, False
        if moment == (upper, lower):
            return True
        self.rows.clear()
        self.unsynced.clear()
        return False

    def keep(self, upper: int, lower: int) -> None:
        """The upper's transaction of this number was committed: the next one has the number behind it."""
        if len(self.rows) > _MOST_REMEMBERED:
            self.rows.clear()
        # One that wrote nothing leaves its number to the next: which may be another's, and that behind it this one's.
        if self.written:
            self._moment = upper + 1, lower


class OverlaidDraft(OverlaidView, Draft):
    """The same inside a write transaction of the upper, with what is remembered of the one before."""

    def __init__(self, upper: lmdb.Transaction, lower: lmdb.Transaction, memory: Memory) -> None:
        super().__init__(upper, lower)
        self._memory = memory
        self._known = memory.rows

    def get(self, key: bytes) -> bytes | None:
        if key in self._known:
            return self._known[key]
        value = self._known[key] = super().get(key)
        return value

    def put(self, key: bytes, value: bytes) -> None:
        self._upper.put(key, rows.seal(key, value))
        self._memory.written = True
        if key in self._known:
            self._known[key] = value

    def delete(self, key: bytes) -> None:
        if key in self._known:
            self._known[key] = None
        if self._transaction.get(key) is None:
            self._upper.delete(key)
        else:
            self._upper.put(key, GONE)

    def delete_prefix(self, prefix: bytes) -> None:
        for key in [key for key, _ in self.sealed(prefix, prefix)]:
            self.delete(key)


def _from(layer: lmdb.Transaction, start: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    with layer.cursor() as cursor:
        if cursor.set_range(start):
            for key, sealed in cast("Iterator[tuple[bytes, bytes]]", cursor.iternext()):
                if not key.startswith(prefix):
                    return
                yield key, sealed


def _floor(layer: lmdb.Transaction, key: bytes, prefix: bytes, inclusive: bool) -> bytes | None:
    with layer.cursor() as cursor:
        if cursor.set_range(key):
            if inclusive and cursor.key() == key:
                return key
            found = cursor.prev()
        else:
            found = cursor.last()
        at = cast("bytes", cursor.key())
    return at if found and at.startswith(prefix) else None
