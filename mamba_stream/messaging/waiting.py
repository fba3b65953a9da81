"""Waiting on an event loop for what goes on in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

_Result = TypeVar("_Result")


async def finished(future: asyncio.Future[_Result]) -> _Result:
    """Waits for what cannot be broken off to its end; a cancellation meanwhile counts only then."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        # What it came to is nobody's any more; asked for, so that nobody is told that it was not.
        future.exception()
        raise cancelled
    return future.result()


async def in_thread(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Runs it in a thread, to its end."""
    return await finished(asyncio.ensure_future(asyncio.to_thread(function, *arguments)))
