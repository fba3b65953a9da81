"""What stands before the gate: it knows the probe, which only asks whether anybody answers, and counts bytes."""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from mamba_stream.errors import NotAuthenticated, NotAuthorized
from mamba_stream.server.gate import Caller, Gate, Kind, Need

HEADER: Final = "x-mamba-stream-probe"
"""The header of such a call."""
_PROBE: Final = Caller("_probe")


class ProbedGate:
    """A gate that lets the probe in, though to nothing, and reports who is not let in."""

    def __init__(self, gate: Gate, secret: str, refused: Callable[[str, str], None]) -> None:
        """Stands before another gate.

        Args:
            gate: Decides about all others.
            secret: What the probe shows.
            refused: Is told the peer that was not let in, and why.
        """
        self._gate = gate
        self._secret = secret.encode()
        self._refused = refused
        self._lock = threading.Lock()
        self.received = 0
        """Bytes of rows that were let in."""
        self.sent = 0
        """Bytes of rows that were let out."""

    def admit(self, headers: Mapping[str, Sequence[str]], peer: str, certificate: str) -> Caller:
        """Who calls.

        Raises:
            NotAuthenticated: Nobody that is known.
        """
        shown = headers.get(HEADER)
        if shown and hmac.compare_digest(str(shown[0]).encode(), self._secret):
            return _PROBE
        try:
            return self._gate.admit(headers, peer, certificate)
        except NotAuthenticated as error:
            self._refused(peer, type(error).__name__)
            raise

    def check(self, caller: Caller, needs: Iterable[Need]) -> None:
        """Lets a request pass.

        Raises:
            NotAuthorized: It is not allowed.
        """
        if caller is _PROBE:
            raise NotAuthorized("a probe only asks whether anybody answers")
        self._gate.check(caller, needs)

    def spend(self, caller: Caller, received: int = 0, sent: int = 0) -> None:
        """Counts bytes of rows."""
        self._gate.spend(caller, received, sent)
        with self._lock:
            self.received += received
            self.sent += sent

    def visible(self, caller: Caller, kind: Kind, names: Iterable[str]) -> list[str]:
        """Those of the names that the caller may know of."""
        return [] if caller is _PROBE else self._gate.visible(caller, kind, names)
