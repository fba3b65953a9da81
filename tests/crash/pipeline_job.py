"""A job that follows a topic until it ends; run as a process of its own, and killed at any moment.

    python -m tests.crash.pipeline_job LOG JOB

prints ``running`` when it has begun, and ``done`` when the topic is over and everything committed.
"""

from __future__ import annotations

import asyncio
import sys

import polars as pl

import mamba_stream as mamba

SCHEMA = {"at": pl.Datetime("us"), "key": pl.String, "value": pl.Int64, "number": pl.Int64}


async def ask(rows: pl.DataFrame) -> pl.DataFrame:
    """Takes longer over some rows than over those behind them."""
    await asyncio.sleep(rows["number"][0] % 7 / 1_000)
    return rows.with_columns(answer=pl.col("number") * 3)


def build(job: str) -> mamba.Pipeline:
    """Partial results, values that are held, rows that are kept, overlapping windows, late rows and plain ones.

    And answers from outside, which are on their way when it is killed.
    """
    events = mamba.stream("events", lateness="20s")
    priced = events.filter(pl.col("value") >= 0).with_columns(double=pl.col("value") * 2)
    totals = priced.window(mamba.tumbling("1m"), by="key").agg(
        rows=pl.len(),
        total=pl.col("double").sum(),
        last=pl.col("value").last(),
        middle=pl.col("value").median(),
        longest_run=pl.col("value").rle().struct.field("len").max(),
    )
    moving = priced.window(mamba.hopping("1m", "20s")).agg(rows=pl.len(), most=pl.col("value").max())
    best = totals.filter(pl.col("total") == pl.col("total").max().over("window_start"))
    answered = events.filter(pl.col("value") > 50).map_async(
        ask, schema={**SCHEMA, "answer": pl.Int64}, rows=5, concurrency=20
    )
    answers = answered.window(mamba.tumbling("1m"), by="key").agg(rows=pl.len(), total=pl.col("answer").sum())
    return mamba.pipeline(
        job,
        totals.to(f"{job}.totals"),
        totals.late.to(f"{job}.late"),
        moving.to(f"{job}.moving"),
        best.to(f"{job}.best"),
        answered.to(f"{job}.answered"),
        answers.to(f"{job}.answers"),
        answers.late.to(f"{job}.unanswered"),
        events.filter(pl.col("value") < 0).to(f"{job}.plain"),
    )


OUTPUTS = ("totals", "late", "moving", "best", "answered", "answers", "unanswered", "plain")


def main(log: str, job: str) -> None:
    """Runs the job to the end of its topic."""
    running = mamba.start(build(job), log=log, commit="5ms")
    print("running", flush=True)
    running.wait()
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
