"""Ctrl-C while a command waits for what it reads."""

from __future__ import annotations

import signal


def interruptible() -> None:
    """Has Ctrl-C end a read that waits: with Polars at hand it would go on until something comes."""
    signal.siginterrupt(signal.SIGINT, True)
