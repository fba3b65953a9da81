"""Messages as rows: the Arrow schema of a message topic, and how values go into it and come out as what they were.

One row is one message, one offset. The schema is canonical enough for other protocols to map to: key, value and
headers are bytes as in Kafka, ``kind`` says what they were in Python, and the time of appending is the log's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgpack
import pyarrow as pa

from mamba_stream.core.deadletters import DEAD
from mamba_stream.errors import InvalidInput

Headers = Mapping[str, str | bytes]
"""What is known of a message besides its value. Comes back as text where the bytes are UTF-8, else as bytes."""

MESSAGES: Final = pa.schema(
    [
        ("key", pa.large_binary()),
        ("value", pa.large_binary()),
        ("kind", pa.uint8()),
        ("headers", pa.map_(pa.large_string(), pa.large_binary())),
        ("event_type", pa.large_string()),
        ("time", pa.timestamp("us", "UTC")),
        ("deliver_at", pa.timestamp("us", "UTC")),
        ("priority", pa.uint8()),
    ]
)
"""``key``, ``value``: bytes, null where there is none. ``kind``: what the value was (low four bits) and the key
(high four bits): 0 bytes, 1 text, 2 MessagePack. ``time``: when it was sent, or what the sender said. ``deliver_at``:
not before then; null is at once. ``priority``: 0 to 9, higher ones first."""

TIME: Final = "time"
HIGHEST_PRIORITY: Final = 9
MAX_MESSAGE_BYTES: Final = 16 << 20

BYTES, TEXT, PACKED = 0, 1, 2
KEY_SHIFT: Final = 4
_KIND_MASK: Final = (1 << KEY_SHIFT) - 1
_VALUES = "a value is str, bytes, None, or a dict, list, number or bool that MessagePack has"


def is_message_schema(schema: pa.Schema) -> bool:
    """Whether a topic of this schema holds messages; otherwise its rows themselves are the messages.

    It may have more columns behind theirs, which were added since; but those of dead letters make it one of letters.
    """
    if schema.equals(MESSAGES):
        return True
    first = pa.schema(list(schema)[: len(MESSAGES)])
    return bool(first.equals(MESSAGES)) and DEAD not in schema.names


def encode_value(value: Any) -> tuple[bytes | None, int]:
    """A value as bytes, and its kind.

    Raises:
        InvalidInput: It would not come back as what it was.

    Example:
        >>> encode_value("Hello, world!")
        (b'Hello, world!', 1)
        >>> decode_value(*encode_value({"total": 12.5, "paid": True}))
        {'total': 12.5, 'paid': True}
    """
    kind = type(value)
    if kind is str:
        return _utf8(value), TEXT
    if kind is bytes:
        return value, BYTES
    if value is None:
        return None, BYTES
    if isinstance(value, bytearray | memoryview):
        return bytes(value), BYTES
    try:
        # Strict: a tuple would come back as a list, a subclass as its parent.
        return msgpack.packb(value, strict_types=True, use_bin_type=True), PACKED
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(
            f"a message cannot hold this {kind.__name__} ({error}): {_VALUES}; encode it yourself and send the bytes"
        ) from error


def value_kind(kind: int) -> int:
    """What the value was, of a row's kind."""
    return kind & _KIND_MASK


def decode_value(data: bytes | None, kind: int) -> Any:
    """The value that these bytes were, by the low four bits of a row's kind."""
    if data is None:
        return None
    kind = value_kind(kind)
    if kind == TEXT:
        return data.decode()
    if kind == PACKED:
        return msgpack.unpackb(
            data, strict_map_key=False, raw=False, use_list=True, ext_hook=_refuse, timestamp=0
        )
    return data


def encode_key(key: Any) -> tuple[bytes | None, int]:
    """A key as bytes, and its kind, already shifted to where a row has it.

    Raises:
        InvalidInput: It is neither text nor bytes nor a whole number.
    """
    if key is None:
        return None, 0
    if type(key) is str:
        return _utf8(key), TEXT << KEY_SHIFT
    if type(key) is bytes:
        return key, 0
    if type(key) is int:
        data, _ = encode_value(key)
        return data, PACKED << KEY_SHIFT
    raise InvalidInput(f"a key is str, bytes or int, not {type(key).__name__}: {key!r:.80}")


def decode_key(data: bytes | None, kind: int) -> Any:
    """The key that these bytes were."""
    return decode_value(data, kind >> KEY_SHIFT)


def encode_headers(headers: Headers) -> list[tuple[str, bytes]]:
    """Headers as pairs.

    Raises:
        InvalidInput: A name is not text, or a value neither text nor bytes.
    """
    pairs = []
    try:
        for name, value in headers.items():
            if type(name) is not str or type(value) not in (str, bytes):
                raise InvalidInput(
                    f"the header {name!r:.40}={value!r:.40} is not text: names are str, values str or bytes; "
                    "write str(...) of anything else"
                )
            check_text(name)
            pairs.append((name, value if isinstance(value, bytes) else _utf8(value)))
    except AttributeError as error:
        raise InvalidInput(
            f"headers={headers!r:.80}: pass a dict of names and values, such as {{'region': 'eu'}}"
        ) from error
    return pairs


def decode_headers(pairs: Sequence[tuple[str, bytes | None]] | None) -> dict[str, str | bytes]:
    """Headers as a dict; of two of one name, which other protocols allow, the last."""
    return {} if not pairs else {name: _text(value or b"") for name, value in pairs}


def check_text(text: str) -> None:
    """Raises ``InvalidInput`` where it is not Unicode text; half a surrogate pair is not."""
    if not text.isascii():
        _utf8(text)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{text!r:.60} is not Unicode text ({error.reason}): send bytes instead"
        ) from error


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _refuse(code: int, data: bytes) -> Any:
    raise InvalidInput(f"the value holds a MessagePack extension ({code}), which no message of ours has")
