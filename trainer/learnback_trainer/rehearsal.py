"""Which anchors a step rehearses: some by turns, and those that have moved most.

A lesson does not pull at all anchors alike. Most stay where they are by themselves, a few go along
with it, and by turns alone those are held a few times in a round, which may not be enough: a
corrected capital took the one with it whose answer it had been given by mistake. So a part of each
step goes to those that had moved furthest when they were last looked at. (Replay by priority:
Schaul et al. 2016, of what interferes: Aljundi et al. 2019.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import TypeVar

# Of the anchors of a step, one in so many is taken by how far it had moved.
_BY_MOVE = 3
# Anchors that have moved by no more nats a token are where they should be.
_STILL_NATS = 1e-3

_Item = TypeVar("_Item")


class Rehearsal:
    """Draws places of anchors.

    Args:
        anchors: How many there are.
        count: How many a step rehearses.
        rng: Decides on the turns.
    """

    def __init__(self, anchors: int, count: int, rng: Random) -> None:
        self._by_turns = min(count, anchors) - min(count, anchors) // _BY_MOVE
        self._count = min(count, anchors)
        self._turns = by_turns(range(anchors), rng)
        self._moved: dict[int, float] = {}

    def next(self) -> list[int]:
        """Returns the places of a step, each once, those by turns first."""
        drawn = [next(self._turns) for _ in range(self._by_turns)]
        furthest = sorted(self._moved, key=self._moved.__getitem__, reverse=True)
        taken = dict.fromkeys(drawn)
        for place in furthest[: self._count]:
            if len(taken) < self._count:
                taken.setdefault(place)
        while len(taken) < self._count:
            taken.setdefault(next(self._turns))
        return list(taken)

    def note(self, places: Sequence[int], nats: Sequence[float]) -> float:
        """Notes how far the anchors of a step had moved.

        Args:
            places: From `next`.
            nats: Of each, a token.

        Returns:
            The mean of those that came by turns, which tells how far all have moved.
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
