"""Which items of one tenant may answer? The best by vector, the best by words, and those beside them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory.domain.ids import ItemId
from memory.ports.indexes import LexicalHits, LexicalIndex, LexicalScope, VectorIndex
from memory.tiers.base import Candidates, Floats, Population, Question
from memory.tiers.longterm.catalogue import Catalogue, Mask, Rows
from memory.tiers.longterm.fields import Kept
from memory.tiers.longterm.owners import Owners, ranges
from memory.tiers.longterm.policy import widened
from memory.tiers.longterm.settings import LongTermSettings
from memory.tiers.longterm.view import View

# Of a question: a page of text as a question must not make a search of a thousand terms.
_MOST_TERMS = 64


@dataclass(frozen=True, slots=True)
class Given:
    """What the database says of the fields that a filter asks for and the catalogue does not hold.

    values: by field, of each item that has one. kept: fields of which the index keeps the values. sessions: names by
    session_key; None: not asked for.
    """

    values: Mapping[str, Mapping[ItemId, Any]] = field(default_factory=dict)
    kept: Mapping[str, Kept] = field(default_factory=dict)
    sessions: Mapping[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known of an answer before the question's vector. `version`: of the index that was looked at."""

    question: Question
    given: Given
    version: int
    view: View
    terms: tuple[str, ...]
    hits: LexicalHits


@dataclass(frozen=True, slots=True)
class Search:
    """An index as it is until its writer comes."""

    catalogue: Catalogue
    vectors: VectorIndex
    lexical: LexicalIndex
    owners: Owners
    settings: LongTermSettings

    def prepared(self, question: Question, given: Given, version: int, view: View) -> Prepared:
        terms = tuple(dict.fromkeys(self.lexical.analyze(question.text)))[:_MOST_TERMS]
        limit = view.count if self._everything(view) else self.settings.candidates
        hits = self.lexical.search(terms, limit, self._lexical_scope(question, view))
        return Prepared(question, given, version, view, terms, hits)

    def candidates(self, prepared: Prepared, query: Floats | None) -> Candidates:
        view = prepared.view
        return self._facts(prepared, query, view.rows if self._everything(view) else self._best(prepared, query))

    def _everything(self, view: View) -> bool:
        return view.count <= self.settings.scan_limit

    def _lexical_scope(self, question: Question, view: View) -> LexicalScope:
        scope = question.scope
        accept: Callable[[NDArray[np.int64]], Mask] | None = None
        if not view.lasting or scope.inherited:

            def accept(items: NDArray[np.int64]) -> Mask:
                found = self.catalogue.rows(items.tolist())
                return np.asarray((found >= 0) & view.allowed[np.maximum(found, 0)])

        return LexicalScope(scope.logs, scope.audiences, accept)

    def _best(self, prepared: Prepared, query: Floats | None) -> Rows:
        """The best by vector, the best by words, the events beside them; the newest fill up to what is wanted."""
        view, wanted = prepared.view, prepared.question.wanted
        by_words = self.catalogue.rows(prepared.hits.items.tolist())
        best = np.union1d(_among(by_words, view), self._nearest(query, wanted, view))
        chosen = np.union1d(best, _among(self.catalogue.neighbours(best).ravel(), view))
        if len(chosen) < wanted:
            chosen = np.union1d(chosen, view.newest(wanted * 2))
        return chosen

    def _nearest(self, query: Floats | None, wanted: int, view: View) -> Rows:
        """Distinct items with the nearest vectors."""
        total = len(self.vectors)
        if query is None or not total:
            return np.empty(0, np.int64)
        owners = self.owners.of(total)
        mask = view.of_vectors(owners)
        limit, wanted = self.settings.candidates, max(self.settings.candidates // 2, wanted)
        while True:
            found = self.vectors.search(query, limit, mask)
            items = np.unique(owners[found.rows]).astype(np.int64)
            if len(items) >= wanted or len(found.rows) < limit or limit >= total:
                return items
            limit = widened(limit, total)

    def _facts(self, prepared: Prepared, query: Floats | None, chosen: Rows) -> Candidates:
        facts, terms, hits = self.catalogue, prepared.terms, prepared.hits
        dense = self._dense(query, chosen)
        lexical = np.zeros(len(chosen), np.float32)
        coverage = np.zeros((len(chosen), len(terms)), np.bool_)
        places = _places(chosen, facts.rows(hits.items.tolist()))
        lexical[places[places >= 0]] = hits.scores[places >= 0]
        coverage[places[places >= 0]] = hits.matches[places >= 0]
        speaker, named_terms = self._named(facts.column("agent")[chosen], terms)
        return Candidates(
            items=facts.column("item")[chosen],
            sessions=facts.column("session")[chosen],
            seqs=facts.column("seq")[chosen],
            created_at=facts.column("created_at")[chosen],
            asks=facts.column("asks")[chosen],
            tells_time=facts.column("tells_time")[chosen],
            speaker=speaker,
            episodes=facts.column("episode")[chosen],
            neighbours=_places(chosen, facts.neighbours(chosen)),
            dense=dense,
            lexical=lexical,
            coverage=coverage,
            terms=terms,
            term_weights=hits.term_weights,
            named_terms=named_terms,
            population=self._population(query, prepared.view, chosen, dense),
        )

    def _named(self, agents: NDArray[np.int32], terms: tuple[str, ...]) -> tuple[Mask, Mask]:
        """Whose author the question names, and which of its terms are names."""
        named = np.zeros(len(self.catalogue.agents.names) + 1, np.bool_)  # the last place: no author
        names: set[str] = set()
        for code in np.unique(agents[agents >= 0]).tolist():
            of_agent = set(self.lexical.analyze(self.catalogue.agents.names[code]))
            named[code] = not of_agent.isdisjoint(terms)
            names |= of_agent
        return named[agents], np.array([term in names for term in terms], np.bool_)

    def _dense(self, query: Floats | None, rows: Rows) -> Floats:
        """The cosine of each item's best segment; nan without a vector."""
        best = np.full(len(rows), np.nan, np.float32)
        counts = self.catalogue.column("vectors")[rows].astype(np.int64)
        has = np.flatnonzero(counts)
        if query is None or not len(has):
            return best
        counts = counts[has]
        scores = self.vectors.scores(query, ranges(self.catalogue.column("first_vector")[rows[has]], counts))
        best[has] = np.maximum.reduceat(scores, np.cumsum(counts) - counts)
        return best

    def _population(self, query: Floats | None, view: View, chosen: Rows, dense: Floats) -> Population:
        cosines = dense if len(chosen) == view.count else view.cosines(query)
        return Population.of(cosines, view.count, view.length)


def _among(rows: Rows, view: View) -> Rows:
    """Those that the view allows; -1 is no row."""
    return rows[(rows >= 0) & view.allowed[np.maximum(rows, 0)]]


def _places(ascending: Rows, rows: Rows) -> NDArray[np.int32]:
    """Where each of `rows` stands in `ascending`, -1 where it does not."""
    if not len(ascending):
        return np.full(rows.shape, -1, np.int32)
    places = np.minimum(np.searchsorted(ascending, rows), len(ascending) - 1)
    return np.where(ascending[places] == rows, places, -1).astype(np.int32)
