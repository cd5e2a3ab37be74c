import itertools
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from memory.recall.budget import diverse_order, falling, within


def days(*numbers):
    return [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number) for number in numbers]


def test_a_repeat_steps_back_behind_everything_else():
    assert diverse_order(["Hello, Ann!", "hello ann", "something else"], days(0, 0, 0)) == [0, 2, 1]


def test_of_what_says_the_same_the_latest_is_shown_where_the_best_stood():
    texts = ["It is blue.", "something else", "It is blue", "it is blue!"]
    assert diverse_order(texts, days(0, 0, 7, 3)) == [2, 1, 0, 3]


def test_texts_of_signs_alone_are_not_taken_for_each_other():
    assert diverse_order(["!!!", "???"], days(0, 1)) == [0, 1]


@given(st.lists(st.sampled_from(["a", "A", "b", "c.", "c", "", " "]), max_size=20))
def test_diversity_reorders_and_never_drops(texts):
    assert sorted(diverse_order(texts, days(*range(len(texts))))) == list(range(len(texts)))


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
