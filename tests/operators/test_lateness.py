"""Watermarks before each row, against a loop."""

from __future__ import annotations

from itertools import pairwise
from unittest import mock

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from mamba_stream.operators import lateness as judging
from mamba_stream.operators.lateness import NEVER, rows_behind, watermark_of

TIMES = st.lists(st.integers(-50, 50) | st.sampled_from([NEVER + 1, NEVER + 3, (1 << 63) - 1]), max_size=30)


@given(
    TIMES | st.lists(st.integers(-50, 50), max_size=30).map(sorted),
    st.integers(0, 20),
    st.lists(st.integers(0, 30), max_size=5),
    st.sampled_from([1, 2, 5, 4_096]),
)
def test_every_cut_judges_each_row_by_the_rows_before_it(times, lateness, cuts, stretch):
    with mock.patch.object(judging, "_STRETCH", stretch):
        check(times, lateness, cuts)


def check(times, lateness, cuts):
    expected = []
    greatest = None
    for time in times:
        mark = NEVER if greatest is None or greatest == NEVER else max(greatest - lateness, NEVER + 1)
        expected.append(mark if time < mark else None)
        greatest = time if greatest is None else max(greatest, time)

    found, last = [], NEVER
    bounds = sorted({0, *(cut for cut in cuts if cut < len(times)), len(times)})
    for begin, end in pairwise(bounds):
        part = np.array(times[begin:end], dtype=np.int64)
        behind, last = rows_behind(part, last, lateness)
        if behind is None:
            found += [None] * len(part)
        else:
            pairs = zip(behind.rows, behind.watermark, strict=True)
            found += [int(mark) if late else None for late, mark in pairs]
    assert found == expected
    assert last == (greatest if greatest is not None else NEVER)


def test_no_rows_say_nothing():
    assert rows_behind(np.array([], dtype=np.int64), 7, 0) == (None, 7)
    assert watermark_of(NEVER, 10) == NEVER
