"""A keyed table is a dict, whatever is written, removed, expired, saved and restored in between."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from math import isnan

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mamba_stream.errors import InvalidInput, SchemaMismatch
from mamba_stream.operators.keycodes import Coding
from mamba_stream.operators.keyed import TOUCHED, KeyedTable
from mamba_stream.operators.keyindex import KeyIndex
from tests.sizes import examples

NAN = float("nan")
VALUES = {"n": pl.Int64(), "word": pl.String(), "on": pl.Boolean(), "at": pl.Datetime("ms", "UTC")}
ROW_POOL = [
    (
        None if n == 3 else n,
        (None, "", "tiny", "long enough to live in a buffer")[n % 4],
        (None, True, False)[n % 3],
        None if n == 5 else datetime(2024, 1, 1 + n, tzinfo=UTC),
    )
    for n in range(8)
]

KEYS = {
    "int": ({"k": pl.Int64()}, [(n,) for n in (0, 1, -1, 1 << 62, -(1 << 63), None, -8189888889021011529)]),
    "ids": (
        {"a": pl.Int64(), "b": pl.Int64()},
        [(a, b) for a in (0, 7, (1 << 31) - 1, 1 << 31, -1, None) for b in (7, 0, -(1 << 63), None)],
    ),
    "date and flag": (
        {"d": pl.Date(), "b": pl.Boolean()},
        [(d, b) for d in (date(2024, 1, 1), date(1960, 1, 1), None) for b in (True, False, None)],
    ),
    "text": ({"s": pl.String()}, [(s,) for s in ("", "a", "b", "a rather long one, not inlined", None)]),
    "weak hash": ({"s": pl.String()}, [(s,) for s in ("", "a", "b", "c", "d", "e", None)]),
    "mixed": (
        {"s": pl.String(), "f": pl.Float64(), "i": pl.Int64()},
        [(s, f, n) for s in ("x", None) for f in (0.0, 1.5, NAN, None) for n in (7, None)],
    ),
}


def weak() -> Coding:
    """Every key has one of two codes."""
    return Coding(
        lambda keys: keys.hash_rows().to_numpy() % np.uint64(2), lambda codes: np.ones(len(codes), np.bool_)
    )


def canonical(row: tuple) -> tuple:
    return tuple("NaN" if isinstance(v, float) and isnan(v) else v for v in row)


class TableMachine(RuleBasedStateMachine):
    """Beside a dict, and with what a log would hold of it."""

    kind = "int"
    timed = True

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.pool = KEYS[self.kind]
        self.table = self.made()
        self.model: dict[tuple, tuple] = {}
        self.saved: list[tuple[str, pl.DataFrame]] = []
        self.durable: dict[tuple, tuple] = {}

    def made(self) -> KeyedTable:
        index = KeyIndex(self.keys, weak()) if self.kind == "weak hash" else None
        return KeyedTable(self.keys, VALUES, timed=self.timed, index=index)

    def frame_of(self, rows: list[tuple]) -> pl.DataFrame:
        return pl.DataFrame(rows, schema=self.keys, orient="row")

    def picked(self, picks: list[int]) -> list[tuple]:
        return [self.pool[n % len(self.pool)] for n in picks]

    @rule(puts=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 7), st.integers(0, 30)), max_size=12))
    def put(self, puts):
        chosen = {self.pool[pick % len(self.pool)]: (ROW_POOL[row], when) for pick, row, when in puts}
        slots = self.table.slots(self.frame_of(list(chosen)), insert=True)
        frame = pl.DataFrame([row for row, _ in chosen.values()], schema=VALUES, orient="row")
        times = np.array([when for _, when in chosen.values()], np.int64)
        self.table.put(slots, frame, times if self.timed else None)
        self.model |= {canonical(key): row for key, row in chosen.items()}

    @rule(picks=st.lists(st.integers(0, 20), max_size=12))
    def get(self, picks):
        keys = self.picked(picks)
        slots = self.table.slots(self.frame_of(keys))
        expected = [self.model.get(canonical(key)) for key in keys]
        assert self.table.present(slots).tolist() == [row is not None for row in expected]
        nothing = (None,) * len(VALUES)
        assert self.table.get(slots).rows() == [nothing if row is None else row[0] for row in expected]
        there = slots[self.table.present(slots)]
        assert [canonical(key) for key in self.table.keys(there).rows()] == [
            canonical(key) for key in keys if canonical(key) in self.model
        ]

    @rule(picks=st.lists(st.integers(0, 20), max_size=12))
    def insert_and_remove(self, picks):
        """Keys that have no row yet may be removed as well."""
        slots = self.table.slots(self.frame_of(self.picked(picks)), insert=True)
        self.table.remove(np.unique(slots))
        for key in self.picked(picks):
            self.model.pop(canonical(key), None)

    @rule(before=st.integers(0, 32))
    def expire(self, before):
        if not self.timed:
            return
        gone = self.table.expire(before)
        assert gone.get_column(TOUCHED).is_sorted()
        found = {canonical(row[: len(self.keys)]): (row[len(self.keys) : -1], row[-1]) for row in gone.rows()}
        assert found == {key: row for key, row in self.model.items() if row[1] < before}
        self.model = {key: row for key, row in self.model.items() if row[1] >= before}

    @rule()
    def delta(self):
        self.saved += self.table.delta().items()
        self.durable = dict(self.model)
        assert not self.table.delta()

    @rule()
    def snapshot(self):
        self.saved = list(self.table.snapshot().items())
        self.durable = dict(self.model)
        assert not self.table.delta()

    @rule()
    def crash(self):
        self.table = self.made()
        for part, frame in self.saved:
            self.table.restore(part, frame)
        assert not self.table.delta()
        self.model = dict(self.durable)

    @invariant()
    def is_the_dict(self):
        assert self.table.rows == len(self.model)
        frame = self.table.frame()
        found = {canonical(row[: len(self.keys)]): row[len(self.keys) :] for row in frame.rows()}
        assert found == {key: row for key, (row, _) in self.model.items()}
        assert frame.equals(frame.sort(list(self.keys)))


def machine(kind_: str, timed_: bool):
    class Machine(TableMachine):
        kind, timed = kind_, timed_

    Machine.TestCase.settings = settings(max_examples=examples(30), stateful_step_count=25, deadline=None)
    return Machine.TestCase


TestIntKeys = machine("int", True)
TestIdKeys = machine("ids", True)
TestDateAndFlagKeys = machine("date and flag", False)
TestTextKeys = machine("text", True)
TestCollidingKeys = machine("weak hash", True)
TestMixedKeys = machine("mixed", False)


DISTINCT = {
    pl.Int8(): [0, 1, -128, 127],
    pl.Int32(): [0, -1, 1 << 30],
    pl.Int64(): [0, -1, 1 << 62, -8189888889021011529],  # the last one has the code of null
    pl.UInt64(): [0, 1, (1 << 64) - 1, 10256855184688540087],
    pl.Int128(): [0, 1 << 100, -1],
    pl.Boolean(): [True, False],
    pl.Float32(): [0.0, 1.5, NAN, float("inf")],
    pl.Float64(): [0.0, -1.5, NAN, float("-inf")],
    pl.Date(): [date(1900, 1, 1), date(1970, 1, 1), date(2200, 1, 1)],
    pl.Datetime("us"): [datetime(1970, 1, 1), datetime(2024, 2, 29, 1)],
    pl.Datetime("ns", "Europe/Berlin"): [1, 1 << 60],
    pl.Duration("ms"): [timedelta(0), timedelta(days=-3)],
    pl.Time(): [time(0), time(23, 59, 59)],
    pl.Decimal(20, 3): [Decimal("0.000"), Decimal("1.200"), Decimal("-12345678901234567.001")],
    pl.String(): ["", "a", "null", "somewhat longer than twelve"],
    pl.Binary(): [b"", b"\0", b"\0\0"],
    pl.Enum(["a", "b"]): ["b", "a"],
    pl.Categorical(): ["x", "y"],
    pl.Struct({"a": pl.Int64(), "b": pl.String()}): [{"a": 1, "b": "x"}, {"a": None, "b": None}, {"a": 1, "b": None}],
    pl.Struct({"f": pl.Float64()}): [{"f": 0.0}, {"f": NAN}],
    pl.List(pl.Int64()): [[], [1], [None], [1, 1]],
    pl.Array(pl.Int8(), 2): [[1, 2], [2, 1]],
}  # fmt: skip


@pytest.mark.parametrize("dtype", DISTINCT, ids=str)
def test_a_key_may_be_of_any_type_and_null(dtype):
    column = pl.Series("k", [*DISTINCT[dtype], None], dtype=dtype)
    keys = column.to_frame()
    table = KeyedTable({"k": dtype}, {"v": dtype, "n": pl.Int32()})
    slots = table.slots(keys, insert=True)
    assert len(set(slots.tolist())) == len(column)
    order = list(range(len(column)))
    table.put(slots, keys.select(pl.col("k").alias("v"), pl.Series("n", order, pl.Int32)))
    again = pl.concat([keys.reverse(), keys])
    assert table.get(table.slots(again)).get_column("n").to_list() == [*reversed(order), *order]
    assert table.get(slots).get_column("v").equals(column.alias("v"), null_equal=True)
    other = KeyedTable({"k": dtype}, {"v": dtype, "n": pl.Int32()})
    for part, frame in table.snapshot().items():
        other.restore(part, frame)
    assert other.get(other.slots(keys)).equals(table.get(slots))
    table.remove(slots[:1])
    assert table.slots(keys).tolist() == [-1, *slots[1:].tolist()]


@pytest.mark.parametrize("columns", [1, 2])
def test_negative_zero_is_zero_and_all_nans_are_one(columns):
    floats = pl.Series([-0.0, 0.0, NAN, -NAN, None], dtype=pl.Float64)
    keys = pl.DataFrame({f"k{n}": floats for n in range(columns)})
    table = KeyedTable(keys.schema, {})
    slots = table.slots(keys, insert=True)
    assert slots[0] == slots[1] and slots[2] == slots[3] and len(set(slots.tolist())) == 3
    table.put(np.unique(slots), pl.DataFrame())
    zero, nan = (frame.item(0, 0) for frame in (table.keys(slots[:1]), table.keys(slots[2:3])))
    assert str(zero) == "0.0" and isnan(nan)
    assert table.frame().height == 3


def test_null_is_not_the_values_beneath_it():
    """What lies under a null in a column's buffer counts for nothing."""
    keys = pl.DataFrame({"k": pl.Series([5, 7, 7]), "keep": [False, False, True]}).select(
        pl.when("keep").then("k").alias("k")
    )
    assert KeyIndex({"k": pl.Int64()}).slots(keys, insert=True).tolist() in ([0, 0, 1], [1, 1, 0])


@given(
    st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=200), min_size=1, max_size=8), st.booleans()
)
@settings(deadline=None, max_examples=examples(30))
def test_an_index_is_exact_however_weak_the_hash(batches, integers):
    """Batches come with repetitions; every second one is removed again."""
    schema = {"k": pl.Int64()}
    code = (lambda keys: keys.to_series().to_numpy().view(np.uint64) % np.uint64(3)) if integers else (
        lambda keys: np.zeros(keys.height, np.uint64)
    )  # fmt: skip
    index = KeyIndex(schema, Coding(code, lambda codes: np.ones(len(codes), np.bool_)))
    known: dict[int, int] = {}
    for number, batch in enumerate(batches):
        slots = index.slots(pl.DataFrame({"k": batch}, schema=schema), insert=True)
        for key, slot in zip(batch, slots.tolist(), strict=True):
            assert known.setdefault(key, slot) == slot
        assert len(set(known.values())) == len(known) == index.rows
        if number % 2:
            index.remove(np.unique(slots))
            known = {key: slot for key, slot in known.items() if key not in batch}
    everything = pl.DataFrame({"k": range(301)}, schema=schema)
    assert index.slots(everything).tolist() == [known.get(key, -1) for key in range(301)]


@pytest.mark.parametrize("dtype", DISTINCT, ids=str)
def test_a_key_is_found_however_its_frame_came_about(dtype):
    """As one of many rows or alone, in several chunks, as a slice, or as one value that is repeated."""
    column = pl.Series("k", [*DISTINCT[dtype], None] * 40, dtype=dtype)
    for schema in ({"k": dtype}, {"k": dtype, "l": pl.Int64()}):
        index = KeyIndex(schema)
        keys = column.to_frame().with_columns(pl.lit(1, pl.Int64).alias("l")).select(list(schema))
        slots = index.slots(keys, insert=True)
        chunked = pl.concat([keys.slice(start, 7) for start in range(0, keys.height, 7)], rechunk=False)
        assert index.slots(chunked).tolist() == slots.tolist()
        for row in range(len(DISTINCT[dtype]) + 1):
            alone = keys.slice(row, 1)
            assert index.slots(alone).tolist() == [slots[row]]
            repeated = pl.DataFrame([value.new_from_index(0, 3) for value in alone.get_columns()])
            assert index.slots(repeated).tolist() == [slots[row]] * 3


def test_state_is_restored_from_parts_in_pieces():
    table = KeyedTable({"k": pl.Int64()}, {"v": pl.String()}, timed=True)
    keys = pl.DataFrame({"k": range(1_000)})
    slots = table.slots(keys, insert=True)
    table.put(slots, keys.select(pl.col("k").cast(pl.String).alias("v")), np.arange(1_000))
    saved = [*table.snapshot().items()]
    table.remove(slots[::3])
    table.put(slots[1::3], pl.DataFrame({"v": ["new"] * 333}), np.full(333, 5))
    saved += table.delta().items()
    other = KeyedTable({"k": pl.Int64()}, {"v": pl.String()}, timed=True)
    for part, frame in saved:
        for start in range(0, frame.height, 100):
            other.restore(part, frame.slice(start, 100))
    assert other.frame().equals(table.frame())
    assert other.expire(500).equals(table.expire(500))


def test_slots_are_used_again():
    index = KeyIndex({"k": pl.Int64()})
    for start in range(0, 100_000, 1_000):
        slots = index.slots(pl.DataFrame({"k": range(start, start + 1_000)}), insert=True)
        assert slots.max() < 1_000
        index.remove(slots)
    assert index.rows == 0
    assert index.bytes < 100_000


@pytest.mark.parametrize("dtype", [pl.Int64(), pl.String()], ids=str)
def test_memory_does_not_grow_with_what_was_overwritten(dtype):
    table = KeyedTable({"k": pl.Int64()}, {"v": dtype})
    keys = pl.DataFrame({"k": range(5_000)})
    sizes = []
    for turn in range(40):
        values = pl.select(pl.int_range(5_000).cast(dtype).alias("v") if dtype == pl.Int64() else pl.format("a long value, not inlined {} {}", turn, pl.int_range(5_000)).alias("v"))  # fmt: skip
        table.put(table.slots(keys, insert=True), values)
        sizes.append(table.bytes)
    assert max(sizes) < 4 * sizes[0]
    assert table.frame().select("v").equals(values)


def test_state_keeps_no_batch_alive():
    """A long batch of which few rows are put leaves no more than these."""
    table = KeyedTable({"k": pl.String()}, {"v": pl.String()})
    batch = pl.select(pl.format("some long text for row {}", pl.int_range(100_000)).alias("k")).with_columns(
        v="k"
    )
    few = batch.slice(50_000, 10)
    table.put(table.slots(few.select("k"), insert=True), few.select("v"))
    assert table.bytes < 20_000


def test_a_key_that_comes_and_goes_between_two_commits_is_not_written():
    table = KeyedTable({"k": pl.Int64()}, {"v": pl.Int64()})
    slots = table.slots(pl.DataFrame({"k": [1, 2]}), insert=True)
    table.put(slots, pl.DataFrame({"v": [1, 2]}))
    table.remove(slots[:1])
    assert {part: frame.rows() for part, frame in table.delta().items()} == {"rows": [(2, 2)]}


def test_a_busy_row_expires_once_it_rests():
    table = KeyedTable({"k": pl.Int64()}, {}, timed=True)
    slots = table.slots(pl.DataFrame({"k": [1, 2]}), insert=True)
    table.put(slots, pl.DataFrame(), np.array([0, 0]))
    gone = {}
    for now in range(1, 101):
        table.put(slots[:1], pl.DataFrame(), np.array([now]))
        gone[now] = table.expire(now - 10).rows()
    assert {now: rows for now, rows in gone.items() if rows} == {11: [(2, 0)]}
    assert table.expire(100).rows() == []
    assert table.expire(101).rows() == [(1, 100)]


def test_wrong_columns_are_refused_with_what_is_right():
    table = KeyedTable({"k": pl.Int64()}, {"v": pl.Int64()})
    slots = table.slots(pl.DataFrame({"k": [1]}), insert=True)
    with pytest.raises(InvalidInput, match="should be"):
        table.slots(pl.DataFrame({"k": ["1"]}))
    with pytest.raises(SchemaMismatch, match="lack columns"):
        table.put(slots, pl.DataFrame({"w": [1]}))
    with pytest.raises(SchemaMismatch, match="should be"):
        table.put(slots, pl.DataFrame({"v": [1.0]}))
    with pytest.raises(SchemaMismatch, match="2 rows of state came for 1 places"):
        table.put(slots, pl.DataFrame({"v": [1, 2]}))
    with pytest.raises(InvalidInput, match="at least one column"):
        KeyedTable({}, {"v": pl.Int64()})
    with pytest.raises(InvalidInput, match="keys and values"):
        KeyedTable({"k": pl.Int64()}, {"k": pl.Int64()})
    with pytest.raises(InvalidInput, match="own"):
        KeyedTable({"k": pl.Int64()}, {TOUCHED: pl.Int64()})
