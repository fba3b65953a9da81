"""``mamba-stream serve``: a log on the network."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mamba_stream.cli.options import log_option

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Read(click.ParamType[Any]):
    """A setting of the server, read as the file of settings would read it."""

    name = "setting"

    def __init__(self, key: str) -> None:
        self._key = key

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from mamba_stream.errors import InvalidInput
        from mamba_stream.server.settings import SERVER

        try:
            # Off is a value, where nothing given is none.
            return value if value == "off" else SERVER.read(self._key, value)
        except InvalidInput as error:
            self.fail(f"{value!r}: {error}", param, ctx)


_OPTIONS = (
    ("listen", "HOST:PORT", "Where clients connect; localhost:9092 unless said. Port 0 takes any."),
    ("http", "HOST:PORT|off", "Where /livez, /readyz and /metrics are; localhost:9093 unless said."),
    ("health", "HOST:PORT|off", "Where gRPC's health service is; localhost:9094 unless said."),
    ("tls-cert", "FILE", "The server's certificate, in PEM."),
    ("tls-key", "FILE", "Its key."),
    ("client-ca", "FILE", "Clients must have certificates that these signed."),
    ("users", "FILE", "Who may do what."),
    ("memory", "SIZE", "What the process that listens may take; 1GiB unless said."),
    ("drain", "DURATION", "How long calls in flight may take to finish at the end; 30s unless said."),
    ("disk-reserve", "SIZE", "With less room on disk the server is not ready; 256MiB unless said."),
    (
        "scrub",
        "SIZE",
        "How much of what is stored is looked at for damage, a second; 2MiB unless said, 0 for nothing.",
    ),
    (
        "log-format",
        "auto|json|console",
        "How to write what happens; for people at a terminal, JSON elsewhere.",
    ),
    ("log-level", "debug|info|warning|error", "From which weight on; info unless said."),
)


def _options(function: _Function) -> _Function:
    for name, metavar, words in reversed(_OPTIONS):
        key = name.replace("-", "_")
        function = click.option(f"--{name}", key, type=_Read(key), metavar=metavar, help=words)(function)
    return function


@click.command()
@_options
@click.option(
    "--insecure",
    is_flag=True,
    default=None,
    help="Go on without TLS where others can connect; never without users.",
)
@log_option
def serve(place: str | None, **flags: Any) -> int:
    """Serve a log over Arrow Flight, to clients anywhere.

    Settings that are not given come from MAMBA_STREAM_SERVER_* and from [server] of mamba-stream.toml. SIGTERM or
    Ctrl-C lets calls in flight finish, and a second one does not; SIGHUP reads users and certificates again.
    """
    from mamba_stream import __version__
    from mamba_stream.core.clock import SystemClock
    from mamba_stream.core.settings import FILE, read_file, table_of
    from mamba_stream.log import directory_of, open_log
    from mamba_stream.messaging.statistics import queue_statistics
    from mamba_stream.runtime.jobs import list_jobs
    from mamba_stream.server.extras import check_extra
    from mamba_stream.server.settings import SERVER

    check_extra()
    path = Path(FILE).absolute()
    settings = SERVER.gather(path, table_of(path, read_file(path), "server"), os.environ, flags).checked()

    from mamba_stream.server.serving import Server

    with open_log(directory_of(place)) as log:
        return Server(log, settings, queue_statistics, list_jobs, SystemClock(), __version__, _announce).run()


def _announce(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()
