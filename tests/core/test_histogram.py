"""Durations in buckets: every one is in the bucket that holds it, and Prometheus' way of counting adds up."""

from __future__ import annotations

from hypothesis import given, strategies as st

from mamba_stream.core.histogram import BOUNDS, Durations, cumulative, together

SECONDS = st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(0, 100)), max_size=50)


@given(SECONDS, SECONDS)
def test_as_many_are_up_to_each_bound_as_there_are(one: list[float], other: list[float]) -> None:
    taken = Durations(), Durations()
    for each, many in zip(taken, (one, other), strict=True):
        for seconds in many:
            each.add(seconds)
    found = cumulative(together(taken[0].counts, taken[1].counts))
    assert [float(bound) for bound, _ in found] == [*BOUNDS, float("inf")]
    for bound, count in found:
        assert count == sum(seconds <= float(bound) for seconds in (*one, *other))


def test_nothing_counted_is_nothing() -> None:
    assert {count for _, count in cumulative([])} == {0.0}
