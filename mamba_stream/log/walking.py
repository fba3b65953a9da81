"""Ways through an index that may be damaged."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import lmdb

from mamba_stream.log import rows
from mamba_stream.log.format import Damaged

_PAGE = 2048


def between(
    transaction: lmdb.Transaction, start: bytes, end: bytes, most: int = sys.maxsize
) -> Iterator[tuple[bytes, bytes]]:
    """The rows from one key to before another, the first so many of them."""
    with transaction.cursor() as cursor:
        if cursor.set_range(start):
            for number, (raw, value) in enumerate(cursor.iternext()):
                key = bytes(raw)
                if key >= end or number >= most:
                    return
                yield key, bytes(value)


def of_partition(
    transaction: lmdb.Transaction, topic: int, partition: int, offset: int = 0, most: int = sys.maxsize
) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a partition that begin at an offset or behind it, the first so many of them."""
    end = rows.entry_prefix(topic, partition) + b"\xff" * 9
    return between(transaction, rows.entry_key(topic, partition, offset), end, most)


def not_found_by_key(transaction: lmdb.Transaction, met: list[tuple[bytes, bytes]]) -> list[bytes]:
    """The rows that a walk has met and a look-up does not: it goes another way through the pages."""
    astray = []
    for key, sealed in met:
        try:
            found = transaction.get(key)
        except lmdb.Error:
            found = None
        if found != sealed:
            astray.append(key)
    return astray


def entries(env: lmdb.Environment, astray: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """All entries, a page at a time: no read transaction is held over the work. Says which are not found by key."""
    position = rows.ENTRY
    while True:
        with env.begin() as transaction:
            page = list(between(transaction, position, b"\xff", _PAGE))
            astray += not_found_by_key(transaction, page)
        yield from page
        if len(page) < _PAGE:
            return
        position = page[-1][0] + b"\0"


def sound_entries(env: lmdb.Environment) -> Iterator[bytes]:
    """The values of all entries as of now."""
    for key, sealed in entries(env, []):
        with contextlib.suppress(Damaged):
            yield rows.unseal(key, sealed)
