from hypothesis import given
from hypothesis import strategies as st

from memory.domain.segments import Span
from memory.recall.passage import around, densest

TEXT = "one two three four five six seven eight nine ten"


def test_the_best_part_stands_in_the_middle_of_whole_words():
    span = around(TEXT, Span(19, 23), 20)
    assert TEXT[span.start : span.end] == "four five six"


def test_the_beginning_and_the_end_of_a_text_are_reached():
    assert around(TEXT, Span(0, 3), 12).start == 0
    assert around(TEXT, Span(len(TEXT) - 3, len(TEXT)), 12).end == len(TEXT)


def test_a_length_beyond_the_text_shows_all_of_it():
    assert around(TEXT, Span(4, 7), 1_000) == Span(0, len(TEXT))


@given(st.text("ab \n", max_size=80), st.integers(0, 80), st.integers(0, 80), st.integers(1, 100))
def test_a_passage_is_inside_the_text_and_no_longer_than_asked(text, start, length, limit):
    start = min(start, len(text))
    span = around(text, Span(start, min(len(text), start + length)), limit)
    assert 0 <= span.start <= span.end <= len(text)
    assert span.end - span.start <= limit


def test_the_sentence_with_the_words_of_the_question_is_chosen():
    text = "Nothing here. Nor here. The treasure lies under the oak. Nothing again. And nothing."
    span = densest(text, Span(0, len(text)), "Where is the treasure under an oak?", 36)
    assert text[span.start : span.end].startswith("The treasure lies under the oak.")


@given(st.text("ab. \n", max_size=80), st.integers(0, 80), st.integers(0, 80), st.integers(1, 100))
def test_the_densest_part_is_inside_the_given_part(text, start, length, limit):
    start = min(start, len(text))
    within = Span(start, min(len(text), start + length))
    span = densest(text, within, "aaa bbb", limit)
    assert within.start <= span.start <= span.end <= within.end
