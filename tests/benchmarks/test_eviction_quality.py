"""Does the replay do to its tier what the service does, and does the table say what was found?"""

import numpy as np
import pytest

from benchmarks.eviction_quality import SHARES, summary, targets
from benchmarks.replay import Ask, Question, Stream, _segment, asked, kept
from memory.domain.moves import PolicyName


def stream(events: int, per_event: int = 1) -> Stream:
    """Every event unlike every other; its segments are the same."""
    seqs = np.repeat(np.arange(1, events + 1), per_event)
    segments = tuple(_segment(at, int(seq), 400) for at, seq in enumerate(seqs))
    return Stream(segments, seqs, np.eye(events, 256, dtype=np.float32)[seqs - 1], events)


def about(event: int, first: int, second: int) -> Ask:
    return Ask(np.eye(1, 256, event - 1, dtype=np.float32)[0], frozenset({event}), first, second)


def test_fifo_holds_the_newest() -> None:
    asks = [about(1, 1, 10), about(1, 1, 11), about(95, 95, 100), about(90, 90, 100)]
    assert kept(stream(100), asks, 10, PolicyName.FIFO).tolist() == [1, 0, 1, 0]


def test_what_was_read_stays_with_ours_and_with_lfu() -> None:
    asks = [about(1, 2, 60)]
    found = {name: kept(stream(60), asks, 20, name)[0] for name in PolicyName}
    assert (found[PolicyName.FIFO], found[PolicyName.LRU]) == (0, 0)
    assert found[PolicyName.LFU] == 1


def test_of_an_event_as_much_is_there_as_of_its_segments() -> None:
    asks = [Ask(np.eye(1, 256, dtype=np.float32)[0], frozenset({8, 9}), 10, 10)]
    found = {most: kept(stream(10, per_event=3), asks, most, PolicyName.FIFO)[0] for most in (3, 4, 6, 7, 9)}
    assert found == pytest.approx({3: 0, 4: 1 / 6, 6: 1 / 2, 7: 2 / 3, 9: 1})


def test_a_tier_that_holds_everything_loses_nothing() -> None:
    asks = [about(seq, seq, 30) for seq in range(1, 31)]
    for name in PolicyName:
        assert kept(stream(30), asks, 30, name).all()


def test_both_moments_lie_after_the_evidence_and_come_again_with_the_seed() -> None:
    questions = [Question(np.zeros(256, np.float32), frozenset({seq, 3})) for seq in range(1, 40)]
    asks = asked(stream(40), questions, "a")
    assert all(max(ask.gold) <= ask.first <= ask.second <= 40 for ask in asks)
    again = asked(stream(40), questions, "a")
    assert [(a.first, a.second) for a in again] == [(a.first, a.second) for a in asks]
    assert [(a.first, a.second) for a in asked(stream(40), questions, "b")] != [(a.first, a.second) for a in asks]


def test_the_summary_compares_question_by_question() -> None:
    level = {p: 0.5 if p is PolicyName.LRU_SIMILARITY else 0.25 for p in PolicyName}
    found = summary({p: {share: np.full(8, level[p]) for share in SHARES} for p in PolicyName})
    assert found["questions"] == 8
    assert found["kept"]["lru_similarity"]["mean"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert found["more_than"]["lru"]["0.1"]["mean"] == pytest.approx(0.25)
    assert "lru_similarity" not in found["more_than"]
    assert targets({"a": found})["a"]["met"] is True
