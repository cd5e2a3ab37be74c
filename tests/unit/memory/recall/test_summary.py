from hypothesis import given
from hypothesis import strategies as st

from memory.domain.segments import Span
from memory.recall.summary import WORDS, extend, sentences


def terms(text):
    return [word.strip(".:").lower() for word in text.split() if len(word) > 3]


def test_statements_carry_their_author_and_questions_are_left_out():
    text = "Where did you go? I went to the mountains with Sofia. Ok."
    assert sentences("ann", text) == ["ann: I went to the mountains with Sofia."]


def test_of_some_spans_only_the_sentences_that_lie_in_one_count():
    text = "The boat left early today. The train came late today.\n The bus did not come."
    first, second = text.index("The train"), text.index("The bus")
    assert sentences("ann", text, [Span(0, first)]) == ["ann: The boat left early today."]
    assert sentences("ann", text, [Span(second, len(text)), Span(3, first + 5)]) == ["ann: The bus did not come."]
    assert sentences("ann", text, []) == []
    assert sentences("ann", text, [Span(0, len(text))]) == sentences("ann", text)


def test_a_text_without_sentences_gives_none():
    assert sentences("ann", "x" * 5_000) == []


def test_what_is_spoken_of_often_is_kept():
    words = ["amber", "basil", "cedar", "delta", "ember", "fjord", "grain", "heron", "ivory", "jewel"]
    stretch = [f"bob: {first.title()} beside {second} once." for first in words for second in words if first < second]
    wedding = ["ann: The wedding will be in June.", "ann: We chose flowers for the wedding."]
    kept = extend([], stretch[:20] + wedding + stretch[20:], terms, words=60)
    assert set(wedding) <= set(kept)


def test_two_topics_are_both_kept():
    stretch = [f"ann: The garden wedding needs flowers {n}." for n in range(30)]
    stretch += [f"bob: My thesis about glaciers moves on {n}." for n in range(12)]
    kept = extend([], stretch, terms, words=20)
    assert any("thesis" in line for line in kept)
    assert any("wedding" in line for line in kept)


lines = st.lists(st.text("abcdefgh ", min_size=1, max_size=40), max_size=60)


@given(lines, lines, st.integers(0, WORDS))
def test_a_summary_is_bounded_keeps_the_order_and_is_always_the_same(previous, stretch, words):
    kept = extend(previous, stretch, terms, words=words)
    assert sum(len(line.split()) for line in kept) <= words
    pool = list(dict.fromkeys([*previous, *stretch]))
    assert [pool.index(line) for line in kept] == sorted(pool.index(line) for line in kept)
    assert kept == extend(previous, stretch, terms, words=words)


def test_a_sentence_that_says_it_again_gives_way_to_one_that_says_something_new():
    again = [f"ann: The garden wedding needs flowers, number {n}." for n in range(30)]
    kept = extend([], [*again, "bob: Glaciers retreat every summer."], terms, words=14)
    assert kept == [again[0], "bob: Glaciers retreat every summer."]


def test_a_script_without_spaces_is_measured_by_its_characters():
    assert sentences("ann", "会議は来週の火曜日に東京の本社で行われる予定です。来られますか？") == [
        "ann: 会議は来週の火曜日に東京の本社で行われる予定です。"
    ]
    assert extend([], ["ann: " + "会議" * 40], list, words=30) == []
