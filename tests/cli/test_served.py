"""The command with ``--log HOST:PORT``, and with a profile that names a server."""

from __future__ import annotations

import polars as pl
import pytest

import mamba_stream as mamba
from tests.server.running import Serving


@pytest.fixture
def serving(tmp_path, environment):
    made = Serving(tmp_path / "log", environment)
    yield made
    made.close()


def test_commands_speak_to_a_server_as_to_a_directory(serving, run_command, tmp_path, monkeypatch):
    at = ["--log", serving.address]
    made = run_command("topic", "create", "numbers", "--schema", "n:int64", *at)
    assert (made.code, made.err) == (0, "")
    (tmp_path / "numbers.ndjson").write_text('{"n": 1}\n{"n": 2}\n')
    assert run_command("produce", "numbers", tmp_path / "numbers.ndjson", *at).code == 0
    assert run_command("consume", "numbers", "-o", "json", *at).rows == [{"n": 1}, {"n": 2}]
    assert run_command("stats", "numbers", "-o", "json", *at).json["topics"][0]["messages"] == 2
    assert run_command("topic", "describe", "nombers", *at).code == 3
    # The same from a profile.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mamba-stream.toml").write_text(f'[profiles.far]\nlog = "{serving.address}"\n')
    shown = run_command("topic", "list", "-o", "json", "--profile", "far")
    assert [row["topic"] for row in shown.json] == ["numbers"]
    with mamba.open(serving.place) as log:
        assert log["numbers"].scan().collect().equals(pl.DataFrame({"n": [1, 2]}))
    serving.end()
    gone = run_command("topic", "list", *at)
    assert gone.code == 4
    assert "mamba-stream serve" in gone.err
