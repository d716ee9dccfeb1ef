"""The whole Redis schema, on one page.

Every key begins with `{namespace}`. The braces are part of the name: they put all keys into one
slot of a Redis Cluster, so that one script may touch several. Several services can share a Redis by
different namespaces. No key bears the text of a user: authors and request ids stand as digests.

    {ns}:queue                      stream   feedback that the trainer has not settled yet
                                             id       feedback id
                                             record   FeedbackRecord as JSON, self-contained
                                             attempt  0, and 1 more each time it is put back
        group "trainer"                      an entry leaves (XACK and XDEL in one step) only when
                                             what became of it is durable elsewhere; never trimmed
    {ns}:dead                       stream   feedback that failed repeatedly: as above, and
                                             reason      why, in words
                                             deliveries  how often it had been tried
    {ns}:feedback                   zset     every feedback id, all with score 0: ids sort by time
    {ns}:feedback:by-author:D       zset     the same of one author; D is SHA-256 of the name
    {ns}:feedback:by-generation:ID  zset     the same about one generation
    {ns}:feedback:by-checkpoint:N   zset     the same learned in one checkpoint
    {ns}:feedback:id:ID             hash     the live view of one feedback
                                             record   FeedbackRecord as JSON
                                             account  Account as JSON: what became of it so far
                                             moves    length of the account's history: an account
                                                      never replaces one that knows more
                                             entry    its entry in {ns}:queue or {ns}:dead
    {ns}:request:D                  hash     a request id that was used; D is SHA-256 of caller and
                                             request id. Expires (1 day unless configured)
                                             content  SHA-256 of what was submitted under it
                                             id       feedback id it was given
                                             create_ms  when
    {ns}:generation:ID              string   GenerationRecord as JSON. Expires (7 days unless
                                             configured)
    {ns}:generations                zset     every generation id; score: when its record expires, ms
    {ns}:generations:by-author:D    zset     the same of one author
    {ns}:erasures                   set      the erasures that are not done, each by its D
    {ns}:erasure:D                  hash     an author is to be erased, or was; D is SHA-256 of the
                                             request id. Stays, so that a repeat is always told
                                             author_digest  SHA-256 of the author's name
                                             receipt        Erasure as JSON
                                             author         the name; gone once it is done
    {ns}:epoch                      string   made up by the trainer and kept in its archive too;
                                             when it is missing here, this Redis has lost its data
    {ns}:trainer                    string   TrainerStatus as JSON: what the trainer does now
    {ns}:aliases                    channel  serial of the aliases file after each move

Who writes: the server everything that is born (submission, generation, erasure), the trainer
everything that moves later. Everything here can be lost: checkpoints and their aliases lie in the
checkpoint folder, feedback and erasures that were taken lie in the archive, and
`settlement.recover_redis` writes them back.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

DEFAULT_NAMESPACE = "learnback"
TRAINER_GROUP = "trainer"
"""The consumer group on `Keys.queue`."""


def digest_of(*parts: str) -> str:
    """Returns SHA-256 in hex over the parts; ("a", "b") differs from ("ab",)."""
    whole = b"".join(len(raw).to_bytes(8, "big") + raw for raw in map(str.encode, parts))
    return hashlib.sha256(whole).hexdigest()


@dataclass(frozen=True, slots=True)
class Keys:
    """Every key by name. The schema above tells what lies there."""

    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        if not self.namespace or set(self.namespace) & set("{}:*?[] "):
            raise ValueError(f"{self.namespace!r} is no namespace: letters, digits, - and _")

    def _key(self, *parts: str) -> str:
        return ":".join((f"{{{self.namespace}}}", *parts))

    @property
    def queue(self) -> str:
        """The stream of feedback that waits."""
        return self._key("queue")

    @property
    def dead(self) -> str:
        """The stream of feedback that failed repeatedly."""
        return self._key("dead")

    @property
    def feedback(self) -> str:
        """The index of all feedback."""
        return self._key("feedback")

    def view(self, feedback_id: str) -> str:
        """The live view of one feedback."""
        return self._key("feedback", "id", feedback_id)

    def by_author(self, author: str) -> str:
        """The index of one author's feedback."""
        return self._key("feedback", "by-author", digest_of(author))

    def by_generation(self, generation_id: str) -> str:
        """The index of the feedback about one generation."""
        return self._key("feedback", "by-generation", generation_id)

    def by_checkpoint(self, name: str) -> str:
        """The index of the feedback learned in one checkpoint."""
        return self._key("feedback", "by-checkpoint", name)

    def request(self, caller: str, request_id: str) -> str:
        """The mark of a request id that was used by this caller."""
        return self._key("request", digest_of(caller, request_id))

    def generation(self, generation_id: str) -> str:
        """The record of one generation."""
        return self._key("generation", generation_id)

    @property
    def generations(self) -> str:
        """The index of all generations."""
        return self._key("generations")

    def generations_by_author(self, author: str) -> str:
        """The index of one author's generations."""
        return self._key("generations", "by-author", digest_of(author))

    def erasure(self, request: str) -> str:
        """An erasure, by the digest of its request id."""
        return self._key("erasure", request)

    @property
    def erasures(self) -> str:
        """The erasures that are not done."""
        return self._key("erasures")

    @property
    def requests(self) -> str:
        """A pattern that the marks of all request ids match."""
        return self._key("request", "*")

    @property
    def epoch(self) -> str:
        """The mark by which a Redis that lost its data is known."""
        return self._key("epoch")

    @property
    def trainer(self) -> str:
        """What the trainer does now."""
        return self._key("trainer")

    @property
    def aliases(self) -> str:
        """The channel on which moves of aliases are announced."""
        return self._key("aliases")
