"""Testing pipelines: in milliseconds, without sleeping, with time moved by hand and crashes as values.

>>> from mamba_stream import testing

:func:`play` runs a pipeline through a script of what happens to it: :class:`Rows` arrive, there is :class:`Silence`, it
commits (:class:`Commit`), it dies (:class:`Crash`), a topic ends (:class:`End`)::

    played = testing.play(pipeline, [
        testing.Rows("clicks", '''
            ts                  | user | amount
            2024-01-01 10:00:00 | ann  | 3
            2024-01-01 10:00:05 | bob  | 4
        '''),
        testing.Crash(),
        testing.Silence("31s"),
        testing.End("clicks"),
    ], time="ts")
    assert played["totals"].to_dicts() == [...]

:func:`assert_equivalent` runs it over the same rows cut into other batches, in other partitions, with crashes, and
compares what comes out. :func:`table` reads a frame from text; :class:`Clock` is a clock that you move.

``mamba_stream.testing.strategies`` has Hypothesis strategies for rows of a schema, ``mamba_stream.testing.operators``,
``sources`` and ``sinks`` the contracts that your own steps and connectors inherit. The pytest plugin offers the
fixtures ``mamba_log`` and ``mamba_clock``; nothing here is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mamba_stream.testing.clocks import Clock
    from mamba_stream.testing.equivalence import Equivalence, assert_equivalent
    from mamba_stream.testing.playing import Played, play
    from mamba_stream.testing.scripts import Commit, Crash, End, Rows, Silence
    from mamba_stream.testing.tables import table

__all__ = [
    "Clock",
    "Commit",
    "Crash",
    "End",
    "Equivalence",
    "Played",
    "Rows",
    "Silence",
    "assert_equivalent",
    "play",
    "table",
]

_HOME = {
    "Clock": "clocks",
    "Equivalence": "equivalence",
    "assert_equivalent": "equivalence",
    "Played": "playing",
    "play": "playing",
    "table": "tables",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME.get(name, 'scripts')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
