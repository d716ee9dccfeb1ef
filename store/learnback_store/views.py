"""The server's side of what became of feedback: get, list, watch.

Server and trainer may be on different machines, and the archive is the trainer's. So whoever moves
a piece of feedback also writes its live view to Redis, and the server reads nothing else. A view
can lag behind the archive by moments, while a trainer is down between the two; it never tells what
the archive did not know first. If Redis loses its data, views are missing until the trainer has
written them back from the archive (`settlement.recover_redis`). Views of feedback that was
settled long ago are pruned by the trainer; the archive keeps it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from learnback_store import scripts
from learnback_store.connection import AsyncClient, store_errors
from learnback_store.errors import FeedbackNotFoundError
from learnback_store.feedback import QueueStats
from learnback_store.keys import TRAINER_GROUP, Keys
from learnback_store.paging import FeedbackFilter, FeedbackPage, last_of, page_token
from learnback_store.records import Account, FeedbackRecord, FeedbackView

# Most views read for one page. A filter that matches little gives short pages with a token, rather
# than one call that reads everything.
MAX_LOOKED_AT = 1000
# Views read at once. Parsing them holds up the event loop for 2 ms.
_CHUNK = 50
# How often a watched view is looked at. A round takes seconds.
WATCH_SECONDS = 0.5


class FeedbackViews:
    """Tells where feedback stands. Lives on the event loop.

    Args:
        redis: The client.
        keys: Where to look.
    """

    def __init__(self, redis: AsyncClient, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def get(self, feedback_id: str) -> FeedbackView:
        """Returns one piece of feedback as it stands.

        Raises:
            FeedbackNotFoundError: There is none of this id, or its view was pruned.
            StoreUnavailableError: Redis is away.
        """
        found = await self._fetch([feedback_id])
        if not found:
            raise FeedbackNotFoundError("no feedback goes by this id")
        return found[0]

    async def page(
        self, wanted: FeedbackFilter, *, page_size: int = 50, token: str = ""
    ) -> FeedbackPage:
        """Returns a page of feedback, newest first. It can be short, or empty, and have a token.

        Raises:
            PageTokenError: The token is not of this list with these filters.
            StoreUnavailableError: Redis is away.
        """
        last = last_of(token, wanted.scope())
        found: list[FeedbackView] = []
        looked_at = 0
        while looked_at < MAX_LOOKED_AT:
            ids = await self._ids_after(last, wanted)
            found += [view for view in await self._fetch(ids) if wanted.matches(view)]
            if len(found) > page_size:  # one more than asked for: there is a next page
                kept = tuple(found[:page_size])
                return FeedbackPage(kept, page_token(kept[-1].feedback_id, wanted.scope()))
            if len(ids) < _CHUNK:
                return FeedbackPage(tuple(found), "")
            last = ids[-1]
            looked_at += len(ids)
        return FeedbackPage(tuple(found), page_token(last, wanted.scope()))

    async def watch(self, feedback_id: str) -> AsyncIterator[FeedbackView]:
        """Yields the feedback as it stands, then after each change, until its state is final.

        Raises:
            FeedbackNotFoundError: There is none of this id.
            StoreUnavailableError: Redis is away.
        """
        view = await self.get(feedback_id)
        yield view
        while not view.account.state.final:
            await asyncio.sleep(WATCH_SECONDS)
            latest = await self.get(feedback_id)
            if latest.account != view.account:
                view = latest
                yield view

    async def stats(self) -> QueueStats:
        """Tells how much waits for the trainer, and for how long.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        with store_errors():
            answer: Any = await self._redis.eval(
                scripts.STATS, 2, self._keys.queue, self._keys.dead, TRAINER_GROUP
            )
        return QueueStats.parse(answer)

    async def _ids_after(self, last: str, wanted: FeedbackFilter) -> list[str]:
        with store_errors():
            ids: Any = await self._redis.zrevrangebylex(
                self._index(wanted), f"({last}" if last else "+", "-", start=0, num=_CHUNK
            )
        return list(ids)

    def _index(self, wanted: FeedbackFilter) -> str:
        """The index with the fewest entries that has all of them."""
        if wanted.generation_id:
            return self._keys.by_generation(wanted.generation_id)
        if wanted.author:
            return self._keys.by_author(wanted.author)
        if wanted.checkpoint:
            return self._keys.by_checkpoint(wanted.checkpoint)
        return self._keys.feedback

    async def _fetch(self, ids: Sequence[str]) -> list[FeedbackView]:
        """Reads the views of these ids, in their order, less those that are gone."""
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipeline:
                for feedback_id in ids:
                    pipeline.hmget(self._keys.view(feedback_id), ["record", "account"])
                answers = await pipeline.execute()
        return [
            FeedbackView(FeedbackRecord.from_json(record), Account.from_json(account))
            for record, account in answers
            if record and account
        ]
