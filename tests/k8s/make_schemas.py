"""Makes `schemas/` anew: what a custom resource may hold, as strict JSON Schema.

    python -m venv .crds && .crds/bin/pip install cloudcoil.models.keda \\
        cloudcoil.models.prometheus-operator cloudcoil.models.cert-manager
    .crds/bin/python tests/k8s/make_schemas.py

Those packages are made from the CRDs of the releases that their versions name. They take ten
seconds to import, so the tests go by what this writes. There is none for the Gateway API: the
schema of GRPCRoute is kept by hand, and knows the fields that we use.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("schemas")
KINDS = {
    "ScaledObject": ("cloudcoil.models.keda", "v1alpha1"),
    "PodMonitor": ("cloudcoil.models.prometheus_operator", "v1"),
    "Certificate": ("cloudcoil.models.cert_manager", "v1"),
    "Issuer": ("cloudcoil.models.cert_manager", "v1"),
}
# What a form needs and a check does not.
_NOISE = {"title", "default"}


def strict(node: Any) -> Any:
    """The schema with unknown fields and null refused."""
    if isinstance(node, list):
        return [strict(each) for each in node if each != {"type": "null"}]
    if not isinstance(node, dict):
        return node
    made = {
        key: {name: strict(each) for name, each in value.items()}
        if key in ("properties", "$defs")
        else strict(value)
        for key, value in node.items()
        if key not in _NOISE
    }
    if "properties" in made:
        made.setdefault("additionalProperties", False)
    return made


def main() -> None:
    """Writes all of them."""
    for kind, (package, version) in KINDS.items():
        model = getattr(importlib.import_module(f"{package}.{version}"), kind)
        schema = strict(model.model_json_schema(by_alias=True))
        schema["$comment"] = f"{package} {importlib.metadata.version(package)}, make_schemas.py"
        text = json.dumps(schema, indent=1, sort_keys=True)
        (FOLDER / f"{kind}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
