"""What a topic may take on disk: appends beyond that are refused, where retention would remove what is there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from mamba_stream.core.changes import Append
from mamba_stream.core.sizes import in_words
from mamba_stream.errors import TopicFull
from mamba_stream.log import rows
from mamba_stream.log.rows import TopicRow

if TYPE_CHECKING:
    from mamba_stream.log.ledger import Ledger

_KNOWN: Final = 1_024


def check_quotas(ledger: Ledger, appends: Sequence[Append]) -> None:
    """Raises where rows would go beyond the quota of their topic, as it stands within this transaction.

    Raises:
        TopicFull: They would.
    """
    seen = -1
    for append in appends:
        # Those of a topic lie together, mostly.
        if append.topic != seen:
            seen = append.topic
            value = ledger.get(rows.number_key(rows.TOPIC, seen))
            if value is not None and _has_quota(value):
                _check(ledger, rows.unpack(TopicRow, value), appends)


@lru_cache(_KNOWN)
def _has_quota(value: bytes) -> bool:
    """Whether the topic of this row has one: most have none, and to unpack their rows would cost each append."""
    row: TopicRow = rows.unpack(TopicRow, value)
    return row.settings.quota is not None


def _check(ledger: Ledger, topic: TopicRow, appends: Sequence[Append]) -> None:
    heads = [ledger.head(topic.id, partition) for partition in range(topic.partitions)]
    there = sum([head.size for head in heads if head is not None])
    more = sum([append.length for append in appends if append.topic == topic.id])
    quota = topic.settings.quota
    assert quota is not None
    if there + more > quota:
        raise TopicFull(
            f"topic {topic.name!r} takes {in_words(there)} on disk, and its quota is {in_words(quota)}: "
            f"{in_words(more)} more are not taken; nothing was committed. Trim it, shorten its retention, or raise the "
            f"quota: log.alter_topic({topic.name!r}, quota=...)"
        )
