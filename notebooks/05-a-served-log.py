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
# # A served log
#
# A log may be a directory of this machine, or at a server's address: everything else stays as it is. Here the server is a process
# beside this notebook; `mamba-stream serve --log data` starts one in a terminal.

# %%
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta

import polars as pl
import pyarrow as pa
from pyarrow import flight

import mamba_stream as mamba

directory = tempfile.TemporaryDirectory()
ports = ["--listen", "localhost:0", "--http", "off", "--health", "off"]
server = subprocess.Popen(
    [sys.executable, "-m", "mamba_stream.cli", "serve", "--log", directory.name, *ports],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
)
address = server.stdout.readline().split(" at ")[1].split()[0]
log = mamba.open(address)

# %% [markdown]
# ## The log

# %%
start = datetime.fromisoformat("2024-01-01")
trades = log.create_topic(
    "trades",
    {"ts": pl.Datetime("us"), "symbol": pl.String, "price": pl.Float64},
    partitions=2,
    key="symbol",
    time="ts",
)
rows = pl.DataFrame(
    {
        "ts": [start + timedelta(seconds=n) for n in range(10_000)],
        "symbol": list("ABCDEFGH") * 1_250,
        "price": [float(n % 97) for n in range(10_000)],
    }
)
trades.append(rows)

# %% [markdown]
# A filter is asked at the server: of these 10,000 rows only those come that it keeps.

# %%
trades.scan().filter(pl.col("symbol") == "A", pl.col("price") > 95).select("ts", "price").collect().head(3)

# %% [markdown]
# ## A pipeline
#
# It runs in this process, and reads, remembers and writes over the network: rows, offsets and state are one commit there, too.

# %%
hourly = (
    trades.stream()
    .window(mamba.tumbling("1h"), by="symbol")
    .agg(trades=pl.len(), mean=pl.col("price").mean())
)
hourly.collect(log=log).sort("window_start", "symbol").head(4)

# %% [markdown]
# ## A queue

# %%
with mamba.Producer(log) as producer:
    producer.create_topic("greetings")
    producer.send("greetings", "Hello, world!")

with mamba.Consumer(log) as consumer:
    consumer.subscribe("greetings")
    said = [message.value for message in consumer.consume(until="empty")]
said

# %% [markdown]
# ## Any other client
#
# The server speaks Arrow Flight. This is `pyarrow` alone; any language that has a Flight client can do the same.

# %%
client = flight.connect(f"grpc://{address}")
schema = pa.schema({"ts": pa.timestamp("us"), "symbol": pa.string(), "price": pa.float64()})
writer, answers = client.do_put(flight.FlightDescriptor.for_path("trades"), schema)
with writer:
    writer.write_batch(pa.record_batch([[start + timedelta(hours=3)], ["E"], [1.0]], schema=schema))
    answers.read()

sum(chunk.data.num_rows for chunk in client.do_get(flight.Ticket(b"trades")))

# %% [markdown]
# What the server's log holds, and what was committed through it:

# %%
facts = log.statistics()
facts.topics, facts.rows, facts.commits > 0

# %%
client.close()
log.close()
server.terminate()
server.wait()
