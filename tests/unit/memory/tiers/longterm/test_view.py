import math

import numpy as np
import pytest

from memory.adapters.vectors.flat import FlatIndex
from memory.domain.ids import memory_item
from memory.domain.principals import TENANT_WIDE
from memory.ports.feed import ItemFacts
from memory.tiers.longterm.catalogue import Catalogue
from memory.tiers.longterm.view import View


def facts(number: int, begin: float = -math.inf, end: float = math.inf, audience: str = TENANT_WIDE) -> ItemFacts:
    return ItemFacts(memory_item(number), None, 0, audience, "fact", None, None, 0.0, begin, end, "")


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue()


def plain(catalogue: Catalogue, now: float = 50, vectors: FlatIndex | None = None) -> View:
    return View.plain(catalogue, FlatIndex(4) if vectors is None else vectors, catalogue.shown([TENANT_WIDE]), now)


def test_it_lasts_until_the_next_validity_begins_or_ends(catalogue):
    for number, (begin, end) in enumerate([(-math.inf, math.inf), (10, 20), (40, 80), (60, math.inf), (0, 70)]):
        catalogue.put(facts(number, begin, end), 1)
    view = plain(catalogue)
    assert view.rows.tolist() == [0, 2, 4]
    assert (view.since, view.until, view.lasting) == (50, 60, False)
    assert plain(catalogue, 90).until == math.inf


def test_without_an_end_in_sight_it_is_lasting(catalogue):
    catalogue.put(facts(1), 1)
    catalogue.put(facts(2, end=3, audience="private:ann"), 1)
    view = plain(catalogue)
    assert (view.rows.tolist(), view.until, view.lasting) == ([0], math.inf, True)


def test_it_grows_to_what_it_would_be_if_made_anew(catalogue):
    for number in range(10):
        catalogue.put(facts(number, audience=TENANT_WIDE if number % 3 else "private:ann"), number)
    view = plain(catalogue)
    assert (view.count, view.length) == (6, pytest.approx(27 / 6))
    for number in range(10, 40):
        catalogue.put(facts(number, audience=TENANT_WIDE if number % 3 else "private:ann"), number)
    view.grow(catalogue.shown([TENANT_WIDE], slice(10, None)))
    anew = plain(catalogue)
    assert view.rows.tolist() == anew.rows.tolist()
    assert (view.count, view.length) == (anew.count, anew.length)


@pytest.mark.parametrize("limit", [0, 1, 3, 100])
def test_the_newest_are_the_last_rows(catalogue, limit, monkeypatch):
    monkeypatch.setattr("memory.tiers.longterm.view._NEWEST", 2)
    for number in range(20):
        catalogue.put(facts(number, audience=TENANT_WIDE if number % 4 else "private:ann"), 1)
    view = plain(catalogue)
    assert view.newest(limit).tolist() == view.rows[max(0, len(view.rows) - limit) :].tolist()


def test_vectors_are_allowed_by_their_owners(catalogue):
    for number in range(4):
        catalogue.put(facts(number, audience=TENANT_WIDE if number % 2 else "private:ann"), 1)
    view, owners = plain(catalogue), np.array([0, 1, 1, -1], np.int32)
    assert view.of_vectors(owners).tolist() == [False, True, True, False]
    assert view.of_vectors(np.append(owners, np.int32(3))).tolist() == [False, True, True, False, True]
    assert view.of_vectors(owners[:2]).tolist() == [False, True]


def test_the_sample_is_drawn_again_when_there_are_vectors_at_last(catalogue):
    vectors = FlatIndex(4)
    for number in range(600):
        catalogue.put(facts(number), 1)
    view, query = plain(catalogue, vectors=vectors), np.ones(4, np.float32)
    assert len(view.cosines(query)) == len(view.cosines(None)) == 0
    vectors.add(np.eye(4, dtype=np.float32)[np.arange(500) % 4])
    for row in range(500):
        catalogue.set_vectors(row, row, 1)
    assert view.cosines(query).tolist() == [1.0] * 300


def test_a_large_view_is_sampled_without_a_look_at_all(catalogue, monkeypatch):
    monkeypatch.setattr("memory.tiers.longterm.view._DRAWN_FROM", 700)
    vectors = FlatIndex(4)
    vectors.add(np.eye(4, dtype=np.float32)[np.arange(2_000) % 4])
    for number in range(2_000):
        catalogue.put(facts(number, audience=TENANT_WIDE if number % 5 else "private:ann"), 1)
        catalogue.set_vectors(number, number, 1)
    view = plain(catalogue, vectors=vectors)
    assert len(view.cosines(np.ones(4, np.float32))) == 300
    assert "rows" not in view.__dict__
