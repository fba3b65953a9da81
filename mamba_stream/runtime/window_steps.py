"""Window steps of a plan as operators, by the kind of their windows, and the step that sets another time."""

from __future__ import annotations

from typing import Any

from mamba_stream.core.durations import duration_in
from mamba_stream.operators.changing import ChangingSettings, ChangingStep
from mamba_stream.operators.changing_session import ChangingSessionStep
from mamba_stream.operators.counted import CountedSettings, CountedStep
from mamba_stream.operators.retimed import Retimed
from mamba_stream.operators.session import SessionStep
from mamba_stream.operators.step import StatefulStep
from mamba_stream.operators.stretches import SessionSettings
from mamba_stream.operators.window import WindowStep
from mamba_stream.operators.window_late import WindowSettings
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.columns import columns_of
from mamba_stream.plan.windows import windows_of
from mamba_stream.runtime.steps import step_of


@step_of.register
def _(node: n.WithTime, analysis: Analysis) -> StatefulStep:
    lateness = duration_in(node.lateness, analysis.shapes[node].time_type, what="lateness")
    return Retimed(node.time, lateness, with_origin=node in analysis.ordered)


@step_of.register
def _(node: n.Window, analysis: Analysis) -> StatefulStep:
    before = analysis.shapes[node.parent]
    settings = _settings(node, analysis)
    if node.spec.kind == "session":
        gap = duration_in(node.spec.size, before.time_type, what=f"gap of {node.spec.words!r}")
        sessions = SessionSettings(**settings, gap=gap)
        return SessionStep(sessions) if node.changing is None else ChangingSessionStep(sessions)
    if node.spec.kind == "rows":
        return CountedStep(CountedSettings(**settings, count=node.spec.count))
    settings["windows"] = windows_of(node.spec, before.time_type)
    if node.changing is None:
        return WindowStep(WindowSettings(**settings))
    every, corrections = (
        duration_in(length or 0, before.time_type)
        for length in (node.changing.every, node.changing.corrections)
    )
    return ChangingStep(
        ChangingSettings(
            **settings, at_once=node.changing.at_once, every=every or None, corrections=corrections
        )
    )


def pane_settings(node: n.Window, analysis: Analysis) -> WindowSettings:
    """What a step is told whose windows consist of panes."""
    windows = windows_of(node.spec, analysis.shapes[node.parent].time_type)
    return WindowSettings(**_settings(node, analysis), windows=windows)


def _settings(node: n.Window, analysis: Analysis) -> dict[str, Any]:
    """What steps of all kinds of windows are told."""
    before = analysis.shapes[node.parent]
    assert before.time is not None
    read = columns_of(tuple(node.aggregates.values()), before)
    return {
        "keys": {name: before.schema[name] for name in node.by},
        "types": {name: dtype for name, dtype in before.schema.items() if name in read},
        "time": before.time,
        "shift": before.shift,
        "dtype": before.time_type,
        "aggregation": analysis.splits[node],
        "number": analysis.numbers[node],
        "with_origin": node in analysis.ordered,
    }
