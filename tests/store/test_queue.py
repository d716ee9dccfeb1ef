"""What was taken stays taken until it is settled; nothing is lost, whatever crashes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from learnback_store.connection import Client, connect
from learnback_store.dead_letters import DeadLetters
from learnback_store.errors import RecordUnreadableError, StoreUnavailableError
from learnback_store.feedback import Delivery, FeedbackQueue, QueueStats
from learnback_store.inbox import FeedbackInbox
from learnback_store.keys import TRAINER_GROUP, Keys
from learnback_store.live_views import LiveViews
from learnback_store.records import Account, FeedbackRecord, FeedbackState, FeedbackView
from learnback_store.views import FeedbackViews
from tests.store.samples import feedback, submit, taken_texts
from tests.store.test_inbox import NOWHERE


async def test_a_batch_is_what_came_first(inbox: FeedbackInbox, queue: FeedbackQueue) -> None:
    records = await submit(inbox, 5)
    batch = queue.read_batch(3)
    assert [one.record for one in batch] == records[:3]
    assert queue.stats().taken == 3
    queue.acknowledge(batch)
    assert [one.record for one in queue.read_batch(3)] == records[3:]
    assert queue.stats().depth == 2


async def test_what_was_not_settled_comes_again(
    inbox: FeedbackInbox, queue: FeedbackQueue, redis: Client, keys: Keys
) -> None:
    await submit(inbox, 3)
    first = queue.read_batch(2)
    queue.acknowledge(first[:1])
    restarted = FeedbackQueue(redis, keys)
    again = restarted.read_batch(10)
    assert [one.record for one in again] == [first[1].record, again[1].record]
    assert [one.deliveries for one in again] == [2, 1]


def test_an_empty_queue_gives_nothing(queue: FeedbackQueue) -> None:
    assert queue.read_batch(10) == []
    assert queue.stats() == QueueStats(0, 0, 0, 0.0)


async def test_a_lone_one_waits_no_longer_than_its_age(
    inbox: FeedbackInbox, queue: FeedbackQueue
) -> None:
    await submit(inbox, 1)
    asked = itertools.count()
    [lone] = queue.read_batch(8, age_seconds=0.3, stop=lambda: next(asked) > 100)
    assert lone.deliveries == 1


async def test_waiting_ends_when_told_to_stop(inbox: FeedbackInbox, queue: FeedbackQueue) -> None:
    assert queue.read_batch(8, wait_seconds=3600, stop=lambda: True) == []
    await submit(inbox, 1)
    assert len(queue.read_batch(8, age_seconds=3600, stop=lambda: True)) == 1


async def test_a_full_batch_does_not_wait(inbox: FeedbackInbox, queue: FeedbackQueue) -> None:
    await submit(inbox, 4)
    assert len(queue.read_batch(4, age_seconds=3600)) == 4


async def test_another_trainer_claims_what_is_stale(
    inbox: FeedbackInbox, queue: FeedbackQueue, redis: Client, keys: Keys
) -> None:
    await submit(inbox, 2)
    batch = queue.read_batch(2)
    other = FeedbackQueue(redis, keys, consumer="other")
    assert other.claim_stale(10) == []
    [claimed, _] = other.claim_stale(10, idle_seconds=0)
    assert (claimed.record, claimed.deliveries) == (batch[0].record, 2)
    assert queue.read_batch(10) == []


async def test_a_sign_of_life_is_no_delivery(
    inbox: FeedbackInbox, queue: FeedbackQueue, redis: Client, keys: Keys
) -> None:
    await submit(inbox, 1)
    batch = queue.read_batch(1)
    for _ in range(3):
        queue.keep_alive(batch)
    [pending] = redis.xpending_range(keys.queue, TRAINER_GROUP, "-", "+", 10)
    assert pending["times_delivered"] == 1
    queue.keep_alive([])


async def test_what_is_put_off_waits_at_the_end(
    inbox: FeedbackInbox, queue: FeedbackQueue, redis: Client, keys: Keys
) -> None:
    records = await submit(inbox, 3)
    batch = queue.read_batch(2)
    queue.put_off(batch[:1])
    queue.put_off(batch[:1])  # as after a crash: changes nothing
    assert (queue.stats().depth, queue.stats().taken) == (3, 1)
    # Redis has lost nothing, so that nothing is restored.
    LiveViews(redis, keys).restore([(record, 0) for record in records])
    restarted = FeedbackQueue(redis, keys)
    again = restarted.read_batch(10)
    assert [one.record for one in again] == [records[1], records[2], records[0]]
    assert [one.deliveries for one in again] == [2, 1, 1]


async def test_authors_behind_a_batch_are_seen_and_nothing_is_taken(
    inbox: FeedbackInbox, queue: FeedbackQueue, redis: Client, keys: Keys
) -> None:
    for author in ("ada", "ada", "bob", "", "cy"):
        await inbox.submit(feedback(author=author))
    redis.xadd(keys.queue, {"record": "{"})
    [first] = queue.read_batch(1)
    assert queue.authors_behind(first, 3) == ["ada", "bob", ""]
    assert queue.authors_behind(first, 100) == ["ada", "bob", "", "cy", ""]
    assert queue.stats().taken == 1
    assert [one.record.author for one in queue.read_more(2)] == ["ada", "bob"]


async def test_dead_letters_are_kept_with_their_reason_and_put_back(
    inbox: FeedbackInbox, queue: FeedbackQueue, dead_letters: DeadLetters, views: FeedbackViews
) -> None:
    [record] = await submit(inbox, 1)
    queue.read_batch(1)
    [delivery] = queue.read_batch(1)
    queue.dead_letter(delivery, "the model failed")
    queue.dead_letter(delivery, "again")  # as after a crash: changes nothing
    assert (queue.stats().depth, queue.stats().dead) == (0, 1)
    [letter] = dead_letters.list()
    assert (letter.feedback_id, letter.reason) == (record.feedback_id, "the model failed")
    assert (letter.deliveries, letter.attempt) == (2, 0)
    assert dead_letters.put_back(letter)
    assert not dead_letters.put_back(letter)
    assert (queue.stats().depth, queue.stats().dead) == (1, 0)
    [again] = queue.read_batch(1)
    assert (again.record, again.attempt, again.deliveries) == (record, 1, 1)
    history = (await views.get(record.feedback_id)).account.history
    assert (history[-1].state, history[-1].reason) == (FeedbackState.QUEUED, "put back")


async def test_closing_sends_each_where_it_belongs(
    inbox: FeedbackInbox, queue: FeedbackQueue, dead_letters: DeadLetters
) -> None:
    await submit(inbox, 2)
    one, two = queue.read_batch(2)
    learned = Account.queued(one.record).moved(FeedbackState.LEARNED, checkpoint="c")
    dead = Account.queued(two.record).moved(FeedbackState.DEAD_LETTERED, "why")
    queue.close([(one, learned), (two, dead)])
    assert queue.stats().depth == 0
    assert [letter.feedback_id for letter in dead_letters.list()] == [two.feedback_id]


async def test_an_unreadable_entry_is_buried_and_blocks_nobody(
    inbox: FeedbackInbox,
    queue: FeedbackQueue,
    redis: Client,
    keys: Keys,
    dead_letters: DeadLetters,
    views: FeedbackViews,
) -> None:
    future = feedback()
    await inbox.submit(future)
    [(entry, fields)] = redis.xrange(keys.queue)
    redis.xdel(keys.queue, entry)
    redis.xadd(
        keys.queue, fields | {"record": fields["record"].replace("feedback/1", "feedback/9")}
    )
    redis.xadd(keys.queue, {"surprise": "1"})
    await inbox.submit(feedback("good"))
    assert taken_texts(queue) == ["good"]
    newer, nonsense = dead_letters.list()
    assert newer.feedback_id == future.feedback_id
    assert "feedback/9" in newer.reason
    assert (await views.get(future.feedback_id)).account.state is FeedbackState.DEAD_LETTERED
    with pytest.raises(RecordUnreadableError):
        dead_letters.put_back(nonsense)


async def test_an_entry_deleted_by_hand_is_forgotten(
    inbox: FeedbackInbox, queue: FeedbackQueue, redis: Client, keys: Keys
) -> None:
    await submit(inbox, 2)
    gone, _ = queue.read_batch(2)
    redis.xdel(keys.queue, gone.entry_id)
    assert [one.deliveries for one in queue.read_batch(2)] == [2]
    assert [one.deliveries for one in queue.read_batch(2)] == [3]
    assert queue.stats().taken == 1


async def test_restoring_queues_only_what_is_gone(
    inbox: FeedbackInbox, queue: FeedbackQueue, live_views: LiveViews, redis: Client, keys: Keys
) -> None:
    records = await submit(inbox, 3)
    dead = queue.read_batch(1)[0]
    queue.dead_letter(dead, "why")
    redis.xtrim(keys.queue, maxlen=1, approximate=False)
    waiting = [(record, 0) for record in records]
    live_views.restore(waiting)
    live_views.restore(waiting)
    assert sorted(taken_texts(queue)) == ["critique 1", "critique 2"]


async def test_an_older_account_never_replaces_a_newer_one(
    inbox: FeedbackInbox, live_views: LiveViews, views: FeedbackViews
) -> None:
    [record] = await submit(inbox, 1)
    queued = Account.queued(record)
    learned = queued.moved(FeedbackState.LEARNING).moved(FeedbackState.LEARNED, checkpoint="c")
    live_views.publish([FeedbackView(record, learned)])
    live_views.publish([FeedbackView(record, queued)])
    assert (await views.get(record.feedback_id)).account == learned


async def test_pruning_forgets_what_was_settled_long_ago(
    inbox: FeedbackInbox, live_views: LiveViews, redis: Client, keys: Keys
) -> None:
    [waits] = await submit(inbox, 1)
    settled = feedback(author="ada")
    await inbox.submit(settled)
    account = Account.queued(settled).moved(FeedbackState.LEARNED, checkpoint="ckpt-1")
    live_views.publish([FeedbackView(settled, account)])
    assert live_views.prune(before_ms=settled.create_ms) == 0
    assert live_views.prune(before_ms=account.update_ms + 1000) == 1
    assert redis.zrange(keys.feedback, 0, -1) == [waits.feedback_id]
    assert not redis.exists(
        keys.view(settled.feedback_id), keys.by_author("ada"), keys.by_checkpoint("ckpt-1")
    )


async def test_age_is_that_of_the_oldest(
    inbox: FeedbackInbox, queue: FeedbackQueue, redis: Client, keys: Keys, views: FeedbackViews
) -> None:
    redis.xadd(keys.queue, {"id": "x", "record": "x", "attempt": "0"}, id="1000-0")
    await submit(inbox, 1)
    stats = queue.stats()
    assert stats.depth == 2
    assert stats.oldest_seconds > 10**9
    assert (await views.stats()).depth == 2


def test_redis_away_is_unavailable() -> None:
    queue = FeedbackQueue(connect(NOWHERE), Keys())
    for call in (lambda: queue.read_batch(1), queue.stats):
        with pytest.raises(StoreUnavailableError):
            call()


_namespaces = itertools.count()


class QueueMachine(RuleBasedStateMachine):
    """The queue against a model: what was submitted is waiting, dead or settled, once."""

    redis: Client
    letters = Bundle("letters")

    @initialize()
    def begin(self) -> None:
        self.keys = Keys(f"machine-{next(_namespaces)}")
        self.queues = [FeedbackQueue(self.redis, self.keys, name) for name in "ab"]
        self.views = LiveViews(self.redis, self.keys)
        self.dead_letters = DeadLetters(self.redis, self.keys)
        self.waiting: dict[str, FeedbackRecord] = {}
        self.dead: set[str] = set()
        self.held: list[dict[str, Delivery]] = [{}, {}]

    @rule()
    def submit(self) -> None:
        record = feedback()
        self.views.restore([(record, 0)])
        self.waiting[record.feedback_id] = record

    @rule(who=st.integers(0, 1), count=st.integers(1, 4))
    def read(self, who: int, count: int) -> None:
        batch = self.queues[who].read_batch(count)
        taken = {one.feedback_id for one in batch}
        others = self.held[1 - who].keys()
        assert len(taken) == len(batch) <= count
        assert taken <= self.waiting.keys() - others
        # First what it holds already; then, if there is room, all that nobody holds.
        assert taken >= self.held[who].keys() or len(batch) == count
        free = self.waiting.keys() - others - self.held[who].keys()
        assert len(batch) == min(count, len(self.held[who]) + len(free))
        self.held[who] |= {one.feedback_id: one for one in batch}

    @rule(who=st.integers(0, 1))
    def claim_all(self, who: int) -> None:
        claimed = self.queues[who].claim_stale(100, idle_seconds=0)
        assert {one.feedback_id for one in claimed} == self.held[0].keys() | self.held[1].keys()
        self.held[who] = {one.feedback_id: one for one in claimed}
        self.held[1 - who] = {}

    @rule(who=st.integers(0, 1), data=st.data())
    def acknowledge(self, who: int, data: st.DataObject) -> None:
        if self.held[who]:
            some = data.draw(st.sets(st.sampled_from(sorted(self.held[who]))))
            self.queues[who].acknowledge([self.held[who].pop(one) for one in some])
            for one in some:
                del self.waiting[one]

    @rule(who=st.integers(0, 1), data=st.data())
    def bury(self, who: int, data: st.DataObject) -> None:
        if self.held[who]:
            one = data.draw(st.sampled_from(sorted(self.held[who])))
            self.queues[who].dead_letter(self.held[who].pop(one), "why")
            del self.waiting[one]
            self.dead.add(one)

    @rule()
    def put_back(self) -> None:
        for letter in self.dead_letters.list(1):
            assert self.dead_letters.put_back(letter)
            self.dead.remove(letter.feedback_id)
            self.waiting[letter.feedback_id] = FeedbackRecord.from_json(letter.record_json)

    @invariant()
    def nothing_is_lost(self) -> None:
        stats = self.queues[0].stats()
        assert stats.depth == len(self.waiting)
        assert stats.taken == len(self.held[0]) + len(self.held[1])
        assert {letter.feedback_id for letter in self.dead_letters.list()} == self.dead


def test_the_queue_behaves_as_its_model(redis: Client) -> None:
    machine = type("Machine", (QueueMachine,), {"redis": redis})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=30, stateful_step_count=25, deadline=None)
    )
