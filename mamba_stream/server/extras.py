"""What serving takes beyond the log, and how to get it."""

from __future__ import annotations

from importlib.util import find_spec

from mamba_stream.errors import MissingExtra

_PACKAGES = {
    "grpc_health": "grpcio-health-checking",
    "prometheus_client": "prometheus-client",
    "starlette": "starlette",
    "structlog": "structlog",
    "uvicorn": "uvicorn",
}


def check_extra() -> None:
    """Returns where all is installed.

    Raises:
        MissingExtra: Something is not; the message says what to install.
    """
    missing = [package for module, package in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise MissingExtra(
            f"a server takes {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            "pip install 'mamba-stream[server]'"
        )
