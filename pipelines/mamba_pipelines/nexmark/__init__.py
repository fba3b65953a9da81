"""Nexmark, the benchmark by which stream engines are compared: an online auction, its events and its queries.

:func:`generate` makes the events, and :data:`QUERIES` holds the queries by name. A query takes the streams of
persons, auctions and bids and a bounded side input, and gives a stream::

    events = generate(0, 1_000_000)
    person, auction, bid = (mamba.stream(events[name], time="dateTime") for name in ("person", "auction", "bid"))
    QUERIES["q5"](person, auction, bid, side_input()).collect()
"""

from mamba_pipelines.nexmark.generator import generate, side_input
from mamba_pipelines.nexmark.queries import QUERIES

__all__ = ["QUERIES", "generate", "side_input"]
