"""A plan in words, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from mamba_stream.core.trees import short
from mamba_stream.errors import InvalidInput
from mamba_stream.plan import nodes as n
from mamba_stream.plan.shapes import Shape, known_shapes, split_window
from mamba_stream.plan.words import in_units


def explain(roots: Sequence[n.Node], *, style: str) -> str:
    """A plan for people.

    Args:
        roots: Its last nodes.
        style: ``text``, or ``mermaid`` for a picture.

    Raises:
        InvalidInput: There is no such style.
    """
    nodes = n.walk(roots)
    shapes = known_shapes(nodes)
    numbers = {node: number for number, node in enumerate(nodes, 1)}
    if style == "text":
        return "\n".join(line for node in nodes for line in _lines(node, numbers, shapes))
    if style == "mermaid":
        return "\n".join(["flowchart LR", *(_box(node, numbers) for node in nodes), *_arrows(nodes, numbers)])
    raise InvalidInput(f"explain(format={style!r}): choose 'text' or 'mermaid'")


def _lines(node: n.Node, numbers: Mapping[n.Node, int], shapes: Mapping[n.Node, Shape]) -> list[str]:
    before = [numbers[parent] for parent in node.parents]
    # Only what does not simply follow the line above says where its rows come from.
    origin = "" if before in ([], [numbers[node] - 1]) else f" of {' and '.join(map(str, before))}"
    lines = [f"{numbers[node]:>3}  {node.verb}{origin}: {_words(node)}"]
    return lines + [f"       {line}" for line in _remarks(node, shapes)]


def _words(node: n.Node) -> str:
    match node:
        case n.TopicSource():
            return f"topic {node.topic!r}{_time_words(node)}"
        case n.FrameSource():
            return f"a frame of {node.frame.height:,} rows{_time_words(node)}"
        case n.Filter():
            return " and ".join(short(predicate) for predicate in node.predicates)
        case n.Select() | n.WithColumns():
            return ", ".join(short(expr) for expr in node.exprs)
        case n.Drop():
            return ", ".join(map(str, node.columns))
        case n.Rename():
            names = node.names
            return (
                ", ".join(f"{a} to {b}" for a, b in names.items())
                if isinstance(names, Mapping)
                else "by a function"
            )
        case n.Cast():
            dtypes = node.dtypes
            return (
                ", ".join(f"{a} to {b}" for a, b in dtypes.items())
                if isinstance(dtypes, Mapping)
                else str(dtypes)
            )
        case n.MapBatches() | n.Inspect():
            return _function_name(node.function)
        case n.Lookup():
            on = zip(node.left_on, node.right_on, strict=True)
            pairs = (left if left == right else f"{left} = {right}" for left, right in on)
            return f"{node.how}, with a table of {node.table.height:,} rows on {', '.join(pairs)}"
        case n.Window():
            return f"{node.spec.words}{' by ' + ', '.join(node.by) if node.by else ''}"
        case n.LateRows():
            return "the rows that came too late for it"
        case n.RejectedRows():
            return "its rows without a time, or with one too far ahead"
        case n.Output():
            return f"topic {node.topic!r}{', by ' + ', '.join(node.key) if node.key else ''}"
        case _:
            return f"{len(node.parents)} streams"


def _function_name(function: Any) -> str:
    return str(getattr(function, "__qualname__", repr(function)))


def _time_words(node: n.Source) -> str:
    time = (
        f"time {node.time}"
        if node.time
        else "the topic's own time"
        if isinstance(node, n.TopicSource)
        else ""
    )
    return f", {time}, lateness {in_units(timedelta(microseconds=node.lateness))}" if time else ""


def _remarks(node: n.Node, shapes: Mapping[n.Node, Shape]) -> list[str]:
    match node:
        case n.Window() if node.parent in shapes:
            described = split_window(node, shapes[node.parent]).describe()
            width = max(map(len, described))
            return [f"{name:<{width}}  {how}" for name, how in described.items()] + [f"named {node.name!r}"]
        case n.Window():
            return [f"named {node.name!r}; how it aggregates shows once the topic is known"]
        case n.MapBatches():
            return ["the same whatever the batching only if the function is row-wise and deterministic"]
        case n.TopicSource():
            return [
                f"goes on without a partition that was silent for {node.idle:g} s: what it brings after may be late"
            ]
        case _:
            return []


def _box(node: n.Node, numbers: Mapping[n.Node, int]) -> str:
    text = f"{node.verb}: {_words(node)}".replace('"', "'")
    return f'  n{numbers[node]}["{text}"]'


def _arrows(nodes: Sequence[n.Node], numbers: Mapping[n.Node, int]) -> list[str]:
    return [f"  n{numbers[parent]} --> n{numbers[node]}" for node in nodes for parent in node.parents]
