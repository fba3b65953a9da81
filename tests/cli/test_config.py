from __future__ import annotations

import os

import polars as pl
import pytest

import mamba_stream as mamba

FILE = """
log = "data"

[server]
listen = "localhost:7000"
memory = "2GiB"

[profiles.near]
log = "other"

[profiles.far]
log = "logs.example:9092"
token = "s3cret"
ca = "ca.pem"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("MAMBA_STREAM_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mamba-stream.toml").write_text(FILE)
    (tmp_path / "ca.pem").touch()
    return tmp_path


def test_settings_are_shown_with_where_they_come_from(run_command, place, monkeypatch):
    monkeypatch.setenv("MAMBA_STREAM_SERVER_DRAIN", "5s")
    done = run_command("config", "show", "--sources", "-o", "json")
    assert (done.code, done.err) == (0, "")
    file = str(place / "mamba-stream.toml")
    assert done.json["file"] == file
    found = done.json["settings"]
    assert found["log"] == {"value": str(place / "data"), "source": file}
    assert found["server.listen"] == {"value": "localhost:7000", "source": file}
    assert found["server.drain"] == {"value": "5s", "source": "MAMBA_STREAM_SERVER_DRAIN"}
    assert found["server.http"] == {"value": "localhost:9093", "source": "default"}
    assert found["profiles.near.log"] == {"value": str(place / "other"), "source": file}
    assert found["profiles.far.log"] == {"value": "logs.example:9092", "source": file}
    assert found["profiles.far.ca"] == {"value": str(place / "ca.pem"), "source": file}


@pytest.mark.parametrize("arguments", [[], ["--sources"], ["-o", "json"], ["--sources", "-o", "json"]])
def test_a_token_is_never_shown(run_command, place, arguments):
    done = run_command("config", "show", *arguments)
    assert done.code == 0
    assert "profiles.far.token" in done.out
    assert "s3cret" not in done.out + done.err


def test_settings_are_checked_all_at_once(run_command, place, monkeypatch):
    done = run_command("config", "validate")
    assert (done.code, done.out, done.err) == (0, f"{place / 'mamba-stream.toml'} is right\n", "")
    monkeypatch.setenv("MAMBA_STREAM_SERVER_DRANE", "1s")
    (place / "mamba-stream.toml").write_text(
        "servers = 1\n[server]\nmemori = 1\ntls_cert = 'none.pem'\n[profiles.x]\ntoken = 5\ntoken_file = 'f'"
    )
    done = run_command("config", "validate")
    assert (done.code, done.out) == (1, "")
    lines = done.err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    for words in (
        "servers is no setting, did you mean 'server'?",
        "[server] memori is no setting, did you mean 'memory'?",
        "MAMBA_STREAM_SERVER_DRANE is no setting, did you mean 'MAMBA_STREAM_SERVER_DRAIN'?",
        "tls_cert is set and tls_key is not",
        "none.pem cannot be read",
        "[profiles.x] token: ",
        "[profiles.x] has no log",
        "[profiles.x] token_file: ",
    ):
        assert words in done.err
    assert len(lines) == 8


def test_profiles_are_checked_with_the_files_that_they_name(run_command, place):
    (place / "mamba-stream.toml").write_text(
        "[profiles.x]\nlog = 'a:1'\ntoken_file = 'none'\nca = 'nowhere'\ncertificate = 'ca.pem'"
    )
    done = run_command("config", "validate")
    assert (done.code, done.out) == (1, "")
    assert len(done.err.splitlines()) == 3
    for words in (
        f"[profiles.x] token_file: {place / 'none'} cannot be read",
        f"[profiles.x] ca: {place / 'nowhere'} cannot be read",
        "[profiles.x] has certificate and no key: give both, or neither",
    ):
        assert words in done.err


@pytest.mark.parametrize("has", ["CERTIFICATE", "KEY"])
def test_a_certificate_without_its_key_is_refused_rather_than_left_away(run_command, place, monkeypatch, has):
    monkeypatch.setenv(f"MAMBA_STREAM_{has}", "ca.pem")
    done = run_command("topic", "list", "--log", "grpc+tls://localhost:1")
    assert done.code == 1
    assert f"a client's {has.lower()} is given, and no " in done.err


def test_without_a_file_the_defaults_are_right(run_command, place):
    (place / "mamba-stream.toml").unlink()
    done = run_command("config", "validate")
    assert (done.code, done.err) == (0, "")
    assert "there is no " in done.out


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"LISTEN": "0.0.0.0:9092"}, ["without users", "without TLS"]),
        ({"LISTEN": "0.0.0.0:9092", "USERS": "mamba-stream.toml"}, ["without TLS"]),
        ({"LISTEN": "[::]:9092", "INSECURE": "true"}, ["without users"]),
        ({"LISTEN": "[::1]:9092"}, []),
        ({"MEMORY": "1MiB"}, ["too little"]),
        ({"UPKEEP": "0s"}, ["or off"]),
        ({"CLIENT_CA": "mamba-stream.toml"}, ["takes TLS"]),
    ],
)
def test_what_would_let_others_in_is_refused(run_command, place, monkeypatch, variables, words):
    for name, value in variables.items():
        monkeypatch.setenv(f"MAMBA_STREAM_SERVER_{name}", value)
    done = run_command("config", "validate")
    assert done.code == (1 if words else 0)
    assert len(done.err.splitlines()) == len(words)
    assert all(each in done.err for each in words)


def test_a_profile_stands_for_a_log_and_for_nothing_else_that_was_set(run_command, place, monkeypatch):
    for name in ("data", "other", "third"):
        with mamba.open(place / name) as log:
            log.create_topic(f"in-{name}", pl.DataFrame({"n": [1]}))

    def topics(*arguments):
        done = run_command("topic", "list", "-o", "json", *arguments)
        assert done.code == 0, done.err
        return [row["topic"] for row in done.json]

    before = dict(os.environ)
    assert topics() == ["in-data"]
    assert topics("--profile", "near") == ["in-other"]
    assert dict(os.environ) == before
    monkeypatch.setenv("MAMBA_STREAM_LOG", "third")
    assert topics() == ["in-third"]
    assert topics("--profile", "near") == ["in-other"]
    monkeypatch.setenv("MAMBA_STREAM_PROFILE", "near")
    assert topics() == ["in-other"]
    assert topics("--log", place / "data") == ["in-data"]


def test_a_profile_that_cannot_be_used_says_why(run_command, place):
    done = run_command("topic", "list", "--profile", "nearr")
    assert done.code == 3
    assert "no profile 'nearr', did you mean 'near'?; it has far, near" in done.err
    done = run_command("topic", "list", "--profile", "near", "--log", "data")
    assert done.code == 2
    assert "--log and --profile" in done.err
    (place / "mamba-stream.toml").write_text("[profiles.near]\nlog = 'x'\ntoken_file = 'secret'")
    assert "secret cannot be read" in run_command("topic", "list", "--profile", "near").err
    (place / "secret").write_text("\n")
    assert "secret is empty" in run_command("topic", "list", "--profile", "near").err


def test_a_profile_sets_what_lets_one_in_and_takes_away_what_is_meant_for_others(place, monkeypatch):
    from mamba_stream.cli.profiles import as_said_by, load_profile

    monkeypatch.setenv("MAMBA_STREAM_TOKEN", "for-another")
    monkeypatch.setenv("MAMBA_STREAM_KEY", "for-another")
    profile = load_profile("far")
    assert "s3cret" not in repr(profile)
    with as_said_by(profile):
        assert os.environ["MAMBA_STREAM_TOKEN"] == "s3cret"
        assert os.environ["MAMBA_STREAM_LOG"] == "logs.example:9092"
        assert os.environ["MAMBA_STREAM_CA"] == str(place / "ca.pem")
        assert "MAMBA_STREAM_KEY" not in os.environ
    assert os.environ["MAMBA_STREAM_TOKEN"] == "for-another"
    with as_said_by(load_profile("near")):
        assert "MAMBA_STREAM_TOKEN" not in os.environ
