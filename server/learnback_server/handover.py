"""What the server and the trainer hand to each other, as the server holds it.

Redis need not be there when the server starts, nor later: answers never wait for it for long
(`records.py`), and calls that need it are refused until it is back.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import grpc

from learnback.v1 import (
    checkpoints_pb2,
    checkpoints_pb2_grpc,
    feedback_pb2,
    feedback_pb2_grpc,
    learning_pb2,
    learning_pb2_grpc,
)
from learnback_server.catalog import Catalog
from learnback_server.checkpoint_service import CheckpointService
from learnback_server.config import ServerConfig
from learnback_server.engine.options import ModelFacts
from learnback_server.feedback_service import FeedbackService
from learnback_server.learning_service import LearningService
from learnback_server.limits import Admission
from learnback_server.metrics import ServerMetrics
from learnback_store.aliases import Aliases
from learnback_store.announcements import watch_aliases
from learnback_store.checkpoints import CheckpointStore, open_checkpoints
from learnback_store.connection import (
    AsyncClient,
    Client,
    connect,
    connect_async,
    store_errors,
)
from learnback_store.erasures import ErasureDesk
from learnback_store.errors import StoreUnavailableError
from learnback_store.gathering import GatheringWriter
from learnback_store.generations import GenerationLog
from learnback_store.inbox import FeedbackInbox
from learnback_store.keys import Keys
from learnback_store.views import FeedbackViews

_log = logging.getLogger(__name__)

FEEDBACK = feedback_pb2.DESCRIPTOR.services_by_name["FeedbackService"].full_name
CHECKPOINTS = checkpoints_pb2.DESCRIPTOR.services_by_name["CheckpointService"].full_name
LEARNING = learning_pb2.DESCRIPTOR.services_by_name["LearningService"].full_name

# Calls of these services inside at once. Each waits for Redis or a disk, and holds one request.
_MAX_CALLS = 1024
# Each asks Redis twice a second, or holds a connection to it.
_MAX_WATCHERS = 256


def hints(config: ServerConfig) -> dict[str, str]:
    """Returns how to have the services that are switched off, by name."""
    told = {}
    if not config.redis_url:
        told[FEEDBACK] = "start it with --redis-url to have feedback taken"
        told[LEARNING] = "start it with --redis-url to have anything learned"
    if not (config.redis_url and config.checkpoint_dir):
        told[CHECKPOINTS] = "start it with --redis-url and --checkpoint-dir to administer them"
    return told


@dataclass(frozen=True, slots=True)
class Handover:
    """The connection to Redis and what goes through it, from start to end of the server."""

    redis: AsyncClient
    keys: Keys
    writer: GatheringWriter
    generations: GenerationLog
    checkpoints: CheckpointStore | None
    calls: Admission
    watchers: Admission
    scrapes: Client
    """For what Prometheus asks, on threads of its own."""
    log_texts: bool
    """Whether to log what feedback says."""

    @classmethod
    def open(cls, config: ServerConfig) -> Handover:
        """Returns the hand-over that is configured; nothing is sent yet.

        Raises:
            CheckpointHomeError: The place of checkpoints can't be used.
        """
        cache = Path(config.checkpoint_cache) if config.checkpoint_cache else None
        redis = connect_async(config.redis_url)
        writer = GatheringWriter(redis)
        keys = Keys(config.redis_namespace)
        return cls(
            redis,
            keys,
            writer,
            GenerationLog(redis, writer, keys, config.generation_expiry),
            open_checkpoints(config.checkpoint_dir, cache) if config.checkpoint_dir else None,
            Admission(_MAX_CALLS),
            Admission(_MAX_WATCHERS),
            connect(config.redis_url),
            config.log_texts,
        )

    def serve(
        self, server: grpc.aio.Server, facts: ModelFacts, catalog: Catalog, metrics: ServerMetrics
    ) -> list[str]:
        """Puts the services on a server; returns their names."""
        views = FeedbackViews(self.redis, self.keys)
        feedback = FeedbackService(
            FeedbackInbox(self.writer, self.keys),
            views,
            self.generations,
            ErasureDesk(self.writer, self.keys),
            self.calls,
            self.watchers,
            metrics.feedback_taken,
            log_texts=self.log_texts,
        )
        metrics.store.watch(self.scrapes, self.keys)
        metrics.watch_backlog(lambda: self.generations.backlog)
        feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(feedback, server)
        learning = LearningService(self.redis, self.keys, views, catalog, self.calls, self.watchers)
        learning_pb2_grpc.add_LearningServiceServicer_to_server(learning, server)
        if self.checkpoints is None:
            return [FEEDBACK, LEARNING]
        checkpoints = CheckpointService(
            self.checkpoints, self.redis, self.keys, facts, self.calls, self.watchers
        )
        checkpoints_pb2_grpc.add_CheckpointServiceServicer_to_server(checkpoints, server)
        return [FEEDBACK, LEARNING, CHECKPOINTS]

    def aliases(self) -> AsyncGenerator[Aliases]:
        """Yields where the aliases of checkpoints point, now and whenever one has moved."""
        if self.checkpoints is None:
            raise ValueError("no place of checkpoints is configured")
        return watch_aliases(self.checkpoints, self.redis, self.keys)

    @property
    def doors(self) -> tuple[Admission, ...]:
        """What counts the calls inside."""
        return self.calls, self.watchers

    async def greet(self) -> None:
        """Says in the log whether Redis is there."""
        try:
            with store_errors():
                await self.redis.ping()
        except StoreUnavailableError as error:
            _log.warning("feedback is refused until Redis is there: %s", error)
        else:
            _log.info("feedback goes to Redis")

    def close_doors(self) -> None:
        """Takes no more calls from now on, and ends the watchers."""
        for door in self.doors:
            door.close()

    async def aclose(self) -> None:
        """Lets go of Redis, after what is on its way has arrived."""
        if self.generations.backlog:
            _log.warning("%d records never reached Redis", self.generations.backlog)
        await self.generations.aclose()
        await self.writer.aclose()
        await self.redis.aclose()
        self.scrapes.close()
