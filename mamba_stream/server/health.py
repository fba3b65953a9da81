"""gRPC's own health service, on a port of its own beside Flight, which cannot have it: it follows the readiness."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mamba_stream.core.settings import Address
from mamba_stream.errors import LogUnavailable
from mamba_stream.server.sockets import check_free

SERVICES: Final = ("", "arrow.flight.protocol.FlightService")
"""Of which it tells: the server as a whole, and Flight by its full name."""


class Health:
    """Answers ``grpc.health.v1.Health``: ``Check``, ``Watch``, ``List``."""

    def __init__(self, address: Address) -> None:
        """Takes the address.

        Raises:
            LogUnavailable: It is taken, or not this machine's.
        """
        self._servicer = health.HealthServicer(experimental_non_blocking=True)
        # Without SO_REUSEPORT, with which two servers would share the port without a word.
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, self._server)
        check_free(address, "health")
        try:
            self.port: int = self._server.add_insecure_port(str(address))
        except RuntimeError as error:
            raise LogUnavailable(f"health = {address}: {error}; choose another, or off") from error
        self.tell(ready=False)

    def start(self) -> None:
        """Answers from now on."""
        self._server.start()

    def tell(self, ready: bool) -> None:
        """Sets what is answered."""
        status = (
            health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for service in SERVICES:
            self._servicer.set(service, status)

    def stop(self) -> None:
        """Ends it."""
        self._server.stop(None)
