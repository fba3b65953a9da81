"""A user's function with keyed state and timers, in a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

import polars as pl
from msgspec.structs import replace

from mamba_stream.core.durations import duration_in
from mamba_stream.errors import PipelineRefused
from mamba_stream.operators.usertimers import TIME, TIMER
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis, in_order
from mamba_stream.plan.columns import Shapes, columns_read
from mamba_stream.plan.explain import function_name, remarks_on, words_of
from mamba_stream.plan.layouts import described_state
from mamba_stream.plan.refusing import check_columns, refuse_engine_names
from mamba_stream.plan.shapes import Shape, follow, need_time, shape_of
from mamba_stream.plan.words import in_units


@dataclass(frozen=True, eq=False, kw_only=True)
class Process(n.Stateful, n.Step):
    """A function that remembers, by key; its rows come in the order of the stream.

    Attributes:
        function: The user's.
        by: The key columns.
        state: What it remembers by key.
        output: What it gives; ``None`` for the columns of its input.
        sides: What it gives beside that, by name.
        ttl: For how long it remembers what was not written again; microseconds.
        several: Whether a call may have several rows of a key.
        timeout: How long a call may take, in seconds.
    """

    function: Callable[..., Any] = field(repr=False)
    by: tuple[str, ...]
    state: pl.Schema
    output: pl.Schema | None
    sides: Mapping[str, pl.Schema]
    ttl: int | None
    several: bool
    timeout: float | None

    ordered: ClassVar[bool] = True
    """Whether its rows wait until the watermark has passed them."""

    @property
    def verb(self) -> str:
        return "process"


@dataclass(frozen=True, eq=False, kw_only=True)
class ProcessArrivals(Process):
    """The same, with rows as they arrive."""

    by_time: ClassVar[bool] = False
    ordered: ClassVar[bool] = False


@dataclass(frozen=True, eq=False, kw_only=True)
class SideRows(n.Beside):
    """The rows of a side output.

    Attributes:
        side: Its name.
    """

    parent: Process
    side: str

    @property
    def shaped_by(self) -> tuple[n.Node, ...]:
        return (self.parent.parent,)

    @property
    def verb(self) -> str:
        return "side"


@shape_of.register
def _(node: Process, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    check_columns(node.by, shape.schema)
    for name in node.by:
        dtype = shape.schema[name]
        if (dtype.is_nested() and not isinstance(dtype, pl.Struct)) or dtype == pl.Object:
            raise PipelineRefused(f"process: a column of type {dtype} cannot be a key")
        if name in (TIMER, TIME):
            raise PipelineRefused(
                f"process: a key {name!r} could not be told from that column of timers.fired: rename it"
            )
        if name in node.state:
            raise PipelineRefused(f"process: {name!r} is a key and a column of the state: rename one")
    refuse_engine_names(node.state)
    if node.ordered:
        need_time(shape, "process (in the order of the stream; order='arrival' does without)")
    if node.ttl is not None:
        need_time(shape, "process: ttl=")
        duration_in(timedelta(microseconds=node.ttl), shape.time_type, what="ttl")
    return _given(node, node, shape, node.output if node.output is not None else shape.schema)


@shape_of.register
def _(node: SideRows, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents  # of the rows that the step takes
    return _given(node, node.parent, shape, node.parent.sides[node.side])


def _given(node: n.Node, process: Process, shape: Shape, schema: pl.Schema) -> Shape:
    refuse_engine_names(schema)
    kept = {name: name for name, dtype in schema.items() if shape.schema.get(name) == dtype}
    found = replace(follow(node, shape, schema, kept), start=None, changelog=None)
    if not process.ordered:
        lost = (
            f"process at {process.place} gives rows as they arrive, order='arrival': before a step that goes by time "
            "leave that out, since such a step waits for the watermark anyway"
        )
        return Shape(schema, lost=lost)
    return found


@columns_read.register
def _(node: SideRows, port: int, found: Shapes, need: set[str]) -> set[str]:
    return set()


@in_order.register
def _(node: Process, found: Shapes) -> bool:
    return node.ordered


@described_state.register
def _(step: Process, analysis: Analysis) -> dict[str, Any]:
    before = analysis.shapes[step.parent]
    waiting = {name: str(before.schema[name]) for name in analysis.present[step.parent]}
    return {
        "keys": {name: str(before.schema[name]) for name in step.by},
        "state": {name: str(dtype) for name, dtype in step.state.items()},
        "time": [str(before.time_type), before.shift] if before.time is not None else [],
        "waiting": waiting if step.ordered else None,
        "timed": step.ttl is not None,
    }


@words_of.register
def _(node: Process) -> str:
    state = ", ".join(f"{name}: {dtype}" for name, dtype in node.state.items())
    ttl = f" for {in_units(timedelta(microseconds=node.ttl))}" if node.ttl is not None else ""
    return (
        f"{function_name(node.function)} by {', '.join(node.by)}"
        + (f", remembers {state}{ttl}" if state else "")
        + ("" if node.ordered else ", as rows arrive")
        + ("" if node.timeout is None else f", {in_units(timedelta(seconds=node.timeout))} a call")
    )


@words_of.register
def _(node: SideRows) -> str:
    return f"its side output {node.side!r}"


@remarks_on.register
def _(node: Process, shapes: Mapping[n.Node, Shape]) -> list[str]:
    remarks = []
    if not node.ordered:
        remarks.append("what it gives depends on the order in which rows arrive: outside guarantee 3")
    if node.several:
        remarks.append(
            "several rows of a key at once: the same whatever the batching only if the function takes them in order"
        )
    remarks.append("timers.after goes by the wall clock: what it gives is outside guarantee 3")
    if node.state and node.ttl is None:
        remarks.append("remembers a key until state.delete: give ttl= where keys keep coming")
    return [*remarks, f"named {node.name!r}"]
