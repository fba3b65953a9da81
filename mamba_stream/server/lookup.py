"""What the rules of access ask of a log."""

from __future__ import annotations

from mamba_stream.errors import TopicNotFound
from mamba_stream.log.asked import is_text
from mamba_stream.log.storage import Storage
from mamba_stream.server.catalog import Catalog


class StorageLookup:
    """Answers from a storage; any thread may ask.

    Args:
        storage: The log's.
        catalog: Its topics.
    """

    def __init__(self, storage: Storage, catalog: Catalog) -> None:
        self._storage = storage
        self._catalog = catalog

    def topic_name(self, number: int) -> str | None:
        """The name of the topic of this number; ``None`` where there is none (any more)."""
        try:
            return self._catalog.numbered(number).name
        except TopicNotFound:
            return None

    def record(self, namespace: str, key: str) -> bytes | None:
        """One small value; ``None`` also where nothing can have that key."""
        return self._storage.record(namespace, key) if is_text(namespace) and is_text(key) else None
