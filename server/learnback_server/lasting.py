"""Streams that last: they end at once when the server drains, so that it need not wait for them.

A watcher is told SERVER_DRAINING, and finds what it watches on another server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

from learnback_server.errors import DrainingError
from learnback_server.limits import Admission

T = TypeVar("T")


async def until_closed(source: AsyncIterator[T], admission: Admission) -> AsyncIterator[T]:
    """Yields what the source yields, for as long as the admission is open.

    Raises:
        DrainingError: The admission was closed.
    """
    closed = asyncio.ensure_future(admission.closed())
    try:
        while True:
            try:
                yield await _next(source, closed)
            except StopAsyncIteration:
                return
    finally:
        closed.cancel()
        if isinstance(source, AsyncGenerator):
            await source.aclose()


async def _next(source: AsyncIterator[T], closed: asyncio.Future[None]) -> T:
    coming = asyncio.ensure_future(source.__anext__())
    try:
        await asyncio.wait((coming, closed), return_when=asyncio.FIRST_COMPLETED)
        if not coming.done():
            raise DrainingError
        return coming.result()
    finally:
        if not coming.done():
            # The source can be closed only once this step of it has ended.
            coming.cancel()
            await asyncio.wait([coming])
