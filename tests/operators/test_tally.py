"""Counts of how late rows were, against the sorted numbers themselves."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import example, given

from mamba_stream.operators.tally import Tally

NUMBERS = st.lists(st.integers(1, 1000) | st.integers(1, 1 << 60), min_size=1, max_size=50)


@given(NUMBERS, st.integers(0, 60))
@example([(1 << 56) + 1], 0)
def test_the_number_covers_all_but_those_and_is_hardly_too_great(numbers, leave):
    tally = Tally()
    for part in (numbers[::2], numbers[1::2]):
        tally.add(np.array(part, dtype=np.int64))
    tally = Tally(tally.counts)
    exact = sorted(numbers, reverse=True)[leave] if leave < len(numbers) else 0
    found = tally.covering(leave)
    assert tally.total == len(numbers)
    assert exact <= found <= exact * 1.04 + 1
