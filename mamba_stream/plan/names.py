"""What steps are called when the user does not say: after verb, keys and columns, never after their position."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mamba_stream.errors import PipelineRefused
from mamba_stream.plan.nodes import Node, Stateful, WindowSpec


def window_name(
    spec: WindowSpec, by: Sequence[str], results: Sequence[str], *, changing: bool = False
) -> str:
    """A window step's name.

    Example:
        >>> window_name(WindowSpec("tumbling", 1, 1, 0, "tumbling 1h"), ["origin"], ["departures", "p95"])
        'tumbling 1h by origin: departures, p95'
    """
    return step_name(f"changing {spec.words}" if changing else spec.words, by, results)


def step_name(verb: str, by: Sequence[str], results: Sequence[str]) -> str:
    """A step's name.

    Args:
        verb: What it does, in words.
        by: Its key.
        results: The columns that it makes, or is about.

    Example:
        >>> step_name("rolling 10m", ["symbol"], ["mean"])
        'rolling 10m by symbol: mean'
    """
    keys = f" by {', '.join(by)}" if by else ""
    return f"{verb}{keys}: {', '.join(results)}"


def keyed_name(verb: str, by: Sequence[str], results: Iterable[str] = ()) -> str:
    """The name of a step that keeps something by key.

    Example:
        >>> keyed_name("group_by", ["origin", "day"], ["departures"])
        'group_by origin, day: departures'
    """
    what = ", ".join(results)
    return f"{verb}{' ' + ', '.join(by) if by else ''}{': ' + what if what else ''}"


def check_step_names(nodes: Sequence[Node]) -> None:
    """Refuses two stateful steps of one name, whose states could not be told apart.

    Raises:
        PipelineRefused: With the places of both.
    """
    seen: dict[str, Stateful] = {}
    for node in nodes:
        if isinstance(node, Stateful):
            if other := seen.get(node.name):
                raise PipelineRefused(
                    f"two steps are called {node.name!r} ({other.verb} at {other.place} and {node.verb} at "
                    f"{node.place}): give one of them {node.verb}(..., name=), or use one stream for both"
                )
            seen[node.name] = node
