"""What identifies the form of a step's state: a changed pipeline may go on only where it is the same."""

from __future__ import annotations

import hashlib
import json
from functools import singledispatch
from typing import Any

from mamba_stream.core.trees import fingerprint
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis


def layout_of(step: n.Stateful, analysis: Analysis) -> str:
    """32 hex digits for what a step's state depends on."""
    described = json.dumps(described_state(step, analysis))
    return hashlib.blake2b(described.encode(), digest_size=16).hexdigest()


@singledispatch
def described_state(step: n.Stateful, analysis: Analysis) -> dict[str, Any]:
    """All that a step's state depends on, for JSON; verbs register theirs."""
    raise TypeError(f"nothing is known of the state of {type(step).__name__}")


@described_state.register
def _(step: n.Window, analysis: Analysis) -> dict[str, Any]:
    """A window step's keys, windows, time, and aggregates.

    The expressions count too, not just the columns of the state: half of a window summed by one and half by another
    expression would be neither.
    """
    before = analysis.shapes[step.parent]
    assert before.time is not None
    return {
        "keys": {name: str(before.schema[name]) for name in step.by},
        "windows": _windows(step.spec),
        "time": [str(before.time_type), before.shift],
        "aggregates": {name: fingerprint(expr) for name, expr in step.aggregates.items()},
        "state": analysis.splits[step].layout,
        **({} if step.changing is None else {"changing": True}),
    }


@described_state.register
def _(step: n.WithTime, analysis: Analysis) -> dict[str, Any]:
    """The column: times of one say nothing of those of another."""
    return {"time": [step.time, str(analysis.shapes[step].time_type)]}


def _windows(spec: n.WindowSpec) -> list[Any]:
    if spec.kind in ("session", "rows", "cumulative"):
        return [spec.kind, spec.size, spec.every, spec.origin, spec.count]
    # Days that are as long as each other need no calendar; what needs one is told by the type of the time.
    return [spec.size, spec.every, spec.origin, *((spec.calendar, spec.offset) if not spec.size else ())]
