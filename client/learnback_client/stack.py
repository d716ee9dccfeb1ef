"""A whole learnback on one machine: Redis, server and trainer as processes under one supervisor.

    state/redis/           what waits, and what was answered
    state/checkpoints/     what was learned
    state/archive.sqlite   all feedback, with what became of it
    state/logs/            what each process says

The processes are the programs that are installed beside the client; none of their code is imported.
One that ends by itself is started again, after a second, then two, four and so on up to half a
minute; one that can't even start ends the start. On Linux all of them end with the process that
started the stack, even after kill -9.

One stack works on a state folder at a time: the embedded Redis holds its lock.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from learnback_client.client import Client
from learnback_client.errors import LearnbackError
from learnback_client.health import Health

_INFERENCE = "learnback.v1.InferenceService"
# The first import of torch on a busy machine takes a while; a model of the hub must be downloaded.
_START_SECONDS = 600.0
_POLL_SECONDS = 0.1
_CALL_SECONDS = 2.0
# A server drains for half a minute by default, and then says farewell.
_STOP_SECONDS = 45.0
_LONGEST_PAUSE_SECONDS = 30.0
# A process that ran for so long has recovered: its next pause is a short one again.
_STEADY_SECONDS = 60.0
_LOG_TAIL_LINES = 5
_PR_SET_PDEATHSIG = 1
_HIGHEST_PORT = 65535


class StackError(Exception):
    """The stack can't run; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class StackPlan:
    """What to run, and where."""

    state: Path
    address: str
    """HOST:PORT that the server listens on."""
    model: str = "nano"
    redis_url: str = ""
    """A Redis of the user's own; empty starts the embedded one."""
    server_flags: tuple[str, ...] = ()
    trainer_flags: tuple[str, ...] = ()


@dataclass(slots=True)
class _Program:
    """One supervised process."""

    name: str
    command: list[str]
    log: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = 1.0
    restart_at: float = field(default=0.0)

    def start(self, stdout: int | None = None) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603  # our own interpreter and programs
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log if stdout is None else stdout,
                stderr=log,
                env=self.environment,
                # Ctrl-C goes to the whole terminal group; who stops when is decided here.
                start_new_session=True,
                preexec_fn=_end_with_parent(),
            )
        self.started = time.monotonic()
        return self.process

    def ended(self) -> int | None:
        """Its exit code; None while it runs, or was not started."""
        return self.process.poll() if self.process is not None else None

    def tail(self) -> str:
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").splitlines()
            return " / ".join(lines[-_LOG_TAIL_LINES:])
        return "it wrote no log"


class Stack:
    """The running stack. A context manager: entering starts it, leaving stops it.

    Start it from the main thread: on Linux the processes end with the thread that started them.

    Args:
        plan: What to run.
        say: Told what happens, a line each.
    """

    def __init__(self, plan: StackPlan, say: Callable[[str], None] = lambda _: None) -> None:
        self._plan, self._say = plan, say
        self._programs: list[_Program] = []
        self._logs = plan.state / "logs"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts everything and returns when it answers, and waits for feedback.

        Raises:
            StackError: It can't; the message has the last lines of the log.
        """
        _require_programs()
        _refuse_taken(self._plan.address)
        self._logs.mkdir(parents=True, exist_ok=True)
        url = self._plan.redis_url or self._start_redis()
        server = self._add("server", "learnback_server", self._server_flags(), url)
        trainer = self._add("trainer", "learnback_trainer", self._trainer_flags(), url)
        for program in (server, trainer):
            program.start()
        with Client(self._plan.address) as client:
            self._wait(lambda: _serves(client), "the server")
            self._wait(lambda: _learns(client), "the trainer")

    def watch(self) -> None:
        """Starts again whatever has ended; call it every second or so."""
        now = time.monotonic()
        for program in self._programs:
            code = program.ended()
            if code is None:
                continue
            if not program.restart_at:
                if now - program.started > _STEADY_SECONDS:
                    program.pause = 1.0
                program.restart_at = now + program.pause
                self._say(
                    f"the {program.name} has ended (exit code {code}); it is started again in "
                    f"{program.pause:.0f} s: {program.tail()}"
                )
                program.pause = min(2 * program.pause, _LONGEST_PAUSE_SECONDS)
            elif now >= program.restart_at:
                program.restart_at = 0.0
                program.start()

    def stop(self) -> None:
        """Stops everything: trainer and server first, Redis last."""
        while self._programs:
            program = self._programs.pop()
            if program.process is not None:
                _stop(program.process)

    # Starting

    def _start_redis(self) -> str:
        program = _Program(
            "Redis",
            [sys.executable, "-m", "learnback_store", str(self._plan.state / "redis")],
            self._logs / "redis.log",
            _bare_environment(),
        )
        process = program.start(stdout=subprocess.PIPE)
        self._programs.append(program)
        url = _first_line(process)
        if not url:
            raise StackError(f"the Redis did not start: {program.tail()}")
        # Where it listens may change with every start, so it is not started again by itself.
        return url

    def _add(self, name: str, module: str, flags: Sequence[str], redis_url: str) -> _Program:
        # The URL may hold a password: the environment is not shown in lists of processes.
        environment = {**_bare_environment(), "LEARNBACK_REDIS_URL": redis_url}
        command = [sys.executable, "-m", module, *flags]
        program = _Program(name, command, self._logs / f"{name}.log", environment)
        self._programs.append(program)
        return program

    def _common_flags(self) -> list[str]:
        folder = self._plan.state / "checkpoints"
        return ["--model", self._plan.model, "--checkpoint-dir", str(folder)]

    def _server_flags(self) -> list[str]:
        return ["--listen", self._plan.address, *self._common_flags(), *self._plan.server_flags]

    def _trainer_flags(self) -> list[str]:
        archive = ["--archive-file", str(self._plan.state / "archive.sqlite")]
        # The server's engine keeps one core busy, and threads that wait for a core wait for all.
        threads = ["--trainer-threads", str(max(1, (os.cpu_count() or 1) - 1))]
        return [*self._common_flags(), *archive, *threads, *self._plan.trainer_flags]

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        """Waits until something is ready; gives up at once when a process ends instead."""
        deadline = time.monotonic() + _START_SECONDS
        while not ready():
            for program in self._programs:
                if program.ended() is not None:
                    raise StackError(f"the {program.name} did not start: {program.tail()}")
            if time.monotonic() > deadline:
                raise StackError(f"{what} was not ready in {_START_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)


def free_address() -> str:
    """Returns an address on the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _refuse_taken(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= _HIGHEST_PORT:
        raise StackError(f"{address!r} must be HOST:PORT with a port of 1 to {_HIGHEST_PORT}")
    with (
        contextlib.suppress(OSError),
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CALL_SECONDS),
    ):
        raise StackError(
            f"something listens on {address} already; stop it, or choose another address with "
            "--listen"
        )


def _require_programs() -> None:
    modules = ("learnback_server", "learnback_trainer", "torch")
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise StackError(
            f"{', '.join(missing)} not installed here; "
            "pip install 'learnback[server,trainer]' brings them"
        )


def _bare_environment() -> dict[str, str]:
    """The environment without what is set for a server elsewhere: the plan says it all."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LEARNBACK_")}


def _end_with_parent() -> Callable[[], None] | None:
    """What a child runs so that the kernel ends it with its parent; None where there is no such."""
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)

    return ask


def _first_line(process: subprocess.Popen[bytes]) -> str:
    """The first line that a process writes; empty if it ends or says nothing in time."""
    if process.stdout is None:
        return ""
    readable, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
    return process.stdout.readline().decode().strip() if readable else ""


def _serves(client: Client) -> bool:
    with contextlib.suppress(LearnbackError):
        return client.health(_INFERENCE, timeout=_CALL_SECONDS) is Health.SERVING
    return False


def _learns(client: Client) -> bool:
    """Whether the trainer has given a sign of life since it was started."""
    with contextlib.suppress(LearnbackError):
        seen = client.get_learning_status(timeout=_CALL_SECONDS).trainer_seen
        return seen is not None and time.time() - seen.timestamp() < _STEADY_SECONDS
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
