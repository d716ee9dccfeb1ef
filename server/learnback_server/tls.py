"""Encryption: the server's certificate, and the authorities whose clients it takes.

The files are looked at for every new connection, and read again when one has changed, so that a
certificate is renewed without a restart (connections are asked to renew themselves by
`max_connection_age`). A pair that does not fit together, as when only one of its files has been
replaced yet, leaves the one before it in use.
"""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc

_log = logging.getLogger(__name__)


class TlsError(Exception):
    """The certificate, its key or the authorities can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where they lie, all in PEM."""

    certificate: Path
    """The server's, then those between it and its authority."""
    key: Path
    """Of the certificate; not encrypted."""
    client_authorities: Path | None
    """A client must show a certificate of one of these. None: no client needs one."""


class Certificates:
    """The files as they are now.

    Args:
        files: Where they lie.

    Raises:
        TlsError: They can't be used as they are at the start.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._paths = [
            path for path in (files.certificate, files.key, files.client_authorities) if path
        ]
        self._lock = threading.Lock()
        self._seen = self._state()
        self._first = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """Returns what a port is opened with."""
        return grpc.dynamic_ssl_server_credentials(
            self._first,
            self._renewed,  # type: ignore[arg-type]  # None is documented as "no change"
            require_client_authentication=self._files.client_authorities is not None,
        )

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns what holds from now on; None if it is what held. Called on gRPC's threads."""
        with self._lock:
            state = self._state()
            if state == self._seen:
                return None
            self._seen = state
            try:
                renewed = self._read()
            except TlsError as error:
                _log.error("the certificate stays as it was: %s", error)
                return None
        _log.info("the certificate was read again from %s", self._files.certificate)
        return renewed

    def _state(self) -> list[tuple[int, int] | None]:
        """Returns what is another when one of the files is."""
        return [_state_of(path) for path in self._paths]

    def _read(self) -> grpc.ServerCertificateConfiguration:
        try:
            # gRPC itself would take any bytes, and then fail every connection without a word.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._files.certificate, self._files.key, password=_refuse)
            if self._files.client_authorities is not None:
                context.load_verify_locations(self._files.client_authorities)
            contents = [path.read_bytes() for path in self._paths]
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            names = ", ".join(str(path) for path in self._paths)
            raise TlsError(f"TLS can't be had from {names}: {error}") from error
        certificate, key, *authorities = contents
        return grpc.ssl_server_certificate_configuration(
            [(key, certificate)], root_certificates=authorities[0] if authorities else None
        )


def _refuse() -> str:
    """Asked for a password by OpenSSL, which would else ask at the terminal."""
    raise ValueError("the key is encrypted; give one that is not")


def _state_of(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
