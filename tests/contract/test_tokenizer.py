"""What every adapter of the Tokenizer port does."""

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.ports.models import Tokenizer
from model_runtime.embedders import tokenizer as text_tokenizer
from model_runtime.embedders.folder import find

TOKENIZERS: dict[str, Tokenizer] = {"minilm": text_tokenizer.load("minilm")}
ADAPTERS = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())

TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.text("ab é漢😀안\u0301\x00.\n", max_size=300)
MEGABYTE = 1 << 20


def assert_ascending_and_disjoint(spans: list[tuple[int, int]], text: str) -> None:
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


@ADAPTERS
@given(text=TEXTS)
@settings(deadline=None)
def test_spans_are_ascending_disjoint_and_inside_any_text(tokenizer: Tokenizer, text: str) -> None:
    assert_ascending_and_disjoint(tokenizer.spans(text), text)


@ADAPTERS
@given(texts=st.lists(TEXTS, max_size=4))
@settings(deadline=None)
def test_a_count_is_at_least_one_where_there_is_text(tokenizer: Tokenizer, texts: list[str]) -> None:
    counts = tokenizer.count(texts)

    assert len(counts) == len(texts)
    assert [count > 0 for count in counts] == [bool(text) for text in texts]


@ADAPTERS
@given(text=TEXTS)
@settings(deadline=None)
def test_there_are_never_more_spans_than_tokens_counted(tokenizer: Tokenizer, text: str) -> None:
    assert len(tokenizer.spans(text)) <= tokenizer.count([text])[0]


@ADAPTERS
def test_plain_words_are_counted_without_special_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.count(["hello world", "hello", ""]) == [2, 1, 0]
    assert tokenizer.spans("hello world") == [(0, 5), (6, 11)]


@ADAPTERS
def test_no_texts_have_no_counts(tokenizer: Tokenizer) -> None:
    assert tokenizer.count([]) == []
    assert tokenizer.spans("") == []


@ADAPTERS
def test_spans_are_characters_and_not_bytes(tokenizer: Tokenizer) -> None:
    text = "Ünïcode café 漢字 world"

    assert text[slice(*tokenizer.spans(text)[-1])] == "world"


@ADAPTERS
@pytest.mark.parametrize(
    ("word", "tokens", "spans"),
    [
        ("a" * 103, 103, 26),
        ("😀😀😀😀😀", 20, 2),
        ("😀", 4, 1),
    ],
)
def test_an_unknown_word_counts_its_bytes_and_is_cut_every_four_characters(
    tokenizer: Tokenizer, word: str, tokens: int, spans: int
) -> None:
    assert tokenizer.count([f"see {word} there"]) == [tokens + 2]
    assert len(tokenizer.spans(word)) == spans
    assert "".join(word[start:end] for start, end in tokenizer.spans(word)) == word


@ADAPTERS
def test_tokens_that_share_a_character_are_all_counted_in_spans(tokenizer: Tokenizer) -> None:
    hangul = "안녕하세요"

    assert len(tokenizer.spans(hangul)) == tokenizer.count([hangul])[0] > len(hangul)
    assert "".join(hangul[start:end] for start, end in tokenizer.spans(hangul)) == hangul


@ADAPTERS
def test_the_name_of_a_special_token_in_a_text_is_ordinary_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.count(["[SEP]"])[0] >= 3


@ADAPTERS
def test_a_long_text_counts_what_its_paragraphs_count(tokenizer: Tokenizer) -> None:
    paragraph = "Nobody reads the whole of it, but it has to be counted: 漢字 and café and unbelievabilities. "

    assert tokenizer.count([paragraph * 500]) == [tokenizer.count([paragraph])[0] * 500]
    assert len(tokenizer.spans(paragraph * 500)) == 500 * len(tokenizer.spans(paragraph))


@ADAPTERS
@pytest.mark.parametrize(
    ("unit", "most"),
    [
        *((unit, MEGABYTE) for unit in ("one sentence. ", "a", " ", ".", '.")', "a\u0301")),
        *((unit, MEGABYTE // 4) for unit in ("漢字仮名", "안녕", "😀")),  # four times as slow: each is several tokens
    ],
)
def test_four_times_the_text_takes_about_four_times_as_long(tokenizer: Tokenizer, unit: str, most: int) -> None:
    """A quadratic step would make it sixteen times; the bound leaves room for a busy machine."""

    def seconds(characters: int) -> float:
        text = unit * (characters // len(unit))
        began = time.process_time()
        tokenizer.count([text])
        assert_ascending_and_disjoint(tokenizer.spans(text), text)
        return time.process_time() - began

    quarter = seconds(most // 4)
    assert seconds(most) < 10 * quarter + 0.5 * most / MEGABYTE


@ADAPTERS
def test_the_fingerprint_names_the_vocabulary(tokenizer: Tokenizer) -> None:
    assert tokenizer.fingerprint
    assert tokenizer.fingerprint == tokenizer.fingerprint


def test_a_tokenizer_that_came_over_the_wire_is_the_same() -> None:
    text = find("minilm").tokenizer_file().read_text(encoding="utf-8")
    local, remote = text_tokenizer.load("minilm"), text_tokenizer.parse(text)

    assert remote.fingerprint == local.fingerprint
    assert remote.count(["hello world 😀 안녕"]) == local.count(["hello world 😀 안녕"])
