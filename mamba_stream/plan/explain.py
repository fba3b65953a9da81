"""A plan in words, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import singledispatch
from typing import Any

from mamba_stream.core.trees import short
from mamba_stream.errors import InvalidInput
from mamba_stream.plan import nodes as n
from mamba_stream.plan.shapes import Shape, known_shapes, split_window
from mamba_stream.plan.words import in_units


def explain(roots: Sequence[n.Node], *, style: str, also: Mapping[n.Node, str] | None = None) -> str:
    """A plan for people.

    Args:
        roots: Its last nodes.
        style: ``text``, or ``mermaid`` for a picture.
        also: What else is to be said of nodes, where it is not a picture.

    Raises:
        InvalidInput: There is no such style.
    """
    nodes = n.walk(roots)
    shapes = known_shapes(nodes)
    numbers = {node: number for number, node in enumerate(nodes, 1)}
    if style == "text":
        remarks = also or {}
        return "\n".join(line for node in nodes for line in _lines(node, numbers, shapes, remarks))
    if style == "mermaid":
        return "\n".join(["flowchart LR", *(_box(node, numbers) for node in nodes), *_arrows(nodes, numbers)])
    raise InvalidInput(f"explain(format={style!r}): choose 'text', 'mermaid' or 'stages'")


def _lines(
    node: n.Node, numbers: Mapping[n.Node, int], shapes: Mapping[n.Node, Shape], also: Mapping[n.Node, str]
) -> list[str]:
    before = [numbers[parent] for parent in node.parents]
    # Only what does not simply follow the line above says where its rows come from.
    origin = "" if before in ([], [numbers[node] - 1]) else f" of {' and '.join(map(str, before))}"
    lines = [f"{numbers[node]:>3}  {node.verb}{origin}: {words_of(node)}"]
    remarks = [*remarks_on(node, shapes), *([f"over workers: {also[node]}"] if node in also else [])]
    return lines + [f"       {line}" for line in remarks]


@singledispatch
def words_of(node: n.Node) -> str:
    """What a node does, in a line; verbs in modules of their own register theirs."""
    return f"{len(node.parents)} streams"


@words_of.register
def _(node: n.TopicSource) -> str:
    return f"topic {node.topic!r}{_time_words(node)}"


@words_of.register
def _(node: n.FrameSource) -> str:
    return f"a frame of {node.frame.height:,} rows{_time_words(node)}"


@words_of.register
def _(node: n.ConnectorSource) -> str:
    return f"{node.source.name}{_time_words(node)}"


@words_of.register
def _(node: n.Handover) -> str:
    return "the first to its end, and behind it the second"


@words_of.register
def _(node: n.Filter) -> str:
    return " and ".join(short(predicate) for predicate in node.predicates)


@words_of.register(n.Select)
@words_of.register(n.WithColumns)
def _(node: n.Select | n.WithColumns) -> str:
    return ", ".join(short(expr) for expr in node.exprs)


@words_of.register(n.Explode)
@words_of.register(n.Unnest)
@words_of.register(n.Drop)
def _(node: n.Drop | n.Explode | n.Unnest) -> str:
    return ", ".join(map(str, node.columns))


@words_of.register
def _(node: n.Rename) -> str:
    names = node.names
    return (
        ", ".join(f"{a} to {b}" for a, b in names.items()) if isinstance(names, Mapping) else "by a function"
    )


@words_of.register
def _(node: n.Cast) -> str:
    dtypes = node.dtypes
    return ", ".join(f"{a} to {b}" for a, b in dtypes.items()) if isinstance(dtypes, Mapping) else str(dtypes)


@words_of.register(n.MapBatches)
@words_of.register(n.Inspect)
def _(node: n.MapBatches | n.Inspect) -> str:
    return function_name(node.function)


@words_of.register
def _(node: n.Lookup) -> str:
    on = zip(node.left_on, node.right_on, strict=True)
    pairs = (left if left == right else f"{left} = {right}" for left, right in on)
    return f"{node.how}, with a table of {node.table.height:,} rows on {', '.join(pairs)}"


@words_of.register
def _(node: n.Window) -> str:
    return f"{node.spec.words}{' by ' + ', '.join(node.by) if node.by else ''}"


@words_of.register
def _(node: n.WithTime) -> str:
    return f"{node.time}, lateness {in_units(timedelta(microseconds=node.lateness))}"


@words_of.register
def _(node: n.LateRows) -> str:
    return "the rows that came too late for it"


@words_of.register
def _(node: n.RejectedRows) -> str:
    return "rows without a time, or with one too far ahead"


@words_of.register
def _(node: n.Changes) -> str:
    return "the log of changes as rows, with _op"


@words_of.register
def _(node: n.Output) -> str:
    return f"topic {node.topic!r}{', by ' + ', '.join(node.key) if node.key else ''}"


@words_of.register
def _(node: n.SinkOutput) -> str:
    return f"sink {node.sink.name!r}"


def function_name(function: Any) -> str:
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


@singledispatch
def remarks_on(node: n.Node, shapes: Mapping[n.Node, Shape]) -> list[str]:
    """What else is worth knowing of a node, in lines; verbs in modules of their own register theirs."""
    return []


@remarks_on.register
def _(node: n.Window, shapes: Mapping[n.Node, Shape]) -> list[str]:
    if node.parent not in shapes:
        return [f"named {node.name!r}; how it aggregates shows once the topic is known"]
    described = split_window(node, shapes[node.parent]).describe()
    width = max(map(len, described))
    remarks = [f"{name:<{width}}  {how}" for name, how in described.items()]
    if node.changing is not None:
        remarks.append(_when(node.changing))
    if node.spec.kind == "rows" and node.by:
        remarks.append("a window that is not full stays, for every key, for as long as the job lives")
    return [*remarks, f"named {node.name!r}"]


def _when(changing: n.Changing) -> str:
    """When windows that change give their results."""
    early = "with every batch" if changing.at_once else "when it is over"
    if changing.every is not None:
        early += f", and every {in_units(timedelta(microseconds=changing.every))} of the stream's time before"
    if changing.corrections:
        early += f"; corrected for {in_units(timedelta(microseconds=changing.corrections))} after"
    return f"a changelog: a window gives its results {early}"


@remarks_on.register
def _(node: n.MapBatches, shapes: Mapping[n.Node, Shape]) -> list[str]:
    return ["the same whatever the batching only if the function is row-wise and deterministic"]


@remarks_on.register
def _(node: n.TopicSource, shapes: Mapping[n.Node, Shape]) -> list[str]:
    return [
        f"goes on without a partition that was silent for {node.idle:g} s: what it brings after may be late"
    ]


@remarks_on.register
def _(node: n.ConnectorSource, shapes: Mapping[n.Node, Shape]) -> list[str]:
    remarks = [f"reads {node.source.delivery}"]
    if not node.source.bounded:
        remarks.append(
            f"goes on without a partition that was silent for {node.idle:g} s: what it brings after may be late"
        )
    return remarks


@remarks_on.register
def _(node: n.SinkOutput, shapes: Mapping[n.Node, Shape]) -> list[str]:
    return [f"writes {node.sink.delivery}, named {node.name!r}"]


def _box(node: n.Node, numbers: Mapping[n.Node, int]) -> str:
    text = f"{node.verb}: {words_of(node)}".replace('"', "'")
    return f'  n{numbers[node]}["{text}"]'


def _arrows(nodes: Sequence[n.Node], numbers: Mapping[n.Node, int]) -> list[str]:
    return [f"  n{numbers[parent]} --> n{numbers[node]}" for node in nodes for parent in node.parents]
