"""The topic of the dead letters of another topic, and how a group's messages get there."""

from __future__ import annotations

from collections.abc import Sequence

from mamba_stream.core.deadletters import Death, dead_rows, dead_schema
from mamba_stream.errors import InvalidInput
from mamba_stream.log import Log, Topic
from mamba_stream.log.evolving import grown
from mamba_stream.messaging.books import Change
from mamba_stream.messaging.parts import Part
from mamba_stream.messaging.schema import TIME, is_message_schema


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
    return grown(log, name, dead_schema(topic.schema), time)


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
