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
# # A queue
#
# A message is a row of a topic. What sends and what receives may be any number of processes on one directory; here everything is
# in one, and the directory is a temporary one.

# %%
import logging
import tempfile

import polars as pl

import mamba_stream as mamba

logging.getLogger("mamba_stream.messaging").setLevel(logging.ERROR)  # retries are logged as warnings
directory = tempfile.TemporaryDirectory()
log = mamba.open(directory.name)

# %% [markdown]
# ## Send
#
# `send` returns at once, with a handle that knows when the message is on disk, and where.

# %%
producer = mamba.Producer(log)
producer.create_topic("mails", partitions=2)
for number, name in enumerate(["ada", "bela", "carla", "dora"] * 5):
    sent = producer.send(
        "mails",
        {"number": number, "to": name},
        key=name,
        event_type="newsletter" if number % 5 else "invoice",
    )
sent.result()

# %% [markdown]
# It is a topic like any other: its rows can be looked at as a frame.

# %%
log["mails"].scan().group_by("event_type").agg(messages=pl.len()).sort("event_type").collect()

# %% [markdown]
# ## Receive
#
# The subscribers of a group share the messages. A callback that returns has done its message; one that raises gets it again, and after
# `attempts` it is a dead letter.

# %%
delivered = []


def deliver(message):
    delivered.append((message.key, message.value["number"], message.attempt))
    if message.key == "dora":
        raise ConnectionError("no such host")


mailer = mamba.Subscriber("mails", log, group="mailers", start="earliest", attempts=2, backoff=("20ms", "1s"))
mailer.subscribe(deliver)
mailer.run(until="empty")
facts = mailer.statistics()
facts.delivered, facts.acknowledged, facts.dead

# %% [markdown]
# Messages of one key came in their order, each after the one before was done, or given up.

# %%
[number for key, number, attempt in delivered if key == "dora"]

# %% [markdown]
# The dead letters say what was wrong.

# %%
(
    log["mails.dead"]
    .scan()
    .select(pl.col("_dead").struct.unnest())
    .select("topic", "partition", "offset", "attempts", "cause")
    .sort("partition", "offset")
    .collect()
)

# %% [markdown]
# ## Once
#
# What a message asks for and its acknowledgement can be one commit. Whoever is killed in between, the sum is right.

# %%
producer.create_topic("payments", 1, schema={"customer": pl.String, "cents": pl.Int64}, key="customer")
producer.send_many("payments", pl.DataFrame({"customer": ["ada", "bela", "ada"], "cents": [250, 900, 75]}))
producer.flush()


def book(message):
    name = message.value["customer"]
    before = log.record("balance", name)
    with message.transaction() as tx:
        tx.require_record("balance", name, before)
        tx.put_record("balance", name, str(int(before or 0) + message.value["cents"]).encode())


clerk = mamba.Subscriber("payments", log, group="clerks", start="earliest")
clerk.subscribe(book)
clerk.run(until="empty")
log.records("balance")

# %% [markdown]
# ## Only some
#
# Rules are evaluated on columns, before rows become messages. A consumer has Kafka's shape: it reads partitions in order.

# %%
consumer = mamba.Consumer(log)
consumer.set_filter_rule(mamba.FilterRule().add_condition("event_type", "invoice", on="column"))
consumer.subscribe("mails")
sorted(message.value["number"] for message in consumer.consume(until="empty"))

# %% [markdown]
# ## With asyncio
#
# The same classes, in `mamba.aio`. What is awaited is durable, and nothing that waits runs on the event loop.

# %%
async with mamba.aio.Producer(log) as sender, mamba.aio.Consumer(log) as receiver:
    await sender.create_topic("ticks", partitions=1)
    await sender.send("ticks", "tick")
    await receiver.subscribe("ticks")
    received = [message.value async for message in receiver.consume(until="empty")]
received

# %%
for each in (consumer, producer, mailer, clerk):
    each.close()
log.close()
directory.cleanup()
