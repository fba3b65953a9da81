"""What the rules of access ask of a log."""

from __future__ import annotations

from mamba_stream.log.asked import is_text
from mamba_stream.log.storage import Storage


class StorageLookup:
    """Answers from a storage; any thread may ask.

    Args:
        storage: The log's.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._names: dict[int, str] = {}

    def topic_name(self, number: int) -> str | None:
        """The name of the topic of this number; ``None`` where there is none (any more)."""
        # Looked up first: numbers that are made up must cost no more than this. No number is given twice.
        if not (0 <= number < 1 << 32 and self._storage.numbered(number)):
            self._names.pop(number, None)
            return None
        if number not in self._names:
            self._names.update({row.id: row.name for row in self._storage.topics()})
        return self._names.get(number)

    def record(self, namespace: str, key: str) -> bytes | None:
        """One small value; ``None`` also where nothing can have that key."""
        return self._storage.record(namespace, key) if is_text(namespace) and is_text(key) else None
