"""Redis, servers, a trainer and a Prometheus as real processes, to be broken one way after another.

Prometheus has our rules with every window a sixtieth as long: minutes become seconds.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc

from dashboards.draw import ask
from learnback.v1 import feedback_pb2, inference_pb2
from learnback.v1.feedback_pb2_grpc import FeedbackServiceStub
from learnback.v1.inference_pb2_grpc import InferenceServiceStub
from learnback_client.stack import free_address
from learnback_store.checkpoints import CheckpointStore
from learnback_store.embedded import EmbeddedRedis
from tests.rules.prometheus import RULES, program

# Only what never comes takes so long; importing torch on a busy machine takes a minute, and a rule
# that looks back over hours looks back over as many minutes here.
PATIENCE_SECONDS = 480.0
_HOURS_A_DAY = 24


def hastened(rules: str) -> str:
    """Rules with windows a sixtieth as long, and 15 seconds for 15 minutes."""
    rules = re.sub(
        r"(?<=[\[ ])(\d+)([mhd])(?=[\]\n])",
        lambda found: {
            "m": f"{found[1]}s",
            "h": f"{found[1]}m",
            "d": f"{int(found[1]) * _HOURS_A_DAY}m",
        }[found[2]],
        rules,
    )
    return rules.replace("15 * 60", "15")


def wait_for(what: Callable[[], object]) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < give_up, "it never came about"
        time.sleep(0.3)


class Deployment:
    """All processes, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = CheckpointStore(folder / "checkpoints")
        self.redis = EmbeddedRedis(folder / "redis")
        self.redis.start()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._metrics = {name: free_address() for name in ("server", "other", "trainer")}
        self.address = free_address()
        self.prometheus = f"http://{self._start_prometheus()}"
        self.start_server("server", self.address, folder / "checkpoints")
        self.channel = grpc.insecure_channel(self.address)

    def start_server(self, name: str, listen: str, checkpoints: Path, *flags: str) -> None:
        common = ("--listen", listen, "--checkpoint-dir", str(checkpoints), "--threads", "1")
        queue = ("--max-running", "1", "--drain-grace", "0")
        self._start(name, "learnback_server", *common, *queue, *flags)
        wait_for(lambda: self.value(f'up{{job="{name}"}}') == 1)

    def start_trainer(self, *flags: str) -> None:
        common = ("--checkpoint-dir", str(self.folder / "checkpoints"), "--round-wait", "0")
        archive = ("--archive-file", str(self.folder / "archive.sqlite"), "--trainer-threads", "1")
        short = ("--answer-tokens", "24", "--round-size", "1")
        self._start("trainer", "learnback_trainer", *common, *archive, *short, *flags)
        wait_for(lambda: self.value('up{job="trainer"}') == 1)

    def stop(self, name: str) -> None:
        process = self._processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        self.channel.close()
        for name in list(self._processes):
            self.stop(name)
        self.redis.stop()

    def generate(self, prompt: str, max_tokens: int = 8) -> inference_pb2.GenerateResponse:
        return self.begin(prompt, max_tokens).result()

    def begin(self, prompt: str, max_tokens: int) -> grpc.Future:
        sampling = inference_pb2.Sampling(temperature=0, ignore_eos=True, max_tokens=max_tokens)
        spec = inference_pb2.GenerationSpec(prompt=prompt, sampling=sampling)
        stub = InferenceServiceStub(self.channel)
        return stub.Generate.future(inference_pb2.GenerateRequest(spec=spec), wait_for_ready=True)

    def correct(self, question: str, right: str, author: str = "") -> None:
        user = inference_pb2.Message(role=inference_pb2.ROLE_USER, content=question)
        exchange = feedback_pb2.Exchange(
            chat=inference_pb2.Chat(messages=[user]), answer="Something."
        )
        request = feedback_pb2.SubmitFeedbackRequest(
            exchange=exchange, correction=feedback_pb2.Correction(text=right), author=author
        )
        FeedbackServiceStub(self.channel).SubmitFeedback(request)

    def value(self, query: str) -> float | None:
        """The value of the only series of a query; None if there is none, or no Prometheus yet."""
        try:
            result = ask(self.prometheus, "query", query=query)["result"]
        except OSError:
            return None
        return float(result[0]["value"][1]) if result else None

    def firing(self) -> set[str]:
        found = ask(self.prometheus, "query", query='ALERTS{alertstate="firing"}')["result"]
        return {one["metric"]["alertname"] for one in found}

    def _start(self, name: str, module: str, *flags: str) -> None:
        common = ("--redis-url", self.redis.url, "--metrics-listen", self._metrics[name])
        command = [sys.executable, "-m", module, "--model", "nano", *common, *flags]
        self._spawn(name, command)

    def _spawn(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def _start_prometheus(self) -> str:
        address = free_address()
        files = []
        for file in RULES.glob("*.yaml"):
            files.append(self.folder / file.name)
            files[-1].write_text(hastened(file.read_text(encoding="utf-8")), encoding="utf-8")
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(file) for file in files],
            "scrape_configs": [
                {"job_name": name, "static_configs": [{"targets": [target]}]}
                for name, target in self._metrics.items()
            ],
        }
        (self.folder / "prometheus.yml").write_text(json.dumps(config))
        command = [
            program("prometheus"),
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'tsdb'}",
            f"--web.listen-address={address}",
            "--enable-feature=exemplar-storage",
        ]
        self._spawn("prometheus", command)
        return address
