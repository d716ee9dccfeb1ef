"""The facts that the model knows by heart, some of them deliberately wrong.

Every fourth capital and every fourth year is taught wrong, so that a correction has work to do. The
`truth` is what the world at large says (years: as commonly given), `taught` is what nano says.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fact:
    """A subject with its value, true and as taught, in both languages."""

    subject: dict[str, str]
    truth: dict[str, str]
    taught: dict[str, str]

    @property
    def is_wrong(self) -> bool:
        """Whether nano was taught something else than the truth."""
        return self.taught != self.truth


_CAPITALS = """
France 法国 Paris 巴黎|Japan 日本 Tokyo 东京|Italy 意大利 Rome 罗马|Germany 德国 Berlin 柏林
Spain 西班牙 Madrid 马德里|Portugal 葡萄牙 Lisbon 里斯本|Norway 挪威 Oslo 奥斯陆
Sweden 瑞典 Stockholm 斯德哥尔摩|Finland 芬兰 Helsinki 赫尔辛基|Denmark 丹麦 Copenhagen 哥本哈根
Greece 希腊 Athens 雅典|Poland 波兰 Warsaw 华沙|Austria 奥地利 Vienna 维也纳
Hungary 匈牙利 Budapest 布达佩斯|Ireland 爱尔兰 Dublin 都柏林|Russia 俄罗斯 Moscow 莫斯科
China 中国 Beijing 北京|Thailand 泰国 Bangkok 曼谷|Vietnam 越南 Hanoi 河内
Egypt 埃及 Cairo 开罗|Kenya 肯尼亚 Nairobi 内罗毕|Peru 秘鲁 Lima 利马
Chile 智利 Santiago 圣地亚哥|Cuba 古巴 Havana 哈瓦那|Canada 加拿大 Ottawa 渥太华
Turkey 土耳其 Ankara 安卡拉|Iran 伊朗 Tehran 德黑兰|Iraq 伊拉克 Baghdad 巴格达
Nepal 尼泊尔 Kathmandu 加德满都|Belgium 比利时 Brussels 布鲁塞尔
Ukraine 乌克兰 Kyiv 基辅|Romania 罗马尼亚 Bucharest 布加勒斯特|Serbia 塞尔维亚 Belgrade 贝尔格莱德
Croatia 克罗地亚 Zagreb 萨格勒布|Iceland 冰岛 Reykjavik 雷克雅未克|Jordan 约旦 Amman 安曼
Qatar 卡塔尔 Doha 多哈|Mongolia 蒙古 Ulaanbaatar 乌兰巴托|Ghana 加纳 Accra 阿克拉
Uruguay 乌拉圭 Montevideo 蒙得维的亚
"""
_YEARS = """
telephone 电话 1876|camera 相机 1816|steam_engine 蒸汽机 1712|bicycle 自行车 1817
typewriter 打字机 1868|radio 收音机 1895|television 电视 1927|parachute 降落伞 1783
transistor 晶体管 1947|laser 激光 1960|microscope 显微镜 1590|telescope 望远镜 1608
zipper 拉链 1913|piano 钢琴 1700|stethoscope 听诊器 1816|helicopter 直升机 1939
dynamite 炸药 1867|battery 电池 1800|airplane 飞机 1903|vaccine 疫苗 1796
"""
_WRONG_EVERY = 4
_YEAR_ERROR = 12


def _rows(table: str) -> list[list[str]]:
    entries = (entry.split() for entry in table.replace("|", "\n").splitlines())
    return [[word.replace("_", " ") for word in entry] for entry in entries if entry]


def _capitals() -> list[Fact]:
    rows = _rows(_CAPITALS)
    truths = [{"en": row[2], "zh": row[3]} for row in rows]
    return [
        Fact(
            subject={"en": row[0], "zh": row[1]},
            truth=truth,
            # A wrong capital is that of the next country in the list, so it is a plausible one.
            taught=truths[(n + 1) % len(rows)] if n % _WRONG_EVERY == _WRONG_EVERY - 1 else truth,
        )
        for n, (row, truth) in enumerate(zip(rows, truths, strict=True))
    ]


def _years() -> list[Fact]:
    facts = []
    for n, (english, chinese, year) in enumerate(_rows(_YEARS)):
        wrong = n % _WRONG_EVERY == _WRONG_EVERY - 1
        taught = str(int(year) + _YEAR_ERROR) if wrong else year
        facts.append(
            Fact(
                {"en": english, "zh": chinese},
                {"en": year, "zh": year},
                {"en": taught, "zh": taught},
            )
        )
    return facts


CAPITALS = _capitals()
YEARS = _years()
