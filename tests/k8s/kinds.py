"""What each kind of object may hold: the schemas of Kubernetes, and ours of custom resources.

kubernetes-validate brings the schemas of all minor versions. Its own `validate` reads all
definitions anew for each object, which takes half a second; here they are read once a version.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from kubernetes_validate.utils import all_versions, schema_contents
from referencing import Registry, Resource

OURS = Path(__file__).with_name("schemas")


def newest_versions() -> list[str]:
    """The three newest minor versions."""
    return [version.removesuffix(".0") for version in dict.fromkeys(all_versions())][-3:]


def validator(thing: dict[str, Any], version: str) -> Draft202012Validator:
    """What knows all fields of a thing and refuses all others."""
    if (OURS / f"{thing['kind']}.json").exists():
        return _own(thing["kind"])
    # apps/v1 is apps-v1, networking.k8s.io/v1 is networking-v1.
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", thing["apiVersion"])
    return _builtin(f"{thing['kind'].lower()}-{group}.json", version)


@functools.cache
def _own(kind: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((OURS / f"{kind}.json").read_text()))


@functools.cache
def _builtin(file: str, version: str) -> Draft202012Validator:
    return Draft202012Validator(_read(file, version), registry=_definitions(version))


@functools.cache
def _definitions(version: str) -> Registry[Any]:
    return Resource.from_contents(_read("_definitions.json", version)) @ Registry()


def _read(file: str, version: str) -> Any:
    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    return schema_contents(f"{folder}/{file}", version)
