"""Calls of a user's function beside the loop: with an end to waiting, several at a time, tried again, remembered."""

from __future__ import annotations

import asyncio
import inspect
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal, Protocol

import msgspec
import polars as pl

from mamba_stream.core.clock import EVER, Clock, SystemClock
from mamba_stream.core.single import joined
from mamba_stream.errors import SchemaMismatch
from mamba_stream.operators.fitting import fitted
from mamba_stream.runtime.coroutines import Lane, in_a_thread
from mamba_stream.runtime.limited import took_longer

Schema = Mapping[str, pl.DataType]
_Key = tuple[Any, ...]


class CallSettings(msgspec.Struct, frozen=True, kw_only=True):
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
    schema: Schema
    unit: Literal["batch", "row"]
    rows: int
    concurrency: int
    seconds: float | None
    retries: int
    backoff: tuple[float, float]
    cache: Sequence[str]
    cache_seconds: float
    cache_size: int


class Answer(Protocol):
    """What the function says about the rows of a frame, once it has."""

    @property
    def over(self) -> bool:
        """Whether :meth:`result` need not wait, once those that were begun before have given theirs."""
        ...

    def result(self) -> pl.DataFrame:
        """Waits for it; to be asked of all that were begun, in that order."""
        ...


class Calls:
    """Takes frames, and gives what the function makes of their rows, in their order."""

    def __init__(self, settings: CallSettings, clock: Clock | None = None) -> None:
        self._set = settings
        self._clock = clock or SystemClock()
        self._lane = Lane(self._tried, settings.concurrency)
        self._memory = _Memory(settings, self._clock)
        self._coroutine = inspect.iscoroutinefunction(settings.function) or inspect.iscoroutinefunction(
            getattr(settings.function, "__call__", None)  # noqa: B004 - an object may be called as a coroutine
        )

    def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        """What the function makes of rows, once all of it is there."""
        return self.begin(frame).result()

    def begin(self, frame: pl.DataFrame, ended: Callable[[], object] = lambda: None) -> Answer:
        """Begins the calls for a frame, behind those that were begun before.

        Args:
            frame: The rows.
            ended: Called when they are over, if there are any, in whichever thread.
        """
        if self._set.cache and frame.height:
            return _Remembered(self._set, self._lane, self._memory, frame, ended)
        return _Asked(self._set, self._lane, frame, self._set.schema, ended)

    def wait_for_room(self) -> None:
        """Returns when a call is begun as soon as it is asked for."""
        self._lane.wait_for_room()

    def cancel(self) -> None:
        """Ends the calls there are: nobody wants their results any more."""
        self._lane.cancel()

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
        return in_a_thread(self._set.function, argument)


class _Asked:
    """Calls about all rows of a frame."""

    def __init__(
        self,
        settings: CallSettings,
        lane: Lane,
        frame: pl.DataFrame,
        schema: Schema,
        ended: Callable[[], object],
    ) -> None:
        self._set = settings
        self._schema = schema
        self._arguments: list[Any] = (
            list(frame.iter_slices(settings.rows)) if settings.unit == "batch" else frame.rows(named=True)
        )
        self._found: Future[list[Any]] = lane.begin(self._arguments if frame.height else [], ended)

    @property
    def over(self) -> bool:
        return self._found.done()

    def result(self) -> pl.DataFrame:
        """What the function makes of rows; of dicts, those columns that it gives, with the others as they were."""
        results = self._found.result(EVER)
        if not results:
            return pl.DataFrame(schema=self._schema)
        return self._of_frames(results) if self._set.unit == "batch" else self._of_rows(results)

    def _of_frames(self, results: Sequence[Any]) -> pl.DataFrame:
        for result in results:
            if not isinstance(result, pl.DataFrame):
                raise SchemaMismatch(
                    f"the function gave {type(result).__name__}: it must give a pl.DataFrame"
                )
        whole: pl.DataFrame = pl.concat(results)
        return whole

    def _of_rows(self, results: Sequence[Any]) -> pl.DataFrame:
        schema = self._schema
        for result in results:
            if not isinstance(result, Mapping):
                raise SchemaMismatch(
                    f"the function gave {type(result).__name__}: for a row it must give a dict"
                )
            if extra := [name for name in result if name not in schema]:
                raise SchemaMismatch(f"the function gave {extra[0]!r}, which schema= does not have")
        found = [{**row, **result} for row, result in zip(self._arguments, results, strict=True)]
        columns = {name: [row[name] for row in found] for name in schema if all(name in row for row in found)}
        try:
            return pl.DataFrame(
                [pl.Series(name, values, dtype=schema[name]) for name, values in columns.items()]
            )
        except (TypeError, pl.exceptions.PolarsError) as error:
            raise SchemaMismatch(f"the function gave values that schema= does not have: {error}") from error


class _Memory:
    """What the function said about values of the key columns, and which of them it is being asked about."""

    def __init__(self, settings: CallSettings, clock: Clock) -> None:
        self._seconds = settings.cache_seconds
        self._size = settings.cache_size
        self._clock = clock
        self._known: OrderedDict[_Key, tuple[float, _Key]] = OrderedDict()
        self.asked: dict[_Key, _Remembered] = {}

    def find(self, key: _Key) -> _Key | None:
        """What is known about a key still."""
        known = self._known.get(key)
        if known is None or known[0] <= self._clock.monotonic():
            return None
        self._known.move_to_end(key)
        return known[1]

    def keep(self, key: _Key, values: _Key) -> None:
        """Remembers what was said about a key."""
        self._known[key] = self._clock.monotonic() + self._seconds, values
        self._known.move_to_end(key)
        if len(self._known) > self._size:
            self._known.popitem(last=False)


class _Remembered:
    """The rows of a frame with what depends on some columns alone: asked for once for each of their values."""

    def __init__(
        self,
        settings: CallSettings,
        lane: Lane,
        memory: _Memory,
        frame: pl.DataFrame,
        ended: Callable[[], object],
    ) -> None:
        self._set = settings
        self._lane = lane
        self._memory = memory
        self._frame = frame
        self._by = list(settings.cache)
        self._made = {name: dtype for name, dtype in settings.schema.items() if name not in frame.columns}
        self._keys = frame.select(self._by).unique(maintain_order=True)
        self._wanted: list[_Key] = self._keys.rows()
        self.values: dict[_Key, _Key] = {}
        """What was said about them, so far."""
        self._elsewhere: dict[_Key, _Remembered] = {}
        missing = []
        for number, key in enumerate(self._wanted):
            if (known := memory.find(key)) is not None:
                self.values[key] = known
            elif key in memory.asked:
                self._elsewhere[key] = memory.asked[key]
            else:
                memory.asked[key] = self
                missing.append(number)
        self._missing = missing
        self._answer = self._ask(missing, ended)

    @property
    def over(self) -> bool:
        return self._answer.over

    def result(self) -> pl.DataFrame:
        """The rows, with what was said about their keys."""
        try:
            self._note(self._missing, self._answer)
        finally:
            for number in self._missing:
                self._memory.asked.pop(self._wanted[number], None)
        again = []
        for number, key in enumerate(self._wanted):
            if key in self.values:
                continue
            found = self._elsewhere[key].values.get(key)
            if found is None and (found := self._memory.find(key)) is None:
                again.append(number)  # whoever asked about it before has failed
            else:
                self.values[key] = found
        self._elsewhere = {}
        if again:
            self._note(again, self._ask(again, lambda: None))
        table = self._keys.hstack(
            pl.DataFrame([self.values[key] for key in self._wanted], schema=self._made, orient="row")
        )
        by = self._by
        rows = joined(
            self._frame, table, left_on=by, right_on=by, how="left", nulls_equal=True, maintain_order="left"
        )
        return rows.select(list(self._set.schema))

    def _ask(self, numbers: Sequence[int], ended: Callable[[], object]) -> _Asked:
        asked = self._keys[numbers]
        return _Asked(self._set, self._lane, asked, {**asked.schema, **self._made}, ended)

    def _note(self, numbers: Sequence[int], answer: _Asked) -> None:
        if not numbers:
            return
        result = answer.result()
        if result.height != len(numbers):
            raise SchemaMismatch(
                f"the function gave {result.height} rows for {len(numbers)}: with cache= it gives one for each"
            )
        extra = [name for name in result.columns if name not in self._made]
        result = fitted(result.drop(extra), self._made)
        for number, values in zip(numbers, result.rows(), strict=True):
            self.values[self._wanted[number]] = values
            self._memory.keep(self._wanted[number], values)
