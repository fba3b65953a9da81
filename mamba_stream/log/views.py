"""The rows of the index inside one transaction, read and written. What is read is proven to be what was written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from mamba_stream.log import rows

if TYPE_CHECKING:
    import lmdb


class View:
    """The index at one moment."""

    def __init__(self, transaction: lmdb.Transaction) -> None:
        self._transaction = transaction

    def get(self, key: bytes) -> bytes | None:
        """The value under this key."""
        sealed = cast("bytes | None", self._transaction.get(key))
        return None if sealed is None else rows.unseal(key, sealed)

    def items(self, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Rows whose keys begin so, in the order of keys, from ``start`` on."""
        for key, sealed in self.sealed(prefix, prefix if start is None else start):
            yield key, rows.unseal(key, sealed)

    def sealed(self, prefix: bytes, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The same with their values as they lie, whether or not they are what was written."""
        with self._transaction.cursor() as cursor:
            if cursor.set_range(start):
                for key, sealed in cast("Iterator[tuple[bytes, bytes]]", cursor.iternext()):
                    if not key.startswith(prefix):
                        return
                    yield key, sealed

    def openings(self, prefix: bytes) -> Iterator[bytes]:
        """How the keys that begin so go on up to their first zero byte, each once, in order.

        No value is read, and what shares an opening is skipped.
        """
        with self._transaction.cursor() as cursor:
            found = cursor.set_range(prefix)
            while found and (key := cast("bytes", cursor.key())).startswith(prefix):
                opening, _, _ = key[len(prefix) :].partition(b"\0")
                yield opening
                found = cursor.set_range(prefix + opening + b"\1")

    def floor(self, key: bytes, prefix: bytes) -> bytes | None:
        """The greatest key up to ``key`` that begins so."""
        with self._transaction.cursor() as cursor:
            if cursor.set_range(key):
                if cursor.key() == key:
                    return key
                found = cursor.prev()
            else:
                found = cursor.last()
            at = cast("bytes", cursor.key())
        return at if found and at.startswith(prefix) else None

    @property
    def rows(self) -> int:
        """How many rows the index has."""
        return self._transaction.stat()["entries"]


class Draft(View):
    """The index inside the write transaction."""

    def put(self, key: bytes, value: bytes) -> None:
        self._transaction.put(key, rows.seal(key, value))

    def delete(self, key: bytes) -> None:
        self._transaction.delete(key)

    def delete_prefix(self, prefix: bytes) -> None:
        """Deletes every row whose key begins so."""
        with self._transaction.cursor() as cursor:
            found = cursor.set_range(prefix)
            while found and cast("bytes", cursor.key()).startswith(prefix):
                found = cursor.delete()
