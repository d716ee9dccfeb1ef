"""Writing files so that a crash, or a loss of power, leaves the old or the new, never a half.

Contents are synced before the name that makes them count, and the name's folder after it. A name
appears or changes by one rename.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

# Random part of the name of a file that is being written.
_ASIDE_BYTES = 6


def sync(path: Path) -> None:
    """Forces a file, or the names in a folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Forces everything under a folder onto the disk."""
    for parent, _, files in os.walk(folder):
        for name in files:
            sync(Path(parent) / name)
        sync(Path(parent))


def replace_text(path: Path, text: str) -> None:
    """Writes a file whole: whoever reads it meanwhile reads the old one or the new one."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(_ASIDE_BYTES)}")
    try:
        aside.write_text(text, encoding="utf-8")
        sync(aside)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def rename_into(folder: Path, target: Path) -> None:
    """Gives a synced folder its name; the last act by which it comes to be.

    Raises:
        FileExistsError: There is one of this name. (Never an empty one: rename would take it.)
    """
    try:
        folder.rename(target)
    except OSError as error:
        if target.exists():
            raise FileExistsError(str(target)) from error
        raise
    sync(target.parent)
    sync(folder.parent)


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Holds a lock among threads and processes; waits for it. It ends with the process."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
