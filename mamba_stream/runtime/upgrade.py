"""Whether a job's state fits a pipeline that was changed since: step by step, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mamba_stream.errors import PipelineRefused
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.progress import Progress


class Upgrade(msgspec.Struct, frozen=True):
    """What a pipeline can keep of its job's state.

    Attributes:
        job: The job's name, which is the pipeline's.
        kept: Steps that go on with the state that there is.
        new: Steps that begin without any.
        changed: Steps whose state no longer fits: other keys, windows, aggregates, time.
        gone: Steps that the pipeline no longer has, whose state would be dropped.
        sources: What is wrong with the sources: then nothing can be kept.
        earlier: Topics that were altered since, of which it goes on with the columns that they had.
    """

    job: str
    kept: tuple[str, ...]
    new: tuple[str, ...]
    changed: tuple[str, ...]
    gone: tuple[str, ...]
    sources: tuple[str, ...]
    earlier: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the pipeline goes on as if it had not been changed."""
        return not (self.new or self.changed or self.gone or self.sources)

    @property
    def possible(self) -> bool:
        """Whether ``state="upgrade"`` can keep what is kept."""
        return not self.sources

    def problems(self) -> list[str]:
        """What does not fit, in words."""
        return [
            *(f"step {name!r} is gone" for name in self.gone),
            *(f"step {name!r} has other keys, windows or aggregates" for name in self.changed),
            *(f"step {name!r} is new" for name in self.new),
            *self.sources,
        ]

    def __str__(self) -> str:
        lines = [f"job {self.job!r}: " + ("fits" if self.fits else "does not fit as it is")]
        lines += [
            f"  goes on with the columns that topic {name!r} had before it was altered"
            for name in self.earlier
        ]
        lines += [f"  keeps the state of {name!r}" for name in self.kept]
        lines += [f"  begins without state: {name!r}, which is new" for name in self.new]
        lines += [f"  begins without state: {name!r}, which was changed" for name in self.changed]
        lines += [f"  drops the state of {name!r}, which is gone" for name in self.gone]
        lines += [f"  cannot go on: {problem}" for problem in self.sources]
        return "\n".join(lines)


def upgrade_of(
    job: str,
    progress: Progress,
    layouts: Mapping[str, str],
    sources: list[str],
    earlier: tuple[str, ...] = (),
) -> Upgrade:
    """Compares what a job left with what a pipeline has.

    Args:
        job: The job's name.
        progress: What its last commit says.
        layouts: What identifies the state of each of the pipeline's steps, by name.
        sources: What is wrong with the sources.
        earlier: Topics of which it has earlier columns.
    """
    known = {name: step.layout for name, step in progress.steps.items()}
    return Upgrade(
        job=job,
        kept=tuple(name for name, layout in layouts.items() if known.get(name) == layout),
        new=tuple(name for name in layouts if name not in known),
        changed=tuple(name for name, layout in layouts.items() if known.get(name, layout) != layout),
        gone=tuple(name for name in known if name not in layouts),
        sources=tuple(sources),
        earlier=earlier,
    )


def check_resumable(upgrade: Upgrade, options: RunOptions) -> None:
    """Refuses a pipeline that does not fit what its job left, unless what fits is to be kept.

    Raises:
        PipelineRefused: It does not fit; the message says what, and what can be done.
    """
    if upgrade.fits or (options.upgrade and upgrade.possible):
        return
    keep = (
        f", with state='upgrade' to keep the state of {', '.join(map(repr, upgrade.kept)) or 'no step'} and "
        "have the others begin without any from here on"
        if upgrade.possible
        else ""
    )
    raise PipelineRefused(
        f"pipeline {upgrade.job!r} does not fit the state of its job: {'; '.join(upgrade.problems())}. "
        f"Run it with state='new' to start over{keep}, or give it another name"
    )
