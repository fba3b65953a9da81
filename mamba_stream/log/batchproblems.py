"""The batches of a partition: whether their bytes are what its index says.

A log may have tens of millions of them. So a page of entries is taken at a time, with no read transaction over the
work on it, since what writers replace meanwhile could not be used again; and of each only its range is remembered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec

from mamba_stream.log import rows
from mamba_stream.log.findings import Finding, Found, problem_of
from mamba_stream.log.format import Damaged
from mamba_stream.log.rows import Entry, TopicRow
from mamba_stream.log.views import View
from mamba_stream.log.walking import of_partition

_PAGE: Final = 2048


class _Batch(msgspec.Struct, frozen=True):
    """An entry, and where it lies in the log."""

    topic: int
    partition: int
    offset: int
    entry: Entry

    @property
    def end(self) -> int:
        """The offset behind its last row."""
        return self.offset + self.entry.span


def batch_problems(
    env: lmdb.Environment, where: Path, found: Found, topic: TopicRow, partition: int
) -> Iterator[Finding]:
    """What is wrong with the bytes of a partition's batches, in their order, and which of them a repair gave up."""
    told: set[int] = set()
    place: dict[str, Any] = {"topic": topic.name, "partition": partition}
    for batch in _batches(env, topic.id, partition):
        if batch.entry.lost:
            what = "lost: a repair has given up what was damaged there"
            yield Finding("note", what, **place, offset=batch.offset, next_offset=batch.end)
            continue
        found.meet(batch.entry, topic.id)
        lasting = _lasting(env, where, found, batch)
        if lasting is not None and lasting[0].offset not in told:
            damaged, (severity, what) = lasting
            told.add(damaged.offset)
            yield Finding(severity, what, **place, offset=damaged.offset, next_offset=damaged.end)


def _lasting(
    env: lmdb.Environment, where: Path, found: Found, batch: _Batch
) -> tuple[_Batch, tuple[str, str]] | None:
    """What is wrong with a batch, or with what holds its rows by now: it may be sealed, merged or trimmed meanwhile."""
    while (problem := problem_of(where, found.layouts.get(batch.entry.schema), batch.entry)) is not None:
        now = _holding(env, batch.topic, batch.partition, batch.offset)
        if now is None:
            return None
        if now == batch:
            return batch, problem
        batch = now
    return None


def _batches(env: lmdb.Environment, topic: int, partition: int) -> Iterator[_Batch]:
    """A partition's sound entries from its first on, as of when they are taken."""
    position, more = 0, True
    while more:
        held = _holding(env, topic, partition, position)
        # What was merged since may begin before.
        start = position if held is None else held.offset
        with env.begin() as transaction:
            page = list(of_partition(transaction, topic, partition, start, _PAGE))
        more = len(page) == _PAGE
        for key, sealed in page:
            offset = rows.entry_place(key)[2]
            position = max(position, offset + 1)
            # Which of them are damaged was said before.
            with contextlib.suppress(Damaged, ValueError):
                batch = _Batch(topic, partition, offset, rows.unpack_entry(rows.unseal(key, sealed)))
                position = max(position, batch.end)
                yield batch


def _holding(env: lmdb.Environment, topic: int, partition: int, offset: int) -> _Batch | None:
    """The batch that holds an offset as of now; ``None`` where it was trimmed or deleted."""
    prefix = rows.entry_prefix(topic, partition)
    with env.begin() as transaction, contextlib.suppress(Damaged):
        view = View(transaction)
        key = view.floor(rows.entry_key(topic, partition, offset), prefix)
        value = None if key is None else view.get(key)
        if key is not None and value is not None:
            batch = _Batch(topic, partition, rows.entry_place(key)[2], rows.unpack_entry(value))
            return batch if offset < batch.end else None
    return None
