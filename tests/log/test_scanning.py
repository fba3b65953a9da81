"""scan(): the answers of Polars on the same rows, and only the batches that can matter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings

from mamba_stream.errors import DataCorrupted, LogClosed, OffsetTrimmed, TopicNotFound
from mamba_stream.log import Log, Topic, open_log, scanning
from mamba_stream.log.shelf import Placed, Shelf
from tests.log.pictures import rows_of
from tests.sizes import examples

START = datetime(2024, 1, 1)


@contextmanager
def batches_read() -> Iterator[list[tuple[int, Any]]]:
    """Which batches are read meanwhile: (offset, columns)."""
    read: list[tuple[int, Any]] = []
    original = Shelf.batch

    def batch(shelf: Shelf, topic: Any, partition: int, placed: Placed, wanted: Any = None) -> Any:
        read.append((placed.offset, wanted))
        return original(shelf, topic, partition, placed, wanted)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Shelf, "batch", batch)
        yield read


TYPES = [pl.Datetime("ms"), pl.Datetime("us"), pl.Datetime("ns"), pl.Datetime("us", "UTC"), pl.Date]


def frame(times: list[int | None], dtype: Any, start: int = 0) -> pl.DataFrame:
    """A row for each time, which is in hours since START."""
    moments = [None if hours is None else START + timedelta(hours=hours) for hours in times]
    column = pl.Series("ts", moments, pl.Datetime("us"))
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        column = column.dt.replace_time_zone("UTC")
    return pl.DataFrame(
        {
            "ts": column.cast(dtype),
            "key": pl.Series([f"k{(start + at) % 3}" for at in range(len(times))], dtype=pl.String),
            "n": pl.Series([start + at for at in range(len(times))], dtype=pl.Int64),
            "x": pl.Series([None if at % 4 == 3 else at / 2 for at in range(len(times))], dtype=pl.Float64),
        }
    )


HOURS = st.integers(0, 72)
LITERALS = st.one_of(
    HOURS.map(lambda h: START + timedelta(hours=h)),
    st.tuples(HOURS, st.integers(1, 999)).map(lambda p: START + timedelta(hours=p[0], microseconds=p[1])),
    st.integers(0, 3).map(lambda d: date(2024, 1, 1 + d)),
)


def literal(value: Any, dtype: Any) -> Any:
    if isinstance(value, datetime) and getattr(dtype, "time_zone", None):
        return value.replace(tzinfo=UTC)
    return value


@st.composite
def predicates(draw: st.DrawFn, dtype: Any, depth: int = 2) -> pl.Expr:
    kind = draw(
        st.sampled_from(
            ["time", "time", "between", "other", "null", *(["and", "or", "not"] if depth else [])]
        )
    )
    ts = pl.col("ts")
    if kind == "time":
        value = literal(draw(LITERALS), dtype)
        sign = draw(st.sampled_from(["<", "<=", "==", ">=", ">", "!=", "mirrored"]))
        return {
            "<": ts < value, "<=": ts <= value, "==": ts == value, ">=": ts >= value, ">": ts > value,
            "!=": ts != value, "mirrored": pl.lit(value) < ts,
        }[sign]  # fmt: skip
    if kind == "between":
        low, high = (literal(draw(LITERALS.filter(lambda v: isinstance(v, datetime))), dtype) for _ in "ab")
        return ts.is_between(low, high, closed=draw(st.sampled_from(["both", "left", "right", "none"])))
    if kind == "other":
        return draw(
            st.sampled_from([pl.col("n") % 2 == 0, pl.col("x") > 1, pl.col("key") == "k1", pl.lit(True)])
        )
    if kind == "null":
        return ts.is_null() if draw(st.booleans()) else ts.is_not_null()
    one, other = draw(predicates(dtype, depth - 1)), draw(predicates(dtype, depth - 1))
    return {"and": one & other, "or": one | other, "not": ~one}[kind]


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Any, tuple[Topic, pl.DataFrame]]]:
    """For each type of time a topic, sealed and trimmed in parts, with its rows in order of partitions."""
    found = {}
    with open_log(tmp_path_factory.mktemp("scans")) as log:
        for number, dtype in enumerate(TYPES):
            schema = frame([], dtype).schema
            compression = "zstd" if number == 1 else "none"
            topic = log.create_topic(f"t{number}", schema, partitions=3, time="ts", compression=compression)
            parts: dict[int, list[pl.DataFrame]] = {0: [], 1: [], 2: []}
            row = 0
            for at in range(30):
                # Mostly in order, with stragglers and rows without a time.
                hours = [
                    None if (at + i) % 11 == 5 else max(0, 2 * at + i - 9 * (i == 2))
                    for i in range(at % 4 + 1)
                ]
                rows = frame(hours, dtype, row)
                row += len(hours)
                topic.append(rows, partition=at % 3)
                parts[at % 3].append(rows)
                if at == 14:
                    log.seal()
            topic.trim({1: 5, 2: 1})
            whole = pl.concat([pl.concat(parts[p]).slice(begin) for p, (begin, _) in topic.offsets().items()])
            found[dtype] = (topic, whole)
        yield found


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_scan_answers_as_polars_does_on_the_same_rows(
    topics: dict[Any, tuple[Topic, pl.DataFrame]], data: st.DataObject
) -> None:
    dtype = data.draw(st.sampled_from(TYPES))
    topic, whole = topics[dtype]
    scanned, plain = topic.scan(), whole.lazy()
    for _ in range(data.draw(st.integers(0, 2), "filters")):
        predicate = data.draw(predicates(dtype), "predicate")
        scanned, plain = scanned.filter(predicate), plain.filter(predicate)
    if data.draw(st.booleans(), "with a head"):
        head = data.draw(st.integers(0, 40), "head")
        scanned, plain = scanned.head(head), plain.head(head)
        if data.draw(st.booleans(), "filtered again"):
            predicate = data.draw(predicates(dtype), "predicate")
            scanned, plain = scanned.filter(predicate), plain.filter(predicate)
    columns = data.draw(st.none() | st.lists(st.sampled_from(whole.columns), unique=True), "columns")
    if columns is not None:
        scanned, plain = scanned.select(columns), plain.select(columns)
    if data.draw(st.booleans(), "sliced"):
        place = data.draw(st.tuples(st.integers(-9, 9), st.integers(0, 9)), "slice")
        scanned, plain = scanned.slice(*place), plain.slice(*place)
    assert scanned.collect(engine="in-memory").equals(plain.collect(engine="in-memory"))


@settings(max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_batch_without_a_row_that_passes_the_bounds_is_not_read(
    topics: dict[Any, tuple[Topic, pl.DataFrame]], data: st.DataObject
) -> None:
    dtype = data.draw(st.sampled_from(TYPES[:4]))
    topic, _ = topics[dtype]
    low = START + timedelta(hours=data.draw(st.integers(0, 70)))
    high = low + timedelta(hours=data.draw(st.integers(0, 10)))
    inside = pl.col("ts").is_between(literal(low, dtype), literal(high, dtype))
    with batches_read() as read:
        topic.scan().filter(inside).collect()
    # Of the batch in which a partition that was trimmed begins, the index knows the times of rows that went, too.
    reach = sum(begin > 0 for begin, _ in topic.offsets().values())
    for batch in topic.read():
        times = pl.DataFrame(batch.data)["ts"].drop_nulls().cast(pl.Datetime("us"))
        # Bounds are wider than the literals by what units may lose, which is less than a second.
        slack = timedelta(seconds=1)
        reach += bool(len(times) and times.min() <= high + slack and times.max() >= low - slack)  # type: ignore[operator]
    assert len(read) <= reach


def fill(topic: Topic, batches: int) -> None:
    for at in range(batches):
        topic.append(frame([at], pl.Datetime("us"), at))


@pytest.fixture
def hourly(log: Log) -> Topic:
    """Fifty batches, an hour each, in order."""
    topic = log.create_topic("hourly", frame([], pl.Datetime("us")).schema, time="ts")
    fill(topic, 50)
    return topic


@pytest.mark.embedded
def test_a_time_range_reads_its_batches_and_no_others(hourly: Topic) -> None:
    with batches_read() as read:
        found = (
            hourly.scan()
            .filter(pl.col("ts") >= START + timedelta(hours=20), pl.col("ts") < START + timedelta(hours=25))
            .collect()
        )
    assert found["n"].to_list() == [20, 21, 22, 23, 24]
    assert [offset for offset, _ in read] == [20, 21, 22, 23, 24, 25], "bounds are taken as inclusive"


@pytest.mark.parametrize("dtype", TYPES)
def test_a_bound_that_is_the_time_of_a_row_includes_it(log: Log, dtype: Any) -> None:
    topic = log.create_topic("exact", frame([], dtype).schema, time="ts")
    for day in range(5):
        topic.append(frame([24 * day], dtype, day))
    day = literal(START + timedelta(days=2), dtype)
    for bound in (day.date(), *(() if dtype == pl.Date else (day,))):
        ts = pl.col("ts")
        found = {
            sign: topic.scan().filter(predicate).collect()["n"].to_list()
            for sign, predicate in {
                "==": ts == bound,
                ">=": ts >= bound,
                "<=": ts <= bound,
                ">": ts > bound,
            }.items()
        }
        assert found == {"==": [2], ">=": [2, 3, 4], "<=": [0, 1, 2], ">": [3, 4]}


@pytest.mark.embedded
def test_only_the_columns_that_are_needed_are_read(hourly: Topic) -> None:
    with batches_read() as read:
        hourly.scan().select("n").collect()
        hourly.scan().filter(pl.col("x") > 99).select("n").collect()
    assert {wanted for _, wanted in read[:50]} == {(2,)}
    assert {frozenset(wanted) for _, wanted in read[50:]} == {frozenset({2, 3})}


def test_a_limit_before_a_filter_counts_the_rows_that_it_drops(hourly: Topic) -> None:
    late = pl.col("n") >= 2
    assert hourly.scan().head(5).filter(late).collect()["n"].to_list() == [2, 3, 4]
    time = pl.col("ts") >= hourly.scan().collect()["ts"][3]
    assert hourly.scan().head(5).filter(time).collect()["n"].to_list() == [3, 4]
    assert hourly.scan().filter(time).head(2).collect()["n"].to_list() == [3, 4]


@pytest.mark.embedded
def test_a_limit_stops_the_reading(hourly: Topic) -> None:
    with batches_read() as read:
        assert hourly.scan().head(3).collect()["n"].to_list() == [0, 1, 2]
    assert len(read) == 3
    with batches_read() as read:
        assert hourly.scan().head(0).collect().height == 0
    assert len(read) <= 1


def test_rows_can_be_counted_without_a_column(hourly: Topic) -> None:
    assert hourly.scan().select(pl.len()).collect().item() == 50
    assert hourly.scan().filter(pl.col("n") < 7).select(pl.len()).collect().item() == 7


def test_an_empty_topic_scans_to_no_rows_of_its_schema(trades: Topic) -> None:
    found = trades.scan().collect()
    assert (found.height, found.schema) == (0, trades.polars_schema)
    assert trades.scan().filter(pl.col("price") > 1).select("symbol").collect().schema == {
        "symbol": pl.String
    }


def test_the_ends_are_those_of_the_moment_it_is_collected(hourly: Topic) -> None:
    scan = hourly.scan().select(pl.len())
    fill(hourly, 2)
    assert scan.collect().item() == 52
    hourly.trim(10)
    assert scan.collect().item() == 42


def test_what_is_trimmed_while_it_is_read_may_be_missing_and_nothing_else(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "_FRAME_ROWS", 1)
    # A server has not sent all of it by then.
    rows, each = 2_000_000, 50_000
    topic = log.create_topic("wide", {"n": pl.Int64}, partitions=2)
    for begin in range(0, 2 * rows, each):
        topic.append(pl.DataFrame({"n": range(begin, begin + each)}), partition=begin // rows)
    made = scanning._frame
    read = 0

    def trimming(*arguments: Any) -> pl.DataFrame:
        nonlocal read
        read += 1
        if read == 3:
            topic.trim({0: rows - 2, 1: 1_230_001})
        return made(*arguments)

    monkeypatch.setattr(scanning, "_frame", trimming)
    found = topic.scan().collect()["n"].to_list()
    assert found == sorted(set(found))
    assert set(found) >= {*range(3 * each), rows - 2, rows - 1, *range(rows + 1_230_001, 2 * rows)}
    assert len(found) < 2 * rows


@pytest.mark.embedded
def test_a_batch_whose_file_went_before_it_was_read_is_left_out(
    hourly: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = hourly.scan().collect()
    read = Shelf.batch
    gone: list[int] = []

    def trimmed(shelf: Shelf, topic: Any, partition: int, placed: Placed, wanted: Any = None) -> Any:
        if not gone:
            gone.append(placed.next_offset)
            hourly.trim({partition: placed.next_offset})
            raise OffsetTrimmed("its file is gone")
        return read(shelf, topic, partition, placed, wanted)

    monkeypatch.setattr(Shelf, "batch", trimmed)
    assert hourly.scan().collect().equals(whole.slice(gone[0]))


def test_rows_trimmed_out_of_the_middle_of_a_batch_are_not_scanned(log: Log) -> None:
    topic = log.create_topic("wide", frame([], pl.Datetime("us")).schema, time="ts")
    topic.append(frame([1, 2, 3, 4], pl.Datetime("us")))
    topic.trim(2)
    assert topic.scan().collect()["n"].to_list() == [2, 3]
    assert topic.scan().filter(pl.col("ts") < START + timedelta(hours=4)).collect()["n"].to_list() == [2]


@pytest.mark.embedded
def test_rows_without_a_time_are_found_by_filters_that_want_them(log: Log) -> None:
    topic = log.create_topic("gaps", frame([], pl.Datetime("us")).schema, time="ts")
    topic.append(frame([None, None], pl.Datetime("us"), 0))
    topic.append(frame([1, None], pl.Datetime("us"), 2))
    late = pl.col("ts") > START
    assert topic.scan().filter(late).collect()["n"].to_list() == [2]
    assert topic.scan().filter(late | pl.col("ts").is_null()).collect()["n"].to_list() == [0, 1, 2, 3]
    assert topic.scan().filter(late.fill_null(True)).collect()["n"].to_list() == [0, 1, 2, 3]
    assert topic.scan().filter(pl.col("ts").eq_missing(None)).collect()["n"].to_list() == [0, 1, 3]
    with batches_read() as read:
        topic.scan().filter(late).collect()
    assert [offset for offset, _ in read] == [2], "a batch without any time cannot pass"


def test_a_straggler_in_a_late_batch_is_found(log: Log) -> None:
    topic = log.create_topic("disorder", frame([], pl.Datetime("us")).schema, time="ts")
    for at, hours in enumerate([[10], [20], [5, 30], [25]]):
        topic.append(frame(hours, pl.Datetime("us"), 10 * at))
    early = pl.col("ts") <= START + timedelta(hours=10)
    assert topic.scan().filter(early).collect()["n"].to_list() == [0, 20]


def test_a_filter_with_a_python_function_reads_everything(hourly: Topic) -> None:
    """Whether Polars can hand such a filter down depends on what is installed: what comes down is understood."""
    from mamba_stream.log.scanning import _tick_bounds

    palindrome = pl.col("n").map_elements(lambda n: str(n)[::-1] == str(n), return_dtype=pl.Boolean)
    late = pl.col("ts") > START
    # With cloudpickle Polars tells of both, and the time's part is understood.
    wide = ((None, None), _tick_bounds(late, hourly._row, hourly.schema))
    assert _tick_bounds(palindrome & late, hourly._row, hourly.schema) in wide
    assert _tick_bounds(palindrome, hourly._row, hourly.schema) == (None, None)


def test_a_scan_takes_part_in_a_larger_query(hourly: Topic) -> None:
    other = pl.LazyFrame({"key": ["k0", "k1"], "name": ["zero", "one"]})
    joined = hourly.scan().join(other, on="key").group_by("name").agg(pl.len()).sort("name").collect()
    assert joined.rows() == [("one", 17), ("zero", 17)]
    both = pl.concat([hourly.scan().select("n"), hourly.scan().select(pl.col("n") + 100)]).collect()
    assert both.height == 100


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_both_engines_of_polars_give_the_same(hourly: Topic, engine: Any) -> None:
    query = hourly.scan().filter(pl.col("n") % 7 == 0).select("n", "key").sort("n")
    assert query.collect(engine=engine)["n"].to_list() == list(range(0, 50, 7))


def test_errors_of_a_scan_are_of_our_tree(log: Log, plain: Topic, tmp_path: Path) -> None:
    plain.append([{"n": 1}])
    scan = plain.scan()
    log.seal()
    [file] = (tmp_path / "log" / "files").glob("*.arrows")
    data = bytearray(file.read_bytes())
    data[-72] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataCorrupted, match="topic 'plain', partition 0"):
        scan.collect()
    log.delete_topic("plain")
    with pytest.raises(TopicNotFound, match="'plain' was deleted"):
        scan.collect()


def test_a_scan_of_a_closed_log_says_so(plain: Topic, tmp_path: Path) -> None:
    with open_log(tmp_path / "log") as other:
        scan = other["plain"].scan()
    with pytest.raises(LogClosed):
        scan.collect()
    assert rows_of(plain) == []


def test_which_rows_a_filter_keeps_does_not_depend_on_how_they_were_appended(log: Log) -> None:
    # Polars divides a column of one row exactly, and a longer one through the reciprocal.
    frame = pl.DataFrame({"x": [49.0] * 5})
    asked = (pl.col("x") / 49).cast(pl.Int64) == 0
    whole, torn, alone = (log.create_topic(name, frame.schema) for name in ("whole", "torn", "alone"))
    whole.append(frame)
    for _ in range(5):
        torn.append(frame.head(1))
    alone.append(frame.head(1))
    assert frame.filter(asked).height == 5
    assert [topic.scan().filter(asked).collect().height for topic in (whole, torn, alone)] == [5, 5, 1]
