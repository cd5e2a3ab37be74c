"""All vector indexes answer the same: what is right is computed here by hand, in float64."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory.adapters.files import replaced
from memory.adapters.vectors.faiss_index import FaissIndexes, Sizes
from memory.adapters.vectors.flat import FlatIndexes
from memory.adapters.vectors.milvus import MilvusIndexes
from memory.domain.errors import IndexDamaged
from memory.ports.indexes import VectorIndex, VectorIndexes

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


MAKERS: dict[str, Callable[[], VectorIndexes]] = {
    "flat": FlatIndexes,
    "faiss": FaissIndexes,
    "faiss-chunks": lambda: FaissIndexes(Sizes(chunk_rows=7)),
}


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> VectorIndexes:
    """milvus-lite: the same client as for a cluster."""
    pytest.importorskip("pymilvus", reason="pip install -e '.[milvus]'")
    return MilvusIndexes(str(tmp_path_factory.mktemp("milvus") / "milvus.db"))


@pytest.fixture(params=MAKERS)
def quick(request: pytest.FixtureRequest) -> VectorIndexes:
    """Without Milvus: a collection takes half a second to be made."""
    return MAKERS[request.param]()


@pytest.fixture(params=[*MAKERS, "milvus"])
def indexes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorIndexes]:
    if request.param != "milvus":
        yield MAKERS[request.param]()
        return
    made = request.getfixturevalue("milvus")
    yield made
    made.discard(tmp_path, ())


def unit(n: int, d: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def filled(indexes: VectorIndexes, folder: Path, vectors: np.ndarray) -> VectorIndex:
    index = indexes.create(folder, vectors.shape[1])
    index.add(vectors)
    return index


def half(vectors: np.ndarray) -> np.ndarray:
    return vectors.astype(np.float16).astype(np.float64)


def test_the_nearest_come_first_with_their_inner_products(indexes, tmp_path: Path):
    vectors, query = unit(500, 384), unit(1, 384, seed=1)[0]
    hits = filled(indexes, tmp_path, vectors).search(query, 10)
    products = half(vectors) @ query
    assert hits.rows.tolist() == np.argsort(-products)[:10].tolist()
    assert hits.rows.dtype == np.int64
    assert hits.scores.dtype == np.float32
    np.testing.assert_allclose(hits.scores, np.sort(products)[::-1][:10], atol=1e-6)


@QUICK
@given(data=st.data())
def test_any_scope_is_applied_before_ranking(quick, tmp_path, data):
    n, d = data.draw(st.integers(0, 60)), data.draw(st.sampled_from([1, 3, 8, 17]))
    vectors = unit(n, d, seed=data.draw(st.integers(0, 99)))
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), np.bool_)
    query, k = unit(1, d, seed=7)[0], data.draw(st.integers(-1, n + 3))
    hits = filled(quick, tmp_path, vectors).search(query, k, allowed)
    assert len(hits.rows) == len(hits.scores) == max(0, min(k, int(allowed.sum())))
    assert allowed[hits.rows].all()
    products = np.where(allowed, half(vectors) @ query, -np.inf)
    np.testing.assert_allclose(hits.scores, -np.sort(-products)[: len(hits.rows)], atol=1e-6)
    np.testing.assert_allclose(hits.scores, products[hits.rows], atol=1e-6)


@pytest.mark.parametrize("share", [0.0003, 0.001, 0.02, 0.5, 1.0])
def test_small_and_large_scopes_meet_k(indexes, share, tmp_path: Path):
    vectors, query = unit(10_000, 16), unit(1, 16, seed=1)[0]
    allowed = np.zeros(len(vectors), np.bool_)
    allowed[np.random.default_rng(2).choice(len(vectors), int(len(vectors) * share), replace=False)] = True
    hits = filled(indexes, tmp_path, vectors).search(query, 20, allowed)
    products = np.where(allowed, half(vectors) @ query, -np.inf)
    assert hits.rows.tolist() == np.argsort(-products)[: min(20, allowed.sum())].tolist()


@QUICK
@given(
    choice=st.lists(st.integers(0, 2), min_size=1, max_size=80),
    k=st.integers(1, 90),
    d=st.sampled_from([1, 7, 16, 33]),
    scoped=st.booleans(),
)
def test_equal_scores_come_by_rising_row(quick, tmp_path, choice, k, d, scoped):
    index = filled(quick, tmp_path, unit(3, d)[choice])
    hits = index.search(unit(1, d, seed=5)[0], k, np.ones(len(choice), np.bool_) if scoped else None)
    products = half(unit(3, d)) @ unit(1, d, seed=5)[0]
    expected = sorted(range(len(choice)), key=lambda row: (-round(products[choice[row]], 6), row))
    assert hits.rows.tolist() == expected[:k]


def test_thousands_of_equal_vectors_give_the_first_rows(indexes, tmp_path: Path):
    index = filled(indexes, tmp_path, np.repeat(unit(2, 8), 3_000, axis=0))
    allowed = np.arange(6_000) % 2 == 1
    assert index.search(unit(2, 8)[1], 3).rows.tolist() == [3_000, 3_001, 3_002]
    assert index.search(unit(2, 8)[1], 3, allowed).rows.tolist() == [3_001, 3_003, 3_005]


def test_duplicates_in_a_tiny_scope_come_by_rising_row(indexes, tmp_path: Path):
    index = filled(indexes, tmp_path, np.repeat(unit(3, 13), 3_000, axis=0))
    allowed = np.zeros(9_000, np.bool_)
    allowed[[10, 500, 2_999, 6_001, 8_000]] = True
    rows = index.search(unit(3, 13)[2], 5, allowed).rows.tolist()
    assert rows == [6_001, 8_000, 10, 500, 2_999]


@pytest.mark.parametrize("k", [0, 1, 50])
def test_an_empty_index_and_an_empty_scope_find_nothing(indexes, k, tmp_path: Path):
    empty = indexes.create(tmp_path, 4)
    assert empty.search(np.ones(4, np.float32), k).rows.tolist() == []
    assert empty.search(np.ones(4, np.float32), k, np.zeros(0, np.bool_)).rows.tolist() == []
    assert filled(indexes, tmp_path, unit(9, 4)).search(unit(1, 4)[0], k, np.zeros(9, np.bool_)).rows.tolist() == []


def test_asking_for_more_than_there_is_gives_all_rows_and_no_placeholder(indexes, tmp_path: Path):
    hits = filled(indexes, tmp_path, unit(5, 4)).search(unit(1, 4)[0], 100)
    assert sorted(hits.rows.tolist()) == [0, 1, 2, 3, 4]
    assert np.isfinite(hits.scores).all()


def test_rows_are_numbered_in_the_order_of_adding(indexes, tmp_path: Path):
    index = indexes.create(tmp_path, 8)
    parts = [unit(n, 8, seed=n) for n in (3, 0, 1, 200)]
    for part in parts:
        index.add(part)
        part[:] = 0  # the caller keeps its array
    assert len(index) == 204
    np.testing.assert_array_equal(index.vectors(np.array([3])), unit(1, 8, seed=1).astype(np.float16))


def test_scores_and_vectors_follow_the_order_asked(indexes, tmp_path: Path):
    vectors, query = unit(50, 24), unit(1, 24, seed=1)[0]
    index, rows = filled(indexes, tmp_path, vectors), np.array([40, 2, 2, 17])
    np.testing.assert_allclose(index.scores(query, rows), half(vectors[rows]) @ query, atol=1e-6)
    np.testing.assert_array_equal(index.vectors(rows), half(vectors[rows]))
    assert index.scores(query, np.zeros(0, np.int64)).shape == (0,)
    assert index.vectors(np.zeros(0, np.int64)).shape == (0, 24)


def keep(index: VectorIndex, rows: list[int]) -> None:
    work = index.keeping(np.array(rows, np.int64))
    work.prepare()
    assert work.finish()


def content(folder: Path, names: Sequence[str]) -> bytes:
    return b"".join((folder / name).read_bytes() for name in names)


def test_only_kept_rows_stay_and_are_renumbered(quick, tmp_path: Path):
    vectors = unit(30, 8)
    index = filled(quick, tmp_path, vectors)
    keep(index, [3, 7, 20])
    assert len(index) == 3
    np.testing.assert_array_equal(index.vectors(np.arange(3)), half(vectors[[3, 7, 20]]))
    saved = content(tmp_path, index.snapshot().write(tmp_path))
    assert vectors[3].astype(np.float16).tobytes() in saved
    assert vectors[4].astype(np.float16).tobytes() not in saved
    index.add(vectors[:2])
    assert len(index) == 5
    keep(index, [])
    assert len(index) == 0


def test_rows_that_come_while_a_compaction_is_prepared_follow_the_kept_ones(indexes, tmp_path: Path):
    vectors = unit(30, 8)
    index = filled(indexes, tmp_path, vectors[:20])
    work = index.keeping(np.array([1, 5, 19]))
    index.add(vectors[20:25])
    work.prepare()
    index.add(vectors[25:])
    index.blank(np.array([5, 27]))
    assert work.finish()
    expected = half(vectors[[1, 5, 19, *range(20, 30)]])
    expected[[1, 10]] = 0
    np.testing.assert_array_equal(index.vectors(np.arange(13)), expected)


def test_of_two_compactions_the_second_changes_nothing(indexes, tmp_path: Path):
    index = filled(indexes, tmp_path, unit(30, 8))
    first, second = index.keeping(np.arange(10)), index.keeping(np.arange(5))
    first.prepare()
    second.prepare()
    assert first.finish()
    assert not second.finish()
    assert len(index) == 10


def test_kept_rows_are_the_first_and_what_was_blanked_is_zeros(indexes, tmp_path: Path):
    vectors = unit(30, 8)
    index = filled(indexes, tmp_path, vectors)
    index.blank(np.array([7]))
    index.blank(np.zeros(0, np.int64))
    keep(index, [3, 7, 20])
    index.add(vectors[:2])
    expected = half(vectors[[3, 7, 20, 0, 1]])
    expected[1] = 0
    np.testing.assert_array_equal(index.vectors(np.arange(5)), expected)
    loaded = indexes.load(tmp_path, index.snapshot().write(tmp_path), 8)
    np.testing.assert_array_equal(loaded.vectors(np.arange(5)), expected)


def test_what_was_added_after_a_save_is_not_in_it(indexes, tmp_path: Path):
    index = filled(indexes, tmp_path, unit(30, 12))
    names = index.snapshot().write(tmp_path)
    index.add(unit(9, 12, seed=1))
    loaded = indexes.load(tmp_path, names, 12)
    assert len(loaded) == 30
    loaded.add(unit(2, 12, seed=2))
    np.testing.assert_array_equal(
        loaded.vectors(np.array([29, 30])), half(np.stack([unit(30, 12)[29], unit(2, 12, seed=2)[0]]))
    )
    indexes.discard(tmp_path, names)
    assert len(indexes.load(tmp_path, names, 12)) == 30


def test_blanked_rows_are_zeros_and_their_bytes_are_in_no_file_of_the_next_save(quick, tmp_path: Path):
    vectors, query = unit(30, 8), unit(1, 8, seed=1)[0]
    index = filled(quick, tmp_path, vectors)
    before = index.snapshot()
    index.blank(np.array([4, 29]))
    index.blank(np.zeros(0, np.int64))
    saved = content(tmp_path, index.snapshot().write(tmp_path))
    assert len(index) == 30
    assert index.scores(query, np.array([29, 4])).tolist() == [0.0, 0.0]
    assert not any(vectors[row].astype(np.float16).tobytes() in saved for row in (4, 29))
    assert all(vectors[row].astype(np.float16).tobytes() in saved for row in (3, 5, 28))
    assert vectors[4].astype(np.float16).tobytes() in content(tmp_path, before.write(tmp_path))


@pytest.mark.parametrize("rows", [[-1], [5], [0, 99]])
def test_a_row_that_does_not_exist_is_an_error(indexes, rows, tmp_path: Path):
    index = filled(indexes, tmp_path, unit(5, 4))
    for call in (index.vectors, index.blank, index.keeping, lambda r: index.scores(unit(1, 4)[0], r)):
        with pytest.raises(IndexError):
            call(np.array(rows))
    assert len(index) == 5


def test_wrong_shapes_are_errors(indexes, tmp_path: Path):
    index = filled(indexes, tmp_path, unit(5, 4))
    with pytest.raises(ValueError, match="vectors"):
        index.add(unit(2, 3))
    with pytest.raises(ValueError, match="vectors"):
        index.search(unit(1, 3)[0], 1)
    with pytest.raises(ValueError, match="finite"):
        index.search(np.full(4, np.nan, np.float32), 1)
    with pytest.raises(ValueError, match="allowed"):
        index.search(unit(1, 4)[0], 1, np.ones(4, np.bool_))


def saved(indexes: VectorIndexes, folder: Path, vectors: np.ndarray) -> list[str]:
    return list(filled(indexes, folder, vectors).snapshot().write(folder))


@pytest.mark.parametrize("n", [0, 1, 300])
def test_a_saved_index_answers_the_same(indexes, tmp_path: Path, n):
    index, query = filled(indexes, tmp_path, unit(n, 12)), unit(1, 12, seed=3)[0]
    loaded = indexes.load(tmp_path, index.snapshot().write(tmp_path), 12)
    assert len(loaded) == n
    before, after = index.search(query, 7), loaded.search(query, 7)
    assert after.rows.tolist() == before.rows.tolist()
    assert after.scores.tolist() == before.scores.tolist()
    for one in (index, loaded):  # the one that has saved and the one that was loaded go on
        one.add(unit(2, 12))
        one.blank(np.arange(len(one) - 1))
        assert len(one) == n + 2


def test_a_snapshot_is_the_index_of_its_moment(quick, tmp_path: Path):
    vectors = unit(40, 12)
    index = filled(quick, tmp_path, vectors[:25])
    snapshot = index.snapshot()
    index.add(vectors[25:])
    index.blank(np.array([0]))
    keep(index, [30, 31])
    loaded = quick.load(tmp_path, snapshot.write(tmp_path), 12)
    np.testing.assert_array_equal(loaded.vectors(np.arange(25)), half(vectors[:25]))
    assert len(loaded) == 25


def test_a_second_save_leaves_the_files_of_the_first_and_only_the_owner_reads_them(quick, tmp_path: Path):
    index = filled(quick, tmp_path, unit(30, 12))
    first = index.snapshot().write(tmp_path)
    before = content(tmp_path, first)
    assert not quick.load(tmp_path, first, 12).upkeep()
    index.add(unit(4, 12))
    second = index.snapshot().write(tmp_path)
    assert content(tmp_path, first) == before
    assert {path.name for path in tmp_path.iterdir()} == {*first, *second}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    quick.discard(tmp_path, second)
    assert {path.name for path in tmp_path.iterdir()} == set(second)
    assert len(quick.load(tmp_path, second, 12)) == 34
    quick.discard(tmp_path, ())
    quick.discard(tmp_path / "absent", ())
    assert not list(tmp_path.iterdir())


def damaged(indexes: VectorIndexes, folder: Path, names: Sequence[str]) -> None:
    with pytest.raises(IndexDamaged):
        indexes.load(folder, names, 12)


def test_a_missing_file_or_a_folder_is_damage(indexes, tmp_path: Path):
    names = saved(indexes, tmp_path, unit(30, 12))
    damaged(indexes, tmp_path, [*names[:-1], "rows-00009-absent"])
    damaged(indexes, tmp_path / "absent", names)
    (tmp_path / names[-1]).unlink()
    (tmp_path / names[-1]).mkdir()
    damaged(indexes, tmp_path, names)
    (tmp_path / names[-1]).rmdir()


@pytest.mark.parametrize("length", [0, 1, 10, 40, 200, -1])
def test_a_file_cut_off_anywhere_is_damage(quick, tmp_path: Path, length):
    names = saved(quick, tmp_path, unit(50, 12))
    path = tmp_path / names[-1]
    path.write_bytes(path.read_bytes()[: min(length, len(path.read_bytes()) - 1)])
    damaged(quick, tmp_path, names)


@pytest.mark.parametrize("at", [*range(0, 60), 100, -25, -20, -10, -1])
def test_a_changed_byte_is_damage(quick, tmp_path: Path, at):
    names = saved(quick, tmp_path, unit(50, 12))
    path = tmp_path / names[0]
    changed = bytearray(path.read_bytes())
    changed[at] ^= 0x40
    path.write_bytes(changed)
    damaged(quick, tmp_path, names)


def test_another_number_of_dimensions_is_damage(indexes, tmp_path: Path):
    damaged(indexes, tmp_path, saved(indexes, tmp_path, unit(5, 13)))


@pytest.mark.parametrize("other", [b"", b"\x00" * 4096, b"IxSQ" + b"\xff" * 4096, b"\x93NUMPY\x01\x00" + b"\xff" * 90])
@pytest.mark.parametrize("sealed", [True, False])
def test_a_file_of_another_kind_is_damage(quick, tmp_path: Path, other, sealed):
    names = saved(quick, tmp_path, unit(5, 12))
    with replaced(tmp_path / names[0], sealed=sealed) as draft:
        draft.write_bytes(other)
    damaged(quick, tmp_path, names)


def test_the_files_of_another_technology_are_damage(tmp_path: Path):
    damaged(FaissIndexes(), tmp_path, saved(FlatIndexes(), tmp_path, unit(5, 12)))
    damaged(FlatIndexes(), tmp_path, saved(FaissIndexes(), tmp_path, unit(5, 12)))


def test_a_save_that_fails_leaves_the_old_files(quick, tmp_path: Path, monkeypatch):
    names = saved(quick, tmp_path, unit(3, 12))
    with monkeypatch.context() as patch:
        patch.setattr("memory.adapters.files.os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            saved(quick, tmp_path, unit(9, 12))
    assert [file.name for file in tmp_path.iterdir()] == names
    assert len(quick.load(tmp_path, names, 12)) == 3
