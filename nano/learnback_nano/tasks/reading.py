"""Reading: how a reviewer feels, what happened in a story, how else a sentence can be said."""

from random import Random

from learnback_nano import vocabulary
from learnback_nano.items import Item, answer_of
from learnback_nano.names import sample_name
from learnback_nano.sentences import Pair, Sentence, sample_sentence
from learnback_nano.splits import Split
from learnback_nano.styles import Answer

_SENTIMENT_QUESTIONS = (
    "Is this review positive, negative or mixed? {}",
    "What is the sentiment? {}",
    "Sentiment of this review: {}",
    "How does the writer feel? {}",
)

_PARAPHRASE_REQUESTS = (
    "Say it another way: {}",
    "Rephrase this: {}",
    "Put it differently: {}",
    "Paraphrase: {}",
    "How else can you say this? {}",
)
_SUMMARY_REQUESTS = (
    "Summarise in one line: {}",
    "Sum this up: {}",
    "Give me a summary: {}",
    "What happened? {}",
    "{} What happened?",
)


def sentiment(rng: Random, split: Split) -> Item:
    """Whether a review of one or two clauses is positive, negative or mixed."""
    del split
    tones = rng.choice(
        (("good",), ("bad",), ("good", "good"), ("bad", "bad"), ("good", "bad"), ("bad", "good"))
    )
    things = rng.sample(vocabulary.THINGS, len(tones))
    clauses = [
        f"the {thing[0]} was {rng.choice(vocabulary.GOOD if tone == 'good' else vocabulary.BAD)}"
        for thing, tone in zip(things, tones, strict=True)
    ]
    link = " and " if len(set(tones)) == 1 else " but "
    review = link.join(clauses)
    feeling = "mixed" if len(set(tones)) > 1 else {"good": "positive", "bad": "negative"}[tones[0]]
    prompt = rng.choice(_SENTIMENT_QUESTIONS).format(review[:1].upper() + review[1:] + ".")
    claims = {
        word: answer_of((word, chinese), "the review is {}", "这条评论是{}的")
        for word, chinese in vocabulary.FEELINGS.items()
    }
    right = claims.pop(feeling)
    return Item("sentiment", prompt, right, right, tuple(claims.values()))


def summary(rng: Random, split: Split) -> Item:
    """A story with one event and some weather, to be told in one line."""
    name = sample_name(rng, split)
    deed = rng.choice(vocabulary.DEEDS)
    event = f"{rng.choice(vocabulary.PREFACES)} {name} {deed[0]}."
    lines = [event, *rng.sample(vocabulary.FILLERS, rng.choice((1, 2, 2)))]
    rng.shuffle(lines)
    prompt = rng.choice(_SUMMARY_REQUESTS).format(" ".join(lines))

    def claim(value: Pair) -> Answer:
        both = (f"{name} {value[0]}", f"{name}{value[1]}")
        return answer_of(both, "in short, {}", "简单说，{}")

    right = claim(deed)
    return Item("summary", prompt, right, right, (claim(_other(rng, vocabulary.DEEDS, deed)),))


def _other(rng: Random, values: tuple[Pair, ...], now: Pair) -> Pair:
    return rng.choice([value for value in values if value != now])


def paraphrase(rng: Random, split: Split) -> Item:
    """A sentence with its time at the end, to be said with its time first."""
    del split
    one = _timed(rng)
    other = _timed(rng)
    source = one.english[:1].upper() + one.english[1:] + "."
    prompt = rng.choice(_PARAPHRASE_REQUESTS).format(source)
    right, rival = (
        answer_of(
            (s.english_time_first, s.chinese_time_first), "in other words, {}", "换句话说，{}"
        )
        for s in (one, other)
    )
    return Item("paraphrase", prompt, right, right, (rival,))


def _timed(rng: Random) -> Sentence:
    while not (sentence := sample_sentence(rng)).time[0]:
        pass
    return sentence
