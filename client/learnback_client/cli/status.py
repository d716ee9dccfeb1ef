"""`learnback status`: what serves, what waits, what is being learned."""

from __future__ import annotations

from datetime import UTC, datetime

from learnback_client.cli.failures import reports_failures
from learnback_client.cli.flags import connection, takes
from learnback_client.cli.settings import ClientSettings
from learnback_client.cli.terminal import ago
from learnback_client.learning import LearningStatus, RoundEnd

# The trainer gives a sign of life every five seconds between rounds, and more often in one.
_SILENT_SECONDS = 30.0


@reports_failures
@takes(settings=connection)
def status(settings: ClientSettings) -> None:
    """Tell what serves, what waits, and what is being learned."""
    with settings.connect() as client:
        found = client.get_learning_status()
        health = client.health()
    print(f"server:   {health}, live is {found.live_checkpoint} ({found.live_digest[:19]})")
    print(f"queue:    {_queue(found)}")
    print(f"trainer:  {_trainer(found)}")
    if found.last_round is not None:
        print(f"last:     {_last(found.last_round)}")
    if found.drift_alarm:
        print(f"drift:    {found.drift_nats:.2f} nats a token over all rounds; consolidate")


def _queue(found: LearningStatus) -> str:
    parts = [f"{found.queue_depth} waiting"]
    if found.queue_depth:
        parts.append(f"the oldest for {found.oldest_age:.0f} s")
    if found.dead_letters:
        parts.append(f"{found.dead_letters} dead letters")
    return ", ".join(parts)


def _trainer(found: LearningStatus) -> str:
    if found.trainer_seen is None:
        return "never seen; start one with `learnback-trainer`, or everything with `learnback up`"
    if (datetime.now(UTC) - found.trainer_seen).total_seconds() > _SILENT_SECONDS:
        return f"silent; last seen {ago(found.trainer_seen)}"
    if found.round is None:
        return "waits for feedback"
    now = found.round
    done = f"step {now.step} of at most {now.steps}" if now.steps else now.reached or "begun"
    return f"learns from {now.feedback_count} pieces of feedback on {now.parent}: {done}"


def _last(end: RoundEnd) -> str:
    when = ago(end.ended)
    if end.checkpoint:
        share = f"{end.learned_count} of {end.feedback_count}"
        return f"published {end.checkpoint}, learned {share}, {when}"
    return f"published nothing, {when}: {'; '.join(end.reasons)}"
