"""Checkpoints: published by one last act, found by name or alias, verified, retired.

They lie in a folder (`folder_home.py`) or in an object store (`object_home.py`), with the aliases
beside them. A checkpoint exists whole or not at all, and never changes; it is published, rejected
or retired, and of one that was retired the manifest stays for the lineage. The trainer and any
number of servers may work on one place.

Reading goes through `fetch`, which gives a local folder.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from pathlib import Path

from learnback_store import aliases as moves
from learnback_store.aliases import ALIASES, CANARY, LIVE, Aliases, AliasMove
from learnback_store.checkpoint_files import check_files, file_facts
from learnback_store.errors import (
    CheckpointCorruptError,
    CheckpointExistsError,
    CheckpointForeignError,
    CheckpointHomeError,
    CheckpointNotFoundError,
    CheckpointUnusableError,
)
from learnback_store.folder_home import FolderHome
from learnback_store.home import CheckpointState as CheckpointState
from learnback_store.home import Home, Placed
from learnback_store.manifest import BASE, MANIFEST, Manifest, check_name

_NUMBERED = re.compile(r"ckpt-(\d+)")
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that exists."""

    manifest: Manifest
    state: CheckpointState

    @property
    def name(self) -> str:
        """Its name."""
        return self.manifest.name

    @property
    def digest(self) -> str:
        """Digest over its manifest and files."""
        return self.manifest.digest


def open_checkpoints(place: str | Path, cache: Path | None = None) -> CheckpointStore:
    """Returns the checkpoints in a folder, or under a URL that fsspec knows (s3://BUCKET/PREFIX).

    Args:
        place: The folder, made if missing; or the URL, of which the bucket must exist.
        cache: Local folder that checkpoints under a URL are fetched into, for any number of
            processes; None: one of this user in the system's folder for temporary files.

    Raises:
        CheckpointHomeError: It can't be used: no rights, no such bucket, a store that can't do
            what is needed, or a library that is missing.
    """
    try:
        if "://" not in str(place):
            return CheckpointStore(Path(place))
        # Not before it is needed: whoever has a folder need not have fsspec.
        from learnback_store.object_home import open_object_home

        return CheckpointStore(open_object_home(str(place), cache))
    except OSError as error:
        raise CheckpointHomeError(f"{place} can't be used for checkpoints: {error}") from error


class CheckpointStore:
    """The checkpoints of one place. Its methods block; threads may share it.

    All of them raise `StoreUnavailableError` while an object store can't be reached.

    Args:
        home: Where they lie; of a path, the folder, made if missing.
    """

    def __init__(self, home: Home | Path) -> None:
        self._home: Home = FolderHome(home) if isinstance(home, Path) else home

    @property
    def root(self) -> Path | str:
        """The folder or the URL."""
        return self._home.root

    # Writing

    def new_name(self) -> str:
        """Returns the next free name: "ckpt-" and a number; free until the next publication."""
        numbers = [
            int(match[1]) for name in self._home.names() if (match := _NUMBERED.fullmatch(name))
        ]
        return f"ckpt-{max(numbers, default=0) + 1:0{_DIGITS}}"

    def draft(self) -> contextlib.AbstractContextManager[Path]:
        """Gives an empty folder to write the files of a checkpoint in; removed if not published."""
        return self._home.draft()

    def publish(self, draft: Path, manifest: Manifest) -> Checkpoint:
        """Makes a draft a checkpoint that may serve, by one last act.

        Args:
            draft: The folder from `draft`, with all files of the checkpoint.
            manifest: What it is; the list of files is filled in here.

        Raises:
            CheckpointExistsError: The name is taken.
            CheckpointCorruptError: The draft has no files, or links.
        """
        return self._place(draft, manifest, CheckpointState.PUBLISHED)

    def reject(self, draft: Path, manifest: Manifest) -> Checkpoint:
        """Keeps a draft that failed the gate aside for inspection; raises as `publish`."""
        return self._place(draft, manifest, CheckpointState.REJECTED)

    def _place(self, draft: Path, manifest: Manifest, state: CheckpointState) -> Checkpoint:
        name = manifest.name
        if name in ALIASES:
            raise CheckpointExistsError(f"an alias {name} exists")
        (draft / MANIFEST).unlink(missing_ok=True)
        complete = replace(manifest, files=file_facts(draft))
        try:
            self._home.place(draft, complete, state)
        except FileExistsError as error:
            raise CheckpointExistsError(f"a checkpoint {name} exists") from error
        return Checkpoint(complete, state)

    # Reading

    def resolve(self, name_or_alias: str) -> str:
        """Returns the name of a checkpoint or "base"; "" stands for `live`.

        Raises:
            CheckpointNotFoundError: The alias points nowhere, or no checkpoint has this name.
        """
        alias = name_or_alias or LIVE
        if alias in ALIASES:
            target = self.aliases().targets.get(alias)
            if target is None:
                raise CheckpointNotFoundError(f"the alias {alias} points at no checkpoint")
            return target
        return BASE if alias == BASE else self.get(alias).name

    def get(self, name: str) -> Checkpoint:
        """Returns one checkpoint, in whatever state.

        Args:
            name: Its name, not an alias; "base" has no folder and is not found here.

        Raises:
            CheckpointNotFoundError: There is none.
            CheckpointCorruptError: Its manifest is unreadable.
        """
        return _checkpoint(self._found(name))

    def all(self, states: Iterable[CheckpointState] = CheckpointState) -> list[Checkpoint]:
        """Returns all checkpoints in these states, newest first; unreadable ones are left out."""
        found = []
        for one in self._home.listed(states):
            with contextlib.suppress(CheckpointCorruptError):
                found.append(_checkpoint(one))
        return sorted(found, key=lambda one: (one.manifest.create_ms, one.name), reverse=True)

    def fetch(self, name: str) -> Path:
        """Returns a local folder with the files of a published checkpoint.

        Raises:
            CheckpointNotFoundError: There is none.
            CheckpointUnusableError: It was rejected or retired.
            CheckpointCorruptError: Its files in an object store are not what was published.
        """
        return self._home.folder(self._published(name).manifest)

    def verify(self, name: str, base_digest: str | None = None) -> Checkpoint:
        """Reads every byte of a published checkpoint and checks it against its manifest.

        Args:
            name: Its name.
            base_digest: `model_digest` of the base model it is to run on; None: not checked.

        Raises:
            CheckpointNotFoundError: There is none.
            CheckpointUnusableError: It was rejected or retired.
            CheckpointCorruptError: A file is missing, changed, or not in the manifest.
            CheckpointForeignError: It was made for another base model.
        """
        checkpoint = self._published(name)
        if base_digest is not None and checkpoint.manifest.base_digest != base_digest:
            raise CheckpointForeignError(
                f"{name} was made for the base model {checkpoint.manifest.base_model} "
                f"({checkpoint.manifest.base_digest}), not for {base_digest}"
            )
        manifest = checkpoint.manifest
        try:
            check_files(self._home.folder(manifest), manifest)
        except CheckpointCorruptError:
            if not self._home.forget(manifest):
                raise
            check_files(self._home.folder(manifest), manifest)
        return checkpoint

    def learned_feedback(self) -> dict[str, str]:
        """Returns the published checkpoint that learned each feedback, by feedback id.

        Of several, one in the line of `live` goes before others.
        """
        published = self.all([CheckpointState.PUBLISHED])
        found = {one: each.name for each in published for one in each.manifest.feedback_ids}
        with contextlib.suppress(CheckpointNotFoundError):
            found |= self.learned_in_line(self.aliases().live)
        return found

    def learned_in_line(self, name: str) -> dict[str, str]:
        """Returns which checkpoint, from here back to the base model, learned each feedback.

        Raises:
            CheckpointNotFoundError: One of them is missing.
        """
        oldest_first = reversed(self.lineage(name))
        return {one: each.name for each in oldest_first for one in each.feedback_ids}

    def lineage(self, name: str) -> list[Manifest]:
        """Returns the manifests from this checkpoint back to the base model, newest first.

        Raises:
            CheckpointNotFoundError: One of them is missing.
        """
        line = []
        while name != BASE:
            line.append(self._manifest(name))
            name = line[-1].parent
        return line

    def _manifest(self, name: str) -> Manifest:
        try:
            return _read(name, self._home.manifest(name))
        except FileNotFoundError as error:
            raise CheckpointNotFoundError(f"the manifest of {name} is missing") from error

    # Aliases

    def aliases(self) -> Aliases:
        """Returns where every alias points now."""
        return self._home.aliases()

    def promote(
        self, name: str, alias: str = LIVE, *, expected: str | None = None, request_id: str = ""
    ) -> AliasMove:
        """Points an alias at a published checkpoint, or at "base".

        Args:
            name: The checkpoint.
            alias: "live" or "canary".
            expected: Where the alias must point now; None: anywhere. The trainer gives the parent,
                so that it never overrides what an operator moved meanwhile.
            request_id: The caller's id of this call; a repeat gets the first answer.

        Raises:
            CheckpointNotFoundError: There is no such checkpoint, or no such alias to move.
            CheckpointUnusableError: It was rejected or retired.
            AliasMovedError: The alias points elsewhere than expected.
            RequestIdReusedError: The request id was used for another move.
        """
        if alias not in (LIVE, CANARY):
            raise CheckpointNotFoundError(f"{LIVE} and {CANARY} can be moved, {alias!r} can't")
        return self._home.change_aliases(
            lambda now: moves.move(
                now,
                alias,
                lambda _: self._servable(name),
                asked=f"promote {name} to {alias}",
                request_id=request_id,
                expected=expected,
            )
        )

    def rollback(self, name: str = "", *, request_id: str = "") -> AliasMove:
        """Points `live` back at `previous`, or at the named checkpoint; `previous` takes its place.

        Raises:
            CheckpointNotFoundError: There is no checkpoint of this name.
            CheckpointUnusableError: It was rejected or retired, or there is none to go back to.
            RequestIdReusedError: The request id was used for another move.
        """
        return self._home.change_aliases(
            lambda now: moves.move(
                now,
                LIVE,
                lambda now: self._servable(name or now.previous),
                asked=f"roll back to {name or 'previous'}",
                request_id=request_id,
            )
        )

    def _servable(self, name: str) -> str:
        if not name:
            raise CheckpointUnusableError("there is no checkpoint to go back to")
        # In this order: what is retired between the two is seen by the second.
        if name != BASE and self._home.being_retired(name):
            raise CheckpointUnusableError(f"{name} is being retired")
        return BASE if name == BASE else self._published(name).name

    # Removing

    def withdraw(self, names: Set[str], clean: str) -> None:
        """Takes checkpoints out of service for good; their manifests stay, their files go.

        Args:
            names: The checkpoints, in whatever state.
            clean: Where `live` goes if it points at one of them; other aliases then point nowhere.

        Raises:
            CheckpointNotFoundError: There is none of one of these names.
            CheckpointUnusableError: `clean` is not published, or is one of them.
        """
        if clean in names:
            raise CheckpointUnusableError(f"{clean} is to be taken out of service itself")
        self._servable(clean)
        left = set(names)
        while left:
            self._home.change_aliases(lambda now: (moves.withdraw(now, names, clean), None))
            for name in sorted(left):
                # An operator may have pointed an alias at it just now.
                with contextlib.suppress(CheckpointUnusableError):
                    self.retire(name)
                    left.remove(name)

    def retire(self, name: str) -> None:
        """Takes a checkpoint out of service; its manifest stays, its files go.

        Raises:
            CheckpointNotFoundError: There is none.
            CheckpointUnusableError: An alias points at it.
        """

        def refuse(now: Aliases) -> None:
            pointing = now.of(name)
            if pointing:
                raise CheckpointUnusableError(f"{' and '.join(pointing)} points at {name}")

        self._home.retire(self._found(name), refuse)

    def retain(self, published: int, rejected: int) -> list[str]:
        """Retires all but the newest; what an alias points at stays, and so does every manifest.

        Args:
            published: How many published ones to keep, besides those that an alias points at.
            rejected: How many rejected ones to keep.

        Returns:
            The names of those that were retired.
        """
        pointed_at = set(self.aliases().targets.values())
        free = [
            one.name for one in self.all([CheckpointState.PUBLISHED]) if one.name not in pointed_at
        ]
        failed = [one.name for one in self.all([CheckpointState.REJECTED])]
        retired = []
        for name in free[published:] + failed[rejected:]:
            # An operator may have pointed an alias at it just now.
            with contextlib.suppress(CheckpointUnusableError):
                self.retire(name)
                retired.append(name)
        return retired

    def sweep(self) -> None:
        """Removes what a crash left behind. For the trainer at its start, when nobody writes."""
        self._home.sweep()

    # Places

    def _found(self, name: str) -> Placed:
        with contextlib.suppress(ValueError, FileNotFoundError):
            check_name(name)
            return self._home.find(name)
        raise CheckpointNotFoundError("no checkpoint goes by this name")

    def _published(self, name: str) -> Checkpoint:
        checkpoint = self.get(name)
        if checkpoint.state is not CheckpointState.PUBLISHED:
            raise CheckpointUnusableError(f"{name} was {checkpoint.state}")
        return checkpoint


def _checkpoint(one: Placed) -> Checkpoint:
    return Checkpoint(_read(one.name, one.text), one.state)


def _read(name: str, text: str) -> Manifest:
    manifest = Manifest.from_file(text)
    if manifest.name != name:
        raise CheckpointCorruptError(f"where {name} should lie is the checkpoint {manifest.name}")
    return manifest
