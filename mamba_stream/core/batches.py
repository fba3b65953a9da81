"""From what people append to batches of exactly the topic's schema, and between batches and frames.

Polars and Arrow say what their columns are, so they are judged by type: a column goes in where the topic's
type holds every value of its own (:func:`mamba_stream.core.schemas.fits`), and what already has the schema is
not copied. Python values and pandas columns have looser types, so they are judged value by value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import polars as pl
import pyarrow as pa
from pyarrow import types as pat

from mamba_stream.core.casting import cast, first_misfit, holds_arrays
from mamba_stream.core.rows import batch_from_rows, column_from_values
from mamba_stream.core.schemas import canonical_schema, describe_difference, is_pandas
from mamba_stream.core.types import fits, type_name
from mamba_stream.errors import InvalidInput, SchemaMismatch

MOST_ROWS: Final = 1_048_576
_FEW_ROWS: Final = 16_384
"""Batches below this size are joined with their neighbours: a frame of a thousand chunks is one append."""
_MANY_ROWS: Final = 8_192
"""From here on Arrow makes a batch's strings views, which Polars does five times more slowly."""
_OLDEST: Final = pl.CompatLevel.oldest()
_MOST_INTAKES: Final = 256
_Plan = tuple[int, ...]
_FORMS = "pass a Polars or pandas frame, an Arrow table, batch or reader, or a list of dicts"


_intakes: dict[tuple[int, str], Intake] = {}


def to_batches(
    data: Any, schema: pa.Schema, *, max_rows: int = MOST_ROWS, to: str = "the topic", trusted: bool = False
) -> list[pa.RecordBatch]:
    """The rows as batches of exactly the schema: what :meth:`Intake.batches` does, with an intake of ours."""
    key = (id(schema), to)  # identity, as hashing a schema costs more than a small batch
    intake = _intakes.get(key)
    if intake is None:
        if len(_intakes) >= _MOST_INTAKES:
            _intakes.clear()
        intake = _intakes[key] = Intake(schema, to=to)  # which keeps the schema, and so its identity, alive
    return intake.batches(data, max_rows=max_rows, trusted=trusted)


class Intake:
    """Turns rows of any form into batches of one canonical schema, remembering what it worked out.

    Args:
        schema: The canonical schema that every batch will have.
        to: Where the rows go, for messages, such as ``topic 'trades'``.
    """

    __slots__ = ("_frames", "_seen", "schema", "to")

    def __init__(self, schema: pa.Schema, *, to: str = "the topic") -> None:
        self.schema = schema
        self.to = to
        self._seen: tuple[pa.Schema, _Plan] | None = None
        self._frames: tuple[list[str], list[pl.DataType], _Plan] | None = None

    def batches(self, data: Any, *, max_rows: int = MOST_ROWS, trusted: bool = False) -> list[pa.RecordBatch]:
        """The rows as batches of exactly the schema, in order, none of them empty.

        Args:
            data: A Polars frame, an Arrow table, batch or reader (read to its end once its schema is found to
                fit), a pandas frame (NaN is null there), a list of dicts, a dict of columns, or anything that
                speaks the Arrow PyCapsule protocol.
            max_rows: No batch has more.
            trusted: Skips the check that Arrow buffers are sound. For what this process made itself.

        Raises:
            SchemaMismatch: Columns or values do not fit; all differences are named. No row was taken.
            InvalidInput: It holds no rows, or unsound buffers.
        """
        if isinstance(data, pa.RecordBatch):
            found = self._from_arrow([data], data.schema, trusted=trusted)
        elif isinstance(data, pl.DataFrame):
            found = self._from_polars(data)
        elif isinstance(data, pa.Table):
            found = self._from_arrow(joined(data.to_batches()), data.schema, trusted=trusted)
        else:
            found = self._from_other(data, trusted=trusted)
        if len(found) == 1 and 0 < found[0].num_rows <= max_rows:
            return found
        return [part for batch in found for part in _split(batch, max_rows)]

    def _from_polars(self, frame: pl.DataFrame) -> list[pa.RecordBatch]:
        # Exported as one struct and judged by Polars' own types: a third of the time that exporting a table
        # and comparing Arrow schemas takes, which is what counts when frames are small.
        known = self._frames
        if known is None or known[0] != frame.columns or known[1] != frame.dtypes:
            canonical_schema(frame)  # refuses what Polars exports as something that it is not
            known = self._frames = (frame.columns, frame.dtypes, self._plan(_exported(frame.clear()).schema))
        return [self._apply(_exported(frame), known[2])]

    def _from_arrow(
        self, batches: list[pa.RecordBatch], schema: pa.Schema, *, trusted: bool
    ) -> list[pa.RecordBatch]:
        if not trusted:
            for batch in batches:
                check_buffers(batch)
        if schema.equals(self.schema, check_metadata=True):
            return batches
        known = self._seen
        if known is None or not known[0].equals(schema, check_metadata=True):
            known = self._seen = (schema, self._plan(schema))
        return [self._apply(batch, known[1]) for batch in batches]

    def _from_other(self, data: Any, *, trusted: bool) -> list[pa.RecordBatch]:
        if isinstance(data, pl.LazyFrame):
            raise InvalidInput("a LazyFrame has no rows yet: pass frame.collect()")
        if is_pandas(data):
            return [self._from_pandas(data)]
        if isinstance(data, Mapping):
            return [self._from_columns(data)]
        if isinstance(data, Sequence) and all(isinstance(row, Mapping) for row in data):
            return [batch_from_rows(data, self.schema, to=self.to)] if data else []
        if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__"):
            reader = data if isinstance(data, pa.RecordBatchReader) else _open(data)
            self._check(reader.schema)
            return self._from_arrow(joined(list(reader)), reader.schema, trusted=trusted)
        if isinstance(data, (list, tuple)):
            odd = next(row for row in data if not isinstance(row, Mapping))
            raise InvalidInput(f"a list of rows holds dicts, not {type(odd).__name__}: {odd!r:.80}")
        raise InvalidInput(f"{type(data).__name__} holds no rows that can be appended: {_FORMS}")

    def _from_columns(self, columns: Mapping[str, Any]) -> pa.RecordBatch:
        for name, values in columns.items():
            if not isinstance(name, str):
                raise InvalidInput(f"a column name is a str, not {name!r:.80}")
            if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
                raise InvalidInput(
                    f"a dict is taken for columns, but {name!r} is {values!r:.80}: pass one row as [row]"
                )
        if len({len(values) for values in columns.values()}) > 1:
            lengths = ", ".join(f"{name!r} has {len(values)}" for name, values in columns.items())
            raise InvalidInput(f"the columns differ in length: {lengths}")
        offered = {
            name: values if isinstance(values, (list, tuple)) else _as_arrow(values)
            for name, values in columns.items()
        }
        return self._from_mixed(offered, lenient=False)

    def _from_pandas(self, frame: Any) -> pa.RecordBatch:
        names = [str(name) for name in frame.columns]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise SchemaMismatch(f"cannot append to {self.to}: column {twice!r} occurs twice")
        offered: dict[str, Any] = {}
        for at, name in enumerate(names):
            series = frame.iloc[:, at]
            if series.dtype == object:
                missing = series.isna().to_numpy()
                offered[name] = [
                    None if gone else value for value, gone in zip(series.tolist(), missing, strict=True)
                ]
            else:
                offered[name] = _as_arrow(series)
        return self._from_mixed(offered, lenient=True)

    def _from_mixed(self, offered: dict[str, Any], *, lenient: bool) -> pa.RecordBatch:
        """One batch from columns that are arrays or lists of Python values.

        Args:
            offered: The columns by name.
            lenient: Let numbers and times into narrower types if every value fits, since pandas gave them
                their wide ones.
        """
        wanted = {field.name: field.type for field in self.schema}
        have = {
            name: values.type if isinstance(values, pa.Array) else wanted.get(name, pa.null())
            for name, values in offered.items()
        }
        if lenient:
            have = {
                name: wanted[name] if name in wanted and _same_family(dtype, wanted[name]) else dtype
                for name, dtype in have.items()
            }
        self._check(pa.schema(have))
        arrays = []
        for field in self.schema:
            values = offered[field.name]
            if isinstance(values, pa.Array):
                arrays.append(self._cast(values, field))
            else:
                arrays.append(column_from_values(values, field.type, column=field.name, to=self.to))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _check(self, have: pa.Schema) -> None:
        if difference := describe_difference(have, self.schema):
            raise SchemaMismatch(f"cannot append to {self.to}: {difference}")

    def _plan(self, have: pa.Schema) -> _Plan:
        """Which column becomes which; nothing, where everything is as it should be."""
        self._check(have)
        if have.equals(self.schema, check_metadata=True):
            return ()
        return tuple(have.get_field_index(name) for name in self.schema.names)

    def _apply(self, batch: pa.RecordBatch, plan: _Plan) -> pa.RecordBatch:
        if not plan:
            return batch
        columns = [self._cast(batch.column(at), field) for at, field in zip(plan, self.schema, strict=True)]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _cast(self, array: pa.Array, field: pa.Field) -> pa.Array:
        try:
            return cast(array, field.type)
        except pa.ArrowInvalid:
            row = first_misfit(array, field.type)
            raise SchemaMismatch(
                f"cannot append to {self.to}: row {row}, column {field.name!r} ({type_name(field.type)}): "
                f"{_shown(array[row]):.80} of {type_name(array.type)} does not fit"
            ) from None


def _shown(value: pa.Scalar) -> str:
    try:
        return str(value)
    except (OverflowError, ValueError):  # a time that Python cannot say
        return str(value.value)


def _same_family(have: pa.DataType, want: pa.DataType) -> bool:
    """Whether pandas may have widened one to the other: missing values make integers floats there."""
    if pat.is_integer(want):
        return bool(pat.is_integer(have) or pat.is_floating(have))
    if pat.is_timestamp(want):
        return bool(pat.is_timestamp(have) or pat.is_date(have))
    if pat.is_date(want):
        return bool(pat.is_timestamp(have) or pat.is_date(have))
    return bool(pat.is_duration(want) and pat.is_duration(have)) or fits(have, want)


def _as_arrow(values: Any) -> pa.Array:
    try:
        if isinstance(values, pl.Series):
            return batch_from_frame(values.to_frame("x")).column(0)
        # NaN becomes null in what comes from pandas, and in nothing else.
        array = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidInput(f"a column of {type(values).__name__} has no Arrow type: {error}") from error
    check_buffers(array)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _open(data: Any) -> pa.RecordBatchReader:
    try:
        if hasattr(data, "__arrow_c_stream__"):
            return pa.RecordBatchReader.from_stream(data)
        batch = pa.record_batch(data)
        return pa.RecordBatchReader.from_batches(batch.schema, [batch])
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidInput(f"{type(data).__name__} does not hold rows: {error}; {_FORMS}") from error


def check_buffers(data: pa.RecordBatch | pa.Array | pa.ChunkedArray) -> None:
    """Refuses Arrow buffers that do not hold what they should."""
    # Half a microsecond for numbers of any count, since only their buffers' sizes matter; 3 to 6 GB/s for text.
    try:
        data.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"the Arrow buffers are unsound: {error}") from error


def joined(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """The same rows with runs of small batches made one, each."""
    if len(batches) < 2:
        return batches
    return [run[0] if len(run) == 1 else pa.concat_batches(run) for run in _runs(batches)]


def _runs(batches: list[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    run: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        large = batch.num_rows >= _FEW_ROWS
        if run and (large or rows >= 4 * _FEW_ROWS):
            yield run
            run, rows = [], 0
        if large:
            yield [batch]
        else:
            run.append(batch)
            rows += batch.num_rows
    if run:
        yield run


def _split(batch: pa.RecordBatch, max_rows: int) -> Iterator[pa.RecordBatch]:
    if batch.num_rows <= max_rows:
        if batch.num_rows:
            yield batch
        return
    for start in range(0, batch.num_rows, max_rows):
        yield batch.slice(start, max_rows)


def batch_from_frame(frame: pl.DataFrame) -> pa.RecordBatch:
    """The frame as one batch of canonical types.

    Raises:
        UnsupportedType: A column has a type that the log does not store.
    """
    schema = _schema_of(tuple(frame.columns), tuple(frame.dtypes))
    batch = _exported(frame)
    if batch.schema.equals(schema, check_metadata=True):
        return batch
    columns = [cast(column, dtype) for column, dtype in zip(batch.columns, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


@lru_cache(maxsize=256)
def _schema_of(names: tuple[str, ...], dtypes: tuple[pl.DataType, ...]) -> pa.Schema:
    return canonical_schema(pl.Schema(zip(names, dtypes, strict=True)))


def _exported(frame: pl.DataFrame) -> pa.RecordBatch:
    return pa.RecordBatch.from_struct_array(frame.to_struct().to_arrow(compat_level=_OLDEST))


def frame_from_batch(batch: pa.RecordBatch) -> pl.DataFrame:
    """A canonical batch as a frame over the same buffers."""
    types = batch.schema.types
    large = batch.num_rows >= _MANY_ROWS
    for at, dtype in enumerate(types):
        if large and dtype in _VIEWS:
            batch = _replaced(batch, at, _viewed(batch.column(at)))
        elif pat.is_nested(dtype) and holds_arrays(dtype):
            batch = _replaced(batch, at, cast(batch.column(at), dtype))
    return pl.DataFrame(batch)


def _replaced(batch: pa.RecordBatch, at: int, column: pa.Array) -> pa.RecordBatch:
    return batch.set_column(at, batch.schema.names[at], column)


def _viewed(column: pa.Array) -> pa.Array:
    try:
        return column.cast(_VIEWS[column.type])
    except pa.ArrowInvalid:  # more than 2 GB of text: a view cannot point so far
        return column


_VIEWS: Final = {pa.large_string(): pa.string_view(), pa.large_binary(): pa.binary_view()}
