"""Which windows a tick is in, against a search through all of them."""

from __future__ import annotations

import hypothesis.strategies as st
import polars as pl
from hypothesis import given

from mamba_stream.operators.grid import Grid


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    every = draw(st.integers(1, 12))
    return Grid(draw(st.integers(every, 30)), every, draw(st.integers(0, every - 1)))


def windows_of(grid: Grid, low: int, high: int) -> list[int]:
    """The starts of all windows that hold the ticks ``low`` to ``high``."""
    candidates = range(low - 2 * grid.size, high + 2 * grid.size)
    return [
        s for s in candidates if (s - grid.origin) % grid.every == 0 and s <= low and high < s + grid.size
    ]


@given(grids(), st.integers(-100, 100))
def test_a_tick_and_its_pane_are_in_the_same_windows(grid, tick):
    pane, last = pl.select(grid.pane_of(pl.lit(tick)), b=grid.last_start(pl.lit(tick))).row(0)
    assert pane <= tick < pane + grid.pane
    windows = windows_of(grid, tick, tick)
    assert windows_of(grid, pane, pane + grid.pane - 1) == windows
    assert last == max(windows)
    assert len(windows) <= grid.most
    assert grid.last_end(tick) == max(windows) + grid.size
    assert grid.first_end(pane) == min(windows) + grid.size
