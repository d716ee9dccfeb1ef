"""When a line of checkpoints is consolidated without anybody asking for it.

It takes about as long as all the rounds did whose lessons it teaches again, and no feedback is
learned meanwhile. So it is begun while none waits, and makes way for what comes; after that not
before feedback has rested for as long as it had taken by then, lest it be begun for ever and never
end. It is due after so many rounds, or as many as the last one was worth if these are more: then
all consolidations together take about as long as the rounds.

Limits: where feedback never rests there is none; the alarm about drift tells an operator then. What
is known here is forgotten with the process: after a restart it is counted from the base model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from learnback_store.manifest import Manifest


class Schedule:
    """Says when it is time.

    Args:
        every: Rounds between two; 0: never.
        round_size: Most feedback in a round.
        clock: Tells seconds.
    """

    def __init__(
        self, every: int, round_size: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._every, self._round_size, self._clock = every, round_size, clock
        self._counted_from = self._counted_before = 0
        """Rounds of the line that the last consolidation came to, or was refused at, and before."""
        self._heard, self._patience = -math.inf, 0.0

    def heard(self) -> None:
        """Notes that feedback has come."""
        self._heard = self._clock()

    def is_due(self, line: Sequence[Manifest]) -> bool:
        """Tells whether a checkpoint is to be consolidated, if no feedback waits.

        Args:
            line: Its manifest and those of its ancestors, newest first.
        """
        if not self._every or not line:
            return False
        if len(line) < self._counted_from:  # it was rolled back, or retrained by an erasure
            self._counted_from = 0
        worth = math.ceil(len(line[-1].feedback_ids) / self._round_size)
        rounds = len(line) - self._counted_from
        rested = self._clock() - self._heard
        return rounds >= max(self._every, worth) and rested >= self._patience

    def begun(self, line: Sequence[Manifest]) -> None:
        """Notes that a consolidation was begun; one that fails is not tried again at once.

        Args:
            line: Of what is live.
        """
        self._counted_before, self._counted_from = self._counted_from, len(line)

    def ended(self, line: Sequence[Manifest]) -> None:
        """Notes that the consolidation was published, or refused.

        Args:
            line: Of what is live after it.
        """
        self._counted_from, self._patience = len(line), 0.0

    def made_way(self, seconds: float) -> None:
        """Notes that the consolidation was given up for feedback after so long."""
        self._counted_from, self._patience = self._counted_before, seconds
