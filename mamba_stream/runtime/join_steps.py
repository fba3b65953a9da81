"""From joins of a plan to the operators that do them."""

from __future__ import annotations

import polars as pl

from mamba_stream.core.durations import duration_in
from mamba_stream.operators.asofjoin import AsofJoin, AsofSettings
from mamba_stream.operators.changes import OP_COLUMN
from mamba_stream.operators.intervaljoin import IntervalJoin, IntervalSettings
from mamba_stream.operators.joined import JoinSource
from mamba_stream.operators.step import StatefulStep
from mamba_stream.operators.unboundedjoin import UnboundedJoin, UnboundedSettings
from mamba_stream.operators.windowjoin import WindowJoin, WindowJoinSettings
from mamba_stream.plan import joinrules as rules, joins
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.shapes import Shape
from mamba_stream.plan.windows import windows_of
from mamba_stream.runtime.rereading import Rereading
from mamba_stream.runtime.steps import Operator, operator_of, step_of


@step_of.register
def _(node: joins.IntervalJoin, analysis: Analysis) -> StatefulStep:
    left, right = (analysis.shapes[parent] for parent in node.parents)
    lower, upper, span = rules.bounds_of(node, left)
    return IntervalJoin(
        IntervalSettings(
            sides=(_side(left, node.left_on), _side(right, node.right_on)),
            how=node.how,
            lower=lower,
            upper=upper,
            span=span,
            outcome=rules.outcome_of(node, analysis),
            number=analysis.numbers[node],
            with_origin=node in analysis.ordered,
            by_sides=node in analysis.by_sides,
        )
    )


@step_of.register
def _(node: joins.WindowJoin, analysis: Analysis) -> StatefulStep:
    left, right = (analysis.shapes[parent] for parent in node.parents)
    return WindowJoin(
        WindowJoinSettings(
            sides=(_side(left, node.left_on), _side(right, node.right_on)),
            how=node.how,
            windows=windows_of(node.spec, left.time_type),
            outcome=rules.outcome_of(node, analysis),
            dtype=left.time_type,
            number=analysis.numbers[node],
            with_origin=node in analysis.ordered,
        )
    )


@step_of.register
def _(node: joins.AsofJoin, analysis: Analysis) -> StatefulStep:
    left, right = (analysis.shapes[parent] for parent in node.parents)
    tolerance = node.tolerance
    return AsofJoin(
        AsofSettings(
            sides=(_side(left, node.left_on), _side(right, node.right_on)),
            how=node.how,  # type: ignore[arg-type]
            strategy=node.strategy,
            tolerance=None
            if tolerance is None
            else duration_in(tolerance, left.time_type, what="tolerance="),
            gone=pl.col(OP_COLUMN).is_in(["-U", "-D"]) if rules.is_log_of(node, right) else None,
            outcome=rules.outcome_of(node, analysis),
            with_origin=node in analysis.ordered,
        )
    )


@step_of.register
def _(node: joins.UnboundedJoin, analysis: Analysis) -> StatefulStep:
    left, right = (analysis.shapes[parent] for parent in node.parents)
    return UnboundedJoin(
        UnboundedSettings(
            on=(node.left_on, node.right_on),
            how=node.how,
            changes=(left.changelog is not None, right.changelog is not None),
            outcome=rules.outcome_of(node, analysis),
            gives_changes=rules.gives_changes(node, (left, right)),
            types=(left.schema, right.schema),
            unique=node.unique,
            said=f"join(..., validate={node.validate!r}) says that no two rows of a side have one key",
            wanted=rules.wanted_of(node, analysis),
        )
    )


@operator_of.register
def _(node: joins.PeriodicLookup, analysis: Analysis) -> Operator:
    return Rereading(node)


def _side(shape: Shape, on: tuple[str, ...]) -> JoinSource:
    assert shape.time is not None
    return JoinSource(on, shape.time, shape.shift, shape.time_type, shape.schema)
