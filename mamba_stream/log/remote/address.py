"""Where a server is, and what it wants to see."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mamba_stream.errors import InvalidInput

_PREFIX = "MAMBA_STREAM_"

_FORM = re.compile(
    r"(?:(?P<scheme>grpc|grpc\+tls)://)?(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s/\\:@]+):(?P<port>\d{1,5})/?"
)


@dataclass(frozen=True)
class Credentials:
    """What a client shows to a server, and by what it knows the server.

    Attributes:
        token: A user's token.
        ca: A file of certificates that the server's must lead to; without, the machine's.
        certificate: A file with the client's certificate, where the server asks for one.
        key: A file with its key.
    """

    token: str | None = field(default=None, repr=False)
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str] | None = None) -> Credentials:
        """What the environment names: ``MAMBA_STREAM_TOKEN``, ``_CA``, ``_CERTIFICATE`` and ``_KEY``."""
        given = os.environ if environment is None else environment
        return cls(*(given.get(_PREFIX + name) for name in ("TOKEN", "CA", "CERTIFICATE", "KEY")))

    def pair(self) -> tuple[bytes, bytes] | None:
        """The client's certificate and its key, read; ``None`` where it has none.

        Raises:
            InvalidInput: It has only one of them, or one cannot be read.
        """
        if self.certificate is None and self.key is None:
            return None
        if self.certificate is None or self.key is None:
            has, lacks = ("key", "certificate") if self.certificate is None else ("certificate", "key")
            raise InvalidInput(
                f"a client's {has} is given, and no {lacks}: give both, or neither (certificate= and key=, or "
                f"{_PREFIX}CERTIFICATE and {_PREFIX}KEY)"
            )
        return _pem(self.certificate, "certificate", "CERTIFICATE"), _pem(self.key, "key", "PRIVATE KEY")

    def authorities(self) -> bytes | None:
        """Whom the server's certificate must lead to, read; ``None``: whom this machine knows.

        Raises:
            InvalidInput: The file cannot be read, or holds no certificate.
        """
        return None if self.ca is None else _pem(self.ca, "file of authorities", "CERTIFICATE")


@dataclass(frozen=True)
class Address:
    """A server's address.

    Attributes:
        host: A name, or an IP address, in brackets if it is of version 6.
        port: Its port.
        tls: Whether to speak TLS.
    """

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        return f"{'grpc+tls://' if self.tls else ''}{self.host}:{self.port}"

    @property
    def uri(self) -> str:
        """As Arrow Flight writes it."""
        return f"grpc{'+tls' if self.tls else '+tcp'}://{self.host}:{self.port}"


def is_address(place: object) -> bool:
    """Whether this is the address of a server rather than a directory."""
    if not isinstance(place, str):
        return False
    return "://" in place or (_FORM.fullmatch(place) is not None and not os.path.exists(place))


def address_of(place: str, credentials: Credentials | None = None) -> Address:
    """The address in this text: ``host:port``, ``grpc://host:port`` or ``grpc+tls://host:port``.

    >>> address_of("localhost:9092")
    Address(host='localhost', port=9092, tls=False)

    Raises:
        InvalidInput: It is another form.
    """
    found = _FORM.fullmatch(place)
    if found is None or not 0 < int(found["port"]) < 65_536:
        raise InvalidInput(
            f"{place!r:.200} is not the address of a server: write host:port, grpc://host:port or "
            "grpc+tls://host:port, such as localhost:9092"
        )
    # Who shows or asks for certificates means TLS.
    secure = credentials is not None and (credentials.ca is not None or credentials.certificate is not None)
    tls = secure if found["scheme"] is None else found["scheme"] == "grpc+tls"
    return Address(found["host"], int(found["port"]), tls)


def _pem(path: str, what: str, holds: str) -> bytes:
    try:
        found = Path(path).read_bytes()
    except OSError as error:
        raise InvalidInput(f"the {what} {path!r} cannot be read: {error.strerror}") from error
    if f"{holds}-----".encode() not in found:
        raise InvalidInput(f"the {what} {path!r} holds none in PEM (-----BEGIN {holds}-----)")
    return found
