"""What the engine tells those who count. Called on its thread, so each must return at once."""

from __future__ import annotations

from typing import Protocol

from learnback_server.engine.messages import Finished, GenerationRequest


class EngineWatch(Protocol):
    """Somebody who counts. Times are seconds of `time.monotonic()`."""

    def first_token(self, request: GenerationRequest, time: float) -> None:
        """A generation has its first token."""

    def between_tokens(self, seconds: float, count: int) -> None:
        """So many answers went on, each so long after its token before."""

    def finished(self, request: GenerationRequest, finished: Finished) -> None:
        """A generation is over."""


class Unwatched:
    """Nobody."""

    def first_token(self, request: GenerationRequest, time: float) -> None:
        """See `EngineWatch`."""

    def between_tokens(self, seconds: float, count: int) -> None:
        """See `EngineWatch`."""

    def finished(self, request: GenerationRequest, finished: Finished) -> None:
        """See `EngineWatch`."""
