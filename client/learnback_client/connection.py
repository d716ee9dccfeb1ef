"""What both clients are given at the start."""

from __future__ import annotations

from pathlib import Path

from learnback_client.call import DEFAULT_TIMEOUT_S, deadline
from learnback_client.channel import Endpoint


class Connection:
    """The server's address and the defaults of every call.

    Args:
        address: HOST:PORT, or a name that gRPC resolves ("dns:///...", "unix:/..."). Default: the
            environment variable LEARNBACK_ADDRESS, then 127.0.0.1:50051. Several addresses behind
            one name share the load.
        token: Bearer token.
        tls: Encrypt, trusting the system's authorities.
        ca_file: Encrypt, trusting the authorities in this PEM file instead.
        tls_cert: Encrypt, and show this certificate (PEM); for servers that ask for one.
        tls_key: Key of the certificate (PEM, not encrypted).
        plaintext_token: Allow sending the token unencrypted to another machine.
        timeout: Seconds after which a call fails that does not say; math.inf for none. Watching
            has a default of its own, an hour.

    Raises:
        InvalidRequest: One of these can't be used.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        token: str | None = None,
        tls: bool = False,
        ca_file: str | Path | None = None,
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
        plaintext_token: bool = False,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self._endpoint = Endpoint(address, token, tls, ca_file, tls_cert, tls_key, plaintext_token)
        self._metadata = self._endpoint.metadata()
        self._credentials = self._endpoint.credentials()
        self._timeout = timeout
        deadline(timeout)

    @property
    def target(self) -> str:
        """The address in gRPC's form."""
        return self._endpoint.target
