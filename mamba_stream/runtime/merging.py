"""What the tasks of a job left, put together as if it had been one: for a run that is one task, or for other tasks.

Nothing may be on its way between them. What steps remember is rows with their keys, and no two tasks have rows of one
key. But they number rows and groups, each for itself: here the numbers of a task come behind those of tasks before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

import polars as pl

from mamba_stream.operators.evaluated import GROUP
from mamba_stream.operators.keyedrows import ROW
from mamba_stream.operators.lateness import NEVER
from mamba_stream.operators.retimed import COUNTED
from mamba_stream.plan import nodes as n
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.progress import Progress, SourceProgress, StepProgress
from mamba_stream.runtime.saved import Saved
from mamba_stream.runtime.steps import step_of

_NUMBERS: Final = (ROW, GROUP)
"""The columns in which a step numbers what it remembers, from 0 on."""

_Parts = list[tuple[str, str, pl.DataFrame]]


def merged(tasks: Mapping[str, Saved], prepared: Prepared, kept: Collection[str] | None = None) -> Saved:
    """What tasks left, as one.

    Args:
        tasks: What each of them left, by its key.
        prepared: The pipeline that goes on with it.
        kept: The steps whose state is wanted; all that it has if left out.
    """
    parts: _Parts = []
    layouts = prepared.layouts
    for node in prepared.analysis.steps:
        if kept is None or node.name in kept:
            parts += _parts_of(node, prepared, _homes(node.name, layouts[node.name], tasks))
    return Saved(_progress([one.progress for one in tasks.values()], tasks), parts)


def _homes(step: str, layout: str, tasks: Mapping[str, Saved]) -> list[Saved]:
    """The tasks that have a step's state: of one in two halves those of the second, whose stage comes later."""
    there = {
        key: saved
        for key, saved in tasks.items()
        if step in saved.progress.steps and saved.progress.steps[step].layout == layout
    }
    last = max((_stage(key) for key in there), default=0)
    return [
        saved for key, saved in sorted(there.items(), key=lambda one: _place(one[0])) if _stage(key) == last
    ]


def _parts_of(
    node: n.Stateful, prepared: Prepared, homes: Iterable[Saved]
) -> Iterator[tuple[str, str, pl.DataFrame]]:
    next_ = dict.fromkeys(_NUMBERS, 0)
    counted = 0
    for saved in homes:
        step = step_of(node, prepared.analysis)
        for name, part, frame in saved.state:
            if name == node.name:
                step.restore(part, frame)
        step.restored(saved.progress.steps[node.name].closed)
        greatest = dict(next_)
        for part, frame in step.snapshot().items():
            if part == COUNTED:
                counted += frame.item()
                continue
            for number in set(_NUMBERS) & set(frame.columns):
                frame = frame.with_columns(pl.col(number) + next_[number])  # noqa: PLW2901
                if frame.height:
                    most: int = frame.get_column(number).max()  # type: ignore[assignment]
                    greatest[number] = max(greatest[number], most + 1)
            yield node.name, part, frame
        next_ = greatest
    if counted:
        yield node.name, COUNTED, pl.DataFrame({COUNTED: [counted]})


def _progress(all_: list[Progress], tasks: Mapping[str, Saved]) -> Progress:
    sources: dict[str, SourceProgress] = {}
    rows_out: dict[str, int] = {}
    failed: dict[str, int] = {}
    for one in all_:
        for name, source in one.sources.items():
            sources[name] = _with(sources.get(name), source)
        _add(rows_out, one.rows_out)
        _add(failed, one.failed)
    names = dict.fromkeys(name for one in all_ for name in one.steps)
    return Progress(
        sources=sources,
        steps={name: _step(name, tasks) for name in names},
        rows_out=rows_out,
        sinks={name: sink for one in all_ for name, sink in one.sinks.items()},
        failed=failed,
    )


def _with(known: SourceProgress | None, more: SourceProgress) -> SourceProgress:
    if known is None:
        return more
    rejected = dict(known.rejected)
    _add(rejected, more.rejected)
    partitions = {**known.partitions, **more.partitions}
    return SourceProgress(partitions, known.rows + more.rows, rejected, more.content, more.time, more.schema)


def _step(name: str, tasks: Mapping[str, Saved]) -> StepProgress:
    """Of a step, all that was counted; its time is that of the task whose time is furthest behind."""
    all_ = [saved.progress.steps[name] for saved in tasks.values() if name in saved.progress.steps]
    layout = all_[-1].layout
    closed = [saved.progress.steps[name].closed for saved in _homes(name, layout, tasks)]
    short: dict[int, int] = {}
    for one in all_:
        _add(short, one.short)
    return StepProgress(
        closed=min(closed, default=NEVER),
        rows=sum(one.rows for one in all_),
        by_watermark=sum(one.by_watermark for one in all_),
        by_idleness=sum(one.by_idleness for one in all_),
        short=short,
        layout=layout,
    )


def _add(counts: dict, more: Mapping) -> None:  # type: ignore[type-arg]
    for key, count in more.items():
        counts[key] = counts.get(key, 0) + count


def _place(key: str) -> tuple[int, int]:
    stage, _, task = key.partition("/")
    return int(stage), int(task)


def _stage(key: str) -> int:
    return _place(key)[0]
