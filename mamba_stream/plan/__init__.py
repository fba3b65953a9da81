"""A pipeline as data: what its expressions are made of, its nodes, stages and checks."""

from mamba_stream.plan.pipeline import Pipeline

__all__ = ["Pipeline"]
