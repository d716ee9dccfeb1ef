"""The RPCs of LearningService, and nothing but the edge: what the trainer tells of itself.

The trainer leaves its status in Redis (`learnback_store.trainer_status`); beside it stand the
length of the queue and what is live on this very server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import grpc

from learnback.v1 import learning_pb2 as pb
from learnback.v1.learning_pb2_grpc import LearningServiceServicer
from learnback_server.catalog import Catalog
from learnback_server.lasting import until_closed
from learnback_server.limits import Admission
from learnback_server.store_errors import store_errors_told
from learnback_store.connection import AsyncClient
from learnback_store.errors import RecordUnreadableError
from learnback_store.keys import Keys
from learnback_store.protos import learning_to_proto
from learnback_store.trainer_status import TrainerStatus, read_status_async
from learnback_store.views import FeedbackViews

_log = logging.getLogger(__name__)

# How often a watched status is looked at. A step of a small model takes a tenth of a second.
_WATCH_SECONDS = 0.2

Context = grpc.aio.ServicerContext[object, object]


class LearningService(LearningServiceServicer):
    """Tells what learning does.

    Args:
        redis: Where the trainer leaves its status.
        keys: Where it lies there.
        views: Knows how long the queue is.
        catalog: Knows what is live here.
        calls: Gives places to calls that are answered at once.
        watchers: Gives places to calls that last.
    """

    def __init__(
        self,
        redis: AsyncClient,
        keys: Keys,
        views: FeedbackViews,
        catalog: Catalog,
        calls: Admission,
        watchers: Admission,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._views = views
        self._catalog = catalog
        self._calls = calls
        self._watchers = watchers

    async def GetLearningStatus(  # noqa: N802
        self, _request: pb.GetLearningStatusRequest, _context: Context
    ) -> pb.GetLearningStatusResponse:
        """Tells how learning stands."""
        with self._calls.place(), store_errors_told():
            return pb.GetLearningStatusResponse(status=await self._status())

    async def WatchLearningStatus(  # noqa: N802
        self, _request: pb.WatchLearningStatusRequest, _context: Context
    ) -> AsyncIterator[pb.WatchLearningStatusResponse]:
        """Streams how learning stands, now and whenever it changes."""
        with self._watchers.place(), store_errors_told():
            async for status in until_closed(self._changes(), self._watchers):
                yield pb.WatchLearningStatusResponse(status=status)

    async def _changes(self) -> AsyncIterator[pb.LearningStatus]:
        told = None
        while True:
            status = await self._status()
            if told is None or _but_for_age(status) != _but_for_age(told):
                told = status
                yield status
            await asyncio.sleep(_WATCH_SECONDS)

    async def _status(self) -> pb.LearningStatus:
        stats = await self._views.stats()
        live = self._catalog.live
        status = learning_to_proto(stats, await self._trainer())
        status.live_checkpoint, status.live_digest = live.name, live.digest
        return status

    async def _trainer(self) -> TrainerStatus:
        """What the trainer left; as of a trainer that never was, if nothing can be read."""
        try:
            found = await read_status_async(self._redis, self._keys)
        except RecordUnreadableError as error:
            _log.warning("the trainer's status is unreadable: %s", error)
            found = None
        return found or TrainerStatus(seen_ms=0)


def _but_for_age(status: pb.LearningStatus) -> pb.LearningStatus:
    """The status without what changes as time goes by."""
    bare = pb.LearningStatus()
    bare.CopyFrom(status)
    bare.ClearField("oldest_age")
    return bare
