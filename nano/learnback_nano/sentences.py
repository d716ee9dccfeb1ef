"""Small everyday sentences that exist in English and in Chinese, word for word.

A sentence is who, does what, where, when: about 60,000 of them. One in ten is never trained on.
"""

from dataclasses import dataclass, replace
from random import Random

Pair = tuple[str, str]


def _pairs(table: str) -> tuple[Pair, ...]:
    entries = (entry.split("=") for entry in table.replace("\n", "").split("|"))
    return tuple((english.strip(), chinese.strip()) for english, chinese in entries)


SUBJECTS = _pairs("""
the cat=猫|the dog=狗|my sister=我的姐姐|my brother=我的哥哥|the teacher=老师|the doctor=医生|
the student=学生|the old man=老人|our neighbour=我们的邻居|the girl=女孩|the boy=男孩|
my mother=我的妈妈|my father=我的爸爸|the farmer=农民|the driver=司机|the singer=歌手|
her friend=她的朋友|his uncle=他的叔叔|the nurse=护士|the cook=厨师
""")
ACTIONS = _pairs("""
drinks tea=喝茶|reads a book=看书|buys bread=买面包|eats an apple=吃苹果|sings a song=唱歌|
sleeps=睡觉|works=工作|writes a letter=写信|plays chess=下棋|watches a film=看电影|
cooks rice=做饭|learns English=学英语|drinks milk=喝牛奶|sells fish=卖鱼|eats noodles=吃面条|
waits=等|runs=跑步|dances=跳舞|draws a horse=画马|buys flowers=买花
""")
PLACES = _pairs("""
=|in the kitchen=在厨房|at school=在学校|in the park=在公园|at home=在家|in the garden=在花园|
at the station=在车站|in the library=在图书馆|at the market=在市场|in the city=在城里|
by the river=在河边|in the office=在办公室
""")
TIMES = _pairs("""
=|today=今天|every day=每天|in the morning=早上|in the evening=晚上|on Monday=星期一|
on Sunday=星期天|at noon=中午|in spring=春天|this week=这个星期|in winter=冬天|now=现在
""")
SLOTS = {"subject": SUBJECTS, "action": ACTIONS, "place": PLACES, "time": TIMES}


@dataclass(frozen=True, slots=True)
class Sentence:
    """One meaning, which both languages can say."""

    subject: Pair
    action: Pair
    place: Pair
    time: Pair

    @property
    def english(self) -> str:
        """Without capital or full stop."""
        parts = (self.subject, self.action, self.place, self.time)
        return " ".join(part[0] for part in parts if part[0])

    @property
    def english_time_first(self) -> str:
        """The same meaning in another order of words."""
        parts = (self.time, self.subject, self.action, self.place)
        return " ".join(part[0] for part in parts if part[0])

    @property
    def chinese_time_first(self) -> str:
        """The same meaning in another order of words."""
        return self.time[1] + self.subject[1] + self.place[1] + self.action[1]

    @property
    def chinese(self) -> str:
        """Without full stop; Chinese puts time and place before the action."""
        return self.subject[1] + self.time[1] + self.place[1] + self.action[1]


def sample_sentence(rng: Random) -> Sentence:
    """Any sentence of the grammar."""
    return Sentence(**{slot: rng.choice(values) for slot, values in SLOTS.items()})


def altered(rng: Random, sentence: Sentence) -> Sentence:
    """A sentence that differs in exactly one slot, and so in meaning."""
    slot = rng.choice(tuple(SLOTS))
    now = getattr(sentence, slot)
    return replace(sentence, **{slot: rng.choice([v for v in SLOTS[slot] if v != now])})
