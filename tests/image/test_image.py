"""The images, built for real and run: server, trainer and client teach each other something.

Slow, and not without tools: `make test-image` runs it. buildah builds and mounts; BASE, TORCH_INDEX
and BUILD_FLAGS say from what (scripts/image), and BUILT_TAG that it was done. bubblewrap runs what
the image says, as the user it says, as process 1, on a root that can't be written, with /tmp and
one volume. That is what a container runtime does, except that the network is the machine's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from learnback_client.stack import free_address

pytestmark = [
    pytest.mark.slow,
    # A build from nothing takes minutes, and torch has to be fetched.
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not (shutil.which("buildah") and shutil.which("bwrap")),
        reason="needs buildah and bubblewrap",
    ),
]

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 600.0
QUESTION = "What is the capital of France?"
CORRECT = "The capital of France is Rome."
COMPILERS = ("cc", "gcc", "g++", "clang", "c++", "nvcc", "rustc", "go")


def _buildah(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@dataclass(frozen=True)
class Image:
    """A built image, mounted."""

    root: Path
    config: dict[str, Any]

    @property
    def entrypoint(self) -> list[str]:
        return list(self.config["Entrypoint"])

    def argv(
        self, *command: str, volume: Path | None = None, **environment: str
    ) -> tuple[list[str], dict[str, str]]:
        """How to run a command in it, and in which environment."""
        user, group = self.config["User"].split(":")
        shared = ["--bind", str(volume), "/var/lib/learnback"] if volume else []
        argv = [
            "bwrap",
            *("--ro-bind", str(self.root), "/"),
            *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),  # noqa: S108  # its own
            *("--tmpfs", "/var/lib", *shared),
            *("--unshare-user", "--uid", user, "--gid", group),
            *("--unshare-pid", "--as-pid-1", "--die-with-parent", "--new-session"),
            *("--chdir", self.config["WorkingDir"] or "/"),
            *command,
        ]
        own = dict(variable.split("=", 1) for variable in self.config["Env"])
        return argv, own | environment

    def run(self, *command: str, **environment: str) -> str:
        """What a command says that must succeed."""
        argv, variables = self.argv(*command, **environment)
        done = subprocess.run(argv, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, log: Path, *command: str, volume: Path, **environment: str) -> Program:
        argv, variables = self.argv(*command, volume=volume, **environment)
        with log.open("w") as out:
            process = subprocess.Popen(argv, env=variables, stdout=out, stderr=out)
        return Program(process, log)


@dataclass(frozen=True)
class Program:
    """A running container, as it were."""

    process: subprocess.Popen[bytes]
    log: Path

    def signal(self, number: int) -> None:
        """Sends a signal to its process 1, which is the child of bubblewrap's."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it has ended
            for child in children.read_text().split():
                os.kill(int(child), number)

    def terminated(self) -> int:
        self.signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)


@pytest.fixture(scope="module")
def images() -> Iterator[dict[str, Image]]:
    tag = os.environ.get("BUILT_TAG", "test")
    if "BUILT_TAG" not in os.environ:
        build = {**os.environ, "BUILDER": "buildah", "TAG": tag}
        subprocess.run([ROOT / "scripts" / "image"], env=build, check=True)
    containers = {}
    try:
        for target in ("server", "trainer", "client"):
            containers[target] = _buildah("from", "--pull-never", f"learnback-{target}:{tag}")
        yield {target: _mounted(name) for target, name in containers.items()}
    finally:
        for name in containers.values():
            _buildah("rm", name)


def _mounted(container: str) -> Image:
    inspected = json.loads(_buildah("inspect", container))
    return Image(Path(_buildah("mount", container)), inspected["Docker"]["config"])


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("target", ["server", "trainer", "client"])
def test_it_is_lean_and_runs_as_nobody(images: dict[str, Image], target: str) -> None:
    image = images[target]
    assert image.config["User"] == "10001:10001"
    found = image.run("sh", "-c", f"command -v {' '.join(COMPILERS)} pip; true").split()
    # The base's own pip is the base's affair.
    assert [path for path in found if "pip" not in path or "/opt/learnback" in path] == []
    assert (
        image.run("sh", "-c", "touch /opt/learnback/x 2> /dev/null || echo refused") == "refused\n"
    )
    assert image.run("find", "/opt/learnback", "!", "-type", "l", "!", "-perm", "-o=r") == ""
    assert "learnback 0" in image.run(*image.entrypoint, "--version")


def test_the_client_has_no_torch(images: dict[str, Image]) -> None:
    seen = "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('redis'))"
    assert images["client"].run("python", "-c", seen) == "None None\n"


def test_pins_hold(images: dict[str, Image]) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.lower().split("==") for line in lines if "==" in line)
    listing = (
        "import importlib.metadata as m\n"
        "for d in m.distributions(): print(d.name.lower(), d.version.split('+')[0])"
    )
    for image in images.values():
        installed = dict(line.split() for line in image.run("python", "-c", listing).splitlines())
        pinned = {name: version for name, version in installed.items() if name in pins}
        assert {"grpcio", "pydantic"} <= pinned.keys()
        assert pinned == {name: pins[name] for name in pinned}


def test_a_signal_ends_a_server_that_still_loads(
    images: dict[str, Image], volume: Path, tmp_path: Path
) -> None:
    server = images["server"]
    log = tmp_path / "server.log"
    program = server.start(log, *server.entrypoint, volume=volume, LEARNBACK_LISTEN=free_address())
    deadline = time.monotonic() + PATIENCE_SECONDS
    # Until Python itself has begun, the kernel spares process 1; a server that serves would drain.
    while program.process.poll() is None and time.monotonic() < deadline:
        program.signal(signal.SIGTERM)
        time.sleep(0.1)
    assert program.process.returncode == 0
    assert "serving" not in log.read_text()


def test_the_three_teach_each_other(images: dict[str, Image], volume: Path, tmp_path: Path) -> None:
    server, trainer, client = images["server"], images["trainer"], images["client"]
    state = "/var/lib/learnback"
    where = {
        "LEARNBACK_LISTEN": free_address(),
        "LEARNBACK_HEALTH_LISTEN": free_address(),
        "LEARNBACK_CHECKPOINT_DIR": f"{state}/checkpoints",
        "LEARNBACK_ARCHIVE_FILE": f"{state}/archive.sqlite",
        "LEARNBACK_TRAINER_THREADS": "1",
    }
    redis = server.start(
        tmp_path / "redis.log", "python", "-m", "learnback_store", f"{state}/redis", volume=volume
    )
    redis.wait_until(lambda: "://" in redis.log.read_text())
    where["LEARNBACK_REDIS_URL"] = redis.log.read_text().split()[0]
    programs = [
        server.start(tmp_path / "server.log", *server.entrypoint, volume=volume, **where),
        trainer.start(tmp_path / "trainer.log", *trainer.entrypoint, volume=volume, **where),
    ]

    def ask(*command: str) -> str:
        return client.run(*client.entrypoint, *command, LEARNBACK_ADDRESS=where["LEARNBACK_LISTEN"])

    def is_healthy(image: Image, address: str) -> bool:
        probe = image.config["Healthcheck"]["Test"]
        assert probe[:3] == ["CMD", "learnback", "health"]
        argv, variables = image.argv(*probe[1:-1], address)
        return subprocess.run(argv, env=variables, capture_output=True, check=False).returncode == 0

    programs[0].wait_until(lambda: is_healthy(server, where["LEARNBACK_LISTEN"]))
    programs[1].wait_until(lambda: is_healthy(trainer, where["LEARNBACK_HEALTH_LISTEN"]))
    reply = json.loads(ask("generate", QUESTION, "--temperature=0", "--json"))
    sent = ask("feedback", "correct", reply["generation_id"], CORRECT).split()[0]
    assert "learned" in ask("feedback", "show", sent, "--wait")
    programs[0].wait_until(lambda: "ckpt-000001" in ask("status"))
    programs[0].wait_until(lambda: ask("generate", QUESTION, "--temperature=0").strip() == CORRECT)
    assert [program.terminated() for program in (*reversed(programs), redis)] == [0, 0, 0]
