"""Locks by name: one has it, and who only looks is in nobody's way."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from mamba_stream.errors import LogUnavailable
from mamba_stream.log import locks

pytestmark = pytest.mark.embedded


def test_one_has_it_and_is_named_until_it_lets_go(tmp_path: Path) -> None:
    held = locks.take(tmp_path, "space", "name", "me")
    assert held is not None
    assert locks.take(tmp_path, "space", "name", "you") is None
    assert locks.holder(tmp_path, "space", "name") == "me"
    held.release()
    held.release()
    assert locks.holder(tmp_path, "space", "name") is None
    assert locks.holder(tmp_path, "space", "other") is None


def test_nobody_is_refused_for_somebody_who_looks(tmp_path: Path) -> None:
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            assert locks.holder(tmp_path, "space", "name") in (None, "me", "another process")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(1_000):
            held = locks.take(tmp_path, "space", "name", "me")
            assert held is not None
            held.release()
    finally:
        over.set()
        thread.join()


def test_who_looks_and_never_ends_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stopped while it looked."""
    monkeypatch.setattr(locks, "_LOOKS", 3)
    taken = locks.take(tmp_path, "space", "name", "me")
    assert taken is not None
    taken.release()
    looking = os.open(tmp_path / "space" / "name.lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    assert locks.take(tmp_path, "space", "name", "me") is None
    os.close(looking)
    again = locks.take(tmp_path, "space", "name", "me")
    assert again is not None
    again.release()


def test_what_cannot_be_looked_at_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = locks.take(tmp_path, "space", "name", "me")
    assert taken is not None

    def none_left(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Path, "open", none_left)
    with pytest.raises(LogUnavailable, match="Too many open files"):
        locks.holder(tmp_path, "space", "name")
    taken.release()
