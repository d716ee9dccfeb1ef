"""The server's side of the feedback queue: taking feedback, durably and once.

A submission is one script on Redis: the entry in the queue, the live view, the indices and the mark
of its request id come to be together or not at all. Concurrent submissions share a pipeline
(`gathering.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from learnback_store import scripts
from learnback_store.errors import RequestIdReusedError
from learnback_store.gathering import GatheringWriter
from learnback_store.keys import Keys
from learnback_store.records import Account, FeedbackRecord, FeedbackView

# How long a repeat of a request id is known. Clients repeat within minutes; a day covers a queue of
# theirs that was stuck overnight.
REQUEST_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Submission:
    """The answer to a submission."""

    view: FeedbackView
    """As it was when it was first queued, with the id it got then."""
    repeated: bool
    """Whether its request id was known, so that nothing new was queued."""


class FeedbackInbox:
    """Takes feedback. Lives on the event loop.

    Args:
        writer: Carries the writes.
        keys: Where they go.
        request_seconds: How long a repeat of a request id is known.
    """

    def __init__(
        self, writer: GatheringWriter, keys: Keys, request_seconds: float = REQUEST_SECONDS
    ) -> None:
        self._writer = writer
        self._keys = keys
        self._request_ms = int(request_seconds * 1000)

    async def submit(
        self, record: FeedbackRecord, *, request_id: str = "", caller: str = ""
    ) -> Submission:
        """Queues feedback and returns after Redis has taken it durably.

        Args:
            record: The feedback, with a fresh id.
            request_id: The caller's id of the call; empty: not deduplicated.
            caller: Whose request ids these are, so that two callers may use the same.

        Raises:
            RequestIdReusedError: The request id was used with other content.
            StoreUnavailableError: Redis is away; see there for what was written.
        """
        keys = self._keys
        answer, first_id, create_ms = await self._writer.run(
            scripts.SUBMIT,
            [
                keys.queue,
                keys.view(record.feedback_id),
                keys.feedback,
                keys.request(caller, request_id),
                *_indices(keys, record),
            ],
            [
                record.feedback_id,
                record.to_json(),
                Account.queued(record).to_json(),
                record.content_digest() if request_id else "",
                record.create_ms,
                self._request_ms,
            ],
        )
        if answer == "reused":
            raise RequestIdReusedError(
                f"this request_id was used for {first_id} with other content; use a fresh one"
            )
        first = replace(record, feedback_id=first_id, create_ms=int(create_ms))
        return Submission(FeedbackView(first, Account.queued(first)), answer == "repeated")


def _indices(keys: Keys, record: FeedbackRecord) -> list[str]:
    indices = [keys.by_author(record.author)] if record.author else []
    if record.generation:
        indices.append(keys.by_generation(record.generation.generation_id))
    return indices
