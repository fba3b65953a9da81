"""The listener's process: bytes from outside are decoded here, under a memory limit, and never beside the index.

Started by the supervisor and led by it over standard input; when that ends, so does this process, whatever it does.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Final

from mamba_stream.errors import MambaStreamError
from mamba_stream.server import orders
from mamba_stream.server.listening import Listener, Prepare, Say
from mamba_stream.server.orders import Sender, ToListener

_STACK: Final = 1 << 20
"""Of a thread, of which every call takes one: they count as memory, used or not."""
_STACKS: Final = 256 << 20
"""For the stacks of threads, beyond the memory that is to be kept to."""
_CALL: Final = _STACK * 5 // 4
"""What a call that only waits reserves: the stack of its thread, and what is around it."""
_DEATH_OF_PARENT: Final = 1
_LONGEST_TRACE: Final = 8_000


def main(prepare: Prepare) -> None:
    """Serves until told to leave, or until nobody is there to say so."""
    _small_stacks()
    _die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # They are for the supervisor, which says here what comes of them.
        signal.signal(number, signal.SIG_IGN)
    out = Sender(orders.own_output())
    pipe = sys.stdin.buffer
    order = orders.receive(pipe, ToListener)
    if not isinstance(order, orders.Orders):
        return

    def say(level: str, event: str, facts: Any) -> None:
        out.send(orders.Said(level, event, dict(facts)))

    _take_down_logs(say)
    try:
        listener = prepare(order, say)
        out.send(orders.Prepared())
        if not isinstance(orders.receive(pipe, ToListener), orders.Listen):
            listener.close()
            return
        port = listener.listen()
    except MambaStreamError as error:
        out.send(orders.Failed(str(error)))
        return
    _limit_memory(order.memory)
    out.send(orders.Ready(port))
    _follow(listener, out, pipe)
    # Nothing here is worth waiting for: what is acknowledged is on disk. Threads in native code would not end.
    sys.stderr.flush()
    os._exit(0)


def _follow(listener: Listener, out: Sender, pipe: Any) -> None:
    while (order := orders.receive(pipe, ToListener)) is not None:
        match order:
            case orders.Count():
                out.send(orders.Counted(order.number, listener.figures()))
            case orders.Reload():
                _reload(listener, out)
            case orders.Leave():
                # Meanwhile the pipe is read: its end, or another order to leave, ends the wait.
                threading.Thread(target=_leave, args=(listener, out, order), daemon=True).start()


class _TakeDown(logging.Handler):
    """Passes on what the engine and libraries log."""

    def __init__(self, say: Say) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        facts = {"name": record.name, "message": record.getMessage()}
        if record.exc_info:
            facts["exception"] = logging.Formatter().formatException(record.exc_info)[-_LONGEST_TRACE:]
        self._say(record.levelname.lower(), "listener told", facts)


def _take_down_logs(say: Say) -> None:
    logging.getLogger().handlers = [_TakeDown(say)]


def _reload(listener: Listener, out: Sender) -> None:
    try:
        listener.reload()
        out.send(orders.Said("info", "users reloaded"))
    except MambaStreamError as error:
        out.send(orders.Said("error", "users not reloaded", {"reason": str(error)}))


def _leave(listener: Listener, out: Sender, order: orders.Leave) -> None:
    if order.hand_over:
        listener.let_go()
        out.send(orders.LetGo())
    left = listener.finish(order.timeout)
    figures = listener.figures()
    if not left:
        # Its answers are on their way, and the connections are closed in order.
        listener.close()
    out.send(orders.Left(left, figures))
    os._exit(0)


def _small_stacks() -> None:
    """Begins anew with smaller stacks: how large those of threads are is settled when a program begins."""
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if soft == resource.RLIM_INFINITY or soft > _STACK:
        resource.setrlimit(resource.RLIMIT_STACK, (_STACK, hard))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def _die_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DEATH_OF_PARENT, signal.SIGKILL)


def _limit_memory(memory: int) -> None:
    """Lets allocations fail beyond the limit: one call fails, before the process is too large.

    What libraries have reserved by now and what is in use differ; the limit is on the former.
    """
    status = memory_of("self")
    if status is None:
        return
    reserved, used = status
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = reserved + max(memory - used, 0) + _STACKS
    if soft == resource.RLIM_INFINITY or wanted < soft:
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def calls_within(memory: int) -> int:
    """How many calls may be under way at once, so that their threads leave half of the memory to what they do."""
    return (memory // 2 + _STACKS) // _CALL


def memory_of(pid: int | str) -> tuple[int, int] | None:
    """What a process has reserved, and what it uses of it, in bytes; mapped files are neither.

    ``None`` where the system does not say, or the process is gone.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    try:
        return int(found["VmData"].split()[0]) << 10, int(found["RssAnon"].split()[0]) << 10
    except (KeyError, IndexError, ValueError):
        return None


if __name__ == "__main__":
    from mamba_stream.server.answering import prepare as prepare_flight

    # Modules are there for good: garbage is not looked for among them.
    gc.freeze()
    main(prepare_flight)
