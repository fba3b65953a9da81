"""Pipelines for workers to run: what they read, piece by piece, and what must come of it, which others compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from unittest import mock

import numpy as np
import polars as pl
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_pipelines import clickstream, demo, flights_weather
from mamba_pipelines.nexmark import QUERIES, demo as auctions, generate, side_input
from mamba_stream.operators.changes import OP_COLUMN, table_of

STREAMS = ("person", "auction", "bid")
KEYS = {"person": (None, "id", "id"), "auction": (None, "id", "seller"), "bid": (None, "auction", "bidder")}
PARTITIONS = 3
_FLIGHTS, _CLICKS, _EVENTS = 6_000, 8_000, 8_000

Tables = Mapping[str, pl.DataFrame]


@dataclass(frozen=True)
class Given:
    """A topic.

    Attributes:
        rows: Its rows.
        time: Its column of time.
        partitions: How many they are spread over.
        keys: The columns by which they may lie, one of which is chosen; where that is none, anywhere.
    """

    rows: pl.DataFrame
    time: str
    partitions: int = 1
    keys: Sequence[str | None] = (None,)


@dataclass(frozen=True)
class Scenario:
    """A pipeline over topics.

    Attributes:
        name: Its name.
        build: Makes the pipeline.
        given: The topics that it reads, by name.
        wanted: What its outputs must hold, by topic, as others compute it.
    """

    name: str
    build: Callable[[], mamba.Pipeline]
    given: Callable[[], Mapping[str, Given]]
    wanted: Callable[[], Mapping[str, pl.DataFrame]]

    def check(self, log: mamba.Log) -> None:
        """The outputs hold the rows that they must, in whatever order, and no others."""
        for topic, rows in self.wanted().items():
            found = log[topic].scan().collect()
            found = table_of(found) if OP_COLUMN in found.columns else found
            assert rows.height > 0
            assert_frame_equal(
                _in_order(found.select(rows.columns)), _in_order(rows), rel_tol=1e-9, abs_tol=0
            )


def _in_order(rows: pl.DataFrame) -> pl.DataFrame:
    # By what is exact: floats of different sums may differ in their last digits.
    return rows.sort(sorted(rows.columns, key=lambda name: (rows.schema[name].is_float(), name)))


class Feed:
    """Brings a scenario's rows into a log, bit by bit, and ends the topics behind the last."""

    def __init__(
        self, scenario: Scenario, log: mamba.Log, chance: np.random.Generator, portions: int
    ) -> None:
        self._given = scenario.given()
        self._log = log
        self._chance = chance
        kinds = min(len(given.keys) for given in self._given.values())
        kind = int(chance.integers(kinds))
        self._keys = {name: given.keys[kind] for name, given in self._given.items()}
        for name, given in self._given.items():
            key, strict = self._keys[name], self._keys[name] is not None
            log.create_topic(
                name, given.rows, partitions=given.partitions, key=key, strict_key=strict, time=given.time
            )
        self._cuts = list(pairwise([0.0, *np.sort(chance.random(portions - 1)).tolist(), 1.0]))

    @property
    def portions(self) -> int:
        """How many are left."""
        return len(self._cuts)

    def bring(self) -> None:
        """Appends the next portion, in batches of various sizes."""
        start, end = self._cuts.pop(0)
        for name, given in self._given.items():
            height, topic = given.rows.height, self._log[name]
            rows = given.rows[int(start * height) : int(end * height)]
            for some in rows.iter_slices(int(self._chance.integers(300, 3_000))):
                if self._keys[name] is not None:
                    topic.append(some)
                    continue
                where = pl.Series(self._chance.integers(0, given.partitions, some.height))
                for partition in range(given.partitions):
                    topic.append(some.filter(where == partition), partition=partition)
        if not self._cuts:
            for name in self._given:
                self._log[name].end()


# -- Nexmark ------------------------------------------------------------------------------------------------------------


@cache
def _events() -> Tables:
    """Half an hour with four events a second, out of order, over midnight; many prices are alike."""
    tables = generate(342_000, _EVENTS, seed=5, rate=4, disorder=40)
    coarse = pl.col("price") // 10_000_000 * 10_000_000 + 100
    return {**tables, "bid": tables["bid"].with_columns(coarse), "side_input": side_input()}


@cache
def _punctual_events() -> Tables:
    return generate(0, _EVENTS, seed=5, rate=40)


def _answer(query: str, tables: Tables) -> pl.DataFrame:
    # Processes that only run a job need no DuckDB.
    from tests.pipelines.nexmark_oracle import answer

    return answer(query, tables)


def _query(name: str) -> Scenario:
    def build() -> mamba.Pipeline:
        # Silence says nothing here: it depends on when rows come.
        topics = {one: mamba.stream(one, lateness="60s", idle="7d") for one in STREAMS}
        return mamba.pipeline("job", QUERIES[name](**topics, side_input=side_input()).to("out"))

    @cache
    def wanted() -> Tables:
        return {"out": _answer(name, _events())}

    def given() -> Mapping[str, Given]:
        return {one: Given(_events()[one], "dateTime", PARTITIONS, keys) for one, keys in KEYS.items()}

    return Scenario(name, build, given, wanted)


def _auctions() -> Scenario:
    @cache
    def wanted() -> Tables:
        return {f"{auctions.PREFIX}.q5": _answer("q5", {**_punctual_events(), "side_input": side_input()})}

    def given() -> Mapping[str, Given]:
        rows = _punctual_events()
        return {f"{auctions.PREFIX}.{one}": Given(rows[one], "dateTime") for one in STREAMS}

    return Scenario("nexmark", auctions.build, given, wanted)


# -- the others: of what they come with, the first part -----------------------------------------------------------------


@contextmanager
def _fewer() -> Iterator[None]:
    few = _few_flights()
    with ExitStack() as stack:
        for module, name, rows in (
            (demo, "flights", few),
            (flights_weather, "flights", few),
            (flights_weather, "weather", _few_observations()),
            (clickstream, "clicks", _few_clicks()),
        ):
            stack.enter_context(mock.patch.object(module, name, lambda rows=rows: rows))
        yield


@cache
def _few_flights() -> pl.DataFrame:
    return demo.flights().head(_FLIGHTS)


@cache
def _few_observations() -> pl.DataFrame:
    last = _few_flights()["departed_at"].max()
    return flights_weather.weather().filter(pl.col("observed_at") <= last)


@cache
def _few_clicks() -> pl.DataFrame:
    return clickstream.clicks().head(_CLICKS)


@cache
def _expected(name: str) -> Tables:
    with _fewer():
        if name == "demo":
            outputs, found = (demo.DELAYS, demo.LATE), demo.expected()
        elif name == "clickstream":
            outputs = (clickstream.VISITS, clickstream.PLANS, clickstream.LATE)
            found = clickstream.expected()
        else:
            outputs = (flights_weather.DEPARTURES, flights_weather.DELAYS, flights_weather.CANCELLED)
            found = flights_weather.expected()
    return dict(zip(outputs, found, strict=True))


def _given(name: str) -> Mapping[str, Given]:
    flights = Given(_few_flights(), "scheduled_at")
    if name == "demo":
        return {demo.FLIGHTS: flights}
    if name == "clickstream":
        users, clicks = Given(clickstream.users(), "since"), Given(_few_clicks(), "at")
        return {clickstream.USERS: users, clickstream.CLICKS: clicks}
    observations = Given(_few_observations(), "observed_at")
    return {flights_weather.FLIGHTS: flights, flights_weather.WEATHER: observations}


def _other(name: str, build: Callable[[], mamba.Pipeline]) -> Scenario:
    return Scenario(name, build, lambda: _given(name), lambda: _expected(name))


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        *map(_query, QUERIES),
        _auctions(),
        _other("demo", demo.build),
        _other("clickstream", clickstream.build),
        _other("flights_weather", flights_weather.build),
    )
}
