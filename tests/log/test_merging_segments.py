"""Small segments become one: there are few of them, they are written anew a few times, and rows stay what they were."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mamba_stream.errors import DataCorrupted
from mamba_stream.log import Log, Topic, compacting, joining, merging, rows, sealing
from mamba_stream.log.merging import due
from mamba_stream.log.rows import FileRow
from mamba_stream.log.shelf import Placed
from mamba_stream.log.store import Store
from tests.log.handclock import HandClock
from tests.log.pictures import rows_of
from tests.log.test_merging import moments

pytestmark = pytest.mark.embedded


@pytest.fixture
def log(clocked: Log) -> Log:
    return clocked


def segments(log: Log) -> int:
    return log.statistics().segments


ARRIVALS = {
    "alike": lambda rng: 64 << 10,
    "ever larger": lambda rng: rng.randrange(4_096, 8 << 20),
    "large ones between small ones": lambda rng: 16 << 20 if rng.random() < 0.5 else 4_096,
    "of all sizes": lambda rng: int(4_096 * 2 ** rng.uniform(0, 13)),
}


@pytest.mark.parametrize("kind", ARRIVALS)
def test_there_are_few_segments_and_what_they_hold_is_written_a_few_times(kind: str) -> None:
    rng, most = random.Random(kind), 512 << 20
    sizes: list[int] = []
    came = written = large = 0
    for _ in range(2_000):
        size = ARRIVALS[kind](rng)
        came += size
        sizes.append(size)
        while (some := due(sizes, most)) is not None:
            merged = sum(sizes[some.start : some.stop])
            assert len(some) > 1
            assert merged <= most
            written += merged
            sizes[some.start : some.stop] = [] if merged >= most // 2 else [merged]
            large += merged >= most // 2
        # Each is larger than a third of all newer ones, but for the last three.
        assert len(sizes) <= 4 + math.log(2 * most / 4_096, 4 / 3)
    assert large <= 2 * came / most + 1
    assert written <= came * (2 + math.log(most / 4_096, 4))


def test_a_log_that_is_sealed_often_has_few_segments(log: Log, clock: HandClock) -> None:
    topic = log.create_topic("t", {"n": int, "s": str})
    for n in range(25):
        clock.at += 1_000
        topic.append([{"n": n, "s": f"row {n}"}] * (1 + n % 3))
        log.maintain()
        assert segments(log) < 8
    assert [row for _, _, row in rows_of(topic)] == [
        (n, f"row {n}") for n in range(25) for _ in range(1 + n % 3)
    ]
    assert sorted({time for _, _, time in moments(topic)}) == [clock.at - 1_000 * n for n in range(25)][::-1]
    clock.at += 120_000_000
    assert log.maintain().removed_files > 0


def sealed_one_by_one(log: Log, count: int, **options: Any) -> Topic:
    topic = log.create_topic("t", {"n": int}, **options)
    for n in range(count):
        topic.append([{"n": n}])
        log.seal()
    return topic


def test_segments_of_before_their_beginning_was_noted_are_merged_too(log: Log) -> None:
    topic = sealed_one_by_one(log, 5)
    store = log._store
    assert isinstance(store, Store)

    def forget(draft: Any) -> None:
        for key, value in list(draft.items(rows.FILE)):
            row = rows.unpack(FileRow, value)
            draft.put(key, rows.pack(FileRow(*(getattr(row, n) for n in row.__struct_fields__[:9]))))

    store.index.update(forget)
    before = moments(topic)
    log.maintain()
    assert segments(log) == 1
    assert moments(topic) == before


def test_segments_of_other_columns_stay_apart(log: Log) -> None:
    topic = sealed_one_by_one(log, 4)
    topic = log.alter_topic("t", add={"s": str})
    for n in range(4, 8):
        topic.append([{"n": n, "s": "new"}])
        log.seal()
    assert segments(log) == 8
    log.maintain()
    assert segments(log) == 2
    assert [row for _, _, row in rows_of(topic)] == [(n, "new" if n > 3 else None) for n in range(8)]


def test_a_budget_is_kept_as_far_as_something_is_done_at_all(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "LEAST_SEGMENT", 0)
    monkeypatch.setattr(merging, "_LEAST_BYTES", 1)
    for name in ("a", "b"):
        log.create_topic(name, {"n": int})
        for n in range(4):
            log[name].append([{"n": n}])
            log.seal()
    done = log.maintain(budget=1_000)
    assert (segments(log), done.done) == (5, False), "one topic's are merged, and those of the other are next"
    assert log.maintain(budget=1_000).done
    assert segments(log) == 2
    assert log.maintain(budget=1_000).written_bytes == 0


def third(log: Log, topic: Topic) -> tuple[Path, Placed]:
    """The segment in which the third row lies, and where."""
    store = log._store
    assert isinstance(store, Store)
    placed = store.shelf.entry(topic._row, 0, 2)
    assert placed is not None
    return log.path / "files" / f"{placed.entry.file:08x}.arrows", placed


def flip(log: Log, topic: Topic) -> None:
    """Changes the last bytes of the third row's batch, or changes them back."""
    path, placed = third(log, topic)
    data = bytearray(path.read_bytes())
    data[placed.entry.position + placed.entry.length - 64] ^= 255
    path.write_bytes(data)


def test_what_is_damaged_is_merged_as_it_is(log: Log) -> None:
    topic = sealed_one_by_one(log, 4)
    flip(log, topic)
    log.maintain()
    assert segments(log) == 1
    with pytest.raises(DataCorrupted) as error:
        rows_of(topic)
    assert error.value.offset == 2
    assert [row for _, _, row in rows_of(topic, start=3)] == [(3,)]
    # Put right, for the examination at the end.
    flip(log, topic)


def test_a_segment_that_is_missing_leaves_the_others_to_be_merged(log: Log) -> None:
    topic = sealed_one_by_one(log, 6)
    path, _ = third(log, topic)
    aside = path.rename(path.with_suffix(".aside"))
    log.maintain()
    assert segments(log) == 2
    assert [row for _, _, row in rows_of(topic, start=3)] == [(n,) for n in range(3, 6)]
    aside.rename(path)
    assert [row for _, _, row in rows_of(topic)] == [(n,) for n in range(6)]


def test_a_reader_on_its_way_is_not_cut_off(log: Log, clock: HandClock) -> None:
    topic = sealed_one_by_one(log, 12)
    reader = topic.reader()
    seen = [n for batch in reader.poll(max_rows=5) for n in batch.data["n"].to_pylist()]
    log.maintain()
    clock.at += 120_000_000
    assert log.maintain().removed_files > 0
    store = log._store
    assert isinstance(store, Store)
    store.maps.clear()
    while batches := reader.poll():
        seen += [n for batch in batches for n in batch.data["n"].to_pylist()]
    assert seen == list(range(12))


def test_compacted_and_trimmed_segments_are_merged(log: Log, clock: HandClock) -> None:
    topic = log.create_topic("t", {"k": str, "n": pl.Int64}, key="k", compact=True, compact_after="0s")
    for n in range(13):
        topic.append([{"k": f"k{n % 4}", "n": n}])
        log.maintain()
        clock.at += 1_000_000
    topic.trim(10)
    log.maintain()
    assert [row[1] for _, _, row in rows_of(topic)] == [10, 11, 12]
    assert segments(log) < 6
    assert topic.offsets() == {0: (10, 13)}


def test_many_batches_are_moved_in_several_steps(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "_MOST_BATCHES", 4)
    topic = sealed_one_by_one(log, 9)
    log.maintain()
    assert segments(log) < 5
    assert [row for _, _, row in rows_of(topic)] == [(n,) for n in range(9)]


def test_what_compaction_leaves_of_a_segment_does_not_hold_the_room_of_the_rest(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "SMALL_BYTES", 1)
    monkeypatch.setattr(compacting, "UNIT_BYTES", 1)
    monkeypatch.setattr(merging, "FEWEST", 99)
    topic = log.create_topic("t", {"k": str, "n": pl.Int64}, key="k", compact=True, compact_after="0s")
    for n in range(8):
        topic.append([{"k": f"{n} {m}", "n": m} for m in range(3)])
    log.seal()
    store = log._store
    assert isinstance(store, Store)
    whole = store.shelf.entries(topic._row, 0, 0, 1)[0].entry.file
    clock.at += 1_000_000
    topic.append([{"k": f"{n} 1", "n": 100} for n in range(6)])
    log.maintain()
    kept = {placed.entry.file for placed in store.shelf.entries(topic._row, 0, 0, 99)}
    assert whole not in kept
    clock.at += 120_000_000
    log.maintain()
    assert not (log.path / "files" / f"{whole:08x}.arrows").exists()
    assert len(rows_of(topic)) == 24
