"""Lengths of time and moments, from what people write to whole ticks of a column.

Everything is integer arithmetic. A duration that a column cannot hold exactly is refused rather than rounded,
since windows that are off by a fraction of a tick are wrong only sometimes, which is worse than always.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Literal

import pyarrow as pa

from mamba_stream.core.names import did_you_mean
from mamba_stream.errors import InvalidInput

_MICROSECONDS: Final[dict[str, int]] = {
    "us": 1,
    "µs": 1,  # the micro sign, U+00B5
    "μs": 1,  # the Greek letter, U+03BC
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_PER_SECOND: Final[dict[str, int]] = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_SECONDS_PER_DAY: Final = 86_400
_DAY_US: Final = 86_400_000_000
_PART = re.compile(r"([0-9]+)([a-zµμ]+)")
_FORMS = "write '250ms', '10s', '1m', '3h', '1h30m', '1d' or '1w', or pass a timedelta"
_CALENDAR = {"mo": "month", "q": "quarter", "y": "year"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1


def duration_us(
    value: str | timedelta,
    *,
    what: str,
    negative: bool = False,
    zero: bool = True,
) -> int:
    """The length of a duration in microseconds.

    Args:
        value: Numbers each with a unit (``us ms s m h d w``; ``m`` is minutes), as in ``"1h30m"``, or a
            timedelta. A bare number is refused, for nobody can see its unit.
        what: What the duration is for; the message begins with it.
        negative: Permits a duration that points backwards, as in ``"-5m"``.
        zero: Permits ``"0s"``.

    Raises:
        InvalidInput: It is not a duration, or not one that is permitted here.

    Example:
        >>> duration_us("1h30m", what="lateness")
        5400000000
    """
    if isinstance(value, timedelta):
        length = value // _MICROSECOND
    elif isinstance(value, str):
        length = _parse(value, what)
    else:
        raise InvalidInput(f"{what} has no unit: {value!r:.80}; {_FORMS}")
    if length < 0 and not negative:
        raise InvalidInput(f"{what} must not be negative: {value!r}")
    if length == 0 and not zero:
        raise InvalidInput(f"{what} must be longer than nothing: {value!r}")
    if abs(length) > _INT64_MAX:
        raise InvalidInput(f"{what} is longer than 290,000 years: {value!r:.80}")
    return length


def _parse(text: str, what: str) -> int:
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    total = end = 0
    for part in _PART.finditer(digits):
        if part.start() != end:
            break
        number, unit = part.groups()
        if unit in _CALENDAR:
            name = _CALENDAR[unit]
            raise InvalidInput(
                f"{what} must have a fixed length, and a {name} has none: {text!r:.80}; use days"
            )
        if unit not in _MICROSECONDS:
            hint = ": the finest unit is 'us'" if unit == "ns" else did_you_mean(unit, _MICROSECONDS)
            raise InvalidInput(f"{what} has an unknown unit {unit!r} in {text!r:.80}{hint}; {_FORMS}")
        if len(number) > 20:
            raise InvalidInput(f"{what} is longer than 290,000 years: {text!r:.80}")
        total += int(number) * _MICROSECONDS[unit]
        end = part.end()
    if end != len(digits) or not digits:
        raise InvalidInput(f"{what} is not a duration: {text!r:.80}; {_FORMS}")
    return sign * total


def time_units(dtype: Any) -> int:
    """Ticks per second of a timestamp, duration or time type.

    Args:
        dtype: An Arrow or a Polars type. Dates have less than one tick per second: see :func:`ticks_per_day`.

    Raises:
        InvalidInput: The type counts no fractions of a second.
    """
    per_second = _PER_SECOND.get(_unit(dtype))
    if per_second is None:
        raise InvalidInput(f"{dtype} is not a timestamp, duration or time type")
    return per_second


def ticks_per_day(dtype: Any) -> int:
    """Ticks per day of a timestamp, duration, time or date type: the scale that dates share with the others.

    Raises:
        InvalidInput: The type does not measure time.
    """
    return 1 if _unit(dtype) == "day" else time_units(dtype) * _SECONDS_PER_DAY


def _unit(dtype: Any) -> str:
    if dtype == pa.date32() or str(dtype) == "Date":
        return "day"
    # pyarrow's types say `unit`; Polars' Datetime and Duration say `time_unit`, and its Time says nothing.
    unit = getattr(dtype, "unit", None) or getattr(dtype, "time_unit", None)
    return unit if isinstance(unit, str) else "ns" if str(dtype) == "Time" else ""


def duration_in(value: str | timedelta | int, dtype: Any, *, what: str = "duration") -> int:
    """A duration in ticks of a column's type.

    Args:
        value: What :func:`duration_us` takes, or its result in microseconds.
        dtype: The Arrow or Polars type of the time column.
        what: What the duration is for, for the message.

    Raises:
        InvalidInput: The type cannot hold it exactly, as ``"90m"`` in a column of dates.
    """
    length = value if isinstance(value, int) else duration_us(value, what=what, negative=True)
    ticks, rest = divmod(length * ticks_per_day(dtype), _DAY_US)
    if rest:
        finest = "whole days" if _unit(dtype) == "day" else f"whole {_unit(dtype)}"
        given = f"{timedelta(microseconds=value)}" if isinstance(value, int) else repr(value)
        raise InvalidInput(
            f"{what} of {given} does not fit a time column of type {dtype}, which counts {finest}"
        )
    return _in_int64(ticks, value, dtype)


def to_time(
    value: datetime | date | str,
    dtype: Any,
    *,
    rounding: Literal["up", "down", "exact"] = "up",
    what: str = "time",
) -> int:
    """A moment in ticks of a column's type.

    Args:
        value: A datetime, a date (its midnight), or either in ISO 8601. Without a zone it is UTC.
        dtype: The Arrow or Polars type of the time column.
        rounding: What to do between two ticks. ``up`` gives the first tick that is not before the moment,
            which leaves ``column >= moment`` as it was; ``exact`` refuses.
        what: What the moment is for, for the message.

    Raises:
        InvalidInput: It is not a moment, or the type cannot hold it.
    """
    nanoseconds = 0
    if isinstance(value, str):
        moment, nanoseconds = _parse_moment(value, what)
    elif isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime(value.year, value.month, value.day, tzinfo=UTC)
    else:
        raise InvalidInput(
            f"{what} is a datetime, a date or ISO 8601 text, not {type(value).__name__}: {value!r:.80}"
        )
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = ((moment - _EPOCH) // _MICROSECOND) * 1_000 + nanoseconds
    ticks, rest = divmod(since * ticks_per_day(dtype), _DAY_US * 1_000)
    if rest and rounding == "exact":
        raise InvalidInput(f"{what} {value!s:.80} lies between two ticks of a time column of type {dtype}")
    return _in_int64(ticks + (1 if rest and rounding == "up" else 0), value, dtype)


def _parse_moment(text: str, what: str) -> tuple[datetime, int]:
    """The moment to the microsecond, and the nanoseconds beyond, which datetime would drop without a word."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            f"{what} is not ISO 8601: {text!r:.80}; write '2013-01-31' or '2013-01-31T12:00:00Z'"
        ) from None
    beyond = re.search(r"[.,][0-9]{6}([0-9]+)", text)
    if beyond is None:
        return moment, 0
    digits = beyond.group(1)
    if digits[3:].strip("0"):
        raise InvalidInput(f"{what} is finer than a nanosecond: {text!r:.80}")
    return moment, int(digits[:3].ljust(3, "0"))


def _in_int64(ticks: int, value: object, dtype: Any) -> int:
    if not _INT64_MIN <= ticks <= _INT64_MAX:
        raise InvalidInput(f"{value!s:.80} is outside what a time column of type {dtype} can hold")
    return ticks
