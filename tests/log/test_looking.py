"""Looking at several things together comes to what each comes to by itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest

from mamba_stream.errors import InvalidInput, TopicNotFound
from mamba_stream.log import Log
from mamba_stream.log.batch import LogBatch


def put(log: Log, **records: bytes) -> None:
    with log.transaction() as tx:
        for key, value in records.items():
            tx.put_record("space", key, value)


def values(batches: list[LogBatch]) -> list[int]:
    return [n for batch in batches for n in batch.data.column("n").to_pylist()]


def test_each_answer_is_that_of_the_call_of_its_own(log: Log) -> None:
    topic = log.create_topic("numbers", {"n": pl.Int64}, partitions=3)
    topic.append({"n": [1, 2]}, partition=1)
    put(log, b=b"2", a=b"1")
    look = log.look()
    offsets, records = look.offsets(topic), look.records("space")
    there, absent, none = look.record("space", "a"), look.record("space", "c"), look.records("nothing")
    assert offsets.get() == topic.offsets() == {0: (0, 0), 1: (0, 2), 2: (0, 0)}
    assert list(records.get().items()) == [("a", b"1"), ("b", b"2")]
    assert (there.get(), absent.get(), none.get(), none.first()) == (b"1", None, {}, None)


def test_what_was_looked_at_stays_what_it_was(log: Log) -> None:
    topic = log.create_topic("numbers", {"n": pl.Int64})
    put(log, b=b"1")
    look = log.look()
    offsets, records, one = look.offsets(topic), look.records("space"), look.record("space", "b")
    assert (offsets.get(), records.get(), one.get()) == ({0: (0, 0)}, {"b": b"1"}, b"1")
    put(log, a=b"0", b=b"2")
    topic.append({"n": [1]})
    assert (offsets.get(), records.get(), one.get()) == ({0: (0, 0)}, {"b": b"1"}, b"1")
    assert records.first() == "b"


def test_the_first_of_records_is_known_without_the_others(log: Log) -> None:
    put(log, b=b"2", a=b"1")
    records = log.look().records("space")
    assert records.first() == "a"
    assert [*records.get()] == ["a", "b"]


def test_rows_that_come_along_are_those_of_the_topic_and_a_reader_has_the_rest(log: Log) -> None:
    topic = log.create_topic("numbers", {"n": pl.Int64}, partitions=2)
    for at in range(0, 100, 10):
        topic.append({"n": [*range(at, at + 10)]}, partition=0)
    topic.append({"n": [1000, 1001]}, partition=1)
    for most in (0, 1, 35, 1_000):
        rows = log.look().rows(topic, {1: 1, 0: 15}, most, 1 << 20).get()
        for partition, position, wanted in ((0, 15, [*range(15, 100)]), (1, 1, [1001])):
            came = rows.get(partition, [])
            assert not came or came[0].offset == position
            behind = came[-1].next_offset if came else position
            reader = topic.reader(start={partition: behind}, partitions=[partition])
            rest: list[LogBatch] = []
            while batches := reader.poll():
                rest += batches
            assert values(came) + values(rest) == wanted


def test_rows_that_are_gone_do_not_come_and_harm_nothing(log: Log) -> None:
    topic = log.create_topic("numbers", {"n": pl.Int64})
    topic.append({"n": [1, 2, 3]})
    topic.trim(2)
    look = log.look()
    rows, offsets = look.rows(topic, {0: 0}, 10, 1 << 20), look.offsets(topic)
    assert rows.get() == {}
    assert offsets.get() == {0: (2, 3)}


def test_a_topic_that_was_deleted_is_named_and_the_others_are_answered(log: Log) -> None:
    topic = log.create_topic("numbers", {"n": pl.Int64})
    put(log, a=b"1")
    log.delete_topic("numbers")
    look = log.look()
    rows, offsets, record = (
        look.rows(topic, {0: 0}, 10, 1 << 20),
        look.offsets(topic),
        look.record("space", "a"),
    )
    assert rows.get() == {}
    assert record.get() == b"1"
    for _ in range(2):
        with pytest.raises(TopicNotFound, match="numbers"):
            offsets.get()


def test_names_that_no_record_can_have_are_refused_where_they_are_asked(log: Log) -> None:
    with pytest.raises(InvalidInput, match="namespace and key"):
        log.look().records("")
    with pytest.raises(InvalidInput, match="namespace and key"):
        log.look().record("space", "a\0b")


def test_a_look_that_waits_for_a_commit_sees_what_came_with_it(log: Log) -> None:
    topic = log.create_topic("numbers", {"n": pl.Int64})
    before = log.lsn()
    look = log.look(before, 3_600.0)
    lsn, offsets = look.lsn(), look.offsets(topic)
    with ThreadPoolExecutor(1) as waiting:
        found = waiting.submit(lambda: (lsn.get(), offsets.get()))
        # Whether this comes before the wait or in it: the look is behind it.
        topic.append({"n": [1]})
        assert found.result(30) == (before + 1, {0: (0, 1)})


def test_a_look_does_not_wait_for_what_was_there_nor_beyond_its_time(log: Log) -> None:
    log.create_topic("numbers", {"n": pl.Int64})
    assert log.look(log.lsn() - 1, 3_600.0).lsn().get() == log.lsn()
    assert log.look(log.lsn(), 0.0).lsn().get() == log.lsn()
    assert log.look().lsn().get() == log.lsn()
