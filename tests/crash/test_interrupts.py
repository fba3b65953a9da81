"""A signal's handler may raise anywhere in a call: the log stays usable, by all threads, and can be closed."""

from __future__ import annotations

import contextlib
import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import mamba_stream as mamba
from tests.crash.interrupts import interrupted

PLACES = [str(Path(mamba.__file__).parent), threading.__file__, contextlib.__file__]
PATIENCE = 60.0

CALLS = {
    "a look": lambda log: log.lsn(),
    "an append": lambda log: log["t"].append([{"n": 1}]),
    "a wait": lambda log: log.wait(log.lsn(), 0.001),
}


@pytest.fixture(autouse=True)
def nothing_half_made_is_left() -> Iterator[None]:
    """What was interrupted in the middle of being made is collected here, not in a later test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("name", CALLS)
def test_a_call_may_be_interrupted_anywhere_and_the_log_goes_on(place: Path, name: str) -> None:
    log = mamba.open(place / "log")
    log.create_topic("t", {"n": pl.Int64})
    at, where = 0, "somewhere"
    while where:
        where = interrupted(lambda: CALLS[name](log), at, PLACES)
        # The append also has a file to write to again: each that is interrupted as it is made leaves one behind.
        assert ends(lambda: log["t"].append([{"n": 0}])), f"another thread waits for ever after {where}"
        at += 1
    assert at > 20
    assert all(ends(lambda call=call: call(log)) for call in CALLS.values())
    assert ends(log.close)


def test_a_log_can_be_closed_wherever_a_look_was_interrupted(place: Path) -> None:
    at, where = 0, "somewhere"
    while where:
        log = mamba.open(place / "log")

        def look_and_close(log: mamba.Log = log, at: int = at) -> None:
            nonlocal where
            where = interrupted(log.lsn, at, PLACES)
            log.close()

        assert ends(look_and_close), f"waits for ever after {where}"
        at += 1


def ends(call: Callable[[], Any]) -> bool:
    """Whether it comes to its end, in a thread of its own."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return not thread.is_alive()
