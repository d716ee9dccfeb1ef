"""Where checkpoints and aliases lie: what `CheckpointStore` asks of a folder or an object store.

`folder_home.py` and `object_home.py` are the two there are. A home keeps whole checkpoints and
moves aliases one after the other; what a name means, and what may be promoted, is decided in
`checkpoints.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from learnback_store.aliases import Aliases
from learnback_store.manifest import Manifest

_T = TypeVar("_T")


class CheckpointState(StrEnum):
    """Whether a checkpoint may serve. Names equal those of `learnback.v1.CheckpointState`."""

    PUBLISHED = "published"
    REJECTED = "rejected"
    RETIRED = "retired"


class Placed(NamedTuple):
    """A checkpoint as it lies in a home."""

    name: str
    state: CheckpointState
    text: str
    """Of its manifest, unchecked."""


class Home(Protocol):
    """Keeps checkpoints and aliases. Its methods block; threads and processes may share it.

    Each of them raises `StoreUnavailableError` if the home can't be reached.
    """

    @property
    def root(self) -> Path | str:
        """The folder or the URL."""

    def names(self) -> set[str]:
        """Returns the names that are taken."""

    def manifest(self, name: str) -> str:
        """Returns the text of a manifest, whatever the state of the checkpoint.

        Raises:
            FileNotFoundError: There is no checkpoint of this name.
        """

    def find(self, name: str) -> Placed:
        """Returns one checkpoint; raises as `manifest`."""

    def listed(self, states: Iterable[CheckpointState]) -> Iterator[Placed]:
        """Yields the checkpoints in these states, each once; unreadable ones are left out."""

    def draft(self) -> AbstractContextManager[Path]:
        """Gives an empty local folder to write a checkpoint in; it is gone afterwards."""

    def place(self, draft: Path, manifest: Manifest, state: CheckpointState) -> None:
        """Makes a draft a checkpoint, whole or not at all.

        Raises:
            FileExistsError: The name is taken.
        """

    def folder(self, manifest: Manifest) -> Path:
        """Returns a local folder with the files of a published checkpoint.

        Raises:
            CheckpointCorruptError: They are not what was published.
        """

    def forget(self, manifest: Manifest) -> bool:
        """Removes a local copy that is damaged; returns False if it was no copy."""

    def being_retired(self, name: str) -> bool:
        """Whether a checkpoint is about to be retired. Asked before its state is, for a move."""

    def retire(self, one: Placed, refuse: Callable[[Aliases], None]) -> None:
        """Takes a checkpoint out of service and removes its files; can be repeated.

        Args:
            one: The checkpoint.
            refuse: Raises if the aliases forbid it. No move comes between its look and the act.
        """

    def sweep(self) -> None:
        """Removes what a crash left behind, when nobody else writes."""

    def aliases(self) -> Aliases:
        """Returns where the aliases point now; `live` is the base model until it is moved."""

    def change_aliases(self, change: Callable[[Aliases], tuple[Aliases, _T]]) -> _T:
        """Changes the aliases and returns once that is durable.

        Args:
            change: Makes new aliases of those that are, with what is to be returned; it may raise
                to refuse, or give back the very same. Called again if another was faster.
        """
