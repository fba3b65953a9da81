"""How a topic is kept: its settings, checked before anything is created or altered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import msgspec

from mamba_stream.core.alterations import check_compatibility
from mamba_stream.core.changes import TopicSettings
from mamba_stream.core.durations import duration_us
from mamba_stream.core.names import did_you_mean
from mamba_stream.core.numbers import is_whole
from mamba_stream.core.sizes import size_of
from mamba_stream.errors import InvalidInput

COMPRESSIONS: Final = ("none", "lz4", "zstd")
_KEPT: Final = (1 << 63) - 1


class Unset:
    """Stands for an argument that was not given, where ``None`` means something."""

    def __repr__(self) -> str:
        return "as it is"


UNSET: Final = Unset()


def altered(
    topic: str, key: Sequence[str], settings: TopicSettings, changes: Mapping[str, Any]
) -> TopicSettings:
    """The settings with changes as people write them; raises what ``Log.alter_topic`` says.

    Args:
        topic: The topic's name, for messages.
        key: The columns of its key.
        settings: What it has.
        changes: By the names of the settings; those that are :data:`UNSET` stay as they are.
    """
    read = {
        name: _READERS[name](f"topic {topic!r}: {name}", value)
        for name, value in changes.items()
        if not isinstance(value, Unset)
    }
    return checked(topic, key, msgspec.structs.replace(settings, **read))


def checked(topic: str, key: Sequence[str], settings: TopicSettings) -> TopicSettings:
    """The settings, if a topic of this key can have them, wherever they come from.

    Raises:
        InvalidInput: It cannot; nothing was changed.
    """
    for name in ("retention", "retention_bytes"):
        value = getattr(settings, name)
        if value is not None and not is_whole(value, 1, _KEPT):
            raise InvalidInput(
                f"topic {topic!r}: {name}={value} keeps nothing: leave it out, or delete the topic"
            )
    if settings.quota is not None and not is_whole(settings.quota, 1, _KEPT):
        raise InvalidInput(f"topic {topic!r}: quota={settings.quota} takes no rows: end the topic instead")
    for name in ("compact_after", "tombstones"):
        if not is_whole(getattr(settings, name), 0, _KEPT):
            raise InvalidInput(f"topic {topic!r}: {name} must not be negative")
    if settings.compact and not key:
        raise InvalidInput(
            f"topic {topic!r}: compact=True keeps the latest row of each key, and the topic has no key: create it "
            "with key="
        )
    _compression(f"topic {topic!r}: seal_compression", settings.seal_compression)
    check_compatibility(settings.compatibility, f"topic {topic!r}: ")
    return settings


def kept_for(settings: TopicSettings) -> timedelta | None:
    """For how long rows are kept after they were appended; ``None`` for ever."""
    return None if settings.retention is None else timedelta(microseconds=settings.retention)


def _duration(what: str, value: Any) -> int | None:
    return None if value is None else duration_us(value, what=what, zero=False)


def _wait(what: str, value: Any) -> int:
    return duration_us(value, what=what)


def _size(what: str, value: Any) -> int | None:
    if value is None:
        return None
    try:
        return int(size_of(value))
    except InvalidInput as error:
        raise InvalidInput(f"{what}={value!r:.80}: {error}") from None


def _truth(what: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{what}={value!r:.80}: give True or False")
    return value


def _compression(what: str, value: Any) -> str | None:
    if value is not None and value not in COMPRESSIONS:
        guess = did_you_mean(str(value), COMPRESSIONS)
        raise InvalidInput(
            f"{what}={value!r:.80}{guess}; choose one of {', '.join(COMPRESSIONS)}, or None for that of the topic"
        )
    return None if value is None else str(value)


def _as_given(what: str, value: Any) -> Any:
    """What is judged with all the settings."""
    return value


_READERS: Final = {
    "retention": _duration,
    "retention_bytes": _size,
    "quota": _size,
    "compact": _truth,
    "compact_after": _wait,
    "tombstones": _wait,
    "seal_compression": _compression,
    "compatibility": _as_given,
}
