"""Compaction: of each key the latest row stays, where it was; a deletion stays for a while; what is new is left alone."""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import tempfile
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import polars as pl
import pytest
from hypothesis import given, settings

from mamba_stream.errors import DataCorrupted, MambaStreamError
from mamba_stream.log import Log, Topic, compacting, joining
from mamba_stream.log.files import Maps
from mamba_stream.log.repair import repair
from mamba_stream.log.store import Store, acquire
from tests.log.handclock import DAY, HandClock
from tests.log.pictures import rows_of, unsound
from tests.sizes import examples

pytestmark = pytest.mark.embedded
MINUTE = 60_000_000


@pytest.fixture
def log(clocked: Log) -> Log:
    return clocked


def keyed(log: Log, kind: Any = str, **options: Any) -> Topic:
    return log.create_topic("t", {"k": kind, "n": pl.Int64}, key="k", compact=True, **options)


def seen(topic: Topic, **options: Any) -> list[tuple[int, Any]]:
    """(offset, row) of a topic of one partition."""
    return [(offset, row) for _, offset, row in rows_of(topic, **options)]


def test_the_latest_row_of_each_key_stays_at_its_offset(log: Log, clock: HandClock) -> None:
    topic = keyed(log)
    for n in range(20):
        topic.append([{"k": f"k{n % 3}", "n": n}])
    clock.at += 2 * MINUTE
    found = log.maintain()
    assert found.compacted_rows == 17
    assert seen(topic) == [(17, ("k2", 17)), (18, ("k0", 18)), (19, ("k1", 19))]
    assert topic.offsets() == {0: (0, 20)}
    assert topic.scan().collect()["n"].to_list() == [17, 18, 19]
    assert (log.statistics().rows, topic.describe().rows, log.statistics().compacted_rows) == (3, 3, 17)
    assert log.maintain().written_bytes == 0, "there is nothing more to do"
    assert topic.append([{"k": "k0", "n": 20}]) == {0: (20, 21)}
    assert seen(topic, start=18) == [(18, ("k0", 18)), (19, ("k1", 19)), (20, ("k0", 20))]
    assert seen(topic, end={0: 18}) == [(17, ("k2", 17))]
    assert seen(topic, start=3, end={0: 9}) == []
    assert seen(topic, where=pl.col("n") > 17) == [(18, ("k0", 18)), (19, ("k1", 19)), (20, ("k0", 20))]


def test_what_was_appended_a_moment_ago_is_left_alone(log: Log, clock: HandClock) -> None:
    topic = keyed(log, compact_after="1h")
    topic.append([{"k": "a", "n": 1}, {"k": "b", "n": 2}])
    clock.at += 3_600_000_000
    topic.append([{"k": "a", "n": 3}])
    log.seal()
    assert log.maintain().compacted_rows == 0
    clock.at += 3_600_000_000
    assert log.maintain().compacted_rows == 1
    assert [row for _, row in seen(topic)] == [("b", 2), ("a", 3)]


def test_where_nothing_is_new_nothing_is_looked_at(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = keyed(log)
    for n in range(20):
        topic.append([{"k": f"k{n}", "n": n}])
        log.seal()
    clock.at += 2 * MINUTE
    while not log.maintain().done:
        pass
    topic.append([{"k": "k0", "n": 20}])
    log.seal()
    looked: list[int] = []
    store = log._store
    assert isinstance(store, Store)
    entries = store.shelf.entries

    def counted(row: Any, partition: int, offset: int, limit: int) -> Any:
        found = entries(row, partition, offset, limit)
        looked.extend(placed.offset for placed in found)
        return found

    monkeypatch.setattr(store.shelf, "entries", counted)
    assert log.maintain().compacted_rows == 0
    assert set(looked) <= {20}, "what is too new, and nothing before it"
    clock.at += 2 * MINUTE
    assert log.maintain().compacted_rows == 1


def test_a_row_that_deletes_its_key_stays_for_a_while(log: Log, clock: HandClock) -> None:
    topic = keyed(log, tombstones="1d")
    topic.append([{"k": "a", "n": 1}, {"k": "b", "n": 2}])
    topic.append([{"k": "a"}])
    topic.append([{"k": "c"}, {"k": "d", "n": 4}])
    clock.at += 2 * MINUTE
    log.maintain()
    assert seen(topic) == [(1, ("b", 2)), (2, ("a", None)), (3, ("c", None)), (4, ("d", 4))]
    clock.at += DAY
    assert log.maintain().compacted_rows == 2
    assert seen(topic) == [(1, ("b", 2)), (4, ("d", 4))]
    clock.at += DAY
    assert log.maintain().compacted_rows == 0


def test_rows_of_nothing_but_a_key_delete_nothing(log: Log, clock: HandClock) -> None:
    topic = log.create_topic("t", {"k": str}, key="k", compact=True)
    topic.append([{"k": "a"}, {"k": "b"}, {"k": "a"}])
    clock.at += 10 * DAY
    log.maintain()
    assert seen(topic) == [(1, ("b",)), (2, ("a",))]


NAN = math.nan
KEYS: dict[str, tuple[Any, list[Any], list[list[int]]]] = {
    "null": (pl.String, [None, "", "null", None, ""], [[0, 3], [1, 4], [2]]),
    "float": (pl.Float64, [0.0, -0.0, NAN, NAN, None, 1.5], [[0, 1], [2, 3], [4], [5]]),
    "int": (pl.Int8, [1, -1, 1, None], [[0, 2], [1], [3]]),
    "bool": (pl.Boolean, [True, False, None, True], [[0, 3], [1], [2]]),
    "binary": (pl.Binary, [b"", b"\0", b"", None], [[0, 2], [1], [3]]),
    "date": (pl.Date, [date(2024, 1, 1), None, date(2024, 1, 1)], [[0, 2], [1]]),
    "moment": (pl.Datetime("ns"), [datetime(2024, 1, 1), datetime(2024, 1, 2)] * 2, [[0, 2], [1, 3]]),
    "decimal": (pl.Decimal(10, 2), [Decimal("1.10"), Decimal("1.1"), None], [[0, 1], [2]]),
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_are_equal_as_they_are_for_partitions(log: Log, clock: HandClock, kind: str) -> None:
    dtype, keys, alike = KEYS[kind]
    topic = keyed(log, dtype)
    for n, key in enumerate(keys):
        topic.append(pl.DataFrame({"k": pl.Series([key], dtype=dtype), "n": [n]}))
    clock.at += 2 * MINUTE
    log.maintain()
    assert [offset for offset, _ in seen(topic)] == sorted(group[-1] for group in alike)


def test_a_key_of_several_columns_is_one_key(log: Log, clock: HandClock) -> None:
    topic = log.create_topic("t", {"a": str, "b": int, "n": int}, key=["a", "b"], compact=True)
    for n, (a, b) in enumerate([("x", 1), ("x", None), ("x", 1), (None, 1), ("x", None)]):
        topic.append([{"a": a, "b": b, "n": n}])
    clock.at += 2 * MINUTE
    log.maintain()
    assert [row[2] for _, row in seen(topic)] == [2, 3, 4]


def test_where_a_time_is_reached_no_row_of_that_time_lies_before(log: Log, clock: HandClock) -> None:
    topic = log.create_topic(
        "t", {"k": str, "ts": pl.Datetime("us"), "n": int}, key="k", time="ts", compact=True
    )
    for n in range(30):
        topic.append([{"k": f"k{n % 7}", "ts": datetime(2024, 1, 1, (n * 5) % 24), "n": n}])
    clock.at += 2 * MINUTE
    log.maintain()
    whole = topic.scan().collect()
    for hour in range(24):
        when = datetime(2024, 1, 1, hour)
        start = topic.offset_at(when)
        assert all(row[1] < when for offset, row in seen(topic) if offset < start[0])
        late = topic.scan().filter(pl.col("ts") >= when).collect()
        assert late.equals(whole.filter(pl.col("ts") >= when))


def test_a_budget_is_kept_and_what_is_left_is_done_the_next_time(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compacting, "UNIT_BYTES", 1_000)
    monkeypatch.setattr(joining, "MERGED_ROWS", 4)
    topic = keyed(log)
    for n in range(60):
        topic.append([{"k": f"k{n % 5}", "n": n}])
    clock.at += 2 * MINUTE
    log.seal()
    runs = 0
    while not (found := log.maintain(budget=1)).done:
        runs += 1
        assert found.written_bytes < 10_000
        # At any moment the latest of each key is there.
        assert {row[1] for _, row in seen(topic)} >= {55, 56, 57, 58, 59}
        assert runs < 50
    assert runs > 3
    assert [row[1] for _, row in seen(topic)] == [55, 56, 57, 58, 59]


def test_what_is_damaged_takes_no_row_away_and_no_deletion_goes_meanwhile(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "MERGED_ROWS", 1)
    topic = keyed(log)
    for row in ({"k": "a", "n": 1}, {"k": "b", "n": 2}, {"k": "a"}, {"k": "b", "n": 3}):
        topic.append([row])
    log.seal()
    store = log._store
    assert isinstance(store, Store)
    entry = store.shelf.entries(topic._row, 0, 3, 1)[0].entry
    path = log.path / "files" / f"{entry.file:08x}.arrows"
    data = bytearray(path.read_bytes())
    data[entry.position + entry.length - 70] ^= 1
    path.write_bytes(data)
    clock.at += 2 * DAY
    log.maintain()
    assert seen(topic, end={0: 3})[-2:] == [(1, ("b", 2)), (2, ("a", None))]
    with pytest.raises(DataCorrupted):
        seen(topic)
    entry = store.shelf.entries(topic._row, 0, 3, 1)[0].entry
    path = log.path / "files" / f"{entry.file:08x}.arrows"
    data = bytearray(path.read_bytes())
    data[entry.position + entry.length - 70] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("again", ["later", "another process"])
@pytest.mark.parametrize("after", range(12))
def test_an_error_of_the_disk_that_passes_loses_no_row_and_brings_none_back(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch, after: int, again: str
) -> None:
    monkeypatch.setattr(joining, "MERGED_ROWS", 1)
    monkeypatch.setattr(compacting, "UNIT_BYTES", 1)
    topic = keyed(log)
    for rows in ([("a", 1), ("b", 1)], [("gone", 1)], [("a", 2)], [("a", 3), ("gone", None)], [("b", 2)]):
        topic.append([{"k": key, "n": n} for key, n in rows])
        log.seal()
    clock.at += 2 * MINUTE
    with failing(after):
        log.maintain()
    clock.at += 2 * DAY
    # This process does not know that the error has passed.
    log.maintain()
    assert {row for _, row in seen(topic)} >= {("a", 3), ("b", 2)}
    if again == "later":
        topic.append([{"k": "c", "n": 1}])
        clock.at += compacting.AGAIN
    else:
        topic.append([{"k": "c", "n": 1}])
        clock.at += 2 * MINUTE
        store = log._store
        assert isinstance(store, Store)
        store.past_damage.clear()
    log.maintain()
    assert [row for _, row in seen(topic)] == [("a", 3), ("b", 2), ("c", 1)]


def test_what_is_new_is_compacted_behind_what_cannot_be_read(log: Log, clock: HandClock) -> None:
    topic = keyed(log)
    topic.append([{"k": "a", "n": 0}])
    log.seal()
    [segment] = (log.path / "files").glob("*.arrows")
    sound = segment.read_bytes()
    segment.write_bytes(bytes(len(sound)))
    for n in range(1, 4):
        topic.append([{"k": "a", "n": n}, {"k": "b", "n": n}])
        clock.at += 2 * MINUTE
        assert log.maintain().done
        assert seen(topic, start=1) == [(2 * n - 1, ("a", n)), (2 * n, ("b", n))]
        assert log.maintain().written_bytes == 0
    segment.write_bytes(sound)


def test_what_a_repair_has_given_up_is_in_no_ones_way(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "MERGED_ROWS", 1)
    path = tmp_path / "hurt"
    with Log(acquire(path, clock)) as log:
        topic = keyed(log)
        for row in ({"k": "a", "n": 1}, {"k": "b", "n": 2}, {"k": "a"}, {"k": "b", "n": 3}):
            topic.append([row])
            log.seal()
    second = sorted((path / "files").glob("*.arrows"))[1]
    second.write_bytes(bytes(second.stat().st_size))
    assert [loss.offset for loss in repair(path).lost] == [1]
    with Log(acquire(path, clock)) as log:
        topic = log["t"]
        clock.at += 2 * DAY
        log.maintain()
        assert seen(topic, skip_corrupt=True) == [(3, ("b", 3))]
        topic.append([{"k": "b", "n": 4}])
        clock.at += 2 * DAY
        log.maintain()
        assert seen(topic, skip_corrupt=True) == [(4, ("b", 4))]


STEPS = st.lists(
    st.one_of(
        st.lists(
            st.tuples(st.sampled_from(["a", "b", "c", None]), st.none() | st.integers(0, 9)),
            min_size=1,
            max_size=5,
        ).map(lambda rows: ("append", rows)),
        st.sampled_from([MINUTE // 2, 2 * MINUTE, DAY // 2]).map(lambda time: ("pass", time)),
        st.sampled_from(["seal", "maintain", "once"]).map(lambda what: (what, None)),
        st.integers(0, 40).map(lambda offset: ("trim", offset)),
        st.integers(0, 12).map(lambda reads: ("fails", reads)),
    ),
    max_size=25,
)


@settings(max_examples=examples(60), deadline=None)
@given(STEPS, st.sampled_from([1, 3, 65_536]), st.sampled_from([500, 64 << 20]))
def test_any_history_is_compacted_as_plain_python_does_it(
    steps: list[tuple[str, Any]], merged: int, unit: int
) -> None:
    clock = HandClock()
    rows: dict[int, tuple[Any, Any, int]] = {}
    end = begin = 0
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patched:
        patched.setattr(joining, "MERGED_ROWS", merged)
        patched.setattr(compacting, "UNIT_BYTES", unit)
        with Log(acquire(Path(place) / "log", clock)) as log:
            topic = keyed(log)
            for what, value in steps:
                if what == "append":
                    topic.append([{"k": key, "n": n} for key, n in value])
                    for key, n in value:
                        rows[end] = key, n, clock.at
                        end += 1
                elif what == "pass":
                    clock.at += value
                elif what == "trim":
                    begin = max(begin, min(value, end))
                    topic.trim(begin)
                elif what == "seal":
                    log.seal()
                elif what == "fails":
                    # The disk has an error at one of the next reads of upkeep, which has passed by the one behind it.
                    with contextlib.suppress(MambaStreamError), failing(value):
                        log.maintain()
                    assert_may_be(topic, rows, begin, clock.at)
                else:
                    log.maintain(budget=None if what == "maintain" else 1)
                    assert_may_be(topic, rows, begin, clock.at)
            clock.at += compacting.AGAIN
            while not log.maintain().done:
                pass
            latest = {key: offset for offset, (key, _, _) in rows.items()}
            expected = [
                (offset, (key, n))
                for offset, (key, n, when) in rows.items()
                if offset >= begin and latest[key] == offset and not (n is None and when < clock.at - DAY)
            ]
            assert seen(topic) == expected
            assert topic.offsets() == {0: (begin, end)}
        assert unsound(Path(place) / "log") == []


@contextlib.contextmanager
def failing(after: int) -> Iterator[None]:
    """One read of a file gives an error, after so many that do not."""
    read, left = Maps.read, itertools.count(after, -1)

    def once(self: Maps, *arguments: Any) -> Any:
        if next(left) == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(self, *arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Maps, "read", once)
        yield


def assert_may_be(topic: Topic, rows: dict[int, tuple[Any, Any, int]], begin: int, now: int) -> None:
    """Only what may go is gone: rows that have a later one which is old enough, and old deletions."""
    found = dict(seen(topic))
    assert all(found[offset] == rows[offset][:2] for offset in found)
    for offset, (key, n, when) in rows.items():
        if offset < begin or offset in found:
            continue
        later = [o for o, (other, _, _) in rows.items() if other == key and o > offset]
        superseded = any(rows[o][2] <= now - MINUTE for o in later)
        assert superseded or (n is None and when < now - DAY)
