"""What was asked and answered, kept for a while so that feedback can speak of it.

The server keeps each generation before it sends the final message. A generation that was answered
is never NOT_FOUND while its record lives: until Redis has taken a record it stands in memory, where
`get` looks first, and where it stays for a later try if Redis is away (at most `MAX_BACKLOG` of
them: the oldest are dropped first, with a word in the log, and are lost as well if the server ends
meanwhile). Another server finds a record as soon as Redis has it.

Records expire (7 days by default). The trainer samples them for anchors.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from learnback_store import scripts
from learnback_store.connection import AsyncClient, Client, store_errors
from learnback_store.errors import GenerationNotFoundError, StoreUnavailableError
from learnback_store.gathering import GatheringWriter
from learnback_store.keys import Keys
from learnback_store.records import GenerationRecord, now_ms

_log = logging.getLogger(__name__)

# Users criticise what they have just read; a week covers those who come back to it.
KEEP_SECONDS = 7 * 24 * 3600
# Records that wait in memory for Redis to come back. At 20 KB each, 80 MB.
MAX_BACKLOG = 4096
# Between two tries to write the backlog.
RETRY_SECONDS = 0.5
_RETRY_BATCH = 128


class GenerationLog:
    """Keeps and finds generations, for the server. Lives on the event loop.

    Args:
        redis: The client, for reading.
        writer: Carries the writes.
        keys: Where they go.
        keep_seconds: How long a record lives.
    """

    def __init__(
        self,
        redis: AsyncClient,
        writer: GatheringWriter,
        keys: Keys,
        keep_seconds: float = KEEP_SECONDS,
    ) -> None:
        self._redis = redis
        self._writer = writer
        self._keys = keys
        self._keep_ms = int(keep_seconds * 1000)
        self._fresh: dict[str, GenerationRecord] = {}
        """On their way to Redis."""
        self._backlog: dict[str, GenerationRecord] = {}
        """Wait for Redis to come back, oldest first."""
        self._retrying: asyncio.Task[None] | None = None
        self.dropped = 0
        """Records that were given up since the start, for want of room in the backlog."""

    @property
    def backlog(self) -> int:
        """Records that wait in memory for Redis to come back."""
        return len(self._backlog)

    async def keep(self, record: GenerationRecord) -> bool:
        """Keeps a record. From this call on, `get` finds it.

        Returns:
            Whether Redis has it; if not, it waits in memory and is written when Redis is back.
        """
        if self._backlog:  # Redis is away: waiting for its time-out again would help nobody
            self._put_off(record)
            return False
        self._fresh[record.generation_id] = record
        try:
            await self._write(record)
        except StoreUnavailableError as error:
            _log.warning("a generation waits in memory: %s", error)
            self._put_off(record)
            return False
        finally:
            self._fresh.pop(record.generation_id, None)
        return True

    async def get(self, generation_id: str) -> GenerationRecord:
        """Returns the record of a generation.

        Raises:
            GenerationNotFoundError: There is none of this id, or it has expired.
            StoreUnavailableError: Redis is away.
        """
        here = self._fresh.get(generation_id) or self._backlog.get(generation_id)
        if here is not None:
            return here
        with store_errors():
            text = await self._redis.get(self._keys.generation(generation_id))
        if text is None:
            raise GenerationNotFoundError("no generation goes by this id, or its record expired")
        return GenerationRecord.from_json(text)

    async def aclose(self) -> None:
        """Stops trying to write the backlog."""
        if self._retrying is not None:
            self._retrying.cancel()
            await asyncio.gather(self._retrying, return_exceptions=True)

    async def _write(self, record: GenerationRecord) -> None:
        indices = [self._keys.generations]
        if record.author:
            indices.append(self._keys.generations_by_author(record.author))
        await self._writer.run(
            scripts.KEEP_GENERATION,
            [self._keys.generation(record.generation_id), *indices],
            [record.generation_id, record.to_json(), now_ms(), self._keep_ms],
        )

    def _put_off(self, record: GenerationRecord) -> None:
        self._backlog[record.generation_id] = record
        while len(self._backlog) > MAX_BACKLOG:
            del self._backlog[next(iter(self._backlog))]
            self.dropped += 1
            _log.error("Redis has been away too long: a generation was dropped unrecorded")
        if self._retrying is None:
            self._retrying = asyncio.get_running_loop().create_task(self._retry())

    async def _retry(self) -> None:
        """Writes the backlog, oldest first, until it is empty."""
        try:
            while self._backlog:
                batch = list(self._backlog.values())[:_RETRY_BATCH]
                outcomes = await asyncio.gather(
                    *(self._write(record) for record in batch), return_exceptions=True
                )
                for record, outcome in zip(batch, outcomes, strict=True):
                    self._settle(record, outcome)
                if any(outcomes):
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._retrying = None

    def _settle(self, record: GenerationRecord, outcome: BaseException | None) -> None:
        if isinstance(outcome, StoreUnavailableError):
            return
        self._backlog.pop(record.generation_id, None)
        if outcome is not None:
            _log.error("a generation can't be recorded", exc_info=outcome)


class Traffic:
    """Generations as the trainer sees them: a source of prompts that nobody complained of.

    Every method raises StoreUnavailableError while Redis is away.

    Args:
        redis: The client.
        keys: Where they lie.
    """

    def __init__(self, redis: Client, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    def sample(self, count: int) -> list[GenerationRecord]:
        """Returns at most `count` different generations without feedback, drawn at random."""
        with store_errors():
            # Twice as many: some have feedback, some have expired.
            ids: Any = self._redis.zrandmember(self._keys.generations, 2 * count) or []
            with self._redis.pipeline(transaction=False) as pipeline:
                for generation_id in ids:
                    pipeline.get(self._keys.generation(generation_id))
                    pipeline.exists(self._keys.by_generation(generation_id))
                answers = pipeline.execute()
        texts = [
            text
            for text, criticised in zip(answers[::2], answers[1::2], strict=True)
            if text and not criticised
        ]
        return [GenerationRecord.from_json(text) for text in texts[:count]]

    def get(self, generation_ids: Sequence[str]) -> dict[str, GenerationRecord]:
        """Returns the records of these generations that have not expired, by id."""
        if not generation_ids:
            return {}
        with store_errors():
            texts: Any = self._redis.mget(map(self._keys.generation, generation_ids))
        records = (GenerationRecord.from_json(text) for text in texts if text)
        return {record.generation_id: record for record in records}

    def of_author(self, author: str) -> list[str]:
        """Returns the ids of an author's generations; some may have expired."""
        with store_errors():
            ids: Any = self._redis.zrange(self._keys.generations_by_author(author), 0, -1)
        return list(ids)

    def forget(self, generation_ids: Sequence[str], author: str) -> int:
        """Removes generations for good; returns how many there were.

        Args:
            generation_ids: Which.
            author: Whose index they leave.
        """
        index = self._keys.generations_by_author(author)
        with store_errors(), self._redis.pipeline(transaction=True) as pipeline:
            for generation_id in generation_ids:
                pipeline.delete(self._keys.generation(generation_id))
                pipeline.zrem(self._keys.generations, generation_id)
                pipeline.zrem(index, generation_id)
            removed = pipeline.execute()
        return sum(removed[::3])
