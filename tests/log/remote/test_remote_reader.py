"""Reading from a server: what comes is what a directory gives, in turns, however it was cut on its way."""

from __future__ import annotations

import os

import polars as pl
import pytest

from mamba_stream.errors import DataCorrupted, OffsetTrimmed, TopicNotFound
from mamba_stream.log import Log, Topic
from mamba_stream.log.remote import reader as readers
from tests.log.pictures import rows_of


def wide(log: Log, batches: int, size: int) -> Topic:
    topic = log.create_topic("wide", {"n": pl.Int64, "b": pl.Binary}, partitions=3)
    for n in range(batches):
        with log.transaction() as tx:
            for partition in range(3):
                tx.append("wide", [{"n": n, "b": os.urandom(size)}], partition=partition)
    return topic


@pytest.mark.parametrize("size", [10, 70_000])
@pytest.mark.parametrize("max_rows", [1, 5, 1_000])
def test_every_row_of_every_partition_comes_once_and_in_order(log: Log, size: int, max_rows: int) -> None:
    topic = wide(log, 30, size)
    reader, seen = topic.reader(columns=["n"]), {0: [], 1: [], 2: []}
    while batches := reader.poll(max_rows=max_rows):
        for batch in batches:
            assert batch.offset == len(seen[batch.partition])
            seen[batch.partition] += batch.data["n"].to_pylist()
    assert seen == {partition: list(range(30)) for partition in range(3)}
    assert reader.at_end


def test_partitions_take_turns_over_batches_that_are_sent_together(log: Log) -> None:
    reader = wide(log, 5, 10).reader()
    assert [reader.poll(max_rows=1)[0].partition for _ in range(15)] == [0, 1, 2] * 5


def test_what_was_appended_after_a_stream_began_comes_with_the_next_poll(log: Log) -> None:
    topic = wide(log, 2, 10)
    reader = topic.reader()
    assert sum(batch.data.num_rows for batch in reader.poll()) == 6
    for n in range(5):
        topic.append([{"n": n, "b": b""}], partition=1)
        [batch] = reader.poll()
        assert (batch.partition, batch.offset) == (1, 2 + n)
    assert reader.poll() == []


def test_a_read_is_made_of_as_many_streams_as_it_takes(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "WINDOW_BYTES", 100_000)
    topic = wide(log, 20, 20_000)
    assert [n for p, _, (n, _) in rows_of(topic) if p == 2] == list(range(20))
    assert len(topic.read(max_rows=1).__next__().data) == 1


def test_rows_that_were_trimmed_before_they_came_are_an_error_and_no_gap(log: Log) -> None:
    topic = wide(log, 4, 10)
    reader = topic.reader(start=1)
    topic.trim({1: 3})
    with pytest.raises(
        OffsetTrimmed, match=r"topic 'wide', partition 1: offset 1 was trimmed .* start=\{1: 3\}"
    ):
        while reader.poll():
            pass
    reader.seek({1: 3})
    assert {batch.partition for batch in reader.poll()} >= {1}


def test_what_came_before_an_error_in_a_stream_is_not_lost(server, log: Log) -> None:
    topic = wide(log, 6, 10)
    [file] = [path for path in (server.path / "files").iterdir() if path.suffix == ".commit"]
    data = bytearray(file.read_bytes())
    # Of partition 1 the fourth batch.
    [place] = server.store.shelf.entries(server.store.topic("wide"), 1, 3, 1)
    data[place.entry.position + place.entry.length - 70] ^= 1
    file.write_bytes(data)
    reader, seen = topic.reader(), []
    with pytest.raises(DataCorrupted, match=r"'wide', partition 1") as caught:
        while batches := reader.poll(max_rows=100):
            seen += [(batch.partition, batch.offset) for batch in batches]
    assert (caught.value.topic, caught.value.partition, caught.value.offset) == ("wide", 1, 3)
    assert {(1, 0), (1, 1), (1, 2)} <= set(seen)
    reader.seek({1: 4})
    while batches := reader.poll():
        seen += [(batch.partition, batch.offset) for batch in batches]
    assert sorted(seen) == [(p, n) for p in range(3) for n in range(6) if (p, n) != (1, 3)]
    data[place.entry.position + place.entry.length - 70] ^= 1
    file.write_bytes(data)


def test_a_topic_that_is_gone_is_named_whatever_is_asked_of_it(server, log: Log) -> None:
    topic = wide(log, 1, 10)
    reader, scan = topic.reader(), topic.scan()
    with server.client() as other:
        other.delete_topic("wide")
    for ask in (topic.offsets, topic.describe, reader.poll, scan.collect, topic.end, lambda: topic.trim(0)):
        with pytest.raises(TopicNotFound, match="topic 'wide' was deleted"):
            ask()


def test_reading_goes_on_where_it_was_when_the_server_comes_back(server, log: Log, monkeypatch) -> None:
    monkeypatch.setattr(readers, "WINDOW_BYTES", 30_000)
    reader = wide(log, 20, 5_000).reader()
    seen = [(b.partition, b.offset) for b in reader.poll(max_rows=7)]
    server.restart()
    while batches := reader.poll(max_rows=7):
        seen += [(batch.partition, batch.offset) for batch in batches]
    assert sorted(seen) == [(p, n) for p in range(3) for n in range(20)]
