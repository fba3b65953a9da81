"""Which windows a tick is in, against a search through all of them."""

from __future__ import annotations

import hypothesis.strategies as st
import polars as pl
from hypothesis import given, settings

from mamba_stream.operators.grid import Cumulative, Grid


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


@settings(deadline=None)
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
    assert grid.first_end(tick) == grid.first_end(pane)
    for open_ in range(min(windows) - 1, max(windows) + grid.size + 1):
        ends = [s + grid.size for s in windows_of(grid, open_, open_)]
        assert grid.first_open(open_) == min(end for end in ends if end > open_) - grid.size


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(-9, 9), st.integers(-100, 100))
def test_cumulative_windows_hold_a_tick_from_its_step_to_their_end(every, steps, origin, tick):
    grid = Cumulative(every * steps, every, origin)
    start = (tick - origin) // grid.size * grid.size + origin
    ends = [start + every * step for step in range(1, steps + 1)]
    mine = [end for end in ends if end > tick]
    assert (grid.first_end(tick), grid.last_end(tick)) == (min(mine), max(mine))
    pane, last, reached = pl.select(
        grid.pane_of(pl.lit(tick)), b=grid.last_end_of(pl.lit(tick)), c=grid.end_reached(pl.lit(tick))
    ).row(0)
    assert pane <= tick < pane + every
    assert (last, reached, len(mine) <= grid.most) == (max(mine), min(mine) - every, True)
    assert list(grid.ends(tick, start + grid.size)) == mine
    assert {grid.start_before(end) for end in ends} == {start}
    shown = dict(zip("ab", grid.bounds(pl.lit(mine[0])), strict=True))
    assert pl.select(**shown).row(0) == (start, mine[0])
    assert grid.first_open(tick) == start
