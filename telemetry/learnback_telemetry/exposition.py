"""Serves metrics to Prometheus over HTTP, on a thread of its own.

Any path gives them all. Exemplars are part of the OpenMetrics format, which Prometheus asks for by
itself. No TLS and no login: bind it to an address that only Prometheus reaches.
"""

from __future__ import annotations

import threading
from wsgiref.simple_server import WSGIServer

from prometheus_client import start_http_server

from learnback_telemetry.families import Families


class Exposition:
    """The endpoint of one process. Nothing listens before `start`.

    Args:
        families: What is served.
        listen: HOST:PORT; port 0 takes a free one.
    """

    def __init__(self, families: Families, listen: str) -> None:
        self._families = families
        self._host, _, port = listen.rpartition(":")
        self._port = int(port)
        self._running: tuple[WSGIServer, threading.Thread] | None = None

    @property
    def port(self) -> int:
        """The port that is listened on, once started."""
        return self._running[0].server_port if self._running else self._port

    def start(self) -> None:
        """Begins to serve.

        Raises:
            OSError: The address can't be listened on.
        """
        self._running = start_http_server(
            self._port, self._host.strip("[]"), registry=self._families.registry
        )

    def close(self) -> None:
        """Serves no more."""
        if self._running is not None:
            server, thread = self._running
            server.shutdown()
            server.server_close()
            thread.join()
            self._running = None
