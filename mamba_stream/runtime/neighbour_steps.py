"""The operators of steps in which a row sees other rows of its key."""

from __future__ import annotations

from mamba_stream.core.durations import duration_in
from mamba_stream.operators.lagging import LagSettings, LagStep
from mamba_stream.operators.matching import Link, MatchSettings, MatchStep
from mamba_stream.operators.passing import Timing
from mamba_stream.operators.rolling import RollingSettings, RollingStep
from mamba_stream.operators.step import StatefulStep
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.neighbours import Lag, Match, Rolling, linked_columns
from mamba_stream.plan.shapes import Shape
from mamba_stream.runtime.steps import step_of


@step_of.register
def _(node: Rolling, analysis: Analysis) -> StatefulStep:
    before, present = analysis.shapes[node.parent], analysis.present[node.parent]
    given = [name for name in analysis.present[node] if name not in node.aggregates]
    return RollingStep(
        RollingSettings(
            timing=_timing(before),
            by=node.by,
            period=duration_in(node.period, before.time_type, what="period"),
            exprs=node.aggregates,
            columns=present,
            given=given,
        )
    )


@step_of.register
def _(node: Lag, analysis: Analysis) -> StatefulStep:
    before = analysis.shapes[node.parent]
    return LagStep(
        LagSettings(
            timing=_timing(before),
            by={name: before.schema[name] for name in node.by},
            steps=node.steps,
            columns={name: before.schema[name] for name in node.columns},
            results=node.results,
            differs=node.differs,
            kept=[name for name in analysis.present[node] if name not in node.results],
        )
    )


@step_of.register
def _(node: Match, analysis: Analysis) -> StatefulStep:
    before = analysis.shapes[node.parent]

    def in_ticks(length: int) -> int:
        return duration_in(length, before.time_type, what="within")

    return MatchStep(
        MatchSettings(
            timing=_timing(before),
            by={name: before.schema[name] for name in node.by},
            links=[
                Link(link.name, link.condition, None if link.within is None else in_ticks(link.within))
                for link in node.links
            ],
            within=in_ticks(node.within),
            overlapping=node.overlapping,
            columns=linked_columns(node, before.schema),
            exprs=node.aggregates,
            number=analysis.numbers[node],
            with_origin=node in analysis.ordered,
        )
    )


def _timing(shape: Shape) -> Timing:
    assert shape.time is not None
    return Timing(time=shape.time, shift=shape.shift, dtype=shape.time_type)
