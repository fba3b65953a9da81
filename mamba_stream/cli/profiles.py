"""Profiles: logs that have a name in ``mamba-stream.toml``, each with what it takes to be let in there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from mamba_stream.core.names import did_you_mean
from mamba_stream.core.settings import FILE, Gathered, Section, read_file, table_of, unreadable
from mamba_stream.errors import InvalidInput, NotFound

VARIABLE = "MAMBA_STREAM_PROFILE"


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A log, and how to be let in.

    Attributes:
        log: A directory, relative to the file's, or a server's address.
        token: Who one is there.
        token_file: The file that holds it instead.
        ca: Who signed the server's certificate, in PEM; the machine's authorities where left out.
        certificate: The client's own certificate, where the server asks for one.
        key: Its key.
    """

    log: str | None = None
    token: str | None = None
    token_file: Path | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __repr__(self) -> str:
        return f"Profile(log={self.log!r}, ca={self.ca!r})"

    def environment(self) -> dict[str, str | None]:
        """The variables that say the same, by their names; ``None`` for one that must not be set.

        Raises:
            InvalidInput: The token's file cannot be read, or is empty.
        """
        return {
            "MAMBA_STREAM_LOG": self.log,
            "MAMBA_STREAM_TOKEN": self._token(),
            "MAMBA_STREAM_CA": None if self.ca is None else str(self.ca),
            "MAMBA_STREAM_CERTIFICATE": None if self.certificate is None else str(self.certificate),
            "MAMBA_STREAM_KEY": None if self.key is None else str(self.key),
        }

    def problems(self) -> Iterator[str]:
        """What does not go together, in words."""
        if self.token is not None and self.token_file is not None:
            yield "has token and token_file: give one of them"
        if (self.certificate is None) != (self.key is None):
            has, lacks = ("certificate", "key") if self.certificate else ("key", "certificate")
            yield f"has {has} and no {lacks}: give both, or neither"

    def unreadable(self) -> Iterator[str]:
        """Files that it names and that cannot be read, in words."""
        return unreadable(self, ("token_file", "ca", "certificate", "key"))

    def _token(self) -> str | None:
        if self.token_file is None:
            return self.token
        try:
            text = self.token_file.read_text().strip()
        except OSError as error:
            raise InvalidInput(f"token_file {self.token_file} cannot be read: {error.strerror}") from error
        if not text:
            raise InvalidInput(f"token_file {self.token_file} is empty: it shall hold the token")
        return text


SECRET = frozenset({"token"})
"""What is never shown."""


def gather(path: Path, settings: Mapping[str, Any]) -> dict[str, Gathered[Profile]]:
    """The profiles of a file of settings, right or wrong."""
    found = {}
    for name, table in table_of(path, settings, "profiles").items():
        if not isinstance(table, Mapping):
            raise InvalidInput(f"{path}: profiles.{name} must be a table: [profiles.{name}]")
        gathered = Section(Profile, f"profiles.{name}", secret=SECRET).gather(path, table)
        problems = list(gathered.problems)
        if not gathered.values.log and "log" not in table:
            problems.append(f"{path}: [profiles.{name}] has no log: say where it is")
        problems += [f"{path}: [profiles.{name}] {problem}" for problem in gathered.values.problems()]
        found[name] = Gathered(_placed(gathered.values, path.parent), gathered.sources, tuple(problems))
    return found


def load_profile(name: str, path: Path | None = None) -> Profile:
    """The profile of this name.

    Raises:
        NotFound: There is none.
        InvalidInput: Something is wrong with it.
    """
    path = path or Path(FILE).absolute()
    found = gather(path, read_file(path))
    if name not in found:
        there = ", ".join(sorted(found)) or "none"
        raise NotFound(f"{path} has no profile {name!r}{did_you_mean(name, found)}; it has {there}")
    return found[name].checked()


@contextlib.contextmanager
def as_said_by(profile: Profile) -> Iterator[None]:
    """Lets the environment of this process say what the profile says, and nothing that is meant for another log."""
    said = profile.environment()
    before = {name: os.environ.get(name) for name in said}
    _set(said)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _placed(profile: Profile, parent: Path) -> Profile:
    """With a directory as the file means it: relative to its own."""
    log = profile.log
    if log is None or "://" in log or (":" in log and os.sep not in log):
        return profile
    return msgspec.structs.replace(profile, log=str(parent / log))
