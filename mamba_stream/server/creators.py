"""Who made which topic: records of the server's own, which a change set that makes or deletes topics carries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from mamba_stream.core.changes import ChangeSet, Record
from mamba_stream.log.storage import Storage

CREATORS: Final = "server.topics"
"""The namespace: by a topic's name, the name of the user who made it."""


def with_creators(change: ChangeSet, user: str, name_of: Callable[[int], str | None]) -> ChangeSet:
    """The change set with a record for every topic that it makes, and without those of topics that it deletes.

    Args:
        change: What a user is about to commit.
        user: The user.
        name_of: The name of the topic of a number.

    Example:
        >>> from mamba_stream.core.changes import ChangeSet
        >>> with_creators(ChangeSet(), "ann", {}.get)
        ChangeSet(creates=(), drops=(), ...)
    """
    if not (change.creates or change.drops):
        return change
    gone = [name for number in change.drops if (name := name_of(number)) is not None]
    records = [
        *(Record(CREATORS, name, None) for name in gone),
        *(Record(CREATORS, topic.name, user.encode()) for topic in change.creates),
    ]
    return msgspec.structs.replace(change, records=(*change.records, *records))


class Creators:
    """Tells how many topics somebody made.

    Args:
        storage: The log's.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def count(self, user: str, names: Iterable[str]) -> tuple[int, int]:
        """How many topics a user made that are still there, and how many of these names would be more."""
        made = self._storage.records(CREATORS, None, None)
        more = sum(1 for name in {*names} if self._storage.topic(name) is None)
        return sum(value == user.encode() for value in made.values()), more
