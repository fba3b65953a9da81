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
# # Joins, tables and state
#
# How rows of two streams meet, what it means that a result changes, and how to look at what a job remembers.

# %%
import tempfile

import polars as pl

import mamba_stream as mamba
from mamba_pipelines import flights_weather
from mamba_pipelines.flights import airlines
from mamba_pipelines.nexmark import generate

directory = tempfile.TemporaryDirectory()
log = mamba.open(directory.name)

# %% [markdown]
# Ten seconds of an auction, from the generator of the benchmark Nexmark: persons, auctions, bids.

# %%
for name, frame in generate(0, 20_000, rate=2_000).items():
    topic = log.create_topic(name, frame, time="dateTime")
    topic.append(frame)
    topic.end()
person, auction, bid = (mamba.stream(name) for name in ("person", "auction", "bid"))
{name: log[name].offsets()[0][1] for name in log.topics()}

# %% [markdown]
# ## Close together in time
#
# A bid counts if it is made between an auction's begin and its end. Each auction says itself how long that is: the upper bound of
# `within` is an expression over its row. State leaves as soon as time has passed it.

# %%
opened = auction.select("id", "itemName", "category", "dateTime", "expires")
bids = bid.select("bidder", "price", "dateTime", id="auction")
offers = opened.join(bids, on="id", within=("0s", pl.col("expires") - pl.col("dateTime")))
offers.head(3, log=log)

# %% [markdown]
# `how="anti"` gives those that met none, once nobody can come any more: auctions without a bid.

# %%
unsold = opened.join(bids, on="id", how="anti", within=("0s", pl.col("expires") - pl.col("dateTime")))
unsold.collect(log=log).height

# %% [markdown]
# ## In the same window, and however far apart

# %%
sellers = auction.select("dateTime", id="seller")
new_sellers = person.select("id", "name", "dateTime").join(
    sellers, on="id", how="semi", window=mamba.tumbling("2s")
)
new_sellers.head(3, log=log)

# %% [markdown]
# Without bounds all rows have to be kept, which is warned of, unless `ttl=` says that it is meant.

# %%
known = person.select("city", "state", "dateTime", seller="id")
auction.select("id", "seller", "dateTime").join(known, on="seller", ttl="forever").head(3, log=log)

# %% [markdown]
# ## As it was at the time
#
# `join_asof` meets the latest row of the other stream: flights and the weather at their departure. A frame on the right is looked
# up as it is.

# %%
flights_weather.feed(log)
departures = (
    mamba.stream("flights", time="departed_at")
    .join_asof(mamba.stream("weather"), by="origin", tolerance="2h")
    .join(airlines(), on="carrier")
)
departures.select("departed_at", "origin", "airline", "dep_delay", "temp", "visib").head(4, log=log)

# %% [markdown]
# ## Tables
#
# A total over everything is never final. `group_by` gives a **changelog**: rows that come and are taken back. What it amounts to is a
# table, and that is what `collect` shows.

# %%
poor = departures.group_by("origin", poor=pl.col("visib") < 3).agg(
    flights=pl.len(), delay=pl.col("dep_delay").mean()
)
poor.collect(log=log)

# %% [markdown]
# Verbs behind a table see what is taken back. The highest bid of each auction changes while it lasts; so does the average of them by category.

# %%
highest = offers.group_by("id", "category").agg(price=pl.col("price").max())
average = highest.group_by("category").agg(auctions=pl.len(), average=pl.col("price").mean())
average.collect(log=log)

# %%
winners = offers.top_k(1, by=["price", "dateTime"], reverse=[False, True], per="id")
winners.select("id", "itemName", "bidder", "price").head(3, log=log)

# %% [markdown]
# ## What a job remembers
#
# In a topic a changelog keeps its `_op`, and can be read back as the table that it is. The step's state can be looked at, while the job
# runs and after.

# %%
pipeline = mamba.pipeline("auction", average.to("average_by_category", key="category"))
job = mamba.start(pipeline, log=log, until="now")
job.wait()
job.state("group_by category: auctions, average")

# %%
mamba.stream("average_by_category").table("category").collect(log=log)

# %% [markdown]
# `job.savepoint(name)` keeps all state under a name, to go back to. A changed pipeline says before it starts what it can keep.

# %%
changed = mamba.pipeline(
    "auction",
    highest.group_by("category").agg(auctions=pl.len(), best=pl.col("price").max()).to("best_by_category"),
)
print(changed.check_upgrade(log))

# %%
print(pipeline.explain())

# %%
log.close()
directory.cleanup()
