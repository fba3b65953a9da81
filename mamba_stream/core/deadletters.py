"""Dead letters as rows: what could not be done, with why and from where, in a topic like any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyarrow as pa

DEAD: Final = "_dead"
"""The column that a dead letter has beside those of its topic."""

_FACTS: Final = pa.struct(
    [
        ("topic", pa.large_string()),
        ("partition", pa.int64()),
        ("offset", pa.int64()),
        ("group", pa.large_string()),
        ("attempts", pa.int64()),
        ("cause", pa.large_string()),
        ("at", pa.timestamp("us", "UTC")),
    ]
)
_LONGEST_CAUSE = 2_000


@dataclass(frozen=True, slots=True)
class Death:
    """Why a message was given up.

    Attributes:
        offset: Its offset.
        attempts: How often it was delivered.
        cause: The error of its handler, or what else was wrong.
    """

    offset: int
    attempts: int
    cause: str


def dead_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of the dead letters of a topic with this schema: its columns, and where each came from."""
    return pa.schema([*schema, pa.field(DEAD, _FACTS)])


def dead_rows(
    rows: pa.RecordBatch, deaths: list[Death], *, topic: str, partition: int, group: str, now: int
) -> pa.RecordBatch:
    """These rows as dead letters, one death each."""
    facts = [
        {
            "topic": topic,
            "partition": partition,
            "offset": death.offset,
            "group": group,
            "attempts": death.attempts,
            # An error may tell of halves of characters, which no column holds.
            "cause": death.cause[:_LONGEST_CAUSE].encode(errors="backslashreplace").decode(),
            "at": now,
        }
        for death in deaths
    ]
    schema = dead_schema(rows.schema)
    return pa.RecordBatch.from_arrays([*rows.columns, pa.array(facts, _FACTS)], schema=schema)
