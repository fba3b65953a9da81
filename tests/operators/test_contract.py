"""Every verb that remembers keeps the contract of a step: any cut, any crash, the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.plan import nodes as n
from mamba_stream.testing.operators import StepContract
from tests.sizes import crossed, examples

BEGIN = datetime(2024, 1, 1)


def made(seed: int, rows: int, name: str) -> pl.DataFrame:
    """Rows with ties, nulls and disorder of up to a minute."""
    random = np.random.default_rng(seed)
    seconds = np.sort(random.integers(0, 600, rows)) + random.integers(-60, 1, rows)
    return pl.DataFrame(
        {
            "ts": [BEGIN + timedelta(seconds=int(second)) for second in seconds],
            "key": [[None, "a", "b", "c"][at] for at in random.integers(0, 4, rows)],
            name: [None if x == 0 else int(x) for x in random.integers(0, 9, rows)],
        },
        schema={"ts": pl.Datetime("us"), "key": pl.String, name: pl.Int64},
    )


ONE = [{"one": made(1, 120, "x")}, {"one": [made(2, 70, "x"), made(3, 50, "x")]}, {"one": made(4, 1, "x")}]
TWO = [
    {"one": made(1, 80, "x"), "two": made(5, 60, "y")},
    {"one": [made(2, 40, "x"), made(3, 40, "x")], "two": made(6, 3, "y")},
]


def one(lateness: str) -> mamba.Stream:
    return mamba.stream("one", lateness=lateness)


def two(lateness: str) -> mamba.Stream:
    return mamba.stream("two", lateness=lateness)


TOTAL = {"total": pl.col("x").sum(), "count": pl.len(), "first": pl.col("x").first(), "all": pl.col("x")}


def window(spec: Any, **options: Any) -> Callable[[str], mamba.Stream]:
    return lambda lateness: one(lateness).window(spec, by="key", **options).agg(**TOTAL)


def counted(frame: pl.DataFrame, state: Any, timers: Any) -> pl.DataFrame:
    seen = state.get(frame).get_column("seen").fill_null(0) + 1
    state.put(frame.select("key").with_columns(seen=seen))
    return frame.select("ts", "key").with_columns(seen=seen)


def process(lateness: str, **options: Any) -> mamba.Stream:
    output = {"ts": pl.Datetime("us"), "key": pl.String, "seen": pl.Int64}
    return one(lateness).process(counted, by="key", state={"seen": pl.Int64}, output=output, **options)


SINGLE: dict[str, Callable[[str], mamba.Stream]] = {
    "tumbling": window(mamba.tumbling("1m")),
    "hopping": window(mamba.hopping("1m", "20s")),
    "by the calendar": window(mamba.tumbling("1d")),
    "cumulative": window(mamba.cumulative("2m", "30s")),
    "session": window(mamba.session("5s")),
    "rows": window(mamba.rows(5)),
    "updated": window(mamba.tumbling("1m"), emit="update"),
    "early": window(mamba.tumbling("2m"), every="30s"),
    "corrected": window(mamba.tumbling("1m"), corrections="2m"),
    "rolling": lambda late: one(late).rolling("30s", by="key").agg(total=pl.col("x").sum()),
    "lag": lambda late: one(late).lag("x", 2, by="key"),
    "match": lambda late: (
        one(late)
        .match([mamba.step("low", pl.col("x") < 3), mamba.step("high", pl.col("x") > 6)], "key", within="1m")
        .agg(both=pl.col("low.x") + pl.col("high.x"))
    ),
    "totals": lambda late: one(late).group_by("key").agg(**TOTAL, distinct=pl.col("x").n_unique()),
    "totals of totals": lambda late: (
        one(late).group_by("key", "x").agg(count=pl.len()).group_by("key").agg(most=pl.col("count").max())
    ),
    "table": lambda late: one(late).table("key"),
    "unique": lambda late: one(late).unique("key", within="1m"),
    "best, with rank": lambda late: one(late).top_k(3, by="x", per="key", rank="rank"),
    "best": lambda late: one(late).top_k(3, by="x", per="key"),
    "best of a table": lambda late: one(late).table(["key", "x"]).top_k(2, by="x", per="key", rank="rank"),
    "best of a window": lambda late: window(mamba.tumbling("1m"))(late).top_k(
        2, by="total", per="window_start"
    ),
    "process": process,
    "with_time": lambda late: (
        one("0s").with_time("ts", lateness=late).window(mamba.tumbling("1m"), by="key").agg(**TOTAL)
    ),
}
DOUBLE: dict[str, Callable[[str], mamba.Stream]] = {
    **{
        f"interval, {how}": lambda late, how=how: one(late).join(
            two(late), on="key", how=how, within=("-30s", "-5s")
        )  # type: ignore[misc]
        for how in ("inner", "left", "right", "full", "semi", "anti")
    },
    **{
        f"unbounded, {how}": lambda late, how=how: one(late).join(two(late), on="key", how=how, ttl="forever")  # type: ignore[misc]
        for how in ("inner", "left", "full", "anti")
    },
    "in a window": lambda late: one(late).join(two(late), on="key", window=mamba.tumbling("1m")),
    "as of": lambda late: one(late).join_asof(two(late), by="key", tolerance="1m"),
    "with a table": lambda late: one(late).join(two(late).table("key"), on="key", how="left"),
    "of tables": lambda late: (
        one(late).table("key").join(two(late).table("key", name="two"), on="key", how="left")
    ),
}
CASES = {name: (stream, ONE) for name, stream in SINGLE.items()} | {
    name: (stream, TWO) for name, stream in DOUBLE.items()
}


@pytest.mark.parametrize(("name", "lateness"), crossed(CASES, ["2m", "5s"], every=2))
class TestEveryStep:
    def test_any_cut_and_any_crash_gives_the_same(self, name, lateness):
        contract(*CASES[name], lateness).test_any_cut_and_any_crash_gives_the_same()

    def test_it_can_be_explained(self, name, lateness):
        contract(*CASES[name], lateness).test_it_can_be_explained()


def contract(stream: Callable[[str], mamba.Stream], cases: list[Any], lateness: str) -> StepContract:
    class Contract(StepContract):
        data = cases
        runs = examples(12, least=3)

        def stream(self) -> mamba.Stream:
            return stream(lateness)

    return Contract()


def test_no_kind_of_step_is_left_out():
    def kinds(of: type) -> Iterator[type]:
        for kind in of.__subclasses__():
            yield kind
            yield from kinds(kind)

    # What acts on arrival gives up the same rows for every cut, and says so.
    on_arrival = {"UniqueOnArrival", "ProcessArrivals"}
    tried = {type(node) for stream, _ in CASES.values() for node in n.walk([stream("0s")._node])}
    ours = {kind for kind in kinds(n.Stateful) if kind.__module__.startswith("mamba_stream.")}
    assert {kind.__name__ for kind in ours - tried} - on_arrival == {
        kind.__name__ for kind in ours - tried if kind.__subclasses__()
    }
