from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.domain.forgetting import HALF_LIFE, ForgetPolicy, ForgetRule, Outline, decayed, judge

NOW = datetime(2026, 3, 31, tzinfo=UTC)


def outline(key, age=0.0, idle=None, **changes):
    """A memory that is `age` days old and was used `idle` days ago."""
    created = NOW - timedelta(days=age)
    values = {
        "memory_key": key,
        "memory_id": f"m{key}",
        "kind": "fact",
        "session_id": None,
        "agent_id": None,
        "created_at": created,
        "last_used": created if idle is None else NOW - timedelta(days=idle),
        "uses": 0,
        "pinned": False,
        "valid_to": None,
        "repeats": None,
        "metadata": {},
    }
    return Outline(**{**values, **changes})


def going(outlines, alike=None, **policy):
    verdicts = judge(outlines, ForgetPolicy(**policy), NOW, alike or {})
    return {v.outline.memory_key: [reason.rule for reason in v.reasons] for v in verdicts}


OUTLINES = st.lists(
    st.builds(
        outline,
        st.integers(1, 50),
        age=st.floats(0, 400),
        uses=st.integers(0, 1_000),
        pinned=st.booleans(),
        valid_to=st.sampled_from([None, NOW - timedelta(days=1), NOW + timedelta(days=1)]),
    ),
    max_size=30,
    unique_by=lambda made: made.memory_key,
)
BOUND = st.none() | st.floats(0, 400)
POLICIES = st.builds(
    ForgetPolicy, max_age_days=BOUND, unused_days=BOUND, keep_top=st.none() | st.integers(0, 40), redundancy=BOUND
)


def test_a_bound_lets_go_what_is_beyond_it_and_says_which():
    outlines = [outline(1, age=10), outline(2, age=40), outline(3, age=40, idle=1), outline(4, age=5)]
    assert going(outlines, max_age_days=30) == {2: [ForgetRule.MAX_AGE], 3: [ForgetRule.MAX_AGE]}
    assert going(outlines, unused_days=7) == {1: [ForgetRule.UNUSED], 2: [ForgetRule.UNUSED]}
    both = going(outlines, max_age_days=30, unused_days=7)
    assert both == {1: [ForgetRule.UNUSED], 2: [ForgetRule.MAX_AGE, ForgetRule.UNUSED], 3: [ForgetRule.MAX_AGE]}


def test_the_most_valuable_stay():
    outlines = [outline(1, age=9, uses=50), outline(2, age=9), outline(3, age=90, uses=50), outline(4, age=1)]
    assert set(going(outlines, keep_top=2)) == {2, 3}
    assert set(going(outlines, keep_top=0)) == {1, 2, 3, 4}
    assert going(outlines, keep_top=4) == {}
    assert set(going([*outlines, outline(5, valid_to=NOW, uses=10**6)], keep_top=4)) == {5}


def test_what_is_pinned_counts_among_those_that_stay():
    outlines = [outline(1, age=300, pinned=True), outline(2), outline(3, age=1)]
    assert set(going(outlines, keep_top=2)) == {3}
    assert set(going(outlines, keep_top=0)) == {2, 3}


def test_what_repeats_goes_only_while_what_it_repeats_stays():
    outlines = [outline(1, age=40), outline(2, repeats="m1"), outline(3, repeats="m1", pinned=True)]
    alike = {2: ("m1", 0.95), 3: ("m1", 0.99)}
    assert going(outlines, alike, redundancy=0.9) == {2: [ForgetRule.REDUNDANCY]}
    assert going(outlines, alike, redundancy=0.96) == {}
    assert set(going(outlines, alike, redundancy=0.9, max_age_days=30)) == {1}


def test_without_a_bound_all_that_is_named_goes():
    assert going([outline(1), outline(2, pinned=True)], kinds=frozenset({"fact"})) == {1: [ForgetRule.SELECTED]}


@given(OUTLINES, POLICIES)
def test_pinned_never_goes_and_every_verdict_has_a_reason(outlines, policy):
    verdicts = judge(outlines, policy, NOW, {})
    assert not any(verdict.outline.pinned for verdict in verdicts)
    assert all(verdict.reasons for verdict in verdicts)
    assert [v.value for v in verdicts] == sorted(v.value for v in verdicts)


@given(OUTLINES, st.integers(0, 40))
def test_what_stays_is_as_many_as_asked_and_worth_no_less_than_what_goes(outlines, most):
    gone = {v.outline.memory_key for v in judge(outlines, ForgetPolicy(keep_top=most), NOW, {})}
    staying = [o for o in outlines if o.memory_key not in gone]
    pinned = [o for o in outlines if o.pinned]
    assert len(staying) == max(len(pinned), min(most, len(outlines)))
    worst = min((o.value(NOW) for o in staying if not o.pinned), default=None)
    if worst is not None:
        assert all(o.value(NOW) <= worst for o in outlines if o.memory_key in gone)


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.floats(0, 10_000), st.floats(0, 10_000))
def test_value_grows_with_use_and_falls_with_disuse(uses, more, idle, longer):
    value = decayed(uses, timedelta(days=idle))
    assert decayed(uses + more, timedelta(days=idle)) >= value
    assert decayed(uses, timedelta(days=idle + longer)) <= value
    assert decayed(uses, HALF_LIFE) == pytest.approx(decayed(uses, timedelta(0)) / 2)


def test_a_clock_that_went_back_makes_nothing_more_valuable():
    assert decayed(3, timedelta(days=-5)) == decayed(3, timedelta(0))
