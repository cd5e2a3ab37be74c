from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.adapters.files import replaced
from memory.adapters.vectors.faiss_index import FaissIndex, FaissIndexes, Filing, Sizes, Training
from memory.adapters.vectors.flat import FlatIndex
from memory.domain.errors import IndexDamaged

SMALL = Sizes(chunk_rows=256, scan_up_to=200, file_from=50)


def unit(n: int, d: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def talk(n: int, d: int = 32, seed: int = 0) -> np.ndarray:
    """Vectors that lie together in groups, as those of texts do."""
    topics = unit(60, d, seed=99)[np.random.default_rng(seed).integers(0, 60, n)]
    vectors = 0.8 * topics + 0.6 * unit(n, d, seed)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def tended(index: FaissIndex) -> list[str]:
    """Does all there is to do."""
    done = []
    while work := index.upkeep():
        work.prepare()
        assert work.finish()
        done.append(work.name)
    return done


@pytest.fixture
def listed() -> FaissIndex:
    """3,000 rows in lists."""
    index = FaissIndex(32, SMALL)
    index.add(talk(3_000))
    assert tended(index) == ["train"]
    return index


def exact(index: FaissIndex) -> FlatIndex:
    flat = FlatIndex(index.dimensions)
    flat.add(index.vectors(np.arange(len(index))))
    return flat


def shared(index: FaissIndex, k: int = 10, allowed: np.ndarray | None = None) -> float:
    """Share of the exact answers that the index finds."""
    flat, found = exact(index), []
    for query in talk(40, seed=5):
        right, ours = flat.search(query, k, allowed), index.search(query, k, allowed)
        found.append(len(np.intersect1d(right.rows, ours.rows)) / len(right.rows))
        np.testing.assert_allclose(ours.scores, flat.scores(query, ours.rows), atol=1e-6)
    return float(np.mean(found))


def test_searches_beside_each_other_give_what_they_give_alone():
    index, queries = FaissIndex(32), unit(64, 32, seed=1)
    index.add(unit(20_000, 32))
    masks = np.random.default_rng(3).random((64, 20_000)) < np.linspace(0.0005, 1, 64)[:, None]

    def search(n: int) -> list[int]:
        return index.search(queries[n], 10, masks[n]).rows.tolist()

    alone = [search(n) for n in range(64)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(search, range(64))) == alone


def test_faiss_and_numpy_agree_on_realistic_vectors_with_repetitions():
    vectors = unit(3_000, 384)
    vectors[1_000:1_500] = vectors[17]
    flat, scanned = FlatIndex(384), FaissIndex(384)
    flat.add(vectors)
    scanned.add(vectors)
    for query in [vectors[17], *unit(20, 384, seed=9)]:
        assert scanned.search(query, 25).rows.tolist() == flat.search(query, 25).rows.tolist()


def test_numbers_are_rounded_as_the_database_rounds_them():
    vectors = unit(26, 8, seed=37)  # FAISS' own conversion rounds one of these to the other neighbour
    index = FaissIndex(8)
    index.add(vectors)
    np.testing.assert_array_equal(index.vectors(np.arange(26)), vectors.astype(np.float16).astype(np.float32))


def test_a_small_index_has_no_lists():
    index = FaissIndex(32, SMALL)
    index.add(talk(200))
    assert index.upkeep() is None


def test_lists_find_what_a_scan_finds(listed):
    assert shared(listed) >= 0.95


def test_numbers_that_weigh_more_than_others_do_not_mislead_the_codes():
    vectors = unit(3_000, 64) * np.where(np.arange(64) < 4, 12.0, 1.0)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    index = FaissIndex(64, SMALL)
    index.add(vectors)
    tended(index)
    for row in range(0, 3_000, 100):
        assert row in index.search(vectors[row], 5).rows


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_lists_find_it_in_a_part_of_the_rows(listed, share):
    allowed = np.random.default_rng(1).random(3_000) < share
    assert shared(listed, allowed=allowed) >= 0.95


@pytest.fixture(scope="module")
def half_listed() -> FaissIndex:
    """2,000 rows in lists and 40 that came since. Tests leave it as it is."""
    index = FaissIndex(32, SMALL)
    index.add(talk(2_000))
    tended(index)
    index.add(talk(40, seed=2))
    return index


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.floats(0, 1), st.integers(0, 9), st.booleans())
def test_k_is_always_met_and_nothing_else_is_found(half_listed, k, share, seed, newest):
    allowed = np.random.default_rng(seed).random(len(half_listed)) < share
    if newest:
        allowed[:-300] = False
    hits = half_listed.search(talk(1, seed=seed)[0], k, allowed)
    assert len(hits.rows) == len(set(hits.rows.tolist())) == min(k, allowed.sum())
    assert allowed[hits.rows].all()
    assert (np.diff(hits.scores) <= 0).all()


def test_rows_that_come_after_the_lists_are_found_at_once_and_filed_later(listed):
    new = talk(60, seed=3)
    listed.add(new[:49])
    assert listed.upkeep() is None
    listed.add(new[49:])
    for row, vector in enumerate(new, 3_000):
        assert row in listed.search(vector, 1).rows
    assert tended(listed) == ["file"]
    assert listed.lists.covered == 3_060
    assert shared(listed) >= 0.95


def test_lists_are_made_anew_when_the_index_has_grown_fourfold():
    index = FaissIndex(32, SMALL)
    index.add(talk(300))
    assert tended(index) == ["train"]
    index.add(talk(900, seed=1))
    assert tended(index) == ["train"]
    assert index.lists.trained_on == 1_200


def test_what_happens_while_lists_are_made_is_in_them():
    index = FaissIndex(32, SMALL)
    index.add(talk(1_000))
    index.blank(np.array([5]))
    work = index.upkeep()
    assert isinstance(work, Training)
    index.add(talk(100, seed=1))
    index.blank(np.array([6, 1_001]))
    work.prepare()
    index.blank(np.array([7]))
    assert work.finish()
    assert index.lists.covered == 1_000
    assert in_lists(index) == set(range(1_000)) - {5, 6, 7}
    assert tended(index) == ["file"]
    assert in_lists(index) == set(range(1_100)) - {5, 6, 7, 1_001}


def test_what_is_blanked_while_rows_are_filed_is_in_no_list(listed):
    listed.add(talk(80, seed=1))
    work = listed.upkeep()
    assert isinstance(work, Filing)
    work.prepare()
    listed.blank(np.array([1, 3_010]))
    assert work.finish()
    assert in_lists(listed) == set(range(3_080)) - {1, 3_010}


def test_a_compaction_renumbers_the_lists(listed):
    kept = np.flatnonzero(np.random.default_rng(0).random(3_000) < 0.7)
    before = listed.vectors(kept)
    work = listed.keeping(kept)
    work.prepare()
    listed.add(talk(10, seed=8))
    assert work.finish()
    np.testing.assert_array_equal(listed.vectors(np.arange(len(kept))), before)
    assert in_lists(listed) == set(range(len(kept)))
    assert shared(listed) >= 0.95


def test_work_that_was_prepared_before_a_compaction_changes_nothing(listed):
    listed.add(talk(80, seed=1))
    filing, compaction = listed.upkeep(), listed.keeping(np.arange(1_000))
    training = Training(listed)
    for work in (filing, compaction, training):
        work.prepare()
    assert compaction.finish()
    assert not filing.finish()
    assert not training.finish()
    assert len(listed) == 1_000


def test_a_saved_index_has_its_lists(listed, tmp_path: Path):
    names = listed.snapshot().write(tmp_path)
    assert listed.snapshot().write(tmp_path) == names
    loaded = FaissIndexes(SMALL).load(tmp_path, names, 32)
    for query in talk(20, seed=6):
        assert loaded.search(query, 10).rows.tolist() == listed.search(query, 10).rows.tolist()
    assert loaded.upkeep() is None
    loaded.blank(np.array([0]))
    changed = loaded.snapshot().write(tmp_path)
    assert len(set(changed) - set(names)) == 2  # one chunk and the lists
    assert in_lists(FaissIndexes(SMALL).load(tmp_path, changed, 32)) == set(range(1, 3_000))


def test_an_index_is_searched_while_its_chunks_are_written_and_mapped(listed, tmp_path: Path):
    queries = talk(50, seed=6)
    expected = [listed.search(query, 10).rows.tolist() for query in queries]
    with ThreadPoolExecutor(4) as pool:
        searches = [pool.submit(lambda q=q: listed.search(q, 10).rows.tolist()) for q in list(queries) * 8]
        listed.snapshot().write(tmp_path)
        assert [search.result() for search in searches] == expected * 8


@pytest.mark.parametrize("length", [0, 50, -30, -1])
def test_damaged_lists_are_damage(listed, tmp_path: Path, length):
    names = listed.snapshot().write(tmp_path)
    path = tmp_path / names[-1]
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(IndexDamaged):
        FaissIndexes(SMALL).load(tmp_path, names, 32)


@pytest.mark.parametrize(
    "other",
    [
        faiss.IndexFlatIP(12),
        faiss.IndexScalarQuantizer(12, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT),
        faiss.IndexScalarQuantizer(12, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_L2),
    ],
    ids=["flat", "8bit", "l2"],
)
@pytest.mark.parametrize("name", ["rows-00000-x.faiss", "lists-0-0-x.faiss"])
def test_another_faiss_index_is_damage(tmp_path: Path, other, name):
    with replaced(tmp_path / name, sealed=True) as draft:
        faiss.write_index(other, str(draft))
    with pytest.raises(IndexDamaged):
        FaissIndexes().load(tmp_path, [name], 12)


def in_lists(index: FaissIndex) -> set[int]:
    lists = index.lists._index.invlists
    sizes = [(number, lists.list_size(number)) for number in range(index.lists.count)]
    return {int(row) for number, size in sizes if size for row in faiss.rev_swig_ptr(lists.get_ids(number), size)}
