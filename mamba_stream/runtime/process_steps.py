"""Steps that run a user's function with keyed state and timers."""

from __future__ import annotations

from mamba_stream.core.durations import duration_in
from mamba_stream.operators.process import MAIN, ProcessSettings, ProcessStep
from mamba_stream.operators.step import StatefulStep
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.process import Process, SideRows
from mamba_stream.runtime.limited import Limited
from mamba_stream.runtime.steps import step_of


@step_of.register
def _(node: Process, analysis: Analysis) -> StatefulStep:
    before = analysis.shapes[node.parent]
    sides = [found for found in analysis.nodes if isinstance(found, SideRows) and found.parent is node]
    shapes = {MAIN: analysis.shapes[node], **{side.side: analysis.shapes[side] for side in sides}}
    # A side output that nobody looks at must be right all the same.
    outputs = {**node.sides, MAIN: shapes[MAIN].schema}
    dtype = before.time_type if before.time is not None else None
    return ProcessStep(
        ProcessSettings(
            function=node.function if node.timeout is None else Limited(node.function, node.timeout),
            rows={name: before.schema[name] for name in analysis.present[node.parent]},
            keys={name: before.schema[name] for name in node.by},
            state=node.state,
            outputs=outputs,
            time=before.time,
            shift=before.shift,
            dtype=dtype,
            timed=frozenset(name for name, shape in shapes.items() if shape.time is not None),
            ordered=node.ordered,
            several=node.several,
            ttl=None if node.ttl is None or dtype is None else duration_in(node.ttl, dtype, what="ttl"),
            number=analysis.numbers[node],
            with_origin=node in analysis.ordered,
        )
    )
