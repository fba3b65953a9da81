"""Time at a server: leases end, and messages are sent, by its clock, whatever this machine's shows."""

from __future__ import annotations

from pathlib import Path

import mamba_stream as mamba
from mamba_stream.core.clock import SystemClock
from mamba_stream.log.remote.clock import ServerClock
from mamba_stream.log.store import acquire
from mamba_stream.server.service import FlightService

SECOND = 1_000_000
HOUR = 3_600 * SECOND


class Moved:
    """A clock that is moved by hand, in seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> int:
        return int(self.seconds * SECOND)

    def monotonic(self) -> float:
        return self.seconds


class Ahead(SystemClock):
    """A machine whose clock is set wrong."""

    def now(self) -> int:
        return super().now() + 5 * HOUR


def test_it_is_the_servers_time_that_runs_on_here() -> None:
    here = Moved()
    clock = ServerClock(here, lambda: None)
    here.seconds = 10.0
    clock.tell(1_000 * SECOND, 9.0, 10.0)
    assert clock.now() == 1_000 * SECOND + SECOND // 2, "it was that late half way through the call"
    here.seconds = 30.0
    assert clock.now() == 1_020 * SECOND + SECOND // 2
    assert clock.monotonic() == 30.0


def test_what_a_slow_call_says_counts_less_until_clocks_have_drifted() -> None:
    here = Moved()
    clock = ServerClock(here, lambda: None)
    clock.tell(1_000 * SECOND, 0.0, 0.1)
    before = clock.now()
    clock.tell(2_000 * SECOND, 0.1, 4.0)
    assert clock.now() == before
    here.seconds = 100_000.0
    clock.tell(2_000 * SECOND, 99_996.0, 100_000.0)
    assert clock.now() == 2_002 * SECOND


def test_the_server_is_asked_now_and_then_and_nobody_waits_for_it() -> None:
    here, asked = Moved(), []
    clock = ServerClock(here, lambda: asked.append(here.seconds))
    clock.tell(0, 0.0, 0.0)
    for second in range(200):
        here.seconds = float(second)
        clock.now()
    assert asked == [61.0, 122.0, 183.0]
    clock.tell(0, 199.0, 199.0)
    here.seconds = 250.0
    clock.now()
    assert len(asked) == 3


def test_messages_are_sent_and_leased_by_the_servers_clock(tmp_path: Path) -> None:
    store = acquire(tmp_path / "log", Ahead())
    service = FlightService(store)
    try:
        place = f"localhost:{service.port}"
        with mamba.open(place) as log:
            assert abs(log.clock.now() - store.clock.now()) < HOUR
        with mamba.Producer(place) as producer:
            producer.create_topic("work")
            producer.send("work", "hello").result()
            producer.send("work", "later", delay="2h").result()
        with mamba.Consumer(place, group="g", shared=True) as consumer:
            consumer.subscribe("work")
            [message] = consumer.poll("20s")
            assert abs(message.time.timestamp() * SECOND - store.clock.now()) < HOUR
    finally:
        service.drain(10)
        service.shutdown()
        store.release()
