"""``process`` and ``side``: what cannot be right is refused at the user's line, with what would be."""

from __future__ import annotations

from datetime import datetime

import polars as pl
import pytest

import mamba_stream as mamba

FRAME = pl.DataFrame(
    {"ts": [datetime(2024, 1, 1)], "key": ["a"], "value": [1], "tags": [["x"]], "time": [1], "d": [None]},
    schema_overrides={"d": pl.Date},
)


def rows() -> mamba.Stream:
    return mamba.stream(FRAME, time="ts")


def same(rows, state, timers):
    return rows


CASES = {
    "no function": (lambda: rows().process(3, by="key"), "takes a function of rows, state and timers"),
    "no key": (lambda: rows().process(same, by=[]), "needs by="),
    "a key that is not there": (lambda: rows().process(same, by="kay"), "did you mean 'key'"),
    "a list as key": (lambda: rows().process(same, by="tags"), "cannot be a key"),
    "a key called as a column of timers": (lambda: rows().process(same, by="time"), "rename it"),
    "a state called as a key": (
        lambda: rows().process(same, by="key", state={"key": pl.Int64}),
        "'key' is a key and a column of the state",
    ),
    "a state that is no schema": (
        lambda: rows().process(same, by="key", state={"x": "text"}),
        "is no schema",
    ),
    "a state of objects": (lambda: rows().process(same, by="key", state={"x": pl.Object}), "process: state="),
    "a state with a name of the engine's": (
        lambda: rows().process(same, by="key", state={"__mamba_x": pl.Int8}),
        "the engine's own",
    ),
    "an output with a name of the engine's": (
        lambda: rows().process(same, by="key", output={"__mamba_x": pl.Int8}),
        "the engine's own",
    ),
    "a time to live that is none": (lambda: rows().process(same, by="key", ttl="long"), "process: ttl"),
    "a time to live of nothing": (lambda: rows().process(same, by="key", ttl="0s"), "process: ttl"),
    "a time to live finer than the time": (
        lambda: mamba.stream(FRAME, time="d").process(same, by="key", ttl="1h"),
        "whole days",
    ),
    "a time to live without time": (
        lambda: mamba.stream(FRAME).process(same, by="key", ttl="1h", order="arrival"),
        "needs the stream's time",
    ),
    "no time": (lambda: mamba.stream(FRAME).process(same, by="key"), r"order='arrival' does without"),
    "an order that is none": (
        lambda: rows().process(same, by="key", order="any"),
        "choose 'event' or 'arrival'",
    ),
    "rows per key": (lambda: rows().process(same, by="key", per_key=3), "choose 'one' or 'several'"),
    "a timeout that is none": (lambda: rows().process(same, by="key", timeout="soon"), "process: timeout"),
    "a timeout of nothing": (lambda: rows().process(same, by="key", timeout="0s"), "process: timeout"),
    "sides that are a list": (lambda: rows().process(same, by="key", sides=["x"]), "give {name: schema}"),
    "a side that is not there": (
        lambda: rows().process(same, by="key", sides={"large": {"x": pl.Int8}}).side("larg"),
        "did you mean 'large'",
    ),
    "a side of something else": (lambda: rows().side("x"), r"side belongs to the result of \.process"),
    "a name that cannot be": (
        lambda: rows().process(same, by="key", name="a/b"),
        "step name",
    ),
    "a window behind arrivals": (
        lambda: rows().process(same, by="key", order="arrival").window(mamba.tumbling("1h")).agg(pl.len()),
        "order='arrival': before a step that goes by time leave that out",
    ),
    "a window behind what lost the time": (
        lambda: (
            rows()
            .process(same, by="key", output={"key": pl.String})
            .window(mamba.tumbling("1h"))
            .agg(pl.len())
        ),
        "process at .* changed or dropped its time column",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused(case):
    build, why = CASES[case]
    with pytest.raises(mamba.InvalidInput, match=why):
        build()


def test_it_says_what_is_outside_the_guarantees():
    explained = (
        rows()
        .process(same, by="key", state={"n": pl.Int64}, order="arrival", per_key="several", timeout="30s")
        .explain()
    )
    assert "as rows arrive, 30s a call" in explained
    assert (
        "outside guarantee 3" in explained
        and "give ttl=" in explained
        and "several rows of a key" in explained
    )
