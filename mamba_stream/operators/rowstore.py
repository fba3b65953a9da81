"""Rows at numbered places, overwritten in place: where keyed state keeps its values.

A column of fixed width is one numpy array, indexed by place: writing and reading cost what is written and read, and
nothing has to be cleaned up. Strings, decimals and nested values have no fixed width in numpy; they go to a log of
frames (:mod:`mamba_stream.operators.valuelog`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mamba_stream.errors import SchemaMismatch
from mamba_stream.operators.valuelog import ValueLog

Places = NDArray[np.int64]
Mask = NDArray[np.bool_]

_FIXED: Final[dict[type[pl.DataType], tuple[pl.DataType, Any]]] = {
    pl.Boolean: (pl.Boolean(), np.bool_),
    pl.Int8: (pl.Int8(), np.int8),
    pl.Int16: (pl.Int16(), np.int16),
    pl.Int32: (pl.Int32(), np.int32),
    pl.Int64: (pl.Int64(), np.int64),
    pl.UInt8: (pl.UInt8(), np.uint8),
    pl.UInt16: (pl.UInt16(), np.uint16),
    pl.UInt32: (pl.UInt32(), np.uint32),
    pl.UInt64: (pl.UInt64(), np.uint64),
    pl.Float32: (pl.Float32(), np.float32),
    pl.Float64: (pl.Float64(), np.float64),
    pl.Date: (pl.Int32(), np.int32),
    pl.Datetime: (pl.Int64(), np.int64),
    pl.Duration: (pl.Int64(), np.int64),
    pl.Time: (pl.Int64(), np.int64),
}
"""What a type is underneath, in Polars and in numpy."""


def room_for(array: NDArray[Any], places: int, fill: int = 0) -> NDArray[Any]:
    """The array, or a longer copy that has at least so many places; the new ones hold ``fill``.

    A copy is longer by a quarter: an array that grows bit by bit is copied a few times only, and little lies idle.
    """
    if places <= len(array):
        return array
    longer = np.empty(max(places, len(array) + (len(array) >> 2), 16), array.dtype)
    longer[: len(array)] = array
    longer[len(array) :] = fill
    return longer


class RowStore:
    """Rows of one schema, each at a place of the caller's choosing.

    Places are small non-negative integers; the store has room up to the greatest that was ever written.

    Example:
        >>> store = RowStore({"n": pl.Int64(), "word": pl.String()})
        >>> store.put(np.array([4, 0]), pl.DataFrame({"n": [1, 2], "word": ["one", "two"]}))
        >>> store.take(np.array([0, 4])).rows()
        [(2, 'two'), (1, 'one')]
    """

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        self.schema: Final = dict(schema)
        self._names = list(self.schema)
        self._dtypes = list(self.schema.values())
        self._fixed = {name: _Fixed(name, dtype) for name, dtype in schema.items() if type(dtype) in _FIXED}
        other = {name: dtype for name, dtype in schema.items() if name not in self._fixed}
        self._log = ValueLog(other) if other else None

    @property
    def bytes(self) -> int:
        """The memory that the rows and the room for more take."""
        return sum(column.bytes for column in self._fixed.values()) + (self._log.bytes if self._log else 0)

    def put(self, places: Places, frame: pl.DataFrame) -> None:
        """Writes rows; what was at their places is overwritten.

        Args:
            places: Distinct places, one for each row.
            frame: Rows with the store's columns, in any order; it may have others.

        Raises:
            SchemaMismatch: The columns or their types are not the store's, or the lengths differ.
        """
        frame = self._checked(frame, len(places))
        if not len(places):
            return
        top = int(places.max()) + 1
        for name, column in self._fixed.items():
            column.put(places, top, frame.get_column(name))
        if self._log is not None:
            self._log.put(places, top, frame)

    def take(self, places: Places, there: Mask | None = None) -> pl.DataFrame:
        """The rows at places that were written.

        Args:
            places: Places, as often and in any order.
            there: Where given, rows that it is false for are null throughout, whatever their place.
        """
        if there is not None:
            if there.all():
                there = None
            elif not there.any():
                return self.empty().clear(len(places))
            else:
                places = np.where(there, places, places[there][0])
        log = self._log.take(places, there) if self._log is not None else {}
        return pl.DataFrame(
            [log[name] if name in log else self._fixed[name].take(places, there) for name in self.schema]
        )

    def column(self, name: str, places: Places) -> pl.Series:
        """One column of the rows at places that were written."""
        if name in self._fixed:
            return self._fixed[name].take(places, None)
        assert self._log is not None
        return self._log.take(places, None, [name])[name]

    def forget(self, places: Places) -> None:
        """What is at these places is not needed any more."""
        if self._log is not None:
            self._log.forget(places)

    def empty(self) -> pl.DataFrame:
        """No rows, with the store's columns."""
        return pl.DataFrame(schema=self.schema)

    def _checked(self, frame: pl.DataFrame, rows: int) -> pl.DataFrame:
        if frame.columns != self._names or frame.dtypes != self._dtypes:
            if missing := [name for name in self._names if name not in frame.columns]:
                raise SchemaMismatch(f"rows of state lack columns {missing}: they have {frame.columns}")
            frame = pl.DataFrame([frame.get_column(name) for name in self._names])
            if frame.dtypes != self._dtypes:
                raise SchemaMismatch(f"rows of state are {dict(frame.schema)}, and should be {self.schema}")
        if self._names and frame.height != rows:
            raise SchemaMismatch(f"{frame.height} rows of state came for {rows} places")
        return frame


class _Fixed:
    """A column of fixed width."""

    def __init__(self, name: str, dtype: pl.DataType) -> None:
        self._name = name
        self._dtype = dtype
        self._physical, width = _FIXED[type(dtype)]
        self._values: NDArray[Any] = np.empty(0, width)
        self._valid: Mask | None = None  # until there is a null

    @property
    def bytes(self) -> int:
        return self._values.nbytes + (0 if self._valid is None else self._valid.nbytes)

    def put(self, places: Places, top: int, column: pl.Series) -> None:
        self._values = room_for(self._values, top)
        if column.dtype != self._physical:
            column = column.cast(self._physical)
        valid = None
        if column.null_count():
            valid = column.is_not_null().to_numpy()
            column = column.fill_null(False if self._dtype == pl.Boolean else 0)
            if self._valid is None:
                self._valid = np.ones(len(self._values), np.bool_)
        self._values[places] = column.to_numpy()
        if self._valid is not None:
            self._valid = room_for(self._valid, len(self._values), fill=True)
            self._valid[places] = True if valid is None else valid

    def take(self, places: Places, there: Mask | None) -> pl.Series:
        column = pl.Series(self._name, self._values[places])
        valid = there
        if self._valid is not None:
            valid = self._valid[places] if there is None else self._valid[places] & there
        if valid is not None and not valid.all():
            nulls = pl.Series([None], dtype=self._physical).new_from_index(0, len(places))
            column = column.zip_with(pl.Series(valid), nulls)
        return column if self._physical == self._dtype else column.cast(self._dtype)


def stacked(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Frames side by side, where some have no columns."""
    return pl.DataFrame([column for frame in frames for column in frame.get_columns()])


def picked(frame: pl.DataFrame, names: Iterable[str]) -> pl.DataFrame:
    """Columns of a frame by name, in a tenth of the time of a query: where batches are small, it counts."""
    return pl.DataFrame([frame.get_column(name) for name in names])


def where(frame: pl.DataFrame, mask: Mask) -> pl.DataFrame:
    """The rows for which the mask is true; all of them cost nothing."""
    return frame if mask.all() else frame.filter(mask)
