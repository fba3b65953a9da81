"""What left rows reach is what their bounds say, at the ends of time too."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from mamba_stream.operators.joinside import Reach
from tests.sizes import examples

LAST = (1 << 63) - 1
# A row's own time and its bound are ticks; their sum has to be, too.
TIMES = st.one_of(st.integers(-20, 20), st.integers(-(1 << 62), 1 << 62))
ENDS = st.one_of(st.integers(-20, 20), st.integers(-LAST, LAST), st.sampled_from([-LAST, LAST]))
BOUNDS = st.one_of(st.integers(-10, 10), st.integers(-(1 << 61), 1 << 61))


@settings(max_examples=examples(500), deadline=None)
@given(
    lefts=st.lists(st.tuples(TIMES, ENDS), min_size=1, max_size=12),
    rights=st.lists(ENDS, min_size=1, max_size=12),
    bounds=st.tuples(BOUNDS, BOUNDS),
    own=st.booleans(),
)
def test_pairs_meet_that_lie_within_the_bounds(lefts, rights, bounds, own):
    lower, upper = min(bounds), max(bounds)
    times, until = (np.array(part, np.int64) for part in zip(*lefts, strict=True))
    reach = Reach(times, until if own else None, lower, None if own else upper)
    left, right = (part.ravel() for part in np.meshgrid(np.arange(len(lefts)), np.arange(len(rights))))
    found = reach.meets(left, np.array(rights, np.int64), right)
    expected = [
        lefts[one][0] + lower <= rights[other] <= (lefts[one][1] if own else lefts[one][0] + upper)
        for one, other in zip(left.tolist(), right.tolist(), strict=True)
    ]
    assert found.tolist() == expected
