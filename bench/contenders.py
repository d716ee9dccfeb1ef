"""The contenders of the serving benchmark, each behind one face: `measure(workload) -> Figures`.

Every contender lives in processes of its own, started once and idle while others are measured.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Protocol

from bench import load, peers
from bench.figures import Figures, Trace, figures
from bench.server import Server
from bench.workload import Workload


class Contender(Protocol):
    """Something that answers workloads."""

    name: str

    def measure(self, workload: Workload) -> Figures:
        """Answers the whole workload once."""
        ...

    def close(self) -> None:
        """Ends its processes."""
        ...


def worker() -> ProcessPoolExecutor:
    """A process that is started afresh, not forked, and lives on between calls."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


class Learnback:
    """Our server, with its client in another process, over gRPC on loopback."""

    name = "learnback"

    def __init__(self, model: str, threads: int, cache_tokens: int, device: str) -> None:
        """Starts the server and waits until it serves."""
        flags = ("--cache-tokens", str(cache_tokens), "--device", device)
        self._server = Server(model, threads, *flags)
        self._client = worker()

    def measure(self, workload: Workload) -> Figures:
        """See `Contender.measure`."""
        return figures(self._client.submit(load.run, self._server.address, workload).result())

    def close(self) -> None:
        """See `Contender.close`."""
        self._client.shutdown()
        self._server.close()


class Transformers:
    """A way of calling transformers directly."""

    def __init__(self, name: str, run: Callable[[Workload], list[Trace]], *load_: Any) -> None:
        """Loads the model in a process of its own; `run` is called there."""
        self.name = name
        self._run = run
        self._worker = worker()
        self._worker.submit(_load, *load_).result()

    def measure(self, workload: Workload) -> Figures:
        """See `Contender.measure`."""
        return figures(self._worker.submit(self._run, workload).result())

    def close(self) -> None:
        """See `Contender.close`."""
        self._worker.submit(_unload).result()
        self._worker.shutdown()


# What follows runs in a worker, whose one model is kept here between calls.
_model: Any = None
_cache_tokens = 0
_managers: dict[int, peers.ContinuousBatching] = {}


def _load(model: str, threads: int, cache_tokens: int, device: str) -> None:
    global _model, _cache_tokens
    _model = peers.load(model, threads, device)
    _cache_tokens = cache_tokens


def _unload() -> None:
    while _managers:
        _managers.popitem()[1].stop()


def _one_at_a_time(workload: Workload) -> list[Trace]:
    return peers.one_at_a_time(_model, workload)


def _static_batches(workload: Workload) -> list[Trace]:
    return peers.static_batches(_model, workload)


def _continuous_batching(workload: Workload) -> list[Trace]:
    if workload.streams not in _managers:
        _unload()  # each has a cache of its own
        manager = peers.ContinuousBatching(_model, workload.streams, _cache_tokens)
        _managers[workload.streams] = manager
    return _managers[workload.streams].run(workload)


PEERS = {
    "transformers batching": _continuous_batching,
    "static batches": _static_batches,
    "generate": _one_at_a_time,
}


def start(
    against: Sequence[str], model: str, threads: int, cache_tokens: int, device: str
) -> list[Contender]:
    """Starts learnback and some of its `PEERS` on a model, each with `threads` threads for torch.

    Those that have a paged cache give it room for `cache_tokens`.
    """
    loaded = (model, threads, cache_tokens, device)
    return [
        Learnback(*loaded),
        *(Transformers(name, PEERS[name], *loaded) for name in against),
    ]
