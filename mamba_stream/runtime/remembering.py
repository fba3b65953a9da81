"""How far a task has come, as its commits store it, and put back when it is begun anew."""

from __future__ import annotations

from collections.abc import Sequence

from mamba_stream.operators.tally import Tally
from mamba_stream.runtime.engine import Engine
from mamba_stream.runtime.faults import Faults
from mamba_stream.runtime.outputs import Outputs
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.progress import (
    EntranceProgress,
    PartitionProgress,
    Progress,
    SinkProgress,
    SourceProgress,
    StepProgress,
)
from mamba_stream.runtime.saved import Saved


def progress_of(
    engine: Engine, prepared: Prepared, outputs: Outputs, faults: Faults, sinks: dict[str, SinkProgress]
) -> Progress:
    """How far a task has come.

    Args:
        engine: Its loop.
        prepared: The plan, over the log.
        outputs: What it has put out.
        faults: The rows over which steps raised.
        sinks: How far its sinks are.
    """
    sources = {}
    for node, intake in engine.intakes.items():
        partitions = {
            feed.partition: PartitionProgress(
                feed.position,
                intake.times[feed.partition].greatest,
                intake.times[feed.partition].ended,
                feed.name,
                feed.place,
            )
            for feed in intake.feeds
        }
        sources[intake.settings.name] = SourceProgress(
            partitions,
            intake.rows,
            intake.rejected,
            prepared.contents[node],
            prepared.analysis.shapes[node].time or "",
            prepared.schema_of(node),
        )
    steps = {}
    for stateful, step in engine.flow.steps.items():
        late = engine.flow.late[stateful]
        steps[stateful.name] = StepProgress(
            step.closed,
            late.rows,
            late.by_watermark,
            late.by_idleness,
            late.short.counts,
            prepared.layouts[stateful.name],
        )
    return Progress(
        sources,
        steps,
        dict(outputs.rows),
        sinks,
        dict(faults.counts),
        {
            exchange.number: EntranceProgress(entrance.feed.position, entrance.rows)
            for exchange, entrance in engine.entrances.items()
        },
    )


def put_back(saved: Saved, kept: Sequence[str], engine: Engine, outputs: Outputs, faults: Faults) -> None:
    """Puts back what the last commit left.

    Args:
        saved: That.
        kept: The steps whose state is taken over.
        engine: The loop.
        outputs: What counts the rows that were put out.
        faults: What counts the rows over which steps raised.
    """
    steps = {node.name: step for node, step in engine.flow.steps.items()}
    for name, part, frame in saved.state:
        if name in kept:
            steps[name].restore(part, frame)
    for node, step in engine.flow.steps.items():
        if node.name not in kept:
            continue
        known = saved.progress.steps.get(node.name)
        if known is None:
            # The first half of a step has nothing of its own.
            continue
        step.restored(known.closed)
        counts = engine.flow.late[node]
        counts.rows, counts.by_watermark, counts.by_idleness = (
            known.rows,
            known.by_watermark,
            known.by_idleness,
        )
        counts.short = Tally(known.short)
    for intake in engine.intakes.values():
        source = saved.progress.sources.get(intake.settings.name)
        if source is None:
            continue
        intake.rows, intake.rejected = source.rows, dict(source.rejected)
        for partition, was in source.partitions.items():
            if partition in intake.times:
                # Whether it is idle is asked anew: rows may have come while nobody looked.
                intake.times[partition].greatest = was.greatest
    outputs.rows = dict(saved.progress.rows_out)
    faults.counts = dict(saved.progress.failed)
