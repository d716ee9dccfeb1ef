"""Checkpoints in a folder, on one machine or over a shared volume.

    root/
      published/NAME/    may serve: manifest.json and the files it lists
      rejected/NAME/     failed the gate; kept for inspection
      retired/NAME/      no longer serves; the manifest stays for the lineage, the files go
      aside/             being written; whatever lies here after a crash is rubbish
      aliases.json       where `live`, `previous` and `canary` point, replaced whole

A checkpoint is written aside, every file synced, and then renamed to its place: it exists by that
rename or not at all. Which folder it lies in is its state. `rename` must be atomic and `flock` work
(a local disk, NFS 4, CephFS).
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from learnback_store.aliases import Aliases
from learnback_store.durable import file_lock, rename_into, replace_text, sync, sync_tree
from learnback_store.home import CheckpointState, Placed
from learnback_store.manifest import MANIFEST, Manifest

_T = TypeVar("_T")

_ASIDE = "aside"
_ASIDE_BYTES = 6
_ALIASES = "aliases.json"
_LOCK = "aliases.lock"


class FolderHome:
    """A folder of checkpoints.

    Args:
        root: The folder; made if missing.

    Raises:
        OSError: It can't be made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        for name in (*CheckpointState, _ASIDE):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    # What there is

    def names(self) -> set[str]:
        """Returns the names that are taken."""
        return {path.name for state in CheckpointState for path in (self.root / state).iterdir()}

    def manifest(self, name: str) -> str:
        """Returns the text of a manifest."""
        return self.find(name).text

    def find(self, name: str) -> Placed:
        """Returns one checkpoint."""
        for state in CheckpointState:
            # A retirement may pass between two looks; it goes forward through the states.
            with contextlib.suppress(FileNotFoundError):
                return self._read(state, name)
        raise FileNotFoundError(name)

    def listed(self, states: Iterable[CheckpointState]) -> Iterator[Placed]:
        """Yields the checkpoints in these states."""
        for state in states:
            for path in (self.root / state).iterdir():
                with contextlib.suppress(FileNotFoundError):
                    yield self._read(state, path.name)

    def _read(self, state: CheckpointState, name: str) -> Placed:
        text = (self._place_of(state, name) / MANIFEST).read_text(encoding="utf-8")
        return Placed(name, state, text)

    def _place_of(self, state: CheckpointState, name: str) -> Path:
        return self.root / state / name

    # Writing

    @contextlib.contextmanager
    def draft(self) -> Iterator[Path]:
        """Gives an empty folder on the same volume."""
        folder = self.root / _ASIDE / secrets.token_hex(_ASIDE_BYTES)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def place(self, draft: Path, manifest: Manifest, state: CheckpointState) -> None:
        """Makes a draft a checkpoint. The last act is one rename."""
        if manifest.name in self.names():
            raise FileExistsError(manifest.name)
        (draft / MANIFEST).write_text(manifest.to_file(), encoding="utf-8")
        sync_tree(draft)
        rename_into(draft, self._place_of(state, manifest.name))

    def folder(self, manifest: Manifest) -> Path:
        """Returns the folder itself."""
        return self._place_of(CheckpointState.PUBLISHED, manifest.name)

    def forget(self, manifest: Manifest) -> bool:  # noqa: ARG002
        """Removes nothing: there are no copies."""
        return False

    # Removing

    def being_retired(self, name: str) -> bool:  # noqa: ARG002
        """Never: retiring and moving hold one lock."""
        return False

    def retire(self, one: Placed, refuse: Callable[[Aliases], None]) -> None:
        """Renames it into `retired`, then removes its files."""
        retired = self._place_of(CheckpointState.RETIRED, one.name)
        with self._locked():
            refuse(self.aliases())
            if one.state is not CheckpointState.RETIRED:
                with contextlib.suppress(FileNotFoundError):  # it was retired meanwhile
                    rename_into(self._place_of(one.state, one.name), retired)
        _strip(retired)

    def sweep(self) -> None:
        """Removes drafts, and files of retired checkpoints."""
        for rubbish in (self.root / _ASIDE).iterdir():
            shutil.rmtree(rubbish)
        for retired in (self.root / CheckpointState.RETIRED).iterdir():
            _strip(retired)

    # Aliases

    def aliases(self) -> Aliases:
        """Returns where the aliases point now."""
        try:
            return Aliases.from_json((self.root / _ALIASES).read_bytes())
        except FileNotFoundError:
            return Aliases()

    def change_aliases(self, change: Callable[[Aliases], tuple[Aliases, _T]]) -> _T:
        """Changes the aliases under the lock."""
        with self._locked():
            now = self.aliases()
            then, answer = change(now)
            if then is not now:
                replace_text(self.root / _ALIASES, then.to_json())
            return answer

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return file_lock(self.root / _LOCK)


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
