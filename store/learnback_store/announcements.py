"""Telling servers that an alias has moved.

The record of aliases is the truth; a message on a Redis channel only says "look now". So a lost
message, or Redis being away, costs the time to the next look (1 s) and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator

from learnback_store.aliases import Aliases
from learnback_store.checkpoints import CheckpointStore
from learnback_store.connection import AsyncClient, Client, store_errors
from learnback_store.errors import RecordUnreadableError, StoreUnavailableError
from learnback_store.keys import Keys

_log = logging.getLogger(__name__)

# Between two looks at the aliases without an announcement. A look is a read of a few hundred bytes,
# or one list of an object store.
POLL_SECONDS = 1.0
# Between two tries to listen while Redis is away.
_RECONNECT_SECONDS = 1.0
# A message comes at once; this only bounds how long one wait inside redis-py is.
_LISTEN_SECONDS = 1.0


def announce(redis: Client, keys: Keys, serial: int) -> None:
    """Tells every server to look at the aliases.

    Raises:
        StoreUnavailableError: Redis is away; servers will look by themselves.
    """
    with store_errors():
        redis.publish(keys.aliases, serial)


async def announce_async(redis: AsyncClient, keys: Keys, serial: int) -> None:
    """As `announce`, on the event loop."""
    with store_errors():
        await redis.publish(keys.aliases, serial)


async def watch_aliases(
    checkpoints: CheckpointStore, redis: AsyncClient, keys: Keys
) -> AsyncGenerator[Aliases]:
    """Yields the aliases now and whenever one has moved, for as long as it is iterated.

    It goes on through everything: aliases that can't be read are logged, and read again at the next
    look.
    """
    look = asyncio.Event()
    listener = asyncio.create_task(_listen(redis, keys, look))
    serial = -1
    try:
        while True:
            look.clear()
            aliases = await _read(checkpoints)
            if aliases is not None and aliases.serial != serial:
                serial = aliases.serial
                yield aliases
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(look.wait(), POLL_SECONDS)
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)


async def _read(checkpoints: CheckpointStore) -> Aliases | None:
    try:
        return await asyncio.to_thread(checkpoints.aliases)
    except (OSError, RecordUnreadableError, StoreUnavailableError) as error:
        _log.warning("the aliases can't be read now: %s", error)
        return None


async def _listen(redis: AsyncClient, keys: Keys, look: asyncio.Event) -> None:
    """Sets the event at each announcement; connects again for ever."""
    while True:
        try:
            with store_errors():
                await _listen_once(redis, keys, look)
        except StoreUnavailableError as error:
            _log.debug("no announcements for now: %s", error)
            await asyncio.sleep(_RECONNECT_SECONDS)


async def _listen_once(redis: AsyncClient, keys: Keys, look: asyncio.Event) -> None:
    async with redis.pubsub(ignore_subscribe_messages=True) as channel:
        await channel.subscribe(keys.aliases)
        look.set()  # what was announced before the subscription
        while True:
            if await channel.get_message(timeout=_LISTEN_SECONDS) is not None:
                look.set()
