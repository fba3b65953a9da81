"""Whether a call of a user's function still lasts: one that was given up may go on in its thread, and in vain."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mamba_stream.errors import InvalidInput


class Hold:
    """What state and timers are reached through, until it is let go of.

    Example:
        >>> hold = Hold()
        >>> with hold.kept("state.get"):
        ...     pass
        >>> hold.release()  # and the next one is refused
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._released = False

    @contextmanager
    def kept(self, what: str) -> Iterator[None]:
        """For as long as the block lasts, the call does.

        Args:
            what: What the function called, for messages.

        Raises:
            InvalidInput: It is over.
        """
        with self._lock:
            if self._released:
                raise InvalidInput(
                    f"{what}: this call failed or took longer than timeout=: it counts for nothing"
                )
            yield

    def release(self) -> None:
        """The call is over, whatever its function still does; returns when that is not at it."""
        with self._lock:
            self._released = True
