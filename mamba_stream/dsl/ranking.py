"""``stream.top_k(k, by=, per=)``: the best rows of each group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mamba_stream.core.names import check_name
from mamba_stream.core.numbers import is_whole
from mamba_stream.dsl.places import caller
from mamba_stream.errors import PipelineRefused
from mamba_stream.plan.changelogs import TopK
from mamba_stream.plan.names import keyed_name

if TYPE_CHECKING:
    from mamba_stream.dsl.planned import Planned
    from mamba_stream.dsl.streams import Stream


def top_k(
    stream: Planned,
    k: int,
    by: tuple[str, ...],
    per: tuple[str, ...],
    reverse: bool | Sequence[bool],
    *,
    rank: str | None,
    name: str | None,
) -> Stream:
    """What ``Stream.top_k`` does."""
    if not is_whole(k) or k < 1:
        raise PipelineRefused(f"top_k({k!r}): give a number of rows from 1 on")
    if not by:
        raise PipelineRefused("top_k needs by=: the columns that say which rows are the best")
    turned = [reverse] * len(by) if isinstance(reverse, bool) else list(reverse)
    if len(turned) != len(by) or not all(isinstance(one, bool) for one in turned):
        raise PipelineRefused(
            f"top_k(reverse={reverse!r}): give True or False, or one for each column of by="
        )
    if rank is not None and not isinstance(rank, str):
        raise PipelineRefused(f"top_k(rank={rank!r}): give the name of a column to add")
    if name is not None:
        check_name(name, "step")
    step = TopK(
        place=caller(),
        parent=stream._node,  # noqa: SLF001 - its own verb
        k=k,
        by=by,
        reverse=tuple(turned),
        per=per,
        rank=rank,
        name=name or keyed_name(f"top {k} per" if per else f"top {k}", per, by),
    )
    return stream._then(step)  # noqa: SLF001 - its own verb
