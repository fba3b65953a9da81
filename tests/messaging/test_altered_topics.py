"""Queues over topics that are altered: who sends and who receives goes on, and dead letters have what their topic has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream import Consumer, Log, Producer
from mamba_stream.messaging import redrive
from mamba_stream.messaging.letters import letters
from tests.messaging.desk import HandClock, Sent, member, message_topic, messages, rows

ROWS = {"n": pl.Int32, "s": pl.String}
WIDER = {"n": pl.Int64, "s": pl.String, "note": pl.String}


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with mamba.open(tmp_path / "log") as opened:
        yield opened


def consumed(consumer: Consumer) -> list[Any]:
    return [message.value for message in consumer.consume(until="empty")]


def test_messages_go_on_in_a_topic_that_got_more_columns(log: Log) -> None:
    with Producer(log) as producer, Consumer(log) as before:
        producer.create_topic("work")
        before.subscribe("work")
        producer.send("work", "first").result()
        assert consumed(before) == ["first"]
        log.alter_topic("work", add={"tenant": pl.String})
        producer.send("work", {"second": 2}).result()
        with Producer(log) as later, Consumer(log) as after:
            later.create_topic("work")
            later.send("work", "third").result()
            after.subscribe("work")
            # Partitions take turns.
            assert sorted(map(str, consumed(after))) == ["first", "third", "{'second': 2}"]
        assert sorted(map(str, consumed(before))) == ["third", "{'second': 2}"]
    assert log["work"].scan().collect()["tenant"].null_count() == 3


def test_rows_go_on_in_a_typed_topic_whoever_knows_of_which_columns(log: Log) -> None:
    log.create_topic("typed", ROWS)
    with Producer(log) as early, Consumer(log) as before:
        before.subscribe("typed")
        early.send("typed", {"n": 1, "s": "x"}).result()
        assert consumed(before) == [{"n": 1, "s": "x"}]
        log.alter_topic("typed", schema=WIDER)
        early.send("typed", {"n": 2, "s": "y"}).result()
        with Producer(log) as late, Consumer(log) as after:
            late.send("typed", {"n": 3, "s": "z", "note": "new"}).result()
            after.subscribe("typed")
            assert consumed(after) == [
                {"n": 1, "s": "x", "note": None},
                {"n": 2, "s": "y", "note": None},
                {"n": 3, "s": "z", "note": "new"},
            ]
        assert [{"n": each["n"], "s": each["s"]} for each in consumed(before)] == [
            {"n": 2, "s": "y"},
            {"n": 3, "s": "z"},
        ]


def _give_up(log: Log, clock: HandClock, topic: str, session: int) -> None:
    group = member(log, session, clock, topic=topic)
    while leases := group.take(100):
        for message in messages(leases):
            message.reject("no use for it")
        group.settle(leases)


def test_dead_letters_get_the_columns_of_their_topic_and_go_back_to_it(log: Log) -> None:
    clock = HandClock()
    topic = log.create_topic("typed", ROWS)
    topic.append([{"n": 1, "s": "x"}])
    _give_up(log, clock, "typed", 1)
    altered = log.alter_topic("typed", schema=WIDER)
    altered.append([{"n": 2**40, "s": "y", "note": "new"}])
    _give_up(log, clock, "typed", 2)
    assert {*log["typed.dead"].schema.names} == {*WIDER, "_dead"}
    assert [each.value["note"] for each in letters(log, "typed.dead")] == [None, "new"]
    assert redrive.redrive(log, "typed.dead").letters == 2
    assert log["typed"].scan().collect().rows()[2:] == [(1, "x", None), (2**40, "y", "new")]


def test_letters_of_messages_go_back_to_a_topic_that_was_altered_since(log: Log) -> None:
    clock = HandClock()
    message_topic(log).append(rows([Sent("x"), Sent("y")]))
    _give_up(log, clock, "work", 1)
    log.alter_topic("work", add={"tenant": pl.String})
    assert redrive.redrive(log, "work.dead").letters == 2
    log["work"].append(rows([Sent("z")]))
    _give_up(log, clock, "work", 2)
    assert sorted(each.value for each in letters(log, "work.dead")) == ["x", "y", "z"]
    assert "tenant" in log["work.dead"].schema.names
