"""What identifies the form of a step's state: a changed pipeline may go on only where it is the same."""

from __future__ import annotations

import hashlib
import json

from mamba_stream.core.trees import fingerprint
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis


def layout_of(window: n.Window, analysis: Analysis) -> str:
    """32 hex digits for a window step's keys, windows, time, and aggregates.

    The expressions count too, not just the columns of the state: half of a window summed by one and half by another
    expression would be neither.
    """
    before = analysis.shapes[window.parent]
    assert before.time is not None
    described = {
        "keys": {name: str(before.schema[name]) for name in window.by},
        "windows": [window.spec.size, window.spec.every, window.spec.origin],
        "time": [str(before.time_type), before.shift],
        "aggregates": {name: fingerprint(expr) for name, expr in window.aggregates.items()},
        "state": analysis.splits[window].layout,
    }
    return hashlib.blake2b(json.dumps(described).encode(), digest_size=16).hexdigest()
