"""Where a group keeps its books: small records that change together, if they are still what they were.

The books of a group that processes share are the log's records, and each change is a commit. Those of a subscriber
of its own are its memory.
"""

from __future__ import annotations

import heapq
import threading
from dataclasses import dataclass, field
from typing import Any, Protocol

from mamba_stream.errors import PreconditionFailed
from mamba_stream.log import Log, Transaction
from mamba_stream.log.looking import Look, RecordsAnswer

Place = tuple[str, str]
"""Namespace and key of a record."""


@dataclass(slots=True)
class Change:
    """Records to write, records that must be as they were read, and rows that go to other topics with it.

    Attributes:
        requires: What each of these records must be; ``None``: must not exist.
        records: What they become; ``None`` deletes.
        appends: (topic, rows, partition), rows in any form that a topic takes.
    """

    requires: dict[Place, bytes | None] = field(default_factory=dict)
    records: dict[Place, bytes | None] = field(default_factory=dict)
    appends: list[tuple[str, Any, int | None]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.records or self.appends)

    def into(self, transaction: Transaction) -> None:
        """Adds it to a transaction."""
        for (namespace, key), value in self.requires.items():
            transaction.require_record(namespace, key, value)
        for (namespace, key), value in self.records.items():
            if value is None:
                transaction.delete_record(namespace, key)
            else:
                transaction.put_record(namespace, key, value)
        for topic, rows, partition in self.appends:
            transaction.append(topic, rows, partition=partition)


class Book(Protocol):
    """Records that can be read, and changed by compare and swap."""

    def get(self, place: Place) -> bytes | None:
        """One record."""
        ...

    def records(
        self, namespace: str, *, before: str | None = None, limit: int | None = None
    ) -> dict[str, bytes]:
        """Records of a namespace in the order of their keys, as ``Log.records`` gives them."""
        ...

    def look(self, look: Look, namespace: str) -> RecordsAnswer:
        """Records of a namespace, to be looked at together with what else ``look`` is about."""
        ...

    def commit(self, change: Change, transaction: Transaction | None = None) -> int | None:
        """Makes the change, together with what the transaction holds, which is then committed.

        Returns:
            The number of the log's commit; ``None`` where it took none.

        Raises:
            PreconditionFailed: A record is not as required; nothing was changed.
        """
        ...


class LogBook:
    """The records of a log, which all its processes share."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def get(self, place: Place) -> bytes | None:
        return self._log.record(*place)

    def records(
        self, namespace: str, *, before: str | None = None, limit: int | None = None
    ) -> dict[str, bytes]:
        return self._log.records(namespace, before=before, limit=limit)

    def look(self, look: Look, namespace: str) -> RecordsAnswer:
        return look.records(namespace)

    def commit(self, change: Change, transaction: Transaction | None = None) -> int | None:
        transaction = self._log.transaction() if transaction is None else transaction
        change.into(transaction)
        transaction.commit()
        return transaction.lsn


class PrivateBook:
    """Records in the memory of one process; what goes to topics goes to the log."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._records: dict[str, dict[str, bytes]] = {}
        # One thread takes messages while another writes what became of them.
        self._lock = threading.Lock()

    def get(self, place: Place) -> bytes | None:
        namespace, key = place
        return self._records.get(namespace, {}).get(key)

    def records(
        self, namespace: str, *, before: str | None = None, limit: int | None = None
    ) -> dict[str, bytes]:
        with self._lock:
            found = self._records.get(namespace, {})
            keys = [key for key in found if before is None or key < before]
            first = sorted(keys) if limit is None else heapq.nsmallest(limit, keys)
            return {key: found[key] for key in first}

    def look(self, look: Look, namespace: str) -> RecordsAnswer:
        return RecordsAnswer(lambda: self.records(namespace), lambda: self.records(namespace, limit=1))

    def commit(self, change: Change, transaction: Transaction | None = None) -> int | None:
        with self._lock:
            for place, value in change.requires.items():
                if self.get(place) != value:
                    raise PreconditionFailed(f"the record {'/'.join(place)} has another value")
            if transaction is not None or change.appends:
                transaction = self._log.transaction() if transaction is None else transaction
                Change(appends=change.appends).into(transaction)
                transaction.commit()
            for (namespace, key), value in change.records.items():
                if value is None:
                    self._records.get(namespace, {}).pop(key, None)
                else:
                    self._records.setdefault(namespace, {})[key] = value
        return None if transaction is None else transaction.lsn
