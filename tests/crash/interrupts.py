"""Interrupts a call where a signal's handler may raise: after a call of C code, where a function begins, in a loop.

These are the places at which CPython looks for signals. Each can be had by its number, so that a test tries them all.
"""

from __future__ import annotations

import dis
import inspect
import sys
from collections.abc import Callable, Sequence
from functools import cache
from types import CodeType, FrameType
from typing import Any


class Interrupted(BaseException):
    """As ``KeyboardInterrupt``, or what a program's own handler raises."""


def interrupted(call: Callable[[], Any], at: int, within: Sequence[str]) -> str:
    """Makes the call in this thread, and interrupts it at so many places; says where, and nothing if it was over before.

    Args:
        call: What to interrupt.
        at: The number of the place.
        within: Files, or directories, whose places count.
    """
    trace = _Trace(at, tuple(within))
    sys.settrace(trace)
    try:
        call()
    except Interrupted:
        pass
    finally:
        sys.settrace(None)
    return trace.where


class _Trace:
    def __init__(self, at: int, within: tuple[str, ...]) -> None:
        self._left = at
        self._within = within
        self._last: dict[FrameType, int] = {}
        self.where = ""

    def __call__(self, frame: FrameType, event: str, _: Any) -> _Trace | None:
        code = frame.f_code
        if not code.co_filename.startswith(self._within):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "call":
            # What it was called by ended in no C code.
            if frame.f_back is not None:
                self._last.pop(frame.f_back, None)
            # A generator may as well go on to be closed, and then no signal is looked for.
            if not code.co_flags & inspect.CO_GENERATOR:
                self._place(frame)
        elif event == "opcode":
            last, self._last[frame] = self._last.get(frame), frame.f_lasti
            if last is not None and _looks_for_signals(code, last, frame.f_lasti):
                self._place(frame)
        elif event == "return":
            self._last.pop(frame, None)
        return self

    def _place(self, frame: FrameType) -> None:
        if not self.where and self._left == 0:
            self.where = f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})"
            raise Interrupted(self.where)
        self._left -= 1


@cache
def _names(code: CodeType) -> dict[int, str]:
    return {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}


@cache
def _looks_for_signals(code: CodeType, last: int, following: int) -> bool:
    """Whether signals are looked for after one instruction and before another.

    What is raised there belongs to the first one. It is raised here at the second one, which is the same only if one
    handler stands behind both.
    """
    if not _names(code).get(last, "").startswith(("CALL", "JUMP_BACKWARD")):
        return False
    table = dis._parse_exception_table(code)  # type: ignore[attr-defined]
    behind = [[entry.target for entry in table if entry.start <= at < entry.end] for at in (last, following)]
    return behind[0] == behind[1]
