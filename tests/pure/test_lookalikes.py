"""Look-alike names: spellings that a reader may mistake are found, and different ordinary names are not."""

import itertools
import time

import pytest

from mpchat.auth.lookalikes import looks, too_many_marks
from mpchat.protocol.names import checked_name, name_key


def alike(one: str, other: str) -> bool:
    return not set(looks(checked_name(one))).isdisjoint(looks(checked_name(other)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ㅡ", "一"),  # a Korean vowel, and one in Chinese
        ("앨리스ー", "앨리스一"),
        ("аlice", "alice"),  # Cyrillic
        ("АLICE", "alice"),
        ("AIice", "Alice"),
        ("AIice", "alice"),
        ("a1ice", "alice"),
        ("rnary", "mary"),
        ("RNARY", "rnary"),
        ("b0b", "bob"),
        ("раураl", "paypal"),
        ("Νick", "nick"),  # Greek
        ("νICK", "nick"),
        ("カ", "力"),
        ("ニコ", "二コ"),
        ("へ", "ヘ"),
        ("كريم", "کریم"),  # Arabic and Persian letters
        ("alice\u0301\u0301", "alicé"),
        ("안녕\u0301\u0301", "안녕\u0301"),
        ("เเก้ว", "แก้ว"),
    ],
)
def test_names_that_a_reader_may_mistake_look_alike(one: str, other: str) -> None:
    assert alike(one, other)
    assert alike(other, one)


ORDINARY = {
    "Korean": "앨리스 민수 민서 아까 악가 아빠 압바 오빠 옵바 "
    "각 가 까 토끼 톡기 지우 지유 서연 서현 하은 하윤 나 너 노 ㅋㅋ ㅎㅎ",
    "Japanese": "さくら サクラ はな ひな みお りお ゆい ゆり たろう じろう "
    "ハナ ソン シン ツノ あい まい 太郎 大郎 一郎 二郎 花子 桜子",
    "Chinese": "王伟 王芳 李娜 李四 张三 刘洋 小鹂 小鹃 "
    "小明 小月 大明 天明 未来 末来 王二 玉二 日月 目月 人 入 八",
    "Arabic": "محمد محمود علي علياء عمر عمرو سعيد سعد نور نورا حسن حسين ثریا پریا بیٹے بیٹی خالد جالد",
    "Hindi": "राम श्याम सीता गीता मीरा मीना अमित अमिता रवि रविन ओम उमा आशा आशी नील नीला",
    "Thai": "ดวง ตวง ควง ชาย ซาย มด ฆด ต้น ด้น ค้น ทิพย์ สมชาย สมหญิง แก้ว แก้ม นก นุก",
    "Hebrew": "דוד דנה משה שרה נועה נועם",
    "Cyrillic": "Анна Иван Ирина Марина Марья Борис Глеб Юрий Юрия",
    "Greek": "Ελένη Μαρία Νίκος Γιώργος Άννα",
    "Latin": "Anna Hanna Ann Bob Rob Ali Ail Max Mex José Zoë Zoe Björn Bjarn Łukasz Lukas",
}


@pytest.mark.parametrize("script", ORDINARY)
def test_different_ordinary_names_do_not_look_alike(script: str) -> None:
    names = ORDINARY[script].split()
    wrong = [pair for pair in itertools.combinations(names, 2) if alike(*pair)]
    assert wrong == []


def test_one_name_in_two_spellings_has_the_same_looks() -> None:
    for one, other in (
        ("가나", "\u1100\u1161\u1102\u1161"),
        ("ALICE", "alice"),
        ("ﬁona", "fiona"),
        ("ｱﾝﾅ", "アンナ"),
    ):
        assert alike(one, other)
        assert name_key(one) == name_key(other)


@pytest.mark.parametrize(
    "name", ["각" * 20, "한글", "ชื่อสั้น", "क्ष्म्य", "é", "ế", "a\u0301\u0302\u0303\u0304", "שָׁלוֹם", "مُحَمَّد"]
)
def test_ordinary_names_have_few_marks(name: str) -> None:
    assert not too_many_marks(name)


@pytest.mark.parametrize(
    "name",
    ["a" + "\u0301" * 5, "가" + "\u0301\u0302" * 3, "ế\u0301\u0301\u0301", "z\u20dd\u20dd\u20dd\u20dd\u20dd"],
)
def test_a_pile_of_marks_is_found(name: str) -> None:
    assert too_many_marks(name)


def test_looks_take_little_time_whatever_the_text() -> None:
    looks("warm")
    begin = time.thread_time()
    for text in ("가" * 20, "ﷺ" * 20, "m" * 20, "a" + "\u0301" * 60_000):
        assert all(len(look) < 2000 for look in looks(text))
    assert time.thread_time() - begin < 1.0
