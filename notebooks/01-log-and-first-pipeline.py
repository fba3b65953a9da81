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
# # The log, and a first pipeline
#
# A year of real flights goes into a durable log; a pipeline makes hourly delays of them; the result is a topic again.
# Everything lives in one directory, here a temporary one.

# %%
import tempfile

import polars as pl

import mamba_stream as mamba
from mamba_pipelines.flights import airlines, flights

directory = tempfile.TemporaryDirectory()
log = mamba.open(directory.name)

# %% [markdown]
# ## The log
#
# The flights that left New York's airports in 2013, in the order in which they left. By the time they were *scheduled* they are
# truly out of order.

# %%
year = flights()
topic = log.create_topic("flights", year, time="scheduled_at", compression="lz4")
for batch in year.iter_slices(8_192):
    topic.append(batch)
topic.end()
topic.offsets()

# %% [markdown]
# `describe` reads the recent rows and says how far they lie behind the greatest time before them: which lateness would keep how many.

# %%
{f"{share:.1%}": str(behind) for share, behind in topic.describe().disorder.items()}

# %% [markdown]
# A topic is also a `LazyFrame`. Only the columns and the batches that are needed are read: here, one day of the year.

# %%
day = pl.datetime(2013, 7, 4, time_zone="UTC")
(
    topic.scan()
    .filter(pl.col("scheduled_at").is_between(day, day + pl.duration(days=1), closed="left"))
    .group_by("origin")
    .agg(flights=pl.len(), cancelled=pl.col("departed_at").is_null().sum())
    .sort("origin")
    .collect()
)

# %% [markdown]
# ## A pipeline
#
# Verbs on a stream are those of Polars. A window adds time: it closes when no row can come for it any more, three hours of lateness
# allowed. Building runs nothing.

# %%
departures = topic.stream(lateness="3h")
hourly = (
    departures.filter(pl.col("dep_delay").is_not_null())
    .window(mamba.tumbling("1h"), by=["origin", "carrier"])
    .agg(
        departures=pl.len(),
        mean_delay=pl.col("dep_delay").mean(),
        p95=pl.col("dep_delay").quantile(0.95),
    )
    .join(airlines(), on="carrier", how="left")
)
hourly.head(5)

# %% [markdown]
# What looks beyond its row would depend on where batches are cut. It is refused, and the refusal says what to do:

# %%
try:
    departures.filter(pl.col("dep_delay") > pl.col("dep_delay").mean())
except mamba.ExpressionRefused as refused:
    print(str(refused).rpartition(" (")[0])

# %% [markdown]
# ## Running it
#
# Offsets, state and output commit together: killed anywhere and run again, it gives exactly these rows. Late rows are not lost
# either; they have a topic of their own.

# %%
pipeline = mamba.pipeline("hourly-delays", hourly.to("hourly_delays"), hourly.late.to("late_flights"))
mamba.run(pipeline, log=log)
{name: log[name].offsets()[0][1] for name in log.topics()}

# %% [markdown]
# Run again, it resumes, finds nothing new, and adds nothing twice.

# %%
mamba.run(pipeline, log=log)
{name: log[name].offsets()[0][1] for name in log.topics()}

# %% [markdown]
# The result is a topic like any other. The worst hours of the year:

# %%
(
    log["hourly_delays"]
    .scan()
    .filter(pl.col("departures") >= 10)
    .sort("mean_delay", descending=True)
    .select("window_start", "origin", "airline", "departures", pl.col("mean_delay").round(1), "p95")
    .head(8)
    .collect()
)

# %% [markdown]
# ## From files and to files
#
# A connector's source begins a stream as a topic does, and a sink ends one: every row exactly once, whatever is killed.

# %%
from pathlib import Path

from mamba_connectors import files

place = Path(directory.name)
(place / "in").mkdir()
for number, part in enumerate(flights().head(20_000).iter_slices(5_000)):
    part.write_parquet(place / "in" / f"{number}.parquet")

read = mamba.stream(files.source(place / "in", format="parquet"), time="scheduled_at", lateness="3h")
daily = read.window(mamba.tumbling("1d"), by="origin").agg(departures=pl.len())
mamba.run(mamba.pipeline("daily", daily.to(files.sink(place / "out", partition_by="origin"))), log=log)
pl.scan_parquet(place / "out" / "**" / "*.parquet", hive_partitioning=True).sort(
    "window_start", "origin"
).head(6).collect()

# %%
log.close()
directory.cleanup()
