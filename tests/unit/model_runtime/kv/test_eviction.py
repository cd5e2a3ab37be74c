from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_runtime.kv.eviction import Candidate, Choice, Reason, choose, reuse_chance, value

NOW = 10_000.0


def block(name: str, parent: str | None = None, **facts: Any) -> Candidate:
    usual: dict[str, Any] = {
        "tenant": "acme",
        "bytes": 100,
        "last_use": NOW - 600,
        "uses": 1,
        "recompute_seconds": 1.0,
        "pinned": False,
        "superseded": False,
        "refs": 0,
    }
    return Candidate(name.encode(), parent.encode() if parent else None, **usual | facts)


def names(choices: list[Choice]) -> list[str]:
    return [choice.block_id.decode() for choice in choices]


@st.composite
def forests(draw: st.DrawFn) -> list[Candidate]:
    blocks: list[Candidate] = []
    for i in range(draw(st.integers(0, 12))):
        parent = draw(st.none() | st.integers(0, i - 1)) if i else None
        blocks.append(
            block(
                str(i),
                None if parent is None else str(parent),
                tenant=draw(st.sampled_from("ab")),
                bytes=draw(st.integers(1, 50)),
                last_use=draw(st.floats(0, NOW)),
                uses=draw(st.integers(0, 5)),
                recompute_seconds=draw(st.floats(0, 10)),
                pinned=draw(st.integers(0, 5)) == 0,
                superseded=draw(st.booleans()),
                refs=int(draw(st.integers(0, 5)) == 0),
            )
        )
    return draw(st.permutations(blocks))


def may_go(blocks: list[Candidate]) -> set[bytes]:
    """Every block with nothing held in its subtree, itself included: found from below, without the code's heap."""
    held = {b.block_id for b in blocks if b.pinned or b.refs}
    by_id = {b.block_id: b for b in blocks}
    for block_id in list(held):
        at = by_id[block_id].parent
        while at is not None:
            held.add(at)
            at = by_id[at].parent
    return set(by_id) - held


@given(forests(), st.integers(0, 400), st.fixed_dictionaries({}, optional={"a": st.integers(0, 200)}))
def test_children_go_before_parents_and_nothing_that_is_held_goes(
    blocks: list[Candidate], need: int, quotas: dict[str, int]
) -> None:
    chosen = [choice.block_id for choice in choose(blocks, need, NOW, quotas)]
    by_id = {b.block_id: b for b in blocks}
    freed = sum(by_id[i].bytes for i in chosen)
    possible = sum(by_id[i].bytes for i in may_go(blocks))

    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= may_go(blocks)
    for i, block_id in enumerate(chosen):
        assert all(b.block_id in chosen[:i] for b in blocks if b.parent == block_id)
    assert freed >= min(need, possible)
    assert not chosen or freed - by_id[chosen[-1]].bytes < need  # the last one was needed


@given(forests(), st.integers(0, 400))
def test_the_order_of_the_candidates_does_not_matter(blocks: list[Candidate], need: int) -> None:
    assert choose(blocks, need, NOW, {"a": 30}) == choose(blocks[::-1], need, NOW, {"a": 30})


def test_superseded_branches_go_first_then_tenants_over_their_quota_then_the_least_value() -> None:
    blocks = [
        block("cheap", recompute_seconds=0.1),
        block("dear", recompute_seconds=5.0),
        block("greedy", tenant="greedy", recompute_seconds=50.0),
        block("old branch", superseded=True, recompute_seconds=500.0),
    ]
    choices = choose(blocks, 400, NOW, {"greedy": 50, "acme": 10_000})

    assert names(choices) == ["old branch", "greedy", "cheap", "dear"]
    assert [c.reason for c in choices] == [
        Reason.SUPERSEDED,
        Reason.OVER_QUOTA,
        Reason.LEAST_VALUE,
        Reason.LEAST_VALUE,
    ]


def test_a_tenant_pays_only_down_to_its_quota() -> None:
    blocks = [block(f"g{i}", tenant="greedy", recompute_seconds=9.0 + i) for i in range(3)] + [block("poor")]
    choices = choose(blocks, 300, NOW, {"greedy": 200})

    assert names(choices) == ["g0", "poor", "g1"]
    assert [c.reason for c in choices] == [Reason.OVER_QUOTA, Reason.LEAST_VALUE, Reason.LEAST_VALUE]


def test_a_chain_goes_from_its_end() -> None:
    chain = [block("0", recompute_seconds=0.0), block("1", "0", recompute_seconds=1.0), block("2", "1")]
    assert names(choose(chain, 150, NOW)) == ["2", "1"]


def test_a_pinned_leaf_holds_its_whole_chain() -> None:
    chain = [block("0"), block("1", "0"), block("2", "1", pinned=True), block("side", "0")]
    assert names(choose(chain, 1_000, NOW)) == ["side"]


def test_nothing_goes_where_nothing_is_needed() -> None:
    assert choose([block("0")], 0, NOW) == []


def test_a_block_that_is_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        choose([block("0"), block("0")], 1, NOW)


@given(st.floats(0, 1e7), st.floats(0, 1e7), st.integers(0, 20))
def test_the_chance_falls_with_time_and_rises_with_uses(idle: float, more: float, uses: int) -> None:
    chance = reuse_chance(idle, uses)

    assert 0 < chance <= 1
    assert reuse_chance(idle + more, uses) <= chance
    assert reuse_chance(idle, uses + 1) >= chance
    assert reuse_chance(-more, uses) == reuse_chance(0, uses)  # a clock that was set back


def test_value_is_seconds_a_byte() -> None:
    one = block("0")
    assert value(replace(one, recompute_seconds=2.0), NOW) == pytest.approx(2 * value(one, NOW))
    assert value(replace(one, bytes=200), NOW) == pytest.approx(value(one, NOW) / 2)
