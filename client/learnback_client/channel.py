"""How a client reaches the server: address, encryption, token, retry and keepalive.

Retries are gRPC's own, through the service config, and only on UNAVAILABLE: the call reached no
server, or one that goes away. That is safe for every method, because those that change anything
carry a request id by which the server counts a repeat once. RESOURCE_EXHAUSTED is not retried: a
full queue is not emptied by asking again, and a spent quota or a message that is too large stays
so. A stream is retried only until its first message. gRPC waits by backoff, or as long as a server
says in its `grpc-retry-pushback-ms`; RetryInfo is for the caller (`error.retry_after`).

Servers are watched by the standard health service: one that says NOT_SERVING gets no new calls.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from learnback_client import checks
from learnback_client.errors import invalid

ADDRESS_VARIABLE = "LEARNBACK_ADDRESS"
DEFAULT_ADDRESS = "127.0.0.1:50051"

# Eight candidates with 20 log-probabilities a token are some megabytes; gRPC's own limit is 4.
MAX_RECEIVE_BYTES = 64 * 1024 * 1024
# Requests are kept for a retry up to this size; gRPC's own limit is 256 KiB, less than a long
# context takes.
_RETRY_BUFFER_BYTES = 4 * 1024 * 1024
# Silence after which a connection with calls on it is pinged: sooner than the timeouts of common
# balancers (60 s), and no oftener than learnback's server allows.
_KEEPALIVE_MS = 30_000
_KEEPALIVE_TIMEOUT_MS = 10_000
# A server that was restarted is found again before the next one is, and so is one at a new address.
# gRPC's own are 120 s and 30 s.
_RECONNECT_MS = 5_000
_RESOLVE_MS = 10_000
# The most that gRPC allows.
_MAX_ATTEMPTS = 5
_RETRY_POLICY = {
    "maxAttempts": _MAX_ATTEMPTS,
    "initialBackoff": "0.2s",
    "maxBackoff": "3s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # A server that drains is left out at once, while its calls end. Else a third of all calls would
    # be retried while one of three servers drains, which is more than the throttle allows.
    "healthCheckConfig": {"serviceName": ""},
    "methodConfig": [{"name": [{}], "retryPolicy": _RETRY_POLICY}],
    # Stops retrying after 500 failures, while more than about a tenth of the calls fail, so that
    # retries can't add themselves to an outage. The 500 are what 20 calls a second spend while a
    # Redis fails over.
    "retryThrottling": {"maxTokens": 1000, "tokenRatio": 0.1},
}
_LOOPBACK = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?")
_HOST_PORT = re.compile(r"([^\[\]:/\s]+|\[[0-9a-fA-F:.%\w]+\]):\d{1,5}")
_RESOLVER = re.compile(r"(dns|ipv4|ipv6|unix|unix-abstract|xds):.+")
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the server is, and how to speak to it."""

    address: str | None = None
    """HOST:PORT, or a name that gRPC resolves ("dns:///...", "unix:/..."). Default: the environment
    variable LEARNBACK_ADDRESS, then 127.0.0.1:50051."""
    token: str | None = field(default=None, repr=False)
    """Bearer token."""
    tls: bool = False
    """Encrypt, trusting the system's authorities."""
    ca_file: str | Path | None = None
    """Encrypt, trusting the authorities in this PEM file instead."""
    tls_cert: str | Path | None = None
    """Encrypt, and show this certificate (PEM), with those between it and its authority."""
    tls_key: str | Path | None = None
    """Key of the certificate (PEM, not encrypted)."""
    plaintext_token: bool = False
    """Allow sending the token unencrypted to another machine, for networks that encrypt by
    themselves."""

    def __post_init__(self) -> None:
        """Refuses what can't be used.

        Raises:
            InvalidRequest: The address or the token is malformed, the token would travel
                readable, or a certificate has no key.
        """
        if (self.tls_cert is None) != (self.tls_key is None):
            raise invalid("tls_cert", "needs tls_key beside it, and the other way round")
        target = self._address()
        if not (_HOST_PORT.fullmatch(target) or _RESOLVER.fullmatch(target)):
            raise invalid("address", f"must be HOST:PORT, not {target!r}")
        if self.token is None:
            return
        if not _TOKEN.fullmatch(checks.text("token", self.token)):
            raise invalid("token", "must be printable ASCII characters without spaces")
        if not (self.encrypted or self.plaintext_token or self._is_local()):
            raise invalid(
                "token",
                f"would travel to {target} unencrypted; use TLS, or set plaintext_token if the "
                "network encrypts by itself",
            )

    @property
    def encrypted(self) -> bool:
        """Whether the connection is encrypted."""
        return self.tls or self.ca_file is not None or self.tls_cert is not None

    @property
    def target(self) -> str:
        """The address in gRPC's form; several addresses behind one name are balanced."""
        address = self._address()
        return address if _RESOLVER.fullmatch(address) else f"dns:///{address}"

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Returns what is sent along with every call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Returns the credentials of the channel; None for plaintext.

        Raises:
            InvalidRequest: One of the files can't be read.
        """
        if not self.encrypted:
            return None
        return grpc.ssl_channel_credentials(
            root_certificates=_read("ca_file", self.ca_file),
            private_key=_read("tls_key", self.tls_key),
            certificate_chain=_read("tls_cert", self.tls_cert),
        )

    def _address(self) -> str:
        return self.address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS

    def _is_local(self) -> bool:
        address = self._address().removeprefix("dns:///")
        return bool(_LOOPBACK.fullmatch(address)) or address.startswith("unix")


def _read(field_name: str, file: str | Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise invalid(field_name, f"can't be read: {error}") from error


def probe_options() -> list[tuple[str, str | int]]:
    """Returns the options of a channel that also reaches a server that says it does not serve."""
    return [*channel_options(), ("grpc.inhibit_health_checking", 1)]


def channel_options() -> list[tuple[str, str | int]]:
    """Returns the options of every channel."""
    return [
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
        # Requests are the server's to limit; it answers with what it takes.
        ("grpc.max_send_message_length", -1),
        ("grpc.per_rpc_retry_buffer_size", _RETRY_BUFFER_BYTES),
        ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS),
        ("grpc.dns_min_time_between_resolutions_ms", _RESOLVE_MS),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        # A queued call is silent on both sides; without this gRPC gives up pinging after two.
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.primary_user_agent", f"learnback-python/{importlib.metadata.version('learnback')}"),
    ]
