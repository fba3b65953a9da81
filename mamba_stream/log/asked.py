"""What callers ask for: partitions, offsets and names of records, each checked before anything is done with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mamba_stream.core.numbers import is_whole
from mamba_stream.errors import InvalidInput, PartitionNotFound
from mamba_stream.log.rows import TopicRow

LONGEST_TEXT = 200
"""Bytes of a producer's name, and of each half of a record's: they are keys of the index."""


def partition_of(topic: TopicRow, number: object) -> int:
    """A partition that the topic has."""
    if not is_whole(number, -(1 << 63)):
        raise InvalidInput(f"topic {topic.name!r}: a partition is a number, not {number!r:.80}")
    if not 0 <= number < topic.partitions:
        raise PartitionNotFound(
            f"topic {topic.name!r} has no partition {number}: it has {topic.partitions}, counted from 0"
        )
    return int(number)


def partitions_of(topic: TopicRow, numbers: Any) -> list[int]:
    """Partitions that the topic has, in order; all of them for ``None``."""
    if numbers is None:
        return list(range(topic.partitions))
    if not isinstance(numbers, Iterable):
        raise InvalidInput(f"topic {topic.name!r}: partitions={numbers!r:.80}: give a list such as [0, 2]")
    return sorted({partition_of(topic, number) for number in numbers})


def offset_of(topic: TopicRow, partition: int, value: object) -> int:
    """An offset that a partition may have."""
    if not is_whole(value):
        raise InvalidInput(
            f"topic {topic.name!r}, partition {partition}: {value!r:.80} is not an offset, which is a number "
            "from 0 on"
        )
    return int(value)


def offsets_of(topic: TopicRow, what: str, value: Any) -> dict[int, int]:
    """``{partition: offset}`` of partitions that the topic has; empty for ``None``."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInput(f"topic {topic.name!r}: {what}={value!r:.80}: give {{partition: offset}}")
    return {partition_of(topic, number): offset_of(topic, number, value[number]) for number in value}


def is_text(value: object) -> bool:
    """Whether this can be a part of a key of the index."""
    if not isinstance(value, str):
        return False
    try:
        return 1 <= len(value.encode()) <= LONGEST_TEXT and "\0" not in value
    except UnicodeEncodeError:
        return False


def text_of(value: Any, what: str = "a record's namespace and key") -> str:
    """A part of a key of the index, by what it is called where it is wrong."""
    if not is_text(value):
        raise InvalidInput(f"{what}: 1 to {LONGEST_TEXT} bytes without NUL, not {value!r:.80}")
    return str(value)


def check_bounds(call: str, **bounds: object) -> None:
    """Refuses bounds that are not numbers; ``None`` is no bound."""
    for what, most in bounds.items():
        if most is not None and not is_whole(most):
            raise InvalidInput(f"{call}({what}={most!r:.40}): give a number from 0 on")
