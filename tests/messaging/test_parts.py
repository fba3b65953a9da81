"""What open runs hold up, beside a plain loop over them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings, strategies as st

from mamba_stream.messaging.parts import Order
from mamba_stream.messaging.pending import KEY_GROUPS, Pending, bits_of, key_bitmap
from tests.sizes import examples

_FAR = np.iinfo(np.int64).max


@st.composite
def open_runs(draw: st.DrawFn) -> dict[str, Pending]:
    """Runs of one partition: every offset is in one at most."""
    owner = draw(st.lists(st.integers(0, 5), min_size=1, max_size=40))
    groups = draw(st.lists(st.sampled_from([-1, 0, 1, 7, 255]), min_size=len(owner), max_size=len(owner)))
    runs = {}
    for number in set(owner) - {0}:
        offsets = np.flatnonzero(np.array(owner) == number)
        held = np.array([groups[o] for o in offsets if groups[o] >= 0], np.uint8)
        keys = key_bitmap(held) if len(held) else b""
        runs[str(number)] = Pending(0, int(offsets[0]), bits_of(offsets, int(offsets[0])), 1, 0, keys)
    return runs


def groups_of(run: Pending) -> set[int]:
    marks = np.unpackbits(np.frombuffer(run.keys, np.uint8), bitorder="little") if run.keys else np.zeros(0)
    return set(np.flatnonzero(marks).tolist())


@given(open_runs())
@settings(max_examples=examples(300))
def test_a_run_is_held_up_by_others_that_begin_before_it_with_its_keys(runs: dict[str, Pending]) -> None:
    order = Order(runs)
    for key, run in runs.items():
        lowest = {
            group: min(
                (int(o.offsets[0]) for k, o in runs.items() if k != key and group in groups_of(o)),
                default=_FAR,
            )
            for group in range(KEY_GROUPS)
        }
        assert run.lowest == run.offsets[0]
        assert order.floors(key).tolist() == [lowest[group] for group in range(KEY_GROUPS)] or not run.keys
        held = bool(run.keys) and all(lowest[group] < run.lowest for group in groups_of(run))
        assert order.holds_up(key) == held
    everybody = [
        min((int(o.offsets[0]) for o in runs.values() if group in groups_of(o)), default=_FAR)
        for group in range(KEY_GROUPS)
    ]
    assert order.floors().tolist() == everybody
    assert not runs or not all(order.holds_up(key) for key in runs)


def test_nothing_open_holds_up_nothing() -> None:
    assert (Order({}).floors() == _FAR).all()
    assert not Order({}).holds_up("any")
