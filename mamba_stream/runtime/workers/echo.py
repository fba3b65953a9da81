"""What the processes of workers print: passed on line by line, and the last of it kept, for when one dies."""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import threading
from collections import deque
from typing import IO, Final

_ONCE: Final = 1 << 16
_LONGEST: Final = 1 << 14
"""Bytes of a line; what is longer comes in pieces."""
_KEPT: Final = 12
_SHOWN: Final = 1_500


class Echo:
    """Reads what a process prints until it is closed there, in a thread of its own."""

    def __init__(self, name: str, out: IO[bytes], errors: IO[bytes]) -> None:
        """Begins.

        Args:
            name: What each line begins with.
            out: The process's standard output, which goes to ours.
            errors: Its standard error, which goes to ours.
        """
        self._prefix = f"[{name}] "
        self._pipes = (out, errors)
        self._last: deque[str] = deque(maxlen=_KEPT)
        self._left = {out: b"", errors: b""}
        self._stopped, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._listen, name=f"mamba-stream {name}: echo", daemon=True)
        self._thread.start()

    @property
    def last(self) -> str:
        """The last lines of its standard error."""
        return "\n".join(self._last)[-_SHOWN:]

    def end(self, timeout: float) -> None:
        """The process has ended: waits until all is read. What its own children say does not count any more."""
        self._thread.join(timeout)
        os.write(self._stop, b"\0")
        self._thread.join(timeout)
        for descriptor in (self._stop, self._stopped):
            os.close(descriptor)

    def _listen(self) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(self._stopped, selectors.EVENT_READ)
            for pipe in self._pipes:
                ready.register(pipe, selectors.EVENT_READ)
            while len(ready.get_map()) > 1:
                for key, _ in ready.select():
                    if key.fd == self._stopped:
                        return
                    assert not isinstance(key.fileobj, int)
                    if not self._read(key.fileobj):  # type: ignore[arg-type]
                        ready.unregister(key.fileobj)

    def _read(self, pipe: IO[bytes]) -> bool:
        data = os.read(pipe.fileno(), _ONCE)
        *lines, rest = (self._left[pipe] + data).split(b"\n")
        if rest and (not data or len(rest) > _LONGEST):
            lines.append(rest)
            rest = b""
        self._left[pipe] = rest
        self._tell(pipe, [line.decode(errors="replace") for line in lines])
        return bool(data)

    def _tell(self, pipe: IO[bytes], lines: list[str]) -> None:
        ours = sys.stdout if pipe is self._pipes[0] else sys.stderr
        if pipe is self._pipes[1]:
            self._last.extend(line for line in lines if line.strip())
        # Whoever has closed it does not want to hear of it.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            ours.write("".join(f"{self._prefix}{line}\n" for line in lines))
            ours.flush()
