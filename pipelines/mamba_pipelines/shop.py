"""A shop of three services that know nothing of each other but messages: orders, stock and payments.

::

    shop.orders     placed ──► stock                    confirmed, cancelled ──► whoever wants to know; stock
    shop.stock      reserved ──► payments               sold-out ──► orders
    shop.payments   paid, declined ──► orders

An order is placed. ``stock`` reserves what was ordered, or says that it is sold out. ``payments`` takes the money for
what was reserved, or declines. ``orders`` confirms what was paid and cancels the rest; on a cancelled order ``stock``
puts back what it had reserved. Every step is one transaction: the message that asked for it is done, the records that
hold stock and money change, and the message that tells of it is sent, all of it or nothing. So a service may be killed
at any moment and started again, here or elsewhere: nothing is lost, and nothing happens twice.

All state is in the log; the services remember nothing. Messages carry the customer as their key, so that what a
customer orders is reserved and paid in the order in which it was placed.

``python -m mamba_pipelines.shop run --log DIR`` runs all of it; ``orders``, ``stock`` and ``payments`` instead of
``run`` are the services, each in a process of its own, ``place`` places orders, and ``show`` says how things stand.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import mamba_stream as mamba

ORDERS, STOCK, PAYMENTS = "shop.orders", "shop.stock", "shop.payments"
ON_HAND, MONEY = "shop/on-hand", "shop/money"
"""Records: how many there are of an article, and how many cents a customer has."""

Order = dict[str, Any]
"""``order``, ``customer``, ``article``, ``quantity`` and ``price`` (in cents, of one)."""
Step = Callable[[mamba.Log, Any, Order], None]


def furnish(log: mamba.Log, stock: Mapping[str, int], money: Mapping[str, int]) -> None:
    """Creates the shop's topics, and its stock and money where they are not there yet."""
    with mamba.Producer(log) as producer:
        for topic in (ORDERS, STOCK, PAYMENTS):
            producer.create_topic(topic, partitions=2)
    for namespace, amounts in ((ON_HAND, stock), (MONEY, money)):
        there = log.records(namespace)
        with log.transaction() as tx:
            for name, amount in amounts.items():
                if name not in there:
                    tx.require_record(namespace, name, None)
                    tx.put_record(namespace, name, str(amount).encode())


def place(log: mamba.Log, orders: Iterable[Order], *, batch: int = 10) -> None:
    """Places orders; however often it is called with the same ones, each is placed once."""
    orders = list(orders)
    with mamba.Producer(log, name="shop-door") as producer:
        for number, at in enumerate(range(0, len(orders), batch)):
            some = orders[at : at + batch]
            keys = [order["customer"] for order in some]
            producer.send_many(ORDERS, some, keys=keys, event_type="placed", sequence=number)


# The steps. What a step reads, its transaction requires to be still so.


def reserve(log: mamba.Log, tx: Any, order: Order) -> None:
    """Stock: a placed order is reserved, or sold out."""
    there = _amount(log, ON_HAND, order["article"])
    if there < order["quantity"]:
        _tell(tx, STOCK, "sold-out", order)
    else:
        _change(tx, ON_HAND, order["article"], there, there - order["quantity"])
        _tell(tx, STOCK, "reserved", order)


def put_back(log: mamba.Log, tx: Any, order: Order) -> None:
    """Stock: a cancelled order gives back what was reserved for it."""
    if order["reserved"]:
        there = _amount(log, ON_HAND, order["article"])
        _change(tx, ON_HAND, order["article"], there, there + order["quantity"])


def pay(log: mamba.Log, tx: Any, order: Order) -> None:
    """Payments: takes the money for a reserved order, or declines."""
    has, due = _amount(log, MONEY, order["customer"]), order["quantity"] * order["price"]
    if has < due:
        _tell(tx, PAYMENTS, "declined", order)
    else:
        _change(tx, MONEY, order["customer"], has, has - due)
        _tell(tx, PAYMENTS, "paid", order)


def confirm(log: mamba.Log, tx: Any, order: Order) -> None:
    """Orders: a paid order is confirmed."""
    _tell(tx, ORDERS, "confirmed", order)


def cancel_unreserved(log: mamba.Log, tx: Any, order: Order) -> None:
    """Orders: a sold-out order is cancelled."""
    _tell(tx, ORDERS, "cancelled", {**order, "reserved": False, "why": "sold out"})


def cancel_reserved(log: mamba.Log, tx: Any, order: Order) -> None:
    """Orders: a declined order is cancelled; what was reserved for it is to be put back."""
    _tell(tx, ORDERS, "cancelled", {**order, "reserved": True, "why": "declined"})


SERVICES: dict[str, tuple[list[str], dict[str, Step]]] = {
    "stock": ([ORDERS], {"placed": reserve, "cancelled": put_back}),
    "payments": ([STOCK], {"reserved": pay}),
    "orders": (
        [STOCK, PAYMENTS],
        {"sold-out": cancel_unreserved, "paid": confirm, "declined": cancel_reserved},
    ),
}
"""By name: the topics that a service reads, and its step for each type of event."""


def serve(log: mamba.Log, service: str, *, visibility: str = "30s", until: str = "stopped") -> None:
    """Runs a service, until SIGTERM or as :meth:`Subscriber.run` says.

    Args:
        log: The log.
        service: One of :data:`SERVICES`.
        visibility: How long after a service died others wait with what it had in hand.
        until: ``"stopped"`` or ``"empty"``.
    """
    topics, steps = SERVICES[service]
    # A service that is killed again and again must not make dead letters of what it was doing.
    subscriber = mamba.Subscriber(
        topics, log, group=service, start="earliest", visibility=visibility, attempts=1_000
    )
    for event_type, step in steps.items():
        subscriber.subscribe(_callback(log, step), event_type=event_type)
    signal.signal(signal.SIGTERM, lambda *_: subscriber.stop())
    with subscriber:
        subscriber.run(until)


def outcomes(log: mamba.Log) -> dict[str, list[str]]:
    """What became of every order that was placed: nothing yet, or ``confirmed`` or ``cancelled``."""
    found: dict[str, list[str]] = {}
    with mamba.Consumer(log) as consumer:
        consumer.subscribe(ORDERS)
        for message in consumer.consume(until="empty"):
            states = found.setdefault(message.value["order"], [])
            if message.event_type != "placed":
                states.append(str(message.event_type))
    return found


def amounts(log: mamba.Log, namespace: str) -> dict[str, int]:
    """What there is: of every article (:data:`ON_HAND`), or every customer's (:data:`MONEY`)."""
    return {name: int(value) for name, value in log.records(namespace).items()}


def some_orders(count: int, seed: int) -> list[Order]:
    """Orders of a busy morning, the same for the same seed."""
    draw = random.Random(seed)
    return [
        {
            "order": f"order-{number:05}",
            "customer": draw.choice(["ada", "bela", "carla", "dora", "emil"]),
            "article": draw.choice(["tea", "cups", "kettle"]),
            "quantity": draw.randint(1, 3),
            "price": draw.choice([250, 900, 4_500]),
        }
        for number in range(count)
    ]


def _callback(log: mamba.Log, step: Step) -> Callable[[mamba.Message], None]:
    def call(message: mamba.Message) -> None:
        while True:
            try:
                with message.transaction() as tx:
                    step(log, tx, message.value)
            except mamba.PreconditionFailed:
                # Another process of this service changed the same record first: with what it is now.
                continue
            return

    return call


def _tell(tx: Any, topic: str, event_type: str, order: Order) -> None:
    tx.send(topic, order, key=order["customer"], event_type=event_type)


def _amount(log: mamba.Log, namespace: str, name: str) -> int:
    return int(log.record(namespace, name) or b"0")


def _change(tx: Any, namespace: str, name: str, before: int, after: int) -> None:
    tx.require_record(namespace, name, str(before).encode())
    tx.put_record(namespace, name, str(after).encode())


# The command.


def run(log: mamba.Log, orders: list[Order], visibility: str) -> None:
    """The driver: starts the services, places the orders, and waits until all have an outcome."""
    services = [
        subprocess.Popen(
            [sys.executable, "-m", __spec__.name, name, "--log", log.place, "--visibility", visibility]
        )
        for name in SERVICES
    ]
    try:
        place(log, orders)
        waiting = {order["order"] for order in orders}
        with mamba.Consumer(log) as consumer:
            consumer.subscribe(ORDERS)
            for message in consumer.consume():
                if message.event_type != "placed":
                    waiting.discard(message.value["order"])
                if not waiting:
                    break
    finally:
        for service in services:
            service.terminate()
        for service in services:
            service.wait()


def show(log: mamba.Log) -> None:
    """Prints how things stand."""
    states = Counter(states[0] if states else "under way" for states in outcomes(log).values())
    print("orders  ", ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none")
    print("on hand ", ", ".join(f"{count} {name}" for name, count in amounts(log, ON_HAND).items()))
    print("money   ", ", ".join(f"{name} {cents / 100:.2f}" for name, cents in amounts(log, MONEY).items()))


def main(arguments: list[str] | None = None) -> None:
    """``python -m mamba_pipelines.shop``."""
    parser = argparse.ArgumentParser(prog="shop", description="Orders, stock and payments on one log.")
    parser.add_argument("what", choices=[*SERVICES, "place", "show", "run"])
    parser.add_argument("--log", help="a directory; the default log unless told otherwise")
    parser.add_argument("--orders", type=int, default=100, help="how many are placed (100)")
    parser.add_argument("--seed", type=int, default=1, help="which orders these are (1)")
    parser.add_argument("--visibility", default="30s", help="how long a dead service's work waits (30s)")
    parser.add_argument(
        "--until", default="stopped", choices=["stopped", "empty"], help="when a service ends"
    )
    options = parser.parse_args(arguments)
    with mamba.open(options.log) as log:
        if options.what in SERVICES:
            serve(log, options.what, visibility=options.visibility, until=options.until)
            return
        if options.what != "show":
            furnish(
                log,
                stock={"tea": 60, "cups": 40, "kettle": 5},
                money=dict.fromkeys(["ada", "bela", "carla", "dora", "emil"], 100_000),
            )
            orders = some_orders(options.orders, options.seed)
            if options.what == "place":
                place(log, orders)
            else:
                run(log, orders, options.visibility)
        show(log)


if __name__ == "__main__":
    main()
