"""Runs hold what was added, whatever is merged, saved and restored in between."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings

from mamba_stream.operators.runs import SLOT, Runs


def merge(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.group_by(SLOT).agg(pl.col("n").sum()).sort(SLOT)


def made(keys: list[str]) -> Runs:
    return Runs(merge, keys)


def totals(frames: list[pl.DataFrame]) -> dict[int, int]:
    return dict(merge(pl.concat(frames)).rows()) if frames else {}


class Saved:
    """What a log would hold: the last snapshot and the deltas since."""

    def __init__(self) -> None:
        self.frames: list[pl.DataFrame] = []

    def restored(self, dropped: int, keys: list[str]) -> Runs:
        runs = made(keys)
        for frame in self.frames:
            for piece in frame.iter_slices(3):
                runs.restore(piece)
        runs.drop(dropped)
        return runs


ACTIONS = st.lists(
    st.tuples(st.just("add"), st.lists(st.integers(0, 40), min_size=1, max_size=6))
    | st.tuples(st.just("drop"), st.integers(0, 6))
    | st.tuples(st.sampled_from(["delta", "snapshot", "crash"]), st.just(0)),
    max_size=60,
)


@pytest.fixture(scope="module", params=["as large as they are", "nothing large"])
def sizes(request):
    with pytest.MonkeyPatch.context() as patched:
        if request.param == "nothing large":
            patched.setattr("mamba_stream.operators.runs._LARGE", 8)
            patched.setattr("mamba_stream.operators.runs._SMALL", 2)
            patched.setattr("mamba_stream.operators.shards._SHARDS", 4)
        yield


@pytest.mark.parametrize("keys", [[], [SLOT]], ids=["all kept", "combined"])
@settings(deadline=None)
@given(ACTIONS)
def test_what_is_in_them_is_what_was_added_and_not_dropped(sizes, keys, actions):
    runs, saved = made(keys), Saved()
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
            runs, truth, dropped = saved.restored(durable_dropped, keys), dict(durable), durable_dropped
        else:
            frame = runs.delta() if action == "delta" else runs.snapshot()
            saved.frames = ([] if action == "snapshot" else saved.frames) + (
                [frame] if frame is not None else []
            )
            durable, durable_dropped = dict(truth), dropped
        assert totals(runs.head(1 << 40)) == truth
        assert runs.first_slot == min(truth, default=None)
        assert bool(runs.rows) == bool(truth)


def test_rows_of_a_slot_keep_their_order_where_all_are_kept(monkeypatch):
    """Whatever was merged, saved in pieces, and restored."""
    monkeypatch.setattr("mamba_stream.operators.runs._LARGE", 16)
    monkeypatch.setattr("mamba_stream.operators.runs._SMALL", 4)
    runs, restored = (Runs(lambda frame: frame.sort(SLOT, maintain_order=True)) for _ in range(2))
    for first in range(0, 200, 5):
        runs.add(
            pl.DataFrame({SLOT: sorted(n % 3 for n in range(first, first + 5)), "n": range(first, first + 5)})
        )
        if first % 20 == 0:
            runs.delta()
    whole = runs.snapshot()
    assert whole is not None
    for piece in whole.iter_slices(7):
        restored.restore(piece)
    for table in (runs, restored):
        for _, rows in pl.concat(table.head(3)).group_by(SLOT):
            assert rows["n"].is_sorted()
            assert rows.height > 60


def test_no_merge_is_large_and_what_comes_again_is_combined():
    """Of 200,000 keys that come ten times over."""
    largest = 0

    def merging(frame: pl.DataFrame) -> pl.DataFrame:
        nonlocal largest
        largest = max(largest, frame.height)
        return frame.group_by(SLOT, "key").agg(pl.col("n").sum()).sort(SLOT)

    runs, keys, rows = Runs(merging, [SLOT, "key"]), np.random.default_rng(1).permutation(200_000), []
    for _ in range(10):
        for part in np.split(keys, 10):
            runs.add(pl.DataFrame({SLOT: np.zeros(len(part), dtype=np.int64), "key": part, "n": 1}))
            runs.delta()
            rows.append(runs.rows)
    assert largest <= 131_072
    assert max(rows) < 400_000
    assert runs.merged(runs.head(1))["n"].to_list() == [10] * 200_000
