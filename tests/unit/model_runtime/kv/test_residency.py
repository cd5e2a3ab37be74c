from types import SimpleNamespace

from model_runtime.kv.residency import yielding


class Node(SimpleNamespace):
    __hash__ = object.__hash__


def blocks(count, *, refs=1, on_device=True):
    return [Node(index=i, slot=i if on_device else None, refs=refs, last_use=float(i)) for i in range(count)]


def test_who_holds_most_gives_first_and_oldest_first():
    long, short = blocks(6), blocks(3)
    assert list(yielding([short, long])) == [*long[1:5], short[1], long[0], long[5], short[0], short[2]]


def test_what_others_read_as_well_stays_longer():
    nodes = blocks(5)
    nodes[1].refs = 2
    assert list(yielding([nodes])) == [nodes[2], nodes[3], nodes[1], nodes[0], nodes[4]]


def test_what_is_elsewhere_has_no_slot_to_give():
    assert not list(yielding([blocks(4, on_device=False), []]))
