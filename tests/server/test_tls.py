"""Certificates: what a server could not work with is refused before it tries, and what Flight makes of the others."""

from __future__ import annotations

import contextlib
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from pyarrow import flight, lib

from mamba_stream.errors import InvalidInput
from mamba_stream.server.service import FlightService
from mamba_stream.server.tls import load_tls

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


class Pair:
    """A certificate and a key in files."""

    def __init__(self, directory: Path, issued: trustme.LeafCert) -> None:
        directory.mkdir(exist_ok=True)
        self.certificate, self.key = directory / "server.pem", directory / "server.key"
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())


@pytest.fixture
def pair(tmp_path, authority):
    return Pair(tmp_path, authority.issue_cert("localhost", "127.0.0.1"))


@pytest.fixture
def client_ca(tmp_path, authority):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def test_what_fits_is_read_with_its_end(pair, client_ca, authority, tmp_path):
    ends = NOW.replace(microsecond=0) + timedelta(days=90)
    long = Pair(tmp_path / "long", authority.issue_cert("localhost", not_after=ends))
    found = load_tls(long.certificate, long.key, client_ca, NOW)
    assert found.expires == ends
    assert found.arguments() == {
        "tls_certificates": [(long.certificate.read_bytes(), long.key.read_bytes())],
        "verify_client": True,
        "root_certificates": client_ca.read_bytes(),
    }
    assert load_tls(pair.certificate, pair.key, None, NOW).arguments()["verify_client"] is False
    for secret in ("PRIVATE", "BEGIN"):
        assert secret not in repr(found) and secret not in str(found)
    # Years beyond 2049 are written in another way.
    late = Pair(
        tmp_path / "late", authority.issue_cert("localhost", not_after=datetime(2064, 2, 29, tzinfo=UTC))
    )
    assert load_tls(late.certificate, late.key, None, NOW).expires == datetime(2064, 2, 29, tzinfo=UTC)


def test_a_certificate_that_ends_soon_is_worth_a_warning(pair, authority, tmp_path):
    ends = NOW.replace(microsecond=0) + timedelta(days=90)
    long = Pair(tmp_path / "long", authority.issue_cert("localhost", not_after=ends))
    found = load_tls(long.certificate, long.key, None, NOW)
    assert found.warning(NOW) is None
    assert "in 10 days: renew it" in found.warning(ends - timedelta(days=10, hours=1))
    assert "nobody can connect any more" in found.warning(ends)


def test_what_does_not_fit_is_refused(pair, client_ca, authority, tmp_path):
    other = Pair(tmp_path / "other", authority.issue_cert("localhost"))
    with pytest.raises(
        InvalidInput, match=r"server.pem and the key .*other/server.key: key values mismatch; give the two"
    ):
        load_tls(pair.certificate, other.key, None, NOW)
    with pytest.raises(InvalidInput, match="holds none in PEM"):
        load_tls(pair.key, pair.key, None, NOW)
    with pytest.raises(InvalidInput, match="and the key"):
        load_tls(pair.certificate, pair.certificate, None, NOW)
    with pytest.raises(InvalidInput, match="the key .*missing: No such file"):
        load_tls(pair.certificate, tmp_path / "missing", None, NOW)
    with pytest.raises(InvalidInput, match="the client CA .* holds no certificates in PEM"):
        load_tls(pair.certificate, pair.key, pair.key, NOW)
    with pytest.raises(InvalidInput, match="the client CA .* holds no certificate that may sign others"):
        load_tls(pair.certificate, pair.key, pair.certificate, NOW)
    for content in (b"", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        broken = tmp_path / "broken.pem"
        broken.write_bytes(content)
        with pytest.raises(InvalidInput):
            load_tls(broken, pair.key, None, NOW)
        with pytest.raises(InvalidInput):
            load_tls(pair.certificate, broken, None, NOW)
        with pytest.raises(InvalidInput):
            load_tls(pair.certificate, pair.key, broken, NOW)
    assert load_tls(pair.certificate, pair.key, client_ca, NOW)


def test_a_key_with_a_password_is_refused_and_nothing_of_it_is_said(pair, tmp_path):
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"pass"),
        )
    )
    with pytest.raises(InvalidInput, match=r"locked.key has a password, which a server cannot type"):
        load_tls(pair.certificate, locked, None, NOW)


def test_one_that_ended_or_has_not_begun_is_refused(authority, tmp_path, pair):
    ended = Pair(tmp_path / "ended", authority.issue_cert("localhost", not_after=NOW - timedelta(days=1)))
    with pytest.raises(InvalidInput, match="nobody could connect"):
        load_tls(ended.certificate, ended.key, None, NOW)
    with pytest.raises(InvalidInput, match="nobody could connect"):
        load_tls(pair.certificate, pair.key, None, datetime(1999, 1, 1, tzinfo=UTC))


# What Arrow Flight makes of it.


@pytest.fixture
def served(log, pair, client_ca):
    """A server that asks clients for certificates."""
    found = load_tls(pair.certificate, pair.key, client_ca, NOW)
    service = FlightService(log._shared, "grpc+tls://localhost:0", **found.arguments())
    yield service
    service.shutdown()


def connect(port, root, issued=None):
    mine = {}
    if issued is not None:
        mine = {
            "cert_chain": b"".join(blob.bytes() for blob in issued.cert_chain_pems),
            "private_key": issued.private_key_pem.bytes(),
        }
    return flight.connect(f"grpc+tls://localhost:{port}", tls_root_certs=root.cert_pem.bytes(), **mine)


def names(client):
    return [each.descriptor.path[0].decode() for each in client.list_flights()]


def test_only_whoever_has_a_certificate_of_the_client_ca_gets_in(served, log, authority):
    log.create_topic("orders", {"n": pl.Int64})
    with connect(served.port, authority, authority.issue_cert("ann.example.com")) as client:
        assert names(client) == ["orders"]
    strangers = {
        "without one": (authority, None),
        "of another CA": (authority, trustme.CA().issue_cert("ann.example.com")),
        "that ended": (authority, authority.issue_cert("ann.example.com", not_after=NOW - timedelta(days=1))),
        "who trusts another server": (trustme.CA(), authority.issue_cert("ann.example.com")),
    }
    for root, issued in strangers.values():
        with connect(served.port, root, issued) as client, pytest.raises(flight.FlightUnavailableError):
            names(client)
    with (
        flight.connect(f"grpc://localhost:{served.port}") as client,
        pytest.raises(flight.FlightUnavailableError),
    ):
        names(client)


@pytest.mark.parametrize(
    ("names_", "common", "identity"),
    [
        (("ann.example.com", "bob.example.com"), "eve.example.com", "ann.example.com"),
        (("ann@example.com",), None, "ann@example.com"),
        ((), "ann", "ann"),
    ],
)
def test_the_identity_in_a_certificate_is_its_first_alternative_name_or_else_its_common_one(
    log, pair, client_ca, authority, names_, common, identity
):
    seen = []

    class Gate:
        def admit(self, headers, peer, certificate):
            seen.append(certificate)
            raise InvalidInput("enough")

    found = load_tls(pair.certificate, pair.key, client_ca, NOW)
    service = FlightService(log._shared, "grpc+tls://localhost:0", gate=Gate(), **found.arguments())
    try:
        issued = authority.issue_cert(*names_, common_name=common)
        with connect(service.port, authority, issued) as client, pytest.raises(Exception, match="enough"):
            names(client)
    finally:
        service.shutdown()
    assert seen == [identity]


def test_another_listener_takes_the_port_while_streams_of_the_one_before_go_on(
    log, pair, client_ca, authority, tmp_path
):
    topic = log.create_topic("orders", {"n": pl.Int64})
    for n in range(50):
        topic.append({"n": [n] * 200_000})
    first = load_tls(pair.certificate, pair.key, client_ca, NOW)
    old = FlightService(log._shared, "grpc+tls://localhost:0", **first.arguments())
    issued = authority.issue_cert("ann.example.com")
    with connect(old.port, authority, issued) as client:
        # More than fits between server and client: the stream is under way.
        reader = client.do_get(flight.Ticket(b"orders"))
        rows = reader.read_chunk().data.num_rows
        ending = threading.Thread(target=old.shutdown)
        ending.start()
        fresh_authority = trustme.CA()
        fresh = Pair(tmp_path / "fresh", fresh_authority.issue_cert("localhost"))
        second = load_tls(fresh.certificate, fresh.key, client_ca, NOW)
        new = None
        while new is None:
            # Until the old one has let the port go.
            with contextlib.suppress(lib.ArrowException):
                new = FlightService(log._shared, f"grpc+tls://localhost:{old.port}", **second.arguments())
        with connect(new.port, fresh_authority, issued) as other:
            assert names(other) == ["orders"]
        for chunk in reader:
            rows += chunk.data.num_rows
        ending.join()
        new.shutdown()
    assert rows == 10_000_000
