"""Gathers writes that come at about the same time into one pipeline.

With `appendfsync always` Redis syncs its disk before it answers: 250 to 570 single writes a second,
but 8,000 in pipelines of 100. So a write waits 2 ms for others, they go out together, and each
caller is answered after the sync. While a pipeline is on its way the next one fills, so under load
nobody waits for the clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis

from learnback_store.connection import AsyncClient, is_unavailable, store_errors, unavailable

# What a lone write waits for others. Half the time of an fsync on a common SSD.
GATHER_SECONDS = 0.002
# Most scripts in one pipeline. At 8,000 a second it holds up Redis' other callers for 16 ms.
MAX_PIPELINE = 128


@dataclass(slots=True)
class _Write:
    command: tuple[str | int, ...]
    done: asyncio.Future[Any]


class GatheringWriter:
    """Runs scripts (`scripts.py`) on Redis, together with what others write. Lives on the loop.

    Args:
        redis: The client. It stays the caller's, who closes it after this.
    """

    def __init__(self, redis: AsyncClient) -> None:
        self._redis = redis
        self._waiting: list[_Write] = []
        self._flushing: asyncio.Task[None] | None = None

    async def run(self, script: str, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        """Runs one script and returns what it gave, once that is as durable as Redis makes it.

        If the connection breaks, it is sent once more: the script must bear running twice.

        Raises:
            StoreUnavailableError: Redis can't be reached or can't write.
        """
        loop = asyncio.get_running_loop()
        write = _Write(("EVAL", script, len(keys), *keys, *args), loop.create_future())
        self._waiting.append(write)
        if self._flushing is None:
            self._flushing = loop.create_task(self._flush())
        return await write.done

    async def aclose(self) -> None:
        """Waits until everything that was asked for is written or has failed."""
        while self._flushing is not None:
            await asyncio.shield(self._flushing)

    async def _flush(self) -> None:
        try:
            await asyncio.sleep(GATHER_SECONDS)
            while self._waiting:
                batch = self._waiting[:MAX_PIPELINE]
                del self._waiting[:MAX_PIPELINE]
                await self._send(batch)
        finally:
            self._flushing = None

    async def _send(self, batch: list[_Write]) -> None:
        """Sends a batch and answers each caller; never raises."""
        try:
            with store_errors():
                answers = await self._execute_twice(batch)
        except Exception as error:  # noqa: BLE001  # whatever it is, the callers get it
            answers = [error] * len(batch)
        for write, answer in zip(batch, answers, strict=True):
            _settle(write.done, answer)

    async def _execute_twice(self, batch: list[_Write]) -> list[Any]:
        """A connection that idled through a restart of Redis fails once; the next one is fresh."""
        try:
            return await self._execute(batch)
        except redis.ConnectionError:
            return await self._execute(batch)

    async def _execute(self, batch: list[_Write]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for write in batch:
                pipeline.execute_command(*write.command)
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
            return answers


def _settle(done: asyncio.Future[Any], answer: object) -> None:
    if done.done():  # its caller was cancelled
        return
    if not isinstance(answer, Exception):
        done.set_result(answer)
    elif isinstance(answer, redis.RedisError) and is_unavailable(answer):
        done.set_exception(unavailable(answer))
    else:
        done.set_exception(answer)
