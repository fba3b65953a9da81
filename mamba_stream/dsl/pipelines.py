"""``mamba.pipeline``: outputs under a name."""

from __future__ import annotations

from typing import Any, get_args

from mamba_stream.errors import InvalidInput
from mamba_stream.log import Log, locate
from mamba_stream.plan import nodes as n, pipeline as planned
from mamba_stream.runtime.altered import check_upgrade
from mamba_stream.runtime.upgrade import Upgrade


class Pipeline(planned.Pipeline):
    """Outputs under a name, which is the name of the job that runs them; made by ``mamba.pipeline(name, *outputs)``.

    Attributes:
        name: The name.
        outputs: Streams that end in topics or sinks.
    """

    def check_upgrade(self, log: Any = None) -> Upgrade:
        """What this pipeline could keep of its job's state if it were run now; changes nothing.

        Args:
            log: A directory, an open log, or nothing for the default one.

        Returns:
            The steps that keep their state, that are new, were changed or are gone, and whether that fits; printed, it
            says so in words. ``mamba.run(pipeline, state="upgrade")`` does it.

        Raises:
            PipelineRefused: The pipeline cannot be right.
        """
        found: Log = locate(log)
        return check_upgrade(self, found)


def pipeline(name: str, *outputs: n.AnyOutput, on_error: planned.OnError = "fail") -> Pipeline:
    """Names outputs, to be run together as one job.

    Args:
        name: The job's name: state and offsets are kept under it.
        *outputs: Streams that end in ``.to("topic")`` or ``.to(sink)``.
        on_error: What becomes of rows over which an expression or a function of yours raises. ``"fail"``: the run ends,
            and nothing since its last commit counts. ``"skip"``: these rows are left out and counted.
            ``"dead_letter"``: they are also kept, as their topic has them, in ``<name>.dead``, from which
            ``mamba-stream dlq redrive`` puts them back.
    """
    if on_error not in get_args(planned.OnError):
        raise InvalidInput(f"on_error={on_error!r}: choose 'fail', 'skip' or 'dead_letter'")
    return planned.make_pipeline(Pipeline, name, outputs, on_error)
