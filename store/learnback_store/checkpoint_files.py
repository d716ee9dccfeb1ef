"""The files of a checkpoint: listed for its manifest, and checked against it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from learnback_store.digests import file_digest
from learnback_store.errors import CheckpointCorruptError
from learnback_store.manifest import MANIFEST, FileFact, Manifest


def _files(folder: Path) -> Iterator[Path]:
    """Every file under a folder; a link among them would lead out of what is synced and hashed."""
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            if (Path(parent) / name).is_symlink():
                raise CheckpointCorruptError(f"{name} is a link; a checkpoint has files only")
        yield from (Path(parent) / name for name in names)


def file_facts(folder: Path) -> tuple[FileFact, ...]:
    """Returns what a manifest says of the files in a folder, by name.

    Raises:
        CheckpointCorruptError: It has none, or links.
    """
    facts = [
        FileFact(path.relative_to(folder).as_posix(), path.stat().st_size, file_digest(path))
        for path in _files(folder)
    ]
    if not facts:
        raise CheckpointCorruptError("the draft has no files")
    return tuple(sorted(facts, key=lambda fact: fact.name))


def check_files(folder: Path, manifest: Manifest) -> None:
    """Reads every byte of a checkpoint.

    Raises:
        CheckpointCorruptError: A file is missing, changed, or not in the manifest.
    """
    found = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    found.pop(MANIFEST, None)
    if found.keys() != {file.name for file in manifest.files}:
        raise CheckpointCorruptError(f"{manifest.name} has other files than its manifest lists")
    for file in manifest.files:
        path = found[file.name]
        # The size first: it is free, and tells of a truncated file at once.
        if path.stat().st_size != file.size_bytes or file_digest(path) != file.digest:
            raise CheckpointCorruptError(f"{file.name} of {manifest.name} is not as published")
