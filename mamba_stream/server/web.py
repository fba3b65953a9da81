"""``/livez``, ``/readyz`` and ``/metrics`` over HTTP, for those who watch the server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from mamba_stream.core.settings import Address
from mamba_stream.server.events import Events, Forward
from mamba_stream.server.readiness import Readiness
from mamba_stream.server.sockets import bind

_END: Final = 5.0
"""Seconds that the pages' thread has to end; then the process ends without it."""


def application(alive: Callable[[], bool], readiness: Readiness, registry: CollectorRegistry) -> Starlette:
    """The pages.

    Args:
        alive: Whether the server's own loop still turns.
        readiness: What ``/readyz`` tells.
        registry: What ``/metrics`` collects.
    """

    # Plain functions: Starlette runs them in threads, so that one that takes its time holds up nobody.
    def livez(request: Request) -> Response:
        return PlainTextResponse("ok\n") if alive() else PlainTextResponse("stuck\n", 503)

    def readyz(request: Request) -> Response:
        found = readiness.found()
        told = {"ready": readiness.ready, "checks": {name: each or "ok" for name, each in found.items()}}
        return JSONResponse(told, 200 if readiness.ready else 503)

    def metrics(request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": kind})

    return Starlette(routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)])


class Web:
    """Serves the pages in a thread of its own."""

    def __init__(self, address: Address) -> None:
        """Takes the address.

        Raises:
            LogUnavailable: It is taken, or not this machine's.
        """
        self._sockets = bind(address, "http")
        self.port: int = self._sockets[0].getsockname()[1]
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self, pages: Any, events: Events) -> None:
        """Serves them from now on."""
        logger = logging.getLogger("uvicorn")
        logger.handlers, logger.propagate = [Forward(events)], False
        config = uvicorn.Config(
            pages,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=64,
            timeout_keep_alive=15,
            h11_max_incomplete_event_size=16 << 10,
            ws="none",
        )
        server = self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=server.run, args=(self._sockets,), name="http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends it: what is being answered is cut off."""
        if self._server is not None:
            self._server.force_exit = self._server.should_exit = True
        if self._thread is not None:
            # Its sockets are closed there: closed here, they would be missed.
            self._thread.join(_END)
            return
        for each in self._sockets:
            each.close()
