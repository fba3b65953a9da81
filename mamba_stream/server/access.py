"""Access lists: what a user may do. Whatever no entry allows is denied, and an entry that denies wins."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final, Literal, get_args

import msgspec

from mamba_stream.core.names import check_name, did_you_mean
from mamba_stream.errors import InvalidInput, InvalidName
from mamba_stream.server.gate import Kind, Need, Operation

Effect = Literal["allow", "deny"]

OPERATIONS: Final[tuple[Operation, ...]] = get_args(Operation)
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
ALL: Final = "all"
"""Stands for every operation."""
ANY: Final = "*"
_REMEMBERED: Final = 16_384
"""Decisions that are kept: the same ones are asked for again and again."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of an access list.

    Attributes:
        effect: Whether it allows or denies.
        operations: What is done; ``all`` stands for everything.
        kind: With what kind of thing.
        name: With which: the name itself, or how it begins and ``*`` (``orders.*``; ``*`` is every one). The log, which
            has no name, is ``*``.
    """

    effect: Effect
    operations: tuple[Operation | Literal["all"], ...]
    kind: Kind
    name: str = ANY

    def __post_init__(self) -> None:
        if not self.operations:
            raise InvalidInput(f"an entry that is to {self.effect} something says what: {_choices()}")
        _check_pattern(self.kind, self.name)

    def covers(self, operation: Operation) -> bool:
        """Whether it speaks of this operation."""
        return operation in self.operations or ALL in self.operations

    def __str__(self) -> str:
        what = self.kind if self.kind == "log" else f"{self.kind} {self.name}"
        return f"{self.effect} {','.join(self.operations)} {what}"


def operations_of(text: str) -> tuple[Operation | Literal["all"], ...]:
    """The operations that somebody typed, separated by commas.

    Raises:
        InvalidInput: One of them is none.

    Example:
        >>> operations_of("read,write")
        ('read', 'write')
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in (*OPERATIONS, ALL):
            raise InvalidInput(
                f"{word!r} is no operation{did_you_mean(word, (*OPERATIONS, ALL))}: {_choices()}"
            )
    if not words:
        raise InvalidInput(f"say which operations: {_choices()}")
    return msgspec.convert(tuple(dict.fromkeys(words)), tuple[Operation | Literal["all"], ...])


def with_entries(entries: Iterable[Entry], added: Iterable[Entry]) -> tuple[Entry, ...]:
    """Entries and more of them; those that speak of the same thing become one.

    Example:
        >>> before = [Entry("allow", ("read",), "topic", "orders")]
        >>> [str(entry) for entry in with_entries(before, [Entry("allow", ("write",), "topic", "orders")])]
        ['allow read,write topic orders']
    """
    found: dict[tuple[Effect, Kind, str], Entry] = {}
    for entry in (*entries, *added):
        place = (entry.effect, entry.kind, entry.name)
        known = found.get(place)
        operations = entry.operations if known is None else (*known.operations, *entry.operations)
        if ALL in operations:
            operations = (ALL,)
        found[place] = msgspec.structs.replace(entry, operations=tuple(dict.fromkeys(operations)))
    return tuple(found.values())


def without(
    entries: Iterable[Entry], operations: Iterable[str], things: Iterable[tuple[Kind, str]]
) -> tuple[Entry, ...]:
    """Entries without these operations, as far as they are about one of these things; of ``all`` the others stay.

    Example:
        >>> before = [Entry("allow", ("all",), "topic", "orders")]
        >>> [str(entry) for entry in without(before, ["delete", "admin"], [("topic", "orders")])]
        ['allow read,write,create,describe topic orders']
    """
    things, taken = {*things}, {*operations}
    found = []
    for entry in entries:
        if (entry.kind, entry.name) not in things:
            found.append(entry)
            continue
        held = OPERATIONS if ALL in entry.operations else entry.operations
        left = () if ALL in taken else tuple(each for each in held if each not in taken)
        if left == held:
            found.append(entry)
        elif left:
            found.append(msgspec.structs.replace(entry, operations=left))
    return tuple(found)


class AccessList:
    """The entries of one user, to be asked often, by many threads.

    Example:
        >>> mine = AccessList([Entry("allow", ("read",), "topic", "orders.*")])
        >>> mine.allows(Need("read", "topic", "orders.eu")), mine.allows(Need("write", "topic", "orders.eu"))
        (True, False)
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = tuple(entries)
        self._named: dict[tuple[Kind, str], list[Entry]] = defaultdict(list)
        self._begun: dict[Kind, list[tuple[str, Entry]]] = defaultdict(list)
        self._judged: dict[Need, bool] = {}
        for entry in self.entries:
            if entry.name.endswith(ANY):
                self._begun[entry.kind].append((entry.name.removesuffix(ANY), entry))
            else:
                self._named[entry.kind, entry.name].append(entry)

    def allows(self, need: Need) -> bool:
        """Whether something allows this, and nothing denies it.

        Whoever may do anything at all with a thing may see it (``describe``), unless that is denied.
        """
        known = self._judged.get(need)
        if known is None:
            if len(self._judged) >= _REMEMBERED:
                # Names are made up by who asks.
                self._judged.clear()
            known = self._judged[need] = self._judge(need)
        return known

    def denies(self, need: Need) -> bool:
        """Whether something denies this, so that nothing can allow it."""
        return any(entry.effect == "deny" and entry.covers(need.operation) for entry in self._about(need))

    def _about(self, need: Need) -> list[Entry]:
        begun = [entry for start, entry in self._begun.get(need.kind, ()) if need.name.startswith(start)]
        return [*self._named.get((need.kind, need.name), ()), *begun]

    def _judge(self, need: Need) -> bool:
        allowed = False
        for entry in self._about(need):
            if entry.effect == "allow":
                allowed = allowed or need.operation == "describe" or entry.covers(need.operation)
            elif entry.covers(need.operation):
                return False
        return allowed


def _check_pattern(kind: Kind, name: str) -> None:
    if kind == "log":
        if name != ANY:
            raise InvalidInput(f"a server has one log, which has no name: leave out {name!r:.80}")
        return
    literal = name.removesuffix(ANY)
    if not name or (kind != "namespace" and ANY in literal):
        raise InvalidName(
            f"{name!r:.80} names no {kind}: give a name, or how it begins and a * (orders.*); * alone is every one"
        )
    if kind == "topic" and name.startswith("_"):
        raise InvalidName(
            f"{name!r:.80} is a topic of the engine's own, which comes with the job that it belongs to: "
            "allow the group job.NAME"
        )
    if kind != "namespace" and literal.strip("."):
        check_name(literal, kind)


def _choices() -> str:
    return f"choose of {', '.join(OPERATIONS)}, or {ALL}"
