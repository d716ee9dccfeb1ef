"""Mailboxes: nothing is lost, nothing comes out of order, and slow readers get larger pieces."""

from __future__ import annotations

import asyncio
import threading

from hypothesis import given
from hypothesis import strategies as st

from learnback_server.engine.messages import (
    CandidateEnd,
    Delta,
    Finished,
    FinishReason,
    Started,
    TokenLogprob,
)
from learnback_server.mailbox import Mailbox, PostOffice

ID = "gen-1"


def delta(index: int, token: int, generation_id: str = ID) -> Delta:
    logprob = TokenLogprob(token, b"", 0.0)
    return Delta(generation_id, index, f"<{token}>", (token,), (logprob,))


def finished(generation_id: str = ID) -> Finished:
    end = CandidateEnd(0, FinishReason.STOP)
    return Finished(generation_id, (end,), 1, 1, 0, 0.0, 0.0, 0.0)


async def test_the_start_the_first_delta_and_the_end_are_told_at_once():
    mailbox = Mailbox(ID)
    events = [Started(ID, 0.0), delta(0, 1), delta(0, 2), delta(1, 3), finished()]
    assert [mailbox.put(event) for event in events] == [True, True, False, False, True]


async def test_a_reader_that_waits_is_woken_by_the_ring():
    mailbox = Mailbox(ID)
    reader = asyncio.create_task(mailbox.next())
    await asyncio.sleep(0)
    mailbox.put(Started(ID, 0.0))
    await asyncio.sleep(0)
    assert not reader.done()
    mailbox.ring()
    assert await reader == ((), None)


async def test_a_reader_that_comes_back_waits_for_the_next_ring():
    mailbox = Mailbox(ID)
    mailbox.put(delta(0, 1))
    mailbox.ring()
    await mailbox.next()
    mailbox.put(delta(0, 2))
    reader = asyncio.create_task(mailbox.next())
    await asyncio.sleep(0)
    assert not reader.done()
    mailbox.ring()
    assert (await reader).deltas[0].token_ids == (2,)


async def test_what_came_meanwhile_is_one_delta_per_candidate():
    mailbox = Mailbox(ID)
    for token in range(6):
        mailbox.put(delta(token % 2, token))
    mailbox.ring()
    deltas, end = await mailbox.next()
    assert end is None
    assert [(d.index, d.text, d.token_ids) for d in deltas] == [
        (0, "<0><2><4>", (0, 2, 4)),
        (1, "<1><3><5>", (1, 3, 5)),
    ]
    assert [logprob.token_id for logprob in deltas[1].logprobs] == [1, 3, 5]


async def test_a_reader_of_all_is_woken_once_at_the_end():
    mailbox = Mailbox(ID)
    reader = asyncio.create_task(mailbox.all())
    await asyncio.sleep(0)
    for event in (Started(ID, 0.0), delta(0, 1)):
        mailbox.put(event)
        mailbox.ring()
    await asyncio.sleep(0)
    assert not reader.done()
    mailbox.put(finished())
    mailbox.ring()
    deltas, end = await reader
    assert (deltas[0].token_ids, end) == ((1,), finished())


async def test_a_cancelled_reader_leaves_a_mailbox_that_still_takes_mail():
    mailbox = Mailbox(ID)
    reader = asyncio.create_task(mailbox.next())
    await asyncio.sleep(0)
    reader.cancel()
    mailbox.put(delta(0, 1))
    mailbox.ring()
    assert (await mailbox.next()).deltas[0].token_ids == (1,)


@given(st.lists(st.one_of(st.integers(0, 2), st.none()), max_size=50))
def test_however_reading_and_writing_interleave_all_arrives_in_order(script):
    """An integer is a token for that candidate; None is a ring and a look."""

    async def play() -> dict[int, list[int]]:
        mailbox = Mailbox(ID)
        got: dict[int, list[int]] = {0: [], 1: [], 2: []}

        def keep(deltas: tuple[Delta, ...]) -> None:
            assert len({d.index for d in deltas}) == len(deltas)
            for piece in deltas:
                got[piece.index] += piece.token_ids

        for token, step in enumerate(script):
            if step is not None:
                mailbox.put(delta(step, token))
            else:
                mailbox.ring()
                keep((await mailbox.next()).deltas)
        mailbox.put(finished())
        mailbox.ring()
        keep((await mailbox.all()).deltas)
        return got

    expected = {
        index: [token for token, step in enumerate(script) if step == index] for index in range(3)
    }
    assert asyncio.run(play()) == expected


async def test_what_another_thread_publishes_reaches_its_reader_in_order():
    post = PostOffice(asyncio.get_running_loop())
    tokens = range(2000)

    def engine() -> None:
        for token in tokens:
            post.publish([delta(0, token), delta(0, token, "gen-2"), delta(0, token, "gen-gone")])
        post.publish([finished(), finished("gen-2")])

    with post.mailbox(ID) as one, post.mailbox("gen-2") as two:
        thread = threading.Thread(target=engine)
        thread.start()
        whole = await two.all()
        pieces: list[int] = []
        while True:
            deltas, end = await one.next()
            pieces += [token for d in deltas for token in d.token_ids]
            if end:
                break
        thread.join()
    assert pieces == list(whole.deltas[0].token_ids) == list(tokens)


async def test_mail_for_a_closed_mailbox_is_thrown_away():
    post = PostOffice(asyncio.get_running_loop())
    with post.mailbox(ID):
        pass
    post.publish([delta(0, 1), finished()])
    await asyncio.sleep(0.01)
    with post.mailbox(ID) as mailbox:
        post.publish([finished()])
        assert await mailbox.all() == ((), finished())
