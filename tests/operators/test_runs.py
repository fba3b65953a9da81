"""Runs hold what was added, whatever is merged, saved and restored in between."""

from __future__ import annotations

import hypothesis.strategies as st
import polars as pl
from hypothesis import given, settings

from mamba_stream.operators.runs import SLOT, Runs


def merge(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.group_by(SLOT).agg(pl.col("n").sum()).sort(SLOT)


def made() -> Runs:
    return Runs(merge)


def totals(frames: list[pl.DataFrame]) -> dict[int, int]:
    return dict(merge(pl.concat(frames)).rows()) if frames else {}


class Saved:
    """What a log would hold: the last snapshot and the deltas since."""

    def __init__(self) -> None:
        self.frames: list[pl.DataFrame] = []

    def restored(self, dropped: int) -> Runs:
        runs = made()
        for frame in self.frames:
            runs.restore(frame)
        runs.drop(dropped)
        return runs


ACTIONS = st.lists(
    st.tuples(st.just("add"), st.lists(st.integers(0, 40), min_size=1, max_size=6))
    | st.tuples(st.just("drop"), st.integers(0, 6))
    | st.tuples(st.sampled_from(["delta", "snapshot", "crash"]), st.just(0)),
    max_size=60,
)


@settings(deadline=None)
@given(ACTIONS)
def test_what_is_in_them_is_what_was_added_and_not_dropped(actions):
    runs, saved = made(), Saved()
    truth: dict[int, int] = {}
    durable: dict[int, int] = {}
    dropped = durable_dropped = 0
    for action, value in actions:
        if action == "add":
            rows = [dropped + offset for offset in value]
            runs.add(merge(pl.DataFrame({SLOT: rows, "n": [1] * len(rows)})))
            for row in rows:
                truth[row] = truth.get(row, 0) + 1
        elif action == "drop":
            dropped += value
            head = totals(runs.head(dropped))
            assert head == {slot: n for slot, n in truth.items() if slot < dropped}
            runs.drop(dropped)
            truth = {slot: n for slot, n in truth.items() if slot >= dropped}
        elif action == "crash":
            runs, truth, dropped = saved.restored(durable_dropped), dict(durable), durable_dropped
        else:
            frame = runs.delta() if action == "delta" else runs.snapshot()
            saved.frames = ([] if action == "snapshot" else saved.frames) + (
                [frame] if frame is not None else []
            )
            durable, durable_dropped = dict(truth), dropped
        assert totals(runs.head(1 << 40)) == truth
        assert runs.first_slot == min(truth, default=None)
        assert bool(runs.rows) == bool(truth)
