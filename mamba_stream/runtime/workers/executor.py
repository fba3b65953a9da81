"""What starts workers: all that a pool asks of processes, of a cluster, or of a simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mamba_stream.runtime.workers.messages import Order, Report

Hear = Callable[[Report], None]
"""Takes what a worker says; from any thread. After ``Gone`` nothing more comes."""


class Hand(Protocol):
    """A worker, seen from the pool."""

    def send(self, order: Order) -> None:
        """Tells it to do something; to one that is gone, nothing happens. Never waits."""
        ...

    def kill(self) -> None:
        """Ends it at once, whatever it does; where that is not possible, it is not listened to any more."""
        ...


class Executor(Protocol):
    """Starts workers of one job."""

    def start(self, worker: int, hear: Hear) -> Hand:
        """Starts a worker, which says ``Ready`` when it can take tasks.

        Args:
            worker: Its number, from 0 on; one that follows a worker that is gone has the same.
            hear: Takes what it says.
        """
        ...

    def close(self) -> None:
        """No worker is needed any more: what is left of them, and of what was opened for them, is done away with."""
        ...
