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


class OverlaidDraft(OverlaidView, Draft):
    """The same inside a write transaction of the upper."""

    def put(self, key: bytes, value: bytes) -> None:
        self._upper.put(key, rows.seal(key, value))

    def delete(self, key: bytes) -> None:
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
