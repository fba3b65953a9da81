"""What a change set needs of the disk: whether it deletes, and whether it makes the index larger for good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mamba_stream.core.changes import AlterTopic, ChangeSet
from mamba_stream.log import repeating, rows

if TYPE_CHECKING:
    from mamba_stream.log.ledger import Ledger


def deletes(change: ChangeSet) -> bool:
    """Whether room comes of it: it removes something, or has upkeep remove more, and appends nothing."""
    removes = (
        change.drops
        or change.trims
        or change.forgets
        or _settings_only(change.alters)
        or any(offset.offset is None for offset in change.offsets)
        or any(record.value is None for record in change.records)
    )
    return bool(removes) and not (change.appends or change.creates)


def growth(ledger: Ledger, change: ChangeSet) -> str | None:
    """What is new in it for the index, in words; ``None`` where it only deletes, or changes what is there.

    So offsets, and what queues keep of messages that are delivered, can be settled, and with them trimmed. What was
    committed before is answered as ever.
    """
    if repeating.repeated(ledger, change) is not None:
        return None
    if change.appends:
        return "rows"
    if change.creates:
        return "new topic"
    if change.alters and not _settings_only(change.alters):
        return "new columns"
    for record in change.records:
        if record.value is not None and ledger.get(rows.record_key(record.namespace, record.key)) is None:
            return "new records"
    return None


def _settings_only(alters: Sequence[AlterTopic]) -> bool:
    return bool(alters) and all(alter.schema is None for alter in alters)
