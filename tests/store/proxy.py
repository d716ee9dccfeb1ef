"""A TCP proxy before a unix socket that can swallow replies, to play a broken network."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.parse
from collections.abc import AsyncIterator


class Proxy:
    """Passes bytes on; with `deaf`, passes requests on and drops every reply."""

    def __init__(self, redis_url: str) -> None:
        self._path = urllib.parse.unquote(urllib.parse.urlsplit(redis_url).path)
        self.deaf = False
        self.cut_after_request = 0
        """Connections to close as soon as a request with EVAL was passed on."""
        self.port = 0

    @contextlib.asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield f"redis://127.0.0.1:{self.port}/0"
        finally:
            server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_redis, to_redis = await asyncio.open_unix_connection(self._path)
        replies = asyncio.create_task(self._replies(from_redis, writer))
        try:
            while data := await reader.read(65536):
                cut = self.cut_after_request > 0 and b"EVAL" in data
                if cut:
                    self.cut_after_request -= 1
                    replies.cancel()
                to_redis.write(data)
                await to_redis.drain()
                if cut:
                    await from_redis.read(1)  # Redis has done it
                    return
        finally:
            replies.cancel()
            to_redis.close()
            writer.close()

    async def _replies(
        self, from_redis: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await from_redis.read(65536):
            if not self.deaf:
                writer.write(data)
