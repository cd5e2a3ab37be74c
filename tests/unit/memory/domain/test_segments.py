import re
import time
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memory.domain.segments import SEGMENT_TOKENS, Span, cut

MEGABYTE = 1 << 20


def words(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]


texts = st.lists(st.sampled_from(["word", "x", ".", "! ", "。", " ", "\n", ".) ", "…", "\x00"]), max_size=400).map(
    "".join
)
limits = st.integers(1, 60)


def tokens_in(segment: Span, tokens: list[tuple[int, int]]) -> int:
    return sum(segment.start <= start and end <= segment.end for start, end in tokens)


@given(texts, limits, st.floats(0, 0.9))
@example("a. b. c. d.", 1, 0.5)
def test_every_token_is_in_a_segment_and_no_segment_is_over_the_limit(text: str, limit: int, overlap: float) -> None:
    tokens = words(text)
    segments = cut(text, tokens, limit=limit, overlap=overlap)

    assert all(tokens_in(s, tokens) <= limit for s in segments)
    assert all(any(s.start <= start and end <= s.end for s in segments) for start, end in tokens)


@given(texts, limits, st.floats(0, 0.9))
def test_segments_advance_and_stay_inside_the_text(text: str, limit: int, overlap: float) -> None:
    segments = cut(text, words(text), limit=limit, overlap=overlap)

    assert all(0 <= s.start < s.end <= len(text) for s in segments)
    assert all(a.start < b.start and a.end < b.end for a, b in pairwise(segments))


@given(texts, st.integers(4, 60))
def test_every_character_is_in_a_segment_from_the_first_to_the_trailing_space(text: str, limit: int) -> None:
    segments = cut(text, words(text), limit=limit)
    if not text.strip():
        assert segments == []
        return
    assert segments[0].start == 0
    assert segments[-1].end == len(text)
    assert all(b.start <= a.end for a, b in pairwise(segments))


@given(st.integers(241, 3_000))
def test_without_sentences_neighbours_share_half_of_their_tokens(count: int) -> None:
    text = "word " * count
    tokens = words(text)
    segments = cut(text, tokens)

    shared = [tokens_in(Span(b.start, a.end), tokens) for a, b in pairwise(segments)]
    assert all(n == SEGMENT_TOKENS // 2 for n in shared)


@given(st.lists(st.integers(3, 40), min_size=40, max_size=120))
def test_with_sentences_neighbours_share_about_half_and_borders_are_ends_of_sentences(lengths: list[int]) -> None:
    text = " ".join("word " * (n - 1) + "end." for n in lengths)
    tokens = words(text)
    segments = cut(text, tokens)

    assert all(text[s.start : s.end].rstrip().endswith("end.") for s in segments)
    assert all(s.start == 0 or text[: s.start].rstrip().endswith("end.") for s in segments)
    for a, b in pairwise(segments):
        assert 0.3 <= tokens_in(Span(b.start, a.end), tokens) / tokens_in(a, tokens) <= 0.8


def test_a_cjk_sentence_ends_without_a_space() -> None:
    text = ("日本語の文" * 3 + "。") * 40
    segments = cut(text, [(i, i + 1) for i in range(len(text))])

    assert len(segments) > 1
    assert all(text[s.start : s.end].endswith("。") for s in segments)


def test_a_short_text_is_one_segment_with_all_its_characters() -> None:
    text = "  Hello there. How are you?\n"

    assert cut(text, words(text)) == [Span(0, len(text))]


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_blank_text_has_no_segment(text: str) -> None:
    assert cut(text, []) == []


def test_text_without_tokens_that_is_not_blank_is_one_segment() -> None:
    assert cut("\x01", []) == [Span(0, 1)]


def test_tokens_that_share_a_character_do_not_stop_the_cut() -> None:
    text = "각" * 100
    tokens = [span for i in range(100) for span in ((i, i + 1), (i + 1, i + 1), (i + 1, i + 1))]
    segments = cut(text, tokens, limit=40)

    assert segments[0].start == 0
    assert segments[-1].end == 100
    assert all(a.start < b.start <= a.end for a, b in pairwise(segments))


@pytest.mark.parametrize("unit", [".", '.")', "!", "。", ". ", "\n", " ", "a", "word. "])
def test_a_megabyte_of_anything_is_cut_in_seconds(unit: str) -> None:
    """32 KiB of dots once took 13 s: the search for a sentence's end began again at each of them."""
    text = unit * (MEGABYTE // len(unit))
    tokens = [(i, i + 4) for i in range(0, len(text) - 4, 4)]
    began = time.process_time()
    segments = cut(text, tokens)

    assert time.process_time() - began < 5
    assert segments[-1].end == len(text)
