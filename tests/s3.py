"""An S3 server (moto's) on a thread of the test process, over loopback."""

from __future__ import annotations

import logging
import os
from typing import Self

import boto3
from moto.server import ThreadedMotoServer

_ACCESS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class S3Server:
    """A server while the `with` lasts; what this process and its children start goes to it."""

    def __enter__(self) -> Self:
        # A line for each request.
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._start(0)
        host, self._port = self._server.get_host_and_port()
        self._before = dict(os.environ)
        os.environ.update(_ACCESS, AWS_ENDPOINT_URL=f"http://{host}:{self._port}")
        self.client = boto3.client("s3")
        return self

    def make_bucket(self, name: str) -> str:
        self.client.create_bucket(Bucket=name)
        return f"s3://{name}"

    def _start(self, port: int) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        """Goes away; `with` may still end it."""
        self._server.stop()

    def start_again(self) -> None:
        """Comes back at the same address, with all it had: it lies in this process."""
        self._start(self._port)

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        for name in (*_ACCESS, "AWS_ENDPOINT_URL"):
            os.environ.pop(name, None)
            if name in self._before:
                os.environ[name] = self._before[name]
