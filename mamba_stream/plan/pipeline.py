"""A pipeline: a name and the outputs that it keeps up to date."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from mamba_stream.core.names import check_name
from mamba_stream.errors import PipelineRefused
from mamba_stream.plan import nodes as n
from mamba_stream.plan.names import check_step_names
from mamba_stream.plan.staging import explained

LONGEST_NAME = 180
"""The names of a job's topic of state and group of offsets are made from the pipeline's."""


OnError = Literal["fail", "skip", "dead_letter"]


@dataclass(frozen=True, eq=False)
class Pipeline:
    """Outputs under a name, which is the name of the job that runs them.

    Attributes:
        name: The name.
        outputs: Streams that end in topics or sinks.
        on_error: What becomes of rows over which a step raises.
    """

    name: str
    outputs: tuple[n.AnyOutput, ...]
    on_error: OnError = "fail"

    @property
    def topics(self) -> list[n.Output]:
        """Those of the outputs that go to topics."""
        return [output for output in self.outputs if isinstance(output, n.Output)]

    @property
    def sinks(self) -> list[n.SinkOutput]:
        """Those of the outputs that go to sinks."""
        return [output for output in self.outputs if isinstance(output, n.SinkOutput)]

    @property
    def nodes(self) -> list[n.Node]:
        """All steps, each once, parents first."""
        return n.walk(self.outputs)

    def explain(
        self,
        *,
        format: Literal["text", "mermaid", "stages"] = "text",  # noqa: A002 - as in Polars
    ) -> str:
        """What the pipeline does, in words; a picture as Mermaid text; or how it is cut into stages for workers."""
        return explained(self.outputs, format)


P = TypeVar("P", bound=Pipeline)


def make_pipeline(kind: type[P], name: str, outputs: Sequence[object], on_error: OnError) -> P:
    """A pipeline, checked as far as it can be without a log.

    Args:
        kind: The class to make.
        name: Its name.
        outputs: Its outputs.
        on_error: What becomes of rows over which a step raises.

    Raises:
        InvalidName: The name cannot be one.
        PipelineRefused: Something is no output, or two steps have one name.
    """
    check_name(name, "pipeline")
    if len(name) > LONGEST_NAME:
        raise PipelineRefused(
            f"pipeline name {name[:24]!r}… has {len(name)} characters: at most {LONGEST_NAME}"
        )
    if not outputs:
        raise PipelineRefused(
            f"pipeline {name!r} has no outputs: pass streams that end in .to('topic') or .to(sink)"
        )
    found = []
    for output in outputs:
        if not isinstance(output, n.AnyOutput):
            raise PipelineRefused(
                f"pipeline {name!r}: {output!r:.80} is no output: end the stream with .to('topic')"
            )
        found.append(output)
    pipeline = kind(name, tuple(found), on_error)
    check_step_names(pipeline.nodes)
    read = {node.topic for node in pipeline.nodes if isinstance(node, n.TopicSource)}
    for output in pipeline.topics:
        if output.topic in read:
            raise PipelineRefused(
                f"pipeline {name!r} reads topic {output.topic!r} and writes it: it would never end "
                f"(to at {output.place})"
            )
    _check_sinks(pipeline)
    return pipeline


def _check_sinks(pipeline: Pipeline) -> None:
    """Refuses two sinks of one name, whose progress could not be told apart."""
    seen: dict[str, n.SinkOutput] = {}
    for output in pipeline.sinks:
        if other := seen.get(output.name):
            raise PipelineRefused(
                f"pipeline {pipeline.name!r}: two sinks are called {output.name!r} (to at {other.place} and at "
                f"{output.place}): give one of them to(..., name=)"
            )
        seen[output.name] = output
