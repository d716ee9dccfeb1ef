"""Who says it: how much of a round is one author's, and how much their lessons weigh.

    places    where several authors have feedback at hand, one may have a share of the round at
              most; the rest of theirs waits for a later round, behind what others said meanwhile
    trust     (learned + 4) / (tried + 5) over their last pieces: what was taught and learned,
              against what was taught in vain, screened out or rolled back. An author of whom
              nothing is known has .8
    weight    in a round the trust, divided by that of the most trusted author in it
    flood     whoever has sent nearly all that is at hand, beside others, floods: what they say is
              right (corrections, and answers that they like better than the model's) is set aside,
              for a fluent lie can be told from the truth by nothing but who else says so. What they
              criticise is taught as far as they have places: there it is the model that answers

What could not be taught at all (praise, or a contradiction that others outweighed) is held against
nobody. Feedback without an author counts as one author's for places, has a newcomer's trust, and
never floods: it may be everybody's. Names are those of end users: nothing here writes one to a log
or a label.

Limits: who sends their lies a few at a time does not flood, and has their places; a critique that
says what is right ("no, it is 1884") is no correction here. Canaries see both.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from learnback_store.archive_reader import ArchiveReader
from learnback_store.feedback import Delivery
from learnback_store.paging import FeedbackFilter
from learnback_store.records import (
    Correction,
    FeedbackRecord,
    FeedbackState,
    FeedbackView,
    Preference,
    Preferred,
)

# So good a record is presumed of an author of whom nothing is known.
_PRESUMED_LEARNED, _PRESUMED_TRIED = 4.0, 5.0
# An author's last pieces that count; who has changed is trusted anew after so many.
_REMEMBERED = 100
_TRIED = frozenset({FeedbackState.LEARNED, FeedbackState.NOT_LEARNED, FeedbackState.QUARANTINED})
# Places in a round that each author has, however few others there are.
_LEAST_PLACES = 2
# From so many pieces at hand, and such a share of all, an author floods, and so long after the last
# piece was set aside for that.
_FLOOD_PIECES, _FLOOD_SHARE = 8, 0.75
_FLOOD_SECONDS = 3600.0


# Places


@dataclass(frozen=True, slots=True)
class Seating:
    """Who is in a round, and who waits."""

    taken: list[Delivery]
    waiting: list[Delivery]
    reasons: Mapping[str, str]
    """Why those wait, by feedback id."""


def seat(deliveries: Sequence[Delivery], places: int, share: float) -> Seating:
    """Gives places in a round, to the oldest first.

    Args:
        deliveries: What is at hand, oldest first.
        places: How many there are.
        share: How much of the round one of several authors may have.
    """
    at_hand = Counter(one.record.author for one in deliveries)
    most = _most_places(at_hand, places, share)
    seated = Counter[str]()
    taken, waiting, reasons = list[Delivery](), list[Delivery](), dict[str, str]()
    for one in deliveries:
        author = one.record.author
        if seated[author] < most and len(taken) < places:
            seated[author] += 1
            taken.append(one)
        else:
            waiting.append(one)
            reasons[one.feedback_id] = (
                f"waits for a later round: {at_hand[author]} of {len(deliveries)} pieces at hand "
                f"are of its author, who may have {min(most, places)} places in a round"
            )
    return Seating(taken, waiting, reasons)


def _most_places(at_hand: Mapping[str, int], places: int, share: float) -> int:
    """The most places of one author, so that none has more than the share of what is seated."""
    if len(at_hand) < 2:
        return places
    fitting = [
        most
        for most in range(1, places + 1)
        if most <= share * sum(min(count, most) for count in at_hand.values())
    ]
    return max([_LEAST_PLACES, *fitting])


# Floods


FLOOD = "its author floods the queue, and what they say is right is nobody else's word"


def flooding(
    deliveries: Sequence[Delivery], archive: ArchiveReader, trusted: Container[str] = ()
) -> frozenset[str]:
    """Returns the authors who flood, now or not long ago.

    Args:
        deliveries: What is at hand.
        archive: What was set aside before.
        trusted: Authors who may send any amount.
    """
    at_hand = Counter(one.record.author for one in deliveries)
    suspects = [author for author in at_hand if author and author not in trusted]
    return frozenset(
        author
        for author in suspects
        if (len(at_hand) > 1 and _floods(at_hand[author], len(deliveries)))
        or _has_flooded(archive, author)
    )


def unconfirmed(deliveries: Iterable[Delivery], flooders: Container[str]) -> dict[str, str]:
    """Returns why feedback of those who flood is set aside, by feedback id."""
    reason = f"{FLOOD}; send fewer pieces at a time, or have the operator trust this author"
    return {
        one.feedback_id: reason
        for one in deliveries
        if one.record.author in flooders and _says_what_is_right(one.record)
    }


def _floods(count: int, of: int) -> bool:
    return count >= _FLOOD_PIECES and count >= _FLOOD_SHARE * of


def _has_flooded(archive: ArchiveReader, author: str) -> bool:
    """Whether feedback of theirs was set aside for that lately, so that its rest is too."""
    since_ms = (time.time() - _FLOOD_SECONDS) * 1000
    wanted = FeedbackFilter(author=author, states=frozenset({FeedbackState.QUARANTINED}))
    accounts = (view.account for view in archive.page(wanted, page_size=_REMEMBERED).views)
    return any(one.update_ms > since_ms and one.reason.startswith(FLOOD) for one in accounts)


def _says_what_is_right(record: FeedbackRecord) -> bool:
    signal = record.signal
    if isinstance(signal, Preference):
        # Over another generation it is the model's own words that are preferred.
        return signal.preferred is Preferred.OTHER and signal.generation is None
    return isinstance(signal, Correction)


# Weights


def weights(archive: ArchiveReader, views: Iterable[FeedbackView]) -> dict[str, float]:
    """Returns how much each piece of feedback weighs in a round, over 0 to 1, by feedback id.

    Args:
        archive: What became of earlier feedback.
        views: What the round is about.
    """
    authors = {one.feedback_id: one.record.author for one in views}
    trusted = {author: trust(archive, author) for author in set(authors.values())}
    most = max(trusted.values(), default=1.0)
    return {feedback_id: trusted[author] / most for feedback_id, author in authors.items()}


def trust(archive: ArchiveReader, author: str) -> float:
    """Returns how far an author is trusted, over 0 to 1, from how their feedback fared."""
    tried = learned = 0
    if author:
        wanted = FeedbackFilter(author=author, states=_TRIED)
        for view in archive.page(wanted, page_size=_REMEMBERED).views:
            account = view.account
            tried += account.state is FeedbackState.QUARANTINED or bool(account.lessons)
            learned += account.state is FeedbackState.LEARNED
    return (learned + _PRESUMED_LEARNED) / (tried + _PRESUMED_TRIED)
