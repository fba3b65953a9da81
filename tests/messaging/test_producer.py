"""What a producer takes, what it refuses at the user's line, and what comes out of the log."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgpack
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from mamba_stream import (
    AlreadyExists,
    CommitUnknown,
    FilterRule,
    InvalidInput,
    InvalidName,
    LogUnavailable,
    MambaStreamError,
    PartitionNotFound,
    Producer,
    RoutingPolicy,
    SchemaMismatch,
    TopicNotFound,
)
from mamba_stream.core.clock import SystemClock
from mamba_stream.log import Log, open_log
from mamba_stream.messaging.message import Block
from mamba_stream.messaging.parcel import Receipt
from mamba_stream.messaging.schema import MESSAGES, is_message_schema
from tests.messaging.flaky import FlakyLog
from tests.sizes import examples

HALF = "\ud800"
SPEC = {"symbol": pl.String, "price": pl.Float64}


class Clock(SystemClock):
    def now(self) -> int:
        return 1_000_000


def rows(log: Log, topic: str = "t") -> list[dict[str, Any]]:
    """All messages of a topic, as plain values."""
    found = []
    for batch in log[topic].read():
        block = Block(topic, batch.partition, batch.data, [], 0)
        columns = zip(
            block.values, block.keys, block.headers, block.event_types, block.times,
            batch.data.column("deliver_at").cast(pa.int64()).to_pylist(), block.priorities, strict=True,
        )  # fmt: skip
        names = ("value", "key", "headers", "event_type", "time", "deliver_at", "priority")
        found += [dict(zip(names, row, strict=True), partition=batch.partition) for row in columns]
    return found


@pytest.fixture
def producer(log: Log) -> Any:
    with Producer(log, linger="1h", clock=Clock()) as found:
        yield found


# --- topics ------------------------------------------------------------------------------------------------------


def test_a_topic_has_four_partitions_and_takes_messages_unless_told_otherwise(log: Log, producer: Producer):
    assert producer.create_topic("t").partitions == 4
    assert is_message_schema(log["t"].schema) and log["t"].time == "time"
    assert producer.create_topic("one", partitions=1).partitions == 1
    assert producer.create_topic("t").partitions == 4
    assert producer.create_topic("one").partitions == 1
    with pytest.raises(AlreadyExists):
        producer.create_topic("one", 2)
    with pytest.raises(AlreadyExists):
        producer.create_topic("one", exist_ok=False)
    with pytest.raises(SchemaMismatch):
        producer.create_topic("one", schema=SPEC)
    with pytest.raises(InvalidInput, match="name columns of schema="):
        producer.create_topic("x", key="value")
    typed = producer.create_topic("typed", schema=SPEC, key="symbol")
    assert typed.key == ("symbol",)
    assert log.topics() == ["one", "t", "typed"]


def test_an_address_needs_a_server():
    with pytest.raises(LogUnavailable, match="localhost:9092"):
        Producer("localhost:9092")


# --- messages ----------------------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
one_message = st.fixed_dictionaries(
    {"value": anything},
    optional={
        "key": st.none() | st.text(max_size=5) | st.binary(max_size=5) | st.integers(-9, 9),
        "headers": st.none() | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
        "event_type": st.none() | st.text(max_size=5),
        "priority": st.integers(0, 9),
        "partition": st.none() | st.integers(0, 2),
    },
)


@settings(max_examples=examples(60))
@given(st.lists(one_message, max_size=20))
def test_messages_come_out_as_what_they_were(sent: list[dict[str, Any]]):
    import tempfile

    with tempfile.TemporaryDirectory() as place, open_log(place) as log:
        with Producer(log, linger="1h", clock=Clock()) as producer:
            producer.create_topic("t", 3)
            handles = [producer.send("t", **message) for message in sent]
            producer.flush()
            places = [handle.result() for handle in handles]
        found = {}
        for batch in log["t"].read():
            block = Block("t", 0, batch.data, [], 0)
            for at in range(batch.data.num_rows):
                found[batch.partition, batch.offset + at] = (
                    block.values[at], block.keys[at], block.headers[at], block.event_types[at],
                    block.priorities[at], block.times[at],
                )  # fmt: skip
        assert len(found) == len(sent)
        for message, place_of in zip(sent, places, strict=True):
            got = found[place_of.partition, place_of.offset]
            headers = message.get("headers") or {}
            wanted = (
                message["value"],
                message.get("key"),
                headers,
                message.get("event_type"),
                message.get("priority", 0),
            )
            assert got == (*wanted, 1_000_000)
            assert type(got[0]) is type(message["value"]) and type(got[1]) is type(message.get("key"))
            if message.get("partition") is not None:
                assert place_of.partition == message["partition"]


def test_times_delays_and_priorities_are_columns(log: Log, producer: Producer):
    producer.create_topic("t", 1)
    producer.send("t", "now")
    producer.send("t", "then", timestamp=datetime(1970, 1, 1, 0, 0, 5))
    producer.send("t", "later", delay="2s")
    producer.send("t", "later too", delay=timedelta(seconds=3))
    producer.send("t", "at", at=datetime(1970, 1, 1, 1, tzinfo=UTC), priority=9)
    producer.send("t", "at too", at=datetime(1970, 1, 1, 1))
    producer.flush()
    assert [row["time"] for row in rows(log)] == [1_000_000, 5_000_000, *[1_000_000] * 4]
    assert [row["deliver_at"] for row in rows(log)] == [
        None,
        None,
        3_000_000,
        4_000_000,
        3_600_000_000,
        3_600_000_000,
    ]
    assert [row["priority"] for row in rows(log)] == [0, 0, 0, 0, 9, 0]


def test_many_are_sent_as_lists_series_arrays_and_frames(log: Log, producer: Producer):
    producer.create_topic("t", 1)
    producer.send_many("t", ["a", "b"], keys=["k", None], headers={"h": "1"}, event_type="e", priority=2)
    producer.send_many("t", [b"c", b"d"], delay="1s")
    producer.send_many("t", [{"n": 1}, None, "x", 3])
    producer.send_many("t", (text for text in ("g", "h")))
    producer.send_many("t", pl.Series(["s", None]), keys=pl.Series([b"1", None]))
    producer.send_many("t", pa.array([b"p", b"q"]))
    producer.send_many(
        "t",
        pl.DataFrame(
            {"value": ["f1", "f2"], "key": ["k", None], "priority": [1, 0]},
            schema_overrides={"priority": pl.UInt8},
        ),
    )
    producer.send_many("t", pa.table({"value": [b"t1"]}), event_type="table")
    assert len(producer.send_many("t", [])) == 0
    assert producer.send_many("t", []).result() == {}
    result = producer.send_many("t", ["last"]).result()
    assert result == {0: (17, 18)}
    found = rows(log)
    assert [row["value"] for row in found] == [
        "a", "b", b"c", b"d", {"n": 1}, None, "x", 3, "g", "h", "s", None, b"p", b"q", "f1", "f2", b"t1", "last",
    ]  # fmt: skip
    assert [row["key"] for row in found] == [
        "k",
        None,
        *[None] * 8,
        b"1",
        None,
        None,
        None,
        "k",
        None,
        None,
        None,
    ]
    assert found[0] == {
        "value": "a", "key": "k", "headers": {"h": "1"}, "event_type": "e", "time": 1_000_000, "deliver_at": None,
        "priority": 2, "partition": 0,
    }  # fmt: skip
    assert found[2]["deliver_at"] == 2_000_000
    assert [row["priority"] for row in found[14:17]] == [1, 0, 0]
    assert found[16]["event_type"] == "table"


def test_what_another_topic_holds_can_be_sent_as_it_is(log: Log, producer: Producer):
    producer.create_topic("t", 1)
    producer.create_topic("u", 1)
    producer.send("t", {"a": [1]}, key=5, headers={"h": b"\xff"}, event_type="e", priority=3)
    producer.flush()
    (batch,) = log["t"].read()
    producer.send_many("u", batch.data)
    producer.flush()
    assert rows(log, "u") == rows(log, "t")


# --- typed topics ------------------------------------------------------------------------------------------------


def test_rows_of_a_typed_topic_go_where_append_would_put_them(log: Log, producer: Producer):
    frame = pl.DataFrame({"symbol": ["a", "b", None, "c", "a"], "price": [1.0, 2.0, 3.0, 4.0, None]})
    producer.create_topic("typed", 4, schema=SPEC, key="symbol")
    log.create_topic("appended", SPEC, partitions=4, key="symbol")
    log["appended"].append(frame)
    places = [producer.send("typed", row) for row in frame.to_dicts()]
    assert all(isinstance(handle.result(), Receipt) for handle in places)
    producer.send_many("typed", frame).result()
    producer.send_many("typed", frame.to_dicts()).result()
    log["appended"].append(frame)
    log["appended"].append(frame)
    assert log["typed"].offsets() == log["appended"].offsets()
    a, b = (log[name].scan().collect().sort("symbol", "price") for name in ("typed", "appended"))
    assert a.equals(b)


def test_what_does_not_fit_a_typed_topic_is_refused_at_once(log: Log, producer: Producer):
    producer.create_topic("typed", 4, schema=SPEC)
    for send, says in (
        (lambda: producer.send("typed", "text"), "takes rows, as dicts"),
        (lambda: producer.send("typed", {"prise": 1.0}), "did you mean 'price'"),
        (lambda: producer.send("typed", {"price": "1"}), "price"),
        (lambda: producer.send("typed", {"price": 1.0}, key="a"), "a row has no key"),
        (lambda: producer.send("typed", {"price": 1.0}, delay="1s", priority=1), "no delay or priority"),
        (lambda: producer.send_many("typed", [{"price": 1.0}], keys=["a"]), "a row has no key"),
        (lambda: producer.send_many("typed", pl.DataFrame({"x": [1]})), "x"),
    ):
        with pytest.raises(InvalidInput, match=says):
            send()
    producer.flush()
    assert log["typed"].offsets() == dict.fromkeys(range(4), (0, 0))


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"value": object()}, InvalidInput, "cannot hold this object"),
        ({"value": (1, 2)}, InvalidInput, "cannot hold"),
        ({"value": "\ud800"}, InvalidInput, "not Unicode"),
        ({"value": 2**70}, InvalidInput, "cannot hold"),
        ({"value": b"x" * 101}, InvalidInput, "larger than 100"),
        ({"value": b"x" * 90, "key": "k" * 20}, InvalidInput, "larger than 100"),
        ({"value": b"x" * 90, "headers": {"k" * 10: "v" * 10}}, InvalidInput, "larger than 100"),
        ({"key": 1.5}, InvalidInput, "a key is"),
        ({"headers": {"a": 1}}, InvalidInput, "not text"),
        ({"headers": ["a"]}, InvalidInput, "pass a dict"),
        ({"event_type": 3}, InvalidInput, "an event type is text"),
        ({"priority": 10}, InvalidInput, "choose 0 to 9"),
        ({"priority": -1}, InvalidInput, "choose 0 to 9"),
        ({"priority": True}, InvalidInput, "choose 0 to 9"),
        ({"priority": 0.0}, InvalidInput, "choose 0 to 9"),
        ({"priority": None}, InvalidInput, "choose 0 to 9"),
        ({"partition": 4}, PartitionNotFound, "it has 4, counted from 0"),
        ({"partition": -1}, PartitionNotFound, "it has 4"),
        ({"partition": "partition-1"}, InvalidInput, "a partition is a number"),
        ({"delay": 5}, InvalidInput, "has no unit"),
        ({"delay": "-5s"}, InvalidInput, "negative"),
        ({"delay": "5s", "at": datetime(2030, 1, 1)}, InvalidInput, "give one of them"),
        ({"at": 5}, InvalidInput, "is a datetime"),
        ({"timestamp": "yesterday"}, InvalidInput, "ISO 8601"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_once_and_nothing_is_sent(
    log: Log, options: dict[str, Any], error: type[Exception], says: str
):
    with Producer(log, max_message_bytes=100) as producer:
        producer.create_topic("t")
        value = options.pop("value", "v")
        with pytest.raises(error, match=re.escape(says)):
            producer.send("t", value, **options)
        many = {**options}
        if "key" in many:
            many["keys"] = [many.pop("key")]
        if not ("headers" in many and isinstance(value, bytes)):
            with pytest.raises(error, match=re.escape(says)):
                producer.send_many("t", [value], **many)
        with pytest.raises(error), producer.transaction() as tx:
            tx.send("t", "good")
            tx.send("t", value, **options)
        producer.flush()
    assert log["t"].offsets() == dict.fromkeys(range(4), (0, 0))


def test_a_topic_that_is_not_there_is_a_clear_error(producer: Producer):
    producer.create_topic("orders")
    with pytest.raises(TopicNotFound, match="did you mean 'orders'"):
        producer.send("order", "x")
    with pytest.raises(TopicNotFound, match="did you mean 'orders'"):
        producer.send_many("order", ["x"])
    for name in (None, 5, ["orders"], "../x", ""):
        with pytest.raises(InvalidName):
            producer.send(name, "x")


@pytest.mark.parametrize(
    ("values", "options", "says"),
    [
        ("text", {}, "takes a list of values"),
        ({"a": 1}, {}, "takes a list of values"),
        (5, {}, "takes a list of values"),
        (["a"], {"keys": ["a", "b"]}, "2 keys for 1 values"),
        (["a"], {"keys": "a"}, "keys= is a list"),
        (["a"], {"keys": [1.5]}, "a key is"),
        (pl.Series([1, 2]), {}, "is text or bytes"),
        (pl.DataFrame({"text": ["a"]}), {}, "no column 'text'"),
        (pl.DataFrame({"key": ["a"]}), {}, "no column 'value'"),
        (
            pl.DataFrame({"value": ["a"], "priority": [10]}, schema_overrides={"priority": pl.UInt8}),
            {},
            "a priority is 0 to 9",
        ),
        (pl.DataFrame({"value": ["a"], "kind": [3]}, schema_overrides={"kind": pl.UInt8}), {}, "a kind is"),
        (pl.DataFrame({"value": ["a"]}), {"keys": ["k"]}, "in a column 'key'"),
    ],
)
def test_many_that_cannot_be_sent_are_refused_at_once(log: Log, values: Any, options: Any, says: str):
    with Producer(log) as producer:
        producer.create_topic("t", 1)
        with pytest.raises(InvalidInput, match=re.escape(says)):
            producer.send_many("t", values, **options)
    assert log["t"].offsets() == {0: (0, 0)}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"linger": 5}, "has no unit"),
        ({"batch_bytes": 0}, "batch_bytes"),
        ({"max_buffer_bytes": None}, "max_buffer_bytes"),
        ({"max_message_bytes": 1 << 30}, "at most"),
        ({"name": "a/b"}, "producer name"),
    ],
)
def test_a_producer_that_cannot_be_right_is_refused_at_once(log: Log, options: Any, says: str):
    with pytest.raises(InvalidInput, match=says):
        Producer(log, **options)


# --- routing -------------------------------------------------------------------------------------------------------


def test_a_policy_routes_what_is_sent_after_it_was_set(log: Log, producer: Producer):
    producer.create_topic("my-topic")
    before = [producer.send("my-topic", n) for n in range(5)]
    policy = RoutingPolicy()
    policy.add_rule("my-topic", "partition-1")
    policy.add_rule("my-topic", 2, when=FilterRule().add_condition("to", "two"))
    producer.set_routing_policy(policy)
    policy.add_rule("my-topic", "partition-9")
    after = [producer.send("my-topic", n, key=str(n)) for n in range(5)]
    two = producer.send("my-topic", "x", headers={"to": "two"})
    said = producer.send("my-topic", "x", headers={"to": "two"}, partition=3)
    many = producer.send_many("my-topic", ["a", "b"], headers={"to": "two"})
    producer.flush()
    assert len({handle.result().partition for handle in before}) == 1
    assert {handle.result().partition for handle in after} == {1}
    assert two.result().partition == 2 and said.result().partition == 3 and set(many.result()) == {2}
    producer.set_routing_policy(None)
    spread = {producer.send("my-topic", n, key=str(n)).result().partition for n in range(40)}
    assert len(spread) == 4


def test_a_policy_that_names_an_unknown_partition_is_refused_when_it_is_set_or_when_the_topic_is_known(
    producer: Producer,
):
    producer.create_topic("t")
    with pytest.raises(PartitionNotFound):
        producer.set_routing_policy(RoutingPolicy().add_rule("t", "partition-4"))
    producer.set_routing_policy(RoutingPolicy().add_rule("later", "partition-4"))
    producer.create_topic("later")
    with pytest.raises(PartitionNotFound):
        producer.send("later", "x")
    with pytest.raises(InvalidInput, match="is a RoutingPolicy"):
        producer.set_routing_policy("partition-1")


def test_a_policy_that_is_set_while_a_topic_is_looked_up_holds_for_it(log: Log):
    class Racing(Log):
        meanwhile: Any = None

        def lsn(self) -> int:
            act, self.meanwhile = self.meanwhile, None
            if act is not None:
                act()
            return super().lsn()

    racing = Racing(log._store)
    with Producer(racing, linger="1h") as producer:
        producer.create_topic("t", 4)
        policy = RoutingPolicy().add_rule("t", 3)
        racing.meanwhile = lambda: producer.set_routing_policy(policy)
        assert producer.send("t", "a", key="b").result().partition == 3


def test_a_function_routes_messages_rows_and_many(log: Log, producer: Producer):
    producer.create_topic("t")
    producer.create_topic("typed", 4, schema=SPEC)
    policy = RoutingPolicy().add_rule("t", lambda message: message.value % 4)
    policy.add_rule("typed", lambda message: int(message.value["price"]))
    producer.set_routing_policy(policy)
    assert producer.send("t", 6).result().partition == 2
    assert producer.send_many("t", [1, 2, 3, 5]).result() == {1: (0, 2), 2: (1, 2), 3: (0, 1)}
    assert producer.send("typed", {"price": 3.0}).result().partition == 3
    with pytest.raises(InvalidInput, match="routing function raised TypeError"):
        producer.send("t", "text")
    with pytest.raises(PartitionNotFound):
        producer.send_many("typed", [{"price": 1.0}, {"price": 4.0}])
    producer.flush()
    assert sum(end for _, end in log["typed"].offsets().values()) == 1


def test_messages_without_a_key_take_turns_batch_by_batch(log: Log, producer: Producer):
    producer.create_topic("t")
    seen = []
    for _ in range(8):
        handles = [producer.send("t", n) for n in range(3)]
        (partition,) = {handle.result().partition for handle in handles}
        seen.append(partition)
    assert sorted(seen[:4]) == sorted(seen[4:]) == [0, 1, 2, 3]


# --- priorities ----------------------------------------------------------------------------------------------------


def noted(log: Log, topic: str = "t") -> Any:
    value = log.record("priorities", str(log[topic].number))
    return None if value is None else msgpack.unpackb(value, strict_map_key=False)


def test_the_first_message_of_a_priority_notes_where_it_can_begin(log: Log, producer: Producer):
    producer.create_topic("t", 2)
    producer.send_many("t", ["x"] * 10, partition=0).result()
    assert noted(log) is None
    producer.send("t", "urgent", priority=5, partition=1).result()
    assert noted(log) == {5: {0: 10, 1: 0}}
    producer.send("t", "urgent", priority=5).result()
    producer.send_many("t", ["x"] * 3, priority=7, partition=0).result()
    first = noted(log)
    assert first[5] == {0: 10, 1: 0} and set(first) == {5, 7}
    with Producer(log) as other:
        other.send("t", "x", priority=5).result()
        assert noted(log) == first
        other.send("t", "x", priority=9).result()
    assert set(noted(log)) == {5, 7, 9}


def test_two_that_use_a_priority_first_at_the_same_moment_agree(log: Log):
    flaky = FlakyLog(log)
    with Producer(log, linger="1h") as a, Producer(flaky, linger="1h") as b:
        a.create_topic("t", 1)

        class Race(Exception):
            pass

        # While b holds what it read, a commits first.
        real = flaky.transaction
        raced = []

        def transaction() -> Any:
            found = real()
            commit = found.commit

            def first_a() -> None:
                if not raced:
                    raced.append(True)
                    a.send("t", "a", priority=3).result()
                commit()

            found.commit = first_a
            return found

        flaky.transaction = transaction
        sent = b.send("t", "b", priority=4)
        assert sent.result().offset == 1
    assert noted(log) == {3: {0: 0}, 4: {0: 1}}


def test_a_note_that_would_be_too_large_says_less(log: Log, producer: Producer):
    producer.create_topic("t", 1000)
    producer.send("t", "x", priority=1).result()
    producer.send("t", "x", priority=2).result()
    assert noted(log) == {1: {}, 2: {}}


# --- transactions ----------------------------------------------------------------------------------------------------


def test_a_transaction_is_all_or_nothing_and_comes_after_what_was_sent_before(log: Log, producer: Producer):
    producer.create_topic("t", 1)
    producer.create_topic("typed", 1, schema=SPEC)
    before = producer.send("t", "before")
    lsn = log.lsn()
    with producer.transaction() as tx:
        sent = tx.send("t", "one", key="k")
        many = tx.send_many("t", ["two", "three"])
        rows_ = tx.append("typed", pl.DataFrame({"symbol": ["a"], "price": [1.0]}))
        row = tx.send("typed", {"symbol": "b", "price": 2.0})
        tx.commit_offsets("group", {("t", 0): 1})
        assert not sent.done() and log.lsn() == lsn
        with pytest.raises(MambaStreamError, match="when its transaction's block ends"):
            sent.result()
    assert log.lsn() == lsn + 2
    assert before.result().offset == 0
    assert sent.result() == Receipt("t", 0, 1)
    assert many.result() == {0: (2, 4)} and rows_.result() == {0: (0, 1)} and row.result().offset == 1
    assert log.group_offsets("group") == {("t", 0): 1}
    assert [r["value"] for r in rows(log)] == ["before", "one", "two", "three"]
    with pytest.raises(MambaStreamError, match="is over"):
        tx.send("t", "late")


def test_a_transaction_whose_block_fails_sends_nothing(log: Log, producer: Producer):
    producer.create_topic("t", 1)
    with pytest.raises(KeyError), producer.transaction() as tx:
        tx.send("t", "x")
        raise KeyError
    with producer.transaction() as tx:
        tx.send("t", "x")
        tx.abort()
    with producer.transaction() as tx:
        pass
    with pytest.raises(InvalidInput), producer.transaction() as tx:
        tx.send("t", "x")
        tx.commit_offsets("group", {("t", 0): -1})
    producer.flush()
    assert log["t"].offsets() == {0: (0, 0)}


def test_a_transaction_that_is_refused_leaves_nothing_and_is_heard_of_once(log: Log, producer: Producer):
    producer.create_topic("t", 1)
    producer.create_topic("ended", 1)
    log["ended"].end()
    with pytest.raises(MambaStreamError, match="was ended"), producer.transaction() as tx:
        sent = tx.send("t", "x")
        tx.send("ended", "x")
    with pytest.raises(MambaStreamError, match="was ended"):
        sent.result()
    producer.send("t", "y").result()
    producer.flush()
    assert [r["value"] for r in rows(log)] == ["y"]


def test_a_transaction_that_may_have_happened_lands_once(log: Log):
    flaky = FlakyLog(log)
    with Producer(flaky) as producer:
        producer.create_topic("t", 3)
        producer.create_topic("u", 3)
        flaky.plan = [("after", CommitUnknown("?")), ("before", CommitUnknown("?"))]
        with producer.transaction() as tx:
            for n in range(10):
                tx.send("t", n, key=str(n))
                tx.send("u", n, key=str(n))
    assert (
        sorted(r["value"] for r in rows(log)) == sorted(r["value"] for r in rows(log, "u")) == list(range(10))
    )


def test_what_is_sent_beside_a_sequence_is_not_taken_for_a_gap(log: Log):
    with Producer(log, name="feed", linger="1h") as producer:
        producer.create_topic("t", 1)
        producer.send("t", "a")
        for number in range(3):
            producer.send_many("t", [number], sequence=number)
            producer.send("t", "b").result()
    assert [row["value"] for row in rows(log)] == ["a", 0, "b", 1, "b", 2, "b"]


def test_a_handle_of_a_transaction_that_never_was_says_so(log: Log, producer: Producer):
    producer.create_topic("t", 1)
    with producer.transaction() as tx:
        aborted = tx.send("t", "a")
        tx.abort()
    with pytest.raises(MambaStreamError, match="aborted"):
        aborted.result(0)
    late = producer.transaction()
    many = late.send_many("t", ["b", "c"])
    producer.close()
    with pytest.raises(MambaStreamError, match="was closed"):
        late.commit()
    with pytest.raises(MambaStreamError, match="not committed"):
        many.result(0)
    assert rows(log) == []


def test_text_that_is_none_is_refused_at_once_wherever_it_stands(log: Log, producer: Producer):
    producer.create_topic("t", 1)
    neighbour = producer.send("t", "fine")
    wrong: list[dict[str, Any]] = [{"event_type": HALF}, {"headers": {HALF: "x"}}, {"headers": {"x": HALF}}]
    for options in (*wrong, {"key": HALF}):
        with pytest.raises(InvalidInput, match="not Unicode"):
            producer.send("t", "a", **options)
    for options in (*wrong, {"keys": [HALF]}):
        with pytest.raises(InvalidInput, match="not Unicode"):
            producer.send_many("t", ["a"], **options)
    assert neighbour.result().offset == 0
    assert [row["value"] for row in rows(log)] == ["fine"]


def test_a_key_is_refused_at_once_where_there_are_more_partitions_than_hashes_have(
    log: Log, producer: Producer
):
    producer.create_topic("t", 300)
    nobody = producer.send("t", "no key")
    for send in (
        lambda: producer.send("t", "a", key="k"),
        lambda: producer.send_many("t", ["a", "b"], keys=[None, "k"]),
    ):
        with pytest.raises(InvalidInput, match="at most 256"):
            send()
    assert producer.send("t", "a", key="k", partition=299).result().partition == 299
    assert nobody.result().offset == 0
    producer.set_routing_policy(RoutingPolicy().add_rule("t", "round-robin"))
    producer.send("t", "a", key="k").result()


def test_the_largest_message_is_as_large_among_many_as_by_itself(log: Log):
    with Producer(log, linger="1h", max_message_bytes=1_000) as producer:
        producer.create_topic("t", 1)
        producer.create_topic("rows", 1, schema={"text": pl.String, "more": pl.List(pl.String)})
        fits = "x" * 1_000
        assert len(producer.send_many("t", [fits] * 50)) == 50
        producer.send("t", fits)
        wrong: list[Any] = [
            ("t", [fits] * 20 + ["x" * 1_001] + [fits] * 20, {}),
            ("t", ["x"] * 50, {"headers": {"h": b"x" * 1_000}}),
            ("t", ["x"] * 50, {"event_type": fits}),
            ("t", pl.DataFrame({"value": ["x"] * 9, "event_type": ["y"] * 8 + [fits]}), {}),
            ("rows", [{"text": "x", "more": []}] * 70 + [{"text": "x", "more": ["x" * 500] * 3}], {}),
        ]
        for topic, many, options in wrong:
            with pytest.raises(InvalidInput, match="is larger than 1000"):
                producer.send_many(topic, many, **options)
        assert len(producer.send_many("rows", [{"text": "x" * 900, "more": []}] * 50)) == 50
    assert log["t"].offsets() == {0: (0, 51)}
    assert log["rows"].offsets() == {0: (0, 50)}


def test_what_is_sent_is_what_the_frame_held_then(log: Log, producer: Producer):
    producer.create_topic("rows", 1, schema={"price": pl.Float64})
    producer.create_topic("t", 1)
    for frame in (lambda a: pl.DataFrame({"price": a}), lambda a: pa.table({"price": a})):
        memory = np.zeros(100)
        producer.send_many("rows", frame(memory))
        memory[:] = 7.0
    priorities = np.zeros(100, np.uint8)
    producer.send_many("t", pl.DataFrame({"value": ["x"] * 100, "priority": priorities}))
    priorities[:] = 7
    producer.flush()
    assert log["rows"].scan().collect()["price"].to_list() == [0.0] * 200
    assert {row["priority"] for row in rows(log)} == {0}


def test_numpy_arrays_are_lists_of_values(log: Log, producer: Producer):
    producer.create_topic("t", 1)
    producer.send_many("t", np.array(["a", "b"]), keys=np.array([1, 2]))
    producer.send_many("t", np.array([1.5, 2.5]), keys=np.array(["x", "y"]))
    with pytest.raises(InvalidInput, match="datetime"):
        producer.send_many("t", np.array(["2020-01-01"], "datetime64[us]"))
    producer.flush()
    assert [(row["value"], row["key"]) for row in rows(log)] == [("a", 1), ("b", 2), (1.5, "x"), (2.5, "y")]


def test_a_delay_beyond_the_end_of_time_is_its_end(log: Log, producer: Producer):
    producer.create_topic("t", 1)
    producer.send("t", "a", delay=timedelta(microseconds=(1 << 63) - 1)).result()
    assert rows(log)[0]["deliver_at"] == (1 << 63) - 1


def test_another_process_may_be_faster_with_other_partitions(log: Log):
    class Slow(Log):
        def __contains__(self, name: object) -> bool:
            found = super().__contains__(name)
            if not found:
                log.create_topic(str(name), MESSAGES, partitions=7, time="time")
            return found

    with Producer(Slow(log._store)) as producer:
        assert producer.create_topic("t").partitions == 7


def test_a_sequence_lands_once_under_the_producers_name(log: Log):
    for _ in range(2):
        with Producer(log, name="loader") as producer:
            producer.create_topic("t", 2)
            for number in range(3):
                found = producer.send_many("t", [f"{number}.{k}" for k in range(4)], sequence=number).result()
                assert found == producer.send_many("t", ["?"] * 4, sequence=number).result()
                with producer.transaction(sequence=number) as tx:
                    tx.send("t", "?")
    assert sorted(r["value"] for r in rows(log)) == [f"{n}.{k}" for n in range(3) for k in range(4)]
    with Producer(log) as producer, pytest.raises(InvalidInput, match="Producer\\(name="):
        producer.send_many("t", ["x"], sequence=0)
    with Producer(log, name="x") as producer, pytest.raises(InvalidInput, match="sequence="):
        producer.transaction(sequence=-1)


def test_statistics_say_what_was_sent(log: Log, producer: Producer):
    producer.create_topic("t", 1)
    producer.send("t", "x" * 100)
    waiting = producer.statistics()
    assert (waiting.waiting, waiting.sent) == (1, 0) and waiting.waiting_bytes >= 100
    producer.flush()
    sent = producer.statistics()
    assert (sent.waiting, sent.waiting_bytes, sent.sent, sent.failed, sent.commits) == (0, 0, 1, 0, 1)
    assert sent.sent_bytes == waiting.waiting_bytes
    assert "Producer(" in repr(producer) and MESSAGES.names[0] == "key"
