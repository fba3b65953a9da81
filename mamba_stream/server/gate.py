"""Who may do what: what the server asks before it does anything, and the answer where everybody may."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Operation = Literal["read", "write", "create", "delete", "describe", "admin"]
"""What is done with a resource."""

Kind = Literal["topic", "group", "namespace", "log"]
"""What kind of thing it is done with: a topic, a group of consumers, a namespace of records, the log as a whole."""


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that a request does; every one of a request's must be allowed.

    Attributes:
        operation: What is done.
        kind: With what kind of thing.
        name: The name of that; ``""`` for the log as a whole.
    """

    operation: Operation
    kind: Kind
    name: str = ""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        name: The user's name, as access lists, quotas and the audit topic know it.
        peer: The address that the call came from.
        credential: What the caller was recognised by, nothing secret: a gate may look again whether it stands.
    """

    name: str
    peer: str = ""
    credential: str = ""


class Gate(Protocol):
    """Decides who may do what. Called by many threads at once."""

    def admit(self, headers: Mapping[str, Sequence[str]], peer: str, certificate: str) -> Caller:
        """Who calls, by its headers (names in lower case) and the identity in its certificate (``""``: none).

        Raises:
            NotAuthenticated: Nobody that is known.
            QuotaExceeded: The user has as many connections as it may.
        """
        ...

    def check(self, caller: Caller, needs: Iterable[Need]) -> None:
        """Lets a request pass.

        Raises:
            NotAuthenticated: The caller is not to be believed any longer.
            NotAuthorized: Something of it is not allowed; the message names the first.
        """
        ...

    def spend(self, caller: Caller, received: int = 0, sent: int = 0) -> None:
        """Counts bytes of rows that a caller sends or gets.

        Raises:
            QuotaExceeded: They are more than it may have now.
        """
        ...

    def visible(self, caller: Caller, kind: Kind, names: Iterable[str]) -> list[str]:
        """Those of the names that the caller may know of."""
        ...


class OpenGate:
    """Everybody may do everything: for a server that only this machine can reach."""

    def admit(self, headers: Mapping[str, Sequence[str]], peer: str, certificate: str) -> Caller:
        return Caller("anonymous", peer)

    def check(self, caller: Caller, needs: Iterable[Need]) -> None:
        return None

    def spend(self, caller: Caller, received: int = 0, sent: int = 0) -> None:
        return None

    def visible(self, caller: Caller, kind: Kind, names: Iterable[str]) -> list[str]:
        return list(names)
