"""Telling systemd how the server is: a datagram to the socket that it named, and nothing where there is none."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping


class Notifier:
    """Says to systemd (``Type=notify``) what the server does."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        found = os.environ if environment is None else environment
        self._address = found.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            # An abstract name begins with a zero.
            self._address = "\0" + self._address[1:]
        owner = found.get("WATCHDOG_PID", "")
        every = found.get("WATCHDOG_USEC", "")
        ours = owner in ("", str(os.getpid()))
        self.watchdog: float | None = int(every) / 1e6 if every.isdecimal() and ours and int(every) else None
        """Seconds within which it wants to hear that all is well; ``None`` where it does not ask."""

    def ready(self, status: str) -> None:
        """The server answers; or it does so again, after it was reloaded."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self, monotonic: float) -> None:
        """Settings are read again, since that moment of the monotonic clock."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={int(monotonic * 1e6)}")

    def stopping(self, status: str) -> None:
        """The server ends."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """How it is, in words."""
        self._send(f"STATUS={status}")

    def alive(self) -> None:
        """All is well."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A server does not fail because nobody wants to know how it is.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
            made.sendto(message.encode(), self._address)
