"""The file of users, JSON: read by the server, written by the command, one change at a time and whole or not at all.

The file holds no secrets, only hashes of random tokens. Whoever can write it can be anybody, though, so that one which
others than its owner may write is refused.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from mamba_stream.core.names import did_you_mean
from mamba_stream.core.settings import FILE, read_file, table_of
from mamba_stream.errors import AlreadyExists, InvalidInput, NotFound
from mamba_stream.server.settings import SERVER
from mamba_stream.server.users import Roster, User

VARIABLE: Final = SERVER.variable("users")
VERSION: Final = 1


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    users: tuple[User, ...] = ()


_decoder = msgspec.json.Decoder(_File)


def find_users_file(path: str | Path | None, environment: Mapping[str, str] | None = None) -> Path | None:
    """Where the file of users is; ``None`` where nothing says so.

    As given, else ``$MAMBA_STREAM_SERVER_USERS``, else ``users`` of ``[server]`` in ``mamba-stream.toml``.

    Raises:
        InvalidInput: ``mamba-stream.toml`` cannot be read, or says something else than a path.
    """
    shown = os.environ if environment is None else environment
    if path or shown.get(VARIABLE):
        found: Path | None = SERVER.read("users", path or shown[VARIABLE])
        return found
    config = Path(FILE).absolute()
    given = table_of(config, read_file(config), SERVER.name).get("users")
    if given is None:
        return None
    try:
        found = SERVER.read("users", given)
    except InvalidInput as error:
        raise InvalidInput(f"{config}: [server] users = {given!r:.80}: {error}") from error
    return None if found is None else config.parent / found


def read_users(path: Path) -> Roster:
    """The users in a file.

    Raises:
        InvalidInput: It is not there, others may write it, or it says what cannot be; the message says where.
    """
    try:
        # Of the file that is read, not of what has its name a moment later.
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read()
    except OSError as error:
        raise InvalidInput(f"the users file {path}: {error.strerror}") from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidInput(
            f"the users file {path} may be written by others than its owner, who could make themselves anybody: "
            f"chmod 600 {path}"
        )
    try:
        found = _decoder.decode(content)
        if found.version != VERSION:
            raise InvalidInput(f"version {found.version} is not known here, only {VERSION}")
        return Roster(found.users)
    except (msgspec.MsgspecError, InvalidInput, UnicodeDecodeError) as error:
        raise InvalidInput(f"the users file {path}: {error}") from error


def change_users(path: Path, change: Callable[[dict[str, User]], None]) -> None:
    """Changes the file of users, which is made where it is missing; it is replaced whole.

    Args:
        path: The file.
        change: Changes the users, by name; where it raises, the file stays as it is.

    Raises:
        InvalidInput: The file cannot be read or written, or would say what cannot be.
    """
    path = path.resolve()
    try:
        with _only_one(path):
            users = dict(read_users(path).users) if path.exists() else {}
            change(users)
            Roster(users.values())
            _replace(path, msgspec.json.format(msgspec.json.encode(_File(VERSION, tuple(users.values())))))
    except OSError as error:
        raise InvalidInput(f"the users file {path}: {error.strerror}") from error


def user_of(users: Mapping[str, User], name: str) -> User:
    """The user of this name.

    Raises:
        NotFound: There is none.
    """
    if name not in users:
        raise NotFound(
            f"no user {name!r:.80}{did_you_mean(name, users)}; "
            + (
                f"there are {', '.join(sorted(users)[:8])}{' …' if len(users) > 8 else ''}"
                if users
                else "there is none"
            )
        )
    return users[name]


def add_user(users: dict[str, User], user: User) -> None:
    """Adds a user.

    Raises:
        AlreadyExists: There is one of this name.
    """
    if user.name in users:
        raise AlreadyExists(
            f"there is a user {user.name!r}: mamba-stream user token new {user.name} makes a token"
        )
    users[user.name] = user


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """One change at a time; the file itself cannot be locked, since it is replaced."""
    fd = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(fd, "wb") as file:  # noqa: PTH123 (the descriptor has the mode)
            with suppress(FileNotFoundError, PermissionError):
                # Where root changes it, the server's user must still be able to read it.
                owner = path.stat()
                os.fchown(fd, owner.st_uid, owner.st_gid)
            file.write(content + b"\n")
            file.flush()
            os.fsync(fd)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
