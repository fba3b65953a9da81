"""Work that is done beside the loop, one piece at a time, so that the loop goes on meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Beside:
    """One piece of work in a thread of its own.

    Example:
        >>> beside = Beside("adding")
        >>> found = []
        >>> beside.begin(lambda: found.append(1 + 1))
        >>> beside.finish()
        >>> found
        [2]
    """

    def __init__(self, name: str) -> None:
        """Nothing to do yet.

        Args:
            name: What its threads are called.
        """
        self._name = name
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether there is work that was not yet finished."""
        return self._thread is not None

    @property
    def done(self) -> bool:
        """Whether :meth:`finish` would not have to wait."""
        return self._thread is None or not self._thread.is_alive()

    def begin(self, work: Callable[[], object]) -> None:
        """Begins with a piece of work; the one before has to be finished."""
        assert self._thread is None, "one piece at a time"

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - raised by finish
                self._error = error

        self._thread = threading.Thread(target=run, name=self._name, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Waits for the work, if there is any.

        Raises:
            BaseException: What the work raised.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
