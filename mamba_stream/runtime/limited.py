"""A user's function with an end to waiting."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from mamba_stream.plan.words import in_units
from mamba_stream.runtime.beside import Beside

_THREAD: Final = "mamba-stream function"


class Limited:
    """A function that is waited for so long and no longer; one thread calls it at a time.

    What it still does then, it does in vain: a thread of Python's cannot be ended from outside.

    Example:
        >>> Limited(lambda one, other: one + other, 10.0)(1, 2)
        3
    """

    def __init__(self, function: Callable[..., Any], seconds: float) -> None:
        """A function in a thread of its own, which is begun when it is first called.

        Args:
            function: The user's.
            seconds: How long a call may take.
        """
        self._function = function
        self._seconds = seconds
        self._thread = Beside(_THREAD)

    def __call__(self, *given: Any) -> Any:
        """The function's result.

        Raises:
            TimeoutError: There is none yet.
        """
        outcome: list[Any] = []
        self._thread.begin(lambda: outcome.append(self._function(*given)))
        if not self._thread.wait(self._seconds):
            # That one is left to what it hangs in, and ends behind it.
            self._thread = Beside(_THREAD)
            raise TimeoutError(took_longer(self._seconds))
        self._thread.finish()
        return outcome[0]


def took_longer(seconds: float) -> str:
    """What a message says of a function that did not end in time."""
    return (
        f"the function did not end within {in_units(timedelta(seconds=seconds))} (timeout=); what it still does cannot "
        "be ended from outside"
    )
