"""What a checkpoint says of itself: `manifest.json`.

    {"schema": "learnback.checkpoint/1", "digest": "sha256:...", "body": {...}}

The body lists every file with size and SHA-256; the digest is over the body (as canonical JSON), so
it is over every file too, and names the checkpoint on every reply. It bears no text of users.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from learnback_store.codec import Record, Strict, canonical_json, require_finite, to_body
from learnback_store.digests import text_digest
from learnback_store.errors import CheckpointCorruptError, RecordUnreadableError
from learnback_store.records import Objective, now_ms

BASE = "base"
"""Name of the base model itself, with which every lineage begins. It has no folder."""

MANIFEST = "manifest.json"

_NAME = re.compile(r"[a-z0-9-]{1,63}")


def check_name(name: str) -> None:
    """Refuses what is no name of a checkpoint.

    Raises:
        ValueError: It is not 1 to 63 characters out of [a-z0-9-], or it is "base".
    """
    if not _NAME.fullmatch(name) or name == BASE:
        raise ValueError(f"{name!r} is no name of a checkpoint: 1 to 63 of [a-z0-9-], not {BASE!r}")


class CheckpointKind(enum.StrEnum):
    """What the files hold. Names equal those of `learnback.v1.CheckpointKind`."""

    BASE = "base"
    ADAPTER = "adapter"
    """A LoRA adapter on the base model, as PEFT writes it."""
    FULL = "full"
    """All weights, as transformers writes them."""


@dataclass(frozen=True, slots=True)
class GateVerdict(Strict):
    """The decision of the gate."""

    passed: bool
    reasons: tuple[str, ...] = ()
    """Why not, in words; empty if it passed."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """The figures behind it, by name."""

    def __post_init__(self) -> None:
        require_finite("a verdict", self.figures.values())


@dataclass(frozen=True, slots=True)
class FileFact(Strict):
    """One file of a checkpoint."""

    name: str
    """Its path in the folder, with /."""
    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Manifest(Record):
    """What a checkpoint is. Never changes; where its folder lies tells whether it may serve."""

    schema: ClassVar[str] = "learnback.checkpoint/1"

    name: str
    kind: CheckpointKind
    parent: str
    """The checkpoint that it was trained from; "base" for the base model."""
    base_model: str
    """The base model: a name of the hub or of a folder."""
    base_digest: str
    """`digests.model_digest` of the base model."""
    round_id: str = ""
    """The round of training that made it; empty if none did."""
    feedback_ids: tuple[str, ...] = ()
    """The feedback that this round learned; the parents' manifests name what was learned before."""
    objectives: tuple[Objective, ...] = ()
    gate: GateVerdict | None = None
    library_versions: Mapping[str, str] = field(default_factory=dict)
    files: tuple[FileFact, ...] = ()
    """By name. Filled in when it is published."""
    create_ms: int = field(default_factory=now_ms)
    traceparent: str = ""
    """The span of the round that made it (W3C); empty if it was not traced."""

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def digest(self) -> str:
        """Digest of the checkpoint: of this, and so of every file."""
        return text_digest(canonical_json(self._body()))

    @property
    def size_bytes(self) -> int:
        """Bytes of its files."""
        return sum(file.size_bytes for file in self.files)

    def to_file(self) -> str:
        """Returns the text of manifest.json."""
        content = {"schema": self.schema, "digest": self.digest, "body": self._body()}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def _body(self) -> dict[str, Any]:
        body: dict[str, Any] = to_body(self)
        if not self.traceparent:  # as in manifests that are older than it, whose digests must hold
            del body["traceparent"]
        return body

    @classmethod
    def from_file(cls, text: str) -> Self:
        """Reads the text of manifest.json, and checks it against its own digest.

        Raises:
            CheckpointCorruptError: It is not what `to_file` wrote.
        """
        try:
            content = json.loads(text)
            digest = content.pop("digest")
            manifest = cls.from_json(json.dumps(content))
        except (ValueError, AttributeError, KeyError, TypeError, RecordUnreadableError) as error:
            raise CheckpointCorruptError(f"the manifest is unreadable: {error}") from error
        if digest != manifest.digest:
            raise CheckpointCorruptError(f"the manifest of {manifest.name} was changed")
        return manifest
