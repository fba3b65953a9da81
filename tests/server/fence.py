"""A log of a directory as a server would give it to a user: nothing is touched that the gate was not asked about.

Stands for the service, which is tested for itself: what is needed of each call is written down here once more, so that a
whole suite of producers, consumers, subscribers and jobs can be run under a user's rules without a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mamba_stream.core.changes import Applied, ChangeSet
from mamba_stream.log import Log, open_log
from mamba_stream.log.committer import Rows
from mamba_stream.server.belongings import (
    SHARED,
    Belongings,
    need_of_lock,
    visible_groups,
    visible_namespaces,
    visible_offsets,
    visible_records,
)
from mamba_stream.server.catalog import Catalog
from mamba_stream.server.gate import Caller, Gate, Need
from mamba_stream.server.lookup import StorageLookup


class Fence:
    """A storage that asks a gate first."""

    def __init__(self, log: Log, gate: Gate, caller: Caller) -> None:
        self._inner = log._shared
        self._gate = gate
        self._caller = caller
        self.belongings = Belongings(StorageLookup(self._inner, Catalog(self._inner)), self._inner.clock)
        self.asked: set[Need] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def release(self) -> None:
        """The log's own handle goes on."""

    def _check(self, *needs: Need) -> None:
        self.asked.update(needs)
        self._gate.check(self._caller, needs)

    def topic(self, name: object) -> Any:
        row = self._inner.topic(name)
        return row if row is not None and self._gate.visible(self._caller, "topic", [row.name]) else None

    def topics(self) -> list[Any]:
        rows = self._inner.topics()
        seen = {*self._gate.visible(self._caller, "topic", [row.name for row in rows])}
        return [row for row in rows if row.name in seen]

    def heads(self, topic: Any, partitions: Sequence[int] | None = None) -> Any:
        self._check(Need("describe", "topic", topic.name))
        return self._inner.heads(topic, partitions)

    def all_heads(self, *, internal: bool) -> Any:
        heads = self._inner.all_heads(internal=internal)
        seen = {*self._gate.visible(self._caller, "topic", {name for name, _ in heads})}
        return {place: head for place, head in heads.items() if place[0] in seen}

    def reader(self, topic: Any, *rest: Any, **named: Any) -> Any:
        self._check(Need("read", "topic", topic.name))
        return self._inner.reader(topic, *rest, **named)

    def groups(self) -> list[str]:
        return visible_groups(
            self._gate,
            self._caller,
            self._inner.groups(),
            lambda group: {topic for topic, _ in self._inner.group_offsets(group)},
        )

    def group_offsets(self, group: str) -> dict[tuple[str, int], int]:
        return visible_offsets(self._gate, self._caller, group, self._inner.group_offsets(group))

    def record(self, namespace: str, key: str) -> bytes | None:
        self._check(*self.belongings.record("read", namespace, key))
        return self._inner.record(namespace, key)

    def records(self, namespace: str, before: str | None, limit: int | None) -> dict[str, bytes]:
        if namespace not in SHARED:
            self._check(*self.belongings.record("read", namespace, ""))
            return self._inner.records(namespace, before, limit)
        found = self._inner.records(namespace, before, limit)
        return visible_records(self._gate, self._caller, self.belongings, namespace, found)

    def namespaces(self, prefix: str) -> list[str]:
        found = self._inner.namespaces(prefix)
        return visible_namespaces(self._gate, self._caller, self.belongings, found)

    def commit(self, change: ChangeSet, batches: Sequence[Any] = ()) -> Applied:
        batches = [made for one in batches for made in (one.made() if isinstance(one, Rows) else [one])]
        written = [self.belongings.numbered(number, "write") for number in {batch.topic for batch in batches}]
        self._check(*self.belongings.changed(change), *written)
        return self._inner.commit(change, batches)

    def lock(self, space: str, name: str) -> Any:
        self._check(need_of_lock("write", space, name))
        return self._inner.lock(space, name)


def fenced(log: Log, gate: Gate, caller: Caller) -> Log:
    """The log as this caller has it."""
    return Log(Fence(open_log(log.path), gate, caller))
