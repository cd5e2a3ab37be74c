"""What only the adapter for Milvus does. Everything that all vector indexes do is in tests/contract."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from memory.adapters.vectors import milvus
from memory.adapters.vectors.flat import FlatIndex
from memory.adapters.vectors.milvus import MilvusIndexes, condition_of
from memory.domain.errors import IndexDamaged, TierUnavailable


def unit(n: int, d: int = 8, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def mask(*rows: int, size: int = 10) -> np.ndarray:
    made = np.zeros(size, np.bool_)
    made[list(rows)] = True
    return made


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> MilvusIndexes:
    pytest.importorskip("pymilvus", reason="pip install -e '.[milvus]'")
    return MilvusIndexes(str(tmp_path_factory.mktemp("milvus") / "milvus.db"))


def test_a_scope_is_put_in_as_few_words_as_may_be(monkeypatch):
    assert condition_of(mask(*range(10))) == ""
    assert condition_of(mask(2, 3, 4, 9)) == "(row >= 2 and row < 5) or (row >= 9 and row < 10)"
    monkeypatch.setattr(milvus, "_RANGES", 1)
    assert condition_of(mask(2, 4, 9)) == "row in [2, 4, 9]"
    monkeypatch.setattr(milvus, "_NAMED", 2)
    assert condition_of(mask(0, 1, 2, 4, 5, 6, 8, 9)) == "row not in [3, 7]"
    assert condition_of(mask(0, 2, 4, 6, 8)) is None


@pytest.mark.parametrize("most", [16_384, 40])
def test_any_scope_is_applied_before_ranking(lite, tmp_path: Path, monkeypatch, most):
    """Also where a scope can't be put in words, and where the most hits that Milvus gives have too few in scope."""
    monkeypatch.setattr(milvus, "_RANGES", 2)
    monkeypatch.setattr(milvus, "_NAMED", 20)
    monkeypatch.setattr(milvus, "_MOST", most)
    vectors, flat = unit(200), FlatIndex(8)
    index = lite.create(tmp_path, 8)
    for one in (flat, index):
        one.add(vectors)
    for number, share in enumerate([0.02, 0.06, 0.5, 0.95, 1.0]):
        allowed = np.random.default_rng(number).random(200) < share
        query = unit(1, seed=50 + number)[0]
        for k in (1, 10, 150):
            right, ours = flat.search(query, k, allowed), index.search(query, k, allowed)
            assert ours.rows.tolist() == right.rows.tolist()
            np.testing.assert_allclose(ours.scores, right.scores, atol=1e-6)
    lite.discard(tmp_path, ())


def test_rows_that_milvus_has_lost_are_damage(lite, tmp_path: Path):
    index = lite.create(tmp_path, 8)
    index.add(unit(20))
    names = index.snapshot().write(tmp_path)
    index._milvus.ask("delete", index._collection, ids=[3])
    with pytest.raises(IndexDamaged):
        lite.load(tmp_path, names, 8)
    lite.discard(tmp_path, ())
    assert not [name for name in index._milvus.ask("list_collections") if name == index._collection]


def test_other_folders_keep_their_collections(lite, tmp_path: Path):
    kept = lite.create(tmp_path / "vectors-10", 8)
    kept.add(unit(3))
    lite.create(tmp_path / "vectors-1", 8)
    lite.discard(tmp_path / "vectors-1", ())
    assert len(kept.vectors(np.arange(3))) == 3
    lite.discard(tmp_path / "vectors-10", ())


def test_a_server_that_is_away_is_named(monkeypatch, tmp_path: Path):
    pytest.importorskip("pymilvus")
    monkeypatch.setattr(milvus, "_TIMEOUT", 0.5)
    with pytest.raises(TierUnavailable, match="127"):
        MilvusIndexes("http://127.0.0.1:9").create(tmp_path, 8)


def test_without_pymilvus_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TierUnavailable, match="pip install"):
        MilvusIndexes("http://127.0.0.1:19530")
