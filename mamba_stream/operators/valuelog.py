"""Values without a fixed width, at numbered places: a log of frames, and for each place where in it its row lies.

New rows are appended, old ones become garbage; when more than half is garbage the log is rewritten. Texts are copied
when they come, and again only where small frames are merged. Reading from many frames takes ten times as long as from
one: who reads much makes one of them first, which moves no text, but only what says where each lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

_NOWHERE: Final = np.uint32(0xFFFF_FFFF)
_SMALL: Final = 4_096
"""Frames that are shorter are merged at once, and so much garbage does no harm."""
_LARGE: Final = 8_192
"""Frames that are longer are not merged with what comes: texts would be copied once more."""
_MUCH: Final = 16
"""Reading this part of all rows is worth making one frame of them."""
_MANY: Final = 64
"""So many frames become one however little is read."""


class ValueLog:
    """Rows of columns of any type, each at a place of the caller's choosing."""

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        self._schema = dict(schema)
        self._frames: list[pl.DataFrame] = []
        self._whole: pl.DataFrame | None = None
        self._rows = 0
        self._live = 0
        self._at: NDArray[np.uint32] = np.empty(0, np.uint32)

    @property
    def bytes(self) -> int:
        """The memory that rows, garbage and positions take."""
        return self._at.nbytes + sum(int(frame.estimated_size()) for frame in self._frames)

    def put(self, places: NDArray[np.int64], top: int, frame: pl.DataFrame) -> None:
        """Writes a row to each of distinct places, all below ``top``."""
        if top > len(self._at):
            longer = np.full(max(top, len(self._at) + (len(self._at) >> 2)), _NOWHERE)
            longer[: len(self._at)] = self._at
            self._at = longer
        self._live += int(np.count_nonzero(self._at[places] == _NOWHERE))
        self._at[places] = np.arange(self._rows, self._rows + len(places), dtype=np.uint32)
        self._append(_owned(frame.select(self._schema.keys()), self._schema))
        self._rewrite_where_worth_it()

    def take(
        self, places: NDArray[np.int64], there: NDArray[np.bool_] | None, names: Sequence[str] | None = None
    ) -> dict[str, pl.Series]:
        """The columns of the rows at these places; null where ``there`` is false."""
        at = pl.Series(self._at[places])
        if there is not None:
            at = at.zip_with(pl.Series(there), pl.Series([None], dtype=pl.UInt32).new_from_index(0, len(at)))
        whole = self._together(many=_MUCH * len(places) >= self._rows)
        return {name: whole.get_column(name).gather(at) for name in names or self._schema}

    def forget(self, places: NDArray[np.int64]) -> None:
        """The rows at these places become garbage."""
        places = places[places < len(self._at)]
        self._live -= int(np.count_nonzero(self._at[places] != _NOWHERE))
        self._at[places] = _NOWHERE
        self._rewrite_where_worth_it()

    def _together(self, *, many: bool) -> pl.DataFrame:
        """All frames as one, of as many chunks unless that is for many rows."""
        if many and len(self._frames) > 1:
            self._frames = [pl.concat(self._frames, rechunk=True)]
            self._whole = None
        if self._whole is None:
            frames = self._frames or [pl.DataFrame(schema=self._schema)]
            self._whole = frames[0] if len(frames) == 1 else pl.concat(frames, rechunk=False)
        return self._whole

    def _append(self, frame: pl.DataFrame) -> None:
        self._whole = None
        self._frames.append(frame)
        self._rows += frame.height
        while len(self._frames) > 1 and self._frames[-2].height <= min(
            max(2 * self._frames[-1].height, _SMALL), _LARGE
        ):
            last, before = self._frames.pop(), self._frames.pop()
            self._frames.append(_owned(pl.concat([before, last], rechunk=True), self._schema))
        if len(self._frames) > _MANY:
            self._together(many=True)

    def _rewrite_where_worth_it(self) -> None:
        if self._rows <= 2 * self._live + _SMALL:
            return
        places = np.flatnonzero(self._at != _NOWHERE)
        live = pl.DataFrame(list(self.take(places, None).values()))
        self._frames, self._rows = [], 0
        self._at[places] = np.arange(len(places), dtype=np.uint32)
        self._append(_owned(live, self._schema))


def _owned(frame: pl.DataFrame, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """A copy that shares no memory.

    A string is a view of a buffer that may belong to a whole file or to a batch that is long gone. On the way
    through Arrow's older strings, whose bytes lie one behind the other, exactly those that are needed are copied.
    """
    columns = []
    for name, dtype in schema.items():
        column = frame.get_column(name)
        if dtype.is_nested() or isinstance(dtype, pl.String | pl.Binary):
            column = pl.Series(name, column.to_arrow(compat_level=pl.CompatLevel.oldest()))
            columns.append(column if column.dtype == dtype else column.cast(dtype))
        else:
            columns.append(column.gather(pl.int_range(len(column), dtype=pl.UInt32, eager=True)))
    return pl.DataFrame(columns)
