"""The page pool against a simple model of itself, under any sequence of operations."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from learnback_server.engine.pages import SCRATCH_PAGE, PagePool

PAGE_TOKENS = 2
CHECKPOINTS = ("one", "two")

prompts = st.lists(st.integers(0, 1), min_size=1, max_size=12)


@dataclass
class Holder:
    """A sequence: its tokens, the pages it holds, and how far they are computed."""

    checkpoint: str
    tokens: list[int]
    pages: list[int]
    registered: int
    parent: str | int
    fresh: list[int] = field(default_factory=list)


class PoolMachine(RuleBasedStateMachine):
    """Sequences come, compute, register and go; `written` is what each page holds by rights."""

    holders = Bundle("holders")

    @initialize(total=st.integers(1, 12), prefix_cache=st.booleans())
    def start(self, total: int, prefix_cache: bool) -> None:
        self.pool = PagePool(total, PAGE_TOKENS, prefix_cache=prefix_cache)
        self.prefix_cache = prefix_cache
        self.held: Counter[int] = Counter()
        self.written: dict[int, tuple[str, tuple[int, ...]]] = {}
        self.forgotten: set[int] = set()

    @rule(target=holders, checkpoint=st.sampled_from(CHECKPOINTS), tokens=prompts)
    def begin(self, checkpoint: str, tokens: list[int]) -> object:
        """Does as the scheduler does: what is known is shared, the rest allocated, or nothing."""
        prefix = self.pool.match(checkpoint, tokens)
        assert len(prefix.pages) * PAGE_TOKENS < len(tokens)
        assert len(set(prefix.pages)) == len(prefix.pages)
        for place, page in enumerate(prefix.pages):
            # A page stands for all tokens up to its end: its keys depend on every one before.
            assert self.written[page] == (checkpoint, tuple(tokens[: (place + 1) * PAGE_TOKENS]))
            assert page not in self.forgotten
        self.held.update(prefix.pages)
        wanted = self.pool.pages_for(len(tokens)) - len(prefix.pages)
        available = self.pool.available
        fresh = self.pool.allocate(wanted)
        if fresh is None:
            assert wanted > available
            assert self.pool.available == available
            self.pool.release(prefix.pages)
            self.held.subtract(prefix.pages)
            return multiple()
        assert len(set(fresh)) == wanted
        assert not any(self.held[page] for page in fresh), "a held page was given out"
        self.held.update(fresh)
        self.forgotten -= set(fresh)
        for page in fresh:
            self.written.pop(page, None)
        pages = prefix.pages + fresh
        return Holder(checkpoint, tokens, pages, len(prefix.pages), prefix.parent, fresh)

    @rule(holder=holders)
    def compute(self, holder: Holder) -> None:
        """Fills and registers the next page, if it is full."""
        start = holder.registered * PAGE_TOKENS
        tokens = holder.tokens[start : start + PAGE_TOKENS]
        if len(tokens) < PAGE_TOKENS:
            return
        page = holder.pages[holder.registered]
        assert page in holder.fresh, "a shared page would be written again"
        so_far = tuple(holder.tokens[: start + PAGE_TOKENS])
        self.written[page] = (holder.checkpoint, so_far)
        holder.parent = self.pool.register(page, holder.parent, tokens)
        holder.registered += 1

    @rule(holder=consumes(holders))
    def end(self, holder: Holder) -> None:
        self.leave(holder)

    def leave(self, holder: Holder) -> None:
        self.pool.release(holder.pages)
        self.held.subtract(holder.pages)

    @rule(holder=consumes(holders))
    def fail(self, holder: Holder) -> None:
        """What it had computed is known no more, not even if another holds it too."""
        alone = self.pool.discard(holder.pages)
        assert alone == [page for page in holder.pages if self.held[page] == 1]
        self.forgotten |= set(holder.pages)
        self.leave(holder)

    @rule(checkpoint=st.sampled_from(CHECKPOINTS))
    def forget(self, checkpoint: str) -> None:
        self.pool.forget(checkpoint)
        self.forgotten |= {p for p, (owner, _) in self.written.items() if owner == checkpoint}
        assert self.pool.match(checkpoint, [0, 1] * 6).pages == []
        assert self.pool.match(checkpoint, [0] * 12).pages == []

    @invariant()
    def every_page_is_held_or_to_be_had(self) -> None:
        if not hasattr(self, "pool"):
            return
        holding = +self.held
        assert self.pool.used == len(holding)
        assert self.pool.used + self.pool.available == self.pool.total
        assert all(SCRATCH_PAGE < page <= self.pool.total for page in holding)

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            for page in (+self.held).elements():
                self.pool.release([page])
            assert (self.pool.used, self.pool.available) == (0, self.pool.total)
            everything = self.pool.allocate(self.pool.total)
            assert everything is not None
            assert len(set(everything)) == self.pool.total


TestPagePool = PoolMachine.TestCase
TestPagePool.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def filled(pool: PagePool, tokens: list[int], checkpoint: str = "base") -> list[int]:
    """Pages of a sequence that was computed, registered and released."""
    pages = pool.allocate(pool.pages_for(len(tokens)))
    assert pages is not None
    parent: str | int = checkpoint
    for place in range(len(tokens) // pool.page_tokens):
        start = place * pool.page_tokens
        parent = pool.register(pages[place], parent, tokens[start : start + pool.page_tokens])
    pool.release(pages)
    return pages


def test_at_least_one_token_is_left_to_compute() -> None:
    pool = PagePool(8, 2)
    pages = filled(pool, [1, 2, 3, 4])
    assert pool.match("base", [1, 2, 3, 4]).pages == pages[:1]
    assert pool.match("base", [1, 2, 3, 4, 5]).pages == pages


def test_equal_tokens_in_another_place_are_another_page() -> None:
    pool = PagePool(8, 2)
    filled(pool, [1, 2, 1, 2, 9])
    assert len(pool.match("base", [1, 2, 1, 2, 1, 2, 1]).pages) == 2
    assert pool.match("base", [2, 1, 2, 1, 2]).pages == []


def test_the_page_unused_for_longest_goes_first_and_later_pages_before_earlier_ones() -> None:
    pool = PagePool(4, 2)
    filled(pool, [1, 2, 3, 4])
    filled(pool, [5, 6, 7, 8])
    pool.allocate(1)
    assert len(pool.match("base", [5, 6, 7, 8, 0]).pages) == 2
    assert len(pool.match("base", [1, 2, 3, 4, 0]).pages) == 1


def test_a_match_makes_pages_recent() -> None:
    pool = PagePool(4, 2)
    filled(pool, [1, 2, 3, 4])
    filled(pool, [5, 6, 7, 8])
    pool.release(pool.match("base", [1, 2, 3, 4, 0]).pages)
    pool.allocate(2)
    assert len(pool.match("base", [1, 2, 3, 4, 0]).pages) == 2
    assert pool.match("base", [5, 6, 7, 8, 0]).pages == []


def test_pages_are_rounded_up() -> None:
    pool = PagePool(4, 16)
    assert [pool.pages_for(tokens) for tokens in (0, 1, 16, 17)] == [0, 1, 1, 2]
