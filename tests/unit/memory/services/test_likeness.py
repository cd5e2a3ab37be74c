import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.services.likeness import may_be_same, near, signatures, similarity


def unit(*rows):
    vectors = np.array(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def packed(vector):
    return vector.astype("<f2").tobytes()


def pair(seed, cosine, dimensions=384):
    """Two random unit vectors with this cosine."""
    rng = np.random.default_rng(seed)
    a, b = unit(*rng.standard_normal((2, dimensions)))
    beside = unit(b - (a @ b) * a)[0]
    return a, (cosine * a + np.sqrt(1 - cosine**2) * beside).astype(np.float32)


def test_like_vectors_are_found_by_their_signatures_and_others_are_not():
    found = dict.fromkeys((0.93, 0.5, 0.0), 0)
    for cosine in found:
        for seed in range(300):
            one, other = signatures(np.array(pair(seed, cosine)))
            found[cosine] += len(near(int(one), np.array([other]), 1))
    assert found[0.93] >= 298
    assert found[0.5] <= 90
    assert found[0.0] <= 3


def test_the_nearest_signatures_come_first_and_no_more_than_asked():
    signature = 0b1111
    others = np.array([0b1111, 0, 0b111, -1, 0b1111], np.int64)
    assert near(signature, others, 9).tolist() == [0, 4, 2, 1]
    assert near(signature, others, 2).tolist() == [0, 4]


def test_texts_of_several_segments_are_as_alike_as_their_most_unlike_ones():
    a, b = (packed(v) for v in pair(1, 0.5))
    assert similarity([a, a], [a, b]) == pytest.approx(0.5, abs=0.01)
    assert similarity([a], [a]) == pytest.approx(1, abs=0.001)
    assert similarity([a], [a, a]) == 0
    assert similarity([], []) == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann likes green tea.", "ann likes green tea"),
        ("Ann likes green tea.", "So, as far as I know, Ann likes green tea!"),
        ("Ann likes green tea.", "Ann liked gren tea."),
        ("Ann likes green tea.", "Ann likes green tea best."),
        ("Ann doesn’t eat meat.", "Ann does not eat meat."),
        ("Miriam's dog is ill.", "The dog of Miriam is ill."),
        ("Miriam has 3 dogs.", "Mirima has 3 dogs."),
        ("Meet at 10:30 on 2026-03-31.", "On 2026-03-31 we meet at 10:30."),
    ],
)
def test_other_words_for_the_same_may_be_the_same(one, other):
    assert may_be_same(one, other)
    assert may_be_same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann likes green tea.", "Bob likes green tea."),
        ("Ann likes green tea.", "Ann does not like green tea."),
        ("The code is 4711.", "The code is 4712."),
        ("They live in Paris.", "They live in Berlin."),
        ("They never met.", "They met."),
        ("Ann gave 3 to Bob.", "Ann gave to Bob."),
        ("Ann likes tea.", "Ann hates tea."),
        ("Ann likes tea.", "Ann likes tea, honey and lemon."),
        ("Ann likes tea.", "Ann and Bob like tea."),
        ("the choice of the choice", "the choice of the tongue"),
    ],
)
def test_a_number_a_name_a_negation_or_another_word_makes_another_fact(one, other):
    assert not may_be_same(one, other)
    assert not may_be_same(other, one)


@given(st.text(max_size=200), st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_a_text_may_be_the_same_as_itself_in_capitals_and_with_a_full_stop(text, rng: random.Random):
    assert may_be_same(text, text)
    assert may_be_same(text, text + ".")


@given(st.text(max_size=100), st.text(max_size=100))
def test_both_sides_are_asked_alike(one, other):
    assert may_be_same(one, other) == may_be_same(other, one)
