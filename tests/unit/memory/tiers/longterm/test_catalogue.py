import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.domain.ids import event_item, memory_item
from memory.domain.principals import SHARED, TENANT_WIDE, Scope, private_to
from memory.ports.feed import ItemFacts
from memory.tiers.longterm.catalogue import EPISODE_GAP, Catalogue


def event(key, session=1, seq=None, audience=SHARED, at=0.0, text="hello"):
    return ItemFacts(
        item=event_item(key),
        session_key=session,
        seq=seq or key,
        audience=audience,
        kind="event",
        role="user",
        agent_id="ann",
        created_at=at,
        valid_from=-math.inf,
        valid_to=math.inf,
        text=text,
    )


def memory(key, session=None, audience=TENANT_WIDE, valid_from=-math.inf, valid_to=math.inf):
    return ItemFacts(
        item=memory_item(key),
        session_key=session,
        seq=0,
        audience=audience,
        kind="fact",
        role=None,
        agent_id=None,
        created_at=0.0,
        valid_from=valid_from,
        valid_to=valid_to,
        text="a fact",
    )


def scope(*sessions, agent=None):
    audiences = {SHARED, TENANT_WIDE} | ({private_to(agent)} if agent else set())
    return Scope("t", sessions or None, frozenset(audiences))


def seen(catalogue, of):
    return sorted(catalogue.column("item")[catalogue.in_scope(of)].tolist())


@pytest.fixture
def catalogue():
    made = Catalogue()
    for facts in (
        event(1, session=1, seq=1),
        event(2, session=1, seq=2, audience=private_to("ann")),
        event(3, session=1, seq=3),
        event(4, session=2, seq=1),
        memory(1),
        memory(2, session=2, audience=SHARED),
        memory(3, audience=private_to("bob")),
    ):
        made.put(facts, 1)
    return made


def test_a_scope_shows_shared_events_of_its_sessions_and_the_memories_of_the_tenant(catalogue):
    assert seen(catalogue, scope(1)) == sorted([event_item(1), event_item(3), memory_item(1)])
    assert seen(catalogue, scope(2)) == sorted([event_item(4), memory_item(1), memory_item(2)])


def test_private_items_are_seen_by_their_agent_only(catalogue):
    assert event_item(2) in seen(catalogue, scope(1, agent="ann"))
    assert event_item(2) not in seen(catalogue, scope(1, agent="bob"))
    assert memory_item(3) in seen(catalogue, scope(agent="bob"))
    assert memory_item(3) not in seen(catalogue, scope())


def test_without_sessions_everything_of_the_tenant_is_in_scope(catalogue):
    assert len(seen(catalogue, scope())) == 5


def test_an_unknown_session_shows_only_the_memories_of_the_tenant(catalogue):
    assert seen(catalogue, scope(99)) == [memory_item(1)]


def test_a_removed_item_is_gone_and_is_no_ones_neighbour(catalogue):
    catalogue.remove(event_item(2))
    assert event_item(2) not in seen(catalogue, scope(1, agent="ann"))
    rows = catalogue.rows([event_item(1), event_item(3)])
    assert catalogue.neighbours(rows).tolist() == [[-1, -1, rows[0], -1, -1], [-1, -1, rows[1], -1, -1]]


def test_removing_what_is_unknown_changes_nothing(catalogue):
    assert catalogue.remove(event_item(77)) is None
    assert catalogue.live == 7


def test_putting_an_item_again_updates_it_in_place(catalogue):
    row = catalogue.row(memory_item(1))
    assert catalogue.put(memory(1, audience=private_to("ann")), 1) == row
    assert memory_item(1) not in seen(catalogue, scope())


def test_neighbours_are_those_of_the_same_session():
    made = Catalogue()
    for key, session, seq in ((1, 1, 1), (2, 2, 1), (3, 1, 2), (4, 2, 2), (5, 1, 3)):
        made.put(event(key, session, seq), 1)
    rows = made.rows([event_item(3)])
    expected = made.rows([event_item(1), event_item(3), event_item(5)])
    assert made.neighbours(rows)[0].tolist() == [-1, *expected.tolist(), -1]


@settings(max_examples=50)
@given(st.permutations(range(1, 9)))
def test_neighbours_do_not_depend_on_the_order_of_arrival(order):
    made = Catalogue()
    for seq in order:
        made.put(event(seq, seq=seq), 1)
    rows = made.rows([event_item(seq) for seq in range(1, 9)])
    found = made.neighbours(rows)
    for seq in range(1, 9):
        wanted = [rows[seq + o - 1] if 1 <= seq + o <= 8 else -1 for o in (-2, -1, 0, 1, 2)]
        assert found[seq - 1].tolist() == wanted


def test_a_long_silence_begins_a_new_episode():
    made = Catalogue()
    for seq, at in enumerate((0, 60, 60 + EPISODE_GAP, 70 + EPISODE_GAP), start=1):
        made.put(event(seq, seq=seq, at=at), 1)
    episodes = made.column("episode").tolist()
    assert episodes[0] == episodes[1] != episodes[2] == episodes[3]


def test_sessions_never_share_an_episode():
    made = Catalogue()
    made.put(event(1, session=1, seq=1), 1)
    made.put(event(2, session=2, seq=1), 1)
    assert len(set(made.column("episode").tolist())) == 2


def test_validity_is_from_inclusive_to_exclusive():
    made = Catalogue()
    made.put(memory(1, valid_from=10.0, valid_to=20.0), 1)
    rows = made.in_scope(scope())
    assert [bool(made.valid_at(rows, moment)[0]) for moment in (9.9, 10.0, 19.9, 20.0)] == [False, True, True, False]


def test_more_items_than_the_first_allocation_fit():
    made = Catalogue()
    for key in range(1, 3_000):
        made.put(event(key, seq=key), 1)
    assert seen(made, scope(1)) == [event_item(key) for key in range(1, 3_000)]


def test_a_dump_restores_what_lives_and_nothing_of_what_was_removed(catalogue):
    catalogue.remove(event_item(2))
    restored = Catalogue.restore(catalogue.dump())
    assert len(restored) == 6
    assert seen(restored, scope(1, agent="ann")) == seen(catalogue, scope(1, agent="ann"))
    rows = restored.rows([event_item(1)])
    assert restored.neighbours(rows)[0].tolist() == [-1, -1, rows[0], -1, -1]
    restored.put(event(9, session=1, seq=4), 1)
    assert event_item(9) in seen(restored, scope(1))


def test_an_array_that_is_missing_is_an_error():
    arrays = Catalogue().dump()
    del arrays["seq"]
    with pytest.raises(KeyError):
        Catalogue.restore(arrays)


def test_unknown_items_have_no_row(catalogue):
    np.testing.assert_array_equal(catalogue.rows([event_item(500)]), [-1])
