"""Which of its topics' schemas a job goes on with: those of now, unless what it left was made with earlier ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from mamba_stream.errors import MambaStreamError
from mamba_stream.log import Log
from mamba_stream.plan import nodes as n
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.runtime.outputs import outputs_fit
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.progress import Progress, decode_record
from mamba_stream.runtime.saved import read_state
from mamba_stream.runtime.standing import JOBS
from mamba_stream.runtime.upgrade import Upgrade

_logger: Final = logging.getLogger(__name__)

Fits = Callable[[Prepared], bool]
"""Whether a plan goes on from what a job left."""


def going_on(
    prepared: Prepared, pipeline: Pipeline, log: Log, progress: Progress, also: Fits = lambda _: True
) -> Prepared:
    """The pipeline as its job goes on.

    Its topics have the columns of when it was planned last, where those of now do not fit what its steps remember or
    the topics that it writes to.

    Args:
        prepared: The pipeline with the columns of now.
        pipeline: The pipeline.
        log: The log.
        progress: How far the job had come.
        also: What else has to fit.
    """

    def fits(plan: Prepared) -> bool:
        shapes = {output: plan.analysis.shapes[output] for output in pipeline.topics}
        return plan.upgrade(progress).fits and also(plan) and outputs_fit(log, shapes)

    known = _altered(prepared, progress)
    if not known or fits(prepared):
        return prepared
    try:
        earlier = Prepared(pipeline, log, known)
    except MambaStreamError:
        # It has to do with columns that came since.
        return prepared
    if not fits(earlier):
        return prepared
    earlier.earlier = tuple(known)
    _logger.warning(
        "job %r goes on with the columns that %s had before it was altered: what its steps remember, or the topics "
        "that it writes to, are of those. Run it with state='upgrade' to have such steps begin anew with the columns "
        "of now, or with state='new'",
        pipeline.name,
        ", ".join(f"topic {name!r}" for name in known),
    )
    return earlier


def _altered(prepared: Prepared, progress: Progress) -> dict[str, int]:
    """The topics that were altered since the job was planned, and the schemas that they had then."""
    found = {}
    for node in prepared.analysis.sources:
        source = progress.sources.get(prepared.names[node])
        if not isinstance(node, n.TopicSource) or source is None or source.content != prepared.contents[node]:
            continue
        if source.schema not in (0, prepared.topics[node.topic].schema_number):
            found[node.topic] = source.schema
    return found


def planned(pipeline: Pipeline, log: Log) -> tuple[Prepared, Progress]:
    """A pipeline as its job would go on now, and how far that has come.

    Raises:
        PipelineRefused: The pipeline cannot be right.
        TopicNotFound: A topic is not there.
    """
    prepared, data = Prepared(pipeline, log), log.record(JOBS, pipeline.name)
    if data is None:
        return prepared, Progress()
    progress = read_state(log, pipeline.name, decode_record(data).base).progress
    return going_on(prepared, pipeline, log, progress), progress


def check_upgrade(pipeline: Pipeline, log: Log) -> Upgrade:
    """What a pipeline could keep of its job's state if it were run now; all is new where the job never ran.

    Raises:
        PipelineRefused: The pipeline cannot be right.
        TopicNotFound: A topic is not there.
    """
    prepared, progress = planned(pipeline, log)
    return prepared.upgrade(progress)
