"""Erasing an author: the receipt, and how server and trainer hand the request to each other.

The server queues a request in one script and answers with the receipt as it stands; a repeat of the
request id tells how far it has come. The trainer takes the request into the archive, which owns it
from then on (`archive_erasures.py`), carries it out between two rounds, and writes each state back
here. The author's name stands in Redis and in the archive only until the erasure is done; the
receipt bears nothing of them but a hash.
"""

from __future__ import annotations

import enum
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from learnback_store import scripts
from learnback_store.codec import Record
from learnback_store.connection import Client, store_errors
from learnback_store.digests import text_digest
from learnback_store.errors import RequestIdReusedError
from learnback_store.gathering import GatheringWriter
from learnback_store.keys import Keys, digest_of
from learnback_store.records import now_ms

_ID_RANDOM_BYTES = 8


class ErasureState(enum.StrEnum):
    """How far an erasure has come. Names equal those of `learnback.v1.ErasureState`."""

    PURGING = "purging"
    RETRAINING = "retraining"
    RETIRING = "retiring"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Erasure(Record):
    """The receipt of an erasure. It bears no text of the author."""

    schema: ClassVar[str] = "learnback.erasure/1"

    erasure_id: str
    author_digest: str
    """`digests.text_digest` of the author's name."""
    state: ErasureState = ErasureState.PURGING
    feedback_purged: int = 0
    generations_purged: int = 0
    tainted: tuple[str, ...] = ()
    """Checkpoints that had learned from the author, oldest first."""
    clean: str = ""
    """What serves without the author; set on DONE if any was tainted."""
    create_ms: int = field(default_factory=now_ms)
    done_ms: int | None = None

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.state is ErasureState.DONE


@dataclass(frozen=True, slots=True)
class ErasureRequest:
    """An erasure as it was asked for."""

    request: str
    """Digest of the request id."""
    author: str
    """Empty once it is done."""
    erasure: Erasure


def new_erasure(author: str) -> Erasure:
    """Returns the receipt of an erasure that was just asked for; its id sorts by time."""
    erasure_id = f"er-{time.time_ns():016x}{secrets.token_hex(_ID_RANDOM_BYTES)}"
    return Erasure(erasure_id, text_digest(author))


class ErasureDesk:
    """The server's side: takes requests, and tells how far they have come. Lives on the loop.

    Args:
        writer: Carries the writes.
        keys: Where they go.
    """

    def __init__(self, writer: GatheringWriter, keys: Keys) -> None:
        self._writer = writer
        self._keys = keys

    async def request(self, author: str, request_id: str) -> Erasure:
        """Queues an erasure, or tells how far it has come if the request id is known.

        Args:
            author: Whom to erase.
            request_id: The caller's id of the call; not empty.

        Raises:
            RequestIdReusedError: The request id was used for another author.
            StoreUnavailableError: Redis is away; see there for what was written.
        """
        request, asked = digest_of(request_id), new_erasure(author)
        answer, receipt = await self._writer.run(
            scripts.ASK_ERASURE,
            [self._keys.erasure(request), self._keys.erasures],
            [request, asked.author_digest, asked.to_json(), author],
        )
        known = Erasure.from_json(receipt)
        if answer == "reused":
            raise RequestIdReusedError(
                f"this request_id was used for the erasure {known.erasure_id} of another author; "
                "use a fresh one"
            )
        return known


class ErasureTray:
    """The trainer's side: finds requests, and writes back how far they have come.

    Every method raises StoreUnavailableError while Redis is away.

    Args:
        redis: The client.
        keys: Where they lie.
    """

    def __init__(self, redis: Client, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    def open(self) -> list[ErasureRequest]:
        """Returns what was asked for and is not done, oldest first."""
        with store_errors():
            requests: Any = self._redis.smembers(self._keys.erasures)
            found: list[tuple[str, Any]] = [
                (one, self._redis.hgetall(self._keys.erasure(one))) for one in requests
            ]
        asked = [_request(request, fields) for request, fields in found if fields]
        return sorted(asked, key=lambda one: one.erasure.erasure_id)

    def tell(self, requests: Iterable[ErasureRequest]) -> None:
        """Writes how far erasures have come; of one that is done, the author's name goes."""
        with store_errors(), self._redis.pipeline(transaction=True) as pipeline:
            for one in requests:
                key = self._keys.erasure(one.request)
                values: dict[Any, Any] = {
                    "author_digest": one.erasure.author_digest,
                    "receipt": one.erasure.to_json(),
                }
                if one.author and not one.erasure.done:
                    values["author"] = one.author
                    pipeline.sadd(self._keys.erasures, one.request)
                pipeline.hset(key, mapping=values)
                if one.erasure.done:
                    pipeline.hdel(key, "author")
                    pipeline.srem(self._keys.erasures, one.request)
            pipeline.execute()

    def forget_name(self, request: str) -> None:
        """Takes the author's name out of Redis, while the archive still knows it."""
        with store_errors():
            self._redis.hdel(self._keys.erasure(request), "author")


def _request(request: str, fields: Mapping[str, str]) -> ErasureRequest:
    return ErasureRequest(request, fields.get("author", ""), Erasure.from_json(fields["receipt"]))
