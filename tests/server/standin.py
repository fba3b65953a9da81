"""A listener without a log, for the supervisor: what it does is said on its command line."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

from mamba_stream.errors import LogUnavailable
from mamba_stream.server.listener import main
from mamba_stream.server.orders import Figures


class StandIn:
    """Holds the port, and answers nothing."""

    def __init__(self, orders, say, behaviour):
        self._orders, self._say, self._behaviour = orders, say, behaviour
        self._socket = None
        if behaviour == "refuse":
            raise LogUnavailable("there is no log for it")
        if behaviour == "die":
            print("I cannot live like this", file=sys.stderr, flush=True)
            os._exit(7)
        if behaviour == "babble":
            os.write(3, b"\x00\x00\x00\x05hello")

    def listen(self):
        self._socket = socket.create_server((self._orders.host, self._orders.port))
        if self._behaviour == "grow":
            threading.Timer(0.2, self._grow).start()
        return self._socket.getsockname()[1]

    def _grow(self):
        # Written to, so that it is used and not only reserved.
        self._held = bytearray(os.urandom(1 << 20) * (self._orders.memory >> 19))

    def figures(self):
        return Figures(calls={"read": {"ok": 3}}, commits=2, received=os.getpid())

    def reload(self):
        if self._behaviour == "stubborn":
            raise LogUnavailable("it stays as it was")

    def let_go(self):
        self._socket.close()

    def finish(self, timeout):
        if self._behaviour == "slow":
            time.sleep(timeout)
            return 2
        return 0

    def close(self):
        self._socket.close()


if __name__ == "__main__":
    main(lambda orders, say: StandIn(orders, say, sys.argv[1]))
