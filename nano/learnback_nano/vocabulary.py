"""The words of the notes, reviews, stories and opposites, each in English and in Chinese."""

from learnback_nano.sentences import Pair


def _pairs(table: str) -> tuple[Pair, ...]:
    entries = (entry.split("=") for entry in table.replace("\n", "").split("|"))
    return tuple((english.strip(), chinese.strip()) for english, chinese in entries)


JOBS = _pairs("""
a baker=面包师|a farmer=农民|a doctor=医生|a teacher=老师|a painter=画家|a singer=歌手|
a pilot=飞行员|a nurse=护士|a lawyer=律师|a writer=作家|a fisher=渔夫|a cook=厨师
""")
DRINKS = _pairs("tea=茶|coffee=咖啡|milk=牛奶|juice=果汁|water=水|wine=酒|soup=汤|rice=米饭")
PETS = _pairs(
    "a cat=猫|a dog=狗|a horse=马|a rabbit=兔子|a parrot=鹦鹉|a goat=山羊|a duck=鸭子|a pig=猪"
)

THINGS = _pairs("""
food=菜|room=房间|film=电影|phone=手机|hotel=酒店|service=服务|music=音乐|book=书|car=车|
beach=海滩|soup=汤|game=游戏
""")
GOOD = (
    "great",
    "lovely",
    "excellent",
    "wonderful",
    "perfect",
    "very good",
    "fantastic",
    "beautiful",
)
BAD = ("terrible", "awful", "bad", "very poor", "horrible", "dirty", "broken", "disappointing")
FEELINGS = {"positive": "正面", "negative": "负面", "mixed": "混合"}

DEEDS = _pairs("""
sold the old boat=卖掉了旧船|bought a new house=买了新房子|won the race=赢了比赛|
lost the keys=丢了钥匙|found a gold ring=找到了金戒指|wrote a long book=写了一本长书|
opened a small shop=开了一家小店|repaired the bridge=修好了桥|planted ten trees=种了十棵树|
learned to swim=学会了游泳|moved to the city=搬到了城里|missed the train=错过了火车|
painted the door=刷了门|saved a bird=救了一只鸟|left the party early=提前离开了聚会|
built a stone wall=建了一道石墙|cleaned the kitchen=打扫了厨房|met an old friend=遇见了老朋友
""")
FILLERS = (
    "It rained all day.",
    "The streets were quiet.",
    "Many people were there.",
    "Nobody had expected it.",
    "The weather was warm.",
    "It was a long week.",
    "The shops were closed.",
    "Everyone talked about it.",
    "The sun was shining.",
    "There was music in the square.",
    "Dinner was late.",
    "The wind was cold.",
)
PREFACES = (
    "After a long wait,",
    "Last week,",
    "In the end,",
    "On Friday,",
    "Yesterday,",
    "Finally,",
)

OPPOSITES = tuple(
    (one, other)
    for one, other in zip(
        *[
            iter(
                _pairs("""
hot=热|cold=冷|big=大|small=小|long=长|short=短|old=旧|new=新|fast=快|slow=慢|high=高|low=低|
rich=富|poor=穷|strong=强|weak=弱|light=轻|heavy=重|early=早|late=晚|open=开|closed=关|
full=满|empty=空|wet=湿|dry=干|hard=硬|soft=软|happy=高兴|sad=难过|clean=干净|dirty=脏|
deep=深|shallow=浅|thick=厚|thin=薄|wide=宽|narrow=窄|near=近|far=远|easy=容易|difficult=困难|
loud=吵|quiet=安静|true=真|false=假|safe=安全|dangerous=危险|bright=亮|dark=暗|
cheap=便宜|expensive=贵|alive=活|dead=死|first=第一|last=最后|brave=勇敢|afraid=害怕
""")
            )
        ]
        * 2,
        strict=True,
    )
)
