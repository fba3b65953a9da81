# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Workers, and a crash on purpose
#
# `workers=` runs a pipeline in processes of their own. Every task of it commits by itself, its rows, its offsets and its state in one
# transaction, so whatever dies, the rows are those of a run in which nothing did. Here we kill a worker to see it.

# %%
import os
import signal
import tempfile
import threading
from datetime import datetime, timedelta

import polars as pl

import mamba_stream as mamba

directory = tempfile.TemporaryDirectory()
log = mamba.open(directory.name)
trades = log.create_topic(
    "trades",
    {"ts": pl.Datetime("us"), "symbol": pl.String, "price": pl.Float64},
    partitions=4,
    time="ts",
)
start = datetime.fromisoformat("2024-01-01")


def some(first: int, count: int) -> pl.DataFrame:
    numbers = range(first, first + count)
    return pl.DataFrame(
        {
            "ts": [start + timedelta(milliseconds=10 * n) for n in numbers],
            "symbol": [f"S{n % 50}" for n in numbers],
            "price": [float(n % 97) for n in numbers],
        }
    )


everything = some(0, 40_000)
for number, part in enumerate(everything.iter_slices(1_000)):
    trades.append(part, partition=number % 4)
trades.end()

# %% [markdown]
# ## How it is cut
#
# Where rows of equal keys have to meet, a pipeline is cut into stages. Reading is done by a task for each partition; what goes on to the
# 32 tasks of the window are partial results, not rows. A function of your own goes to the workers as it is, a lambda too.


# %%
def slowly(frame: pl.DataFrame) -> pl.DataFrame:
    threading.Event().wait(0.05)  # so that there is time for an accident
    return frame


summed = (
    trades.stream(lateness="1h")
    .map_batches(slowly)
    .window(mamba.tumbling("1m"), by="symbol")
    .agg(trades=pl.len(), total=pl.col("price").sum())
)
print(summed.explain(format="stages"))

# %% [markdown]
# ## The crash
#
# We start it with two workers, wait until some rows are through, and kill one of the two: no warning, no clean-up.

# %%
job = mamba.start(mamba.pipeline("summed", summed.to("summed")), log=log, workers=2, commit="100ms")
while len(job.workers) < 2:
    threading.Event().wait(0.01)
victim = min(job.workers.values())
os.kill(victim, signal.SIGKILL)
summary = job.wait()
summary.state, summary.rows_in, summary.rows_out

# %% [markdown]
# Another worker followed, with the tasks of the one that died, from their last commits on. Polars over all rows says whether any is missing, or there twice:

# %%
wanted = (
    everything.group_by("symbol", pl.col("ts").dt.truncate("1m").alias("window_start"))
    .agg(trades=pl.len(), total=pl.col("price").sum())
    .sort("symbol", "window_start")
)
found = log["summed"].scan().select(wanted.columns).collect().sort("symbol", "window_start")
found.equals(wanted.cast(dict(found.schema)))

# %% [markdown]
# What the tasks are and when they committed last is in the log, as everything else:

# %%
len(log.records("jobs.tasks/summed")), log.statistics().commits > 0

# %%
log.close()
