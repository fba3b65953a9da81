"""The thread that flushes, on its own."""

from __future__ import annotations

import threading

import pytest

from mamba_stream.log import flushing
from mamba_stream.log.flushing import Flushing
from tests.server.running import until

pytestmark = pytest.mark.embedded


class Log:
    """Counts how often it was flushed."""

    def __init__(self) -> None:
        self.flushed = 0

    def flush(self) -> None:
        self.flushed += 1


class Held(threading.Event):
    """An event that is cleared only when that is let happen."""

    def __init__(self) -> None:
        super().__init__()
        self.came, self.goes_on = threading.Event(), threading.Event()

    def clear(self) -> None:
        self.came.set()
        assert self.goes_on.wait(30)
        super().clear()


def test_one_that_is_closed_just_before_it_flushes_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """What wakes it to end must not be taken for what asked it to flush, and be waited for again."""
    monkeypatch.setattr(flushing, "PAUSE", 0)
    log, held = Log(), Held()
    working = Flushing(log.flush)
    working._asked = held
    working.ask()
    assert held.came.wait(30)
    closing = threading.Thread(target=working.close, daemon=True)
    closing.start()
    until(working._over.is_set)
    held.goes_on.set()
    closing.join(30)
    assert not closing.is_alive()


def test_what_is_asked_while_it_flushes_is_flushed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flushing, "PAUSE", 0)
    log = Log()
    working = Flushing(log.flush)
    for number in range(1, 4):
        working.ask()
        until(lambda: log.flushed == number)  # noqa: B023
    working.close()


def test_what_is_asked_as_the_process_ends_is_done_at_once() -> None:
    log = Log()
    working = Flushing(log.flush)
    working.ask()
    working.finish()
    assert log.flushed == 1
    working.ask()
    assert log.flushed == 2
