"""Jobs over workers whose topics become wider while they are interrupted: they go on, and each row counts once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_stream.errors import JobFailed, PipelineRefused, SchemaMismatch
from tests.runtime.workers.scenarios import Feed, Given, Scenario
from tests.runtime.workers.simulated import MEMORY, Troubled
from tests.runtime.workers.test_pooledjob import append, counting, expected, found, log, rows, start

__all__ = ["log"]

COUNT = 3_000
FIRST, ENOUGH = 4, 1
"""The first seed with which a job is interrupted and its topic widened, and how often that has to happen."""
STEPS = ({"value": pl.Int32}, {"value": pl.Int64, "note": pl.String})
"""What the topic's columns become, one after the other."""


def measures() -> pl.DataFrame:
    """Half an hour of values by key, out of order by seconds."""
    chance = np.random.default_rng(7)
    second = np.maximum(np.arange(COUNT) * 0.6 + chance.normal(0, 5, COUNT), 0)
    return pl.DataFrame(
        {
            "ts": pl.Series(second * 1e6).cast(pl.Int64).cast(pl.Datetime("us")),
            "key": chance.integers(0, 40, COUNT),
            "number": np.arange(COUNT),
            "value": pl.Series(chance.integers(-1_000, 1_000, COUNT), dtype=pl.Int16),
        }
    )


PER = mamba.tumbling("5m")
TOTAL = {"total": pl.Int64}
SEEN = {"key": pl.Int64, "number": pl.Int64, **TOTAL}


def totals(rows: pl.DataFrame, state: Any, timers: Any) -> pl.DataFrame:
    before = state.get(rows)["total"].fill_null(0)
    result = rows.with_columns(total=before + rows["value"].cast(pl.Int64))
    state.put(result)
    return result.select("key", "number", "total")


def seen(rows: pl.DataFrame, state: Any, timers: Any) -> pl.DataFrame:
    totals(rows, state, timers)
    return rows.select("key", "number", total=pl.col("value").cast(pl.Int64))


def positive(stream: mamba.Stream) -> mamba.Stream:
    return stream.filter(pl.col("value") > 0)


VERBS: dict[str, Callable[[mamba.Stream], mamba.Stream]] = {
    # Partial results cross, and are written: both are of the column's type.
    "window, partial results": lambda stream: stream.window(PER, by="key", name="step").agg(
        most=pl.col("value").max(), rows=pl.len()
    ),
    # Rows cross and are remembered; nothing of the column's type is written.
    "window, rows": lambda stream: stream.window(PER, by="key", name="step").agg(pl.col("value").n_unique()),
    # The column is neither sent nor remembered nor written: such a job takes the wider one.
    "window, other columns": lambda stream: (
        positive(stream).window(PER, by="key", name="step").agg(rows=pl.len())
    ),
    # Rows with the column cross and wait; what is remembered and written is of another type.
    "process": lambda stream: stream.process(totals, by="key", state=TOTAL, output=SEEN, name="step"),
    # They only cross.
    "process, as rows arrive": lambda stream: stream.process(
        seen, by="key", state=TOTAL, output=SEEN, order="arrival", name="step"
    ),
    "top_k": lambda stream: stream.top_k(3, by=["value", "number"], per="key", name="step"),
    "unique": lambda stream: stream.unique(["key", "value"], within="5m", name="step"),
    "lag": lambda stream: stream.lag("value", by="key", name="step"),
    "join": lambda stream: stream.join(positive(stream), on="key", within="3s", name="step"),
    "join_asof": lambda stream: stream.join_asof(positive(stream), by="key", name="step"),
}


def job_of(verb: str) -> mamba.Pipeline:
    return mamba.pipeline("job", VERBS[verb](mamba.stream("measures", lateness="60s", idle="7d")).to("out"))


def wanted(verb: str) -> Mapping[str, pl.DataFrame]:
    """The same of all rows at once."""
    rows = mamba.stream(measures(), time="ts", lateness="60s", name="measures")
    return {"out": VERBS[verb](rows).collect()}


def given() -> Mapping[str, Given]:
    return {"measures": Given(measures(), "ts", partitions=3)}


class Widening(Feed):
    """Widens the topic on the way; rows come with the columns that it has, or had."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self._narrow = self._given["measures"]
        self.behind = 0

    def bring(self) -> None:
        if self.behind < len(STEPS) and (self.portions == 1 or self._chance.random() < 0.4):
            self._log.alter_topic("measures", schema={**self._narrow.rows.schema, **STEPS[self.behind]})
            self.behind += 1
        columns = self._chance.choice([{}, *STEPS[: self.behind]])
        rows = self._narrow.rows.with_columns(
            pl.col("value").cast(columns.get("value", pl.Int16)),
            **({"note": pl.lit("x")} if "note" in columns else {}),
        )
        self._given = {"measures": replace(self._narrow, rows=rows)}
        super().bring()


class Interrupted(Troubled):
    """Counts the lives that begin over a topic that was widened in the one before."""

    over_wider = 0
    _seen = 0

    def _live(self, count: int) -> bool:
        self.over_wider += self.lives > 0 and self._feed.behind > self._seen
        self._seen = self._feed.behind
        return super()._live(count)


def interrupted(verb: str, seed: int) -> int:
    """Runs a job to its end and looks at the rows; how often it went on over columns that had become wider."""
    scenario = Scenario(verb, lambda: job_of(verb), given, lambda: wanted(verb))
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        job = Interrupted(scenario, log, np.random.default_rng(seed), Widening)
        try:
            job.run()
            job.check()
        except Exception as error:
            error.add_note(f"interrupted({verb!r}, seed={seed})")
            raise
        return job.over_wider


@pytest.mark.parametrize("verb", VERBS)
def test_interrupted_and_widened_it_goes_on_and_every_row_counts_once(verb):
    met = 0
    for seed in range(FIRST, FIRST + 100):
        met += interrupted(verb, seed)
        if met >= ENOUGH:
            break
    assert met >= ENOUGH


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_hundreds_of_seeds_lose_no_row_over_columns_that_became_wider(verb):
    assert sum(interrupted(verb, seed) for seed in range(300)) > 50


def test_what_does_not_fit_the_columns_before_is_refused_with_words_until_it_begins_anew(log):
    log.delete_topic("in")
    narrow = rows(0, 4_000).cast({"value": pl.Int32})
    log.create_topic("in", narrow, partitions=3, time="ts")
    append(log, narrow[:3_000])
    job = start(counting(), log, until="stopped", commit="10ms")
    job.checkpoint(60)
    job.cancel()
    log.alter_topic("in", schema={**narrow.schema, "value": pl.Int64})
    large = narrow[3_000:].with_columns(pl.lit(2**40).alias("value"))
    append(log, large)
    log["in"].end()
    with pytest.raises(PipelineRefused, match=r"was changed since its job was interrupted.*state='new'"):
        start(counting(), log, state="upgrade")
    with pytest.raises((JobFailed, SchemaMismatch), match=r"is not in Int32.*state='new'"):
        start(counting(), log).wait(60)
    start(counting(), log, state="new").wait(60)
    both = pl.concat([narrow[:3_000].cast({"value": pl.Int64}), large])
    assert_frame_equal(found(log), expected(both), check_row_order=False)
