"""Where backups are kept: names with bytes, in a directory or an object store. What has a name is whole."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from mamba_stream.errors import InvalidInput, MissingExtra
from mamba_stream.log import directory

_PIECE: Final = 8 << 20
_FRESH: Final = ".new-"


class Vault(Protocol):
    """Keeps bytes under names, which have a slash in them: a kind of thing, and which one."""

    @property
    def place(self) -> str:
        """Where it is, in words."""
        ...

    def names(self, kind: str) -> dict[str, int]:
        """The names of a kind, each with how many bytes it has."""
        ...

    def put(self, name: str, pieces: Iterable[bytes]) -> None:
        """Keeps these bytes under a name: all of them, durably, or there is no such name."""
        ...

    def read(self, name: str) -> Iterator[bytes]:
        """The bytes of a name, in pieces.

        Raises:
            FileNotFoundError: There is no such name.
        """
        ...

    def remove(self, name: str) -> None:
        """Forgets a name, if there is one."""
        ...


class DirectoryVault:
    """A directory of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def place(self) -> str:
        return str(self.path)

    def names(self, kind: str) -> dict[str, int]:
        where = self.path / kind
        if not where.is_dir():
            return {}
        with os.scandir(where) as items:
            return {f"{kind}/{i.name}": i.stat().st_size for i in items if not i.name.startswith(_FRESH)}

    def put(self, name: str, pieces: Iterable[bytes]) -> None:
        place = self.path / name
        if not place.parent.is_dir():
            place.parent.mkdir(parents=True, exist_ok=True)
            directory.sync(self.path)
        fresh = place.parent / f"{_FRESH}{secrets.token_hex(8)}"
        try:
            with fresh.open("wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.rename(fresh, place)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        directory.sync(place.parent)

    def read(self, name: str) -> Iterator[bytes]:
        with (self.path / name).open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes what was half written by whoever was killed, and makes durable what was whole."""
        for half in self.path.glob(f"*/{_FRESH}*"):
            half.unlink(missing_ok=True)
        for kind in self.path.iterdir():
            if kind.is_dir():
                directory.sync(kind)


class ObjectVault:
    """A store of objects, through ``obstore``."""

    def __init__(self, store: Any, place: str) -> None:
        self._store = store
        self._obstore = _obstore()
        self.place = place

    def names(self, kind: str) -> dict[str, int]:
        listed = self._obstore.list(self._store, prefix=kind)
        return {item["path"]: item["size"] for items in listed for item in items}

    def put(self, name: str, pieces: Iterable[bytes]) -> None:
        self._obstore.put(self._store, name, iter(pieces))

    def read(self, name: str) -> Iterator[bytes]:
        for piece in self._obstore.get(self._store, name).stream(min_chunk_size=_PIECE):
            yield bytes(piece)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._obstore.delete(self._store, name)


def vault_of(target: object) -> Vault:
    """What keeps backups at a directory, an address such as ``s3://bucket/logs``, or in an object store of ``obstore``.

    Raises:
        InvalidInput: It is none of these.
        MissingExtra: It takes an object store, and ``obstore`` is not installed.
    """
    if isinstance(target, str) and "://" in target and not target.startswith("file://"):
        try:
            store = _obstore().store.from_url(target)
        except (ValueError, TypeError) as error:
            raise InvalidInput(f"{target}: no object store can be reached there: {error}") from error
        return ObjectVault(store, target)
    if isinstance(target, str | os.PathLike):
        text = os.fspath(target).removeprefix("file://")
        if not text or "\0" in text:
            raise InvalidInput(f"{target!r} names no directory for backups")
        return DirectoryVault(Path(text).absolute())
    if type(target).__module__.startswith("obstore"):
        return ObjectVault(target, repr(target))
    raise InvalidInput(
        f"{target!r:.80}: give a directory, an address such as s3://bucket/logs, or a store of obstore"
    )


def _obstore() -> Any:
    try:
        import obstore
        import obstore.store
    except ImportError as error:
        raise MissingExtra(
            "backups in an object store take obstore: pip install 'mamba-stream[backup]'"
        ) from error
    return obstore
