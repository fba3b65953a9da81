"""Signs of life of calls that take long.

The client's gRPC asks for a sign every half minute, and the server's breaks a connection over which it is asked often
and sends nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Final, TypeVar

SIGN: Final = 5.0
"""Seconds between two signs of life."""

_T = TypeVar("_T")


def with_signs(work: Callable[[], _T], every: float) -> Iterator[_T | None]:
    """What the work gives, and before it ``None`` whenever so many seconds have passed; raises what it raises.

    Who stops asking lets the work go on to its end.

    Example:
        >>> list(with_signs(lambda: 7, 5.0))
        [7]
    """
    done: Future[_T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            done.set_exception(error)

    threading.Thread(target=run, name="mamba-stream lasting", daemon=True).start()
    while True:
        try:
            result = done.result(every)
        except TimeoutError:
            if done.done():
                raise
            yield None
        else:
            yield result
            return
