"""The machine's clock counts in the units that it promises."""

from __future__ import annotations

import time

from mamba_stream.core.clock import Clock, SystemClock


def test_the_system_clock_counts_microseconds_since_the_epoch() -> None:
    clock: Clock = SystemClock()
    before = int(time.time() * 1e6) - 1
    assert before <= clock.now() <= int(time.time() * 1e6) + 1_000_000


def test_the_monotonic_clock_never_runs_backwards() -> None:
    clock = SystemClock()
    readings = [clock.monotonic() for _ in range(100)]
    assert readings == sorted(readings)
