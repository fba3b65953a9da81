"""Errors of a connector say which it is, and where in the user's program it was put to use."""

from __future__ import annotations

from mamba_stream.errors import ConnectorFailed, MambaStreamError
from mamba_stream.plan import nodes as n
from mamba_stream.plan.refusing import first_line


class Blaming:
    """Turns what a connector raises into a :class:`ConnectorFailed`; other errors of ours get a note."""

    def __init__(self, what: str, node: n.Node) -> None:
        """Says who is to blame.

        Args:
            what: The connector, for the message.
            node: Where the user wrote it.
        """
        self._what = what
        self._node = node

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception):
            return
        where = f"({self._node.verb} at {self._node.place})"
        if isinstance(error, MambaStreamError) and not isinstance(error, ConnectorFailed):
            error.add_note(f"in {self._what} {where}")
            return
        blamed = (
            str(error)
            if isinstance(error, ConnectorFailed)
            else f"{type(error).__name__}: {first_line(error)}"
        )
        raise ConnectorFailed(f"{self._what} failed: {blamed} {where}") from error
