"""``mamba-stream serve`` with users and certificates, as it is started: who gets in, what changes while it runs."""

from __future__ import annotations

import itertools
import shutil
import signal
import ssl
import subprocess
import sys

import polars as pl
import pytest
import trustme
from cryptography import x509

from mamba_stream.core.settings import Address
from mamba_stream.errors import NotAuthenticated, NotAuthorized, QuotaExceeded
from mamba_stream.log import Log
from mamba_stream.log.opening import storage_of
from mamba_stream.server.settings import ServerSettings
from tests.server.running import Serving, until


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "127.0.0.1",
        "127.1.2.3",
        "::1",
        "0.0.0.0",
        "::",
        "10.0.0.7",
        "example.com",
        "localhost.example.com",
    ],
)
def test_where_others_can_connect_it_takes_users_and_tls_or_to_say_insecure_and_never_goes_without_users(
    host, tmp_path
):
    file = tmp_path / "file"
    file.touch()
    here = host in ("localhost", "127.0.0.1", "127.1.2.3", "::1")
    for users, tls, ca, insecure in itertools.product([False, True], repeat=4):
        if ca and not tls:
            continue
        settings = ServerSettings(
            listen=Address(host, 9092),
            users=file if users else None,
            tls_cert=file if tls else None,
            tls_key=file if tls else None,
            client_ca=file if ca else None,
            insecure=insecure,
        )
        refused = not (here or ((users or ca) and (tls or insecure)))
        assert bool([*settings.problems()]) == refused, (users, tls, ca, insecure)


class Place:
    """A directory with users, certificates and a server."""

    def __init__(self, path, environment):
        self.path = path
        self.users = path / "users.json"
        self.environment = {**environment, "MAMBA_STREAM_SERVER_USERS": str(self.users)}
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(path / "ca.pem")
        self.serving = None

    def command(self, *words):
        done = [sys.executable, "-m", "mamba_stream.cli", *words]
        return subprocess.run(
            done, check=True, env=self.environment, capture_output=True, text=True
        ).stdout.strip()

    def certify(self):
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_pem.write_to_path(self.path / "server.key")
        issued.cert_chain_pems[0].write_to_path(self.path / "server.pem")
        return issued.cert_chain_pems[0].bytes().decode()

    def start(self, *arguments):
        self.serving = Serving(self.path / "log", self.environment, "--log-format", "json", *arguments)
        return self.serving

    def open(self, token=None) -> Log:
        shown = {} if token is None else {"MAMBA_STREAM_TOKEN": token}
        if self.serving.address.startswith("grpc+tls"):
            shown["MAMBA_STREAM_CA"] = str(self.path / "ca.pem")
        return Log(storage_of(self.serving.address, shown))


@pytest.fixture
def place(tmp_path, environment):
    made = Place(tmp_path, environment)
    yield made
    if made.serving is not None:
        made.serving.close()


def test_users_change_while_it_runs_and_their_quotas_hold(place):
    place.command("user", "add", "ann", "--topics", "1")
    place.command("access", "allow", "ann", "read,write,create", "--topic", "ann.*")
    token = place.command("user", "token", "new", "ann")
    place.start()
    for wrong in (None, f"mamba_{'0' * 12}_{'0' * 64}"):
        with pytest.raises(NotAuthenticated):
            place.open(wrong)
    with place.open(token) as log:
        log.create_topic("ann.a", {"n": pl.Int64}).append({"n": [1]})
        with pytest.raises(NotAuthorized, match="access allow ann describe --topic bob"):
            log.create_topic("bob", {"n": pl.Int64})
        place.command("user", "quota", "ann", "--none")
        place.command("access", "allow", "ann", "admin", "--whole-log")

        def changed():
            try:
                found = log["_audit"].scan().collect()
            except NotAuthorized:
                return None
            return {*found.select("user", "operation", "name", "outcome").iter_rows()}

        wanted = {("ann", "create", "ann.a", "allowed"), ("ann", "describe", "bob", "denied")}
        until(lambda: wanted <= (changed() or set()), "the audit topic")
        log.create_topic("ann.b", {"n": pl.Int64})
        place.command("user", "remove", "ann", "--yes")

        def refused():
            try:
                log["ann.a"].append({"n": [2]})
            except NotAuthenticated:
                return True
            return False

        until(refused)

    def counted():
        found = place.serving.figures()
        kinds = [
            found[f'mamba_stream_refused_total{{kind="{kind}"}}'] for kind in ("unauthenticated", "denied")
        ]
        return kinds[0] >= 3 and kinds[1] >= 1 and found["mamba_stream_audit_rows_total"] >= 4

    until(counted, "the figures of the guard")
    found = place.serving.figures()
    assert found['mamba_stream_users_reloads_total{outcome="ok"}'] >= 1
    assert found['mamba_stream_users_reloads_total{outcome="failed"}'] == 0
    assert found["mamba_stream_audit_dropped_total"] == 0
    assert "mamba_stream_certificate_expires_timestamp_seconds" not in found
    assert place.serving.end() == 0
    said = "\n".join(place.serving.errors)
    assert token.rpartition("_")[2] not in said


def test_a_topic_too_many_is_refused(place):
    place.command("user", "add", "ann", "--topics", "1")
    place.command("access", "allow", "ann", "all", "--topic", "*")
    token = place.command("user", "token", "new", "ann")
    place.start()
    with place.open(token) as log:
        log.create_topic("a", {"n": pl.Int64})
        log._shared._connection.again = lambda call, patience=0.0: call()
        with pytest.raises(QuotaExceeded, match="has made 1 topics"):
            log.create_topic("b", {"n": pl.Int64})


def test_a_new_certificate_is_shown_and_nobody_who_is_connected_loses_anything(place):
    first = place.certify()
    place.command("user", "add", "ann")
    place.command("access", "allow", "ann", "all", "--topic", "*")
    token = place.command("user", "token", "new", "ann")
    files = ("--tls-cert", place.path / "server.pem", "--tls-key", place.path / "server.key")
    serving = place.start(*files)

    def shown():
        try:
            return ssl.get_server_certificate(("localhost", serving.port), timeout=10)
        except OSError:
            return None

    assert shown() == first
    ends = x509.load_pem_x509_certificate(first.encode()).not_valid_after_utc.timestamp()
    assert serving.figures()["mamba_stream_certificate_expires_timestamp_seconds"] == ends
    if shutil.which("promtool"):
        subprocess.run(
            ["promtool", "check", "metrics"],
            input=serving.get("/metrics")[1].encode(),
            check=True,
            timeout=60,
        )
    with place.open(token) as log:
        topic = log.create_topic("a", {"n": pl.Int64})
        count = 0
        for _ in range(2):
            second = place.certify()
            serving.send(signal.SIGHUP)

            def renewed(second=second):
                nonlocal count
                topic.append({"n": [count]})
                count += 1
                return shown() == second

            until(renewed)
        # A key that does not fit leaves what is in force.
        trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(place.path / "server.key")
        serving.send(signal.SIGHUP)
        until(lambda: any("mismatch" in line for line in serving.errors))
        topic.append({"n": [count]})
        assert shown() == second
        assert topic.scan().collect()["n"].to_list() == [*range(count + 1)]
    assert "PRIVATE" not in "\n".join(serving.errors)
