"""Both clients as one fixture: every test that takes `client` runs on each of them."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from learnback_client import AsyncClient, AsyncStream, Client
from tests.client.double import Double


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("LEARNBACK_ADDRESS", raising=False)
    double = Double()
    yield double
    double.stop()


class Blocking:
    """Lets a test speak to the asyncio client (or one of its streams) as to the blocking one."""

    def __init__(self, inner, runner):
        self._inner = inner
        self._runner = runner

    def __getattr__(self, name):
        return self._settle(getattr(self._inner, name))

    def __iter__(self):
        loop = aiter(self._inner)
        while True:
            try:
                yield self._settle(anext(loop))
            except StopAsyncIteration:
                return

    def __next__(self):
        try:
            return self._settle(anext(self._inner))
        except StopAsyncIteration:
            raise StopIteration from None

    def _settle(self, value):
        if inspect.isawaitable(value):
            return self._runner.run(_wait(value))
        if isinstance(value, AsyncStream) or hasattr(value, "__anext__"):
            return Blocking(value, self._runner)
        if inspect.ismethod(value):
            return lambda *args, **options: self._settle(value(*args, **options))
        return value


async def _wait(awaitable):
    return await awaitable


@pytest.fixture(params=["blocking", "asyncio"])
def connect(request):
    """Makes clients, blocking ones or disguised asyncio ones, and closes them in the end."""
    made = []
    with asyncio.Runner() as runner:

        def make(address, **options):
            if request.param == "blocking":
                client = Client(address, **options)
            else:
                client = Blocking(AsyncClient(address, **options), runner)
            made.append(client)
            return client

        yield make
        for client in made:
            client.close()


@pytest.fixture
def client(connect, server):
    return connect(server.address)
