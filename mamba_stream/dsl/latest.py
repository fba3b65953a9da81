"""``stream.table(key)`` and ``stream.unique(subset)``: the latest, or the first, row of each key."""

from __future__ import annotations

import warnings
from datetime import timedelta
from typing import TYPE_CHECKING

from mamba_stream.core.durations import duration_us
from mamba_stream.core.names import check_name
from mamba_stream.dsl.places import caller
from mamba_stream.errors import PipelineRefused, UnboundedState
from mamba_stream.plan.changelogs import Table, Unique, UniqueOnArrival
from mamba_stream.plan.names import keyed_name

if TYPE_CHECKING:
    from mamba_stream.dsl.planned import Planned
    from mamba_stream.dsl.streams import Stream


def table(stream: Planned, key: tuple[str, ...], *, name: str | None, verb: str = "table") -> Stream:
    """What ``Stream.table`` does."""
    if name is not None:
        check_name(name, "step")
    step = Table(
        place=caller(),
        parent=stream._node,  # noqa: SLF001 - its own verb
        key=key,
        called=verb,
        name=name or keyed_name(verb, key),
    )
    return stream._then(step)  # noqa: SLF001 - its own verb


def unique(
    stream: Planned,
    subset: tuple[str, ...],
    *,
    keep: str,
    within: str | timedelta | None,
    order: str,
    name: str | None,
) -> Stream:
    """What ``Stream.unique`` does."""
    if keep == "any":
        keep = "first"
    if keep not in ("first", "last"):
        raise PipelineRefused(f"unique(keep={keep!r}): choose 'first' or 'last'")
    if order not in ("stream", "arrival"):
        raise PipelineRefused(f"unique(order={order!r}): choose 'stream' or 'arrival'")
    if keep == "last":
        if within is not None or order != "stream":
            raise PipelineRefused(
                "unique(keep='last') is a table of the latest rows, and acts at once: leave out within= and order="
            )
        if not subset:
            raise PipelineRefused(
                "unique(keep='last') needs a subset: of rows that are equal, none is the last"
            )
        return table(stream, subset, name=name, verb="unique")
    if name is not None:
        check_name(name, "step")
    place = caller()
    length = None if within is None else duration_us(within, what="within")
    bound = "" if length is None else f" within {within}"
    called = name or f"{keyed_name('unique', subset)}{bound}"
    if within is None:
        warnings.warn_explicit(
            f"step {called!r} keeps every key for ever, since a row may come again at any time: "
            "give within=, the time after which it may",
            UnboundedState,
            place.file,
            place.line,
        )
    kind = Unique if order == "stream" else UniqueOnArrival
    step = kind(place=place, parent=stream._node, subset=subset, within=length, name=called)  # noqa: SLF001
    return stream._then(step)  # noqa: SLF001
