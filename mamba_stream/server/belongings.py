"""To whom the engine's own topics, records and locks belong: what a caller needs to use them."""

from __future__ import annotations

from collections.abc import Callable

from mamba_stream.server.gate import Need, Operation

NameOf = Callable[[int], str | None]
"""The name of the topic of a number, where there is one."""


def need_of_topic(operation: Operation, name: str) -> Need:
    """What is needed to do this with a topic."""
    return Need(operation, "topic", name)


def need_of_namespace(operation: Operation, namespace: str, name_of: NameOf) -> Need:
    """What is needed to read or write records of a namespace."""
    return Need(operation, "namespace", namespace)


def need_of_lock(operation: Operation, space: str, name: str) -> Need:
    """What is needed to take a lock, or to see who has it."""
    return Need(operation, "namespace", space)
