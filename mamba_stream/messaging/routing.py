"""Where messages go: the partition of each, decided on columns; plain values, no log and no thread.

In this order: what the sender said, the policy's rules with a condition, its function or fixed partition for the
topic, the key's hash, and for what has no key one partition for each batch, in turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa

from mamba_stream.core.keys import hash_keys, partitions_of
from mamba_stream.core.names import check_name, did_you_mean
from mamba_stream.core.numbers import is_whole
from mamba_stream.errors import InvalidInput, MambaStreamError, PartitionNotFound
from mamba_stream.messaging.rules import FilterRule
from mamba_stream.messaging.schema import Headers

Partitions = np.ndarray[tuple[int], np.dtype[np.int64]]

KEY: Final = "key"
ROUND_ROBIN: Final = "round-robin"
MOST_KEYED: Final = 256
"""A key's hash chooses among so many partitions."""
_NAMED = re.compile(r"partition-([0-9]{1,6})")
_FORMS = (
    "write 'partition-1', a number, 'key', 'round-robin' or a function of the message that gives a number"
)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way, as a routing function sees it.

    Attributes:
        topic: Where it is sent.
        value: What is sent; the row of a typed topic.
        key: Its key.
        headers: Its headers.
        event_type: What its sender calls it.
        priority: 0 to 9.
    """

    topic: str
    value: Any
    key: Any = None
    headers: Headers = field(default_factory=dict)
    event_type: str | None = None
    priority: int = 0


Choice = Callable[[Outgoing], int]


@dataclass(slots=True)
class Route:
    """What a policy says of one topic."""

    when: list[tuple[FilterRule, int]] = field(default_factory=list)
    choose: Choice | None = None
    fixed: int | None = None
    keyed: bool = True

    def copy(self) -> Route:
        return Route(list(self.when), self.choose, self.fixed, self.keyed)


class RoutingPolicy:
    """Which partition messages go to, by topic.

    Without a rule, equal keys go to one partition, and batches of messages without a key to one after the other.

    Example:
        >>> import mamba_stream as mamba
        >>> policy = mamba.RoutingPolicy()
        >>> policy.add_rule("my-topic", "partition-1")
        RoutingPolicy(my-topic: partition-1)
        >>> eu = mamba.FilterRule().add_condition("region", "eu")
        >>> policy.add_rule("orders", "partition-0", when=eu)
        RoutingPolicy(my-topic: partition-1, orders: partition-0 when header 'region' == 'eu')
    """

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}

    def add_rule(self, topic: str, to: str | int | Choice, *, when: FilterRule | None = None) -> Self:
        """Adds a rule for a topic, and returns the policy.

        Args:
            topic: The topic's name.
            to: ``"partition-1"`` or 1, counted from 0; ``"key"`` (by its hash) or ``"round-robin"`` (whatever the
                key); or a function that takes the message and gives the number.
            when: Only for messages that this rule holds for. Rules with a condition are asked first, in the order
                in which they were added; of those without the last one counts.

        Raises:
            InvalidInput: It says no partition.
        """
        check_name(topic, "topic")
        partition = _partition(topic, to)
        if when is not None:
            if not isinstance(when, FilterRule):
                raise InvalidInput(f"routing of {topic!r}: when= is a FilterRule, not {type(when).__name__}")
            if partition is None:
                raise InvalidInput(
                    f"routing of {topic!r}: a rule with when= names a partition, such as 'partition-1'"
                )
            # What is added to the rule later does not change this policy.
            self._routes.setdefault(topic, Route()).when.append((FilterRule.all(when), partition))
            return self
        route = self._routes.setdefault(topic, Route())
        route.fixed = partition
        route.choose = to if callable(to) else None
        route.keyed = to != ROUND_ROBIN
        return self

    def route(self, topic: str) -> Route | None:
        """What it says of a topic, as it is now; ``None`` where that is nothing."""
        found = self._routes.get(topic)
        return None if found is None else found.copy()

    @property
    def topics(self) -> list[str]:
        """The topics that it says something of."""
        return sorted(self._routes)

    def __repr__(self) -> str:
        parts = []
        for topic, route in self._routes.items():
            parts += [f"{topic}: partition-{number} when {repr(rule)[11:-1]}" for rule, number in route.when]
            if route.fixed is not None:
                parts.append(f"{topic}: partition-{route.fixed}")
            elif route.choose is not None:
                parts.append(f"{topic}: {getattr(route.choose, '__name__', 'a function')}")
            elif not route.keyed:
                parts.append(f"{topic}: {ROUND_ROBIN}")
        return f"RoutingPolicy({', '.join(parts)})"


def check_route(route: Route, topic: str, schema: pa.Schema, partitions: int) -> None:
    """Raises where a route cannot be right for a topic.

    Raises:
        PartitionNotFound: It names a partition that the topic does not have.
        InvalidInput: A rule is not for rows of this schema.
    """
    for number in (*(number for _, number in route.when), *(() if route.fixed is None else (route.fixed,))):
        check_partition(number, topic, partitions)
    for rule, _ in route.when:
        rule.check(schema)


def check_partition(number: object, topic: str, partitions: int) -> int:
    """The partition's number, if the topic has it."""
    if not is_whole(number, -(1 << 63)):
        raise InvalidInput(f"topic {topic!r}: a partition is a number, not {number!r:.60}")
    if not 0 <= number < partitions:
        raise PartitionNotFound(
            f"topic {topic!r} has no partition {number}: it has {partitions}, counted from 0; nothing was sent"
        )
    return int(number)


def check_keyed(route: Route | None, topic: str, partitions: int) -> None:
    """Raises where a message with a key, which nobody said a partition of, would have none.

    Raises:
        InvalidInput: There are too many partitions for keys.
    """
    if partitions > MOST_KEYED and (route is None or (route.keyed and route.fixed is None)):
        raise InvalidInput(
            f"topic {topic!r}: a message with a key goes to one of at most {MOST_KEYED} partitions, and there are "
            f"{partitions}: say partition=, or route {topic!r} by a policy; nothing was sent"
        )


def chosen(route: Route, message: Outgoing, partitions: int) -> int:
    """What the policy's function says of a message."""
    assert route.choose is not None
    try:
        number = route.choose(message)
    except MambaStreamError:
        raise
    except Exception as error:
        raise InvalidInput(
            f"topic {message.topic!r}: the routing function raised {type(error).__name__}: {error}; nothing was sent"
        ) from error
    return check_partition(number, message.topic, partitions)


def partition_rows(
    batch: pa.RecordBatch,
    partitions: int,
    turn: int,
    *,
    key: Sequence[str] = (KEY,),
    null_is_key: bool = False,
    route: Route | None = None,
    given: Partitions | None = None,
) -> Partitions | int:
    """The partition of every row; one number where all go to one.

    Args:
        batch: The rows.
        partitions: How many partitions there are.
        turn: Whose turn it is among rows without a key.
        key: The columns that are the key.
        null_is_key: Whether null is a key like others, as in a typed topic, or means that there is none.
        route: What the policy says of the topic.
        given: What was decided before, row by row; -1 where nothing was.

    Example:
        >>> keys = pa.RecordBatch.from_pydict({"key": pa.array([b"a", b"b", b"a", None], pa.large_binary())})
        >>> partition_rows(keys, 4, turn=3).tolist()
        [1, 2, 1, 3]
        >>> partition_rows(keys.slice(3), 4, turn=3)
        3
    """
    if partitions == 1:
        return 0
    if route is not None and not route.keyed:
        key = ()
    if given is None and (route is None or not route.when):
        return _otherwise(batch, partitions, turn, key, null_is_key, route)
    found = np.full(batch.num_rows, -1, np.int64) if given is None else given.copy()
    for rule, number in () if route is None else route.when:
        mask = rule.mask(batch)
        open_rows = found < 0
        found[open_rows if mask is None else open_rows & mask] = number
    left = found < 0
    if left.any():
        rest = batch.select(list(key)).filter(pa.array(left)) if key else batch
        found[left] = _otherwise(rest, partitions, turn, key, null_is_key, route)
    return found


def _otherwise(
    batch: pa.RecordBatch,
    partitions: int,
    turn: int,
    key: Sequence[str],
    null_is_key: bool,
    route: Route | None,
) -> Partitions | int:
    if route is not None and route.fixed is not None:
        return route.fixed
    sticky = turn % partitions
    if not key:
        return sticky
    columns = [batch.column(name) for name in key]
    missing = 0 if null_is_key else columns[0].null_count
    if missing and missing == batch.num_rows:
        return sticky
    if partitions > MOST_KEYED:
        raise InvalidInput(
            f"messages with a key go to one of at most {MOST_KEYED} partitions, and there are {partitions}"
        )
    found = partitions_of(hash_keys(columns), partitions).astype(np.int64)
    if missing:
        found[columns[0].is_null().to_numpy(zero_copy_only=False)] = sticky
    return found


def _partition(topic: str, to: object) -> int | None:
    """The number, or ``None`` for what is decided message by message."""
    if callable(to) or to in (KEY, ROUND_ROBIN):
        return None
    if isinstance(to, str):
        named = _NAMED.fullmatch(to)
        if named is None:
            raise InvalidInput(
                f"routing of {topic!r}: {to!r:.60} is no partition"
                f"{did_you_mean(to, [KEY, ROUND_ROBIN, 'partition-0'])}; {_FORMS}"
            )
        return int(named[1])
    if not is_whole(to):
        raise InvalidInput(f"routing of {topic!r}: {to!r:.60} is no partition; {_FORMS}")
    return int(to)
