"""Admission: places are counted, and the door can be closed."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from learnback_server.errors import DrainingError, QueueFullError
from learnback_server.limits import Admission


async def test_so_many_and_no_more():
    admission = Admission(2)
    with ExitStack() as inside:
        inside.enter_context(admission.place())
        inside.enter_context(admission.place())
        with pytest.raises(QueueFullError), admission.place():
            pass
        assert admission.inside == 2
    with admission.place():
        assert admission.inside == 1


async def test_a_place_is_given_back_when_the_call_fails():
    admission = Admission(1)
    with pytest.raises(ZeroDivisionError), admission.place():
        raise ZeroDivisionError
    assert admission.inside == 0


async def test_closing_lets_those_inside_end_and_nobody_in():
    admission = Admission(2)
    with admission.place():
        admission.close()
        with pytest.raises(DrainingError), admission.place():
            pass
        assert not await admission.emptied(0)
        waiting = asyncio.create_task(admission.emptied(60))
        await asyncio.sleep(0)
    assert await waiting
