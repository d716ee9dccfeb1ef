"""Lists and pages, over Redis and over the archive alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnback_store import views as module
from learnback_store.archive import Archive
from learnback_store.errors import FeedbackNotFoundError, PageTokenError
from learnback_store.inbox import FeedbackInbox
from learnback_store.live_views import LiveViews
from learnback_store.paging import FeedbackFilter, FeedbackPage, last_of, page_token
from learnback_store.records import Account, FeedbackState, FeedbackView, GenerationRef
from learnback_store.views import FeedbackViews
from tests.store.samples import feedback, submit

Page = Callable[..., Awaitable[FeedbackPage]]

FILTERS = [
    FeedbackFilter(),
    FeedbackFilter(author="ada"),
    FeedbackFilter(checkpoint="ckpt-1"),
    FeedbackFilter(generation_id="gen-1"),
    FeedbackFilter(labels={"team": "x"}),
    FeedbackFilter(labels={"team": "x", "tier": "1"}),
    FeedbackFilter(states=frozenset({FeedbackState.LEARNED, FeedbackState.QUARANTINED})),
    FeedbackFilter(author="ada", checkpoint="ckpt-1", labels={"team": "y"}),
    FeedbackFilter(author="nobody"),
]


@cache
def _some_views() -> list[FeedbackView]:
    """Feedback of every sort, newest first."""
    found = []
    for index in range(24):
        record = feedback(
            feedback_id=f"fb-{index:04}",
            author=("ada", "bob", "")[index % 3],
            generation=GenerationRef(f"gen-{index % 4}") if index % 2 else None,
            labels=[{}, {"team": "x"}, {"team": "y"}, {"team": "x", "tier": "1"}][index % 4],
        )
        account = Account.queued(record)
        if index % 2:
            account = account.moved(FeedbackState.LEARNED, checkpoint=f"ckpt-{index % 5}")
        elif index % 3 == 0:
            account = account.moved(FeedbackState.QUARANTINED, "gibberish")
        found.append(FeedbackView(record, account))
    return found[::-1]


@pytest.fixture(params=["redis", "archive"])
def stocked(
    request: pytest.FixtureRequest, live_views: LiveViews, views: FeedbackViews, archive: Archive
) -> Page:
    """The list of `_some_views`, of one kind or the other."""
    if request.param == "redis":
        live_views.publish(_some_views())
        return views.page
    for view in _some_views():
        archive.take([(view.record, 0)])
        archive._write(view, view.account)

    async def page(wanted: FeedbackFilter, **options: object) -> FeedbackPage:
        return archive.page(wanted, **options)  # type: ignore[arg-type]

    return page


@pytest.mark.parametrize("wanted", FILTERS, ids=range(len(FILTERS)))
@pytest.mark.parametrize("page_size", [1, 3, 1000])
async def test_pages_make_up_the_list(
    stocked: Page, wanted: FeedbackFilter, page_size: int
) -> None:
    found: list[FeedbackView] = []
    token = ""
    while True:
        page = await stocked(wanted, page_size=page_size, token=token)
        found += page.views
        token = page.next_token
        if not token:
            break
        assert len(page.views) == page_size
    assert found == [view for view in _some_views() if wanted.matches(view)]


async def test_a_token_is_bound_to_its_filters(stocked: Page) -> None:
    token = (await stocked(FeedbackFilter(author="ada"), page_size=1)).next_token
    assert token
    for wrong in (token[:-2], "!", "x" * 40, "bnVsbA", "WzEsMl0"):
        with pytest.raises(PageTokenError):
            await stocked(FeedbackFilter(author="ada"), token=wrong)
    with pytest.raises(PageTokenError):
        await stocked(FeedbackFilter(author="bob"), token=token)


@given(st.text(), st.text())
def test_tokens_come_back(last: str, scope: str) -> None:
    assert last_of(page_token(last, scope), scope) == last


async def test_what_comes_meanwhile_moves_no_page(
    inbox: FeedbackInbox, views: FeedbackViews
) -> None:
    records = await submit(inbox, 4)
    first = await views.page(FeedbackFilter(), page_size=2)
    await submit(inbox, 3)
    second = await views.page(FeedbackFilter(), page_size=2, token=first.next_token)
    listed = [view.record for view in first.views + second.views]
    assert listed == records[::-1]


async def test_a_filter_that_matches_little_gives_short_pages(
    inbox: FeedbackInbox, views: FeedbackViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LOOKED_AT", 4)
    monkeypatch.setattr(module, "_CHUNK", 2)
    await inbox.submit(feedback("rare", labels={"rare": "1"}))
    await submit(inbox, 9)
    wanted = FeedbackFilter(labels={"rare": "1"})
    token, pages = "", []
    while not pages or token:
        page = await views.page(wanted, token=token)
        token = page.next_token
        pages.append(len(page.views))
    assert pages == [0, 0, 1]


async def test_a_watch_ends_with_the_final_state(
    inbox: FeedbackInbox,
    views: FeedbackViews,
    live_views: LiveViews,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.01)
    [record] = await submit(inbox, 1)
    account = Account.queued(record)
    seen = []
    async for view in views.watch(record.feedback_id):
        seen.append(view.account.state)
        next_state = {
            FeedbackState.QUEUED: FeedbackState.LEARNING,
            FeedbackState.LEARNING: FeedbackState.NOT_LEARNED,
        }.get(seen[-1])
        if next_state:
            account = account.moved(next_state, "because")
            live_views.publish([FeedbackView(record, account)])
    assert seen == [FeedbackState.QUEUED, FeedbackState.LEARNING, FeedbackState.NOT_LEARNED]


async def test_unknown_feedback_is_not_found(views: FeedbackViews, archive: Archive) -> None:
    with pytest.raises(FeedbackNotFoundError):
        await views.get("fb-unknown")
    with pytest.raises(FeedbackNotFoundError):
        await anext(views.watch("fb-unknown"))
    with pytest.raises(FeedbackNotFoundError):
        archive.get("fb-unknown")


async def test_many_views_are_walked_once_each(archive: Archive) -> None:
    template = feedback()
    records = [(replace(template, feedback_id=f"fb-{index:05}"), 0) for index in range(1201)]
    archive.take(records)
    walked = [view.feedback_id for view in archive.views()]
    assert walked == [record.feedback_id for record, _ in records][::-1]
    await asyncio.sleep(0)
