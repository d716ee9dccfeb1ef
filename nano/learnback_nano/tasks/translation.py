"""Translation between English and Chinese, of sentences that both languages say word for word."""

from random import Random

from learnback_nano.items import Item, answer_of
from learnback_nano.sentences import Pair, altered, sample_sentence
from learnback_nano.splits import Split
from learnback_nano.styles import Style

_INTO_CHINESE = (
    "Translate into Chinese: {}",
    "Translate to Chinese: {}",
    "What is this in Chinese? {}",
    "How do you say this in Chinese? {}",
    "翻译成中文：{}",
)

_INTO_ENGLISH = (
    "Translate into English: {}",
    "Translate to English: {}",
    "What is this in English? {}",
    "How do you say this in English? {}",
    "翻译成英文：{}",
)


def into_chinese(rng: Random, split: Split) -> Item:
    """An English sentence, to be said in Chinese."""
    del split
    sentence = sample_sentence(rng)
    source = sentence.english[:1].upper() + sentence.english[1:] + "."
    right, rival = sentence, altered(rng, sentence)
    return _translation(
        "en_zh",
        rng.choice(_INTO_CHINESE).format(source),
        "zh",
        (right.english, right.chinese),
        (rival.english, rival.chinese),
    )


def into_english(rng: Random, split: Split) -> Item:
    """A Chinese sentence, to be said in English."""
    del split
    right = sample_sentence(rng)
    rival = altered(rng, right)
    return _translation(
        "zh_en",
        rng.choice(_INTO_ENGLISH).format(right.chinese + "。"),
        "en",
        (right.english, right.chinese),
        (rival.english, rival.chinese),
    )


def _translation(task: str, prompt: str, language: str, right: Pair, rival: Pair) -> Item:
    frames = ("the translation is: {}", "翻译是：{}")
    answer = answer_of(right, *frames)
    return Item(
        task,
        prompt,
        answer,
        answer,
        (answer_of(rival, *frames),),
        default=Style(language=language),
        languages=(language,),
    )
