"""Settings from a file, the environment and flags: typed, each with where it came from, and nothing unknown let pass.

What is set later in that order wins. A section is a msgspec struct whose fields have defaults; what is wrong is told
with the file, the key and the variable, all of it at once.
"""

from __future__ import annotations

import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from mamba_stream.core.names import did_you_mean
from mamba_stream.core.sizes import BallastSize, Share, Size, ballast_size, share_of, size_of
from mamba_stream.errors import InvalidInput, MambaStreamError

FILE = "mamba-stream.toml"
"""Looked for in the working directory."""
DEFAULT = "default"
"""The source of what nobody has set."""
OFF = "off"

S = TypeVar("S", bound=msgspec.Struct)


class Address(NamedTuple):
    """A host and a port; port 0 takes any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Seconds(float):
    """A length of time."""

    def __str__(self) -> str:
        return f"{int(self)}s" if self.is_integer() else f"{round(self * 1e6)}us"


@dataclass(frozen=True)
class Gathered(Generic[S]):
    """A section as it is to be used.

    Attributes:
        values: The settings; where one is wrong, its default.
        sources: Where each came from: ``default``, a file, a variable, or a flag.
        problems: What is wrong, in words; empty where all is well.
    """

    values: S
    sources: Mapping[str, str]
    problems: Sequence[str] = ()

    def checked(self) -> S:
        """The settings.

        Raises:
            InvalidInput: Something is wrong with them.
        """
        if self.problems:
            raise InvalidInput("; ".join(self.problems))
        return self.values


@dataclass(frozen=True)
class Section(Generic[S]):
    """Where the settings of one part of the product stand.

    Attributes:
        kind: The struct; each of its fields has a default.
        name: Its table in the file.
        prefix: What the names of its variables begin with; empty where it has none.
        secret: Settings that are never shown, not even where they are wrong.
    """

    kind: type[S]
    name: str
    prefix: str = ""
    secret: frozenset[str] = frozenset()

    @property
    def keys(self) -> list[str]:
        """The names of its settings."""
        return [each.name for each in msgspec.structs.fields(self.kind)]

    def variable(self, key: str) -> str:
        """The environment variable of a setting."""
        return self.prefix + key.upper()

    def read(self, key: str, value: Any) -> Any:
        """The value of a setting from what was written: TOML's value, or text.

        Raises:
            InvalidInput: It cannot be that; the message says what can.
        """
        wanted = typing.get_type_hints(self.kind)[key]
        return _read(wanted, value)

    def gather(
        self,
        path: Path,
        table: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
        flags: Mapping[str, Any] | None = None,
    ) -> Gathered[S]:
        """Puts the section together.

        Args:
            path: The file, for messages; what it says of paths is relative to it.
            table: The section's table in it.
            environment: The variables; none where the section has none.
            flags: What was given on the command line, by key; ``None`` is not given.
        """
        found = _Findings()
        for key, value in table.items():
            where = f"{path}: [{self.name}] {key}"
            if key not in self.keys:
                found.problems.append(
                    f"{where} is no setting{did_you_mean(key, self.keys)}; there are {', '.join(self.keys)}"
                )
            else:
                found.take(self, key, value, where, str(path), path.parent)
        variables = {self.variable(key): key for key in self.keys} if self.prefix else {}
        for name, text in sorted((environment or {}).items()):
            if name in variables:
                found.take(self, variables[name], text, name, name, Path())
            elif self.prefix and name.startswith(self.prefix):
                found.problems.append(
                    f"the environment's {name} is no setting{did_you_mean(name, variables)}"
                )
        for key, value in (flags or {}).items():
            if value is not None:
                flag = f"--{key.replace('_', '-')}"
                found.take(self, key, value, flag, flag, Path())
        sources = dict.fromkeys(self.keys, DEFAULT) | found.sources
        try:
            values = self.kind(**found.values)
        except InvalidInput as error:
            # What does not go together.
            found.problems.append(f"[{self.name}] {error}")
            values = self.kind()
        return Gathered(values, sources, tuple(found.problems))


@dataclass
class _Findings:
    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def take(self, section: Section[Any], key: str, value: Any, where: str, source: str, near: Path) -> None:
        try:
            read = section.read(key, value)
        except MambaStreamError as error:
            variable = f" (the variable is {section.variable(key)})" if section.prefix else ""
            said = "" if key in section.secret else f" = {value!r:.80}"
            self.problems.append(f"{where}{said}: {error}{variable if source != where else ''}")
            return
        self.values[key] = near / read if isinstance(read, Path) else read
        self.sources[key] = source


def read_file(path: Path) -> dict[str, Any]:
    """What a file of settings says; nothing where there is none.

    Raises:
        InvalidInput: It is not TOML, or cannot be read.
    """
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error


def table_of(path: Path, settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A table of a file of settings; an empty one where it has none of that name.

    Raises:
        InvalidInput: It has something else there.
    """
    table = settings.get(name, {})
    if not isinstance(table, Mapping):
        raise InvalidInput(f"{path}: {name} = {table!r:.80} must be a table: [{name}]")
    return table


def unreadable(section: msgspec.Struct, keys: Sequence[str]) -> Iterator[str]:
    """The files that these keys of a section name and that cannot be read, in words."""
    for key in keys:
        path: Path | None = getattr(section, key)
        if path is not None:
            try:
                with path.open("rb"):
                    pass
            except OSError as error:
                yield f"{key}: {path} cannot be read: {error.strerror}"


def shown(value: Any) -> Any:
    """A setting as the file would say it: text, a number, a truth, or ``None``."""
    return value if value is None or isinstance(value, bool | str) or type(value) is int else str(value)


def _read(wanted: Any, value: Any) -> Any:
    if isinstance(wanted, types.UnionType):
        if value in (OFF, ""):
            return None
        (wanted,) = (each for each in typing.get_args(wanted) if each is not type(None))
    if wanted in _READERS:
        return _READERS[wanted](value)
    try:
        return msgspec.convert(value, wanted, strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        if choices := typing.get_args(wanted):
            guess = did_you_mean(str(value), choices)
            raise InvalidInput(f"choose one of {', '.join(choices)}{guess}") from None
        raise InvalidInput(str(error)) from None


def _address(value: Any) -> Address:
    if isinstance(value, Address):
        return value
    host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    bracketed = host.startswith("[") and host.endswith("]")
    # More than one colon, and no brackets, is half of an address of IPv6.
    bare = host[1:-1] if bracketed else host
    if not colon or not bare or (":" in bare and not bracketed) or not port.isascii() or not port.isdecimal():
        raise InvalidInput("give HOST:PORT, as localhost:9092 or [::1]:9092")
    if int(port) > 65_535:
        raise InvalidInput("a port is at most 65535")
    return Address(bare, int(port))


def _seconds(value: Any) -> Seconds:
    from mamba_stream.core.durations import duration_us

    if isinstance(value, Seconds):
        return value
    try:
        return Seconds(duration_us(value, what="it") / 1e6)
    except InvalidInput:
        raise InvalidInput("give a length of time with its unit, as 500ms, 30s or 2m") from None


def _path(value: Any) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise InvalidInput("give the path of a file")
    return Path(value)


_READERS: dict[Any, Callable[[Any], Any]] = {
    Address: _address,
    BallastSize: ballast_size,
    Path: _path,
    Seconds: _seconds,
    Share: share_of,
    Size: size_of,
}
