"""Rows without an outside: made from a seed, replayed from a frame, or measured on this machine.

>>> from mamba_connectors import synthetic
>>> synthetic.source(rows=1_000, keys=10, disorder="5s").schema.names
['at', 'key', 'number', 'value']
"""

from mamba_connectors.synthetic.machine import MachineSource, machine
from mamba_connectors.synthetic.made import MadeSource, source
from mamba_connectors.synthetic.replayed import ReplaySource, replay

__all__ = ["MachineSource", "MadeSource", "ReplaySource", "machine", "replay", "source"]
