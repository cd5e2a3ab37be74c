import pytest

from memory.domain.recall import ALL_TIERS, TierName
from memory.recall.planner import is_date_term, read_question, tiers_instead, tiers_to_ask


def test_a_month_is_a_name_and_may_is_also_a_verb():
    assert read_question("What happened in May 2023?").months == {5}
    assert read_question("What may happen?").months == frozenset()


def test_years_are_read():
    assert read_question("Who moved in 2022 or 2023, after 1200 days?").years == {2022, 2023}


@pytest.mark.parametrize(
    ("question", "wants"),
    [
        ("When did Ann move?", True),
        ("what year was it", True),
        ("Since which month does he run?", True),
        ("What did Ann say when she moved?", False),
    ],
)
def test_a_question_for_a_time_is_known_by_its_beginning(question, wants):
    assert read_question(question).wants_time is wants


@pytest.mark.parametrize(("term", "expected"), [("8th", True), ("2023", True), ("januari", True), ("mari", False)])
def test_date_terms(term, expected):
    assert is_date_term(term) is expected


def test_long_term_answers_for_all_because_tiers_are_inclusive():
    assert list(tiers_to_ask(ALL_TIERS)) == [TierName.LONGTERM]
    assert list(tiers_to_ask(frozenset({TierName.SEMANTIC}))) == [TierName.SEMANTIC]


def test_the_tiers_without_an_index_answer_when_long_term_cannot():
    assert set(tiers_instead(ALL_TIERS)) == {TierName.HOT, TierName.SEMANTIC}
