"""How do the tails and the files become one ranking? One question, over one consistent view of all layers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory.adapters.lexical.bm25 import idf, saturation, stored_length
from memory.adapters.lexical.committed import Committed
from memory.adapters.lexical.tail import Gathered, Visible
from memory.domain.ids import ItemId
from memory.ports.indexes import Accept, Items, LexicalHits

_WIDEN = 4
_TIES = 32
"""Asked for beyond `k`, so that equal scores at the border seldom cost a second search."""

Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Found:
    """What the layers hold for a question, taken under the lock and free of it from then on.

    hidden: the committed items that a tail has touched. average: terms a document.
    """

    committed: Committed
    hidden: frozenset[ItemId]
    tails: tuple[Gathered, ...]
    average: float


class Search:
    def __init__(self, found: Found, scope: Visible, terms: Sequence[str]) -> None:
        self._found = found
        self._asked = found.committed.ask(scope, found.hidden)
        wanted = Counter(terms)
        frequencies = found.committed.frequencies(wanted, self._asked)
        for tail in found.tails:
            frequencies.update({term: len(postings) for term, postings in tail.postings.items()})
        documents = self._asked.documents + sum(tail.documents for tail in found.tails)
        self._idfs = {term: scope_idf(documents, frequencies[term]) for term in wanted}
        self._weights = {term: times * self._idfs[term] for term, times in wanted.items() if frequencies[term]}

    def hits(self, k: int, accept: Accept | None) -> LexicalHits:
        items, scores = self._ranked(k, accept) if k > 0 else _first(*_none(), 0)
        return LexicalHits(items, scores, self._matches(items), np.array([*self._idfs.values()], np.float32))

    def _ranked(self, k: int, accept: Accept | None) -> tuple[Items, Scores]:
        """Asks the files for more until `k` are accepted and no equal score is left outside, or none is left."""
        recent, recent_scores = self._recent()
        limit = k + _TIES if accept is None else _WIDEN * k
        while True:
            items, scores = self._found.committed.best(self._weights, self._asked, limit)
            exhausted = limit >= self._asked.documents or len(items) < limit
            scores = _agreed(scores)
            merged, merged_scores = np.concatenate([recent, items]), np.concatenate([recent_scores, scores])
            if accept is not None and len(merged):
                accepted = accept(merged)
                merged, merged_scores = merged[accepted], merged_scores[accepted]
            first, first_scores = _first(merged, merged_scores, k)
            if exhausted or (len(first) == k and first_scores[-1] > scores[-1]):
                return first, first_scores
            limit *= _WIDEN

    def _recent(self) -> tuple[Items, Scores]:
        """All of the tails, with tantivy's rounded lengths: a commit then changes no score."""
        scores: dict[ItemId, float] = {}
        for tail in self._found.tails:
            for term, postings in tail.postings.items():
                weight = self._weights[term]
                for item, frequency, length in postings:
                    part = saturation(frequency, stored_length(length), self._found.average)
                    scores[item] = scores.get(item, 0.0) + weight * part
        return np.fromiter(scores.keys(), np.int64), _agreed(np.fromiter(scores.values(), np.float32))

    def _matches(self, items: Items) -> NDArray[np.bool_]:
        """bool [m, terms]: which item has which distinct term."""
        terms, places = list(self._idfs), {item: place for place, item in enumerate(items.tolist())}
        matches = np.zeros((len(items), len(terms)), np.bool_)
        recent: set[ItemId] = set()
        for tail in self._found.tails:
            for term, postings in tail.postings.items():
                inside = [posting.item for posting in postings if posting.item in places]
                matches[[places[item] for item in inside], terms.index(term)] = True
                recent.update(inside)
        older = [item for item in places if item not in recent]
        matches[[places[item] for item in older]] = self._found.committed.matches(older, terms)
        return matches


def scope_idf(documents: int, frequency: int) -> float:
    """A term that no document has weighs most; never negative, in an empty scope either."""
    return idf(max(documents, 1), frequency)


def _agreed(scores: Scores) -> Scores:
    """Rounded to 14 bits (0.003 %): tantivy adds in float32, a tail in float64, and equal texts must score equal."""
    bits = np.ascontiguousarray(scores).view(np.int32)
    return ((bits + (1 << 8)) & ~0x1FF).view(np.float32)


def _first(items: Items, scores: Scores, k: int) -> tuple[Items, Scores]:
    """The first `k` by falling score; equal scores by rising item, so that answers don't depend on the layers."""
    order = np.lexsort((items, -scores))[:k]
    return items[order], scores[order]


def _none() -> tuple[Items, Scores]:
    return np.zeros(0, np.int64), np.zeros(0, np.float32)
