"""The shop's services are killed and started again while orders flow; a plain loop says what must come of it."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import mamba_stream as mamba
from mamba_pipelines import shop
from mamba_stream.log.doctor import examine
from tests import forking

_PATIENCE = 120.0
RICH, POOR = ["ada", "bela"], ["carla", "dora", "emil", "fritz"]
HAS = 20_000
STOCK = {"tea": 100_000, "rare": 5, "gone": 0}
MONEY = {**dict.fromkeys(RICH, 10_000_000), **dict.fromkeys(POOR, HAS)}


def made_up(count: int, draw: random.Random) -> list[shop.Order]:
    """Tea for everybody, of which there is enough; a rare thing, one at a time and for the rich; and what is gone."""
    orders = []
    for number in range(count):
        article = draw.choices(["tea", "rare", "gone"], [8, 1, 1])[0]
        customer = draw.choice(RICH if article == "rare" else RICH + POOR)
        quantity = 1 if article == "rare" else draw.randint(1, 4)
        price = draw.choice([300, 1_000, 2_500])
        orders.append(
            {
                "order": f"o{number}",
                "customer": customer,
                "article": article,
                "quantity": quantity,
                "price": price,
            }
        )
    return orders


def expected(orders: list[shop.Order]) -> dict[str, str]:
    """Of every order but the rare ones, which are sold to whoever comes first: one after the other, in a dict."""
    purse, states = dict(MONEY), {}
    for order in orders:
        due = order["quantity"] * order["price"]
        if order["article"] == "gone":
            states[order["order"]] = "cancelled"
        elif order["article"] == "tea":
            states[order["order"]] = "confirmed" if purse[order["customer"]] >= due else "cancelled"
            purse[order["customer"]] -= due if states[order["order"]] == "confirmed" else 0
    return states


class Services:
    """The shop's processes."""

    def __init__(self, log: mamba.Log, environment: dict[str, str]) -> None:
        self._log = log
        self._environment = environment
        self._there: dict[str, forking.Process] = {}

    def begin(self, name: str, *options: str) -> forking.Process:
        command = [sys.executable, "-W", "error", "-m", "mamba_pipelines.shop", name]
        process = forking.Process(
            [*command, "--log", self._log.place, "--visibility", "1s", *options], env=self._environment
        )
        self._there[name] = process
        return process

    def kill(self, name: str) -> None:
        process = self._there.pop(name)
        process.kill()
        assert process.wait() == -signal.SIGKILL, f"{name} had ended by itself"

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            assert time.monotonic() < deadline, shop.outcomes(self._log)
            for name, process in self._there.items():
                assert process.poll() is None, f"{name} ended by itself"
            time.sleep(0.002)

    def finish(self, name: str) -> None:
        """Does what is left, then ends."""
        self.disband(name)
        assert self.begin(name, "--until", "empty").wait(_PATIENCE) == 0
        del self._there[name]

    def disband(self, *names: str) -> None:
        for name in names or list(self._there):
            process = self._there.pop(name)
            process.kill()
            process.wait()


def rows(log: mamba.Log, topic: str) -> int:
    return sum(end for _, end in log[topic].offsets().values())


def events(log: mamba.Log, topic: str) -> Counter[tuple[str, str]]:
    with mamba.Consumer(log) as consumer:
        consumer.subscribe(topic)
        return Counter((m.value["order"], m.event_type) for m in consumer.consume(until="empty"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "rounds", [pytest.param(1, id="3 kills"), pytest.param(20, id="60 kills", marks=pytest.mark.slow)]
)
def test_whoever_is_killed_whenever_every_order_has_one_outcome_and_nothing_is_lost_or_done_twice(
    tmp_path: Path, environment: dict[str, str], rounds: int
) -> None:
    draw = random.Random(rounds)
    some = 20
    orders = made_up(rounds * len(shop.SERVICES) * some, draw)
    with mamba.open(tmp_path / "log") as log:
        shop.furnish(log, STOCK, MONEY)
        services = Services(log, environment)
        placed = amid = 0

        def done(service: str) -> int:
            topic = {"stock": shop.STOCK, "payments": shop.PAYMENTS, "orders": shop.ORDERS}[service]
            return rows(log, topic) - (placed if topic == shop.ORDERS else 0)

        try:
            for name in shop.SERVICES:
                services.begin(name)
            for _ in range(rounds):
                for victim in shop.SERVICES:
                    placed += some
                    shop.place(log, orders[:placed], batch=some)
                    goal = done(victim) + draw.randint(1, some // 2)
                    services.wait_for(
                        lambda victim=victim, goal=goal, placed=placed: (
                            done(victim) >= goal or done("orders") == placed
                        )
                    )
                    services.kill(victim)
                    amid += done("orders") < placed
                    services.begin(victim)
            services.wait_for(lambda: done("orders") == placed)
            for name in ("stock", "payments", "orders"):
                services.finish(name)
        finally:
            services.disband()
        # Most died with something in hand.
        assert amid > rounds

        found = shop.outcomes(log)
        assert sorted(found) == sorted(order["order"] for order in orders)
        assert {len(states) for states in found.values()} == {1}
        state = {order: states[0] for order, states in found.items()}
        rare = [order["order"] for order in orders if order["article"] == "rare"]
        assert {order: is_ for order, is_ in state.items() if order not in rare} == expected(orders)
        assert sum(state[order] == "confirmed" for order in rare) == min(STOCK["rare"], len(rare))

        # Each step was done once: it was told of once.
        assert set(events(log, shop.STOCK).values()) == {1}
        assert len(events(log, shop.STOCK)) == len(orders)
        assert set(events(log, shop.PAYMENTS).values()) == {1}
        assert set(events(log, shop.ORDERS).values()) == {1}

        confirmed = [order for order in orders if state[order["order"]] == "confirmed"]
        stock, money = dict(STOCK), dict(MONEY)
        for order in confirmed:
            stock[order["article"]] -= order["quantity"]
            money[order["customer"]] -= order["quantity"] * order["price"]
        assert shop.amounts(log, shop.ON_HAND) == stock
        assert shop.amounts(log, shop.MONEY) == money
        assert min(money.values()) >= 0
        # There were all three ends, and something was put back.
        assert {"paid", "declined"} == {event for _, event in events(log, shop.PAYMENTS)}
        assert [topic for topic in log.topics() if topic.endswith(".dead")] == []
    assert examine(tmp_path / "log").sound


def test_the_driver_places_orders_and_waits_for_their_outcome_and_run_again_it_does_nothing(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    shown = []
    for _ in range(2):
        ran = subprocess.run(
            [
                sys.executable,
                "-W",
                "error",
                "-m",
                "mamba_pipelines.shop",
                "run",
                "--orders",
                "30",
                "--log",
                "log",
            ],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        shown.append(ran.stdout)
    assert shown[0].splitlines()[0].startswith("orders   ")
    assert shown[0].splitlines()[0] == shown[1].splitlines()[0]
    with mamba.open(tmp_path / "log") as log:
        assert Counter(map(len, shop.outcomes(log).values())) == {1: 30}
