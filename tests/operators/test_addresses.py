"""An index whose keys are addresses gives what a dict gives, also when they drift off, jump far or stop being any."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings

from mamba_stream.operators import addresses
from mamba_stream.operators.keycodes import _NULL
from mamba_stream.operators.keyindex import KeyIndex
from tests.sizes import examples

LOOKALIKE = int(np.array(_NULL).view(np.int64))
"""A number whose code is that of null."""
FAR = [(1 << 63) - 1, -(1 << 63), LOOKALIKE, LOOKALIKE + 1, None]


@pytest.mark.parametrize("room", [2, 64, 4_096])
@settings(max_examples=examples(80), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["insert", "insert", "insert", "find", "remove old", "remove some"]),
            st.integers(0, 30),
            st.integers(0, 40),
        ),
        max_size=25,
    ),
    far=st.lists(st.sampled_from(FAR), max_size=2),
    seed=st.integers(0, 1 << 32),
)
def test_slots_are_those_of_a_dict(monkeypatch, room, steps, far, seed):
    monkeypatch.setattr(addresses, "_ROOM", room)
    chance = np.random.default_rng(seed)
    index = KeyIndex({"k": pl.Int64()})
    known: dict[int | None, int] = {}
    first, stray = (
        0,
        {int(place): value for place, value in zip(chance.integers(0, 26, 2), far, strict=False)},
    )
    for number, (step, forward, count) in enumerate(steps):
        first += forward
        keys: list[int | None] = chance.integers(first - 5, first + 45, count).tolist()
        if number in stray:
            keys.append(stray[number])
        frame = pl.DataFrame({"k": keys}, schema={"k": pl.Int64})
        if step == "insert":
            for key, slot in zip(keys, index.slots(frame, insert=True).tolist(), strict=True):
                assert known.setdefault(key, slot) == slot
        elif step == "find":
            assert index.slots(frame).tolist() == [known.get(key, -1) for key in keys]
        else:
            old = step == "remove old"
            gone = [
                key for key in known if (key is not None and key < first if old else chance.random() < 0.3)
            ]
            index.remove(np.array([known.pop(key) for key in gone], np.int64))
        assert len(set(known.values())) == len(known) == index.rows
    everything = [*known, *FAR, *range(-10, 900)]
    frame = pl.DataFrame({"k": everything}, schema={"k": pl.Int64})
    assert index.slots(frame).tolist() == [known.get(key, -1) for key in everything]
    slots = np.array(list(known.values()), np.int64)
    assert index.keys(slots).get_column("k").to_list() == list(known)


def test_a_number_whose_code_is_that_of_null_is_not_null():
    index = KeyIndex({"k": pl.Int64()})
    keys = [LOOKALIKE, LOOKALIKE + 1, None]
    slots = index.slots(pl.DataFrame({"k": keys}, schema={"k": pl.Int64}), insert=True)
    assert len(set(slots.tolist())) == 3
    assert index.keys(slots).get_column("k").to_list() == keys


def test_ids_that_count_up_and_leave_take_no_more_room_than_those_that_are_there():
    index = KeyIndex({"k": pl.Int64()})
    sizes = []
    last = np.empty(0, np.int64)
    for start in range(0, 400_000, 2_000):
        slots = index.slots(pl.DataFrame({"k": range(start, start + 2_000)}), insert=True)
        index.remove(last)
        last = slots
        sizes.append(index.bytes)
    assert index._addresses is not None
    assert max(sizes) < 250_000


def test_keys_that_lie_apart_have_cells():
    index = KeyIndex({"k": pl.Int64()})
    index.slots(pl.DataFrame({"k": [0, 1_000_000_000]}), insert=True)
    assert index._addresses is None
    assert index.bytes < 5_000
