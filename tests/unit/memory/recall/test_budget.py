import itertools

from hypothesis import given
from hypothesis import strategies as st

from memory.recall.budget import diverse_order, falling, within


def test_a_repeat_steps_back_behind_everything_else():
    assert diverse_order(["Hello, Ann!", "hello ann", "something else"]) == [0, 2, 1]


def test_texts_of_signs_alone_are_not_taken_for_each_other():
    assert diverse_order(["!!!", "???"]) == [0, 1]


@given(st.lists(st.sampled_from(["a", "A", "b", "c.", "c", "", " "]), max_size=20))
def test_diversity_reorders_and_never_drops(texts):
    assert sorted(diverse_order(texts)) == list(range(len(texts)))


@given(st.lists(st.floats(0, 1), max_size=20))
def test_scores_never_rise_along_the_list(scores):
    shown = falling(scores)
    assert all(a >= b for a, b in itertools.pairwise(shown))
    assert len(shown) == len(scores)


def test_without_a_budget_everything_fits():
    assert within([5, 1_000_000], None) == [0, 1]


def test_a_result_that_is_too_long_makes_room_for_the_next():
    assert within([5, 100, 4], 10) == [0, 2]


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(0, 200))
def test_the_budget_is_never_exceeded(tokens, budget):
    chosen = within(tokens, budget)
    assert sum(tokens[at] for at in chosen) <= budget
    assert chosen == sorted(set(chosen))
