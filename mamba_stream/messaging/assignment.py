"""Who reads which partition: balanced, and with as few changes of hands as that takes. A pure function.

Every member computes it for itself from the same records. It need not agree with what others computed a moment ago:
owners are changed by compare and swap, and what was once assigned is a fixed point.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Mapping

Slot = tuple[int, int]
"""A partition: topic number, partition number."""


def assign(
    interests: Mapping[str, Collection[int]],
    partitions: Mapping[int, int],
    owners: Mapping[Slot, str],
) -> dict[Slot, str]:
    """The member for every partition that anybody wants.

    Nobody has two more than another who could take one of them, so members of equal interests differ by at most one.

    Args:
        interests: The numbers of the topics that each member wants.
        partitions: How many partitions each topic has.
        owners: Who has what now; those who are gone, or no longer want it, have no say.

    Example:
        >>> assign({"a": [7], "b": [7]}, {7: 4}, {(7, 0): "a", (7, 1): "a", (7, 2): "a"})
        {(7, 0): 'a', (7, 1): 'a', (7, 2): 'b', (7, 3): 'b'}
    """
    loads = dict.fromkeys(sorted(interests), 0)
    pools = _pools(interests, partitions)
    held = [_held(candidates, slots, owners) for candidates, slots in pools]
    for having in held:
        for member, slots in having.items():
            loads[member] += len(slots)
    for (candidates, slots), having in zip(pools, held, strict=True):
        _fill(candidates, slots, having, loads)
    moved = True
    while moved:
        # What one pool moves may make room for another.
        moved = False
        for (candidates, _), having in zip(pools, held, strict=True):
            moved |= _level(candidates, having, loads)
    return dict(
        sorted((slot, member) for having in held for member, slots in having.items() for slot in slots)
    )


def _pools(
    interests: Mapping[str, Collection[int]], partitions: Mapping[int, int]
) -> list[tuple[tuple[str, ...], list[Slot]]]:
    """Partitions of topics that the same members want: for these, one is as good as another."""
    wanted: dict[int, list[str]] = defaultdict(list)
    for member in sorted(interests):
        for topic in set(interests[member]):
            wanted[topic].append(member)
    pools: dict[tuple[str, ...], list[Slot]] = defaultdict(list)
    for topic in sorted(wanted.keys() & partitions.keys()):
        pools[tuple(wanted[topic])] += [(topic, partition) for partition in range(partitions[topic])]
    # Those with the least choice first.
    return sorted(pools.items(), key=lambda pool: (len(pool[0]), pool[0]))


def _held(
    candidates: tuple[str, ...], slots: list[Slot], owners: Mapping[Slot, str]
) -> dict[str, list[Slot]]:
    held: dict[str, list[Slot]] = {member: [] for member in candidates}
    for slot in slots:
        owner = owners.get(slot)
        if owner is not None and owner in held:
            held[owner].append(slot)
    return held


def _fill(
    candidates: tuple[str, ...], slots: list[Slot], held: dict[str, list[Slot]], loads: dict[str, int]
) -> None:
    """Gives what nobody has to those who have least."""
    taken = {slot for having in held.values() for slot in having}
    queue = [(loads[member], member) for member in candidates]
    heapq.heapify(queue)
    for slot in slots:
        if slot not in taken:
            _, member = queue[0]
            held[member].append(slot)
            loads[member] += 1
            heapq.heapreplace(queue, (loads[member], member))


def _level(candidates: tuple[str, ...], held: dict[str, list[Slot]], loads: dict[str, int]) -> bool:
    """Moves from those who have most to those who have least, until they differ by one; whether any was moved.

    Each move makes the sum of squares of all loads smaller, so that there is an end to it.
    """
    moved = False
    while True:
        lightest = min(candidates, key=lambda member: (loads[member], member))
        heaviest = max(
            (member for member in candidates if held[member]),
            key=lambda member: (loads[member], member),
            default=lightest,
        )
        if loads[heaviest] - loads[lightest] <= 1:
            return moved
        held[lightest].append(held[heaviest].pop())
        loads[heaviest] -= 1
        loads[lightest] += 1
        moved = True
