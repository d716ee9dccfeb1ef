"""What `k8s/` renders to, without a cluster: by the schemas of Kubernetes, and against the code.

A schema knows fields and types and no more: that a selector matches, that a flag exists and that a
grace is long enough is checked here by hand. What only a cluster can tell is listed in
docs/kubernetes.md.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser
from typer.main import get_command

from learnback.v1 import feedback_pb2, inference_pb2, learning_pb2
from learnback_client.cli.app import app
from learnback_client.cli.settings import ClientSettings
from learnback_server.config import ServerConfig
from learnback_server.config import read_command_line as read_server
from learnback_trainer.config import TrainerConfig
from learnback_trainer.config import read_command_line as read_trainer
from learnback_trainer.health import READY
from tests.k8s.kinds import newest_versions, validator
from tests.k8s.rendering import K8S, Rendered, port_names, render

# What is optional is tested together, on the overlay that has the most.
COMPONENTS = (
    "keda", "podmonitor", "gateway", "networkpolicy", "tls", "auth", "object-store", "several-gpus",
)  # fmt: skip
# Made by whoever installs it, or by cert-manager.
SECRETS = {
    "learnback-redis", "learnback-tokens", "learnback-server-tls", "learnback-authority",
    "learnback-object-store",
}  # fmt: skip
PROGRAMS = {
    "learnback-server": (ServerConfig, read_server),
    "learnback-trainer": (TrainerConfig, read_trainer),
}
# What a secret would say.
HIDDEN = {"LEARNBACK_REDIS_URL": "redis://redis:6379/0"}
# After the drain, until the server's last word; see `learnback_server.app`.
FAREWELL_SECONDS = 2


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An overlay with all that is optional."""
    folder = tmp_path_factory.mktemp("everything")
    here = os.path.relpath(K8S, folder.resolve())
    text = yaml.safe_dump(
        {
            "namespace": "learnback",
            "resources": [f"{here}/overlays/ha"],
            "components": [f"{here}/components/{name}" for name in COMPONENTS],
        }
    )
    (folder / "kustomization.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module", params=["dev", "gpu", "ha", "everything"])
def rendered(request: pytest.FixtureRequest) -> Rendered:
    name = request.param
    folder = request.getfixturevalue(name) if name == "everything" else K8S / "overlays" / name
    return Rendered(name, render(folder))


def test_all_components_are_tested() -> None:
    used = {each.name for each in (K8S / "components").iterdir()} - {"redis", "redis-sentinel"}
    assert used == set(COMPONENTS)


@pytest.mark.parametrize("version", newest_versions())
def test_each_object_is_as_its_schema_demands(rendered: Rendered, version: str) -> None:
    for each in rendered.objects:
        validator(each, version).validate(each)


def test_the_schemas_refuse_what_is_not_theirs(everything: Path) -> None:
    objects = Rendered("everything", render(everything)).objects
    for each in objects:
        if "spec" in each:
            each["spec"]["colour"] = "blue"
            assert not validator(each, newest_versions()[-1]).is_valid(each), each["kind"]
    kinds = {each["kind"] for each in objects}
    assert {"ScaledObject", "PodMonitor", "GRPCRoute", "Certificate", "Issuer"} <= kinds


def test_what_is_set_is_what_the_programs_take(rendered: Rendered) -> None:
    for name, container in rendered.containers():
        if name not in PROGRAMS:
            continue
        environment = rendered.environment(container) | HIDDEN
        kind, read = PROGRAMS[name]
        fields = kind.model_fields
        known = {f"LEARNBACK_{field.upper()}" for field in (*fields, *ClientSettings.model_fields)}
        assert {each for each in environment if each.startswith("LEARNBACK_")} <= known
        config = read([], environment).config
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        listening = {
            "grpc": getattr(config, "listen", ""),
            "health": getattr(config, "health_listen", ""),
            "metrics": config.metrics_listen,
        }
        assert {key: value for key, value in listening.items() if value} == {
            key: f"0.0.0.0:{port}" for key, port in ports.items()
        }
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        paths = [value for value in environment.values() if value.startswith("/")]
        assert all(any(path.startswith(mount) for mount in mounts) for path in paths)


def test_the_drain_fits_into_the_grace(rendered: Rendered) -> None:
    server = rendered.get("Deployment", "learnback-server")["spec"]["template"]["spec"]
    [container] = server["containers"]
    config = read_server([], rendered.environment(container) | HIDDEN).config
    pre_stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = pre_stop + config.drain_grace + FAREWELL_SECONDS
    assert server["terminationGracePeriodSeconds"] > needed


def test_probes_ask_for_what_there_is(rendered: Rendered) -> None:
    services = {
        "learnback-server": {"learnback.v1.InferenceService"},
        "learnback-trainer": {READY},
    }
    for name, container in rendered.containers():
        probes = [container.get(f"{kind}Probe") for kind in ("startup", "readiness", "liveness")]
        for probe in filter(None, probes):
            if "grpc" in probe:
                assert probe["grpc"]["port"] in {
                    port["containerPort"] for port in container["ports"]
                }
                assert probe["grpc"].get("service", "") in services[name] | {""}
            elif probe["exec"]["command"][0] == "learnback":
                _check_command(probe["exec"]["command"], services[name])
    trained = rendered.get("StatefulSet", "learnback-trainer")["spec"]["template"]["spec"]
    assert "service" not in trained["containers"][0]["livenessProbe"]["grpc"]


def _check_command(command: list[str], services: set[str]) -> None:
    program, name, *flags = command
    known = {flag for each in get_command(app).commands[name].params for flag in each.opts}
    given = dict(flag.split("=", 1) for flag in flags)
    assert program == "learnback"
    assert given.keys() <= known
    assert given.get("--service", "") in services | {""}


def test_encrypted_servers_are_probed_encrypted(everything: Path) -> None:
    rendered = Rendered("everything", render(everything))
    [container] = rendered.get("Deployment", "learnback-server")["spec"]["template"]["spec"][
        "containers"
    ]
    assert not any(
        "grpc" in container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")
    )
    environment = rendered.environment(container)
    assert environment["LEARNBACK_CA_FILE"].startswith("/etc/learnback/tls")
    certificate = rendered.get("Certificate", "learnback-server")["spec"]
    assert "127.0.0.1" in certificate["ipAddresses"]
    assert certificate["secretName"] in str(rendered.get("Deployment", "learnback-server"))


def test_what_is_referred_to_is_there(rendered: Rendered) -> None:
    maps = {each["metadata"]["name"] for each in rendered.of_kind("ConfigMap")}
    claims = {each["metadata"]["name"] for each in rendered.of_kind("PersistentVolumeClaim")}
    text = json.dumps(rendered.objects)
    assert set(re.findall(r'"configMapRef": {"name": "([^"]+)"', text)) <= maps
    assert set(re.findall(r'"claimName": "([^"]+)"', text)) <= claims
    assert set(re.findall(r'"secretRef": {"name": "([^"]+)"', text)) <= SECRETS
    assert (
        set(re.findall(r'"(?:secretName|secretKeyRef": {"key": "\w+", "name)": "([^"]+)"', text))
        <= SECRETS
    )
    for name, pod in rendered.pods():
        workload = next(each for each in rendered.workloads() if each["metadata"]["name"] == name)
        templates = workload["spec"].get("volumeClaimTemplates", [])
        volumes = {each["name"] for each in pod["volumes"]} if "volumes" in pod else set()
        volumes |= {each["metadata"]["name"] for each in templates}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        for volume in pod.get("volumes", ()):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps


def test_an_object_store_takes_the_place_of_the_volume(everything: Path) -> None:
    rendered = Rendered("everything", render(everything))
    assert not rendered.of_kind("PersistentVolumeClaim")
    rendered.get("ServiceAccount", "learnback")
    for name, pod in rendered.pods():
        if name not in PROGRAMS:
            continue
        assert pod["serviceAccountName"] == "learnback"
        assert "persistentVolumeClaim" not in json.dumps(pod)
        [container] = pod["containers"]
        environment = rendered.environment(container)
        assert environment["LEARNBACK_CHECKPOINT_DIR"].startswith("s3://")
        cache = Path(environment["LEARNBACK_CHECKPOINT_CACHE"])
        [mount] = [
            each for each in container["volumeMounts"] if Path(each["mountPath"]) in cache.parents
        ]
        [volume] = [each for each in pod["volumes"] if each["name"] == mount["name"]]
        assert "emptyDir" in volume
        assert {"secretRef": {"name": "learnback-object-store", "optional": True}} in container[
            "envFrom"
        ]
    trainer = rendered.get("StatefulSet", "learnback-trainer")
    assert [each["metadata"]["name"] for each in trainer["spec"]["volumeClaimTemplates"]] == [
        "archive"
    ]


def test_services_lead_to_ports(rendered: Rendered) -> None:
    for service in rendered.of_kind("Service"):
        [workload] = rendered.selected_by(service["spec"]["selector"])
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= port_names(
            workload
        ).keys()
    for workload in rendered.workloads():
        selector = workload["spec"]["selector"]["matchLabels"]
        assert rendered.selected_by(selector) == [workload]
        if workload["kind"] == "StatefulSet":
            rendered.get("Service", workload["spec"]["serviceName"])
    for budget in rendered.of_kind("PodDisruptionBudget"):
        assert len(rendered.selected_by(budget["spec"]["selector"]["matchLabels"])) == 1
    headless = rendered.get("Service", "learnback")["spec"]
    assert headless["clusterIP"] == "None"


def test_what_watches_and_routes_leads_somewhere(everything: Path) -> None:
    rendered = Rendered("everything", render(everything))
    [monitor] = rendered.of_kind("PodMonitor")
    watched = rendered.selected_by(monitor["spec"]["selector"]["matchLabels"])
    names = {each["metadata"]["name"] for each in watched if "metrics" in port_names(each)}
    assert names == PROGRAMS.keys()
    [route] = rendered.of_kind("GRPCRoute")
    [rule] = route["spec"]["rules"]
    offered = {
        service.full_name
        for module in (inference_pb2, feedback_pb2, learning_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    }
    assert {match["method"]["service"] for match in rule["matches"]} == offered
    for backend in rule["backendRefs"]:
        service = rendered.get("Service", backend["name"])
        assert backend["port"] in {port["port"] for port in service["spec"]["ports"]}
    for policy in rendered.of_kind("NetworkPolicy"):
        [workload] = rendered.selected_by(policy["spec"]["podSelector"]["matchLabels"])
        ports = port_names(workload)
        for rule in policy["spec"]["ingress"]:
            assert {port["port"] for port in rule["ports"]} <= ports.keys() | set(ports.values())


def test_scaling_goes_by_metrics_that_are_exported(everything: Path) -> None:
    rendered = Rendered("everything", render(everything))
    code = "".join(
        path.read_text()
        for room in ("server", "telemetry")
        for path in (K8S.parent / room).rglob("*.py")
    )
    exported = {f"learnback_{name}" for name in re.findall(r'f"\{PREFIX\}(\w+)"', code)}
    scaled = rendered.of_kind("ScaledObject")
    for each in scaled:
        target = each["spec"]["scaleTargetRef"]
        rendered.get(target.get("kind", "Deployment"), target["name"])
        queries = [one["metadata"].get("query", "") for one in each["spec"]["triggers"]]
        asked = set(re.findall(r"learnback_\w+", " ".join(queries)))
        assert asked
        assert asked <= exported
    trainer = next(each for each in scaled if each["metadata"]["name"] == "learnback-trainer")
    assert trainer["spec"]["maxReplicaCount"] == 1


def test_no_secret_is_written_down(rendered: Rendered) -> None:
    assert not rendered.of_kind("Secret")
    for _, container in rendered.containers():
        for variable in container.get("env", ()):
            if re.search(r"PASSWORD|TOKEN|AUTH$", variable["name"]):
                assert "valueFrom" in variable or variable["value"].startswith("$(")


def test_pods_are_restricted(rendered: Rendered) -> None:
    for _, pod in rendered.pods():
        assert pod["enableServiceLinks"] is False
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


def test_a_gpu_is_asked_for_where_it_is_used() -> None:
    rendered = Rendered("gpu", render(K8S / "overlays" / "gpu"))
    for name, container in rendered.containers():
        assert name in PROGRAMS
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert container["image"].endswith("-cuda")


def test_each_process_of_several_has_a_gpu(everything: Path) -> None:
    rendered = Rendered("everything", render(everything))
    [trainer] = [one for name, one in rendered.containers() if name == "learnback-trainer"]
    pod = dict(rendered.pods())["learnback-trainer"]
    command = trainer["command"]
    gpus = trainer["resources"]["limits"]["nvidia.com/gpu"]
    assert f"--nproc-per-node={gpus}" in command
    options = {one.partition("=")[0] for one in command if one.startswith("--")}
    assert options <= {
        name for action in get_args_parser()._actions for name in action.option_strings
    }
    [seconds] = [int(one[19:]) for one in command if one.startswith("--shutdown-timeout=")]
    assert seconds < pod["terminationGracePeriodSeconds"]
    assert command[-2:] == ["-m", "learnback_trainer"]
