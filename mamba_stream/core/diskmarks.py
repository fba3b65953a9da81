"""How full the disk of a log may become before it takes no more rows, and what it keeps to be able to delete."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from mamba_stream.core.names import did_you_mean
from mamba_stream.core.settings import FILE, OFF, Section, read_file, table_of
from mamba_stream.core.sizes import BallastSize, Share, Size
from mamba_stream.errors import InvalidInput


class DiskMarks(msgspec.Struct, frozen=True, kw_only=True):
    """The marks of a disk, as shares of it that are used.

    A disk that is larger than ``largest`` counts as one of that size, so that of a large one as much has to be free as
    upkeep needs, and no more.

    Attributes:
        soft: From here on no rows are taken; ``None``: until there is no room.
        hard: From here on nothing is taken that makes the index larger, and upkeep only deletes; ``None``: likewise.
        largest: What a disk counts as at most, in bytes.
        ballast: Bytes of a file that goes when there is no room to delete.

    Raises:
        InvalidInput: The marks are out of order.

    Example:
        >>> marks = DiskMarks(soft=Share(0.9), hard=Share(0.95), largest=Size(20 << 30))
        >>> marks.kept(marks.soft, 4 << 40) == 2 << 30  # of 4 TiB
        True
    """

    soft: Share | None = Share(0.90)
    hard: Share | None = Share(0.95)
    largest: Size = Size(20 << 30)
    ballast: BallastSize = BallastSize.AUTO

    def __post_init__(self) -> None:
        if self.soft is not None and self.hard is not None and self.soft > self.hard:
            raise InvalidInput(
                f"soft = {self.soft} lies above hard = {self.hard}: rows are refused first, then what makes the index "
                "larger; give a hard mark that is no lower, or off"
            )

    def kept(self, mark: Share | None, size: int) -> int:
        """How many bytes a mark wants to be free on a disk of this size; 0 where there is no mark."""
        return 0 if mark is None else round((1 - mark) * min(size, self.largest))


DISK: Final = Section(DiskMarks, "disk", "MAMBA_STREAM_DISK_")


def disk_marks(environment: Mapping[str, str] | None = None) -> DiskMarks:
    """What the environment says, else ``[disk]`` of ``mamba-stream.toml`` in the working directory.

    Raises:
        InvalidInput: Something is wrong with it.
    """
    path = Path(FILE).absolute()
    table = table_of(path, read_file(path), DISK.name)
    return DISK.gather(path, table, os.environ if environment is None else environment).checked()


def marks_with(given: Mapping[str, Any], marks: DiskMarks) -> DiskMarks:
    """The marks with what a program gives, by the names of the settings.

    Raises:
        InvalidInput: There is no such setting, or it cannot be that.

    Example:
        >>> str(marks_with({"soft": "80%", "hard": None}, DiskMarks()).soft)
        '80%'
    """
    if not isinstance(given, Mapping):
        raise InvalidInput(f"disk={given!r:.80}: give a dict of {', '.join(DISK.keys)}")
    read = {}
    for key, value in given.items():
        if key not in DISK.keys:
            guess = did_you_mean(str(key), DISK.keys)
            raise InvalidInput(f"disk: {key!r:.80} is no setting{guess}; there are {', '.join(DISK.keys)}")
        try:
            read[key] = DISK.read(key, OFF if value is None else value)
        except InvalidInput as error:
            raise InvalidInput(f"disk: {key}={value!r:.80}: {error}") from None
    return msgspec.structs.replace(marks, **read)


def told_of(marks: DiskMarks) -> dict[str, str | None]:
    """The marks as :func:`marks_with` takes them, and as the file of settings would say them.

    Example:
        >>> told_of(DiskMarks(soft=None))
        {'soft': None, 'hard': '95%', 'largest': '20GiB', 'ballast': 'auto'}
    """
    values = {key: getattr(marks, key) for key in DISK.keys}
    return {key: None if value is None else str(value) for key, value in values.items()}
