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
# # Time and windows
#
# Rows come when they come; what counts is when they happened. This notebook looks at how far rows are behind, what the watermark makes
# of that, and at the windows that go by it.

# %%
import tempfile

import polars as pl

import mamba_stream as mamba
from mamba_pipelines import clickstream
from mamba_pipelines.flights import flights
from mamba_stream import testing

directory = tempfile.TemporaryDirectory()
log = mamba.open(directory.name)

# %% [markdown]
# The flights of January 2013 as they left New York, by the time at which they should have left: truly out of order.

# %%
january = flights().filter(pl.col("scheduled_at").dt.month() == 1, pl.col("dep_delay").is_not_null())
topic = log.create_topic("flights", january, time="scheduled_at")
topic.append(january)
topic.end()
{f"{share:.1%}": str(behind) for share, behind in topic.describe().disorder.items()}

# %% [markdown]
# ## Late rows
#
# A window closes when the **watermark**, the greatest time seen less the `lateness`, passes its end. What comes for it after that is
# late: counted, and a stream of its own. More lateness loses less and waits longer.


# %%
def hourly(lateness):
    departures = mamba.stream("flights", lateness=lateness)
    return departures.window(mamba.tumbling("1h"), by="origin").agg(
        departures=pl.len(), mean_delay=pl.col("dep_delay").mean()
    )


pl.DataFrame(
    {
        "lateness": lateness,
        "windows": hourly(lateness).collect(log=log).height,
        "late": hourly(lateness).late.collect(log=log).height,
    }
    for lateness in ("10m", "1h", "3h", "12h")
)

# %% [markdown]
# Each late row says how much more lateness would have kept it.

# %%
late = hourly("3h").late.collect(log=log)
late.sort("late_by", descending=True).select("scheduled_at", "departed_at", "origin", "late_by").head(3)

# %% [markdown]
# Late is a property of the data: judged against the watermark before the row, never after its batch. So these numbers are the same
# however the rows are cut into batches.
#
# ## A window as a whole
#
# A windowed result may look at the whole closed window: here, the airport with the most departures of each hour.

# %%
busiest = hourly("3h").filter(pl.col("departures") == pl.col("departures").max().over("window_start"))
busiest.collect(log=log).get_column("origin").value_counts(sort=True)

# %% [markdown]
# ## Windows that overlap, grow, and follow their rows
#
# `hopping` windows overlap; `cumulative` ones show the day so far; `rows(n)` takes so many rows of a key.

# %%
departures = mamba.stream("flights", lateness="3h")
sliding = departures.window(mamba.hopping("1h", "15m")).agg(departures=pl.len())
sliding.head(4, log=log)

# %%
so_far = departures.window(mamba.cumulative("1d", "6h"), by="origin").agg(departures=pl.len())
so_far.filter(pl.col("origin") == "JFK").head(4, log=log)

# %% [markdown]
# A `session` ends with a pause: here the visits of a web shop, whose clicks come out of order and some hours late.

# %%
clickstream.feed(log)
visits = (
    mamba.stream("clicks", lateness="2m")
    .window(mamba.session("30m"), by="user")
    .agg(clicks=pl.len(), pages=pl.col("page").unique(maintain_order=True))
)
visits.head(4, log=log)

# %% [markdown]
# ## Results before the end
#
# A window that gives a result every so often, or takes late rows for a while, takes results back: a **changelog**, whose rows say in
# `_op` what they do. `testing.play` lets rows arrive bit by bit, in a log of its own.

# %%
live = departures.window(mamba.tumbling("1d"), every="6h", corrections="12h").agg(departures=pl.len())
arriving = [testing.Rows("flights", part) for part in january.head(1_600).iter_slices(200)]
played = testing.play(live, arriving, time="scheduled_at")
played["out"].head(7)

# %% [markdown]
# What these changes amount to is a table; `collect` shows that at once.

# %%
played.table()

# %% [markdown]
# ## Rows that look back
#
# `rolling` is for each row what a window is for all: the delays of the hour before it. `match` finds sequences of rows.

# %%
busy = departures.rolling("1h", by="origin").with_columns(
    in_last_hour=pl.len(), mean=pl.col("dep_delay").mean()
)
busy.select("scheduled_at", "origin", "dep_delay", "in_last_hour", "mean").head(4, log=log)

# %%
collapse = departures.match(
    [
        mamba.step("on_time", pl.col("dep_delay") <= 0),
        mamba.step("late", pl.col("dep_delay") > 60, within="1h"),
        mamba.step("worse", pl.col("dep_delay") > 180, within="2h"),
    ],
    by=["origin", "carrier"],
    within="3h",
).agg(at=pl.col("worse.scheduled_at"), delay=pl.col("worse.dep_delay"))
collapse.head(4, log=log)

# %%
log.close()
directory.cleanup()
