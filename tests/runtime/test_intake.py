"""Rows are judged alike however they lie in chunks."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import polars as pl
from hypothesis import given, settings
from polars.testing import assert_frame_equal

from mamba_stream.operators import lateness
from mamba_stream.operators.columns import BEHIND
from mamba_stream.runtime.feeds import FrameFeed, Portion
from mamba_stream.runtime.intake import Intake, IntakeSettings
from mamba_stream.runtime.watermarks import PartitionTime
from tests.sizes import examples


def intake(*, late_by: int, judged: bool) -> Intake:
    made = IntakeSettings(
        number=0,
        name="rows",
        what="frame 'rows'",
        time="ts",
        lateness=late_by,
        patience=30.0,
        ahead=None,
        append_scale=(1, 1),
        judged=judged,
        ordered=False,
    )
    return Intake(made, [], {0: PartitionTime(late_by)})


@settings(max_examples=examples(300), deadline=None)
@given(
    times=st.lists(st.integers(0, 20), min_size=1, max_size=40),
    ascending=st.booleans(),
    cuts=st.lists(st.integers(1, 39), max_size=5),
    late_by=st.sampled_from([0, 3, 15]),
    judged=st.booleans(),
)
def test_each_row_meets_the_watermark_of_the_rows_before_it(times, ascending, cuts, late_by, judged):
    times = sorted(times) if ascending else times
    frame = pl.DataFrame({"ts": times}).cast({"ts": pl.Datetime("ms")})
    ends = sorted({0, len(times), *(cut for cut in cuts if cut < len(times))})
    chunked = pl.concat([frame[first:end] for first, end in pairwise(ends)], rechunk=False)
    taken = intake(late_by=late_by, judged=judged)
    made, rejected = taken.take(FrameFeed(frame, 0), Portion(chunked, 0, len(times)))
    assert rejected is None
    assert taken.times[0].greatest == max(times)
    met: list[int | None] = []
    greatest = None
    for time in times:
        met.append(greatest - late_by if greatest is not None and time < greatest - late_by else None)
        greatest = time if greatest is None else max(greatest, time)
    assert_frame_equal(made.drop(BEHIND, strict=False), frame)
    if judged and any(watermark is not None for watermark in met):
        assert made.get_column(BEHIND).to_list() == met
    else:
        assert BEHIND not in made.columns


def test_what_is_in_order_is_still_behind_what_came_before_it():
    taken = intake(late_by=0, judged=True)
    feed = FrameFeed(pl.DataFrame({"ts": [50]}), 0)
    for times, met in (([50], None), ([10, 20, 60], [50, 50, None]), ([60, 70], None)):
        made, _ = taken.take(feed, Portion(pl.DataFrame({"ts": times}), 0, len(times)))
        assert (made.get_column(BEHIND).to_list() if BEHIND in made.columns else None) == met
    assert taken.times[0].watermark == lateness.watermark_of(70, 0)
