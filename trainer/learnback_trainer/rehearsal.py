"""Which anchors a step rehearses: some by turns, and those that have moved most.

A lesson does not pull at all anchors alike. Most stay where they are by themselves, a few go along
with it, and by turns alone those are held a few times in a round, which may not be enough: a
corrected capital took the one with it whose answer it had been given by mistake. So half of each
step goes to those that had moved furthest when they were last looked at, each followed by another
one of its kind: what moves one note moves others. All are looked at every few steps (`update.py`),
for by turns it would take a round to find them. (Replay by priority: Schaul et al. 2016, of what
interferes: Aljundi et al. 2019.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from itertools import islice
from random import Random
from typing import TypeVar

# Of the anchors of a step, one in so many is taken by how far it had moved.
_BY_MOVE = 2
# Anchors that have moved by no more nats a token are where they should be.
_STILL_NATS = 1e-3

_Item = TypeVar("_Item")


class Rehearsal:
    """Draws places of anchors.

    Args:
        kinds: Of each anchor; None: of a kind of its own.
        count: How many a step rehearses.
        rng: Decides on the turns.
    """

    def __init__(self, kinds: Sequence[Hashable], count: int, rng: Random) -> None:
        self._count = min(count, len(kinds))
        self._by_turns = self._count - self._count // _BY_MOVE
        self._turns = by_turns(range(len(kinds)), rng)
        members = defaultdict[Hashable, list[int]](list)
        for place, kind in enumerate(kinds):
            members[kind].append(place)
        own = {kind: by_turns(some, rng) for kind, some in members.items() if kind is not None}
        self._of_kind = [own.get(kind, iter(())) for kind in kinds]
        self._moved: dict[int, float] = {}

    def next(self) -> list[int]:
        """Returns the places of a step, each once, those by turns first."""
        drawn = [next(self._turns) for _ in range(self._by_turns)]
        furthest = sorted(self._moved, key=self._moved.__getitem__, reverse=True)
        taken = dict.fromkeys(drawn)
        for place in furthest:
            if len(taken) < self._count:
                taken.setdefault(place)
            if len(taken) < self._count:
                taken.update(dict.fromkeys(islice(self._of_kind[place], 1)))
        while len(taken) < self._count:
            taken.setdefault(next(self._turns))
        return list(taken)

    def note(self, places: Sequence[int], nats: Sequence[float]) -> float:
        """Notes how far anchors had moved.

        Args:
            places: From `next`, or all.
            nats: Of each, a token.

        Returns:
            Of a step, the mean of those that came by turns, which tells how far all have moved.
        """
        for place, moved in zip(places, nats, strict=True):
            if moved > _STILL_NATS:
                self._moved[place] = moved
            else:
                self._moved.pop(place, None)
        fair = nats[: self._by_turns]
        return sum(fair) / len(fair) if fair else 0.0


def by_turns(items: Sequence[_Item], rng: Random) -> Iterator[_Item]:
    """Yields items without end, in another order each time; all come before any comes again."""
    while items:
        yield from rng.sample(items, len(items))
