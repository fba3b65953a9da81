"""Whether a pipeline gives the same rows, however its input is cut, spread over partitions, and interrupted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from polars.testing import assert_frame_equal

from mamba_stream.dsl.streams import Stream
from mamba_stream.plan import nodes as n
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.testing.clocks import Clock
from mamba_stream.testing.playing import Played, Player, frame_of, made_pipeline, private_log
from mamba_stream.testing.scripts import Crash, End, Rows

Parts = Mapping[str, Sequence[pl.DataFrame]]
"""The rows of each topic, by partition."""

_MOST_PARTITIONS = 4


@dataclass(frozen=True)
class Equivalence:
    """What was compared.

    Attributes:
        runs: How many runs gave the rows of the first, undisturbed one.
        crashes: How many crashes there were in them.
        repartitioned: How many of them had the rows in other partitions.
        played: What the undisturbed run gave.
    """

    runs: int
    crashes: int
    repartitioned: int
    played: Played


def assert_equivalent(
    target: Pipeline | Stream,
    data: Mapping[str, Any],
    *,
    time: str | None = None,
    topics: Mapping[str, Mapping[str, Any]] | None = None,
    runs: int = 20,
    seed: int = 0,
    repartition: bool | None = None,
    rel_tol: float = 1e-9,
    abs_tol: float = 1e-9,
) -> Equivalence:
    """Runs a pipeline once undisturbed, then over the same rows in other batches, with commits and crashes in between.

    Every run must give the same rows (floats to ``rel_tol`` or ``abs_tol``), a changelog the same table. What
    fails says the seed of the run that differs.

    Args:
        target: A pipeline or a stream.
        data: The rows of each topic: a frame, a table in text, or a list of frames, one for each partition.
        time: As for :func:`mamba_stream.testing.play`.
        topics: As for :func:`mamba_stream.testing.play`.
        runs: How many disturbed runs.
        seed: Where the randomness begins.
        repartition: Whether to spread the rows over other partitions too. Which row is late, and which of two with
            the same time comes first, depends on partitions: left out, it is done where no row was late and no two of a
            topic have one time.
        rel_tol: For floats.
        abs_tol: For floats.

    Raises:
        AssertionError: A run gave other rows.

    Example:
        >>> import mamba_stream as mamba
        >>> rows = pl.select(ts=pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 2), "1h"))
        >>> counts = mamba.stream("rows").window(mamba.tumbling("6h")).agg(rows=pl.len())
        >>> assert_equivalent(counts, {"rows": rows}, time="ts", runs=3).runs
        3
    """
    pipeline = made_pipeline(target)
    parts = {topic: _parts(topic, given) for topic, given in data.items()}
    how: dict[str, Any] = {"time": time, "topics": topics or {}}
    first, _ = _run(pipeline, parts, how, None)
    if repartition is None:
        repartition = first.late == 0 and _no_ties(pipeline, parts, time, topics or {})
    crashes = moved = 0
    for number in range(runs):
        random = np.random.default_rng([seed, number])
        other = bool(repartition and number % 2)
        again, died = _run(pipeline, _spread(parts, random) if other else parts, how, random)
        crashes, moved = crashes + died, moved + other
        where = f"run {number} of seed {seed} ({died} crashes{', other partitions' if other else ''})"
        _compare(first, again, where, rel_tol, abs_tol)
    return Equivalence(runs, crashes, moved, first)


def _parts(topic: str, given: Any) -> list[pl.DataFrame]:
    if isinstance(given, list | tuple) and given and isinstance(given[0], pl.DataFrame):
        return list(given)
    return [frame_of(given, topic)]


def _run(
    pipeline: Pipeline, parts: Parts, how: Mapping[str, Any], random: np.random.Generator | None
) -> tuple[Played, int]:
    with private_log(clock := Clock()) as log:
        player = Player(pipeline, log, clock, rows=None, **_with_partitions(how, parts))
        player.prepare([Rows(topic, frames[0]) for topic, frames in parts.items()])
        crashes = 0
        for topic, partition, frame in _cuts(parts, random):
            player.append(topic, frame, partition)
            if random is None or random.random() < 0.5:
                continue
            for _ in range(int(random.integers(0, 6))):
                player.step(int(random.integers(1, 40)))
                if random.random() < 0.3:
                    player.commit()
            if random.random() < 0.3:
                player.do(Crash())
                crashes += 1
        for topic in parts:
            player.do(End(topic))
        return player.finish(), crashes


def _with_partitions(how: Mapping[str, Any], parts: Parts) -> dict[str, Any]:
    topics = {name: dict(given) for name, given in how["topics"].items()}
    for name, frames in parts.items():
        topics.setdefault(name, {})["partitions"] = len(frames)
    return {"time": how["time"], "topics": topics}


def _cuts(parts: Parts, random: np.random.Generator | None) -> list[tuple[str, int | None, pl.DataFrame]]:
    """The rows in batches, those of a partition in their order."""
    whole = [(topic, number, frame) for topic, frames in parts.items() for number, frame in enumerate(frames)]
    if random is None:
        return [piece for piece in whole if piece[2].height]
    queues: list[list[tuple[str, int | None, pl.DataFrame]]] = []
    for topic, number, frame in whole:
        size = int(random.integers(1, max(2, frame.height + 1)))
        queues.append([(topic, number, piece) for piece in frame.iter_slices(size)])
    queues = [queue for queue in queues if queue]
    found = []
    while queues:
        place = int(random.integers(len(queues)))
        found.append(queues[place].pop(0))
        queues = [queue for queue in queues if queue]
    return found


def _spread(parts: Parts, random: np.random.Generator) -> dict[str, list[pl.DataFrame]]:
    """The same rows in other partitions, those that stay together in the order that they had."""
    spread = {}
    for topic, frames in parts.items():
        count = int(random.integers(1, _MOST_PARTITIONS + 1))
        # Rows of several partitions have no order among each other: each is dealt out for itself.
        dealt: list[list[pl.DataFrame]] = [[] for _ in range(count)]
        for frame in frames:
            to = random.integers(0, count, frame.height)
            for number in range(count):
                dealt[number].append(frame.filter(pl.Series(to == number)))
        spread[topic] = [pl.concat(pieces) for pieces in dealt]
    return spread


def _no_ties(
    pipeline: Pipeline, parts: Parts, time: str | None, topics: Mapping[str, Mapping[str, Any]]
) -> bool:
    for node in pipeline.nodes:
        if isinstance(node, n.TopicSource) and node.topic in parts:
            column = node.time or topics.get(node.topic, {}).get("time") or time
            if len(parts[node.topic]) > 1 or topics.get(node.topic, {}).get("key"):
                return False
            rows = parts[node.topic][0]
            if column is None or column not in rows.columns or rows.get_column(column).is_duplicated().any():
                return False
    return True


def _compare(first: Played, again: Played, where: str, rel_tol: float, abs_tol: float) -> None:
    for topic in first.topics:
        expected, found = first.table(topic), again.table(topic)
        try:
            assert_frame_equal(found, expected, check_row_order=False, rel_tol=rel_tol, abs_tol=abs_tol)
        except AssertionError as error:
            raise AssertionError(
                f"{where} gave other rows in {topic!r} than the undisturbed one: {error}\n"
                f"undisturbed: {expected}\nthis run: {found}"
            ) from None
    for name in ("late", "rejected", "rows_in"):
        if getattr(first, name) != getattr(again, name):
            raise AssertionError(
                f"{where} counts {getattr(again, name)} {name}, the undisturbed one {getattr(first, name)}"
            )
