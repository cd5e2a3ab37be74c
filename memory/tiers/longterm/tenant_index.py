"""One tenant's long-term index in memory: catalogue, vectors and words, kept in step.

Synchronous: the tier calls it in threads, one writer alone (`apply`, `compact`), readers beside readers (`search`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory.domain.ids import ItemId, is_memory
from memory.domain.principals import SHARED
from memory.domain.recall import FieldTest, evaluate
from memory.domain.segments import SegmentVector
from memory.ports.feed import ItemFacts
from memory.ports.indexes import LexicalDocument, LexicalHits, LexicalIndex, LexicalScope, VectorIndex
from memory.tiers.base import Candidates, Conditions, Floats, Population, Question
from memory.tiers.longterm.catalogue import Catalogue, Mask, Rows
from memory.tiers.longterm.policy import widened
from memory.tiers.longterm.settings import LongTermSettings
from memory.tiers.longterm.view import View
from memory.tiers.scan import indexed_text

_MEASURED = 4_000
# Kept at once, 9 bytes an item each: that of the agents that ask first after a change.
_VIEWS = 4
# Of a question: a page of text as a question must not make a search of a thousand terms.
_MOST_TERMS = 64

Leaves = Mapping[str, dict[ItemId, Any]]
"""For fields that the catalogue does not hold (`metadata.…`): the value of each item that has one."""


@dataclass(slots=True)
class Batch:
    """What a follower read for some changes: items to put, vectors by item, items that are gone."""

    facts: list[ItemFacts] = field(default_factory=list)
    vectors: list[SegmentVector] = field(default_factory=list)
    gone: list[ItemId] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known of an answer before the question's vector. `version`: of the index that was looked at."""

    question: Question
    leaves: Leaves
    version: int
    view: View
    terms: tuple[str, ...]
    hits: LexicalHits


class TenantIndex:
    def __init__(
        self, catalogue: Catalogue, vectors: VectorIndex, lexical: LexicalIndex, settings: LongTermSettings
    ) -> None:
        self.catalogue = catalogue
        self.vectors = vectors
        self.lexical = lexical
        self.unsaved = 0
        self.edits = 0
        self._settings = settings
        self._owners = _owners(catalogue, len(vectors))
        self.pending = self._without_vectors()
        """Items that have no vector yet."""
        self._views: dict[frozenset[str], View] = {}
        self._version = 0

    def apply(self, batch: Batch) -> None:
        """Mutates. Applying a batch twice leaves the same index."""
        self._changes()
        for item in batch.gone:
            self._disown(self.catalogue.row(item))
            self.catalogue.remove(item)
        if batch.gone:
            self.lexical.remove(batch.gone)
        for facts in batch.facts:
            row = self.catalogue.put(facts, self._terms(facts.text))
            if is_memory(facts.item):  # an edited text must not be found by its old vectors
                self._disown(row)
                self.catalogue.set_vectors(row, 0, 0)
                self.edits += 1
        self.lexical.put([document(facts) for facts in batch.facts])
        self._add_vectors(batch.vectors)
        self.pending = self._without_vectors()
        self.unsaved += len(batch.facts) + len(batch.vectors) + len(batch.gone)

    def has_vectors(self, item: ItemId) -> bool:
        row = self.catalogue.row(item)
        return row is not None and bool(self.catalogue.column("vectors")[row])

    def place_of(self, item: ItemId) -> tuple[int, int]:
        """The session_key and seq of a known event."""
        row = self.catalogue.row(item)
        assert row is not None
        return int(self.catalogue.column("session")[row]), int(self.catalogue.column("seq")[row])

    def without_vectors(self, question: Question, limit: int) -> list[ItemId]:
        """Those of the `limit` newest visible items that have no vector yet.

        Not the newest without one: in an ingest every question would embed a few more of thousands, and wait for it.
        """
        if not limit or not self.pending:
            return []
        rows = self.catalogue.in_scope(question.scope)
        rows = rows[-limit:]
        rows = rows[self.catalogue.column("vectors")[rows] == 0]
        return [int(item) for item in self.catalogue.column("item")[rows]]

    def prepare(self, question: Question, leaves: Leaves) -> Prepared:
        """The part of a search that needs no vector: what may be chosen from, and its best by words."""
        view = self._view(question, leaves)
        terms = tuple(dict.fromkeys(self.lexical.analyze(question.text)))[:_MOST_TERMS]
        limit = len(view.rows) if self._everything(view) else self._settings.candidates
        hits = self.lexical.search(terms, limit, self._lexical_scope(question, view.rows))
        return Prepared(question, leaves, self._version, view, terms, hits)

    def search(self, prepared: Prepared, query: Floats | None) -> Candidates:
        """`query`: the question's vector. What was prepared is prepared again when the index has changed since."""
        if prepared.version != self._version:
            prepared = self.prepare(prepared.question, prepared.leaves)
        view = prepared.view
        chosen = view.rows if self._everything(view) else self._best(prepared, query)
        return self._candidates(prepared, query, chosen)

    def _everything(self, view: View) -> bool:
        return len(view.rows) <= self._settings.scan_limit

    def _changes(self) -> None:
        self._views = {}
        self._version += 1

    def _view(self, question: Question, leaves: Leaves) -> View:
        conditions, scope = question.conditions, question.scope
        plain = conditions == Conditions(now=conditions.now)
        known = self._views.get(scope.audiences) if plain and scope.session_keys is None else None
        if known is not None and known.since <= conditions.now < known.until:
            return known
        rows = self.catalogue.in_scope(scope)
        if not plain:
            matching = rows[self._matching(rows, conditions, leaves)]
            return View(self.catalogue, self.vectors, matching, conditions.now, conditions.now)
        view = View.plain(self.catalogue, self.vectors, rows, conditions.now)
        if scope.session_keys is None and len(self._views) < _VIEWS:
            self._views[scope.audiences] = view
        return view

    def compact(self) -> None:
        """Mutates: removed items and replaced vectors leave memory, and with the next save the disk."""
        self._changes()
        arrays = self.catalogue.dump()
        has = np.flatnonzero(arrays["vectors"])
        counts = arrays["vectors"][has].astype(np.int64)
        kept = _ranges(arrays["first_vector"][has], counts)
        arrays["first_vector"][has] = np.cumsum(counts) - counts
        self.vectors.keep(kept)
        self.catalogue = Catalogue.restore(arrays)
        self._owners = _owners(self.catalogue, len(self.vectors))

    @property
    def wasted(self) -> int:
        """Rows of removed items and replaced vectors."""
        dead_items = len(self.catalogue) - self.catalogue.live
        return dead_items + int((self._owners[: len(self.vectors)] < 0).sum())

    def _without_vectors(self) -> int:
        return int((self.catalogue.column("alive") & (self.catalogue.column("vectors") == 0)).sum())

    def _disown(self, row: int | None) -> None:
        """The item's vectors are no one's from now on: no search finds them, `compact` removes them."""
        if row is not None:
            first = int(self.catalogue.column("first_vector")[row])
            self._owners[first : first + int(self.catalogue.column("vectors")[row])] = -1

    def _add_vectors(self, found: Sequence[SegmentVector]) -> None:
        by_item: dict[ItemId, dict[int, SegmentVector]] = {}
        for vector in found:  # two changes of one batch may name the same segment
            by_item.setdefault(vector.item, {})[vector.ordinal] = vector
        rows = {item: self.catalogue.row(item) for item in by_item}
        counts = self.catalogue.column("vectors")
        # An item that has its vectors already got them from a recall that could not wait: the same, embedded earlier.
        known = [(r, by_item[item]) for item, r in rows.items() if r is not None and counts[r] != len(by_item[item])]
        if not known:
            return
        first = len(self.vectors)
        raw = b"".join(segment.vector for _, segments in known for segment in segments.values())
        self.vectors.add(np.frombuffer(raw, "<f2").reshape(-1, self.vectors.dimensions).astype(np.float32))
        if len(self.vectors) > len(self._owners):
            room = max(len(self.vectors), 2 * len(self._owners))
            self._owners = np.concatenate([self._owners, np.full(room - len(self._owners), -1, np.int64)])
        for row, segments in known:
            self._disown(row)
            self._owners[first : first + len(segments)] = row
            self.catalogue.set_vectors(row, first, len(segments))
            first += len(segments)

    def _matching(self, rows: Rows, conditions: Conditions, leaves: Leaves) -> Mask:
        moment = conditions.now if conditions.as_of is None else conditions.as_of
        matching = self.catalogue.valid_at(rows, moment)
        if conditions.as_of is not None:
            matching &= self.catalogue.column("created_at")[rows] <= conditions.as_of
            items = self.catalogue.column("item")[rows]
            matching |= np.isin(items, list(conditions.shown))
            matching &= ~np.isin(items, list(conditions.hidden))
        if conditions.outside is not None:
            shared = self.catalogue.column("audience")[rows] == self.catalogue.audiences.codes.get(SHARED, -1)
            matching &= ~(shared & (self.catalogue.column("seq")[rows] >= conditions.outside))
        if conditions.kinds is not None:
            kinds = self.catalogue.kinds.known(conditions.kinds)
            matching &= np.isin(self.catalogue.column("kind")[rows], kinds)
        if conditions.filter is not None:
            matching &= evaluate(conditions.filter, lambda test: self._passes(test, rows, leaves))
        return np.asarray(matching)

    def _passes(self, test: FieldTest, rows: Rows, leaves: Leaves) -> Mask:
        if test.field in leaves:
            values = leaves[test.field]
            items = self.catalogue.column("item")[rows].tolist()
            return np.array([test.holds(values.get(item)) for item in items], np.bool_)
        if test.field == "created_at":
            return np.array(
                [test.holds(value) for value in self.catalogue.column("created_at")[rows].tolist()], np.bool_
            )
        names, column = {
            "role": (self.catalogue.roles, "role"),
            "agent_id": (self.catalogue.agents, "agent"),
            "kind": (self.catalogue.kinds, "kind"),
        }[test.field]
        passing = np.array([test.holds(name) for name in names.names] + [test.holds(None)], np.bool_)
        return np.asarray(passing[self.catalogue.column(column)[rows]])  # -1, no name, reads the last place

    def _lexical_scope(self, question: Question, rows: Rows) -> LexicalScope:
        scope = question.scope
        conditions = question.conditions
        plain = conditions == Conditions(now=conditions.now)
        memories_end = bool(np.isfinite(self.catalogue.column("valid_to")).any()) if plain else True
        accept: Callable[[NDArray[np.int64]], Mask] | None = None
        if not plain or memories_end or scope.inherited:
            matching = np.zeros(len(self.catalogue), np.bool_)
            matching[rows] = True

            def accept(items: NDArray[np.int64]) -> Mask:
                found = self.catalogue.rows(items.tolist())
                return np.asarray((found >= 0) & matching[np.maximum(found, 0)])

        return LexicalScope(scope.logs, scope.audiences, accept)

    def _best(self, prepared: Prepared, query: Floats | None) -> Rows:
        """The best by vector, the best by words, the events beside them; the newest fill up to what is wanted."""
        allowed, rows, wanted = prepared.view.allowed, prepared.view.rows, prepared.question.wanted
        by_words = self.catalogue.rows(prepared.hits.items.tolist())
        by_words = by_words[allowed[by_words]]
        best = np.union1d(by_words, self._nearest(query, wanted, allowed))
        beside = self.catalogue.neighbours(best).ravel()
        chosen = np.union1d(best, beside[allowed[beside]])
        if len(chosen) < wanted:
            chosen = np.union1d(chosen, rows[-(wanted * 2) :])
        return chosen

    def _nearest(self, query: Floats | None, wanted: int, allowed: Mask) -> Rows:
        """Distinct items with the nearest vectors; `allowed` has a last place, False, for rows of no item."""
        if query is None or not len(self.vectors):
            return np.empty(0, np.int64)
        total = len(self.vectors)
        mask = allowed[self._owners[:total]]
        limit, wanted = self._settings.candidates, max(self._settings.candidates // 2, wanted)
        while True:
            found = self.vectors.search(query, limit, mask)
            owners = np.unique(self._owners[found.rows])
            if len(owners) >= wanted or len(found.rows) < limit or limit >= total:
                return owners
            limit = widened(limit, total)

    def _candidates(self, prepared: Prepared, query: Floats | None, chosen: Rows) -> Candidates:
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

    def _terms(self, text: str) -> int:
        """The length of a text in terms; that of a long one is estimated from its beginning."""
        return round(len(self.lexical.analyze(text[:_MEASURED])) * max(1.0, len(text) / _MEASURED))

    def _dense(self, query: Floats | None, rows: Rows) -> Floats:
        """The cosine of each item's best segment; nan without a vector."""
        best = np.full(len(rows), np.nan, np.float32)
        counts = self.catalogue.column("vectors")[rows].astype(np.int64)
        has = np.flatnonzero(counts)
        if query is None or not len(has):
            return best
        counts = counts[has]
        scores = self.vectors.scores(query, _ranges(self.catalogue.column("first_vector")[rows[has]], counts))
        best[has] = np.maximum.reduceat(scores, np.cumsum(counts) - counts)
        return best

    def _population(self, query: Floats | None, view: View, chosen: Rows, dense: Floats) -> Population:
        cosines = dense if len(chosen) == len(view.rows) else view.cosines(query)
        return Population.of(cosines, len(view.rows), view.length)


def document(facts: ItemFacts) -> LexicalDocument:
    text = indexed_text(facts.agent_id, facts.text)
    return LexicalDocument(facts.item, facts.session_key, facts.audience, text)


def _owners(catalogue: Catalogue, total: int) -> Rows:
    """int64 [total]: the catalogue row of each vector row, -1: of none."""
    owners = np.full(total, -1, np.int64)
    has = np.flatnonzero(catalogue.column("vectors"))
    counts = catalogue.column("vectors")[has].astype(np.int64)
    owners[_ranges(catalogue.column("first_vector")[has], counts)] = np.repeat(has, counts)
    return owners


def _ranges(first: Rows, counts: Rows) -> Rows:
    """first[0], first[0] + 1, … (counts[0] of them), first[1], …"""
    offsets = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(first, counts) + offsets


def _places(ascending: Rows, rows: Rows) -> NDArray[np.int32]:
    """Where each of `rows` stands in `ascending`, -1 where it does not."""
    if not len(ascending):
        return np.full(rows.shape, -1, np.int32)
    places = np.minimum(np.searchsorted(ascending, rows), len(ascending) - 1)
    return np.where(ascending[places] == rows, places, -1).astype(np.int32)
