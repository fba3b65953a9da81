"""Python itself, in and out: iterables, generators, functions, standard input and output.

    >>> import polars as pl
    >>> from mamba_connectors import python
    >>> def numbers():
    ...     for number in range(3):
    ...         yield {"number": number}
    >>> python.source(numbers, schema={"number": pl.Int64}).delivery
    'exactly-once'

What a function yields can be had again, if it yields the same again; what standard input gives cannot.
"""

from mamba_connectors.python.calls import CallSink, sink
from mamba_connectors.python.iterables import IterableSource, PositionedSource, positioned, source
from mamba_connectors.python.standard import StandardInput, StandardOutput, stdin, stdout

__all__ = [
    "CallSink",
    "IterableSource",
    "PositionedSource",
    "StandardInput",
    "StandardOutput",
    "positioned",
    "sink",
    "source",
    "stdin",
    "stdout",
]
