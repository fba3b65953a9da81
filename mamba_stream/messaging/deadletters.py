"""Dead letters as rows: what could not be done, with why and from where, in a topic like any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from mamba_stream.errors import InvalidInput
from mamba_stream.log import Log, Topic
from mamba_stream.messaging.books import Change
from mamba_stream.messaging.parts import Part
from mamba_stream.messaging.schema import TIME, is_message_schema

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


def dead_topic(log: Log, name: str, topic: Topic) -> Topic:
    """The topic for dead letters of ``topic``, created if missing.

    Raises:
        SchemaMismatch: It exists, and its columns are not those of this topic's dead letters.
    """
    if name == topic.name:
        raise InvalidInput(
            f"dead_letter={name!r} is the topic itself: name another, such as {name + '.dead'!r}"
        )
    time = TIME if is_message_schema(topic.schema) else topic.time
    return log.create_topic(name, dead_schema(topic.schema), time=time, exist_ok=True)


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


class Graveyard:
    """Where the dead letters of one group on one topic go.

    Args:
        log: The log.
        topic: The topic.
        group: The group.
        name: The topic of the dead letters, created when there is one.
    """

    def __init__(self, log: Log, topic: Topic, group: str, name: str) -> None:
        self._log = log
        self._topic = topic
        self._group = group
        self._name = name

    def bury(
        self, change: Change, partition: int, parts: Sequence[Part], deaths: list[Death], now: int
    ) -> None:
        """Adds rows that are given up to a change, each with its death, in the same order."""
        topic = dead_topic(self._log, self._name, self._topic)
        at = 0
        for part in parts:
            own, at = deaths[at : at + len(part)], at + len(part)
            if own:
                rows = dead_rows(
                    part.data, own, topic=self._topic.name, partition=partition, group=self._group, now=now
                )
                change.appends.append((topic.name, rows, None))
