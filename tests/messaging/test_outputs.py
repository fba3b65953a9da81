"""What is sent in a message's transaction is what a producer would have sent, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.log import Log, open_log
from mamba_stream.messaging.priorities import priorities_of
from mamba_stream.messaging.schema import MESSAGES


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with open_log(tmp_path / "log") as opened, mamba.Producer(opened) as producer:
        producer.create_topic("asked", partitions=1)
        producer.create_topic("told", partitions=4)
        producer.send("asked", "go")
        producer.flush()
        yield opened


def answer(log: Log, step: Callable[[Any], None], receive: str) -> None:
    """Does a step in the transaction of the one message, as a subscriber or as a consumer has it."""
    if receive == "subscriber":

        def call(message: mamba.Message) -> None:
            with message.transaction() as tx:
                step(tx)

        with mamba.Subscriber("asked", log, group="g", start="earliest", attempts=1) as subscriber:
            subscriber.subscribe(call)
            subscriber.run(until="empty")
        return
    with mamba.Consumer(log, group="g") as consumer:
        consumer.subscribe("asked")
        for message in consumer.consume(until="empty"):
            with message.transaction() as tx:
                step(tx)


def told(log: Log) -> list[mamba.Message]:
    with mamba.Consumer(log) as consumer:
        consumer.subscribe("told")
        return list(consumer.consume(until="empty"))


both = pytest.mark.parametrize("receive", ["subscriber", "consumer"])


@both
def test_it_is_what_a_producer_would_have_sent(log: Log, receive: str) -> None:
    sent: list[tuple[Any, dict[str, Any]]] = [
        ("text", {}),
        (b"bytes", {"partition": 2}),
        ({"a": [1, None]}, {"key": "ada", "headers": {"h": "v", "b": b"\xff"}, "event_type": "e"}),
        (None, {"key": 7, "timestamp": "2026-01-01T00:00:00Z"}),
        ("later", {"key": b"k", "at": "2026-01-02T00:00:00Z"}),
    ]

    def step(tx: Any) -> None:
        for value, options in sent:
            tx.send("told", value, **options)

    answer(log, step, receive)
    ours = told(log)
    with mamba.Producer(log) as producer:
        for value, options in sent:
            producer.send("told", value, **options)
    everything = told(log)

    def facts(messages: list[mamba.Message]) -> list[Any]:
        return sorted(
            repr(
                (
                    m.value,
                    m.key,
                    m.headers,
                    m.event_type,
                    m.partition if m.key is not None or m.value == b"bytes" else None,
                )
            )
            for m in messages
        )

    assert facts(everything) == sorted(2 * facts(ours))
    rows = log["told"].scan().collect()
    assert rows["deliver_at"].drop_nulls().n_unique() == 1
    assert rows["deliver_at"].drop_nulls().len() == 2


@both
def test_nothing_is_sent_where_the_step_fails(log: Log, receive: str) -> None:
    def step(tx: Any) -> None:
        tx.send("told", "never")
        raise ZeroDivisionError

    if receive == "consumer":
        with pytest.raises(ZeroDivisionError):
            answer(log, step, receive)
        assert log.group_offsets("g") == {("asked", 0): 0}
    else:
        answer(log, step, receive)
        assert log["asked.dead"].scan().collect().height == 1
    assert told(log) == []


@both
def test_what_is_more_urgent_is_delivered_first(log: Log, receive: str) -> None:
    def step(tx: Any) -> None:
        for priority in (0, 3, 9, 3):
            tx.send("told", priority, priority=priority, partition=1)

    answer(log, step, receive)
    order: list[int] = []
    with mamba.Subscriber("told", log, group="urgent", start="earliest") as subscriber:
        subscriber.subscribe(lambda message: order.append(message.value))
        subscriber.run(until="empty")
    assert order == [9, 3, 3, 0]


@both
def test_a_priority_that_somebody_else_notes_meanwhile_refuses_nothing(log: Log, receive: str) -> None:
    def step(tx: Any) -> None:
        tx.send("told", "ours", priority=4)
        with mamba.Producer(log) as producer:
            producer.send("told", "theirs", priority=5)

    answer(log, step, receive)
    assert {message.value: message.priority for message in told(log)} == {"ours": 4, "theirs": 5}
    assert set(priorities_of(log, log["told"].number)) == {0, 4, 5}


def test_a_typed_topic_takes_rows(log: Log) -> None:
    log.create_topic("typed", {"n": pl.Int64}, key="n", partitions=2)
    answer(log, lambda tx: [tx.send("typed", {"n": n}) for n in range(10)], "subscriber")
    assert sorted(log["typed"].scan().collect()["n"]) == list(range(10))
    plain = log.create_topic("plain", {"n": pl.Int64}, key="n", partitions=2)
    plain.append(pl.DataFrame({"n": range(10)}))
    assert log["typed"].offsets() == plain.offsets()


@pytest.mark.parametrize(
    ("send", "error"),
    [
        (lambda tx: tx.send("nowhere", "x"), mamba.TopicNotFound),
        (lambda tx: tx.send("told", {1}), mamba.InvalidInput),
        (lambda tx: tx.send("told", "x", partition=4), mamba.PartitionNotFound),
        (lambda tx: tx.send("told", "x", priority=10), mamba.InvalidInput),
    ],
    ids=["no topic", "no value", "no partition", "no priority"],
)
def test_what_cannot_be_sent_is_refused_where_it_is_sent_and_the_rest_goes_on(
    log: Log, send: Callable[[Any], None], error: type[Exception]
) -> None:
    def step(tx: Any) -> None:
        with pytest.raises(error):
            send(tx)
        tx.send("told", "this")

    answer(log, step, "consumer")
    assert [message.value for message in told(log)] == ["this"]


def test_it_has_the_schema_of_messages(log: Log) -> None:
    answer(log, lambda tx: tx.send("told", "x"), "consumer")
    assert next(iter(log["told"].read())).data.schema == MESSAGES
