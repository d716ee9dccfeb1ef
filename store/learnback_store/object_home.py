"""Checkpoints in an object store: the home without renames and locks.

    PREFIX/
      manifests/NAME.json         a checkpoint exists by it: the manifest, with "state" beside it
      files/NAME/DIGEST/...       its files, by the digest of the manifest
      retired/NAME                it is retired by this
      retiring/NAME               it is about to be; no alias may be pointed at it
      aliases/0000000012.json     where the aliases point; the highest number holds
      trial/                      what `open_objects` tries

No object changes once it is there, and whatever decides something is one object that is created
exclusively (`If-None-Match: *`), so that of two writers one succeeds:

    publishing, rejecting   the files, then the manifest. Drafts of one name never mix, for their
                            digests differ
    moving an alias         the next number. Who loses the race reads again and asks again
    retiring                `retiring`, then the next number with the aliases as they are (whoever
                            was about to move one loses the race, looks again, and is refused), then
                            `retired`, then the files are removed, and `retiring`

A crash leaves files without a manifest, files of a retired checkpoint, or a `retiring` that came to
nothing: at no moment does it matter to a reader, and `sweep` removes it. A store must show a new
object to the next reader and in the next list, as those of today do.

Manifests, and the newest aliases, are kept in memory: they never change, so that a look at the
aliases is one list of a few dozen keys. Prices and latencies are of the operator's store; what is
asked of it each second is that one list per server.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import random
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from learnback_store.aliases import Aliases
from learnback_store.checkpoint_files import check_files
from learnback_store.codec import Record
from learnback_store.errors import (
    CheckpointCorruptError,
    CheckpointUnusableError,
    StoreUnavailableError,
)
from learnback_store.fetched import Fetched
from learnback_store.home import CheckpointState, Placed
from learnback_store.manifest import Manifest
from learnback_store.objects import Objects, open_objects

_T = TypeVar("_T")

_MANIFESTS, _FILES, _RETIRED, _RETIRING = "manifests", "files", "retired", "retiring"
_ALIASES, _TRIAL = "aliases", "trial"
_SUFFIX = ".json"
_DIGITS = 10
_WRITER_BYTES = 8
# Numbers of aliases that stay. Whoever has read one and creates its successor this much later, when
# that may have been removed, is told by the list that he was too late.
_KEPT = 64
# A lost race means that another's move was made; so many in a row are no coincidence.
_MOST_RACES = 50
_RACE_SECONDS = 0.02
# Manifests that are read side by side.
_READERS = 16
_URL_DIGITS = 12


@dataclass(frozen=True, slots=True)
class AliasEntry(Record):
    """The content of one number."""

    schema: ClassVar[str] = "learnback.alias-entry/1"

    writer: str
    """Random, so that no two contents are equal."""
    aliases: Aliases


def open_object_home(url: str, cache: Path | None = None) -> ObjectHome:
    """Returns the home under a URL, after trying it.

    Args:
        url: Where it is.
        cache: Where checkpoints are fetched to, in a folder of this URL; None: in the system's
            folder for temporary files.

    Raises:
        CheckpointHomeError: The store can't be used.
        OSError: The cache can't be made.
    """
    objects = open_objects(url.rstrip("/"))
    own = hashlib.sha256(objects.url.encode()).hexdigest()[:_URL_DIGITS]
    # One folder, for in a folder of all users another might lay what is under ours.
    default = Path(tempfile.gettempdir()) / f"learnback-checkpoints-{os.getuid()}-{own}"
    return ObjectHome(objects.url, objects, Fetched(cache / own if cache else default))


class ObjectHome:
    """Checkpoints in an object store.

    Args:
        root: The URL, for messages.
        objects: The objects.
        fetched: Where checkpoints are fetched to.
    """

    def __init__(self, root: str, objects: Objects, fetched: Fetched) -> None:
        self.root = root
        self._objects, self._fetched = objects, fetched
        self._manifests: dict[str, Placed] = {}
        self._newest: tuple[int, Aliases] = (0, Aliases())
        self._swept = False

    # What there is

    def names(self) -> set[str]:
        """Returns the names that are taken."""
        return {name.removesuffix(_SUFFIX) for name in self._objects.names(_MANIFESTS)}

    def manifest(self, name: str) -> str:
        """Returns the text of a manifest."""
        return self._placed(name).text

    def find(self, name: str) -> Placed:
        """Returns one checkpoint."""
        placed = self._placed(name)
        try:
            self._objects.read(f"{_RETIRED}/{name}")
        except FileNotFoundError:
            return placed
        return placed._replace(state=CheckpointState.RETIRED)

    def listed(self, states: Iterable[CheckpointState]) -> Iterator[Placed]:
        """Yields the checkpoints in these states."""
        wanted = set(states)
        # The manifests first: of what is retired in between, there are both.
        names, retired = sorted(self.names()), self._objects.names(_RETIRED)
        with ThreadPoolExecutor(_READERS) as readers:
            for placed in readers.map(self._readable, names):
                if placed is not None:
                    gone = placed.name in retired
                    found = placed._replace(state=CheckpointState.RETIRED) if gone else placed
                    if found.state in wanted:
                        yield found

    def _readable(self, name: str) -> Placed | None:
        try:
            return self._placed(name)
        except (FileNotFoundError, CheckpointCorruptError):
            return None

    def _placed(self, name: str) -> Placed:
        """A checkpoint in the state that it was given when it was placed."""
        if name not in self._manifests:
            content = self._objects.read(f"{_MANIFESTS}/{name}{_SUFFIX}")
            self._manifests[name] = _read(name, content)
        return self._manifests[name]

    # Writing

    def draft(self) -> contextlib.AbstractContextManager[Path]:
        """Gives an empty folder in the cache."""
        return self._fetched.aside()

    def place(self, draft: Path, manifest: Manifest, state: CheckpointState) -> None:
        """Uploads the files, and the manifest last."""
        key = f"{_MANIFESTS}/{manifest.name}{_SUFFIX}"
        if manifest.name in self.names():
            raise FileExistsError(key)
        with self._writing():
            for file in manifest.files:
                self._objects.upload(draft / file.name, f"{_files_of(manifest)}/{file.name}")
            if not self._objects.create(key, _written(manifest, state)):
                raise FileExistsError(key)

    def folder(self, manifest: Manifest) -> Path:
        """Returns the copy in the cache, after downloading it if there is none."""
        return self._fetched.get(manifest, functools.partial(self._download, manifest))

    def forget(self, manifest: Manifest) -> bool:
        """Removes the copy in the cache."""
        self._fetched.forget(manifest)
        return True

    def _download(self, manifest: Manifest, folder: Path) -> None:
        for file in manifest.files:
            target = folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._objects.download(
                    f"{_files_of(manifest)}/{file.name}", target, file.size_bytes
                )
            except FileNotFoundError as error:
                raise CheckpointCorruptError(
                    f"{file.name} of {manifest.name} is missing"
                ) from error
        check_files(folder, manifest)

    # Removing

    def being_retired(self, name: str) -> bool:
        """Whether somebody retires it now, or has died of it."""
        try:
            self._objects.read(f"{_RETIRING}/{name}")
        except FileNotFoundError:
            return False
        return True

    def retire(self, one: Placed, refuse: Callable[[Aliases], None]) -> None:
        """Retires a checkpoint, as the head of this file tells."""

        def fence(now: Aliases) -> tuple[Aliases, None]:
            refuse(now)
            return _copy(now), None

        refuse(self.aliases())
        with self._writing():
            if one.state is not CheckpointState.RETIRED:
                self._objects.create(f"{_RETIRING}/{one.name}", "")
                try:
                    self.change_aliases(fence)
                except CheckpointUnusableError:
                    self._objects.remove(f"{_RETIRING}/{one.name}")
                    raise
                self._objects.create(f"{_RETIRED}/{one.name}", "")
            self._strip(one.name)

    def _strip(self, name: str) -> None:
        """Removes what is left of a retired checkpoint but its manifest."""
        for key in self._objects.keys(f"{_FILES}/{name}"):
            self._objects.remove(key)
        self._objects.remove(f"{_RETIRING}/{name}")
        self._fetched.tidy([name], self._newest[1].targets.values())

    def sweep(self) -> None:
        """Removes what a crash left behind; once, and again after something has failed."""
        if self._swept:
            return
        with_files = self._objects.names(_FILES)
        names, retired = self.names(), self._objects.names(_RETIRED)
        for name in self._objects.names(_RETIRING) - retired:
            self._objects.remove(f"{_RETIRING}/{name}")
        for name in (with_files & retired) | self._objects.names(_RETIRING):
            self._strip(name)
        for name in with_files - retired:
            kept = self._kept_of(name) if name in names else ""
            for key in self._objects.keys(f"{_FILES}/{name}"):
                if not kept or not key.startswith(f"{kept}/"):
                    self._objects.remove(key)
        for key in self._objects.keys(_TRIAL):
            self._objects.remove(key)
        self._swept = True

    def _kept_of(self, name: str) -> str:
        """Where the files of a checkpoint lie; all of them, if its manifest is unreadable."""
        try:
            return _files_of(Manifest.from_file(self._placed(name).text))
        except CheckpointCorruptError:
            return f"{_FILES}/{name}"

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What fails here may leave something to sweep."""
        try:
            yield
        except BaseException:
            self._swept = False
            raise

    # Aliases

    def aliases(self) -> Aliases:
        """Returns where the aliases point now."""
        known = self._newest[0]
        number, aliases = self._latest()
        if number != known:
            self._tidy_cache(aliases)
        return aliases

    def change_aliases(self, change: Callable[[Aliases], tuple[Aliases, _T]]) -> _T:
        """Changes the aliases by creating the next number."""
        for _ in range(_MOST_RACES):
            number, now = self._latest()
            then, answer = change(now)
            if then is now or self._append(number + 1, then):
                return answer
            time.sleep(random.uniform(0, _RACE_SECONDS))
        raise StoreUnavailableError(f"{self.root}: too many move aliases at the same time")

    def _latest(self) -> tuple[int, Aliases]:
        for _ in range(_MOST_RACES):
            number = max(self._numbers(), default=0)
            if number == self._newest[0]:
                return self._newest
            if number == 0:
                self._newest = (0, Aliases())
                return self._newest
            # It may have been removed since, if 64 moves were made meanwhile.
            with contextlib.suppress(FileNotFoundError):
                text = self._objects.read(_entry(number))
                self._newest = (number, AliasEntry.from_json(text).aliases)
                return self._newest
        raise StoreUnavailableError(f"{self.root}: the aliases change faster than they are read")

    def _append(self, number: int, aliases: Aliases) -> bool:
        """Creates a number; returns False if another was faster."""
        entry = AliasEntry(secrets.token_hex(_WRITER_BYTES), aliases)
        if not self._objects.create(_entry(number), entry.to_json()):
            return False
        numbers = self._numbers()
        oldest = max(numbers) - _KEPT
        if number <= oldest:  # it had been there, and was removed: that was no success
            self._objects.remove(_entry(number))
            return False
        with contextlib.suppress(StoreUnavailableError):  # the next move will do it
            for old in sorted(numbers):
                if old <= oldest:
                    self._objects.remove(_entry(old))
        return True

    def _numbers(self) -> set[int]:
        names = {name.removesuffix(_SUFFIX) for name in self._objects.names(_ALIASES)}
        return {int(name) for name in names if name.isdecimal()}

    def _tidy_cache(self, aliases: Aliases) -> None:
        # With those that are about to be retired: this is looked at once for each number, and one
        # is written before a checkpoint is retired.
        gone = self._objects.names(_RETIRED) | self._objects.names(_RETIRING)
        self._fetched.tidy(gone, aliases.targets.values())


def _files_of(manifest: Manifest) -> str:
    return f"{_FILES}/{manifest.name}/{manifest.digest.partition(':')[2]}"


def _entry(number: int) -> str:
    return f"{_ALIASES}/{number:0{_DIGITS}}{_SUFFIX}"


def _copy(aliases: Aliases) -> Aliases:
    return Aliases(aliases.targets, aliases.serial, aliases.moves)


def _written(manifest: Manifest, state: CheckpointState) -> str:
    content = {"state": state.value} | json.loads(manifest.to_file())
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _read(name: str, text: str) -> Placed:
    try:
        content = json.loads(text)
        state = CheckpointState(content.pop("state"))
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise CheckpointCorruptError(f"the manifest of {name} is unreadable: {error}") from error
    return Placed(name, state, json.dumps(content, ensure_ascii=False))
