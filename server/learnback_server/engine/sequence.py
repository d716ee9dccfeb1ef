"""One answer in the making (`Sequence`), and the request that it belongs to (`Generation`)."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from learnback_server.engine.messages import CandidateEnd, GenerationRequest, SamplingParams
from learnback_server.engine.text import IncrementalDecoder, StopMatch, StopMatcher, Vocabulary


class Generation:
    """A request as the engine sees it: its candidates, and what is to be told at the end."""

    def __init__(
        self, request: GenerationRequest, order: int, vocabulary: Vocabulary, lane: str = ""
    ) -> None:
        """Prepares `request.n` sequences.

        Args:
            request: What is asked.
            order: Its place in the order of arrival.
            vocabulary: Turns tokens into text.
            lane: The way of computing that it is pinned to; empty for its checkpoint's only one.
        """
        self.request = request
        self.lane = lane or request.checkpoint
        self.order = order
        self.started: float | None = None
        self.first_token: float | None = None
        self.cached_tokens = 0
        self.error = ""
        self.ends: dict[int, CandidateEnd] = {}
        self.sequences = [Sequence(self, index, vocabulary) for index in range(request.n)]

    @property
    def over(self) -> bool:
        """Whether every candidate has ended."""
        return len(self.ends) == self.request.n

    @property
    def rank(self) -> tuple[int, int]:
        """Place in the queue; the smallest goes first."""
        return (-self.request.priority, self.order)


class Sequence:
    """One candidate: its tokens, its pages, and what turns the one into text."""

    def __init__(self, generation: Generation, index: int, vocabulary: Vocabulary) -> None:
        """Starts with the prompt, nothing computed and no page held."""
        request = generation.request
        self.generation = generation
        self.index = index
        self.sampling = request.sampling
        self.tokens = list(request.prompt_ids)
        self.prompt_length = len(self.tokens)
        self.computed = 0
        """How many of `tokens` have their keys and values in `pages`."""
        self.pages: list[int] = []
        self.registered_pages = 0
        self.complete: CandidateEnd | None = None
        """How it will have ended, once its last token has been computed for its score."""
        self.extended: float | None = None
        """When it got its last token; None before the first."""
        self.prefix_parent: str | int = generation.lane
        self._random = random.Random(f"{request.sampling.seed}/{index}")
        self.uniform = self._random.random()
        """The number in [0, 1) by which the next token is drawn; a step that fails and is tried
        again draws by the same one."""
        self.seen = TokenCounts(frozenset(self.tokens)) if _penalised(self.sampling) else None
        self._decoder: IncrementalDecoder = vocabulary.decoder()
        self._stops = StopMatcher(request.sampling.stop)

    @property
    def lane(self) -> str:
        """The way of computing that it is pinned to, with its generation."""
        return self.generation.lane

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt_length

    @property
    def pending(self) -> int:
        """Tokens whose keys and values are still to be computed. 1 while decoding."""
        return len(self.tokens) - self.computed

    @property
    def ended(self) -> bool:
        """Whether this candidate has ended."""
        return self.index in self.generation.ends

    def append(self, token: int) -> StopMatch:
        """Takes the sampled token; tells the text to give out and the stop string it completed."""
        self.tokens.append(token)
        self.uniform = self._random.random()
        if self.seen is not None:
            self.seen.answer[token] += 1
        return self._stops.feed(self._decoder.feed(token))

    def flush(self) -> str:
        """The text that was held back for a stop string that never came."""
        return self._stops.flush()


@dataclass(slots=True)
class TokenCounts:
    """Tokens that penalties look at."""

    prompt: frozenset[int]
    answer: Counter[int] = field(default_factory=Counter)

    def all(self) -> list[int]:
        """Every token that was seen, once."""
        return list(self.prompt | self.answer.keys())


def _penalised(sampling: SamplingParams) -> bool:
    return (
        sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
    )
