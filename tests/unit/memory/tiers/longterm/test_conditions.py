import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.domain.ids import event_item, memory_item
from memory.domain.principals import SHARED, TENANT_WIDE
from memory.domain.recall import AllOf, AnyOf, FieldTest, FilterOp, Not, evaluate
from memory.ports.feed import ItemFacts
from memory.tiers.base import Conditions
from memory.tiers.longterm.catalogue import Catalogue
from memory.tiers.longterm.conditions import is_plain, matching
from memory.tiers.longterm.fields import Leaf

NOW = 50.0


def item(number: int) -> ItemFacts:
    """Every third is a memory; roles, authors and times in turn."""
    memory = number % 3 == 0
    return ItemFacts(
        item=memory_item(number) if memory else event_item(number),
        session_key=None if memory else 1,
        seq=0 if memory else number,
        audience=TENANT_WIDE if memory else SHARED,
        kind="fact" if memory else "event",
        role=None if memory else ("user", "assistant")[number % 2],
        agent_id=(None, "ann", "bob")[number % 3],
        created_at=float(number),
        valid_from=10.0 if number == 6 else -math.inf,
        valid_to=60.0 if number == 9 else math.inf,
        text="",
    )


FACTS = [item(number) for number in range(1, 25)]
VALUES = {facts.item: facts.created_at // 5 for facts in FACTS if facts.seq % 2}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    made = Catalogue()
    for facts in FACTS:
        made.put(facts, 1)
    return made


def value(facts: ItemFacts, field: str) -> object:
    if field == "metadata.n":
        return VALUES.get(facts.item)
    return getattr(facts, field)


values = st.one_of(
    st.integers(-1, 30), st.floats(0, 30), st.booleans(), st.none(), st.sampled_from(["ann", "user", "fact", ""])
)
tests = st.builds(
    FieldTest,
    field=st.sampled_from(["created_at", "role", "agent_id", "kind", "metadata.n"]),
    op=st.sampled_from(FilterOp),
    value=values | st.lists(values, max_size=3),
)
filters = st.recursive(
    tests,
    lambda parts: (
        st.lists(parts, min_size=1, max_size=3).map(lambda p: AllOf(tuple(p)))
        | st.lists(parts, min_size=1, max_size=3).map(lambda p: AnyOf(tuple(p)))
        | parts.map(Not)
    ),
    max_leaves=5,
)


@settings(max_examples=200)
@given(condition=filters, some=st.booleans())
def test_a_filter_holds_of_all_at_once_as_it_holds_of_each(catalogue, condition, some):
    chosen = np.array([1, 5, 20]) if some else np.arange(len(FACTS))
    rows = chosen if some else slice(None)
    wanted = [
        bool(evaluate(condition, lambda test, one=FACTS[row]: np.bool_(test.holds(value(one, test.field)))))
        for row in chosen
    ]
    leaves = {"metadata.n": Leaf.of(catalogue, VALUES)}
    assert matching(catalogue, rows, Conditions(now=NOW, filter=condition), leaves).tolist() == wanted


@pytest.mark.parametrize(
    ("conditions", "out"),
    [
        (Conditions(now=NOW), set()),
        (Conditions(now=70), {9}),
        (Conditions(now=NOW, as_of=9), {6, *range(10, 25)}),
        (Conditions(now=NOW, kinds=frozenset({"fact"})), {n for n in range(1, 25) if n % 3}),
        (Conditions(now=NOW, kinds=frozenset({"unknown"})), set(range(1, 25))),
        (Conditions(now=NOW, outside=20), {20, 22, 23}),
    ],
)
def test_each_condition_leaves_out_what_it_must(catalogue, conditions, out):
    kept = matching(catalogue, slice(None), conditions, {})
    assert {number for number, stays in zip(range(1, 25), kept, strict=True) if not stays} == out
    assert is_plain(conditions) == (conditions in (Conditions(now=NOW), Conditions(now=70)))
