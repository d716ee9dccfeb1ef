"""Other people: a constant load of streams, which counts what it gets and from which checkpoint."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from random import Random
from time import monotonic
from types import TracebackType
from typing import Self

from learnback_client.client import Client
from learnback_client.demo.people import Question
from learnback_client.errors import LearnbackError

# A person reads an answer before asking again; without it the load would be the server's utmost.
_PAUSE_SECONDS = 0.05


class Load:
    """Streams that ask on and on. A context manager: entering starts them, leaving ends them.

    Args:
        client: Shared by all of them.
        questions: What they ask.
        streams: How many ask at once.
    """

    def __init__(self, client: Client, questions: Sequence[Question], streams: int) -> None:
        self._client, self._questions = client, questions
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._go_on, args=[n]) for n in range(streams)]
        self.served: Counter[str] = Counter()
        """Whole answers by checkpoint."""
        self.failures: list[str] = []
        """What went wrong with the others."""
        self.first: dict[str, float] = {}
        """When each checkpoint's first answer had come, by `time.monotonic`."""

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _go_on(self, seed: int) -> None:
        rng = Random(seed)
        while not self._stop.wait(_PAUSE_SECONDS):
            try:
                self._ask(rng.choice(self._questions).prompt)
            except LearnbackError as error:
                with self._lock:
                    self.failures.append(str(error))

    def _ask(self, prompt: str) -> None:
        with self._client.stream(messages=[("user", prompt)], max_tokens=64) as stream:
            for _ in stream.text:
                pass
            checkpoint = stream.result().checkpoint
        with self._lock:
            self.served[checkpoint] += 1
            self.first.setdefault(checkpoint, monotonic())
