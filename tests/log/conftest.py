"""What the tests of the log share: logs that are closed and examined, and a second process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from mamba_stream.log import Log, Topic, open_log
from mamba_stream.log.store import acquire
from tests.log.handclock import HandClock
from tests.log.neighbour import Neighbour
from tests.log.pictures import picture, unsound

TRADES = {"ts": pl.Datetime("us"), "symbol": pl.String, "price": pl.Float64, "size": pl.Int64}


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """An empty log; when the test is over it must be sound."""
    opened = open_log(tmp_path / "log")
    yield opened
    opened.close()
    assert unsound(tmp_path / "log") == []


@pytest.fixture
def clock() -> HandClock:
    """A clock that stands still unless the test moves it."""
    return HandClock()


@pytest.fixture
def clocked(tmp_path: Path, clock: HandClock) -> Iterator[Log]:
    """An empty log that goes by that clock; when the test is over it must be sound."""
    opened = Log(acquire(tmp_path / "log", clock))
    yield opened
    opened.close()
    assert unsound(tmp_path / "log") == []


@pytest.fixture
def trades(log: Log) -> Topic:
    """A topic with a key and a time, in four partitions."""
    return log.create_topic("trades", TRADES, partitions=4, key="symbol", time="ts")


@pytest.fixture
def plain(log: Log) -> Topic:
    """A topic of one partition and one column, ``n``."""
    return log.create_topic("plain", {"n": pl.Int64})


@pytest.fixture(scope="session")
def neighbour() -> Iterator[Neighbour]:
    """A second process, which lives as long as the tests do."""
    with Neighbour() as other:
        yield other


@pytest.fixture
def unchanged(log: Log) -> Iterator[None]:
    """Asserts that the test leaves the log as it found it (after the fixtures named before it)."""
    before = picture(log)
    yield
    assert picture(log) == before
