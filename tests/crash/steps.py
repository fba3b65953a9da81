"""Processes that are killed before the so-manieth of their calls of ``os``, counted from where they say."""

from __future__ import annotations

COUNTED = """
import os, signal
left = {step}
def counted(*names):
    for name in names:
        setattr(os, name, one_of_them(getattr(os, name)))
def one_of_them(real):
    def call(*given, **named):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return real(*given, **named)
    return call
"""
"""The beginning of such a program, to be formatted with ``step``; ``counted("rename", ...)`` begins to count."""
