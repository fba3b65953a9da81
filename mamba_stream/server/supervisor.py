"""Keeps a listener alive: starts it, starts it again when it dies or grows too large, and ends it in order."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from mamba_stream.core.clock import Clock
from mamba_stream.core.sizes import Size
from mamba_stream.errors import LogUnavailable, MambaStreamError
from mamba_stream.server.child import Child, Serve
from mamba_stream.server.orders import Figures, Orders, Said

_LOOK: Final = 0.1
"""Seconds between looks at a listener's memory."""
_COUNT: Final = 5.0
"""Seconds between questions what a listener did, so that little is forgotten when it is killed."""
_START: Final = 60.0
"""Seconds that a listener may take to begin."""
_PAUSES: Final = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between a death and the next start, the longer the more of them come one upon the other."""
_LAST: Final = 5.0
"""Seconds that a process may take to end once it says nothing more."""
_LONG_LIFE: Final = 30.0
"""Seconds after which a death does not come upon the one before."""

Log = Callable[..., Any]
"""Takes down an event: weight, name, and facts as keywords."""


class Supervisor:
    """Keeps one listener at one address.

    One thread starts and watches it, for a listener ends with the thread that started it.
    """

    def __init__(
        self,
        command: Sequence[str],
        make: Callable[[], Orders],
        serve: Serve,
        *,
        drain: float,
        clock: Clock,
        log: Log,
    ) -> None:
        """Prepares; nothing is started yet.

        Args:
            command: What to run.
            make: Gives a listener's orders, with certificates as they are now.
            serve: Takes the socket over which a listener has the index written.
            drain: Seconds that calls in flight may take to finish when a listener makes room for another.
            clock: Tells the time.
            log: Takes down what happens.
        """
        self._command = command
        self._make = make
        self._serve = serve
        self._drain = drain
        self._clock = clock
        self._log = log
        self._orders = make()
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._coming: Child | None = None
        self._leaving: list[Child] = []
        self._before = Figures()
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._started: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._ended = threading.Event()
        self._deaths = 0
        self._cut = 0
        self.restarts: Counter[str] = Counter()
        """How often a listener was started again, by reason."""

    def start(self) -> int:
        """Starts the listener, and waits until it answers; the port.

        Raises:
            LogUnavailable: It cannot be started.
        """
        threading.Thread(target=self._run, name="supervisor", daemon=True).start()
        if (reason := self._started.get()) is not None:
            raise LogUnavailable(reason)
        return self._orders.port

    @property
    def over(self) -> bool:
        """Whether it is at an end, and nothing is started any more."""
        return self._ended.is_set()

    @property
    def child(self) -> Child | None:
        """The listener that answers now; ``None`` while there is none."""
        return self._child

    @property
    def orders(self) -> Orders:
        """What the listener was told."""
        return self._orders

    def figures(self, timeout: float) -> Figures:
        """What all listeners did together since the start."""
        child = self._child
        now = child.figures(timeout)[0] if child is not None else Figures()
        with self._lock:
            # Where it died meanwhile, it is among those before.
            return self._before if child is not self._child else now.after(self._before)

    def reload(self) -> None:
        """Takes users and certificates as they are now. Returns at once.

        New certificates take a new listener: the old one lets the address go to it, and finishes its calls.
        """
        self._tasks.put(self._reload)

    def drain(self, timeout: float) -> None:
        """Lets calls in flight finish, takes no new ones, and ends the listener. Returns at once."""
        self._ending.set()
        for child in self._all():
            child.leave(timeout)

    def wait_over(self, timeout: float) -> bool:
        """Waits until it is at an end, at most so many seconds; whether it is."""
        return self._ended.wait(timeout)

    @property
    def cut(self) -> int:
        """How many calls were cut off by the end of listeners that left."""
        return self._cut

    def stop(self) -> None:
        """Ends the listener now, whatever it does."""
        self._ending.set()
        for child in self._all():
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        self._ended.wait(_START)

    def _all(self) -> list[Child]:
        with self._lock:
            return [*self._leaving, *(each for each in (self._child, self._coming) if each is not None)]

    def _spawn(self) -> Child:
        child = Child(self._command, self._orders, self._report, self._serve)
        with self._lock:
            self._coming = child
        return child

    def _run(self) -> None:
        try:
            failed = self._begin()
            self._started.put(failed)
            if failed is None:
                self._watch()
        except Exception as error:  # noqa: BLE001 - told to whoever started it, and to the record
            self._log("error", "supervisor failed", reason=repr(error), exc_info=True)
            self._started.put(f"the listener cannot be started: {error}")
        finally:
            self._ended.set()

    def _begin(self) -> str | None:
        """Starts a listener; why not."""
        child = self._spawn()
        if child.wait_prepared(_START):
            child.listen()
            if child.wait_ready(_START):
                assert child.port is not None
                # Another, later, takes the same port.
                self._orders = msgspec.structs.replace(self._orders, port=child.port)
                self._install(child)
                return None
        # Where it failed, it ends by itself, and what it wrote was passed on.
        over = child.over
        code = child.wait(_LAST if over else 0.0)
        child.kill()
        if not (over or child.failed):
            return f"the listener did not answer within {_START:.0f} s: is this machine too busy?"
        return child.failed or f"the listener ended before it answered, with {_ending(code)}"

    def _install(self, child: Child) -> None:
        with self._lock:
            self._child, self._coming = child, None
        self._log("info", "listener started", pid=child.pid, port=child.port)
        if self._ending.is_set():
            # The wish to end came while it was being started.
            child.leave(0.0)

    def _watch(self) -> None:
        born = asked = self._clock.monotonic()
        while not (self._ending.is_set() and self._child is None and not self._leaving):
            with contextlib.suppress(queue.Empty):
                self._tasks.get_nowait()()
            self._see_off()
            child = self._child
            if child is None:
                born = self._again()
                continue
            if self._clock.monotonic() - asked > _COUNT:
                asked = self._clock.monotonic()
                child.figures(0.0)
            code = child.wait(_LOOK)
            reason = None if code is None else "died"
            if code is None and child.memory > self._orders.memory:
                reason = "memory"
                used = Size(child.memory)
                child.kill()
                code = -signal.SIGKILL
                self._log("error", "listener too large", used=used, limit=Size(self._orders.memory))
            if reason is None:
                continue
            self._lose(child)
            if not self._ending.is_set():
                if self._clock.monotonic() - born > _LONG_LIFE:
                    self._deaths = 0
                self.restarts[reason] += 1
                self._log("error", "listener ended", pid=child.pid, cause=reason, exit=_ending(code))

    def _again(self) -> float:
        """Starts a listener where there is none, after a pause; when that was."""
        pause = _PAUSES[min(self._deaths, len(_PAUSES) - 1)]
        self._deaths += 1
        if not self._ending.wait(pause):
            with contextlib.suppress(MambaStreamError):
                self._refresh()
            if (reason := self._begin()) is not None:
                self._log("error", "listener not started", reason=reason)
        return self._clock.monotonic()

    def _lose(self, child: Child) -> None:
        with self._lock:
            # What it did since it last said so is not known.
            self._before = child.figures(0.0)[0].after(self._before)
            self._child = None
            self._cut += child.left or 0

    def _see_off(self) -> None:
        """Forgets the listeners that left."""
        for child in list(self._leaving):
            if child.wait(0.0) is not None:
                with self._lock:
                    self._leaving.remove(child)
                    self._before = child.figures(0.0)[0].after(self._before)
                    self._cut += child.left or 0
                self._log("info", "listener left", pid=child.pid, cut=child.left)

    def _refresh(self) -> bool:
        """Takes the certificates as they are now; whether they are others."""
        made = msgspec.structs.replace(self._make(), port=self._orders.port, probe=self._orders.probe)
        changed = made != self._orders
        self._orders = made
        return changed

    def _reload(self) -> None:
        before = self._orders
        try:
            changed = self._refresh()
        except MambaStreamError as error:
            self._log("error", "not reloaded", reason=str(error))
            return
        old = self._child
        if old is None:
            return
        if not changed:
            old.reload()
            return
        new = self._spawn()
        if not new.wait_prepared(_START):
            self._log("error", "not reloaded", reason=new.failed or "the listener did not begin")
            self._orders = before
            new.kill()
            return
        old.leave(self._drain, hand_over=True)
        old.wait_let_go(_START)
        with self._lock:
            self._leaving.append(old)
            self._child = None
        new.listen()
        if new.wait_ready(_START):
            self._install(new)
            self._log("info", "certificates reloaded", pid=new.pid)
        else:
            self._log("error", "not reloaded", reason=new.failed or "the listener did not answer")
            self._orders = before
            new.kill()

    def _report(self, said: Said) -> None:
        self._log(said.level, said.event, **said.facts)


def _ending(code: int | None) -> str:
    if code is None:
        return "no exit code yet"
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
