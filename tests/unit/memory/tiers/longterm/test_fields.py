import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.domain.ids import event_item, memory_item
from memory.domain.principals import SHARED, Scope
from memory.domain.recall import FieldTest, FilterOp
from memory.ports.feed import ItemFacts
from memory.tiers.longterm import fields as module
from memory.tiers.longterm.catalogue import Catalogue
from memory.tiers.longterm.fields import Fields, Kept, Leaf

NAME = "metadata.n"


def event(number: int, session_key: int | None = 1) -> ItemFacts:
    return ItemFacts(
        item=event_item(number),
        session_key=session_key,
        seq=number if session_key else 0,
        audience=SHARED,
        kind="event",
        role="user",
        agent_id=None,
        created_at=float(number),
        valid_from=-math.inf,
        valid_to=math.inf,
        text="",
    )


def catalogue_of(*facts: ItemFacts) -> Catalogue:
    made = Catalogue()
    for one in facts:
        made.put(one, 1)
    return made


def read(fields: Fields, catalogue: Catalogue, stored: dict[int, object]) -> list[int] | None:
    """Brings the field up to date as the tier does. Returns the items that had to be read, None for all of them."""
    lacking = fields.lacking(NAME, catalogue)
    if lacking is None:
        return []
    wanted = stored if lacking.items is None else {i: stored[i] for i in lacking.items if i in stored}
    fields.put(NAME, catalogue, lacking, wanted.items())
    return None if lacking.items is None else sorted(lacking.items)


def kept(fields: Fields) -> Kept:
    found = fields.kept(NAME)
    assert found is not None
    return found


def values(leaf: Leaf) -> list[object]:
    return [leaf.values[code] if code >= 0 else None for code in leaf.codes.tolist()]


def equal_to(leaf: Leaf, value: object) -> list[bool]:
    return leaf.passes(FieldTest(NAME, FilterOp.EQ, value), slice(None)).tolist()


def test_only_the_first_question_reads_all_values():
    catalogue, stored = catalogue_of(event(1), event(2)), {event_item(1): "a", event_item(2): "b"}
    fields = Fields()
    assert read(fields, catalogue, stored) is None
    assert read(fields, catalogue, stored) == []
    catalogue.put(event(3), 1)
    stored[event_item(3)] = "a"
    assert read(fields, catalogue, stored) == [event_item(3)]
    assert values(kept(fields).leaf()) == ["a", "b", "a"]


def test_an_edited_item_is_read_again_and_may_have_lost_its_value():
    catalogue, stored = catalogue_of(event(1), event(2)), {event_item(1): "a", event_item(2): "b"}
    fields = Fields()
    read(fields, catalogue, stored)
    del stored[event_item(1)]
    stored[event_item(2)] = "c"
    fields.edited(event_item(1))
    fields.edited(event_item(2))
    assert read(fields, catalogue, stored) == [event_item(1), event_item(2)]
    assert values(kept(fields).leaf()) == [None, "c"]
    assert read(fields, catalogue, stored) == []


def test_an_edit_that_came_while_the_values_were_read_is_not_forgotten():
    catalogue, fields = catalogue_of(event(1)), Fields()
    read(fields, catalogue, {event_item(1): "a"})
    fields.edited(event_item(1))
    lacking = fields.lacking(NAME, catalogue)
    assert lacking is not None
    fields.edited(event_item(1))
    fields.put(NAME, catalogue, lacking, [(event_item(1), "b")])
    assert read(fields, catalogue, {event_item(1): "c"}) == [event_item(1)]
    assert values(kept(fields).leaf()) == ["c"]


def test_an_edit_that_came_while_all_values_were_read_is_not_forgotten():
    catalogue, fields = catalogue_of(event(1)), Fields()
    lacking = fields.lacking(NAME, catalogue)
    assert lacking is not None
    fields.edited(event_item(1))
    assert not fields.put(NAME, catalogue, lacking, [(event_item(1), "a")])
    assert read(fields, catalogue, {event_item(1): "b"}) is None
    assert values(kept(fields).leaf()) == ["b"]


def test_values_of_another_catalogue_are_read_anew():
    before, fields = catalogue_of(event(1), event(2)), Fields()
    read(fields, before, {event_item(1): "a", event_item(2): "b"})
    compacted = catalogue_of(event(2))
    assert read(fields, compacted, {event_item(2): "b"}) is None
    assert values(kept(fields).leaf()) == ["b"]


def test_what_came_after_the_values_were_read_has_none_yet():
    catalogue, fields = catalogue_of(event(1)), Fields()
    read(fields, catalogue, {event_item(1): "a"})
    catalogue.put(event(2), 1)
    assert values(kept(fields).leaf()) == ["a", None]


def test_true_is_not_one_and_lists_are_values_too():
    stored: dict[int, object] = {event_item(n): v for n, v in enumerate([True, 1, "1", [1], {"b": 1, "a": 2}, None], 1)}
    catalogue, fields = catalogue_of(*(event(n) for n in range(1, 7))), Fields()
    read(fields, catalogue, stored)
    assert values(kept(fields).leaf()) == list(stored.values())
    assert equal_to(kept(fields).leaf(), "1") == [False, False, True, False, False, False]


def test_a_field_with_too_many_values_is_not_kept(monkeypatch):
    monkeypatch.setattr(module, "_VALUES", 2)
    catalogue, fields = catalogue_of(*(event(n) for n in range(1, 4))), Fields()
    lacking = fields.lacking(NAME, catalogue)
    assert lacking is not None
    assert not fields.put(NAME, catalogue, lacking, [(event_item(n), n) for n in range(1, 4)])
    assert fields.kept(NAME) is None


def test_many_new_items_are_read_with_all_others(monkeypatch):
    monkeypatch.setattr(module, "_NEW", 1)
    catalogue, fields = catalogue_of(event(1)), Fields()
    read(fields, catalogue, {})
    catalogue.put(event(2), 1)
    catalogue.put(event(3), 1)
    assert read(fields, catalogue, {event_item(3): "x"}) is None
    assert values(kept(fields).leaf()) == [None, None, "x"]


def test_the_field_that_was_asked_longest_ago_gives_way(monkeypatch):
    monkeypatch.setattr(module, "_FIELDS", 2)
    catalogue, fields = catalogue_of(event(1)), Fields()
    for name in "abc":
        lacking = fields.lacking(name, catalogue)
        assert lacking is not None
        fields.put(name, catalogue, lacking, [])
    assert [name for name in "abc" if fields.kept(name)] == ["b", "c"]


@given(st.dictionaries(st.integers(1, 12), st.integers(0, 3)), st.integers(0, 3))
def test_a_leaf_says_of_all_at_once_what_each_value_says(stored, asked):
    catalogue = catalogue_of(*(event(n) for n in range(1, 9)))
    leaf = Leaf.of(catalogue, {event_item(n): value for n, value in stored.items()})
    assert equal_to(leaf, asked) == [stored.get(n) == asked for n in range(1, 9)]


@pytest.mark.parametrize("names", [{}, {1: "one", 2: "two"}, {2: "two"}])
def test_every_item_has_the_name_of_its_session(names):
    loose = replace(event(7, None), item=memory_item(7))
    catalogue = catalogue_of(event(1), event(2, 2), event(3), loose)
    leaf = Leaf.of_sessions(catalogue, Scope("t", None, frozenset({SHARED})), names)
    assert values(leaf) == [names.get(1), names.get(2), names.get(1), None]
