"""Rows stand in places that hold what their pages hold, whoever comes, leaves or is set back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learnback_server.engine.attention import KeyValueCache
from learnback_server.engine.kept import KeptRows, Places, Standing

PAGE_TOKENS = 4
PAGES = 64
FATES = st.sampled_from(["stay", "stay", "stay", "leave", "set back", "aside"])


@dataclass(eq=False)
class Answered:
    """A sequence of so many computed tokens."""

    pages: list[int] = field(default_factory=list)
    computed: int = 0
    tokens: list[int] = field(default_factory=list)


class Desk:
    """A cache of one layer, sequences on it, and the places of one network."""

    def __init__(self) -> None:
        self.cache = KeyValueCache(PAGES, PAGE_TOKENS)
        some = torch.zeros(1, 1, 2)
        self.layer = self.cache.layer(0, some, some)
        self.kept = KeptRows(self.cache)
        self.free = list(range(1, PAGES + 1))
        self.written = 0

    def compute(self, one: Answered, count: int) -> list[int]:
        """Puts new numbers for so many tokens into pages, and tells their slots."""
        while len(one.pages) * PAGE_TOKENS < one.computed + count:
            one.pages.append(self.free.pop())
        slots = []
        for token in range(one.computed, one.computed + count):
            page, offset = divmod(token, PAGE_TOKENS)
            slots.append(one.pages[page] * PAGE_TOKENS + offset)
            self.written += 1
            for half, sign in zip(self.layer, (1, -1), strict=True):
                half.by_token[slots[-1]] = sign * self.written
        return slots

    def give_up(self, one: Answered) -> None:
        """Takes a sequence's pages; others may get them."""
        self.free = one.pages + self.free
        one.pages, one.computed = [], 0

    def step(self, rows: list[tuple[Answered | None, int]], prompt: bool) -> Places:
        """A step as the engine takes it, that puts new tokens into pages and places."""
        slots = [self.compute(one, count) if one else [] for one, count in rows]
        computed = np.array([one.computed if one else 0 for one, _ in rows])
        lengths = computed + [count for _, count in rows]
        width = -(-int(lengths.max()) // PAGE_TOKENS)
        tables = np.zeros((len(rows), width), dtype=np.int64)
        for row, (one, _) in enumerate(rows):
            if one is not None:
                tables[row, : len(one.pages)] = one.pages
        owners = [one for one, _ in rows]
        places = self.kept.seat(Standing(owners, tables, computed, lengths, width, prompt))
        assert places is not None
        for place, row in enumerate(places.order):
            for token, slot in enumerate(slots[row], computed[row]):
                for room, half in zip(places.rooms, self.layer, strict=True):
                    room[place, token] = half.by_token[slot]
        for one, count in rows:
            if one is not None:
                one.computed += count
        return places

    def check(self, rows: list[tuple[Answered | None, int]], places: Places) -> None:
        """Asserts that each row is in one place, with all its tokens."""
        assert sorted(places.order) == list(range(len(rows)))
        for place, row in enumerate(places.order):
            one, _ = rows[row]
            if one is None:
                continue
            for token in range(one.computed):
                page, offset = divmod(token, PAGE_TOKENS)
                for room, half in zip(places.rooms, self.layer, strict=True):
                    assert torch.equal(room[place, token], half.paged[one.pages[page], offset])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_row_is_whole_in_its_place(data: st.DataObject) -> None:
    desk = Desk()
    living: list[Answered] = []
    for _ in range(data.draw(st.integers(2, 12), label="steps")):
        for one in list(living):
            fate = data.draw(
                st.sampled_from(["stay", "stay", "stay", "leave", "set back", "aside"])
            )
            if fate == "leave":
                living.remove(one)
                desk.give_up(one)
            elif fate == "set back":
                desk.give_up(one)
            elif fate == "aside":  # computed by a step of another kind
                desk.compute(one, 1)
                one.computed += 1
        if len(living) < 5 and data.draw(st.booleans()):
            living.append(Answered())
        reading = [one for one in living if not one.computed][:1]
        rows: list[tuple[Answered | None, int]] = [(one, 1) for one in living if one.computed]
        rows = data.draw(st.permutations(rows))
        rows += [(None, 1)] * data.draw(st.integers(0, 2))
        rows += [(one, data.draw(st.integers(2, 9))) for one in reading]
        if rows and len(desk.free) > 16:
            places = desk.step(rows, prompt=bool(reading))
            if reading:
                assert places.order[-1] == len(rows) - 1
            desk.check(rows, places)


def test_nothing_is_copied_for_those_who_stay() -> None:
    desk = Desk()
    staying, other = Answered(), Answered()
    desk.step([(staying, 9)], prompt=True)
    desk.step([(staying, 1), (other, 3)], prompt=True)
    for half in desk.layer:
        half.paged.fill_(1e6)  # whatever is copied now can be told
    places = desk.step([(staying, 1), (other, 1)], prompt=False)
    for room in places.rooms:
        assert not (room[0, :10] == 1e6).any()
        assert not (room[1, :3] == 1e6).any()


def test_what_was_cleared_is_in_no_place() -> None:
    desk = Desk()
    broken = Answered()
    desk.step([(broken, 6)], prompt=True)
    for room in desk.step([(broken, 1)], prompt=False).rooms:
        room.fill_(torch.nan)
    desk.cache.clear(broken.pages)
    places = desk.step([(Answered(), 2)], prompt=True)
    assert all(torch.isfinite(room).all() for room in places.rooms)


def test_too_many_rows_have_no_places() -> None:
    desk = Desk()
    many = 1_000
    nothing, one = np.zeros(many, dtype=np.int64), np.ones(many, dtype=np.int64)
    standing = Standing([None] * many, nothing[:, None], nothing, one, pages=1, prompt=False)
    assert desk.kept.seat(standing) is None
    desk.step([(Answered(), 2)], prompt=True)  # fewer have


def test_a_step_that_failed_left_nothing() -> None:
    desk = Desk()
    one = Answered()
    rows = [(one, 6)]
    desk.step([(one, 6)], prompt=True)
    for room in desk.step([(one, 1)], prompt=False).rooms:
        room.zero_()
    desk.kept.forget()
    desk.check(rows, desk.step([(one, 1)], prompt=False))
