"""Who computes what: order, budget, pages; the scheduler alone, with steps that compute nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from learnback_server.engine.batch import StepRow
from learnback_server.engine.messages import CandidateEnd, FinishReason
from learnback_server.engine.options import EngineOptions
from learnback_server.engine.pages import PagePool
from learnback_server.engine.scheduler import Scheduler
from learnback_server.engine.sequence import Generation, Sequence
from learnback_server.engine.text import Vocabulary
from tests.engine.harness import request
from tests.tiny import byte_tokenizer

VOCABULARY = Vocabulary(byte_tokenizer().backend_tokenizer)
PAGE_TOKENS = 4
TOKEN = 7


@dataclass
class Bench:
    """A scheduler and the sequences it has been given; a step appends a token to who completes."""

    scheduler: Scheduler
    pages: PagePool
    options: EngineOptions
    sequences: list[Sequence] = field(default_factory=list)
    finished: list[Sequence] = field(default_factory=list)

    @classmethod
    def make(cls, cache_tokens: int = 400, *, prefix_cache: bool = False, **options: Any) -> Bench:
        chosen = EngineOptions(**options)
        pages = PagePool(cache_tokens // PAGE_TOKENS, PAGE_TOKENS, prefix_cache=prefix_cache)
        return cls(Scheduler(chosen, pages), pages, chosen)

    def add(self, length: int, tokens: int = 4, *, priority: int = 0) -> Sequence:
        asked = request([len(self.sequences)] * length, tokens, priority=priority)
        sequence = Generation(asked, len(self.sequences), VOCABULARY).sequences[0]
        self.sequences.append(sequence)
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> list[StepRow]:
        rows = self.scheduler.schedule()
        self.check(rows)
        for row in rows:
            completes = row.completes
            self.scheduler.advance(row)
            if completes:
                row.sequence.append(TOKEN)
                if row.sequence.generated == row.sequence.sampling.max_tokens:
                    self.end(row.sequence)
        return rows

    def end(self, sequence: Sequence) -> None:
        sequence.generation.ends[0] = CandidateEnd(0, FinishReason.LENGTH)
        self.scheduler.release(sequence)
        self.finished.append(sequence)

    def check(self, rows: list[StepRow]) -> None:
        """What holds of every step."""
        assert sum(row.count for row in rows) <= self.options.step_tokens
        assert len(rows) <= len(self.scheduler.running) <= self.options.max_running
        scheduled = [row.sequence for row in rows]
        assert len({id(sequence) for sequence in scheduled}) == len(rows)
        for row in rows:
            assert row.sequence in self.scheduler.running
            assert 0 < row.count <= row.sequence.pending
            room = len(row.sequence.pages) * PAGE_TOKENS
            assert row.sequence.computed + row.count <= room
        held = [page for sequence in self.scheduler.running for page in sequence.pages]
        assert len(set(held)) == self.pages.used
        for sequence in self.sequences:
            assert sequence in self.scheduler.running or not sequence.pages


def counts(rows: list[StepRow]) -> list[tuple[int, int]]:
    """Place of arrival, and number of tokens, of each row."""
    return [(row.sequence.generation.order, row.count) for row in rows]


@settings(max_examples=100)
@given(
    arrivals=st.lists(
        st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(-1, 1), st.integers(0, 8)),
        min_size=1,
        max_size=12,
    ),
    step_tokens=st.integers(1, 50),
    max_running=st.integers(1, 12),
    cache_tokens=st.integers(60, 200),
    prefix_cache=st.booleans(),
)
def test_everybody_finishes_within_every_bound(
    arrivals: list[tuple[int, int, int, int]],
    step_tokens: int,
    max_running: int,
    cache_tokens: int,
    prefix_cache: bool,
) -> None:
    bench = Bench.make(
        cache_tokens, step_tokens=step_tokens, max_running=max_running, prefix_cache=prefix_cache
    )
    coming = sorted(arrivals, key=lambda arrival: arrival[-1])
    now = 0
    while coming or not bench.scheduler.idle:
        while coming and coming[0][-1] <= now:
            length, tokens, priority, _ = coming.pop(0)
            bench.add(length, tokens, priority=priority)
        idle = bench.scheduler.idle
        rows = bench.step()
        assert rows or idle, "there is work and nobody works"
        now += 1
        assert now < 5000, "the steps lead nowhere"
    assert len(bench.finished) == len(arrivals)
    assert bench.pages.used == 0


def test_decoding_comes_before_prompts_and_prompts_take_what_is_left() -> None:
    bench = Bench.make(step_tokens=10)
    for _ in range(3):
        bench.add(3)
    bench.step()
    bench.add(30)
    assert counts(bench.step()) == [(0, 1), (1, 1), (2, 1), (3, 7)]
    assert counts(bench.step()) == [(0, 1), (1, 1), (2, 1), (3, 7)]


def test_decoding_is_never_held_up_by_a_long_prompt() -> None:
    bench = Bench.make(step_tokens=4)
    decoding = bench.add(3, 20)
    bench.step()
    bench.add(200)
    for before in range(1, 15):
        bench.step()
        assert decoding.generated == before + 1


def test_the_next_prompt_begins_in_the_step_in_which_one_ends() -> None:
    bench = Bench.make(step_tokens=10)
    bench.add(14)
    bench.add(9)
    assert counts(bench.step()) == [(0, 10)]
    assert counts(bench.step()) == [(0, 4), (1, 6)]
    assert counts(bench.step()) == [(0, 1), (1, 3)]


def test_the_higher_priority_goes_first_and_among_equals_who_came_first() -> None:
    bench = Bench.make(max_running=1)
    for priority in (0, -1, 1, 0, 1):
        bench.add(3, priority=priority)
    while not bench.scheduler.idle:
        bench.step()
    assert [sequence.generation.order for sequence in bench.finished] == [2, 4, 0, 3, 1]


def test_a_higher_priority_does_not_end_who_already_runs() -> None:
    bench = Bench.make(max_running=1)
    running = bench.add(3)
    bench.step()
    bench.add(3, priority=9)
    while not bench.scheduler.idle:
        bench.step()
    assert bench.finished[0] is running


def test_when_pages_run_out_the_last_in_rank_gives_way_and_goes_on_later() -> None:
    bench = Bench.make(cache_tokens=24)
    first, last = bench.add(8, 12), bench.add(8, 12)
    while last in bench.scheduler.running or not last.generated:
        bench.step()
    generated = last.generated
    assert generated > 0
    assert last.pages == []
    assert first in bench.scheduler.running
    while not bench.scheduler.idle:
        bench.step()
    assert bench.finished == [first, last]
    assert last.generated == 12


def test_the_lower_priority_gives_way_even_if_it_came_first() -> None:
    bench = Bench.make(cache_tokens=24)
    low = bench.add(8, 12, priority=-1)
    high = bench.add(8, 12)
    while not bench.scheduler.idle:
        bench.step()
    assert bench.finished == [high, low]


def test_a_waiting_sequence_that_has_ended_is_passed_over() -> None:
    bench = Bench.make(max_running=1)
    bench.add(3)
    cancelled, last = bench.add(3), bench.add(3)
    bench.end(cancelled)
    while not bench.scheduler.idle:
        bench.step()
    assert bench.finished[-1] is last
    assert cancelled.generated == 0


def test_who_does_not_fit_waits_for_pages_and_is_not_overtaken() -> None:
    bench = Bench.make(cache_tokens=40)
    bench.add(24, 4)
    large, small = bench.add(24, 2), bench.add(4, 2)
    bench.step()
    assert large.pages == small.pages == []
    while not bench.scheduler.idle:
        bench.step()
    assert bench.finished.index(large) == 1


def test_preemption_keeps_what_was_generated_and_computes_it_again() -> None:
    bench = Bench.make(cache_tokens=24)
    bench.add(8, 12)
    last = bench.add(8, 12)
    while last.pages or not last.generated:
        bench.step()
    tokens = list(last.tokens)
    assert last.computed == 0
    assert last.pending == len(tokens)
    while not bench.scheduler.idle:
        bench.step()
    assert last.tokens[: len(tokens)] == tokens
