"""What a server is told: where to listen, whom to let in, how much memory to take."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from mamba_stream.core.settings import Address, Seconds, Section, unreadable
from mamba_stream.core.sizes import Size

LEAST_MEMORY = 256 << 20
"""What a listener takes before it has done anything, and a little to work with."""


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of ``mamba-stream serve``.

    Attributes:
        listen: Where clients connect.
        http: Where ``/livez``, ``/readyz`` and ``/metrics`` are; ``None`` for nowhere.
        health: Where gRPC's health service is; ``None`` for nowhere.
        tls_cert: The server's certificate, in PEM, with those between it and the root behind it.
        tls_key: Its key.
        client_ca: Who signs the certificates that clients must have.
        users: Who may do what.
        insecure: Whether to go on without TLS where others can connect. It never takes the place of users.
        memory: What the listener may take, in bytes.
        drain: How long calls in flight may take to finish when the server is stopped.
        disk_reserve: With less room than that, in bytes, the server is not ready.
        upkeep: How often to do what the log needs; ``None`` for never.
        scrub: How much of what is stored is looked at for damage, in bytes a second; 0 for nothing.
        log_format: How to write what happens; ``auto`` is for people at a terminal, and JSON elsewhere.
        log_level: From which weight on.
    """

    listen: Address = Address("localhost", 9092)
    http: Address | None = Address("localhost", 9093)
    health: Address | None = Address("localhost", 9094)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None
    users: Path | None = None
    insecure: bool = False
    memory: Size = Size(1 << 30)
    drain: Seconds = Seconds(30)
    disk_reserve: Size = Size(256 << 20)
    upkeep: Seconds | None = Seconds(60)
    scrub: Size = Size(2 << 20)
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def problems(self) -> Iterator[str]:
        """What does not go together, or could not be read, in words."""
        if (self.tls_cert is None) != (self.tls_key is None):
            has, lacks = ("tls_cert", "tls_key") if self.tls_cert else ("tls_key", "tls_cert")
            yield f"{has} is set and {lacks} is not: give both, or neither"
        if self.client_ca is not None and self.tls_cert is None:
            yield "client_ca asks clients for certificates, which takes TLS: give tls_cert and tls_key too"
        yield from unreadable(self, ("tls_cert", "tls_key", "client_ca", "users"))
        if self.memory < LEAST_MEMORY:
            yield f"memory = {self.memory} is too little: a listener takes {Size(LEAST_MEMORY)} at least"
        if self.upkeep is not None and not float(self.upkeep):
            yield "upkeep = 0s would do nothing else: give a length of time, as 60s, or off"
        if not is_loopback(self.listen.host):
            yield from self._exposed()

    def _exposed(self) -> Iterator[str]:
        if self.users is None and self.client_ca is None:
            yield (
                f"listen = {self.listen} can be reached from other machines, and without users everybody there could "
                "read and change everything: give users, or listen on localhost"
            )
        if self.tls_cert is None and not self.insecure:
            yield (
                f"listen = {self.listen} can be reached from other machines, and without TLS anybody between could "
                "read tokens and rows: give tls_cert and tls_key, or listen on localhost, or say insecure"
            )


SERVER = Section(ServerSettings, "server", "MAMBA_STREAM_SERVER_")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
