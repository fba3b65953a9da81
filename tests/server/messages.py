"""Messages that have the shape of a type and say anything: what gets past the decoder, and into what answers."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import strategies as st
from msgspec import NODEFAULT, inspect

NUMBERS = [-(1 << 63), -1, 0, 1, 2, 3, 255, 1 << 31, 1 << 32, (1 << 63) - 1, (1 << 64) - 1]
TEXTS = [
    "rows",
    "n",
    "text",
    "",
    "..",
    "../x",
    "a\0b",
    "x" * 300,
    "_x",
    "é",
    "time",
    "append",
    "jobs",
    "clients",
    "1",
]
SCHEMA = pa.schema({"n": pa.int64(), "text": pa.large_string()}).serialize().to_pybytes()
_PLAIN: dict[type[inspect.Type], st.SearchStrategy[Any]] = {
    inspect.IntType: st.sampled_from(NUMBERS),
    inspect.StrType: st.sampled_from(TEXTS),
    inspect.BoolType: st.booleans(),
    inspect.FloatType: st.sampled_from([0.0, -1.5, 1e308]),
    inspect.NoneType: st.none(),
    inspect.BytesType: st.sampled_from([b"", b"\xc1", SCHEMA, SCHEMA[:40]]) | st.binary(max_size=20),
}
_PLAIN[inspect.MemoryViewType] = _PLAIN[inspect.BytesType]


def saying_anything(kind: Any, depth: int = 5) -> st.SearchStrategy[Any]:
    """What decodes as this type, as msgpack is made of it; values of no known kind are ``None``."""
    of = inspect.type_info(kind) if not isinstance(kind, inspect.Type) else kind
    if isinstance(of, inspect.Metadata):
        return saying_anything(of.type, depth)
    if isinstance(of, inspect.UnionType):
        return st.one_of([saying_anything(each, depth) for each in of.types])
    if isinstance(of, inspect.ListType | inspect.VarTupleType):
        return st.lists(saying_anything(of.item_type, depth - 1), max_size=3 if depth > 0 else 0)
    if isinstance(of, inspect.TupleType):
        return st.tuples(*[saying_anything(each, depth - 1) for each in of.item_types])
    if isinstance(of, inspect.DictType):
        return st.dictionaries(
            saying_anything(of.key_type, depth - 1), saying_anything(of.value_type, depth - 1), max_size=2
        )
    if isinstance(of, inspect.StructType):
        values = {field.encode_name: saying_anything(field.type, depth - 1) for field in of.fields}
        if of.array_like:
            return st.tuples(*values.values())
        needed = [
            field.encode_name
            for field in of.fields
            if field.required or (field.default is NODEFAULT and field.default_factory is NODEFAULT)
        ]
        return st.fixed_dictionaries(
            {name: values[name] for name in needed},
            optional={name: value for name, value in values.items() if name not in needed},
        )
    return _PLAIN.get(type(of), st.none())
