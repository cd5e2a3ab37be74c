import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tantivy

from memory.adapters.lexical import committed, generations, tantivy_index
from memory.adapters.lexical.analysis import ANALYSIS
from memory.adapters.lexical.scan import ScanIndexes
from memory.adapters.lexical.tail import Visible
from memory.adapters.lexical.tantivy_index import TantivyIndex, TantivyIndexes
from memory.domain.errors import IndexDamaged, TierUnavailable
from memory.ports.indexes import LexicalDocument, LexicalIndex, LexicalScope

ALL = LexicalScope(None, frozenset({"public"}))


def doc(item: int, text: str, session: int | None = 1) -> LexicalDocument:
    return LexicalDocument(item, session, "public", text)


def found(index: TantivyIndex, query: str) -> list[int]:
    return index.search(index.analyze(query), 10_000, ALL).items.tolist()


def rewrite(index: LexicalIndex, documents: Sequence[LexicalDocument]) -> None:
    rewriting = index.rewriting()
    rewriting.add(documents)
    rewriting.finish()


@pytest.fixture
def index(tmp_path: Path) -> TantivyIndex:
    return TantivyIndexes().open(tmp_path / "i")


def generation(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_readers_see_every_document_exactly_once_while_commits_run(index):
    index.put([doc(item, "cats") for item in range(50)])
    stop, wrong = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            items = sorted(found(index, "cats"))
            if items[:50] != list(range(50)) or len(set(items)) != len(items):
                wrong.append(items)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for n in range(6):
        index.put([doc(item, f"cats round{n}") for item in range(50)])
        index.put([doc(100 + n, "cats")])
        index.commit()
    rewrite(index, [doc(item, "cats") for item in range(50)])
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_puts_and_removes_during_commits_are_not_lost(index):
    done = threading.Event()

    def commit() -> None:
        while not done.is_set():
            index.commit()

    committer = threading.Thread(target=commit)
    committer.start()
    for item in range(300):
        index.put([doc(item, "cats"), doc(1_000 + item, "dogs")])
        index.put([doc(1_000 + item, "birds")])
        if item % 3 == 0:
            index.remove([item])
        assert (item in found(index, "cats")) == (item % 3 != 0)
    done.set()
    committer.join()
    for _ in range(2):
        assert found(index, "cats") == [item for item in range(300) if item % 3]
        assert found(index, "dogs") == []
        assert len(found(index, "birds")) == 300
        assert len(index) == 500
        index.commit()


def interrupted(
    index: TantivyIndex, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None], error: BaseException | None
) -> None:
    """While the next commit writes, something else happens; then it goes on, or fails."""
    write = tantivy_index._write

    def slow(*arguments: object) -> None:
        monkeypatch.undo()
        meanwhile()
        if error is not None:
            raise error
        write(*arguments)

    monkeypatch.setattr(tantivy_index, "_write", slow)


@pytest.mark.parametrize("fails", [True, False])
def test_what_changes_while_a_commit_writes_comes_on_top_of_it(index, monkeypatch, fails):
    index.put([doc(1, "old"), doc(2, "old"), doc(9, "old")])
    index.commit()
    index.put([doc(1, "frozen"), doc(3, "frozen"), doc(4, "frozen")])
    index.remove([9])

    def check() -> None:
        assert found(index, "old") == []
        assert found(index, "frozen") == [1]
        assert found(index, "newer") == [3, 5, 9]
        assert len(index) == 4

    def meanwhile() -> None:
        assert found(index, "frozen") == [1, 3, 4]
        index.put([doc(3, "newer"), doc(5, "newer"), doc(9, "newer")])
        index.remove([2, 4])
        check()

    interrupted(index, monkeypatch, meanwhile, OSError("disk full") if fails else None)
    if fails:
        with pytest.raises(TierUnavailable):
            index.commit()
    else:
        index.commit()
    check()
    assert index.uncommitted > 0
    index.commit()
    check()
    assert index.uncommitted == 0


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("writer killed")])
def test_a_rewrite_that_fails_leaves_the_old_index(index, monkeypatch, tmp_path: Path, error):
    index.put([doc(1, "old")])
    index.commit()
    index.put([doc(3, "old")])
    rewriting = index.rewriting()
    index.put([doc(2, "newer")])
    with monkeypatch.context() as patch:
        patch.setattr(generations, "publish", lambda _: (_ for _ in ()).throw(error))
        with pytest.raises(TierUnavailable):
            rewriting.finish()
    rewriting.cancel()
    assert sorted(found(index, "old newer")) == [1, 2, 3]
    index.commit()
    index.close()
    assert sorted(found(TantivyIndexes().open(tmp_path / "i"), "old newer")) == [1, 2, 3]


def test_a_commit_that_is_tried_again_adds_nothing_twice(index, monkeypatch):
    """tantivy had committed, what came after failed."""
    index.put([doc(1, "cats"), doc(2, "cats")])
    monkeypatch.setattr(tantivy_index, "Committed", lambda *_: (_ for _ in ()).throw(OSError("no memory map")))
    with pytest.raises(TierUnavailable):
        index.commit()
    monkeypatch.undo()
    index.commit()
    assert (found(index, "cats"), len(index)) == ([1, 2], 2)


def test_a_commit_changes_no_score_of_what_was_committed_before(index):
    index.put([doc(n, "cats and some more words " + "dogs " * (n % 60)) for n in range(200)])
    index.commit()
    index.put([doc(1_000 + n, "cats and some more words " + "dogs " * (n % 60)) for n in range(200)])
    before = index.search(["cat", "dog"], 1_000, ALL)
    index.commit()
    after = index.search(["cat", "dog"], 1_000, ALL)
    np.testing.assert_array_equal(np.sort(before.items), np.sort(after.items))
    scores = [hits.scores[np.argsort(hits.items)] for hits in (before, after)]
    np.testing.assert_allclose(*scores, rtol=1e-4)


def test_long_documents_score_within_the_rounding_of_their_length(tmp_path: Path):
    documents = [doc(n, "cats " + " ".join(f"w{n}x{i}" for i in range(n * 7))) for n in range(60)]
    pair = [ScanIndexes().open(tmp_path / "s"), TantivyIndexes().open(tmp_path / "t")]
    for index in pair:
        rewrite(index, documents)
    exact, rounded = (index.search(["cat"], 99, ALL) for index in pair)
    np.testing.assert_allclose(np.sort(rounded.scores), np.sort(exact.scores), rtol=0.1)
    np.testing.assert_allclose(np.median(rounded.scores / exact.scores), 1, rtol=0.05)


def sizes(folder: Path) -> dict[str, int]:
    return {path.suffix: path.stat().st_size for path in generation(folder).iterdir() if path.stem[:1] != "."}


def test_a_rewrite_leaves_no_trace_of_what_left_in_any_file(index, tmp_path: Path):
    """The dictionary is compressed, so bytes prove nothing: every file is as long as one that never had it."""
    kept = [doc(n, f"kept{n} words") for n in range(50)]
    index.put([*kept, doc(99, "zanzibarsecret")])
    index.commit()
    index.remove([99])
    index.commit()
    assert index.holds_term("zanzibarsecret"), "a removed document's terms stay until the rewrite"
    rewrite(index, kept)
    assert not index.holds_term("zanzibarsecret")
    searcher = index._layers.committed._searcher
    terms = {term for term, _ in searcher.terms_with_prefix(ANALYSIS, "")}
    assert terms == {"word", *(f"kept{n}" for n in range(50))}
    never = TantivyIndexes().open(tmp_path / "never")
    rewrite(never, kept)
    assert sizes(tmp_path / "i") == sizes(tmp_path / "never")
    assert not any(b"zanzibar" in p.read_bytes() for p in (tmp_path / "i").rglob("*") if p.is_file())


@pytest.mark.parametrize("scope", [ALL, LexicalScope(tuple(range(20)), frozenset({"public"}))])
@pytest.mark.parametrize("edited", [False, True])
def test_where_a_little_is_out_of_scope_the_rest_is_ranked_as_ever(tmp_path: Path, monkeypatch, scope, edited):
    monkeypatch.setattr(committed, "_MANY", 1_000)
    monkeypatch.setattr(committed, "_NEARLY", 0.9)
    draw, words = np.random.default_rng(1), [f"w{n}" for n in range(60)]
    texts = [" ".join(draw.choice(words, 1 + n % 20)) for n in range(2_000)]
    documents = [LexicalDocument(n, n % 20, "private" if n % 40 == 0 else "public", t) for n, t in enumerate(texts)]
    documents[7] = doc(7, "w1 " * 5, 999)
    pair = [ScanIndexes().open(tmp_path / "s"), TantivyIndexes().open(tmp_path / "t")]
    for index in pair:
        index.put(documents)
        index.commit()
        if edited:
            index.put([doc(n, "w1 w2 w3", 1) for n in range(100, 130)])
            index.remove(range(200, 230))
    layers = pair[1]._layers
    assert layers.committed.ask(Visible.of(scope), layers.hidden).reach is committed.Reach.NEARLY
    exact, found = (index.search(["w1", "w2", "w3", "unknown"], 300, scope) for index in pair)
    assert len(exact.items) == len(found.items) == 300
    assert len(np.intersect1d(exact.items, found.items)) >= 285
    np.testing.assert_allclose(found.scores, exact.scores, rtol=0.1)
    np.testing.assert_allclose(found.term_weights, exact.term_weights, rtol=0.1)
    every = [index.search(["w1"], 2_000, scope).items for index in pair]
    assert sorted(every[0].tolist()) == sorted(every[1].tolist())


def test_text_is_not_stored_in_the_files(index, tmp_path: Path):
    index.put([doc(1, "Sleeping beauties everywhere")])
    index.commit()
    files = [path for path in (tmp_path / "i").rglob("*") if path.is_file()]
    assert not any(b"Sleeping" in path.read_bytes() for path in files)


def test_only_the_owner_reads_the_folder(index, tmp_path: Path):
    assert (tmp_path / "i").stat().st_mode & 0o777 == 0o700
    assert generation(tmp_path / "i").stat().st_mode & 0o777 == 0o700


def test_a_closed_index_says_so(index):
    index.put([doc(1, "cats")])
    index.close()
    for call in (
        lambda: found(index, "cats"),
        lambda: index.put([doc(1, "cats")]),
        lambda: index.remove([1]),
        index.commit,
        index.rewriting,
        lambda: index.missing([doc(1, "cats")]),
        lambda: index.holds_term("cat"),
    ):
        with pytest.raises(TierUnavailable):
            call()


def test_what_a_crash_left_is_swept_and_the_newest_complete_index_is_read(tmp_path: Path):
    folder = tmp_path / "i"
    index = TantivyIndexes().open(folder)
    index.put([doc(1, "old")])
    index.commit()
    old = generation(folder)
    half = generations.draft(folder)
    (half / "rubbish").write_text("cut off")
    index.close()
    index = TantivyIndexes().open(folder)
    assert (found(index, "old"), generation(folder)) == ([1], old)
    newer = folder / "index-00000007"
    newer.mkdir()
    for path in old.iterdir():
        (newer / path.name).write_bytes(path.read_bytes())
    assert found(TantivyIndexes().open(folder), "old") == [1]
    assert generation(folder) == newer


@pytest.mark.parametrize("how", ["delete", "empty", "cut", "first", "middle", "last"])
@pytest.mark.parametrize("ending", [".json", ".fast", ".fieldnorm", ".idx", ".store", ".term", ".del"])
def test_damaged_files_are_damage(index, tmp_path: Path, how, ending):
    index.put([doc(n, f"cats and dogs {n}") for n in range(40)])
    index.commit()
    index.remove([7])
    index.commit()
    index.close()
    path = next(p for p in generation(tmp_path / "i").iterdir() if p.name.endswith(ending) and p.name[0] != ".")
    content = bytearray(path.read_bytes())
    if how == "delete":
        path.unlink()
    elif how in ("empty", "cut"):
        path.write_bytes(content[: 0 if how == "empty" else len(content) // 2])
    else:
        content[{"first": 0, "middle": len(content) // 2, "last": -1}[how]] ^= 0x80
        path.write_bytes(content)
    with pytest.raises(IndexDamaged):
        TantivyIndexes().open(tmp_path / "i")


def test_an_index_of_another_schema_is_damage(tmp_path: Path):
    folder = tmp_path / "i" / "index-00000001"
    folder.mkdir(parents=True)
    schema = tantivy.SchemaBuilder().add_text_field("terms_0").build()
    tantivy.Index(schema, str(folder))
    with pytest.raises(IndexDamaged):
        TantivyIndexes().open(tmp_path / "i")
