"""Small batches become one when they are sealed: fewer, and in everything else what they were."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings

from mamba_stream.errors import DataCorrupted
from mamba_stream.log import Log, Topic, joining
from mamba_stream.log.format import Damaged
from mamba_stream.log.origins import Origins, pack, unpack
from mamba_stream.log.store import Store
from tests.log.handclock import HandClock
from tests.log.pictures import rows_of
from tests.sizes import examples

pytestmark = pytest.mark.embedded


@pytest.fixture
def log(clocked: Log) -> Log:
    return clocked


def moments(topic: Topic) -> list[tuple[int, int, int]]:
    """(partition, offset, when it was appended) of every row."""
    return [
        (batch.partition, int(offset), int(time))
        for batch in topic.read()
        for offset, time in zip(batch.offsets, batch.append_times, strict=True)
    ]


def filled(log: Log, clock: HandClock, batches: int = 40, **options: Any) -> Topic:
    topic = log.create_topic("t", {"ts": pl.Datetime("us"), "n": int, "s": str}, time="ts", **options)
    for n in range(batches):
        clock.at += 1000
        rows = [{"n": n, "s": f"row {n}"}] * (n % 3 + 1)
        frame = pl.DataFrame(rows, schema={"n": pl.Int64, "s": pl.String})
        times = pl.Series("ts", [None if n % 5 == 0 else (n * 7) % 11] * len(rows), pl.Int64)
        topic.append(frame.with_columns(times.cast(pl.Datetime("us"))))
    return topic


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("sealed", [None, "none", "lz4", "zstd"])
def test_everything_that_is_known_of_a_row_stays(
    log: Log, clock: HandClock, compression: str, sealed: str | None
) -> None:
    topic = filled(log, clock, compression=compression, seal_compression=sealed)
    before = rows_of(topic), moments(topic), topic.scan().collect()
    times = {when: topic.offset_at(np.datetime64(when, "us").item()) for when in range(12)}
    appended = sorted({time for _, _, time in moments(topic)})
    by_append = [topic.offset_at(np.datetime64(when, "us").item(), by="append") for when in appended]
    assert log.seal() == 1
    assert log.statistics().batches == 1
    assert (rows_of(topic), moments(topic)) == before[:2]
    assert topic.scan().collect().equals(before[2])
    assert {when: topic.offset_at(np.datetime64(when, "us").item()) for when in range(12)} == times
    assert [topic.offset_at(np.datetime64(w, "us").item(), by="append") for w in appended] == by_append
    [entry] = [placed.entry for placed in log._store.shelf.entries(topic._row, 0, 0, 9)]
    assert entry.compressed == ((sealed or compression) != "none")


def test_from_any_offset_to_any_other_the_same_rows_are_read(log: Log, clock: HandClock) -> None:
    topic = filled(log, clock, 12)
    end = topic.offsets()[0][1]
    ranges = [(start, stop) for start in range(end + 1) for stop in range(start, end + 1)]
    before = [rows_of(topic, start=start, end={0: stop}) for start, stop in ranges]
    log.seal()
    assert [rows_of(topic, start=start, end={0: stop}) for start, stop in ranges] == before
    whole = rows_of(topic)
    assert [rows_of(topic, max_rows=most) for most in range(end)] == [whole[:most] for most in range(end)]


def test_batches_are_merged_up_to_a_size_and_large_ones_are_not(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "MERGED_ROWS", 10)
    topic = log.create_topic("t", {"n": int})
    for rows in (4, 4, 4, 9, 1, 1, 30, 2, 2):
        topic.append([{"n": rows}] * rows)
    log.seal()
    assert [b.data.num_rows for b in topic.read()] == [8, 4, 10, 1, 30, 4]
    monkeypatch.setattr(joining, "SMALL_BYTES", 1)
    topic.append([{"n": 1}])
    topic.append([{"n": 1}])
    log.seal()
    assert [b.data.num_rows for b in topic.read()][-2:] == [1, 1]


def test_a_reader_on_its_way_goes_on_in_a_batch_that_became_part_of_another(
    log: Log, clock: HandClock
) -> None:
    topic = filled(log, clock, 30)
    expected = rows_of(topic)
    reader = topic.reader()
    seen = [n for batch in reader.poll(max_rows=5) for n in batch.data["n"].to_pylist()]
    log.seal()
    clock.at += 120_000_000
    assert log.maintain().removed_files > 0
    assert isinstance(log._store, Store)
    log._store.maps.clear()
    while batches := reader.poll():
        seen += [n for batch in batches for n in batch.data["n"].to_pylist()]
    assert seen == [row[1] for _, _, row in expected]


def test_what_is_damaged_is_not_merged_and_stays_damaged(log: Log, clock: HandClock) -> None:
    topic = log.create_topic("t", {"n": int})
    for n in range(4):
        topic.append([{"n": n}])
    store = log._store
    assert isinstance(store, Store)
    entry = store.shelf.entries(topic._row, 0, 2, 1)[0].entry
    with open(log.path / "files" / f"{entry.file:08x}.commit", "r+b") as file:
        file.seek(entry.position + entry.length - 64)
        file.write(b"\xff")
    log.seal()
    with pytest.raises(DataCorrupted) as error:
        rows_of(topic)
    assert error.value.offset == 2
    assert [row for _, _, row in rows_of(topic, start=3)] == [(3,)]
    # Put right, for the examination at the end.
    entry = store.shelf.entries(topic._row, 0, 2, 1)[0].entry
    with open(log.path / "files" / f"{entry.file:08x}.arrows", "r+b") as file:
        file.seek(entry.position + entry.length - 64)
        file.write(b"\x02")


def test_sealing_again_looks_only_at_what_is_new(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = filled(log, clock, 20)
    for _ in range(2):
        log.seal()
        topic.append([{"n": 1}])
    store = log._store
    assert isinstance(store, Store)
    looked: list[int] = []
    entries = store.shelf.entries

    def counted(row: Any, partition: int, offset: int, limit: int) -> Any:
        found = entries(row, partition, offset, limit)
        looked.extend(placed.offset for placed in found)
        return found

    monkeypatch.setattr(store.shelf, "entries", counted)
    end = topic.offsets()[0][1]
    log.seal()
    assert set(looked) == {end - 2, end - 1}
    log.delete_topic("t")
    assert store.items(b"\x0f") == [], "nothing is kept of a topic that is gone"


def test_a_merged_batch_goes_when_its_last_row_is_old(log: Log, clock: HandClock) -> None:
    topic = log.create_topic("t", {"n": int}, retention="1d")
    topic.append([{"n": 1}])
    clock.at += 3_600_000_000
    topic.append([{"n": 2}])
    log.seal()
    clock.at += 23 * 3_600_000_000 + 1
    assert log.maintain().trimmed_rows == 0
    clock.at += 3_600_000_000
    assert log.maintain().trimmed_rows == 2


ORIGINS = st.integers(0, 60).flatmap(
    lambda span: st.tuples(
        st.lists(st.integers(0, max(span - 1, 0)), unique=True, max_size=9).map(sorted),
        st.none() | st.lists(st.integers(0, max(span - 1, 0)), unique=True).map(sorted),
    )
)


@settings(max_examples=examples(200))
@given(ORIGINS, st.data())
def test_origins_are_read_as_they_were_written(
    given: tuple[list[int], list[int] | None], data: st.DataObject
) -> None:
    firsts, kept = given
    times = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=len(firsts), max_size=len(firsts)))
    kept_array = None if kept is None else np.array(kept, np.int64)
    packed = pack(Origins(np.array(firsts, np.int64), np.array(times, np.int64), kept_array))
    found = unpack(packed, 0 if kept is None else len(kept))
    assert (found.firsts.tolist(), found.times.tolist()) == (firsts, times)
    assert (None if found.kept is None else found.kept.tolist()) == kept
    for cut in range(4 + 12 * len(firsts)):
        with pytest.raises(Damaged):
            unpack(packed[:cut], 0)
    if kept is not None:
        with pytest.raises(Damaged, match="are said to be left"):
            unpack(packed, len(kept) + 1)


def test_a_merged_segment_is_an_ordinary_stream(log: Log, clock: HandClock) -> None:
    topic = filled(log, clock, seal_compression="zstd")
    expected = topic.scan().collect()
    log.seal()
    [path] = (log.path / "files").glob("*.arrows")
    assert pl.read_ipc_stream(path).equals(expected)
    with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as reader:
        assert reader.read_all().num_rows == expected.height
