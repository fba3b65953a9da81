"""Calls of a user's function beside the loop: with an end to waiting, several at a time, tried again, remembered."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import polars as pl

from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.errors import SchemaMismatch
from mamba_stream.operators.fitting import fitted
from mamba_stream.runtime.limited import took_longer

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CallSettings:
    """How a function is called beside the loop.

    Attributes:
        function: A coroutine function, or one that is run in threads.
        schema: What rows have afterwards.
        unit: Whether it gets frames, or rows as dicts.
        rows: How many rows a frame has at most.
        concurrency: How many calls there are at a time.
        seconds: How long each may take.
        retries: How often one that failed is tried again.
        backoff: How long to wait before, in seconds: at first, doubled each time, and at most.
        cache: The columns on which alone the result depends, if it is to be remembered.
        cache_seconds: For how long.
        cache_size: For how many of their values, at most.
    """

    function: Callable[[Any], Any]
    schema: Mapping[str, pl.DataType]
    unit: Literal["batch", "row"]
    rows: int
    concurrency: int
    seconds: float | None
    retries: int
    backoff: tuple[float, float]
    cache: Sequence[str]
    cache_seconds: float
    cache_size: int


class Calls:
    """Takes a frame and gives what the function makes of its rows, in their order, once all of it is there."""

    def __init__(self, settings: CallSettings, clock: Clock | None = None) -> None:
        self._set = settings
        self._clock = clock or SystemClock()
        self._known: OrderedDict[tuple[Any, ...], tuple[float, tuple[Any, ...]]] = OrderedDict()
        self._coroutine = inspect.iscoroutinefunction(settings.function) or inspect.iscoroutinefunction(
            getattr(settings.function, "__call__", None)  # noqa: B004 - an object may be called as a coroutine
        )

    def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The function's rows."""
        if not frame.height:
            return pl.DataFrame(schema=self._set.schema)
        return self._remembered(frame) if self._set.cache else self._made(frame, self._set.schema)

    def _made(self, frame: pl.DataFrame, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """What the function makes of rows; of dicts, those columns that it gives, with the others as they were."""
        if self._set.unit == "batch":
            results = _in_the_loop(self._all(list(frame.iter_slices(self._set.rows))))
            for result in results:
                if not isinstance(result, pl.DataFrame):
                    raise SchemaMismatch(
                        f"the function gave {type(result).__name__}: it must give a pl.DataFrame"
                    )
            whole: pl.DataFrame = pl.concat(results)
            return whole
        rows = frame.rows(named=True)
        results = _in_the_loop(self._all(rows))
        for result in results:
            if not isinstance(result, Mapping):
                raise SchemaMismatch(
                    f"the function gave {type(result).__name__}: for a row it must give a dict"
                )
            if extra := [name for name in result if name not in schema]:
                raise SchemaMismatch(f"the function gave {extra[0]!r}, which schema= does not have")
        found = [{**row, **result} for row, result in zip(rows, results, strict=True)]
        columns = {name: [row[name] for row in found] for name in schema if all(name in row for row in found)}
        try:
            return pl.DataFrame(
                [pl.Series(name, values, dtype=schema[name]) for name, values in columns.items()]
            )
        except (TypeError, pl.exceptions.PolarsError) as error:
            raise SchemaMismatch(f"the function gave values that schema= does not have: {error}") from error

    # -- at a time -------------------------------------------------------------------------------------------------

    async def _all(self, arguments: Sequence[Any]) -> list[Any]:
        """The results of a call for each of the arguments, so many at a time."""
        gate = asyncio.Semaphore(self._set.concurrency)

        async def one(argument: Any) -> Any:
            async with gate:
                return await self._tried(argument)

        tasks = [asyncio.ensure_future(one(argument)) for argument in arguments]
        try:
            return await asyncio.gather(*tasks)
        finally:
            # One failed: what it would take to finish the others is not worth waiting for.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _tried(self, argument: Any) -> Any:
        wait, longest = self._set.backoff
        for left in range(self._set.retries, -1, -1):
            try:
                async with asyncio.timeout(self._set.seconds):
                    return await self._called(argument)
            except Exception as error:
                if not left:
                    if isinstance(error, TimeoutError) and self._set.seconds is not None and not error.args:
                        raise TimeoutError(took_longer(self._set.seconds)) from error
                    raise
            await asyncio.sleep(wait)
            wait = min(2 * wait, longest)
        raise AssertionError("the last try returned or raised")

    def _called(self, argument: Any) -> Awaitable[Any]:
        if self._coroutine:
            found: Awaitable[Any] = self._set.function(argument)
            return found
        return _in_a_thread(self._set.function, argument)

    # -- remembered ------------------------------------------------------------------------------------------------

    def _remembered(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows with what depends on some columns alone: asked for once for each of their values."""
        by = list(self._set.cache)
        made = {name: dtype for name, dtype in self._set.schema.items() if name not in frame.columns}
        keys = frame.select(by).unique(maintain_order=True)
        now = self._clock.monotonic()
        wanted = keys.rows()
        found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for key in wanted:
            known = self._known.get(key)
            if known is not None and known[0] > now:
                self._known.move_to_end(key)
                found[key] = known[1]
        missing = [number for number, key in enumerate(wanted) if key not in found]
        if missing:
            asked = keys[missing]
            result = self._made(asked, {**asked.schema, **made})
            if result.height != asked.height:
                raise SchemaMismatch(
                    f"the function gave {result.height} rows for {asked.height}: with cache= it gives one for each"
                )
            extra = [name for name in result.columns if name not in made]
            result = fitted(result.drop(extra), made)
            for number, values in zip(missing, result.rows(), strict=True):
                found[wanted[number]] = values
                self._keep(wanted[number], values)
        table = keys.hstack(pl.DataFrame([found[key] for key in wanted], schema=made, orient="row"))
        joined = frame.join(table, on=by, how="left", nulls_equal=True, maintain_order="left")
        return joined.select(list(self._set.schema))

    def _keep(self, key: tuple[Any, ...], values: tuple[Any, ...]) -> None:
        self._known[key] = self._clock.monotonic() + self._set.cache_seconds, values
        self._known.move_to_end(key)
        if len(self._known) > self._set.cache_size:
            self._known.popitem(last=False)


class _Loop:
    """One event loop for all coroutines of users' functions, in a thread of its own.

    What a client of theirs opened in one call is good for the next.
    """

    def __init__(self) -> None:
        self._door = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        with self._door:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=self._loop.run_forever, name="mamba-stream coroutines", daemon=True
                ).start()
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


_LOOP: Final = _Loop()


def _in_the_loop(work: Coroutine[Any, Any, T]) -> T:
    return _LOOP.run(work)


def _in_a_thread(function: Callable[[Any], T], argument: Any) -> Awaitable[T]:
    """The result of a function that is run in a thread of its own, which holds up nothing if it never ends."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(done: Callable[[Any], None], value: Any) -> None:
        if not result.done():
            done(value)

    def work() -> None:
        try:
            value = function(argument)
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            loop.call_soon_threadsafe(settle, result.set_exception, error)
        else:
            loop.call_soon_threadsafe(settle, result.set_result, value)

    threading.Thread(target=work, name="mamba-stream function", daemon=True).start()
    return result
