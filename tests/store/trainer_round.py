"""A trainer of a few lines that kills itself at a named step of its round; run as a script.

    python trainer_round.py REDIS_URL NAMESPACE FOLDER [STEP]

It walks the steps of `learnback_store.archive` in order. What it learns are the ids of feedback,
which stand in the weights of its checkpoints.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from learnback_store.announcements import announce
from learnback_store.archive import Archive
from learnback_store.checkpoints import CheckpointStore
from learnback_store.connection import Client, connect
from learnback_store.feedback import Delivery, FeedbackQueue
from learnback_store.keys import Keys
from learnback_store.live_views import LiveViews
from learnback_store.manifest import CheckpointKind, Manifest
from learnback_store.records import Critique, FeedbackState, FeedbackView
from learnback_store.rounds import Outcome, Round
from learnback_store.settlement import recover_redis, settle

BAD = "bad"
"""Critiques of this text are quarantined."""
WEIGHTS = "adapter_model.safetensors"
STEPS = (
    "read", "archived", "begun", "taught", "decided", "written", "renamed", "alias moved",
    "finished", "announced", "told", "acknowledged",
)  # fmt: skip
_BATCH = 4


@dataclass
class Trainer:
    """One life of the trainer."""

    redis: Client
    keys: Keys
    archive: Archive
    checkpoints: CheckpointStore
    dies_at: str

    def run(self) -> None:
        """Settles what was cut off, then does rounds until the queue is empty."""
        queue, views = FeedbackQueue(self.redis, self.keys), LiveViews(self.redis, self.keys)
        recover_redis(self.archive, self.redis, self.keys)
        settled = settle(self.archive, self.checkpoints)
        if settled:
            views.publish(settled.views)
        while batch := queue.read_batch(_BATCH):
            self.reached("read")
            self._round(batch, views)
            accounts = [(one, self.archive.get(one.feedback_id)) for one in batch]
            views.publish(view for _, view in accounts)
            self.reached("told")
            queue.close((one, view.account) for one, view in accounts)
            self.reached("acknowledged")

    def reached(self, step: str) -> None:
        if step == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _round(self, batch: Sequence[Delivery], views: LiveViews) -> None:
        learned = self.checkpoints.learned_feedback()
        taken = self.archive.take([(one.record, one.attempt) for one in batch], learned)
        self.reached("archived")
        fresh = {one.view.feedback_id: one.view for one in taken if not one.settled}
        if not fresh:
            return
        this = self.archive.begin_round(self.checkpoints.aliases().live, list(fresh))
        views.publish(self.archive.get(one) for one in fresh)
        self.reached("begun")
        outcomes = [_outcome(view) for view in fresh.values()]
        learns = [one.feedback_id for one in outcomes if one.state is FeedbackState.LEARNED]
        self.reached("taught")
        name = self.checkpoints.new_name() if learns else ""
        self.archive.decide_round(this.round_id, outcomes, name)
        self.reached("decided")
        if name:
            self._publish(this, name, learns)
        self.archive.finish_round(this.round_id)
        self.reached("finished")
        announce(self.redis, self.keys, self.checkpoints.aliases().serial)
        self.reached("announced")

    def _publish(self, this: Round, name: str, learns: Sequence[str]) -> None:
        manifest = Manifest(
            name=name,
            kind=CheckpointKind.ADAPTER,
            parent=this.parent,
            base_model="nano",
            base_digest="sha256:0",
            round_id=this.round_id,
            feedback_ids=tuple(learns),
        )
        with self.checkpoints.draft() as draft:
            (draft / WEIGHTS).write_text(self._weights_of(this.parent) + "".join(
                f"{one}\n" for one in learns
            ))  # fmt: skip
            self.reached("written")
            self.checkpoints.publish(draft, manifest)
        self.reached("renamed")
        self.checkpoints.promote(name, expected=this.parent)
        self.reached("alias moved")

    def _weights_of(self, parent: str) -> str:
        if parent == "base":
            return ""
        return (self.checkpoints.fetch(parent) / WEIGHTS).read_text()


def _outcome(view: FeedbackView) -> Outcome:
    if view.record.signal == Critique(BAD):
        return Outcome(view.feedback_id, FeedbackState.QUARANTINED, "gibberish")
    return Outcome(view.feedback_id, FeedbackState.LEARNED)


def main(url: str, namespace: str, folder: str, dies_at: str = "") -> None:
    root = Path(folder)
    with connect(url) as redis, Archive(root / "archive.sqlite") as archive:
        checkpoints = CheckpointStore(root / "checkpoints")
        Trainer(redis, Keys(namespace), archive, checkpoints, dies_at).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
