import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.tiers.longterm import places as module
from memory.tiers.longterm.places import Places

steps = st.lists(st.tuples(st.sampled_from(["put", "pop"]), st.integers(0, 30)), max_size=80)


@settings(max_examples=60)
@given(given=st.lists(st.integers(0, 30), unique=True), history=steps)
def test_any_history_leaves_what_a_dict_would_hold(given, history):
    places, rows = Places(np.array(given, np.int64)), {item: row for row, item in enumerate(given)}
    for number, (verb, item) in enumerate(history):
        if verb == "pop":
            assert places.pop(item) == rows.pop(item, None)
        elif item not in rows:
            rows[item] = 100 + number
            places.put(item, 100 + number)
    assert len(places) == len(rows)
    assert [places.get(item) for item in range(32)] == [rows.get(item) for item in range(32)]
    assert places.of(range(32)).tolist() == [rows.get(item, -1) for item in range(32)]


def test_what_is_new_is_merged_when_it_has_grown(monkeypatch):
    monkeypatch.setattr(module, "_LEAST", 3)
    places = Places()
    for row, item in enumerate([40, 10, 30, 20, 50, 5, 60]):
        places.put(item, row)
    assert len(places._new) < 4
    assert places.pop(30) == 2
    assert places.pop(30) is None
    places.put(30, 9)
    assert places.of([5, 10, 20, 30, 40, 50, 60, 70]).tolist() == [5, 1, 3, 9, 0, 4, 6, -1]
