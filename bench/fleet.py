"""A cluster's worth of processes on one machine: servers, and Redis with its Sentinels.

The Redis nodes run the script that they run in a cluster (k8s/components/redis-sentinel/node.sh).
Everything listens on loopback.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis

from learnback_client import Client, Health, LearnbackError
from learnback_store.connection import connect
from learnback_store.embedded import find_server

NODE_SCRIPT = Path(__file__).parents[1] / "k8s/components/redis-sentinel/node.sh"
# Of the Sentinels; a node is given up after so many milliseconds of silence.
DOWN_AFTER_MS = 5000
# Only a hang would take so long, in seconds.
PATIENCE = 600.0
_LOOK_SECONDS = 0.1
_PASSWORD_BYTES = 12
_INFERENCE = "learnback.v1.InferenceService"


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Waits until something holds.

    Raises:
        RuntimeError: It never did.
    """
    give_up = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > give_up:
            raise RuntimeError(f"it never came about that {what}")
        time.sleep(_LOOK_SECONDS)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that are free now, each another one."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Program:
    """A process that can be started again, with its log.

    Args:
        command: What to run.
        log: Where it writes.
        environment: Set besides ours.
    """

    def __init__(self, command: list[str], log: Path, **environment: str) -> None:
        self._command, self.log = command, log
        own = {name: value for name, value in os.environ.items() if "LEARNBACK" not in name}
        self._environment = own | environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self._environment,
            )  # fmt: skip

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal, and waits for its end; returns its exit code."""
        if self._process is None:
            return 0
        self._process.send_signal(number)
        return self._process.wait(PATIENCE)


class Server(Program):
    """A server on a port of its own that outlives its restarts."""

    def __init__(self, folder: Path, port: int, redis_url: str, model: str, *flags: str) -> None:
        self.address = f"127.0.0.1:{port}"
        super().__init__(
            [
                *(sys.executable, "-m", "learnback_server", "--listen", self.address),
                *("--model", model, "--device", "cpu", "--threads", "1"),
                *("--checkpoint-dir", str(folder / "checkpoints"), *flags),
            ],
            folder / f"server-{port}.log",
            LEARNBACK_REDIS_URL=redis_url,
        )

    def wait(self) -> None:
        """Waits until it serves."""
        wait_until(self._serves, f"{self.address} serves")

    def _serves(self) -> bool:
        if not self.runs:
            raise RuntimeError(f"a server has ended: {self.log.read_text()[-2000:]}")
        with contextlib.suppress(LearnbackError), Client(self.address) as client:
            return client.health(_INFERENCE, timeout=1.0) is Health.SERVING
        return False


@contextlib.contextmanager
def serving(
    folder: Path, redis_url: str, *flags: str, count: int = 3, model: str = "nano"
) -> Iterator[list[Server]]:
    """Some servers on one Redis and one folder of checkpoints."""
    servers = [Server(folder, port, redis_url, model, *flags) for port in free_ports(count)]
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.wait()
        yield servers
    finally:
        for server in servers:
            if server.runs:
                server.stop(signal.SIGKILL)


def address_of(servers: list[Server]) -> str:
    """What a client is given to go round all of them."""
    return "ipv4:" + ",".join(server.address for server in servers)


class Redises:
    """Three Redis with a Sentinel beside each.

    Args:
        folder: Where their data lie.
    """

    def __init__(self, folder: Path) -> None:
        ports = free_ports(6)
        self._password = secrets.token_hex(_PASSWORD_BYTES)
        self._nodes = [
            f"127.0.0.1:{redis}:{sentinel}"
            for redis, sentinel in zip(ports[:3], ports[3:], strict=True)
        ]
        self.programs = {
            (node, role): self._program(folder, node, role)
            for node in self._nodes
            for role in ("redis", "sentinel")
        }

    @property
    def url(self) -> str:
        """What learnback is given."""
        hosts = ",".join("127.0.0.1:" + node.rpartition(":")[2] for node in self._nodes)
        return f"redis+sentinel://:{self._password}@{hosts}/learnback"

    def master(self) -> str:
        """The node that takes writes now.

        Raises:
            redis.RedisError: None does.
        """
        with connect(self.url) as client:
            role = client.execute_command("ROLE")
            port = client.config_get("port")["port"]
        if role[0] != "master":
            raise RuntimeError(f"a {role[0]} was told to be the master")
        return next(node for node in self._nodes if node.split(":")[1] == port)

    def writes(self) -> bool:
        """Whether one takes writes."""
        with contextlib.suppress(redis.RedisError, OSError), connect(self.url) as client:
            client.set("fleet:probe", 1)
            return True
        return False

    def is_whole(self) -> bool:
        """Whether all follow one master, and all Sentinels know all of it.

        Sentinels look for new replicas every 10 s; one that is not known would not follow.
        """
        return all(self._sees_all(node) for node in self._nodes)

    def _sees_all(self, node: str) -> bool:
        port = int(node.rpartition(":")[2])
        with contextlib.suppress(redis.RedisError, OSError):
            with redis.Redis(port=port, password=self._password, decode_responses=True) as sentinel:
                master = sentinel.sentinel_master("learnback")
                replicas = sentinel.sentinel_slaves("learnback")
            others = len(self._nodes) - 1
            up = [each for each in replicas if each["master-link-status"] == "ok"]
            knows_all = master["num-other-sentinels"] == others
            return knows_all and len(replicas) == len(up) == others
        return False

    def _program(self, folder: Path, node: str, role: str) -> Program:
        data = folder / f"redis-{node.split(':')[1]}"
        data.mkdir(parents=True, exist_ok=True)
        return Program(
            ["sh", str(NODE_SCRIPT), role],
            data / f"{role}.log",
            SELF=node,
            NODES=" ".join(self._nodes),
            DATA=str(data),
            REDIS_PASSWORD=self._password,
            REDIS_SERVER=str(find_server()),
            REDIS_CLI=shutil.which("redis-cli") or str(find_server().with_name("redis-cli")),
            DOWN_AFTER_MS=str(DOWN_AFTER_MS),
        )


@contextlib.contextmanager
def redises(folder: Path) -> Iterator[Redises]:
    """Three of them, replicating."""
    three = Redises(folder)
    try:
        for program in three.programs.values():
            program.start()
        wait_until(three.is_whole, "two replicas follow a master")
        yield three
    finally:
        for program in three.programs.values():
            if program.runs:
                program.stop(signal.SIGKILL)
