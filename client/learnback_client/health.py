"""Asking a server, or one of its services, whether it serves (grpc.health.v1)."""

from __future__ import annotations

from enum import StrEnum

from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]

from learnback_client import checks
from learnback_client.call import Call
from learnback_client.options import CallOptions, refuse_unknown
from learnback_client.protos import read_enum


class Health(StrEnum):
    """How a service says it is. Listed in the order of grpc.health.v1."""

    UNKNOWN = "unknown"
    SERVING = "serving"
    NOT_SERVING = "not_serving"
    SERVICE_UNKNOWN = "service_unknown"


def check_health(
    service: str, options: CallOptions
) -> Call[health_pb2.HealthCheckResponse, Health]:
    """The standard health service's Check."""
    refuse_unknown(options, CallOptions.__optional_keys__)
    return Call(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest(service=checks.optional_text("service", service)),
        health_pb2.HealthCheckResponse,
        lambda response: read_enum(Health, response.status),
        options.get("timeout"),
    )
