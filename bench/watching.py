"""What counting costs the engine: `python -m bench.watching`.

The same requests are answered by one engine that is watched and by one that is not, in turns, in
one process. Told is the CPU time of the watched one for each second of the other: the median of the
ratios within the rounds, and their range.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence

import learnback_nano
from learnback_server.engine.engine import Engine
from learnback_server.engine.loading import LoadedModel, load_model
from learnback_server.engine.messages import Event, Finished, GenerationRequest, SamplingParams
from learnback_server.engine.options import EngineOptions
from learnback_server.engine.watch import EngineWatch, Unwatched
from learnback_server.metrics import ServerMetrics

STREAMS = (1, 16)
ROUNDS = 25
TOKENS = 32
"""Of an answer. Prompts are short, so that decoding is what is measured."""


class Answering:
    """An engine that answers a number of requests at once, over and over."""

    def __init__(self, model: LoadedModel, watch: EngineWatch) -> None:
        self._over = threading.Semaphore(0)
        self._engine = Engine(model, EngineOptions(), self._publish, watch)
        self._engine.start()

    def cpu_seconds(self, streams: int, seed: int) -> float:
        """Answers so many requests; returns the CPU time of it."""
        began = time.process_time()
        for number in range(streams):
            self._engine.submit(_request(number, seed))
        for _ in range(streams):
            self._over.acquire()
        return time.process_time() - began

    def close(self) -> None:
        """Ends it."""
        self._engine.stop()

    def _publish(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Finished):
                self._over.release()


def _request(number: int, seed: int) -> GenerationRequest:
    prompt = tuple((number * 31 + seed * 17 + place * 7) % 250 + 4 for place in range(16))
    sampling = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
    return GenerationRequest(
        f"gen-{seed}-{number}", prompt, sampling, "base", arrived=time.monotonic(),
        trace_id=f"{number:032x}",
    )  # fmt: skip


def main() -> None:
    """Measures and prints."""
    model = load_model(str(learnback_nano.path()), device="cpu", threads=1)
    watched, bare = Answering(model, ServerMetrics("nano")), Answering(model, Unwatched())
    for streams in STREAMS:
        ratios = []
        for seed in range(ROUNDS + 1):
            taken = {}
            for engine in (watched, bare) if seed % 2 else (bare, watched):
                taken[engine] = engine.cpu_seconds(streams, seed)
            if seed:  # the first warms up
                ratios.append(taken[watched] / taken[bare])
        median = statistics.median(ratios)
        print(f"{streams} streams: {median:.3f}x ({min(ratios):.3f} to {max(ratios):.3f})")
    watched.close()
    bare.close()


if __name__ == "__main__":
    main()
