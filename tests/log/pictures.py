"""A whole log as plain values, to compare with what it should be or with what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from mamba_stream.log import Log, Topic
from mamba_stream.log.examination import examine
from mamba_stream.log.findings import Finding


def picture(log: Log) -> dict[str, Any]:
    """All that can be seen of a log."""
    return {
        "lsn": log.lsn(),
        "topics": {
            name: (log[name].offsets(), log[name].ended, rows_of(log[name]))
            for name in log.topics(internal=True)
        },
        "groups": {group: log.group_offsets(group) for group in log.groups()},
    }


def rows_of(topic: Topic, **options: Any) -> list[tuple[int, int, tuple[Any, ...]]]:
    """(partition, offset, row) of everything that a read gives."""
    return [
        (batch.partition, int(offset), row)
        for batch in topic.read(**options)
        for offset, row in zip(batch.offsets, pl.DataFrame(batch.data).rows(), strict=True)
    ]


def unsound(path: Path) -> list[Finding]:
    """What the examination finds, notes aside. The log must not be open in this process."""
    found: list[Finding] = []
    examine(path, found.append)
    return [finding for finding in found if finding.severity != "note"]
