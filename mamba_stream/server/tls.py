"""Certificates: read, tried out before anybody relies on them, and handed to Arrow Flight."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from mamba_stream.errors import InvalidInput

SOON: Final = timedelta(days=21)
"""So long before its end a certificate is worth a warning."""

_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _CONTEXT_0, _UTC_TIME, _TIME = 0x30, 0xA0, 0x17, 0x18


@dataclass(frozen=True, repr=False)
class Tls:
    """What a server shows, and what it asks of clients.

    Attributes:
        certificate: The server's certificate, and those between it and the root behind it, in PEM.
        key: Its key, in PEM.
        client_ca: Who signs the certificates that clients must have, in PEM; ``None``: they need none.
        expires: When the certificate ends.
    """

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    expires: datetime

    def __repr__(self) -> str:
        return f"Tls(expires={self.expires.isoformat()}, clients={self.client_ca is not None})"

    def arguments(self) -> dict[str, Any]:
        """What ``FlightServerBase`` takes."""
        return {
            "tls_certificates": [(self.certificate, self.key)],
            "verify_client": self.client_ca is not None,
            "root_certificates": self.client_ca,
        }

    def warning(self, now: datetime) -> str | None:
        """Words about a certificate that ends soon; ``None`` where it does not."""
        left = self.expires - now
        if left > SOON:
            return None
        ends = self.expires.strftime("%Y-%m-%d %H:%M UTC")
        if left <= timedelta(0):
            return f"the server's certificate ended on {ends}: nobody can connect any more"
        return f"the server's certificate ends on {ends}, in {left // timedelta(days=1)} days: renew it"


def load_tls(certificate: Path, key: Path, client_ca: Path | None, now: datetime) -> Tls:
    """Reads certificates, and tries whether a server could work with them.

    Args:
        certificate: The file with the server's certificate and those between it and the root, in PEM.
        key: The file with its key, in PEM, without a password.
        client_ca: The file with whom clients' certificates must lead to, in PEM.
        now: The time.

    Raises:
        InvalidInput: A file cannot be read, is something else, or does not fit the others; or the certificate ended, or
            is not valid yet.
    """
    shown, secret = _read(certificate, "certificate"), _read(key, "key")
    accepted = None if client_ca is None else _read(client_ca, "client CA")
    first = _CERTIFICATE.search(shown)
    if first is None:
        raise InvalidInput(f"the certificate {certificate} holds none in PEM (-----BEGIN CERTIFICATE-----)")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with _as_file(shown) as shown_at, _as_file(secret) as secret_at:
        try:
            context.load_cert_chain(shown_at, secret_at, password=_no_password)
        except ssl.SSLError as error:
            reason = (error.reason or "they cannot be read").lower().replace("_", " ")
            raise InvalidInput(
                f"the certificate {certificate} and the key {key}: {reason}; give the two that were made together"
            ) from error
        except _Encrypted as error:
            raise InvalidInput(
                f"the key {key} has a password, which a server cannot type: give it without"
            ) from error
    if accepted is not None:
        _check_authorities(accepted, client_ca)
    try:
        begins, ends = _validity(ssl.PEM_cert_to_DER_cert(first[0].decode("ascii")))
    except (ValueError, IndexError) as error:
        raise InvalidInput(
            f"the certificate {certificate} does not say from when to when it is valid"
        ) from error
    if not begins <= now < ends:
        raise InvalidInput(
            f"the certificate {certificate} is valid from {begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC, and it "
            f"is {now:%Y-%m-%d %H:%M}: nobody could connect"
        )
    return Tls(shown, secret, accepted, ends)


class _Encrypted(Exception):
    """The key has a password."""


def _no_password() -> str:
    raise _Encrypted


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"the {what} {path}: {error.strerror}") from error


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Bytes under a name, in memory only: what is tried out is what is used, even if the file is replaced meanwhile."""
    with open(os.memfd_create("pem", os.MFD_CLOEXEC), "w+b", buffering=0) as file:  # noqa: PTH123
        file.write(content)
        yield f"/proc/self/fd/{file.fileno()}"


def _check_authorities(pem: bytes, path: Path | None) -> None:
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_verify_locations(cadata=pem.decode("ascii"))
        if not context.get_ca_certs():
            raise InvalidInput(f"the client CA {path} holds no certificate that may sign others")
    except (ssl.SSLError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"the client CA {path} holds no certificates in PEM") from error


def _validity(der: bytes) -> tuple[datetime, datetime]:
    """From when to when a certificate is valid (RFC 5280, 4.1.2.5): Python's ``ssl`` tells only of others' ones."""
    [(_, certificate)] = _parts(der)
    _, signed = next(_parts(certificate))
    fields = [(tag, value) for tag, value in _parts(signed) if tag != _CONTEXT_0]
    # Serial number, algorithm, issuer, validity.
    tag, value = fields[3]
    if tag != _SEQUENCE:
        raise ValueError("no validity")
    begins, ends = (_moment(tag, value) for tag, value in _parts(value))
    return begins, ends


def _parts(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements that lie in these bytes, by tag and content."""
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(der[at : at + size]), at + size
        if at + length > len(der):
            raise ValueError("cut off")
        yield tag, der[at : at + length]
        at += length


def _moment(tag: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    if tag == _UTC_TIME:
        # Two digits of the year: from 1950 to 2049.
        text = f"{'19' if text[:2] >= '50' else '20'}{text}"
    elif tag != _TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
