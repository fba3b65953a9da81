"""Where messages go: against the hash of single keys, and in the order in which a policy is asked."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, strategies as st

from mamba_stream import FilterRule, InvalidInput, InvalidName, PartitionNotFound, RoutingPolicy
from mamba_stream.core.keys import hash_keys
from mamba_stream.messaging.routing import Outgoing, check_route, chosen, partition_rows
from mamba_stream.messaging.schema import MESSAGES
from tests.messaging.test_rules import messages


def everywhere(found: Any, rows: int) -> list[int]:
    return [found] * rows if isinstance(found, int) else found.tolist()


@given(st.lists(st.none() | st.binary(max_size=40), min_size=1), st.integers(1, 256), st.integers(0, 10_000))
def test_equal_keys_go_where_the_hash_of_the_single_key_says(
    keys: list[bytes | None], partitions: int, turn: int
):
    batch = pa.RecordBatch.from_pydict({"key": pa.array(keys, pa.large_binary())})
    found = everywhere(partition_rows(batch, partitions, turn), len(keys))
    for key, partition in zip(keys, found, strict=True):
        if key is None:
            assert partition == turn % partitions
        else:
            hashed = int(hash_keys([pa.array([key], pa.large_binary())])[0])
            assert hashed == xxhash.xxh64_intdigest(key)
            assert partition == (hashed % 256) * partitions // 256


def test_messages_without_a_key_go_to_one_partition_for_each_batch_in_turn():
    batch = messages([{}, {}, {}])
    assert [partition_rows(batch, 4, turn) for turn in range(6)] == [0, 1, 2, 3, 0, 1]


def test_null_is_a_key_where_rows_are_the_messages():
    batch = pa.RecordBatch.from_pydict({"k": pa.array([None, None], pa.int64())})
    found = partition_rows(batch, 4, 0, key=("k",), null_is_key=True)
    assert found.tolist() == [xxhash.xxh64_intdigest(b"\x00null") % 256 * 4 // 256] * 2


def test_a_policy_as_published_means_partition_number_one_counted_from_zero():
    policy = RoutingPolicy()
    policy.add_rule("my-topic", "partition-1")
    route = policy.route("my-topic")
    assert partition_rows(messages([{"key": "a"}, {"key": "b"}, {}]), 4, 0, route=route) == 1
    assert policy.route("other") is None


def test_rules_with_a_condition_are_asked_first_and_in_order():
    eu = FilterRule().add_condition("region", "eu")
    urgent = FilterRule().add_condition("priority", 5, op=">=", on="column")
    policy = (
        RoutingPolicy().add_rule("t", 3).add_rule("t", "partition-1", when=eu).add_rule("t", 2, when=urgent)
    )
    batch = messages(
        [
            {"headers": {"region": "eu"}, "priority": 9},
            {"priority": 9},
            {"headers": {"region": "us"}},
            {"key": "a"},
        ]
    )
    assert partition_rows(batch, 4, 0, route=policy.route("t")).tolist() == [1, 2, 3, 3]


def test_what_the_sender_said_comes_before_the_policy():
    policy = RoutingPolicy().add_rule("t", 3)
    given_ = np.array([-1, 0, -1], np.int64)
    assert partition_rows(messages([{}, {}, {}]), 4, 0, route=policy.route("t"), given=given_).tolist() == [
        3,
        0,
        3,
    ]


def test_round_robin_looks_at_no_key_and_the_last_rule_without_condition_counts():
    policy = RoutingPolicy().add_rule("t", 3).add_rule("t", "round-robin")
    assert partition_rows(messages([{"key": "a"}, {"key": "b"}]), 4, 6, route=policy.route("t")) == 2
    policy.add_rule("t", "key")
    found = partition_rows(messages([{"key": "a"}, {"key": "b"}]), 4, 6, route=policy.route("t"))
    assert everywhere(found, 2) == everywhere(partition_rows(messages([{"key": "a"}, {"key": "b"}]), 4, 6), 2)


def test_a_function_sees_the_message_and_gives_the_partition():
    policy = RoutingPolicy().add_rule("t", lambda message: len(message.value) + message.priority)
    route = policy.route("t")
    assert chosen(route, Outgoing("t", "ab", priority=1), 4) == 3
    with pytest.raises(PartitionNotFound, match="no partition 4: it has 4"):
        chosen(route, Outgoing("t", "abcd"), 4)
    with pytest.raises(InvalidInput, match="routing function raised TypeError") as raised:
        chosen(route, Outgoing("t", None), 4)
    assert isinstance(raised.value.__cause__, TypeError)
    with pytest.raises(InvalidInput, match="is a number"):
        chosen(RoutingPolicy().add_rule("t", lambda message: "1").route("t"), Outgoing("t", None), 4)


def test_only_what_nobody_said_a_partition_of_needs_a_hash():
    policy = RoutingPolicy().add_rule("t", 299, when=FilterRule().add_condition("a", "1"))
    batch = messages([{"headers": {"a": "1"}, "key": b"k"}, {}, {"key": b"k"}])
    found = partition_rows(batch, 300, 5, route=policy.route("t"), given=np.array([-1, -1, 7]))
    assert found.tolist() == [299, 5, 7]
    with pytest.raises(InvalidInput, match="at most 256"):
        partition_rows(batch, 300, 5, route=policy.route("t"))


def test_one_partition_needs_no_decision():
    assert partition_rows(messages([{"key": "a"}, {}]), 1, 7) == 0


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("partition-", "is no partition"),
        ("partition1", "did you mean 'partition-0'"),
        ("partition--1", "is no partition"),
        (-1, "is no partition"),
        (1.0, "is no partition"),
        (True, "is no partition"),
        (None, "is no partition"),
        ("round robin", "did you mean 'round-robin'"),
    ],
)
def test_a_rule_that_names_no_partition_is_refused_at_once(to: Any, says: str):
    with pytest.raises(InvalidInput, match=re.escape(says)):
        RoutingPolicy().add_rule("t", to)


def test_a_rule_with_a_condition_needs_a_rule_and_a_partition():
    with pytest.raises(InvalidInput, match="when= is a FilterRule"):
        RoutingPolicy().add_rule("t", 1, when="region == eu")
    with pytest.raises(InvalidInput, match="names a partition"):
        RoutingPolicy().add_rule("t", "key", when=FilterRule())
    with pytest.raises(InvalidName):
        RoutingPolicy().add_rule("../t", 1)


def test_a_partition_that_the_topic_does_not_have_is_known_before_the_first_message():
    for policy in (
        RoutingPolicy().add_rule("t", "partition-4"),
        RoutingPolicy().add_rule("t", 9, when=FilterRule()),
    ):
        with pytest.raises(PartitionNotFound, match="it has 4, counted from 0"):
            check_route(policy.route("t"), "t", MESSAGES, 4)
    with pytest.raises(InvalidInput, match="no such column"):
        rule = FilterRule().add_condition("pricee", 3, on="column")
        check_route(RoutingPolicy().add_rule("t", 1, when=rule).route("t"), "t", MESSAGES, 4)
