"""What the tables of contents beside the segments tell of a log whose index does not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from mamba_stream.log import contents, files, rows
from mamba_stream.log.contents import Contents
from mamba_stream.log.format import Damaged
from mamba_stream.log.rows import Entry, TopicRow
from mamba_stream.log.shelf import Placed


@dataclass
class Tables:
    """All that are sound, and of one log.

    Attributes:
        log: The log's uuid; ``None`` where there is no table.
        topics: The topics by number, as their newest segments have them, where they have.
        names: Their names.
        schemas: Schemas by number, as IPC messages.
    """

    log: str | None = None
    topics: dict[int, TopicRow] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    schemas: dict[int, bytes] = field(default_factory=dict)
    _batches: dict[tuple[int, int], list[Placed]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def read(cls, directory: Path, of: Collection[str], dead: Collection[int]) -> Self:
        """Those in this directory.

        Args:
            directory: The log's files.
            of: The uuids of the log; where there are none, the one that most tables have.
            dead: The numbers of segments in which nothing lies any more.
        """
        found: dict[int, Contents] = {}
        for path in directory.glob(f"*{files.CONTENTS}"):
            number = files.number_of(path.name)
            if number is None or number in dead or not path.with_suffix(".arrows").exists():
                continue
            try:
                found[number] = contents.decode(path.read_bytes())
            except (Damaged, OSError, ValueError):
                continue
        logs = Counter(table.log for table in found.values())
        whose = set(of) or {log for log, _ in logs.most_common(1)}
        tables = cls()
        for number, table in sorted(found.items()):
            if table.log in whose:
                tables.log = table.log
                tables._take(number, table)
        return tables

    def _take(self, number: int, table: Contents) -> None:
        # Of several the newest holds: later ones overwrite.
        self.names[table.topic_id] = table.topic
        self.schemas[table.schema_id] = table.schema
        if table.row is not None:
            self.topics[table.topic_id] = table.row
        placed = self._batches[table.topic_id, table.partition]
        placed += (Placed(batch.offset, _entry(number, table, batch)) for batch in table.batches)

    def places(self) -> Iterable[tuple[int, int]]:
        """The partitions that have batches here."""
        return self._batches.keys()

    def batches(self, topic: int, partition: int) -> list[Placed]:
        """The partition's batches by offset; of those that lie twice the newest first."""
        return sorted(
            self._batches.get((topic, partition), []), key=lambda one: (one.offset, -one.entry.file)
        )


def _entry(number: int, table: Contents, batch: contents.Batch) -> Entry:
    return Entry(
        file=number,
        position=batch.position,
        length=batch.length,
        rows=batch.rows,
        span=batch.span,
        min_time=batch.min_time,
        max_time=batch.max_time,
        running_time=batch.running_time,
        append_time=batch.append_time,
        schema=table.schema_id,
        header=batch.header,
        flags=batch.flags | rows.SEALED,
    )
