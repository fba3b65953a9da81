"""Taking an address, under all that its host is called, or saying why not."""

from __future__ import annotations

import errno
import socket
import threading
from typing import Any, Final

from mamba_stream.core.settings import Address
from mamba_stream.errors import LogUnavailable

_TRIES: Final = 20
"""A port that is free under one name may be taken under the other: then another one is tried."""
_PAUSE: Final = 0.15
"""Seconds between two tries for a port that was asked for: whoever was killed there may need a moment to be gone."""
_Place = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]


def bind(address: Address, setting: str, *, listening: bool = True) -> list[socket.socket]:
    """Sockets that listen on all that the host is called.

    Args:
        address: The address; port 0 is one that is free under all names.
        setting: What says it.
        listening: Whether they listen; else they keep the address for a process of ours that does. Nobody else gets it
            then, nor is it the near end of a connection to somewhere else.

    Raises:
        LogUnavailable: The address is taken, or not this machine's.
    """
    try:
        found: list[_Place] = [
            each
            # gRPC takes both, whatever the machine's list of hosts says.
            for host in (("127.0.0.1", "::1") if address.host == "localhost" else (address.host,))
            for each in socket.getaddrinfo(
                host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        ]
    except OSError as error:
        raise LogUnavailable(f"{setting} = {address}: {error.strerror}; choose another host") from error
    places = list(dict.fromkeys(found))
    tries = _TRIES
    while True:
        bound, failed = _bound(places, address.port, listening)
        taken = failed is not None and failed.errno == errno.EADDRINUSE
        if bound and not taken:
            return bound
        for made in bound:
            made.close()
        tries -= 1
        if address.port and taken and tries:
            threading.Event().wait(_PAUSE)
        if not (taken and tries):
            words = "another process listens there" if taken else getattr(failed, "strerror", "no such host")
            raise LogUnavailable(
                f"{setting} = {address}: {words}; end it, or choose another with --{setting}"
            )


def _bound(found: list[_Place], port: int, listening: bool) -> tuple[list[socket.socket], OSError | None]:
    """Those that could be bound, and what was in the way of the others."""
    bound: list[socket.socket] = []
    failed: OSError | None = None
    for family, kind, protocol, _, place in found:
        try:
            made = socket.socket(family, kind, protocol)
        except OSError as error:
            failed = error
            continue
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind((place[0], port, *place[2:]))
            if listening:
                made.listen(128)
        except OSError as error:
            made.close()
            failed = error
            if error.errno == errno.EADDRINUSE:
                break
        else:
            bound.append(made)
            # Under the other names of the host the same port.
            port = made.getsockname()[1]
    return bound, failed


def check_free(address: Address, setting: str) -> None:
    """Returns where nobody has the address.

    gRPC would be content with one of a host's names, and then half of the clients would be somebody else's.

    Raises:
        LogUnavailable: It is taken, or not this machine's.
    """
    for each in bind(address, setting, listening=False):
        each.close()
