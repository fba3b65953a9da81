"""Streams, windows, running: thin verbs that build plan nodes."""

from mamba_stream.dsl.neighbours import step
from mamba_stream.dsl.opening import Log, Topic, open_log
from mamba_stream.dsl.periodic import periodically
from mamba_stream.dsl.pipelines import Pipeline, pipeline
from mamba_stream.dsl.running import run, start
from mamba_stream.dsl.sources import append_time, sequence, stream
from mamba_stream.dsl.streams import Stream, united as concat
from mamba_stream.dsl.windows import cumulative, hopping, rows, session, tumbling

__all__ = [
    "Log",
    "Pipeline",
    "Stream",
    "Topic",
    "append_time",
    "concat",
    "cumulative",
    "hopping",
    "open_log",
    "periodically",
    "pipeline",
    "rows",
    "run",
    "sequence",
    "session",
    "start",
    "step",
    "stream",
    "tumbling",
]
