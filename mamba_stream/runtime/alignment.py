"""Sources that run ahead of others are not read further than some bytes, until the others' time has followed.

Partitions are read in the order of their time, so that as long as there is something to read of all, none runs ahead.
Where the slowest has nothing at present, what the others bring waits in the state of the steps where they meet, and
that is bounded here. It ends when the slowest brings rows, or has been silent for so long that it is idle: it is asked
all the time, and who is not asked is not silent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from mamba_stream.operators.lateness import NEVER
from mamba_stream.plan import nodes as n
from mamba_stream.plan.stages import Stage


class Standing(msgspec.Struct, frozen=True):
    """How far one partition has come.

    Attributes:
        time: Its watermark.
        holds: Whether it can bring rows now or later in this run, and is not idle: then the others wait for it.
    """

    time: int
    holds: bool


class Company(msgspec.Struct):
    """Inlets whose rows meet somewhere: sources, and exchanges.

    Attributes:
        inlets: They.
        slowest: The time of the slowest partition when it moved last.
        read: Bytes that were read since then.
    """

    inlets: frozenset[n.Node]
    slowest: int = NEVER
    read: int = 0

    def came(self, size: int, standings: Sequence[Standing]) -> None:
        """So many bytes were read."""
        slowest = slowest_of(standings)
        if slowest is None or slowest > self.slowest:
            self.slowest, self.read = self.slowest if slowest is None else slowest, 0
        else:
            self.read += size

    def is_ahead(self, time: int, standings: Sequence[Standing], most: int) -> bool:
        """Whether a partition has to wait for the others.

        Args:
            time: How far it has come.
            standings: All partitions of the company.
            most: So many bytes may wait.
        """
        slowest = slowest_of(standings)
        return self.read > most and slowest is not None and time > slowest


def slowest_of(standings: Iterable[Standing]) -> int | None:
    """The time of the slowest partition that others wait for; ``None`` where there is none."""
    return min((one.time for one in standings if one.holds), default=None)


def companies(stage: Stage, timed: Iterable[n.Node]) -> list[Company]:
    """The inlets with a time that meet, directly or through others.

    Args:
        stage: The part of the plan.
        timed: The inlets that have a time.
    """
    groups: list[set[n.Node]] = [{inlet} for inlet in timed]
    members = {inlet for group in groups for inlet in group}
    reach: dict[n.Node, set[n.Node]] = {exchange: {exchange} for exchange in stage.exchanges}
    for node in stage.nodes:
        reach[node] = {node}.union(*(reach[inlet] for _, inlet in stage.inputs(node)))
        # Inlets that reach one node are one company.
        met = [group for group in groups if group & reach[node]]
        if len(met) > 1:
            groups = [group for group in groups if group not in met]
            groups.append(set().union(*met))
    return [Company(frozenset(group & members)) for group in groups]
