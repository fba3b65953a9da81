"""Predicates that travel: which rows are wanted, as a tree of our own, from a client to a server.

A serialised Polars expression can carry code, and deserialising it runs that code. So what travels is a tree of
columns, literals and operators from a list (``forms.py``, ``operators.py``), bounded in size (``limits.py``), and
whoever receives it builds the expression anew (``writing.py``). ``docs/predicates.md`` says how it is written.

    wanted, rest = split(expr, schema)      # the sender: what can travel, and what is left to apply
    data = encode(wanted)
    question = check(decode(data), schema)  # the receiver: refuses anything else
    question.kept(rows)
"""

from __future__ import annotations

from mamba_stream.core.predicates.checking import Question, check, columns
from mamba_stream.core.predicates.forms import Column, Literal, Operator, Predicate, Values
from mamba_stream.core.predicates.reading import from_expr
from mamba_stream.core.predicates.splitting import split
from mamba_stream.core.predicates.travelling import decode, encode
from mamba_stream.core.predicates.writing import to_expr

__all__ = [
    "Column",
    "Literal",
    "Operator",
    "Predicate",
    "Question",
    "Values",
    "check",
    "columns",
    "decode",
    "encode",
    "from_expr",
    "split",
    "to_expr",
]
