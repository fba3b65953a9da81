"""How much memory a job may use."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from mamba_stream.errors import InvalidInput

DEFAULT_SHARE: Final = 0.6
_UNITS: Final = {"": 1, "B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_limit(memory: str | float | None) -> int:
    """The limit in bytes.

    Args:
        memory: ``"2GB"``, a number of bytes, a share of the machine's memory (a float up to 1.0), or ``None`` for
            0.6 of what the machine, or the cgroup that this process is in, gives.
    """
    if memory is None:
        memory = DEFAULT_SHARE
    if isinstance(memory, float) and 0 < memory <= 1:
        return int(_available() * memory)
    if isinstance(memory, int) and not isinstance(memory, bool) and memory > 1:
        return memory
    if isinstance(memory, str) and (found := _SIZE.fullmatch(memory)):
        number, unit = found.groups()
        if unit.upper() in _UNITS and float(number) > 0:
            return int(float(number) * _UNITS[unit.upper()])
    raise InvalidInput(f"memory={memory!r}: give '2GB', bytes, or a share of the machine such as 0.5")


def in_words(size: float) -> str:
    """A size as people read it."""
    for unit in ("B", "KB", "MB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GB"


def _available() -> int:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_cgroup_limit(Path(path)) for path in _CGROUPS]
    return min([machine, *(limit for limit in limits if limit)])


def _cgroup_limit(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) > 0 else None
