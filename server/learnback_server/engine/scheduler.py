"""Who computes what in the next step: a queue by priority, and a budget of tokens.

Each step, every decoding sequence gets its one token first; what the budget leaves goes to prompts,
in chunks where they are long, so that a long prompt never holds up those who are being answered.
When the pages run out, the sequence that is last in rank gives its own up and waits to be computed
again (its tokens are kept, so its answer goes on where it was).
"""

from __future__ import annotations

import heapq

from learnback_server.engine.batch import StepRow
from learnback_server.engine.options import EngineOptions
from learnback_server.engine.pages import PagePool
from learnback_server.engine.sequence import Sequence


class Scheduler:
    """Holds the waiting and the running sequences, and gives each its pages."""

    def __init__(self, options: EngineOptions, pages: PagePool) -> None:
        """Starts with nobody waiting."""
        self._options = options
        self._pages = pages
        self._waiting: list[tuple[tuple[int, int], int, Sequence]] = []
        self.running: list[Sequence] = []
        self.prefix_queries = 0
        self.prefix_hits = 0

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.running and not self._waiting

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence by its generation's rank."""
        heapq.heappush(self._waiting, (sequence.generation.rank, sequence.index, sequence))

    def release(self, sequence: Sequence) -> None:
        """Frees the pages of a sequence that runs no more; one that waits has none."""
        if sequence in self.running:
            self.running.remove(sequence)
        self._pages.release(sequence.pages)
        sequence.pages = []

    def schedule(self) -> list[StepRow]:
        """Chooses the rows of the next step and makes sure of their pages."""
        rows: list[StepRow] = []
        budget = self._options.step_tokens
        for sequence in sorted(self.running, key=_decoding_first):
            if budget == 0:
                break
            if sequence not in self.running:  # gave up its pages to one before it
                continue
            count = min(sequence.pending, budget)
            if self._secure(sequence, count):
                rows.append(StepRow(sequence, count))
                budget -= count
        rows = [row for row in rows if row.sequence.pages]  # some may have been preempted since
        return rows + self._admit(budget)

    def advance(self, row: StepRow) -> None:
        """Notes that a row has been computed, and registers the pages that it has filled."""
        sequence = row.sequence
        sequence.computed += row.count
        size = self._pages.page_tokens
        for i in range(sequence.registered_pages, sequence.computed // size):
            sequence.prefix_parent = self._pages.register(
                sequence.pages[i],
                sequence.prefix_parent,
                sequence.tokens[i * size : (i + 1) * size],
            )
            sequence.registered_pages = i + 1

    def _admit(self, budget: int) -> list[StepRow]:
        """Starts waiting sequences while there are rows, tokens and pages for them."""
        rows: list[StepRow] = []
        while self._waiting and budget > 0 and len(self.running) < self._options.max_running:
            sequence = self._waiting[0][-1]
            if sequence.ended:
                heapq.heappop(self._waiting)
                continue
            if not self._begin(sequence):
                break
            heapq.heappop(self._waiting)
            self.running.append(sequence)
            count = min(sequence.pending, budget)
            rows.append(StepRow(sequence, count))
            budget -= count
        return rows

    def _begin(self, sequence: Sequence) -> bool:
        """Gives a sequence the pages of its whole prompt, those of a known prefix among them."""
        prefix = self._pages.match(sequence.lane, sequence.tokens)
        wanted = self._pages.pages_for(len(sequence.tokens)) - len(prefix.pages)
        fresh = self._pages.allocate(wanted)
        if fresh is None:
            self._pages.release(prefix.pages)
            return False
        sequence.pages = prefix.pages + fresh
        sequence.registered_pages = len(prefix.pages)
        sequence.prefix_parent = prefix.parent
        sequence.computed = len(prefix.pages) * self._pages.page_tokens
        self.prefix_queries += len(sequence.tokens)
        self.prefix_hits += sequence.computed
        if sequence.generation.started is None:
            sequence.generation.cached_tokens = sequence.computed
        return True

    def _secure(self, sequence: Sequence, count: int) -> bool:
        """Gets pages for `count` more tokens, if need be from those who rank behind."""
        while True:
            missing = self._pages.pages_for(sequence.computed + count) - len(sequence.pages)
            fresh = self._pages.allocate(max(0, missing))
            if fresh is not None:
                sequence.pages += fresh
                return True
            victim = max(self.running, key=_rank)
            self._preempt(victim)
            if victim is sequence:
                return False

    def _preempt(self, sequence: Sequence) -> None:
        """Takes a sequence's pages and puts it back into the queue."""
        self.release(sequence)
        sequence.computed = 0
        sequence.registered_pages = 0
        self.add(sequence)


def _rank(sequence: Sequence) -> tuple[tuple[int, int], int]:
    return (sequence.generation.rank, sequence.index)


def _decoding_first(sequence: Sequence) -> tuple[bool, tuple[tuple[int, int], int]]:
    return (sequence.pending > 1, _rank(sequence))
