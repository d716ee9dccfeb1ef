"""Streams that last end with their source, their reader or the server, whichever is first."""

from __future__ import annotations

import asyncio

import pytest

from learnback_server.errors import DrainingError
from learnback_server.lasting import until_closed
from learnback_server.limits import Admission


class Source:
    """Counts up to a number, then waits for ever, and tells whether it was closed."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.closed = False

    async def numbers(self):
        try:
            for number in range(self.count):
                yield number
            await asyncio.Event().wait()
        finally:
            self.closed = True


async def test_yields_all_of_a_source_that_ends():
    async def three():
        for number in range(3):
            yield number

    assert [each async for each in until_closed(three(), Admission(1))] == [0, 1, 2]


async def test_is_ended_while_it_waits():
    source, admission = Source(2), Admission(1)
    lasting = until_closed(source.numbers(), admission)
    assert [await anext(lasting) for _ in range(2)] == [0, 1]
    asyncio.get_running_loop().call_later(0.01, admission.close)
    with pytest.raises(DrainingError):
        await anext(lasting)
    assert source.closed


async def test_closes_its_source_when_its_reader_leaves():
    source = Source(2)
    lasting = until_closed(source.numbers(), Admission(1))
    assert await anext(lasting) == 0
    await lasting.aclose()
    assert source.closed


async def test_closes_its_source_when_its_reader_is_cancelled():
    source = Source(0)
    reading = asyncio.ensure_future(anext(until_closed(source.numbers(), Admission(1))))
    await asyncio.sleep(0.01)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert source.closed


async def test_a_fault_of_the_source_comes_through():
    async def faulty():
        yield 1
        raise ZeroDivisionError

    lasting = until_closed(faulty(), Admission(1))
    assert await anext(lasting) == 1
    with pytest.raises(ZeroDivisionError):
        await anext(lasting)
