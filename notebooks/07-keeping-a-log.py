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
# # Keeping a log
#
# What makes a log one that is kept for years: how durable commits are, how long rows are, columns that change, a backup, and the doctor.

# %%
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

import mamba_stream as mamba

directory = tempfile.TemporaryDirectory()
place = Path(directory.name)
log = mamba.open(place / "log")
prices = log.create_topic(
    "prices",
    {"at": pl.Datetime("us"), "symbol": pl.String, "price": pl.Float32},
    key="symbol",
    time="at",
    compact=True,
    compact_after="0s",
)

# %% [markdown]
# ## How durable
#
# An append is on the disk when it returns, unless it says otherwise. `interval` leaves it to a flush within a second, `os` to the operating
# system: the death of the process loses nothing of them either, a loss of power takes the whole log back to its last flush. The answer says what
# is promised, and `statistics()` which commit is on the disk.

# %%
start = datetime.fromisoformat("2026-01-01")


def day(number):
    return pl.DataFrame(
        {
            "at": [start + timedelta(days=number, seconds=second) for second in range(4)],
            "symbol": list("ABCD"),
            "price": [float(number + second) for second in range(4)],
        },
        schema_overrides={"price": pl.Float32},
    )


answer = prices.append(day(0), durability="os")
answer, answer.promise

# %%
facts = log.statistics()
waiting = facts.lsn - facts.flushed_lsn
log.flush()
facts = log.statistics()
waiting, facts.lsn - facts.flushed_lsn

# %% [markdown]
# ## Columns that change
#
# A column is added, a type becomes wider. Rows that are there already stay as they are written, and are read with nulls and casts. What could
# not be read so is refused, with the difference.

# %%
for number in range(1, 30):
    prices.append(day(number), durability="os")
prices = log.alter_topic("prices", add={"venue": pl.String})
prices.append(day(30).with_columns(venue=pl.lit("NYSE")))
prices.scan().tail(5).collect()

# %%
try:
    log.alter_topic("prices", schema={"at": pl.Datetime("us"), "symbol": pl.Int64, "price": pl.Float32})
except mamba.MambaStreamError as error:
    print(error)

# %% [markdown]
# ## Upkeep
#
# `maintain()` removes what is older or more than the topic keeps, seals, and compacts: of each symbol the latest row stays, at its offset.
# A server does that by itself, and so does a process in which a job runs.

# %%
batches = prices.describe().batches
log.maintain()
batches, prices.describe().batches, prices.scan().collect().height

# %% [markdown]
# ## Room on the disk
#
# Before the disk is full rows are refused, at a mark, while reading and deleting go on. A quota is a mark of one topic: nothing beyond it is taken,
# and nothing is removed.

# %%
facts = log.statistics()
print(facts.disk_state, facts.ballast_bytes)
log.alter_topic("prices", quota="1KiB")
try:
    prices.append(day(31).with_columns(venue=pl.lit("NYSE")))
except mamba.TopicFull as error:
    print(error)
prices = log.alter_topic("prices", quota="10GB")

# %% [markdown]
# ## A backup, and the doctor
#
# A backup is one moment of the log, taken while it is in use; a second one costs what has changed. A restored log is looked over before it appears.

# %%
first = log.backup(place / "backups")
prices.append(day(31).with_columns(venue=pl.lit("NYSE")))
second = log.backup(place / "backups")
first.lsn < second.lsn, first.copied > second.copied

# %%
mamba.restore(place / "backups", place / "restored", to=first.lsn)
with mamba.open(place / "restored") as restored:
    print(restored["prices"].offsets(), "where the log has", prices.offsets())

# %%
log.close()
directory.cleanup()
