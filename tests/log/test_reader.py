"""Readers: where they are, when they are done, and what they say when rows are gone."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mamba_stream.errors import (
    DataCorrupted,
    InvalidInput,
    OffsetTrimmed,
    PartitionNotFound,
    SchemaMismatch,
    TopicNotFound,
)
from mamba_stream.log import Log, LogBatch, Reader, Topic
from tests.log.pictures import rows_of


def numbers(batches: list[LogBatch]) -> list[int]:
    return [n for batch in batches for n in batch.data["n"].to_pylist()]


def fill(topic: Topic, batches: int, rows: int = 1, partition: int | None = None) -> None:
    for at in range(batches):
        topic.append([{"n": at * rows + row} for row in range(rows)], partition=partition)


def drained(reader: Reader, **options: int) -> list[LogBatch]:
    found: list[LogBatch] = []
    while batches := reader.poll(**options):
        found += batches
    return found


@pytest.fixture
def wide(log: Log) -> Topic:
    """Three partitions of five batches of two rows: partition p holds p0 to p9."""
    topic = log.create_topic("wide", {"n": int}, partitions=3)
    for partition in range(3):
        for at in range(5):
            topic.append([{"n": 10 * partition + 2 * at + row} for row in range(2)], partition=partition)
    return topic


def test_a_reader_polls_without_waiting_and_is_empty_at_the_end(plain: Topic) -> None:
    reader = plain.reader()
    assert reader.poll() == []
    fill(plain, 3)
    assert numbers(reader.poll()) == [0, 1, 2]
    assert reader.poll() == []
    assert reader.positions == {0: 3}


def test_a_poll_stops_near_the_rows_it_was_asked_for(plain: Topic) -> None:
    fill(plain, batches=20, rows=3)
    reader = plain.reader()
    sizes = [sum(b.data.num_rows for b in reader.poll(max_rows=7)) for _ in range(3)]
    assert sizes == [9, 9, 9]
    assert len(reader.poll(max_bytes=1)) == 1
    assert numbers(drained(reader)) == list(range(30, 60))


def test_partitions_take_turns(wide: Topic) -> None:
    reader = wide.reader()
    turns = [reader.poll(max_rows=1)[0].partition for _ in range(15)]
    assert turns == [0, 1, 2] * 5


def test_a_partition_that_has_much_does_not_starve_the_others(log: Log) -> None:
    topic = log.create_topic("lopsided", {"n": int}, partitions=2)
    fill(topic, batches=30, partition=0)
    fill(topic, batches=1, partition=1)
    reader = topic.reader()
    assert {batch.partition for _ in range(2) for batch in reader.poll(max_rows=5)} == {0, 1}


def test_each_row_has_its_offset(wide: Topic) -> None:
    for partition, offset, (n,) in rows_of(wide):
        assert n == 10 * partition + offset


def test_reading_from_the_middle_of_a_batch_gives_the_rest_of_it(plain: Topic) -> None:
    fill(plain, batches=2, rows=4)
    first = next(iter(plain.read(start=2)))
    assert (first.offset, first.next_offset) == (2, 4)
    assert first.data["n"].to_pylist() == [2, 3]
    assert first.offsets.tolist() == [2, 3]


def test_an_end_in_the_middle_of_a_batch_cuts_it(plain: Topic) -> None:
    fill(plain, batches=2, rows=4)
    assert [n for _, _, (n,) in rows_of(plain, start=1, end={0: 6})] == [1, 2, 3, 4, 5]
    assert rows_of(plain, start=6, end={0: 3}) == []


def test_the_end_of_one_partition_leaves_the_others_whole(wide: Topic) -> None:
    assert len(rows_of(wide, end={1: 0})) == 20


def test_max_rows_cuts_the_last_batch(plain: Topic) -> None:
    fill(plain, batches=3, rows=4)
    batches = list(plain.read(max_rows=6))
    assert [(b.offset, b.next_offset, b.data.num_rows) for b in batches] == [(0, 4, 4), (4, 6, 2)]
    assert list(plain.read(max_rows=0)) == []


def test_latest_begins_behind_what_is_there(plain: Topic) -> None:
    fill(plain, 2)
    reader = plain.reader(start="latest")
    assert reader.at_end
    plain.append([{"n": 7}])
    assert not reader.at_end
    assert numbers(reader.poll()) == [7]


def test_partitions_without_a_start_begin_at_their_earliest_row(wide: Topic) -> None:
    reader = wide.reader(start={1: 9})
    assert reader.positions == {0: 0, 1: 9, 2: 0}
    wide.trim({2: 4})
    assert wide.reader(start={}).positions == {0: 0, 1: 0, 2: 4}


def test_offsets_of_numpy_are_offsets(plain: Topic) -> None:
    fill(plain, batches=3)
    at = next(iter(plain.read())).offsets[0] + np.int64(1)
    assert rows_of(plain, start=at) == rows_of(plain, start={0: at}) == rows_of(plain, start=1)
    reader = plain.reader(end={0: np.int64(2)})
    reader.seek({0: np.int64(1)})
    assert numbers(reader.poll()) == [1]


def test_a_reader_of_an_open_topic_is_never_exhausted(plain: Topic) -> None:
    fill(plain, 1)
    reader = plain.reader()
    reader.poll()
    assert reader.at_end
    assert not reader.exhausted


def test_a_reader_of_an_ended_topic_is_exhausted_once_it_has_read_all(plain: Topic) -> None:
    fill(plain, 2)
    reader = plain.reader()
    reader.poll(max_rows=1)
    plain.end()
    assert not reader.exhausted
    reader.poll()
    assert reader.exhausted


def test_a_reader_with_an_end_is_exhausted_there_and_not_before(plain: Topic) -> None:
    fill(plain, 1)
    reader = plain.reader(end={0: 3})
    reader.poll()
    assert reader.at_end
    assert not reader.exhausted, "two rows are still to come"
    fill(plain, 4)
    assert len(numbers(reader.poll())) == 2
    assert reader.exhausted
    assert reader.poll() == []


def test_an_end_that_lies_behind_an_ended_topic_is_as_far_as_it_goes(plain: Topic) -> None:
    fill(plain, 1)
    plain.end()
    assert len(list(plain.read(end={0: 9}, follow=True))) == 1


def test_following_up_to_an_end_ends_there(plain: Topic) -> None:
    fill(plain, 5)
    assert [n for _, _, (n,) in rows_of(plain, follow=True, end={0: 4})] == [0, 1, 2, 3]


def test_following_an_ended_topic_ends(plain: Topic) -> None:
    fill(plain, 3)
    plain.end()
    assert len(rows_of(plain, follow=True)) == 3


def test_a_reader_may_go_anywhere(plain: Topic) -> None:
    fill(plain, 4)
    reader = plain.reader()
    reader.poll(max_rows=1)
    reader.seek({0: 3})
    assert numbers(reader.poll()) == [3]
    reader.seek({0: 0})
    assert numbers(reader.poll()) == [0, 1, 2, 3]


def test_going_where_a_reader_does_not_read_is_refused(wide: Topic) -> None:
    reader = wide.reader(partitions=[0, 2])
    with pytest.raises(PartitionNotFound, match=r"does not read partition 1; it reads 0, 2"):
        reader.seek({1: 0})
    with pytest.raises(InvalidInput, match="is not an offset"):
        reader.seek({0: -1})


def test_rows_that_were_trimmed_away_are_named_with_where_to_go_on(plain: Topic) -> None:
    fill(plain, 6)
    reader = plain.reader()
    plain.trim(4)
    with pytest.raises(OffsetTrimmed, match=r"'plain', partition 0: offset 0 .*first row is now 4.*\{0: 4\}"):
        reader.poll()
    reader.seek({0: 4})
    assert numbers(reader.poll()) == [4, 5]


def test_rows_trimmed_out_of_the_middle_of_a_batch_are_gone_as_well(plain: Topic) -> None:
    fill(plain, batches=1, rows=6)
    reader = plain.reader()
    plain.trim(4)
    with pytest.raises(OffsetTrimmed, match="first row is now 4"):
        reader.poll()
    with pytest.raises(OffsetTrimmed):
        list(plain.read(start=2))
    assert [n for _, _, (n,) in rows_of(plain)] == [4, 5]


def test_what_was_read_before_a_gap_is_not_lost(wide: Topic) -> None:
    reader = wide.reader()
    wide.trim({1: 4})
    before = reader.poll()
    assert {batch.partition for batch in before} == {0}
    with pytest.raises(OffsetTrimmed, match="partition 1"):
        reader.poll()
    reader.seek({1: 4})
    seen = numbers(before) + numbers(drained(reader))
    assert sorted(seen) == [*range(10), *range(14, 20), *range(20, 30)]


@pytest.mark.embedded
def test_what_was_read_before_damage_is_not_lost(wide: Topic, log: Log) -> None:
    # Partition 1's third batch; the file holds the batches one after the other.
    [file] = [path for path in (log.path / "files").iterdir() if path.suffix == ".commit"]
    data = bytearray(file.read_bytes())
    length = log._store.committer._open[False].end // 15
    data[(5 + 3) * length - 64] ^= 1
    file.write_bytes(data)
    reader = wide.reader()
    seen = numbers(reader.poll())
    assert seen == [*range(10), 10, 11, 12, 13]
    with pytest.raises(DataCorrupted, match=r"'wide', partition 1, offsets 4 to 5") as caught:
        reader.poll()
    assert (caught.value.topic, caught.value.partition, caught.value.offset) == ("wide", 1, 4)
    reader.seek({1: 6})
    assert sorted(numbers(drained(reader))) == [16, 17, 18, 19, *range(20, 30)]
    data[(5 + 3) * length - 64] ^= 1
    file.write_bytes(data)


def test_a_reader_of_a_deleted_topic_says_so(plain: Topic, log: Log) -> None:
    reader = plain.reader()
    log.delete_topic("plain")
    with pytest.raises(TopicNotFound, match="'plain' was deleted"):
        reader.poll()
    log.create_topic("plain", {"n": int}).append([{"n": 1}])
    with pytest.raises(TopicNotFound, match="'plain' was deleted"):
        reader.poll()


def test_columns_come_in_the_order_asked_for(trades: Topic) -> None:
    trades.append([{"ts": None, "symbol": "A", "price": 1.0, "size": 2}])
    [batch] = trades.read(columns=["size", "symbol"])
    assert batch.data.schema.names == ["size", "symbol"]
    assert batch.data.to_pylist() == [{"size": 2, "symbol": "A"}]


@pytest.mark.parametrize("columns", [["prise"], ["price", "price"]])
def test_columns_that_do_not_exist_or_come_twice_are_refused(trades: Topic, columns: list[str]) -> None:
    with pytest.raises(SchemaMismatch, match=r"topic 'trades'.*(did you mean 'price'|names a column twice)"):
        trades.read(columns=columns)


@pytest.mark.parametrize("start", ["oldest", 2.5, True, None, [0], -1, {0: -1}, {0: 1.5}, {0: "1"}])
def test_a_start_that_is_none_is_refused_with_the_choices(plain: Topic, start: object) -> None:
    with pytest.raises(InvalidInput, match=r"earliest|not an offset"):
        plain.read(start=start)


@pytest.mark.parametrize("most", [-1, 2.5, "3", True])
def test_max_rows_is_a_number_from_0_on(plain: Topic, most: object) -> None:
    with pytest.raises(InvalidInput, match="max_rows"):
        plain.read(max_rows=most)


@pytest.mark.parametrize("end", [{0: -1}, {0: "1"}, {0: None}])
def test_an_end_is_an_offset(plain: Topic, end: dict[int, object]) -> None:
    with pytest.raises(InvalidInput, match="is not an offset"):
        plain.read(end=end)


def test_a_start_behind_the_end_is_refused_with_the_end(plain: Topic) -> None:
    fill(plain, 2)
    with pytest.raises(InvalidInput, match=r"'plain', partition 0: start=3 lies behind its end 2"):
        plain.read(start=3)


@pytest.mark.parametrize("partitions", [[4], [-1], [0, 9]])
def test_partitions_that_do_not_exist_are_refused(trades: Topic, partitions: list[int]) -> None:
    with pytest.raises(
        PartitionNotFound, match=r"topic 'trades' has no partition -?\d: it has 4, counted from 0"
    ):
        trades.read(partitions=partitions)
    with pytest.raises(PartitionNotFound):
        trades.read(end=dict.fromkeys(partitions, 0))
    with pytest.raises(PartitionNotFound):
        trades.read(start=dict.fromkeys(partitions, 0))


def test_a_partition_is_a_number(trades: Topic) -> None:
    for partitions in ([1.0], ["1"], [True]):
        with pytest.raises(InvalidInput, match="a partition is a number"):
            trades.read(partitions=partitions)


def test_a_read_is_checked_when_it_is_asked_for_not_when_it_is_drawn(plain: Topic) -> None:
    with pytest.raises(InvalidInput):
        plain.read(start="whenever")


def test_a_reader_that_is_behind_a_seal_reads_the_same_rows(plain: Topic, log: Log) -> None:
    fill(plain, batches=10)
    reader = plain.reader()
    first = numbers(reader.poll(max_rows=3))
    assert log.seal() == 1
    assert first + numbers(drained(reader, max_rows=1)) == list(range(10))


@pytest.mark.parametrize("wrong", [{"max_rows": "a"}, {"max_rows": 1.5}, {"max_bytes": -1}])
def test_a_bound_that_is_no_number_is_refused(plain: Topic, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="give a number from 0 on"):
        plain.reader().poll(**wrong)  # type: ignore[arg-type]


def test_a_topic_that_is_missing_is_not_looked_for_among_the_engines_own(log: Log) -> None:
    log.create_topic("_state.job", {"n": pl.Int64}, internal=True)
    with pytest.raises(TopicNotFound, match="it has none"):
        log["state.job"]
