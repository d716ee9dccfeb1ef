"""Checkpoints of an object store on the local disk: downloaded once, for all processes that share.

    folder/
      NAME.DIGEST/     a checkpoint, by the beginning of its digest; complete, for it was renamed
      aside/           drafts, and downloads on their way
      lock             held while one is downloaded

Nothing here is synced: what a loss of power damages does not fit its manifest any more, and is
downloaded again. A checkpoint stays while an alias points at it, and an hour after its last use.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from learnback_store.durable import file_lock
from learnback_store.manifest import Manifest

_ASIDE = "aside"
_ASIDE_BYTES = 6
_LOCK = "lock"
_DIGEST_DIGITS = 16
# What no alias points at may be asked for again: an operator looks, then promotes.
_IDLE_SECONDS = 3600.0
# What lies aside for longer was left by a crash; no training or download takes as long.
_RUBBISH_SECONDS = 2 * 86400.0


class Fetched:
    """A folder of downloaded checkpoints.

    Args:
        folder: The folder; made if missing, for this user alone.

    Raises:
        OSError: It can't be made, or is another user's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user; choose another cache")
        (folder / _ASIDE).mkdir(exist_ok=True)

    @contextlib.contextmanager
    def aside(self) -> Iterator[Path]:
        """Gives an empty folder; removed afterwards if it still is there."""
        folder = self._folder / _ASIDE / secrets.token_hex(_ASIDE_BYTES)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def get(self, manifest: Manifest, download: Callable[[Path], None]) -> Path:
        """Returns the folder of a checkpoint, after downloading it if it is not there.

        Args:
            manifest: Of the checkpoint.
            download: Fills an empty folder, and raises if it could not.
        """
        folder = self._place_of(manifest)
        if not _touched(folder):
            with file_lock(self._folder / _LOCK):
                if not _touched(folder):
                    with self.aside() as aside:
                        download(aside)
                        aside.rename(folder)
        return folder

    def forget(self, manifest: Manifest) -> None:
        """Removes a checkpoint."""
        self._remove(self._place_of(manifest))

    def tidy(self, gone: Collection[str], pointed_at: Collection[str]) -> None:
        """Removes what is not needed any more.

        Args:
            gone: Names of checkpoints that are retired.
            pointed_at: Names that aliases point at.
        """
        now = time.time()
        for folder in self._folder.glob("*.*"):
            name = folder.name.partition(".")[0]
            with contextlib.suppress(FileNotFoundError):  # another process tidies, too
                idle = now - folder.stat().st_mtime > _IDLE_SECONDS
                if name in gone or (idle and name not in pointed_at):
                    self._remove(folder)
        for rubbish in (self._folder / _ASIDE).iterdir():
            with contextlib.suppress(FileNotFoundError):
                if now - rubbish.stat().st_mtime > _RUBBISH_SECONDS:
                    shutil.rmtree(rubbish, ignore_errors=True)

    def _place_of(self, manifest: Manifest) -> Path:
        digits = manifest.digest.partition(":")[2][:_DIGEST_DIGITS]
        return self._folder / f"{manifest.name}.{digits}"

    def _remove(self, folder: Path) -> None:
        """Takes it away whole, so that nobody finds half of it."""
        with self.aside() as aside, contextlib.suppress(FileNotFoundError):
            folder.rename(aside / folder.name)


def _touched(folder: Path) -> bool:
    """Notes that a checkpoint is used; whether it is there."""
    try:
        os.utime(folder)
    except FileNotFoundError:
        return False
    return True
