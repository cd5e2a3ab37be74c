from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.adapters.lexical.analysis import Analyzer


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Caroline's dogs can't run; they'll walk", ["carolin", "dog", "run", "walk"]),
        ("Bob’s IT’S", ["bob"]),
        ("The and of", []),
        ("", []),
        ("vitamin D, plan B, C++", ["vitamin", "d", "plan", "b", "c"]),
        ("Größe İstanbul ÅNGSTRÖM", ["gross", "istanbul", "angstrom"]),
        ("Кошки СПЯТ", ["кошки", "спят"]),
        ("東京都", ["東", "東京", "京", "京都", "都"]),
        ("x猫y", ["x", "猫", "y"]),
        ("カタカナ", ["カタ", "タカ", "カナ"]),
        ("あ", ["あ"]),
        ("세계 안녕", ["세계", "안녕"]),
        ("a" * 80 + " " + "b" * 81, ["a" * 80]),
    ],
)
def test_terms(text, terms):
    assert Analyzer().terms(text) == terms


@given(st.text(max_size=60))
def test_terms_of_any_text_have_no_space_and_come_out_the_same_from_any_thread(text):
    analyzer = Analyzer()
    terms = analyzer.terms(text)
    assert not any(character in term for term in terms for character in " \t\n\r\f")
    assert all(terms)


def test_threads_may_share_an_analyzer():
    analyzer, texts = Analyzer(), [f"running dogs {n} 東京" * 50 for n in range(200)]
    alone = [analyzer.terms(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(analyzer.terms, texts)) == alone
