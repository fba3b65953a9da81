"""What the listener's process asks of whatever answers calls in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mamba_stream.server.orders import Figures, Orders

Say = Callable[[str, str, Mapping[str, Any]], None]
"""Takes down an event: its weight, its name, and facts of it."""


class Listener(Protocol):
    """Answers calls at an address. Made with the log open; it takes the address when it is told to."""

    def listen(self) -> int:
        """Takes the address and answers calls; the port.

        Raises:
            MambaStreamError: That cannot be, and trying again changes nothing.
        """
        ...

    def figures(self) -> Figures:
        """What it did since it began."""
        ...

    def reload(self) -> None:
        """Reads again who may do what.

        Raises:
            MambaStreamError: It cannot; what was known stays in force.
        """
        ...

    def let_go(self) -> None:
        """Frees the address at once, and lets calls in flight go on."""
        ...

    def finish(self, timeout: float) -> int:
        """Lets no new calls in, and waits for those in flight, at most so many seconds; how many are left."""
        ...

    def close(self) -> None:
        """Ends all that is left."""
        ...


Prepare = Callable[[Orders, Say], Listener]
"""Opens the log and makes a listener."""
