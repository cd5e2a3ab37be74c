"""Both lexical indexes answer the same; ScanIndex is BM25 by the book."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory.adapters.lexical.scan import ScanIndexes
from memory.adapters.lexical.tantivy_index import TantivyIndexes
from memory.domain.errors import IndexDamaged
from memory.ports.indexes import LexicalDocument, LexicalIndex, LexicalIndexes, LexicalScope

PUBLIC = frozenset({"public"})
EVERYTHING = LexicalScope(None, frozenset({"public", "ann", "bob"}))
WORDS = "apple bread cheese dates eggs figs grapes honey".split()


@pytest.fixture(params=[ScanIndexes, TantivyIndexes], ids=["scan", "tantivy"])
def indexes(request: pytest.FixtureRequest) -> LexicalIndexes:
    return request.param()


@pytest.fixture
def index(indexes: LexicalIndexes, tmp_path: Path) -> LexicalIndex:
    return indexes.open(tmp_path / "index")


def doc(item: int, text: str, session: int | None = 1, audience: str = "public") -> LexicalDocument:
    return LexicalDocument(item, session, audience, text)


def found(index: LexicalIndex, query: str, scope: LexicalScope = EVERYTHING, k: int = 10) -> list[int]:
    return index.search(index.analyze(query), k, scope).items.tolist()


def rewrite(index: LexicalIndex, documents: Sequence[LexicalDocument]) -> None:
    rewriting = index.rewriting()
    rewriting.add(documents)
    rewriting.finish()


def test_a_put_is_found_at_once_and_after_the_commit(index):
    index.put([doc(2, "The cats are sleeping"), doc(4, "A dog barks")])
    assert (found(index, "cat"), len(index), index.uncommitted) == ([2], 2, 2)
    index.commit()
    assert (found(index, "cat"), len(index), index.uncommitted) == ([2], 2, 0)


def test_a_put_replaces_the_text_of_the_same_item(index):
    for again in (False, True):
        index.put([doc(2, "cats"), doc(2, "dogs")])
        assert (found(index, "cats"), found(index, "dogs"), len(index)) == ([], [2], 1)
        if not again:
            index.commit()
    index.put([doc(2, "birds")])
    assert (found(index, "dogs"), found(index, "birds"), len(index)) == ([], [2], 1)
    index.commit()
    assert (found(index, "dogs"), found(index, "birds"), len(index)) == ([], [2], 1)


def test_a_removed_item_is_gone_at_once_and_after_the_commit(index):
    index.put([doc(2, "cats"), doc(4, "cats"), doc(6, "cats")])
    index.commit()
    index.put([doc(8, "cats")])
    index.remove([2, 8, 999])
    assert (found(index, "cats"), len(index)) == ([4, 6], 2)
    index.commit()
    assert (found(index, "cats"), len(index)) == ([4, 6], 2)


def test_a_removed_item_can_come_back(index):
    index.put([doc(2, "cats")])
    index.commit()
    index.remove([2])
    index.put([doc(2, "dogs")])
    assert (found(index, "cats"), found(index, "dogs"), len(index)) == ([], [2], 1)


def test_nothing_is_written_without_a_commit(indexes, tmp_path: Path):
    first = indexes.open(tmp_path / "i")
    first.put([doc(2, "cats")])
    first.commit()
    first.put([doc(4, "cats")])
    first.remove([2])
    first.close()
    second = indexes.open(tmp_path / "i")
    assert (found(second, "cats"), len(second), second.uncommitted) == ([2], 1, 0)


def test_removes_and_replacements_survive_a_restart(indexes, tmp_path: Path):
    first = indexes.open(tmp_path / "i")
    first.put([doc(item, "cats") for item in range(10)])
    first.commit()
    first.remove([1, 2])
    first.put([doc(3, "dogs")])
    first.commit()
    first.close()
    second = indexes.open(tmp_path / "i")
    assert found(second, "cats") == [0, 4, 5, 6, 7, 8, 9]
    assert (found(second, "dogs"), len(second)) == ([3], 8)


@pytest.mark.parametrize("committed", [True, False])
def test_a_scope_shows_its_sessions_its_audiences_and_what_has_no_session(index, committed):
    documents = [doc(1, "cats", None), doc(2, "cats", 0), doc(3, "cats", 1), doc(4, "cats", 2)]
    index.put([*documents, doc(5, "cats", 1, "ann"), doc(6, "cats", None, "bob")])
    if committed:
        index.commit()
    assert found(index, "cats") == [1, 2, 3, 4, 5, 6]
    assert found(index, "cats", LexicalScope(None, PUBLIC)) == [1, 2, 3, 4]
    assert found(index, "cats", LexicalScope((1,), PUBLIC)) == [1, 3]
    assert found(index, "cats", LexicalScope((0, 2), PUBLIC)) == [1, 2, 4]
    assert found(index, "cats", LexicalScope((), PUBLIC)) == [1]
    assert found(index, "cats", LexicalScope((1,), frozenset({"ann"}))) == [5]
    assert found(index, "cats", LexicalScope((1,), frozenset({"bob", "nobody"}))) == [6]
    assert found(index, "cats", LexicalScope(None, frozenset())) == []
    assert found(index, "cats", LexicalScope(tuple(range(1, 3_000)), PUBLIC)) == [1, 3, 4]


@pytest.mark.parametrize("committed", [True, False])
def test_the_search_widens_until_k_accepted_items_are_found(index, committed):
    index.put([doc(item, "cats " * (1 + item % 3)) for item in range(600)])
    if committed:
        index.commit()
    few = LexicalScope(None, PUBLIC, lambda items: items % 97 == 5)
    assert sorted(found(index, "cats", few)) == [5, 102, 199, 296, 393, 490, 587]
    assert len(found(index, "cats", few, k=3)) == 3
    assert found(index, "cats", LexicalScope(None, PUBLIC, lambda items: items < 0)) == []


def test_equal_scores_come_by_rising_item_wherever_they_are(index):
    index.put([doc(item, "cats") for item in range(99, 50, -1)])
    index.commit()
    index.put([doc(item, "cats") for item in range(50, -1, -1)])
    assert found(index, "cats", k=5) == [0, 1, 2, 3, 4]
    index.commit()
    assert found(index, "cats", k=5) == [0, 1, 2, 3, 4]


def test_words_in_no_document_and_no_words_find_nothing(index):
    assert found(index, "cats") == []
    index.put([doc(2, "cats")])
    index.commit()
    assert found(index, "unicorn") == []
    assert found(index, "and the of") == []
    assert found(index, "cats", k=0) == []
    assert index.search(['quo"te\\', "two words", ""], 5, EVERYTHING).items.tolist() == []


def test_a_document_without_words_is_kept_and_counted(index):
    index.put([doc(2, ""), doc(4, "the"), doc(6, "cats")])
    assert (len(index), found(index, "cats")) == (3, [6])
    index.commit()
    assert (len(index), found(index, "cats")) == (3, [6])


def test_a_rewrite_holds_exactly_what_it_was_given(indexes, tmp_path: Path):
    index = indexes.open(tmp_path / "i")
    index.put([doc(2, "secretword cats"), doc(4, "dogs")])
    index.commit()
    index.remove([2])
    index.commit()
    index.put([doc(6, "another"), doc(8, "gone too")])
    rewrite(index, [doc(4, "dogs"), doc(6, "another")])
    assert (len(index), index.uncommitted) == (2, 0)
    assert (found(index, "secretword gone"), found(index, "dogs another")) == ([], [4, 6])
    assert not index.holds_term("secretword")
    assert index.holds_term("dog")
    index.close()
    assert found(indexes.open(tmp_path / "i"), "dogs another secretword") == [4, 6]


def test_what_comes_while_an_index_is_rewritten_is_on_top(indexes, tmp_path: Path):
    index = indexes.open(tmp_path / "i")
    index.put([doc(1, "cats"), doc(2, "cats"), doc(3, "cats")])
    index.commit()
    rewriting = index.rewriting()
    rewriting.add([doc(1, "cats"), doc(2, "cats")])
    index.put([doc(2, "dogs"), doc(4, "cats")])
    index.remove([1])
    rewriting.add([doc(3, "cats")])
    assert found(index, "cats") == [3, 4]
    rewriting.finish()
    rewriting.cancel()
    assert (found(index, "cats"), found(index, "dogs"), len(index)) == ([3, 4], [2], 3)
    index.commit()
    index.close()
    assert found(indexes.open(tmp_path / "i"), "cats") == [3, 4]


def test_a_rewrite_that_is_cancelled_leaves_the_index_as_it_is(indexes, tmp_path: Path):
    index = indexes.open(tmp_path / "i")
    index.put([doc(1, "cats"), doc(2, "cats")])
    rewriting = index.rewriting()
    rewriting.add([doc(1, "dogs")])
    index.put([doc(3, "cats")])
    rewriting.cancel()
    assert (found(index, "cats"), found(index, "dogs")) == ([1, 2, 3], [])
    index.commit()
    rewrite(index, [doc(7, "cats")])
    index.close()
    assert found(indexes.open(tmp_path / "i"), "cats") == [7]


def test_the_items_of_a_session_are_those_that_are_there_now(index):
    index.put([doc(1, "cats"), doc(2, ""), doc(3, "cats", 0), doc(4, "cats", None), doc(5, "cats")])
    index.commit()
    index.remove([5])
    index.put([doc(6, "dogs"), doc(1, "cats", 7)])
    assert sorted(index.of_session(1)) == [2, 6]
    assert (index.of_session(0), index.of_session(7), index.of_session(9)) == ([3], [1], [])


def test_documents_that_are_not_there_as_they_should_be_are_missing(index):
    index.put([doc(1, "two cats"), doc(2, "cats"), doc(3, ""), doc(4, "cats")])
    index.commit()
    index.put([doc(5, "dogs"), doc(2, "three brown dogs")])
    index.remove([4])
    wanted = [doc(1, "two cats"), doc(2, "three brown dogs"), doc(3, ""), doc(5, "dogs")]
    assert index.missing(wanted) == []
    assert index.missing([*wanted, doc(4, "cats"), doc(6, "cats"), doc(7, "")]) == [4, 6, 7]
    assert index.missing([doc(1, "two black cats"), doc(2, "cats"), doc(5, "dogs and cats")]) == [1, 2, 5]


def test_holds_term_speaks_of_the_committed_files(index):
    index.put([doc(2, "cats")])
    assert not index.holds_term("cat")
    index.commit()
    assert index.holds_term("cat")
    assert not index.holds_term("ca")


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("I left my café keys", "CAFE key"),
        ("das Straßenfest in Köln", "strassenfest koln"),
        ("Кошки спят дома", "КОШКИ"),
        ("я видел достопримечательность", "достопримечательность"),
        ("cafe\u0301 decomposed", "café"),
        ("我昨天去了東京都看猫", "東京"),
        ("我昨天去了東京都看猫", "猫"),
        ("カタカナの本", "ｶﾀｶﾅ"),
        ("안녕하세요 세계", "안녕"),
        ("สวัสดีครับ", "สวัสดี"),
        ("Caroline's guitar", "caroline"),
        ("vitamin D and plan B", "d"),
        (
            "sha 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        ),
        ("the year ½ and ⒈", "1"),
    ],
)
def test_text_of_many_scripts_is_found_before_and_after_the_commit(index, text, query):
    index.put([doc(2, text), doc(4, "something else 他の話")])
    assert found(index, query) == [2]
    index.commit()
    index.put([doc(6, "nothing of it")])
    assert found(index, query, LexicalScope((1,), PUBLIC)) == [2]


def test_a_folder_with_other_files_is_damage(indexes, tmp_path: Path):
    (tmp_path / "i").mkdir()
    (tmp_path / "i" / "notes.txt").write_text("hello")
    with pytest.raises(IndexDamaged):
        indexes.open(tmp_path / "i")
    with pytest.raises(IndexDamaged):
        indexes.open(tmp_path / "i" / "notes.txt")
    assert (tmp_path / "i" / "notes.txt").read_text() == "hello"


texts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
documents = st.builds(
    LexicalDocument,
    item=st.integers(0, 25),
    session_key=st.sampled_from([None, 1, 2, 3]),
    audience=st.sampled_from(["public", "ann", "bob"]),
    text=texts,
)
steps = st.one_of(
    st.lists(documents, min_size=1, max_size=6).map(lambda batch: ("put", batch)),
    st.lists(st.integers(0, 25), max_size=4).map(lambda items: ("remove", items)),
    st.just(("commit", None)),
    st.lists(documents, max_size=6).map(lambda batch: ("rewrite", batch)),
)
scopes = st.builds(
    LexicalScope,
    session_keys=st.none() | st.lists(st.sampled_from([1, 2, 3, 4]), max_size=3).map(tuple),
    audiences=st.sets(st.sampled_from(["public", "ann", "bob"])).map(frozenset),
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    history=st.lists(steps, min_size=1, max_size=8), scope=scopes, query=st.lists(st.sampled_from(WORDS), min_size=1)
)
def test_any_history_leaves_the_same_documents_as_the_reference(tmp_path_factory, history, scope, query):
    folder = tmp_path_factory.mktemp("history")
    pair = [ScanIndexes().open(folder / "scan"), TantivyIndexes().open(folder / "tantivy")]
    for verb, argument in history:
        for index in pair:
            if verb == "rewrite":
                rewrite(index, list({document.item: document for document in argument}.values()))
            else:
                getattr(index, verb)(*[] if argument is None else [argument])
    expected, actual = (index.search(index.analyze(" ".join(query)), 99, scope) for index in pair)
    assert sorted(expected.items.tolist()) == sorted(actual.items.tolist())
    assert len(pair[0]) == len(pair[1])
    np.testing.assert_allclose(actual.term_weights, expected.term_weights, rtol=1e-6)
    rows = dict(zip(expected.items.tolist(), expected.matches.tolist(), strict=True))
    assert actual.matches.tolist() == [rows[item] for item in actual.items.tolist()]
    assert (np.diff(actual.scores) <= 0).all()


@pytest.mark.parametrize("committed", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("scope", [EVERYTHING, LexicalScope((3,), PUBLIC), LexicalScope(tuple(range(70)), PUBLIC)])
def test_scores_are_those_of_the_reference_in_every_scope(tmp_path: Path, committed, scope):
    draw = np.random.default_rng(4)
    words = [f"w{n}" for n in range(200)]
    made = [
        doc(n, " ".join(draw.choice(words, 1 + n % 40)), int(draw.integers(1, 150)), ["public", "ann"][n % 2])
        for n in range(3_000)
    ]
    scan, index = ScanIndexes().open(tmp_path / "s"), TantivyIndexes().open(tmp_path / "t")
    scan.put(made)
    index.put(made[: int(len(made) * committed)])
    index.commit()
    index.put(made[int(len(made) * committed) :])
    terms = ["w1", "w2", "w2", "w77", "w150", "unknown"]
    expected, actual = scan.search(terms, 3_000, scope), index.search(terms, 3_000, scope)
    by_item = dict(zip(expected.items.tolist(), expected.scores.tolist(), strict=True))
    assert set(by_item) == set(actual.items.tolist())
    assert by_item
    reference = [by_item[item] for item in actual.items.tolist()]
    np.testing.assert_allclose(actual.scores, reference, rtol=1e-4 if committed in (0, 1) else 0.01)


@pytest.mark.parametrize("committed", [True, False])
def test_hits_say_which_distinct_terms_they_contain(index, committed):
    words = [f"word{n}" for n in range(45)]
    index.put([doc(1, " ".join(words)), doc(2, "word44 word0 word0"), doc(3, "word20"), doc(4, "word1", audience="x")])
    if committed:
        index.commit()
    hits = index.search(["unknown", *words, "word0"], 10, EVERYTHING)
    matched = dict(zip(hits.items.tolist(), [np.flatnonzero(row).tolist() for row in hits.matches], strict=True))
    assert matched == {1: list(range(1, 46)), 2: [1, 45], 3: [21]}
    assert hits.matches.shape == (3, 46)
    never, once, twice = (np.log(1 + (3 - n + 0.5) / (n + 0.5)) for n in (0, 1, 2))
    np.testing.assert_allclose(hits.term_weights[[0, 1, 2, 45]], [never, twice, once, twice], rtol=1e-6)


def test_term_weights_are_given_and_not_negative_when_nothing_is_found(index):
    assert (index.search(["a1", "b1", "a1"], 3, EVERYTHING).term_weights > 0).tolist() == [True, True]
    index.put([doc(1, "cats")])
    hits = index.search(["cat", "b1"], 0, EVERYTHING)
    assert (hits.matches.shape, hits.term_weights.shape) == ((0, 2), (2,))
    assert index.search([], 3, EVERYTHING).matches.shape == (0, 0)


def test_document_frequencies_are_those_of_the_scope(index):
    """`rare` is rare in session 1 and in every document elsewhere: in session 1 it must weigh more than `common`."""
    index.put([doc(n, "rare filler", 2) for n in range(500)])
    index.commit()
    index.put([doc(1_000 + n, "common thing", 1) for n in range(20)])
    index.put([doc(2_000, "rare thing", 1)])
    assert found(index, "rare common", LexicalScope((1,), PUBLIC), k=1) == [2_000]
    index.commit()
    assert found(index, "rare common", LexicalScope((1,), PUBLIC), k=1) == [2_000]
