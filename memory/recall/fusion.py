"""How do the signals of a candidate become one score?

score = z + recency + g · (words + whole + date + speaker + episode + c · context)

z: cosine in standard deviations of the scope. words: BM25 ÷ the most this question could reach, so a weak match stays
weak (z-scoring it would blow noise up). g: does the store hold the question's words at all? If not, the question is
associative and the vectors decide alone. c: are the events short turns, which only make sense with their neighbours,
or documents, which don't?

The weights were fitted on LoCoMo with one conversation left out at a time; in brackets what its recall@10 (.855) loses
without a term. `benchmarks/results/recall_quality.json` has every set; decision 18 has the whole table.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from memory.recall.planner import QuestionFacts, is_date_term
from memory.tiers.base import NEIGHBOURS, Candidates

Floats = NDArray[np.float32]

GATE = (0.25, 0.35)
"""Share of the question's weight in one event, from which words count at all / fully (LoCoMo-Plus: .137 → .070)."""
DIALOGUE = (20.0, 30.0)
"""Mean terms of an event up to which context counts fully / from which not at all (PrefEval explicit: .85 → .61)."""
WORDS = 2.0
WORDS_IN_TURNS = 6.0
"""More in dialogues: a short turn holds few of the question's words (.003)."""
WHOLE = 8.0
"""The event has every word of the question itself: who asks for one rare word wants it, not what was said beside it."""
WINDOW = 8.0
"""Weight share that the event and its two neighbours on each side cover together (.043)."""
EPISODE = 12.0
"""The best match of words in the same sitting: the sitting is about it (.006)."""
SMOOTHING = {-2: 0.10, -1: 0.20, 1: 0.14, 2: 0.08}
"""The neighbours' z (.004)."""
ANSWER = 0.7
"""More of the event before where it asks: an answer inherits its question's words (.004)."""
QUESTION = -1.5
"""An event that asks tells no fact (.007)."""
SPEAKER = 2.0
"""The question names the author (.016)."""
DATE = 8.0
ONLY_YEAR = 0.3
"""It was said in the month and year that the question names (.024); a year alone says less."""
WHEN = 4.0
"""The question asks for a time and the event has a word of time (.005)."""
RECENCY = 0.15
"""Of two that match alike the later one counts: what is said anew is how it is now."""
HALF_LIFE = 30 * 86_400.0
"""Seconds before the newest candidate, not before now: an old conversation has a latest word, too."""
BM25_CEILING = 2.2
"""k1 + 1: what BM25 gives at most for each unit of a term's weight."""
MIDDLE, SPREAD = 8.0, 4.0
"""Map the sum to 0–1; they change no order."""


@dataclass(frozen=True, slots=True)
class Fused:
    """score: float32 [n] in 0–1; the other arrays [n] are what it is made of, by name, for `explain`."""

    score: Floats
    signals: dict[str, Floats]


def fuse(question: QuestionFacts, found: Candidates) -> Fused:
    z = _standardised(found)
    ideal = max(float(found.term_weights.sum()), 1e-9)
    words = found.lexical / (ideal * BM25_CEILING)
    dated = _dated(question, found)
    gate = _ramp(_coverage(question, found, bool(dated.any())), *GATE)
    dialogue = 1 - _ramp(found.population.length, *DIALOGUE)
    links = _same_episode(found)
    parts = {
        "words": (WORDS + WORDS_IN_TURNS * dialogue) * words,
        "whole": WHOLE * (found.coverage @ found.term_weights >= 0.999 * ideal),
        "episode": EPISODE * _best_of_episode(words, found.episodes),
        "speaker": SPEAKER * found.speaker,
        "date": DATE * dated + WHEN * question.wants_time * found.tells_time,
        "context": dialogue * _context(z, found, links, ideal),
    }
    recency = _recency(found.created_at)
    total = z + recency + gate * np.sum(list(parts.values()), axis=0)
    score = 1 / (1 + np.exp(-(total - MIDDLE) / SPREAD))
    signals = {name: (gate * part).astype(np.float32) for name, part in parts.items()}
    return Fused(
        score.astype(np.float32), {"dense": found.dense, "lexical": found.lexical, "recency": recency} | signals
    )


def _standardised(found: Candidates) -> Floats:
    """0, the mean, for what has no vector."""
    population = found.population
    z = (found.dense - population.mean) / (population.deviation + 1e-6)
    return np.asarray(np.nan_to_num(z, nan=0.0), np.float32)


def _recency(created_at: NDArray[np.float64]) -> Floats:
    if not len(created_at):
        return np.zeros(0, np.float32)
    return np.asarray(RECENCY * 0.5 ** ((created_at.max() - created_at) / HALF_LIFE), np.float32)


def _coverage(question: QuestionFacts, found: Candidates, any_dated: bool) -> float:
    """The best share of the question's weight in one event.

    What is known of events beside their words answers too: names of authors, and dates that some event has, weigh as
    much as the rarest word and count as covered.
    """
    if not len(found.terms) or not len(found):
        return 0.0
    rarest = float(np.log1p(2 * found.population.size))
    dates = np.array([any_dated and is_date_term(term) for term in found.terms], np.bool_)
    weights = np.where(found.named_terms | dates, rarest, found.term_weights)
    covered = found.coverage | found.named_terms | dates
    return float((covered @ weights).max() / max(float(weights.sum()), 1e-9))


def _dated(question: QuestionFacts, found: Candidates) -> Floats:
    if not question.months and not question.years:
        return np.zeros(len(found), np.float32)
    moments = [datetime.fromtimestamp(moment, UTC) for moment in found.created_at.tolist()]
    fits = np.ones(len(found), np.float32)
    if question.months:
        fits *= np.array([moment.month in question.months for moment in moments])
    if question.years:
        fits *= np.array([moment.year in question.years for moment in moments])
    return fits if question.months else fits * np.float32(ONLY_YEAR)


def _same_episode(found: Candidates) -> NDArray[np.int32]:
    """int32 [n, 5]: the neighbours, without those of another sitting."""
    places = found.neighbours
    if not len(places):
        return places
    return np.where((places >= 0) & (found.episodes[places] == found.episodes[:, None]), places, -1)


def _best_of_episode(words: Floats, episodes: NDArray[np.int32]) -> Floats:
    """0 where there is only one episode: it would say nothing."""
    present = np.unique(episodes[episodes >= 0])
    if len(present) < 2:
        return np.zeros(len(words), np.float32)
    best = np.zeros(len(present) + 1, np.float32)  # the last place: no episode
    place = np.where(episodes >= 0, np.searchsorted(present, episodes), len(present))
    np.maximum.at(best, place, words)
    best[-1] = 0
    return best[place]


def _context(z: Floats, found: Candidates, links: NDArray[np.int32], ideal: float) -> Floats:
    total = QUESTION * found.asks.astype(np.float32)
    near = found.coverage
    for column, offset in enumerate(NEIGHBOURS):
        if offset == 0:
            continue
        place, there = links[:, column], links[:, column] >= 0
        total = total + SMOOTHING[offset] * z[place] * there
        if offset == -1:
            total = total + ANSWER * z[place] * (there & found.asks[place])
        near = near | (found.coverage[place] & there[:, None])
    return np.asarray(total + WINDOW * (near @ found.term_weights) / ideal, np.float32)


def _ramp(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))
