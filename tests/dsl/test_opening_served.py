"""``mamba.open`` of an address: what is shown to the server, and where that makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

import mamba_stream as mamba
from mamba_stream.errors import InvalidInput, NotAuthenticated
from mamba_stream.log.store import acquire
from mamba_stream.server.gate import Caller, OpenGate
from mamba_stream.server.service import FlightService


class _Token(OpenGate):
    def admit(self, headers, peer, certificate) -> Caller:  # type: ignore[no-untyped-def]
        if headers.get("authorization") != ["Bearer right"]:
            raise NotAuthenticated("the token is not known")
        return Caller("somebody", peer)


def test_a_token_is_shown_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = acquire(tmp_path / "log")
    service = FlightService(store, gate=_Token())
    place = f"localhost:{service.port}"
    try:
        with pytest.raises(NotAuthenticated, match="not known"):
            mamba.open(place)
        with pytest.raises(NotAuthenticated, match="not known"):
            mamba.open(place, token="wrong")
        with mamba.open(place, token="right") as log:
            assert log.topics() == []
            assert "right" not in repr(log._store.__dict__)
        monkeypatch.setenv("MAMBA_STREAM_TOKEN", "right")
        with mamba.open(place) as log, mamba.Producer(place) as producer:
            producer.create_topic("t")
            assert log.topics() == ["t"]
    finally:
        service.shutdown()
        store.release()


def test_nobody_asks_at_a_directory(tmp_path: Path):
    with pytest.raises(InvalidInput, match="are for servers"):
        mamba.open(tmp_path / "log", token="x")
    with mamba.open(tmp_path / "log") as log, pytest.raises(InvalidInput, match="open already: token"):
        mamba.open(log, token="x")
