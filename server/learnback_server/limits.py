"""How many calls may be inside at once, and closing the door when the server drains.

The engine bounds its own queue; this bounds what stands in front of it, so that a flood is refused
before anything is tokenised. `Quotas` bounds what one tenant may have of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from learnback_server.errors import DrainingError, QueueFullError, QuotaExceededError


class Admission:
    """Counts the calls that are inside. Lives on the event loop.

    Args:
        places: Most calls at once.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._inside = 0
        self._closed = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def inside(self) -> int:
        """Number of calls inside now."""
        return self._inside

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds a place for one call.

        Raises:
            DrainingError: The server shuts down.
            QueueFullError: All places are taken.
        """
        if self._closed.is_set():
            raise DrainingError
        if self._inside >= self._places:
            raise QueueFullError
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    def close(self) -> None:
        """Takes no more calls from now on."""
        self._closed.set()

    async def closed(self) -> None:
        """Waits until no more calls are taken."""
        await self._closed.wait()

    async def emptied(self, seconds: float) -> bool:
        """Waits until nobody is inside; returns whether that came about in time."""
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except TimeoutError:
            return False
        return True


class Quotas:
    """Counts the generations that each tenant has inside. Lives on the event loop."""

    def __init__(self) -> None:
        self._inside: Counter[str] = Counter()

    @contextmanager
    def place(self, tenant: str, most: int | None) -> Iterator[None]:
        """Holds one generation of a tenant, of which it may have `most`; None is any number.

        Raises:
            QuotaExceededError: It has them.
        """
        if most is not None and self._inside[tenant] >= most:
            raise QuotaExceededError(tenant, most)
        self._inside[tenant] += 1
        try:
            yield
        finally:
            self._inside[tenant] -= 1
            if not self._inside[tenant]:
                del self._inside[tenant]
