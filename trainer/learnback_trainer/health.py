"""Tells probes whether the trainer lives and is ready: the standard health service of gRPC.

    ""                     the loop has made progress lately; if not, restarting may help
    "learnback.Trainer"    that, and Redis answers; if not, restarting does not help

Each Check looks anew; Watch tells what Checks find, so it needs someone who checks. There is no TLS
and no login here, and nothing is told but this: bind it to an address that only probes reach.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import (  # type: ignore[import-untyped]
    health,
    health_pb2,
    health_pb2_grpc,
)

from learnback_store.connection import Client, store_errors
from learnback_store.errors import StoreUnavailableError
from learnback_trainer.errors import TrainerError

READY = "learnback.Trainer"
# A probe that waits for a Redis that does not answer must not keep the next one waiting.
_PROBES_AT_ONCE = 4
_STATUS = health_pb2.HealthCheckResponse


class Pulse:
    """When the loop last made progress.

    Args:
        patience: Seconds without progress that are not yet a standstill.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._last = time.monotonic()

    def beat(self) -> None:
        """Notes progress. Called from the loop; costs nothing."""
        self._last = time.monotonic()

    def is_alive(self) -> bool:
        """Whether there was some lately."""
        return time.monotonic() - self._last <= self._patience


class TrainerHealth(health.HealthServicer):  # type: ignore[misc]  # untyped
    """The service.

    Args:
        pulse: The loop's.
        redis: Its own client would do; this one may be shared.
    """

    def __init__(self, pulse: Pulse, redis: Client) -> None:
        super().__init__()
        self._pulse, self._redis = pulse, redis
        self._look()

    def Check(  # noqa: N802  # the contract's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Looks, and tells."""
        self._look()
        return super().Check(request, context)

    def _look(self) -> None:
        alive = self._pulse.is_alive()
        self.set("", _STATUS.SERVING if alive else _STATUS.NOT_SERVING)
        ready = alive and self._redis_answers()
        self.set(READY, _STATUS.SERVING if ready else _STATUS.NOT_SERVING)

    def _redis_answers(self) -> bool:
        try:
            with store_errors():
                return bool(self._redis.ping())
        except StoreUnavailableError:
            return False


@contextlib.contextmanager
def served(servicer: TrainerHealth, listen: str) -> Iterator[int]:
    """Serves health for as long as the `with` lasts, and gives the port.

    Raises:
        TrainerError: The address can't be listened on.
    """
    threads = ThreadPoolExecutor(_PROBES_AT_ONCE, thread_name_prefix="health")
    # Else a second trainer on the same port would quietly answer for this one.
    server = grpc.server(threads, options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise TrainerError(
            f"can't serve health on {listen}: {error}. Choose another address with --health-listen."
        ) from error
    server.start()
    try:
        yield port
    finally:
        server.stop(grace=None).wait()
        threads.shutdown()
