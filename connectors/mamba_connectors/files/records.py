"""Bytes of a text file cut at the ends of records, so that reading can go on at any of them.

A record ends with a line feed that lies outside quotes. Whether it does is a matter of how many quotes came before,
which NumPy counts for a whole block at once; it holds for what keeps to RFC 4180, where a quote in a field is doubled.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa

from mamba_stream.errors import ConnectorFailed

_BLOCK: Final = 1 << 20
_LONGEST: Final = 64 << 20
_LINE_FEED, _QUOTE = 10, 34


def open_bytes(path: Path, offset: int) -> IO[bytes]:
    """The file's bytes from an offset on; of a packed one, of what it unpacks to, which has to be read up to there."""
    file = pa.OSFile(str(path))
    stream: Any = file
    match path.suffix:
        case ".gz":
            stream = gzip.GzipFile(fileobj=file, mode="rb")
        case ".bz2":
            stream = bz2.BZ2File(file)
        case ".xz":
            stream = lzma.LZMAFile(file)  # noqa: SIM115 - the caller closes it
        case ".zst":
            stream = pa.CompressedInputStream(file, "zstd")
    if path.suffix == ".zst":  # Arrow's stream cannot seek
        left = offset
        while left and (block := stream.read(min(left, _BLOCK))):
            left -= len(block)
    else:
        stream.seek(offset)
    return stream  # type: ignore[no-any-return]  # Arrow's and the library's have no common type


class Records:
    """The records of a file from an offset on."""

    def __init__(self, path: Path, offset: int, *, quoted: bool) -> None:
        """Opens the file.

        Args:
            path: The file.
            offset: The first byte of a record.
            quoted: Whether line feeds in quotes are part of a record.
        """
        self.offset = offset
        self._path = path
        self._quoted = quoted
        self._stream = open_bytes(path, offset)
        self._data = b""
        self._ends = np.empty(0, dtype=np.int64)
        self._taken = 0
        self._over = False
        self._fill()

    @property
    def at_end(self) -> bool:
        """Whether all records were taken."""
        return self._over and self._taken >= len(self._ends)

    def take(self, most: int) -> bytes:
        """The next records, whole; ``offset`` is behind them then. Nothing, at the end."""
        if self._taken >= len(self._ends):
            return b""
        first = int(self._ends[self._taken - 1]) if self._taken else 0
        self._taken = min(self._taken + most, len(self._ends))
        last = int(self._ends[self._taken - 1])
        taken = self._data[first:last]
        self.offset += last - first
        if self._taken >= len(self._ends):
            self._fill()
        return taken

    def close(self) -> None:
        self._stream.close()

    def _fill(self) -> None:
        """Reads on until there is a record, or the end."""
        self._data = self._data[int(self._ends[-1]) if len(self._ends) else 0 :]
        pieces, size = [self._data], len(self._data)
        self._taken, self._ends = 0, np.empty(0, dtype=np.int64)
        while not self._over and not len(self._ends):
            try:
                block = self._stream.read(
                    max(_BLOCK, size)
                )  # doubling: a long record is not scanned again and again
            except (OSError, EOFError, lzma.LZMAError) as error:
                raise ConnectorFailed(
                    f"cannot read file {self._path} behind byte {self.offset}: {error}"
                ) from error
            self._over = not block
            pieces.append(block)
            size += len(block)
            self._data = b"".join(pieces)
            pieces = [self._data]
            self._ends = self._ends_of_records()
            if size > _LONGEST and not len(self._ends):
                raise ConnectorFailed(
                    f"file {self._path}: the record at byte {self.offset} is longer than {_LONGEST >> 20} MB"
                    + (": probably a quote is not closed" if self._quoted else "")
                )
        if self._over and self._data[int(self._ends[-1]) if len(self._ends) else 0 :]:
            self._ends = np.append(self._ends, len(self._data))  # the last line may lack its line feed

    def _ends_of_records(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        data = np.frombuffer(self._data, dtype=np.uint8)
        feeds = np.flatnonzero(data == _LINE_FEED)
        if self._quoted:
            quotes = np.flatnonzero(data == _QUOTE)
            feeds = feeds[np.searchsorted(quotes, feeds) % 2 == 0]
        return feeds + 1


def first_that(records: bytes, *, quoted: bool, fails: Any) -> int:
    """Where the first record begins that cannot be read, given that one cannot.

    Args:
        records: Whole records.
        quoted: Whether line feeds in quotes are part of a record.
        fails: Says of some of the records whether one among them cannot be read.
    """
    data = np.frombuffer(records, dtype=np.uint8)
    feeds = np.flatnonzero(data == _LINE_FEED)
    if quoted:
        feeds = feeds[np.searchsorted(np.flatnonzero(data == _QUOTE), feeds) % 2 == 0]
    bounds = [0, *(int(feed) + 1 for feed in feeds)]
    if bounds[-1] < len(records):
        bounds.append(len(records))
    low, high = 0, len(bounds) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if fails(records[bounds[low] : bounds[middle]]):
            high = middle
        else:
            low = middle
    return bounds[low]
