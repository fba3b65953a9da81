"""Another log behind the same address: nothing that was known of the first is ever used with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.errors import CommitUnknown, LogReplaced
from mamba_stream.log import Log
from mamba_stream.log.store import Store, acquire
from mamba_stream.server.service import FlightService
from tests.server.inprocess import Line


class Address:
    """One address, at which one log after the other is served; each has the same topics and as many rows."""

    def __init__(self, tmp_path: Path) -> None:
        self.stores: list[Store] = [acquire(tmp_path / name) for name in ("one", "two")]
        for number, store in enumerate(self.stores):
            topic = Log(store).create_topic("rows", {"n": pl.Int64}, exist_ok=True)
            topic.append([{"n": 10 * number + n} for n in range(3)])
        self.service = self._serve(0, 0)
        self.port = self.service.port

    @property
    def place(self) -> str:
        return f"localhost:{self.port}"

    def replace(self, number: int = 1) -> None:
        self.service.desk.drain()
        self.service.shutdown()
        self.service = self._serve(number, self.port)

    def close(self) -> None:
        self.service.desk.drain()
        self.service.shutdown()
        for store in self.stores:
            store.release()

    def numbers(self, number: int) -> list[int]:
        return Log(self.stores[number])["rows"].scan().collect()["n"].to_list()

    def _serve(self, number: int, port: int) -> FlightService:
        store = self.stores[number]
        return FlightService(store, f"grpc://localhost:{port}", identity=store.meta.uuid)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[Address]:
    made = Address(tmp_path)
    yield made
    made.close()


CALLS: dict[str, Callable[[Log], Any]] = {
    "append": lambda log: log["rows"].append([{"n": 99}]),
    "heads": lambda log: log["rows"].offsets(),
    "read": lambda log: list(log["rows"].read()),
    "scan": lambda log: log["rows"].scan().collect(),
    "record": lambda log: log.record("space", "key"),
    "lock": lambda log: log._shared.lock("jobs", "a"),
    "wait": lambda log: log.wait(1 << 40, 30.0),
    "seal": lambda log: log.seal(),
    "maintain": lambda log: log.maintain(),
    "scrub": lambda log: log.scrub(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_call_is_refused_although_it_would_make_sense_there(address: Address, call: Any) -> None:
    with mamba.open(address.place) as log:
        assert log["rows"].offsets() == {0: (0, 3)}
        address.replace()
        for _ in range(2):
            with pytest.raises(LogReplaced, match="keeps another log than the one that was opened"):
                call(log)
        assert address.numbers(1) == [10, 11, 12]
        # The first one at its old place is what it was.
        address.replace(0)
        assert log["rows"].append([{"n": 3}]) == {0: (3, 4)}


def test_a_follower_and_a_topic_that_is_held_hear_of_it(address: Address) -> None:
    with mamba.open(address.place) as log:
        topic = log["rows"]
        follower = topic.read(follow=True)
        assert next(follower).data["n"].to_pylist() == [0, 1, 2]
        address.replace()
        Log(address.stores[1])["rows"].append([{"n": 13}])
        with pytest.raises(LogReplaced):
            next(follower)
        with pytest.raises(LogReplaced):
            topic.append([{"n": 99}])


def test_a_commit_whose_answer_was_lost_with_the_log_is_unknown(address: Address) -> None:
    with mamba.open(address.place) as log:
        line = Line(log)
        line.plan = [("after", address.replace)]
        with pytest.raises(CommitUnknown, match="keeps another log"):
            log["rows"].append([{"n": 99}])
        assert (address.numbers(0), address.numbers(1)) == ([0, 1, 2, 99], [10, 11, 12])


def test_the_address_can_be_opened_again_beside_the_old_handle(address: Address) -> None:
    with mamba.open(address.place) as log:
        address.replace()
        with pytest.raises(LogReplaced):
            log.topics()
        with mamba.open(address.place) as other:
            assert other["rows"].append([{"n": 13}]) == {0: (3, 4)}
            with pytest.raises(LogReplaced):
                log.topics()
        with mamba.open(address.place) as other:
            assert other["rows"].offsets() == {0: (0, 4)}
    assert address.numbers(1) == [10, 11, 12, 13]
