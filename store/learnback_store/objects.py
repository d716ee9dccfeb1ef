"""The six verbs that checkpoints need of an object store, over fsspec.

Every call has a time-out, so that a store that hangs is noticed. What fails for any other reason
than that an object is, or is not, there becomes a `StoreUnavailableError`: libraries behind fsspec
each have errors of their own. Rights, regions and endpoints are the libraries' too (for S3:
`AWS_*` and `FSSPEC_S3_*` in the environment, profiles, roles); nothing of it is configured here.

Tried with S3 (s3fs). Others that fsspec knows (gs://, abfs://) need their library, and pass or fail
the trial of `open_objects`.
"""

from __future__ import annotations

import contextlib
import importlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from learnback_store.errors import CheckpointHomeError, StoreUnavailableError

# For S3. Its libraries would wait for a minute, five times over.
_CONNECT_SECONDS = 3.0
_READ_SECONDS = 15.0
_TRIES = 2
# Longest that anything small may take, with all tries; and what a file may take besides.
_CALL_SECONDS = 30.0
_SLOWEST_BYTES_A_SECOND = 1 << 20

_TRIAL = "trial"
_TRIAL_BYTES = 8


class Objects(Protocol):
    """Objects by key ("a/b"). Methods block; threads may share it.

    Each raises `StoreUnavailableError` if the store can't be reached, or refuses.
    """

    def read(self, key: str) -> str:
        """Returns a small object; raises FileNotFoundError if there is none."""

    def names(self, folder: str) -> set[str]:
        """Returns the last parts of the keys, and of folders, that lie in a folder."""

    def keys(self, folder: str) -> list[str]:
        """Returns all keys under a folder."""

    def create(self, key: str, text: str) -> bool:
        """Creates a small object; returns whether it is there now, and of nobody else.

        It is atomic: of several creators of one key, with texts that differ, one succeeds.
        """

    def upload(self, file: Path, key: str) -> None:
        """Stores a file, over whatever was there."""

    def download(self, key: str, file: Path, size_bytes: int) -> None:
        """Fetches a file; raises FileNotFoundError if there is none."""

    def remove(self, key: str) -> None:
        """Removes an object; no error if there is none."""


class FsspecObjects:
    """The objects under one URL.

    Args:
        url: Of a kind that fsspec knows, such as s3://BUCKET/PREFIX.

    Raises:
        CheckpointHomeError: fsspec, or the library for this kind of URL, is missing.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        scheme = url.partition("://")[0]
        extra = "s3" if scheme in ("s3", "s3a") else scheme
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if extra == "s3":
            options["config_kwargs"] = {
                "connect_timeout": _CONNECT_SECONDS,
                "read_timeout": _READ_SECONDS,
                "retries": {"total_max_attempts": 1},  # s3fs repeats by itself
                "max_pool_connections": 32,
            }
        try:
            self._sync: Any = importlib.import_module("fsspec.asyn").sync
            core: Any = importlib.import_module("fsspec.core")
            self._files, path = core.url_to_fs(url, **options)
        except (ImportError, ValueError) as error:
            raise CheckpointHomeError(
                f"{url} can't be used: {error}. For s3://, install learnback[s3]."
            ) from error
        if extra == "s3":
            self._files.retries = _TRIES
        self._prefix = str(path).rstrip("/")

    def read(self, key: str) -> str:
        """Returns a small object."""
        content: bytes = self._call("cat_file", self._path(key))
        return content.decode(errors="replace")  # what is damaged is found by who reads it

    def names(self, folder: str) -> set[str]:
        """Returns the last parts of what lies in a folder."""
        try:
            paths = self._call("ls", self._path(folder), detail=False)
        except FileNotFoundError:
            return set()
        return {path.rstrip("/").rpartition("/")[2] for path in paths}

    def keys(self, folder: str) -> list[str]:
        """Returns all keys under a folder."""
        try:
            paths = self._call("find", self._path(folder))
        except FileNotFoundError:
            return []
        # Some stores give paths with a slash in front.
        start = len(self._prefix.lstrip("/")) + 1
        return sorted(path.lstrip("/")[start:] for path in paths)

    def create(self, key: str, text: str) -> bool:
        """Creates a small object, exclusively.

        Whether it did is told by what lies there: a creation that was repeated after its answer had
        been lost is refused although it succeeded, and stores differ in how they refuse.
        """
        try:
            self._call("pipe_file", self._path(key), text.encode(), mode="create")
        except (FileExistsError, StoreUnavailableError) as error:
            try:
                return self.read(key) == text
            except FileNotFoundError:
                raise StoreUnavailableError(f"{key} can't be created in {self.url}") from error
        return True

    def upload(self, file: Path, key: str) -> None:
        """Stores a file."""
        size = file.stat().st_size
        self._call("put_file", str(file), self._path(key), seconds=_seconds(size))

    def download(self, key: str, file: Path, size_bytes: int) -> None:
        """Fetches a file."""
        self._call("get_file", self._path(key), str(file), seconds=_seconds(size_bytes))

    def remove(self, key: str) -> None:
        """Removes an object."""
        with contextlib.suppress(FileNotFoundError):
            self._call("rm_file", self._path(key))

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key}"

    def _call(
        self, verb: str, *arguments: object, seconds: float = _CALL_SECONDS, **options: object
    ) -> Any:
        with self._errors():
            if not self._files.async_impl:
                return getattr(self._files, verb)(*arguments, **options)
            method = getattr(self._files, f"_{verb}")
            return self._sync(self._files.loop, method, *arguments, timeout=seconds, **options)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, FileExistsError) as error:
            # S3 says of a bucket that is gone what it says of an object.
            if "NoSuchBucket" in str(error.__cause__):
                raise StoreUnavailableError(f"{self.url}: there is no such bucket") from error
            raise
        except Exception as error:
            raise StoreUnavailableError(
                f"{self.url} can't be reached, or refuses: {type(error).__name__}: {error}"
            ) from error


def _seconds(size_bytes: int) -> float:
    return _CALL_SECONDS + size_bytes / _SLOWEST_BYTES_A_SECOND


def open_objects(url: str) -> FsspecObjects:
    """Returns the objects under a URL, after trying what checkpoints need of the store.

    Raises:
        CheckpointHomeError: It can't be reached, there is no such bucket, we have no right to
            write, or it lets two create the same object.
    """
    objects = FsspecObjects(url)
    key = f"{_TRIAL}/{secrets.token_hex(_TRIAL_BYTES)}"
    try:
        first = objects.create(key, "first")
        second = objects.create(key, "second")
        objects.names(_TRIAL)
        objects.remove(key)
    except (StoreUnavailableError, OSError) as error:
        raise CheckpointHomeError(
            f"{url} can't be used for checkpoints: {error}. Look at the bucket's name, its region "
            "and endpoint, and whether we may read, list, write and delete in it."
        ) from error
    if not first or second:
        raise CheckpointHomeError(
            f"{url} can't be used for checkpoints: it does not honour the exclusive creation of an "
            "object (If-None-Match), so that moves of aliases could be lost. Use another "
            "store, or a shared folder."
        )
    return objects
