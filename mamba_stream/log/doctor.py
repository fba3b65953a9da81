"""The doctor: has a whole log examined by a process that may crash, and says what was found."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mamba_stream.errors import NotALog
from mamba_stream.log import directory, files
from mamba_stream.log.examination import ALONE
from mamba_stream.log.findings import Finding

__all__ = ["Finding", "Report", "examine"]

_STRUCTURE = """
import sys
from lmdb.verify import VerifyError, verify
try:
    problems = verify(sys.argv[1])
except VerifyError as error:
    problems = [str(error)]
print("\\n".join(problems))
"""
_VERSION = struct.Struct("=16xII16xI")
"""Where the first page of LMDB 0.9 has a magic number, the version, and the size of pages."""
_META = struct.Struct("=44xH46xH50xQ")
"""Where each of the first two pages has the flags of both databases, and the number of the transaction."""
_FLAGS = [8, 0]
"""Of the list of free pages, whose keys are integers, and of the main database, which is a plain one."""
_MAGIC = 0xBEEFC0DE


@dataclass(frozen=True)
class Report:
    """What an examination found.

    Attributes:
        path: The log's directory.
        findings: Damage first, then loss, then notes.
        counts: How much was looked at: topics, files, batches, rows and bytes.
        structure: Whether the pages of the index were walked too (lmdb 3 or later can).
    """

    path: Path
    findings: tuple[Finding, ...]
    counts: dict[str, int]
    structure: bool

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged or lost."""
        return all(finding.severity == "note" for finding in self.findings)


def examine(path: str | os.PathLike[str], *, alone: bool = False) -> Report:
    """Examines the log in a directory: every checksum, and the index against the files.

    It changes nothing, and may run beside writers; ``alone`` says that the caller keeps everybody else out.

    Raises:
        NotALog: There is no log, nor what is left of one.
    """
    where = Path(path).absolute()
    if not (where / directory.INDEX / "data.mdb").exists():
        return Report(where, (_headless(where),), {}, False)
    structural, walked = _structure(where / directory.INDEX)
    findings = [Finding("damage", f"index pages: {line}") for line in structural]
    counts: dict[str, int] = {}
    done = subprocess.run(
        [sys.executable, "-m", "mamba_stream.log.examination", str(where), *([ALONE] if alone else [])],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    for line in done.stdout.splitlines():
        value = json.loads(line)
        if "counts" in value:
            counts = value["counts"]
        else:
            findings.append(Finding(**value))
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        findings.append(Finding("damage", f"index: reading it failed ({last[0]})"))
    order = {"damage": 0, "loss": 1, "note": 2}
    return Report(where, tuple(sorted(findings, key=lambda f: order[f.severity])), counts, walked)


def _headless(log: Path) -> Finding:
    """What is to be said of a log without an index."""
    held = [name for name in _names(log / directory.FILES) if files.number_of(name) is not None]
    if not held:
        raise NotALog(f"{log} is not a log: there is no {directory.INDEX}/data.mdb in it")
    return Finding(
        "damage",
        f"{directory.INDEX}/data.mdb is missing, and {len(held)} files of the log are there: put it back from a copy, "
        "or have what is sealed put together again with --repair",
    )


def _names(place: Path) -> list[str]:
    return sorted(os.listdir(place)) if place.is_dir() else []


def _structure(index: Path) -> tuple[list[str], bool]:
    """Problems of the index's pages. A writer at work may look like one: so they must show twice."""
    problems: set[str] | None = None
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", _STRUCTURE, str(index)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            return [], False
        seen = (set(done.stdout.split("\n")) - {""}) | set(metas(index))
        problems = seen if problems is None else problems & seen
        if not problems:
            break
    return sorted(problems or ()), True


def metas(index: Path) -> list[str]:
    """What is wrong with the two pages that say where the newest state is, and that a walk over the others misses.

    They are written in turn, and LMDB takes the one of the higher number: what both lead to may be sound.
    """
    with (index / "data.mdb").open("rb") as file:
        data = file.read(2 << 16)
    if len(data) < _META.size:
        return []
    magic, version, size = _VERSION.unpack_from(data)
    if (magic, version) != (_MAGIC, 1) or len(data) < size + _META.size:
        # The walk over the pages has said so.
        return []
    found, numbers = [], []
    for page in range(2):
        *flags, number = _META.unpack_from(data, page * size)
        numbers.append(number)
        if flags != _FLAGS:
            found.append(f"meta page {page} has flags that no log has: {flags}, not {_FLAGS}")
    if abs(numbers[0] - numbers[1]) != 1 and numbers != [0, 0]:
        found.append(f"the meta pages are of transactions {numbers}, which do not follow each other")
    return found
