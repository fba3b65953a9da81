"""What ``Stream.join`` is given, checked and made into a node."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, get_args

import polars as pl

from mamba_stream.core.durations import duration_us
from mamba_stream.core.names import check_name, did_you_mean
from mamba_stream.core.trees import columns
from mamba_stream.dsl.arguments import names
from mamba_stream.dsl.periodic import Periodically
from mamba_stream.dsl.tables import as_table
from mamba_stream.errors import PipelineRefused, UnboundedState
from mamba_stream.plan import joinrules as _rules, nodes as n  # noqa: F401 - what is known of joins is registered there
from mamba_stream.plan.changelogs import Table, TopK, Totals
from mamba_stream.plan.joins import (
    AsofJoin,
    IntervalJoin,
    PeriodicLookup,
    UnboundedJoin,
    Validate,
    WindowJoin,
    join_name,
)
from mamba_stream.plan.shapes import Shape
from mamba_stream.plan.words import in_units

HOWS = ("inner", "left", "right", "full", "semi", "anti")
_VALIDATES = get_args(Validate)
_STRATEGIES = ("backward", "forward", "nearest")
_TABLE_HOWS = ("inner", "left", "semi", "anti")
FOREVER = "forever"
"""As ``ttl=``: that state is never freed is meant."""
_AS_IT_IS = f"give ttl={FOREVER!r} for the table as it is by then, whose changes change the result"
_WITHIN = "a length of time such as '10m', or two: ('0s', '15m') for the other row's time minus this row's"


def key_columns(on: Any, left_on: Any, right_on: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The key columns of both sides.

    Raises:
        PipelineRefused: They are given twice, not at all, or not as many on both sides.
    """
    if (on is None) == (left_on is None and right_on is None):
        raise PipelineRefused("join: give on=, or left_on= and right_on=")
    left = names(on if on is not None else left_on, what="join")
    right = names(on if on is not None else right_on, what="join")
    if not left or len(left) != len(right):
        raise PipelineRefused(f"join: {len(left)} columns on the left, {len(right)} on the right")
    return left, right


def lookup(
    place: n.Place, parent: n.Node, table: Any, on: tuple[Sequence[str], Sequence[str]], how: str, suffix: str
) -> n.Node:
    """A join with a table that stays as it is, or is read again now and then."""
    if how not in _TABLE_HOWS:
        raise PipelineRefused(f"join: how={how!r}; with a table choose 'inner', 'left', 'semi' or 'anti'")
    common: dict[str, Any] = {
        "place": place,
        "parent": parent,
        "left_on": tuple(on[0]),
        "right_on": tuple(on[1]),
        "how": how,
        "suffix": suffix,
    }
    if isinstance(table, Periodically):
        return PeriodicLookup(
            **common,
            table=pl.DataFrame(schema=table.schema),
            read=table.read,
            every=table.every,
            clock=table.clock,
            often=table.words,
        )
    return n.Lookup(**common, table=as_table(table, what="join"))


def stream_join(
    place: n.Place,
    sides: tuple[n.Node, n.Node],
    on: tuple[tuple[str, ...], tuple[str, ...]],
    how: str,
    *,
    within: Any,
    ttl: Any,
    window: Any,
    suffix: str,
    validate: str,
    name: str | None,
    shapes: Mapping[n.Node, Shape],
) -> n.Node:
    """A join of two streams, or of a stream and a table as it was at each row's time.

    Warns:
        UnboundedState: Nothing says how long rows are to be kept.

    Raises:
        PipelineRefused: An argument cannot be right.
    """
    if how not in HOWS:
        listed = ", ".join(map(repr, HOWS))
        raise PipelineRefused(f"join: how={how!r}{did_you_mean(str(how), HOWS)}; choose one of {listed}")
    if name is not None:
        check_name(name, "step")
    given = {"within": within, "ttl": ttl, "window": window}
    bounds = [word for word, value in given.items() if value is not None]
    if len(bounds) > 1:
        raise PipelineRefused(
            f"join: give {bounds[0]}= or {bounds[1]}=, not both: each says which rows may meet"
        )
    common: dict[str, Any] = {
        "place": place,
        "left": sides[0],
        "right": sides[1],
        "left_on": on[0],
        "right_on": on[1],
        "how": how,
        "suffix": suffix,
    }
    _check_validate(
        validate, how, bounded=within is not None or window is not None or ttl not in (None, FOREVER)
    )
    pairs = list(zip(*on, strict=True))
    changes = [is_changelog(side, shapes) for side in sides]
    as_of = not bounds and not changes[0] and validate == _VALIDATES[0]
    if as_of and (table := _table_of(sides[1], shapes)) is not None:
        return _with_table(common, table, name)
    if window is not None:
        return WindowJoin(
            **common, spec=_window(window), name=name or join_name(pairs, how, f"in {window.words}")
        )
    if within is None and ttl in (None, FOREVER):
        name = name or join_name(pairs, how, "")
        if ttl is None and not all(changes):
            # Two tables are kept as large as they are.
            _warn_unbounded(place, name)
        return UnboundedJoin(**common, validate=validate, name=name)  # type: ignore[arg-type]
    lower, upper, words = _bounds(within) if within is not None else _lifetime(ttl)
    return IntervalJoin(
        **common, lower=lower, upper=upper, bounds=words, name=name or join_name(pairs, how, words)
    )


def _check_validate(validate: str, how: str, *, bounded: bool) -> None:
    """Refuses what is no word for which keys are unique, and joins of which that is not known."""
    if validate not in _VALIDATES:
        listed = ", ".join(map(repr, _VALIDATES))
        raise PipelineRefused(f"join: validate={validate!r}; choose one of {listed}, as in Polars")
    if validate == _VALIDATES[0]:
        return
    if bounded:
        raise PipelineRefused(
            f"join: validate={validate!r} is about all rows of a side, and within=, window= and a length of ttl= let "
            f"them go: leave it out, or give ttl={FOREVER!r}"
        )
    if how in ("semi", "anti"):
        raise PipelineRefused(
            f"join: validate={validate!r} does not go with how={how!r}, in Polars neither: leave it out"
        )


def is_changelog(node: n.Node, shapes: Mapping[n.Node, Shape]) -> bool:
    """Whether a stream's rows are taken back later, as far as can be told before its topics are known."""
    if node in shapes:
        return shapes[node].changelog is not None
    node = _making(node)
    if isinstance(node, TopK):
        # Of windows that come whole, the best rows may come once.
        before = _making(node.parent)
        return not isinstance(before, n.Window | WindowJoin) or is_changelog(before, shapes)
    if isinstance(node, n.Window):
        return node.changing is not None
    return isinstance(node, Totals) or (isinstance(node, Table) and not is_changelog(node.parent, shapes))


def _making(node: n.Node) -> n.Node:
    """The node that made the rows that steps with one row for each, or none, have passed on."""
    while isinstance(node, n.RowStep | n.Inspect | n.MapBatches | n.Lookup):
        node = node.parent
    return node


def _table_of(node: n.Node, shapes: Mapping[n.Node, Shape]) -> Table | None:
    """The table of the latest rows of another stream, where a stream is that, as ``.table(key)`` gave it.

    Raises:
        PipelineRefused: It is one, with verbs behind it.
    """
    direct = node
    while isinstance(node, n.RowStep):
        node = node.parent
    if not isinstance(node, Table) or is_changelog(node.parent, shapes):
        return None
    if node is not direct:
        raise PipelineRefused(
            f"join: between .{node.verb}() and the join stands {direct.verb}, and rows meet the table as it was at "
            f"their own time: do that before .{node.verb}() or after the join, or {_AS_IT_IS}"
        )
    return node


def _with_table(common: dict[str, Any], table: Table, name: str | None) -> n.Node:
    """A stream with a table as it was at each row's time: as of the latest row of each key."""
    left, right, how = common["left_on"], common["right_on"], common["how"]
    if how not in _TABLE_HOWS:
        raise PipelineRefused(
            f"join: how={how!r}; with a table as it was at each row's time choose 'inner', 'left', 'semi' or 'anti', "
            f"or {_AS_IT_IS}"
        )
    if set(right) != set(table.key) or len(right) != len(table.key):
        raise PipelineRefused(
            f"join: the table's key is {', '.join(table.key)}, and the join is on {', '.join(right)} of it: join on "
            f"its key, or {_AS_IT_IS}"
        )
    words = "with the table as of its time"
    return AsofJoin(
        **{**common, "right": table.parent},
        strategy="backward",
        tolerance=None,
        keeps_time=True,
        called="join",
        name=name or join_name(list(zip(left, right, strict=True)), how, words),
    )


def asof_join(
    place: n.Place,
    sides: tuple[n.Node, Any],
    by: tuple[Any, Any, Any],
    *,
    strategy: str,
    tolerance: Any,
    suffix: str,
    coalesce: bool,
    name: str | None,
) -> n.Node:
    """A join with another stream as it was at each row's time.

    Raises:
        PipelineRefused: An argument cannot be right.
    """
    both, by_left, by_right = by
    if both is not None and (by_left is not None or by_right is not None):
        raise PipelineRefused("join_asof: give by=, or by_left= and by_right=, not both")
    left = names(both if both is not None else by_left, what="by=")
    right = names(both if both is not None else by_right, what="by=")
    if len(left) != len(right):
        raise PipelineRefused(f"join_asof: {len(left)} columns on the left, {len(right)} on the right")
    if strategy not in _STRATEGIES:
        raise PipelineRefused(f"join_asof: strategy={strategy!r}; choose 'backward', 'forward' or 'nearest'")
    if strategy != "backward" and tolerance is None:
        raise PipelineRefused(
            f"join_asof: strategy={strategy!r} looks forward, and needs tolerance= to know how long a row waits"
        )
    if name is not None:
        check_name(name, "step")
    reach = None if tolerance is None else duration_us(tolerance, what="join_asof: tolerance=")
    within = "" if tolerance is None else f" within {_text(tolerance)}"
    words = f"{'as of its time' if strategy == 'backward' else f'{strategy} in time'}{within}"
    return AsofJoin(
        place=place,
        left=sides[0],
        right=sides[1],
        left_on=left,
        right_on=right,
        how="left",
        suffix=suffix,
        strategy=strategy,  # type: ignore[arg-type]
        tolerance=reach,
        keeps_time=not coalesce,
        called="join_asof",
        name=name or join_name(list(zip(left, right, strict=True)), "left", words),
    )


def _window(spec: Any) -> n.WindowSpec:
    if not isinstance(spec, n.WindowSpec):
        raise PipelineRefused(
            f"join: window= takes mamba.tumbling(...) or mamba.hopping(...), not {spec!r:.80}"
        )
    if spec.kind not in ("tumbling", "hopping"):
        raise PipelineRefused(
            f"join: window={spec.words}: windows in which two streams meet are tumbling or hopping ones"
        )
    return spec


def _warn_unbounded(place: n.Place, name: str) -> None:
    warnings.warn_explicit(
        f"step {name!r} keeps all rows of both sides for ever: give join(..., within=), ttl= or window= for which "
        f"rows may meet, or ttl={FOREVER!r} if that is meant",
        UnboundedState,
        place.file,
        place.line,
    )


def _lifetime(ttl: Any) -> tuple[int, int, str]:
    if not isinstance(ttl, str | timedelta):
        raise PipelineRefused(f"join: ttl={ttl!r:.80} is not a length of time such as '1d', or {FOREVER!r}")
    reach = duration_us(ttl, what="join: ttl=", zero=False)
    return -reach, reach, f"ttl {_text(ttl)}"


def _bounds(within: Any) -> tuple[int, int | pl.Expr, str]:
    """The bounds in microseconds, and in words."""
    if isinstance(within, str | timedelta):
        reach = duration_us(within, what="join: within=")
        return -reach, reach, f"within {_text(within)}"
    if not isinstance(within, tuple | list) or len(within) != 2:
        raise PipelineRefused(f"join: within={within!r:.80} is not {_WITHIN}")
    first, last = within
    if isinstance(first, pl.Expr):
        raise PipelineRefused(
            "join: within=(an expression, ...): only the upper bound may be an expression, as the lower one says how "
            "long rows of the other stream are kept: join the other way round, or give a length of time"
        )
    lower = duration_us(first, what="join: the lower bound of within=", negative=True)
    if isinstance(last, pl.Expr):
        roots = ", ".join(sorted(columns(last))) or "constants"
        return lower, last, f"within {_text(first)} to a bound by {roots}"
    upper = duration_us(last, what="join: the upper bound of within=", negative=True)
    if lower > upper:
        raise PipelineRefused(f"join: within=({first!r}, {last!r}): no time lies between these: swap them")
    return lower, upper, f"within {_text(first)} to {_text(last)}"


def _text(length: str | timedelta) -> str:
    if isinstance(length, str):
        return length
    return f"-{in_units(-length)}" if length < timedelta() else in_units(length)
