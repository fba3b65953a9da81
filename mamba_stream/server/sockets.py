"""Taking an address, under all that its host is called, or saying why not."""

from __future__ import annotations

import errno
import socket

from mamba_stream.core.settings import Address
from mamba_stream.errors import LogUnavailable


def bind(address: Address, setting: str) -> list[socket.socket]:
    """Sockets that listen on all that the host is called.

    Raises:
        LogUnavailable: The address is taken, or not this machine's.
    """
    try:
        found = [
            each
            # gRPC takes both, whatever the machine's list of hosts says.
            for host in (("127.0.0.1", "::1") if address.host == "localhost" else (address.host,))
            for each in socket.getaddrinfo(
                host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        ]
    except OSError as error:
        raise LogUnavailable(f"{setting} = {address}: {error.strerror}; choose another host") from error
    bound: list[socket.socket] = []
    port, failed = address.port, None
    for family, kind, protocol, _, place in dict.fromkeys(found):
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
    taken = failed is not None and failed.errno == errno.EADDRINUSE
    if taken or not bound:
        for made in bound:
            made.close()
        words = "another process listens there" if taken else getattr(failed, "strerror", "no such host")
        raise LogUnavailable(f"{setting} = {address}: {words}; end it, or choose another with --{setting}")
    return bound


def check_free(address: Address, setting: str) -> None:
    """Returns where nobody has the address.

    gRPC would be content with one of a host's names, and then half of the clients would be somebody else's.

    Raises:
        LogUnavailable: It is taken, or not this machine's.
    """
    for each in bind(address, setting):
        each.close()
