"""The machine that this process runs on."""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path
from typing import Final

_LINUX: Final = Path("/proc/sys/kernel/random/boot_id")


@functools.cache
def boot() -> str:
    """A name for the time since the machine was last started: another one after each start, letters and digits only.

    Linux gives each start a random number (random(4)), and macOS too; what a container sees is its host's.

    >>> boot() == boot() and boot().isalnum()
    True
    """
    if _LINUX.exists():
        found = _LINUX.read_text()
    else:
        found = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=True
        ).stdout
    return re.sub(r"[^0-9A-Za-z]", "", found).lower()
