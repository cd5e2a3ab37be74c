from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.recall.fusion import fuse
from memory.recall.planner import read_question
from memory.tiers.base import Candidates, Population

WEIGHTS = np.array([4.0, 3.0], np.float32)


def found(n, **given_arrays):
    """n events of one session in one sitting, with nothing in common with the question."""
    places = np.arange(n)[:, None] + np.array([-2, -1, 0, 1, 2])
    dense = given_arrays.get("dense", np.full(n, 0.1, np.float32))
    arrays = {
        "items": np.arange(n) * 2,
        "sessions": np.ones(n, np.int64),
        "seqs": np.arange(1, n + 1),
        "created_at": np.full(n, datetime(2023, 5, 8, tzinfo=UTC).timestamp()),
        "asks": np.zeros(n, bool),
        "tells_time": np.zeros(n, bool),
        "speaker": np.zeros(n, bool),
        "episodes": np.zeros(n, np.int32),
        "neighbours": np.where((places >= 0) & (places < n), places, -1).astype(np.int32),
        "dense": dense,
        "lexical": np.zeros(n, np.float32),
        "coverage": np.zeros((n, 2), bool),
        "terms": ("puppi", "park"),
        "term_weights": WEIGHTS,
        "named_terms": np.zeros(2, bool),
        "population": Population.of(dense, n, 8.0),
    }
    return Candidates(**(arrays | given_arrays))


def order(candidates, question="a puppy in the park"):
    return np.argsort(-fuse(read_question(question), candidates).score, kind="stable").tolist()


def covered(n, at):
    coverage = np.zeros((n, 2), bool)
    coverage[at] = True
    lexical = np.where(np.isin(np.arange(n), at), 10.0, 0.0).astype(np.float32)
    return {"coverage": coverage, "lexical": lexical}


def test_without_common_words_the_vectors_decide_alone():
    candidates = found(4, dense=np.array([0.1, 0.7, 0.2, 0.3], np.float32), speaker=np.array([1, 0, 0, 0], bool))
    assert order(candidates)[0] == 1


def test_of_two_that_match_alike_the_later_one_comes_first():
    moments = np.array([0.0, 40.0, 20.0, 0.0]) * 86_400
    alone = np.full((4, 5), -1, np.int32)
    dense = np.array([0.1, 0.6, 0.6, 0.6], np.float32)
    candidates = found(4, created_at=moments, dense=dense, neighbours=alone, **covered(4, [1, 2, 3]))
    assert order(candidates) == [1, 2, 3, 0]
    signal = fuse(read_question("a puppy in the park"), candidates).signals["recency"]
    assert signal[1] > signal[2] > signal[3] > 0


def test_who_is_later_does_not_pass_for_a_better_match():
    moments = np.array([0.0, 4_000.0]) * 86_400
    assert order(found(2, created_at=moments, dense=np.array([0.6, 0.4], np.float32)))[0] == 0


def test_an_event_with_all_the_words_comes_first():
    assert order(found(6, **covered(6, [4])))[0] == 4


def test_what_was_said_beside_the_only_event_with_the_word_does_not_come_before_it():
    dense = np.array([0.1, 0.1, 0.1, 0.5, 0.05, 0.5, 0.1, 0.1, 0.1], np.float32)
    one_word = {"terms": ("funabubudotapuk",), "term_weights": np.array([8.0], np.float32)}
    coverage = np.zeros((9, 1), bool)
    coverage[4] = True
    lexical = np.where(np.arange(9) == 4, 6.0, 0.0).astype(np.float32)
    candidates = found(9, dense=dense, coverage=coverage, lexical=lexical, named_terms=np.zeros(1, bool), **one_word)
    assert order(candidates, "funabubudotapuk")[0] == 4


@pytest.mark.parametrize("embedded", [[], [3], [3, 5], [0, 1, 2, 3, 5, 6, 7, 8]])
def test_an_event_that_has_no_vector_yet_is_found_by_its_words_before_those_beside_it(embedded):
    """Right after a bulk append nearly nothing is embedded."""
    dense = np.full(9, np.nan, np.float32)
    dense[embedded] = np.linspace(0.2, 0.5, len(embedded), dtype=np.float32)
    assert order(found(9, dense=dense, **covered(9, [4])))[0] == 4


def test_the_neighbours_of_a_match_come_before_strangers():
    ranking = order(found(9, **covered(9, [4])))
    assert set(ranking[:5]) == {2, 3, 4, 5, 6}


def test_neighbours_count_for_nothing_among_documents():
    documents = found(9, population=Population(0.1, 0.0, 9, 200.0), **covered(9, [4]))
    assert len(set(fuse(read_question("x"), documents).score[[0, 2, 3, 5, 8]].tolist())) == 1


def test_neighbours_of_another_sitting_count_for_nothing():
    episodes = np.array([0, 0, 0, 1, 1, 1], np.int32)
    scores = fuse(read_question("x"), found(6, episodes=episodes, **covered(6, [3]))).score
    assert scores[4] > scores[2] == scores[0]


def test_an_answer_comes_before_its_question():
    candidates = found(6, asks=np.array([0, 0, 1, 0, 0, 0], bool), **covered(6, [2, 3]))
    assert order(candidates)[0] == 3


def test_the_author_whom_the_question_names_comes_first():
    candidates = found(
        4, speaker=np.array([0, 0, 1, 0], bool), named_terms=np.array([True, False]), **covered(4, [1, 2])
    )
    assert order(candidates)[0] == 2


def test_what_was_said_in_the_month_that_the_question_names_comes_first():
    may, june = datetime(2023, 5, 8, tzinfo=UTC).timestamp(), datetime(2023, 6, 8, tzinfo=UTC).timestamp()
    candidates = found(4, created_at=np.array([may, june, may, may]), **covered(4, [0, 1]))
    assert order(candidates, "the puppy in June")[0] == 1


def test_an_event_without_a_vector_is_still_found_by_its_words():
    dense = np.array([0.1, 0.2, np.nan, 0.1], np.float32)
    assert order(found(4, dense=dense, **covered(4, [2])))[0] == 2


def test_nothing_in_scope_gives_nothing():
    assert len(fuse(read_question("x"), found(0)).score) == 0


def test_a_question_without_terms_is_no_error():
    empty = found(3, terms=(), term_weights=np.zeros(0, np.float32), coverage=np.zeros((3, 0), bool),
                  named_terms=np.zeros(0, bool))  # fmt: skip
    assert np.isfinite(fuse(read_question("who?"), empty).score).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_scores_are_finite_and_between_nothing_and_one(n, seed):
    rng = np.random.default_rng(seed)
    candidates = found(
        n,
        dense=np.where(rng.random(n) < 0.2, np.nan, rng.normal(0.2, 0.2, n)).astype(np.float32),
        lexical=(rng.random(n) * 15).astype(np.float32),
        coverage=rng.random((n, 2)) < 0.5,
        asks=rng.random(n) < 0.3,
        tells_time=rng.random(n) < 0.3,
        speaker=rng.random(n) < 0.5,
        episodes=rng.integers(-1, 3, n).astype(np.int32),
    )
    fused = fuse(read_question("When did the puppy come in May 2023?"), candidates)
    assert np.isfinite(fused.score).all()
    assert ((fused.score >= 0) & (fused.score <= 1)).all()
    assert all(len(values) == n for values in fused.signals.values())


@pytest.mark.parametrize("copies", [2, 50])
def test_a_score_means_the_same_in_a_larger_scope(copies):
    """Candidates are judged by the population they come from, not by each other."""
    dense = np.array([0.1, 0.5, 0.2], np.float32)
    population = Population(0.15, 0.1, 3 * copies, 8.0)
    few = fuse(read_question("x"), found(3, dense=dense, population=population))
    alone = fuse(read_question("x"), found(1, dense=dense[1:2], population=population))
    assert few.score[1] == pytest.approx(alone.score[0], abs=1e-6)
