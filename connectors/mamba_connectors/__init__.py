"""Connectors: one module per outside system, each with ``source(...)``, ``sink(...)`` or both.

    >>> import polars as pl
    >>> from mamba_connectors import files
    >>> hours = files.source("in/*.parquet", schema={"ts": pl.Datetime, "delay": pl.Int64})

They are written against :mod:`mamba_stream.connect` alone, as a stranger's would be.
"""
