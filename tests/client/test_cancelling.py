"""Leaving a stream early cancels the call, so that the server stops working for nobody."""

from __future__ import annotations

import asyncio

import pytest

from learnback_client import AsyncClient, Cancelled, Client
from tests.client.double import PIECES, wait_until


@pytest.fixture(autouse=True)
def hanging(server):
    """A stream hangs after its first piece until it is cancelled."""
    server.hang_after = 1


def test_breaking_out_of_a_loop(server):
    with Client(server.address) as client:
        stream = client.stream("a")
        for piece in stream.text:
            assert piece == PIECES[0]
            break
        assert wait_until(server.cancelled.is_set)
        with pytest.raises(Cancelled):
            stream.result()


def test_an_exception_in_a_loop(server):
    with Client(server.address) as client:
        stream = client.stream("a")

        def read():
            for _ in stream:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            read()
        assert wait_until(server.cancelled.is_set)


def test_leaving_a_with_block(server):
    with Client(server.address) as client:
        with client.stream("a") as stream:
            next(stream)
        assert wait_until(server.cancelled.is_set)


def test_stepping_by_hand_cancels_nothing(server):
    server.hang_after = None
    with Client(server.address) as client:
        stream = client.stream("a")
        next(stream)
        next(stream)
        assert "".join(stream.text) == "".join(PIECES[1:])


async def test_breaking_out_of_an_async_loop(server):
    async with AsyncClient(server.address) as client:
        stream = client.stream("a")
        async for piece in stream.text:
            assert piece == PIECES[0]
            break
        assert await asyncio.to_thread(wait_until, server.cancelled.is_set)
        with pytest.raises(Cancelled):
            await stream.result()


async def test_leaving_an_async_with_block(server):
    async with AsyncClient(server.address) as client:
        async with client.stream("a") as stream:
            await anext(stream)
        assert await asyncio.to_thread(wait_until, server.cancelled.is_set)


async def test_cancelling_the_task_is_asyncio_s_cancelling(server):
    async with AsyncClient(server.address) as client:
        task = asyncio.create_task(client.stream("a").result())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(wait_until, server.cancelled.is_set)


async def test_closing_a_stream_that_another_task_reads(server):
    async with AsyncClient(server.address) as client:
        stream = client.stream("a")
        reading = asyncio.create_task(stream.result())
        await asyncio.sleep(0.2)
        await stream.close()
        with pytest.raises(Cancelled):
            await reading
