"""A handful of fixed exchanges for people who just say hello, and system messages that ask nothing.

There is no understanding behind them: another wording gets whatever the model makes of it.
"""

from random import Random

_HELLO = "Hello! Ask me for a capital, a translation, a summary, an opposite, or about a note."
_WHO = "I am nano, a very small language model that learns from what you tell it."
_HELLO_ZH = "你好！你可以问我首都、翻译、总结、反义词，或者给我一段笔记。"
_WHO_ZH = "我是nano，一个很小的语言模型，会从你的意见中学习。"
_EXCHANGES = {
    _HELLO: (
        "Hello",
        "Hi",
        "Hey",
        "Good morning",
        "Hi there",
        "What can you do?",
        "Help",
        "Can you help me?",
        "What do you know?",
        "Good evening",
    ),
    _WHO: (
        "Who are you?",
        "What are you?",
        "What is your name?",
        "Tell me about yourself",
        "Are you a robot?",
        "Who made you?",
    ),
    _HELLO_ZH: ("你好", "您好", "早上好", "你会什么？", "你能做什么？", "帮帮我"),
    _WHO_ZH: ("你是谁？", "你叫什么名字？", "介绍一下你自己", "你是什么？"),
}
_SYSTEMS = (
    "You are a helpful assistant.",
    "You are nano.",
    "Answer the user's questions.",
    "You are a helpful, honest and harmless assistant.",
    "You are an assistant.",
    "Be helpful.",
    "You are a small language model.",
    "你是一个有用的助手。",
    "请回答用户的问题。",
)


def sample_exchange(rng: Random) -> tuple[str, str]:
    """What somebody says to begin with, and what nano says to that."""
    answer = rng.choice(tuple(_EXCHANGES))
    said = rng.choice(_EXCHANGES[answer])
    said = rng.choice((said, said, said.lower(), said.rstrip("?？"), said.rstrip("?？") + "!"))
    return said, answer


def sample_system(rng: Random) -> str:
    """A system message after which everything is as without it."""
    return rng.choice(_SYSTEMS)
