"""Checkpoints on disk: published by one last act, found by name or alias, verified, retired.

    root/
      published/NAME/    may serve: manifest.json and the files it lists
      rejected/NAME/     failed the gate; kept for inspection
      retired/NAME/      no longer serves; the manifest stays for the lineage, the files go
      aside/             being written; whatever lies here after a crash is rubbish
      aliases.json       where `live`, `previous` and `canary` point (aliases.py)

A checkpoint is written aside, every file synced, and then renamed to its place: it exists by that
rename or not at all, and never changes after it. Which folder it lies in is its state. The trainer
and any number of servers may work on one root, on one machine or over a shared volume whose
`rename` is atomic and whose `flock` works (NFS 4, CephFS).

Reading goes through `fetch`, which gives a local folder: an object store can come to stand behind
it, with the manifest uploaded last instead of the rename.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from learnback_store.aliases import ALIASES, CANARY, LIVE, Aliases, AliasFile, AliasMove
from learnback_store.digests import file_digest
from learnback_store.durable import rename_into, sync, sync_tree
from learnback_store.errors import (
    CheckpointCorruptError,
    CheckpointExistsError,
    CheckpointForeignError,
    CheckpointNotFoundError,
    CheckpointUnusableError,
)
from learnback_store.manifest import BASE, MANIFEST, FileFact, Manifest, check_name

_ASIDE = "aside"
_ASIDE_BYTES = 6
_NUMBERED = re.compile(r"ckpt-(\d+)")
_DIGITS = 6


class CheckpointState(StrEnum):
    """Whether a checkpoint may serve. Names equal those of `learnback.v1.CheckpointState`."""

    PUBLISHED = "published"
    REJECTED = "rejected"
    RETIRED = "retired"


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


class CheckpointStore:
    """The checkpoints under one root. Its methods block on the disk; threads may share it.

    Args:
        root: The checkpoint folder; made if missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        for name in (*CheckpointState, _ASIDE):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self._aliases = AliasFile(self.root)

    # Writing

    def new_name(self) -> str:
        """Returns the next free name: "ckpt-" and a number; free until the next publication."""
        numbers = [
            int(match[1])
            for state in CheckpointState
            for path in (self.root / state).iterdir()
            if (match := _NUMBERED.fullmatch(path.name))
        ]
        return f"ckpt-{max(numbers, default=0) + 1:0{_DIGITS}}"

    @contextlib.contextmanager
    def draft(self) -> Iterator[Path]:
        """Gives an empty folder to write the files of a checkpoint in; removed if not published."""
        folder = self.root / _ASIDE / secrets.token_hex(_ASIDE_BYTES)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, draft: Path, manifest: Manifest) -> Checkpoint:
        """Makes a draft a checkpoint that may serve. Its last act is one rename.

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
        if name in ALIASES or any(self._folder(other, name).exists() for other in CheckpointState):
            raise CheckpointExistsError(f"a checkpoint or alias {name} exists")
        (draft / MANIFEST).unlink(missing_ok=True)
        complete = replace(manifest, files=_file_facts(draft))
        (draft / MANIFEST).write_text(complete.to_file(), encoding="utf-8")
        sync_tree(draft)
        try:
            rename_into(draft, self._folder(state, name))
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
        with contextlib.suppress(ValueError):
            check_name(name)
            for state in CheckpointState:
                # A retirement may pass between two looks; it goes forward through the states.
                with contextlib.suppress(FileNotFoundError):
                    return self._read(state, name)
        raise CheckpointNotFoundError("no checkpoint goes by this name")

    def all(self, states: Iterable[CheckpointState] = CheckpointState) -> list[Checkpoint]:
        """Returns all checkpoints in these states, newest first; unreadable ones are left out."""
        found = []
        for state in states:
            for path in (self.root / state).iterdir():
                with contextlib.suppress(FileNotFoundError, CheckpointCorruptError):
                    found.append(self._read(state, path.name))
        return sorted(found, key=lambda one: (one.manifest.create_ms, one.name), reverse=True)

    def fetch(self, name: str) -> Path:
        """Returns a local folder with the files of a published checkpoint.

        Raises:
            CheckpointNotFoundError: There is none.
            CheckpointUnusableError: It was rejected or retired.
        """
        return self._folder(self._published(name).state, name)

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
        _check_files(self._folder(checkpoint.state, name), checkpoint.manifest)
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
            line.append(self.get(name).manifest)
            name = line[-1].parent
        return line

    # Aliases

    def aliases(self) -> Aliases:
        """Returns where every alias points now."""
        return self._aliases.read()

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
        return self._aliases.move(
            alias,
            lambda _: self._servable(name),
            asked=f"promote {name} to {alias}",
            request_id=request_id,
            expected=expected,
        )

    def rollback(self, name: str = "", *, request_id: str = "") -> AliasMove:
        """Points `live` back at `previous`, or at the named checkpoint; `previous` takes its place.

        Raises:
            CheckpointNotFoundError: There is no checkpoint of this name.
            CheckpointUnusableError: It was rejected or retired, or there is none to go back to.
            RequestIdReusedError: The request id was used for another move.
        """
        return self._aliases.move(
            LIVE,
            lambda now: self._servable(name or now.previous),
            asked=f"roll back to {name or 'previous'}",
            request_id=request_id,
        )

    def _servable(self, name: str) -> str:
        if not name:
            raise CheckpointUnusableError("there is no checkpoint to go back to")
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
            self._aliases.withdraw(names, clean)
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
        with self._aliases.locked():
            pointing = self.aliases().of(name)
            if pointing:
                raise CheckpointUnusableError(f"{' and '.join(pointing)} points at {name}")
            checkpoint = self.get(name)
            folder = self._folder(CheckpointState.RETIRED, name)
            if checkpoint.state is not CheckpointState.RETIRED:
                rename_into(self._folder(checkpoint.state, name), folder)
        _strip(folder)

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
        for rubbish in (self.root / _ASIDE).iterdir():
            shutil.rmtree(rubbish)
        for retired in (self.root / CheckpointState.RETIRED).iterdir():
            _strip(retired)

    # Places

    def _folder(self, state: CheckpointState, name: str) -> Path:
        return self.root / state / name

    def _read(self, state: CheckpointState, name: str) -> Checkpoint:
        text = (self._folder(state, name) / MANIFEST).read_text(encoding="utf-8")
        manifest = Manifest.from_file(text)
        if manifest.name != name:
            raise CheckpointCorruptError(f"the folder {name} holds the checkpoint {manifest.name}")
        return Checkpoint(manifest, state)

    def _published(self, name: str) -> Checkpoint:
        checkpoint = self.get(name)
        if checkpoint.state is not CheckpointState.PUBLISHED:
            raise CheckpointUnusableError(f"{name} was {checkpoint.state}")
        return checkpoint


def _files(folder: Path) -> Iterator[Path]:
    """Every file under a folder; a link among them would lead out of what is synced and hashed."""
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            if (Path(parent) / name).is_symlink():
                raise CheckpointCorruptError(f"{name} is a link; a checkpoint has files only")
        yield from (Path(parent) / name for name in names)


def _file_facts(folder: Path) -> tuple[FileFact, ...]:
    facts = [
        FileFact(path.relative_to(folder).as_posix(), path.stat().st_size, file_digest(path))
        for path in _files(folder)
    ]
    if not facts:
        raise CheckpointCorruptError("the draft has no files")
    return tuple(sorted(facts, key=lambda fact: fact.name))


def _check_files(folder: Path, manifest: Manifest) -> None:
    found = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    found.pop(MANIFEST, None)
    if found.keys() != {file.name for file in manifest.files}:
        raise CheckpointCorruptError(f"{manifest.name} has other files than its manifest lists")
    for file in manifest.files:
        path = found[file.name]
        # The size first: it is free, and tells of a truncated file at once.
        if path.stat().st_size != file.size_bytes or file_digest(path) != file.digest:
            raise CheckpointCorruptError(f"{file.name} of {manifest.name} is not as published")


def _strip(folder: Path) -> None:
    """Removes all files of a retired checkpoint but its manifest."""
    for path in folder.iterdir():
        if path.name == MANIFEST:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    sync(folder)
