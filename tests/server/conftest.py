"""What the tests of the server share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mamba_stream.log import Log, open_log
from mamba_stream.server.access import Entry
from mamba_stream.server.gate import Caller
from mamba_stream.server.guard import Guard
from mamba_stream.server.userfile import change_users
from mamba_stream.server.users import User, new_token


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with open_log(tmp_path / "log") as opened:
        yield opened


@pytest.fixture
def users_file(tmp_path: Path) -> Path:
    return tmp_path / "users.json"


@pytest.fixture
def as_user(users_file: Path) -> Callable[..., tuple[Guard, Caller]]:
    """Makes a user with these entries (``allow read topic orders.*``), and lets him in."""

    def enter(name: str, *lines: str) -> tuple[Guard, Caller]:
        entries = []
        for line in lines:
            effect, operations, kind, *name_ = line.split(" ")
            entries.append(Entry(effect, tuple(operations.split(",")), kind, *name_))
        text, token = new_token(1_700_000_000_000_000)

        def change(users: dict[str, User]) -> None:
            users[name] = User(name, (token,), access=tuple(entries))

        change_users(users_file, change)
        guard = Guard(users_file)
        return guard, guard.admit({"authorization": [f"Bearer {text}"]}, "ipv4:127.0.0.1:5000", "")

    return enter
