"""Readers that know when they have something."""

from __future__ import annotations

from mamba_stream.connect import Wake


class Sleeper:
    """A reader to inherit that says when to ask it again, once somebody handed over how."""

    _wake: Wake | None = None

    def wake_by(self, wake: Wake) -> None:
        """Takes what to call; see :class:`mamba_stream.connect.Waking`."""
        self._wake = wake

    def _woken(self, after: float = 0.0) -> None:
        """There is something, or will be in so many seconds."""
        if self._wake is not None:
            self._wake(after)
