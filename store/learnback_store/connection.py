"""Connecting to Redis by URL.

    redis://[[user]:password@]host:port/db        rediss:// for TLS
    unix://[[user]:password@]/path/to/socket?db=0
    redis+sentinel://[[user]:password@]host:port,host:port/service[/db]     rediss+sentinel://

With Sentinel, user and password go to the Redis servers and, as is usual, to the Sentinels too.

redis-py repeats a command up to 10 times by default, and so wrote one entry twice when a reply was
late. Repeating is off here; whoever wants to repeat does so with a script that can bear it
(`scripts.py`). Time-outs are bounded, so that a Redis that is gone is noticed in seconds.
"""

from __future__ import annotations

import contextlib
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.backoff
import redis.retry
import redis.sentinel

from learnback_store.errors import StoreUnavailableError

# A server in the same data centre answers in a millisecond; one in another continent in 300.
CONNECT_SECONDS = 1.0
# A command waits for an fsync (appendfsync always), which a busy disk delays by a second or so.
REPLY_SECONDS = 3.0
# Calls wait for Redis side by side, each on a connection while it does. The library's bound of 100
# refuses the next one; Redis itself takes 10,000.
MOST_CONNECTIONS = 2_000

_SENTINEL_SCHEMES = {"redis+sentinel": False, "rediss+sentinel": True}
_SENTINEL_PORT = 26379

# What Redis says when it is there, but can't take a write now. The first word of the reply.
_UNABLE = (
    "MISCONF", "OOM", "READONLY", "LOADING", "BUSY", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS",
    "TRYAGAIN", "NOAUTH", "WRONGPASS", "NOPERM",
)  # fmt: skip
# Before version 7 it says so to a script, and what it says to us is that the script failed by that.
_SAID_TO_SCRIPT = re.compile(r"Error running script .*@user_script: ?\d+: -(?P<said>[A-Z]+ .*)")

Client = redis.Redis
AsyncClient = redis.asyncio.Redis


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """A parsed `redis+sentinel://` URL."""

    hosts: tuple[tuple[str, int], ...]
    service: str
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False


def parse_sentinel_url(url: str) -> SentinelUrl | None:
    """Returns the parts of a Sentinel URL; None if it is a URL of another kind.

    Raises:
        ValueError: It begins like one, but hosts, service or database are missing or wrong.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in _SENTINEL_SCHEMES:
        return None
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    service, _, db = parts.path.strip("/").partition("/")
    if not hosts or not service or not (db or "0").isdigit():
        raise ValueError("a Sentinel URL is redis+sentinel://host:port,host:port/service/db")
    return SentinelUrl(
        hosts=tuple(_host(host) for host in hosts.split(",")),
        service=urllib.parse.unquote(service),
        db=int(db or 0),
        username=urllib.parse.unquote(username) or None,
        password=urllib.parse.unquote(password) or None,
        tls=_SENTINEL_SCHEMES[parts.scheme],
    )


def _host(text: str) -> tuple[str, int]:
    split = urllib.parse.urlsplit(f"//{text}")
    if not split.hostname:
        raise ValueError(f"{text!r} is no host of a Sentinel")
    return split.hostname, split.port or _SENTINEL_PORT


def connect(url: str) -> Client:
    """Returns a client; nothing is sent before its first command.

    Raises:
        ValueError: The URL is of no form that is known.
    """
    options = _options() | {"retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0)}
    sentinel = parse_sentinel_url(url)
    if sentinel is None:
        return redis.Redis.from_url(url, **options)
    kind: Any = redis.sentinel.Sentinel  # untyped
    guard = kind(sentinel.hosts, sentinel_kwargs=_credentials(sentinel) | options, **options)
    client: Client = guard.master_for(sentinel.service, db=sentinel.db, **_credentials(sentinel))
    return client


def connect_async(url: str) -> AsyncClient:
    """Returns a client for asyncio; nothing is sent before its first command.

    Raises:
        ValueError: The URL is of no form that is known.
    """
    options = _options() | {"retry": redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0)}
    sentinel = parse_sentinel_url(url)
    if sentinel is None:
        return redis.asyncio.Redis.from_url(url, **options)
    kind: Any = redis.asyncio.sentinel.Sentinel  # untyped
    guard = kind(sentinel.hosts, sentinel_kwargs=_credentials(sentinel) | options, **options)
    master = guard.master_for(sentinel.service, db=sentinel.db, **_credentials(sentinel))
    client: AsyncClient = master
    return client


def _options() -> dict[str, Any]:
    return {
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": REPLY_SECONDS,
        "max_connections": MOST_CONNECTIONS,
        "decode_responses": True,
        # The older of the two, which every server from 6.2 on speaks alike.
        "protocol": 2,
    }


def _credentials(url: SentinelUrl) -> dict[str, Any]:
    return {"username": url.username, "password": url.password, "ssl": url.tls}


@contextlib.contextmanager
def store_errors() -> Iterator[None]:
    """Makes what redis-py raises when Redis is away a `StoreUnavailableError`.

    Raises:
        StoreUnavailableError: Redis can't be reached, or can't do its work now.
    """
    try:
        yield
    except (redis.RedisError, OSError) as error:
        if not is_unavailable(error):
            raise
        raise unavailable(error) from error


def is_unavailable(error: BaseException) -> bool:
    """Tells whether this means that Redis is away, rather than a mistake of ours."""
    if isinstance(error, redis.ResponseError):
        wrapped = _SAID_TO_SCRIPT.search(str(error))
        said = wrapped["said"] if wrapped else str(error)
        return said.startswith(_UNABLE) or isinstance(
            error, redis.exceptions.OutOfMemoryError | redis.exceptions.ReadOnlyError
        )
    return isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError)


def unavailable(error: BaseException) -> StoreUnavailableError:
    """Returns the error as one of the store."""
    return StoreUnavailableError(f"Redis can't be used now: {type(error).__name__}: {error}")
