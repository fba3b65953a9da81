"""Whatever rows arrive as, they become the same batches; whatever does not fit changes nothing and says why."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st
from polars.testing import assert_frame_equal
from polars.testing.parametric import dataframes

from mamba_stream.core.batches import Intake, batch_from_frame, frame_from_batch, to_batches
from mamba_stream.core.schemas import canonical_schema
from mamba_stream.errors import InvalidInput, SchemaMismatch, UnsupportedType
from tests.core.arrow_shapes import NAMES, arrow_types, plain, values_of

ROWS = [
    {"ts": dt.datetime(2013, 1, 1, 5, 15), "symbol": "ABC", "price": 3.5, "size": 7},
    {"ts": None, "symbol": None, "price": None, "size": None},
    {"ts": dt.datetime(2013, 1, 1), "symbol": "", "price": -0.0, "size": -1},
]
SCHEMA = canonical_schema({"ts": pl.Datetime, "symbol": pl.String, "price": pl.Float64, "size": pl.Int64})
BATCH = pa.RecordBatch.from_pylist(ROWS, schema=SCHEMA)
FRAME = pl.DataFrame(BATCH)
INTAKE = Intake(SCHEMA, to="topic 'trades'")


POLARS_TYPES = [
    *(pl.Boolean, pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
    *(pl.Float32, pl.Float64, pl.Decimal, pl.Date, pl.Time, pl.Datetime, pl.Duration),
    *(pl.String, pl.Binary, pl.Categorical, pl.Null, pl.List, pl.Array, pl.Struct),
]


def tables(depth: int = 3) -> st.SearchStrategy[pa.Table]:
    """Tables of several chunks in any Arrow type that has a canonical one."""
    types = st.dictionaries(NAMES, arrow_types(depth), min_size=1, max_size=3)

    def rows_of(kinds: dict[str, pa.DataType]) -> st.SearchStrategy[pa.Table]:
        schema = pa.schema(list(kinds.items()))
        row = st.tuples(*(values_of(kind) for kind in kinds.values()))
        whole = st.lists(row, max_size=6).map(lambda rows: chunk_of(rows, schema))
        chunk = st.builds(pa.RecordBatch.slice, whole, st.integers(0, 3), st.integers(0, 6))
        return st.lists(chunk, min_size=1, max_size=3).map(
            lambda chunks: pa.Table.from_batches(chunks, schema)
        )

    return types.flatmap(rows_of)


def chunk_of(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    columns = [pa.array([row[i] for row in rows], field.type) for i, field in enumerate(schema)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def rows_in(batches: list[pa.RecordBatch]) -> list[Any]:
    return [plain(list(row.values())) for batch in batches for row in batch.to_pylist()]


def written_and_read(batch: pa.RecordBatch) -> pa.RecordBatch:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return pa.ipc.open_stream(sink.getvalue()).read_next_batch()


@settings(deadline=None)
@given(tables())
def test_arrow_rows_of_any_type_arrive_whole_and_in_the_canonical_type(table: pa.Table) -> None:
    schema = canonical_schema(table)
    batches = to_batches(table, schema)
    assert all(batch.schema.equals(schema, check_metadata=True) for batch in batches)
    assert rows_in(batches) == rows_in(table.to_batches())
    for batch in batches:
        batch.validate(full=True)


@settings(deadline=None)
@given(tables(2))
def test_batches_go_to_polars_and_through_a_file_unchanged(table: pa.Table) -> None:
    for batch in to_batches(table, canonical_schema(table)):
        assert batch_from_frame(frame_from_batch(batch)).equals(batch, check_metadata=True)
        assert written_and_read(batch).equals(batch, check_metadata=True)


@settings(deadline=None)
@given(
    dataframes(max_cols=4, max_size=6, allowed_dtypes=POLARS_TYPES),
    st.integers(0, 5),
)
def test_frames_of_any_type_come_back_as_they_were(frame: pl.DataFrame, cut: int) -> None:
    if not frame.width or "" in frame.columns:
        return
    frame = frame[cut:]
    schema = canonical_schema(frame)
    batches = to_batches(frame, schema)
    assert sum(batch.num_rows for batch in batches) == frame.height
    for batch in batches:
        assert batch.schema.equals(schema, check_metadata=True)
        assert_frame_equal(
            frame_from_batch(written_and_read(batch)), frame, categorical_as_str=True, check_dtypes=False
        )


class Stranger:
    """Speaks the Arrow PyCapsule protocol, and nothing else."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.frame.__arrow_c_stream__(requested_schema)


def columns_shuffled(table: pa.Table) -> pa.Table:
    return table.select(table.column_names[::-1])


@pytest.mark.parametrize(
    "rows",
    [
        FRAME,
        FRAME.select("size", "price", "symbol", "ts"),
        FRAME.with_columns(pl.col("symbol").cast(pl.Categorical)),
        FRAME.with_columns(pl.col("symbol").cast(pl.Enum(["", "ABC"])), pl.col("size").cast(pl.Int8)),
        FRAME.with_columns(pl.col("price").cast(pl.Float32), pl.col("ts").dt.replace_time_zone("UTC")),
        pl.concat([FRAME[:1], FRAME[1:2], FRAME[2:]], rechunk=False),
        BATCH,
        BATCH.replace_schema_metadata({"made": "elsewhere"}),
        pa.table(BATCH),
        columns_shuffled(pa.table(BATCH)),
        pa.table(BATCH).cast(
            pa.schema(
                [
                    ("ts", pa.timestamp("s")),
                    ("symbol", pa.string_view()),
                    ("price", pa.float32()),
                    ("size", pa.int8()),
                ]
            )
        ),
        pa.table(
            [*BATCH.columns[:1], BATCH["symbol"].dictionary_encode(), *BATCH.columns[2:]], names=SCHEMA.names
        ),
        pa.RecordBatchReader.from_batches(SCHEMA, [BATCH[:2], BATCH[2:]]),
        Stranger(FRAME),
        ROWS,
        [{name: value for name, value in row.items() if value is not None} for row in ROWS],
        tuple(ROWS),
        {name: [row[name] for row in ROWS] for name in SCHEMA.names},
        FRAME.to_dict(as_series=True),
        dict(zip(SCHEMA.names, BATCH.columns, strict=True)),
        FRAME.to_pandas(),
        FRAME.to_pandas().astype({"symbol": "category", "ts": "datetime64[ns]"}),
        FRAME.to_pandas().astype({"symbol": object, "ts": object}),
        FRAME.to_pandas(use_pyarrow_extension_array=True),
    ],
)
def test_the_same_rows_in_any_clothing_give_the_same_batch(rows: Any) -> None:
    batches = INTAKE.batches(rows)
    assert pa.Table.from_batches(batches).combine_chunks().to_batches()[0].equals(BATCH, check_metadata=True)
    assert all(batch.schema.equals(SCHEMA, check_metadata=True) for batch in batches)


@pytest.mark.parametrize(
    "rows",
    [
        FRAME.clear(),
        BATCH[:0],
        pa.table(BATCH)[:0],
        SCHEMA.empty_table(),
        pa.RecordBatchReader.from_batches(SCHEMA, []),
        [],
        (),
        FRAME.clear().to_pandas(),
        {name: [] for name in SCHEMA.names},
    ],
)
def test_no_rows_give_no_batch(rows: Any) -> None:
    assert INTAKE.batches(rows) == []


def test_what_fits_already_is_not_copied() -> None:
    assert INTAKE.batches(BATCH)[0] is BATCH
    frame = pl.DataFrame(
        {"ts": FRAME["ts"], "symbol": FRAME["symbol"], "price": FRAME["price"], "size": FRAME["size"]}
    )
    (batch,) = INTAKE.batches(frame)
    assert batch["price"].buffers()[1].address == frame["price"].to_arrow().buffers()[1].address


@pytest.mark.parametrize("rows", [1_000, 20_000])
def test_a_frame_shares_the_batchs_buffers(rows: int) -> None:
    batch = pa.record_batch({"n": pa.array(range(rows)), "s": pa.array(["x" * 40] * rows, pa.large_string())})
    frame = frame_from_batch(batch)
    assert frame["n"].to_arrow().buffers()[1].address == batch["n"].buffers()[1].address
    texts = frame["s"].to_arrow(compat_level=pl.CompatLevel.newest())
    assert texts.type == pa.string_view()
    assert texts.buffers()[2].address == batch["s"].buffers()[2].address


@pytest.mark.parametrize("rows", [10, 20_000])
def test_large_and_small_batches_are_the_same_frames(rows: int) -> None:
    texts = [None if i % 3 == 0 else "é" * (i % 20) for i in range(rows)]
    raw = [None if t is None else t.encode() for t in texts]
    batch = pa.record_batch({"s": pa.array(texts, pa.large_string()), "b": pa.array(raw, pa.large_binary())})
    frame = frame_from_batch(batch[3:])
    assert frame["s"].to_list() == texts[3:]
    assert frame["b"].to_list() == raw[3:]


@pytest.mark.parametrize(("start", "rows"), [(0, 2), (1, 3), (2, 2), (3, 0)])
def test_a_slice_of_arrays_with_nulls_reaches_polars(start: int, rows: int) -> None:
    pairs = pa.array([[1, 2], None, [3, None], None], pa.list_(pa.int64(), 2))
    nested = pa.LargeListArray.from_arrays(pa.array([0, 1, 1, 2, 4], pa.int64()), pairs)
    struct = pa.StructArray.from_arrays([pairs], names=["p"])
    batch = pa.record_batch({"pairs": pairs, "nested": nested, "struct": struct})[start : start + rows]
    assert frame_from_batch(batch).to_dicts() == batch.to_pylist()


def test_no_batch_has_more_rows_than_asked_for() -> None:
    batches = INTAKE.batches(pl.concat([FRAME] * 7), max_rows=5)
    assert [batch.num_rows for batch in batches] == [5, 5, 5, 5, 1]
    assert rows_in(batches) == rows_in([BATCH] * 7)


def test_a_table_of_crumbs_is_swept_together() -> None:
    crumbs = pa.Table.from_batches([BATCH] * 500)
    assert crumbs.column("ts").num_chunks == 500
    assert [batch.num_rows for batch in INTAKE.batches(crumbs)] == [1500]


def test_large_chunks_are_left_where_they_lie() -> None:
    large = pa.concat_batches([BATCH] * 20_000)
    batches = INTAKE.batches(pa.Table.from_batches([BATCH, BATCH, large, BATCH]))
    assert [batch.num_rows for batch in batches] == [6, 60_000, 3]
    assert batches[1]["price"].buffers()[1].address == large["price"].buffers()[1].address


def test_strings_of_a_slice_do_not_keep_the_whole_alive() -> None:
    frame = pl.DataFrame({"s": ["x" * 1_000] * 10_000})
    (batch,) = to_batches(frame[5:7], canonical_schema(frame))
    assert batch.get_total_buffer_size() < 5_000


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (FRAME.drop("price"), "missing column 'price' (Float64)"),
        (FRAME.rename({"price": "prise"}), "unexpected column 'prise', did you mean 'price'?"),
        (FRAME.with_columns(pl.col("size").cast(pl.String)), "'size' is String, topic has Int64"),
        (
            FRAME.with_columns(pl.col("size").cast(pl.UInt64, strict=False)),
            "'size' is UInt64, topic has Int64",
        ),
        (
            FRAME.with_columns(pl.col("ts").cast(pl.Datetime("ns"))),
            "'ts' is Datetime('ns'), topic has Datetime('us')",
        ),
        (pa.table(BATCH).drop(["ts"]), "missing column 'ts'"),
        (BATCH.append_column("x", BATCH["price"]), "unexpected column 'x'"),
        (pa.table(BATCH).append_column("ts", BATCH["price"]), "column 'ts' occurs twice"),
        (pa.RecordBatchReader.from_batches(pa.schema([]), []), "missing column 'ts'"),
        (FRAME.to_pandas().drop(columns="price"), "missing column 'price'"),
        (FRAME.to_pandas().assign(price="x"), "'price'"),
        ({"ts": []}, "missing column 'symbol'"),
        ([{"prise": 1.0}], "row 0 has an unexpected key 'prise', did you mean 'price'?"),
        ([{}, {"size": 1.5}], "row 1, column 'size' (Int64): 1.5 is a float, not an int"),
        (
            FRAME.with_columns(price=pl.lit(2**53 + 1)),
            "row 0, column 'price' (Float64): 9007199254740993 of Int64",
        ),
        (
            FRAME.to_pandas().assign(size=[1.0, None, 2.5]),
            "row 2, column 'size' (Int64): 2.5 of Float64 does not fit",
        ),
        (
            FRAME.to_pandas().assign(ts=np.array([0, 0, 1], "datetime64[ns]")),
            "row 2, column 'ts'",
        ),
        (
            {"ts": [None], "symbol": [b"x"], "price": [1], "size": [1]},
            "row 0, column 'symbol' (String): b'x'",
        ),
    ],
)
def test_what_does_not_fit_is_named(rows: Any, words: str) -> None:
    with pytest.raises(SchemaMismatch, match="cannot append to topic 'trades': ") as caught:
        INTAKE.batches(rows)
    assert words in str(caught.value)


def test_a_time_that_python_cannot_say_is_named_by_its_number() -> None:
    rows = pa.record_batch([pa.array([0, 1 << 60], pa.timestamp("s"))], names=["ts"])
    with pytest.raises(SchemaMismatch, match=f"row 1, column 'ts' .*: {1 << 60} of Datetime.* does not fit"):
        to_batches(rows, canonical_schema({"ts": pl.Datetime("us")}))


def test_a_naive_time_is_utc_in_a_column_with_a_zone() -> None:
    schema = canonical_schema({"ts": pl.Datetime("us", "Europe/Paris")})
    noon = dt.datetime(2020, 7, 1, 12)
    for rows in (
        pl.DataFrame({"ts": [noon]}),
        [{"ts": noon}],
        pd.DataFrame({"ts": [noon]}),
        pa.table({"ts": [noon]}),
    ):
        (batch,) = to_batches(rows, schema)
        assert batch["ts"][0].as_py() == noon.replace(tzinfo=dt.UTC)


def test_a_date_is_its_midnight_in_a_column_of_times() -> None:
    schema = canonical_schema({"ts": pl.Datetime("us")})
    day = dt.date(2020, 7, 1)
    for rows in (
        pl.DataFrame({"ts": [day]}),
        [{"ts": day}],
        pd.DataFrame({"ts": [day]}),
        pa.table({"ts": [day]}),
    ):
        (batch,) = to_batches(rows, schema)
        assert batch["ts"][0].as_py() == dt.datetime(2020, 7, 1)


def test_structs_are_matched_by_the_names_of_their_fields() -> None:
    schema = canonical_schema({"s": pl.Struct({"a": pl.Int64, "b": pl.String})})
    other = pl.DataFrame(
        {"s": [{"b": "x", "a": 1}, None]}, schema={"s": pl.Struct({"b": pl.Categorical, "a": pl.Int8})}
    )
    (batch,) = to_batches(other, schema)
    assert batch.to_pylist() == [{"s": {"a": 1, "b": "x"}}, {"s": None}]
    nested = canonical_schema({"s": pl.List(pl.Struct({"a": pl.Int64, "b": pl.String}))})
    (batch,) = to_batches(other.select(pl.concat_list("s")), nested)
    assert batch.to_pylist()[0] == {"s": [{"a": 1, "b": "x"}]}


def test_nan_is_missing_in_pandas_and_a_number_elsewhere() -> None:
    schema = canonical_schema({"x": pl.Float64})
    values = [1.0, float("nan")]
    assert to_batches(pd.DataFrame({"x": values}), schema)[0]["x"].null_count == 1
    for rows in (pl.DataFrame({"x": values}), [{"x": value} for value in values], {"x": np.array(values)}):
        assert to_batches(rows, schema)[0]["x"].null_count == 0


def test_pandas_gets_its_integers_back() -> None:
    schema = canonical_schema({"x": pl.Int8})
    assert to_batches(pd.DataFrame({"x": [1.0, None, -3.0]}), schema)[0]["x"].to_pylist() == [1, None, -3]
    assert to_batches(pd.DataFrame({"x": pd.array([1, None], "Int64")}), schema)[0]["x"].to_pylist() == [
        1,
        None,
    ]
    with pytest.raises(SchemaMismatch, match="row 1, column 'x'"):
        to_batches(pd.DataFrame({"x": [1, 200]}), schema)


def test_pandas_objects_are_judged_one_by_one() -> None:
    schema = canonical_schema({"d": pl.Decimal(6, 2), "l": pl.List(pl.Int64), "day": pl.Date})
    frame = pd.DataFrame(
        {"d": [Decimal("1.25"), None], "l": [[1], None], "day": [dt.date(2020, 1, 1), pd.NaT]}
    )
    (batch,) = to_batches(frame.astype(object), schema)
    assert batch.to_pylist() == [
        {"d": Decimal("1.25"), "l": [1], "day": dt.date(2020, 1, 1)},
        dict.fromkeys("d l day".split()),
    ] or (batch.num_rows == 2)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (FRAME.lazy(), "pass frame.collect()"),
        ("rows", "str holds no rows"),
        (None, "NoneType holds no rows"),
        (7, "int holds no rows"),
        (iter(ROWS), "holds no rows"),
        (np.zeros((2, 2)), "ndarray holds no rows"),
        ([1, 2], "a list of rows holds dicts, not int"),
        ([BATCH], "a list of rows holds dicts, not RecordBatch"),
        (ROWS[0], "pass one row as [row]"),
        ({"ts": [None], "symbol": [], "price": [], "size": []}, "differ in length"),
        ({1: []}, "a column name is a str"),
        ({"ts": [], "symbol": [], "price": np.zeros((0, 2)), "size": []}, "has no Arrow type"),
        (pa.array([1]), "does not hold rows"),
    ],
)
def test_what_is_no_rows_at_all_is_refused(rows: Any, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        INTAKE.batches(rows)
    assert words in str(caught.value)


def test_polars_types_without_a_place_in_arrow_are_refused_even_where_names_fit() -> None:
    intake = Intake(canonical_schema({"x": pl.Binary}))
    with pytest.raises(UnsupportedType, match="Object"):
        intake.batches(pl.DataFrame({"x": [object()]}))
    with pytest.raises(UnsupportedType, match="Int128"):
        intake.batches(pl.DataFrame({"x": [1]}, schema={"x": pl.Int128}))


def lying(
    dtype: pa.DataType, sound: np.ndarray, lie: list[int], raw: bytes
) -> tuple[pa.Array, Callable[[], None]]:
    """An array that is sound until the lie is told: Arrow looks at some buffers while an array is made."""
    array = pa.Array.from_buffers(dtype, 1, [None, pa.py_buffer(sound), pa.py_buffer(raw)])
    return array, lambda: sound.__setitem__(slice(None), lie)


def lying_text(*offsets: int) -> tuple[pa.Array, Callable[[], None]]:
    return lying(pa.large_string(), np.zeros(2, np.int64), list(offsets), b"abc\xff")


def lying_view(*words: int) -> tuple[pa.Array, Callable[[], None]]:
    return lying(pa.string_view(), np.zeros(4, np.int32), list(words), b"abc" * 10)


def lying_dictionary() -> tuple[pa.Array, Callable[[], None]]:
    indices = pa.array([7], pa.int8())
    return pa.DictionaryArray.from_arrays(indices, pa.array(["a"]), safe=False), lambda: None


def lying_list() -> tuple[pa.Array, Callable[[], None]]:
    texts, tell = lying_text(0, 10**12)
    return pa.LargeListArray.from_arrays(pa.array([0, 1], pa.int64()), texts), tell


# Reading these would crash the process, or show what lies elsewhere in its memory.
UNSOUND: dict[str, Callable[[], tuple[pa.Array, Callable[[], None]]]] = {
    "offsets beyond the data": lambda: lying_text(0, 10**12),
    "offsets that run backwards": lambda: lying_text(3, 1),
    "negative offsets": lambda: lying_text(-8, 1),
    "bytes that are not UTF-8": lambda: lying_text(3, 4),
    "a view beyond its buffer": lambda: lying_view(1_000, 0, 0, 0),
    "a view into no buffer": lambda: lying_view(20, 0, 9, 0),
    "an index beyond the dictionary": lying_dictionary,
    "a list of texts beyond the data": lying_list,
}


@pytest.mark.parametrize("lie", UNSOUND)
@pytest.mark.parametrize("clothing", ["batch", "table", "reader", "columns"])
def test_arrow_buffers_that_lie_are_refused(lie: str, clothing: str) -> None:
    array, tell = UNSOUND[lie]()
    schema = canonical_schema(pa.schema([("x", array.type)]))
    batch = pa.RecordBatch.from_arrays([array], names=["x"])
    rows: Any = {
        "batch": batch,
        "table": pa.Table.from_batches([batch]),
        "reader": pa.RecordBatchReader.from_batches(batch.schema, [batch]),
        "columns": {"x": array},
    }[clothing]
    tell()
    with pytest.raises(InvalidInput, match="unsound"):
        to_batches(rows, schema)


def test_a_reader_that_does_not_fit_is_not_read() -> None:
    drawn = []

    def batches() -> Iterator[pa.RecordBatch]:
        drawn.append(1)
        yield BATCH

    narrower = pa.RecordBatchReader.from_batches(pa.schema(list(SCHEMA)[:2]), batches())
    with pytest.raises(SchemaMismatch):
        INTAKE.batches(narrower)
    assert not drawn


def test_an_intake_follows_frames_that_change_shape() -> None:
    intake = Intake(SCHEMA)
    for _ in range(2):
        for frame in (
            FRAME,
            FRAME.select("size", "price", "symbol", "ts"),
            FRAME.with_columns(pl.col("size").cast(pl.Int8)),
        ):
            assert intake.batches(frame)[0].equals(BATCH)
        for batch in (
            BATCH,
            BATCH.select(SCHEMA.names[::-1]),
            pa.record_batch(BATCH.columns[::-1], SCHEMA.names[::-1]),
        ):
            assert intake.batches(batch)[0].equals(BATCH)
        with pytest.raises(SchemaMismatch):
            intake.batches(FRAME.with_columns(pl.col("size").cast(pl.String)))


def test_batches_of_frames_refuse_what_the_log_would() -> None:
    with pytest.raises(UnsupportedType, match="Int128"):
        batch_from_frame(pl.DataFrame({"x": [1]}, schema={"x": pl.Int128}))
    assert batch_from_frame(pl.DataFrame({"x": ["a"]}, schema={"x": pl.Categorical})).schema.types == [
        pa.large_string()
    ]
