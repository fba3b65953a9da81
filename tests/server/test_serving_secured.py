"""A server with certificates and users, in processes of its own: watched, reloaded, and quiet about secrets."""

from __future__ import annotations

import signal
import ssl

import polars as pl
import pytest
import trustme

import mamba_stream as mamba
from mamba_stream.errors import InvalidInput, NotAuthenticated, ServerUnavailable
from mamba_stream.server.access import Entry
from mamba_stream.server.userfile import change_users
from mamba_stream.server.users import User, new_token
from tests.server.running import Serving, until

ROWS = pl.DataFrame({"n": [1, 2, 3]})


@pytest.fixture
def start(tmp_path, environment):
    started = []

    def run(*arguments):
        started.append(Serving(tmp_path / "log", environment, *arguments))
        return started[-1]

    yield run
    for each in started:
        each.close()


@pytest.fixture
def authority(tmp_path):
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made


def issue(authority, place, name="localhost"):
    """A certificate and its key, in files that may have been others before."""
    made = authority.issue_cert(name)
    (place / "server.pem").write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    made.private_key_pem.write_to_path(place / "server.key")
    return ["--tls-cert", place / "server.pem", "--tls-key", place / "server.key"]


def user(path, name):
    """Makes a user who may do everything; the token."""
    token, kept = new_token(1_700_000_000_000_000)
    every = tuple(Entry("allow", ("all",), kind) for kind in ("topic", "group", "log"))

    def change(users):
        users[name] = User(name, (kept,), access=every)

    change_users(path, change)
    return token


def rows(log):
    return log["numbers"].scan().collect()["n"].to_list()


def test_a_certificate_is_renewed_under_clients_that_go_on(start, authority, tmp_path):
    serving = start(*issue(authority, tmp_path))
    assert serving.address.startswith("grpc+tls://localhost:")
    until(serving.ready, "readiness")
    shown = ssl.get_server_certificate(("localhost", serving.port))
    with mamba.open(serving.address, ca=str(tmp_path / "ca.pem")) as log:
        log.create_topic("numbers", ROWS).append(ROWS)
        first = serving.listener()
        issue(authority, tmp_path)
        serving.send(signal.SIGHUP)
        until(lambda: serving.named("certificates reloaded"), "the reload")
        assert serving.listener() != first
        assert ssl.get_server_certificate(("localhost", serving.port)) != shown
        log["numbers"].append(ROWS)
        assert rows(log) == [1, 2, 3] * 2
        until(lambda: serving.named("listener left"), "the end of the old one")
        # A key that does not fit leaves in force what held.
        second = serving.listener()
        authority.issue_cert("localhost").private_key_pem.write_to_path(tmp_path / "server.key")
        serving.send(signal.SIGHUP)
        until(lambda: serving.named("not reloaded"), "the refusal")
        assert serving.listener() == second
        log["numbers"].append(ROWS)
        assert rows(log) == [1, 2, 3] * 3
    until(serving.ready, "readiness")
    assert not serving.named("listener ended")
    assert serving.end() == 0
    assert "PRIVATE KEY" not in "\n".join(serving.errors)


def test_whoever_cannot_connect_hears_why_and_not_that_nobody_listens(start, authority, tmp_path):
    foreign = trustme.CA()
    foreign.cert_pem.write_to_path(tmp_path / "foreign.pem")
    known, unknown = tmp_path / "ca.pem", tmp_path / "foreign.pem"
    tls = issue(authority, tmp_path)
    secure = start(*tls, "--client-ca", unknown)
    until(secure.ready, "readiness")
    place = f"localhost:{secure.port}"
    other = tmp_path / "elsewhere"
    other.mkdir()
    elsewhere = start(*issue(authority, other, "elsewhere.example"))
    plain = start()
    for at, ca, words in (
        (place, unknown, "an authority that is not known here: name who signed it"),
        (f"grpc+tls://{place}", None, "an authority that is not known here: name who signed it"),
        (place, None, "where it speaks TLS, name who signed its certificate"),
        (place, known, "where it asks clients for certificates, show a valid one"),
        (elsewhere.address, known, "a certificate that is not for this host"),
        (plain.address, known, "does not speak TLS: write grpc://"),
        (place, tmp_path / "server.key", "holds none in PEM"),
    ):
        with pytest.raises((ServerUnavailable, InvalidInput), match=words) as refused:
            mamba.open(at, ca=ca)
        assert "nothing listens" not in str(refused.value)


def test_only_users_come_in_also_such_as_are_new_and_who_does_not_is_written_down(start, tmp_path):
    path = tmp_path / "users.json"
    ann = user(path, "ann")
    serving = start("--users", path)
    until(serving.ready, "readiness")
    with mamba.open(serving.address, token=ann) as log:
        log.create_topic("numbers", ROWS).append(ROWS)
    for token in ("mamba_000000000000_" + "0" * 64, None):
        with pytest.raises(NotAuthenticated):
            mamba.open(serving.address, **({"token": token} if token else {}))
    until(lambda: serving.named("connection refused"), "the word of the listener")
    assert {each["reason"] for each in serving.named("connection refused")} == {"NotAuthenticated"}
    bob = user(path, "bob")
    serving.send(signal.SIGHUP)
    until(lambda: serving.named("users reloaded"), "the reload")
    with mamba.open(serving.address, token=bob) as log:
        assert rows(log) == [1, 2, 3]
    path.write_text("{")
    serving.send(signal.SIGHUP)
    until(lambda: serving.named("not reloaded"), "the refusal")
    with mamba.open(serving.address, token=bob) as log:
        assert rows(log) == [1, 2, 3]
    # Whoever watches it is not taken for somebody who tries to come in.
    assert serving.ready()
    refused = 'mamba_stream_calls_total{action="list_actions",outcome="NotAuthenticated"}'
    assert refused not in serving.figures()
    serving.end()
    assert not any(token in "\n".join(serving.errors) for token in (ann, bob))


def test_a_server_that_wants_clients_certificates_is_ready_although_its_own_check_has_none(
    start, authority, tmp_path
):
    serving = start(*issue(authority, tmp_path), "--client-ca", tmp_path / "ca.pem")
    until(serving.ready, "readiness")
    client = authority.issue_cert("loader.example.com")
    (tmp_path / "client.pem").write_bytes(b"".join(pem.bytes() for pem in client.cert_chain_pems))
    client.private_key_pem.write_to_path(tmp_path / "client.key")
    shown = {"ca": str(tmp_path / "ca.pem")}
    with mamba.open(
        serving.address,
        **shown,
        certificate=str(tmp_path / "client.pem"),
        key=str(tmp_path / "client.key"),
    ) as log:
        log.create_topic("numbers", ROWS).append(ROWS)
        assert rows(log) == [1, 2, 3]
    with pytest.raises(mamba.MambaStreamError):
        mamba.open(serving.address, **shown)


@pytest.mark.parametrize("which", ["users", "certificate"])
def test_a_file_that_cannot_be_used_keeps_the_server_from_starting(spawn_command, authority, tmp_path, which):
    if which == "users":
        (tmp_path / "users.json").write_text("{")
        given, words = ["--users", tmp_path / "users.json"], "the users file"
    else:
        given, words = issue(authority, tmp_path), "give the two that were made together"
        authority.issue_cert("localhost").private_key_pem.write_to_path(tmp_path / "server.key")
    ports = ["--listen", "localhost:0", "--http", "localhost:0", "--health", "off"]
    done = spawn_command("serve", "--log", tmp_path / "log", *ports, *given)
    assert (done.code, done.out) == (1, "")
    assert words in done.err
