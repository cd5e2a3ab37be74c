"""One tenant's long-term index in memory: catalogue, vectors and words, kept in step.

Synchronous: the tier calls it in threads, one writer alone (`apply`, `blank`, the end of a compaction), readers beside
readers (`prepare`, `search`).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memory.domain.errors import TierUnavailable
from memory.domain.ids import ItemId, is_memory
from memory.domain.principals import Scope
from memory.domain.segments import SegmentVector
from memory.ports.feed import ItemFacts
from memory.ports.indexes import IndexWork, LexicalDocument, LexicalIndex, VectorIndex
from memory.tiers.base import Candidates, Floats, Question
from memory.tiers.longterm.catalogue import Catalogue
from memory.tiers.longterm.conditions import Leaves, is_plain, matching
from memory.tiers.longterm.fields import Fields, Leaf
from memory.tiers.longterm.owners import Owners
from memory.tiers.longterm.policy import should_compact
from memory.tiers.longterm.search import Given, Prepared, Search
from memory.tiers.longterm.settings import LongTermSettings
from memory.tiers.longterm.view import View
from memory.tiers.scan import indexed_text

_MEASURED = 4_000
# Kept at once, 2 bytes an item each: that of the agents that ask first after a change.
_VIEWS = 4

_versions = itertools.count(1)
"""No two indexes have one in common: what was prepared with one that was exchanged meanwhile is not used."""


@dataclass(slots=True)
class Batch:
    """What a follower read for some changes: items to put, vectors by item, items that are gone."""

    facts: list[ItemFacts] = field(default_factory=list)
    vectors: list[SegmentVector] = field(default_factory=list)
    gone: list[ItemId] = field(default_factory=list)


class TenantIndex:
    def __init__(
        self, catalogue: Catalogue, vectors: VectorIndex, lexical: LexicalIndex, settings: LongTermSettings
    ) -> None:
        self.catalogue = catalogue
        self.vectors = vectors
        self.lexical = lexical
        self.unsaved = 0
        self.edits = 0
        self.owners = Owners(catalogue, len(vectors))
        self.pending = int((catalogue.column("alive") & (catalogue.column("vectors") == 0)).sum())
        """Items that have no vector yet."""
        self.fields = Fields()
        self._settings = settings
        self._views: dict[frozenset[str], View] = {}
        self._version = next(_versions)

    def apply(self, batch: Batch, *, words: bool = True) -> None:
        """Mutates. Applying a batch twice leaves the same index. `words`: False where they are written elsewhere."""
        self._version = next(_versions)
        known = len(self.catalogue)
        lasting = not batch.gone and all(self._is_new(facts) for facts in batch.facts)
        if not lasting:
            self._views = {}
        for item in batch.gone:
            self._remove(item)
        for facts in batch.facts:
            self._put(facts)
        if words:
            self.lexical.remove(batch.gone)
            self.lexical.put([document(facts) for facts in batch.facts])
        for audiences, view in self._views.items():
            view.grow(self.catalogue.shown(audiences, slice(known, None)))
        self._add_vectors(batch.vectors)
        self.unsaved += len(batch.facts) + len(batch.vectors) + len(batch.gone)

    def items_of_session(self, session_key: int) -> list[ItemId]:
        """The words are asked as well: when a process ended between two saves, they may be ahead of the catalogue."""
        return sorted({*self.catalogue.items_of_session(session_key), *self.lexical.of_session(session_key)})

    def all_items(self) -> list[ItemId]:
        alive = self.catalogue.column("alive")
        return [int(item) for item in self.catalogue.column("item")[alive]]

    def without_vectors(self, question: Question, limit: int) -> list[ItemId]:
        """Those of the `limit` newest visible items that have no vector yet.

        Not the newest without one: in an ingest every question would embed a few more of thousands, and wait for it.
        """
        if not limit or not self.pending:
            return []
        scope = question.scope
        if scope.session_keys is None:
            rows = self._whole(scope, question.conditions.now).newest(limit)
        else:
            rows = self.catalogue.in_scope(scope)[-limit:]
        rows = rows[self.catalogue.column("vectors")[rows] == 0]
        return [int(item) for item in self.catalogue.column("item")[rows]]

    def prepare(self, question: Question, given: Given) -> Prepared:
        """The part of a search that needs no vector: what may be chosen from, and its best by words."""
        return self._search.prepared(question, given, self._version, self._view(question, given))

    def search(self, prepared: Prepared, query: Floats | None) -> Candidates:
        """`query`: the question's vector. What was prepared is prepared again when the index has changed since."""
        if prepared.version != self._version:
            prepared = self.prepare(prepared.question, prepared.given)
        return self._search.candidates(prepared, query)

    def blank(self) -> None:
        """Mutates: vectors of what was removed or replaced leave memory, and with the next save the disk."""
        if len(self.owners.unblanked):
            self.vectors.blank(self.owners.unblanked)
            self.owners.blanked()

    def upkeep(self) -> IndexWork | None:
        """What keeps the index fast and small at its size; called as a reader."""
        if should_compact(len(self.vectors), self.owners.nobodys):
            return _Compaction(self)
        return self.vectors.upkeep()

    def compacted(self, kept: NDArray[np.int64], before: int) -> None:
        """Mutates, as the end of a compaction: of the `before` rows of vectors only these are left.

        Removed items leave the catalogue as well.
        """
        self._version = next(_versions)
        self._views = {}
        arrays = self.catalogue.dump()
        has = np.flatnonzero(arrays["vectors"])
        first = arrays["first_vector"][has]
        arrays["first_vector"][has] = np.where(
            first < before, np.searchsorted(kept, first), first.astype(np.int64) - before + len(kept)
        )
        self.catalogue = Catalogue.restore(arrays)
        self.fields.clear()
        self.owners = Owners(self.catalogue, len(self.vectors))
        self.unsaved += 1

    @property
    def _search(self) -> Search:
        return Search(self.catalogue, self.vectors, self.lexical, self.owners, self._settings)

    def _is_new(self, facts: ItemFacts) -> bool:
        """And stays valid: all that is in a view of what is there remains so."""
        timed = facts.valid_to < np.inf or facts.valid_from > -np.inf
        return not timed and self.catalogue.row(facts.item) is None

    def _view(self, question: Question, given: Given) -> View:
        conditions, scope = question.conditions, question.scope
        whole = scope.session_keys is None
        if whole and is_plain(conditions):
            return self._whole(scope, conditions.now)
        leaves = self._leaves(scope, given)
        if whole:
            rows: slice | NDArray[np.int64] = slice(None)
            allowed = self.catalogue.shown(scope.audiences)
            allowed &= matching(self.catalogue, rows, conditions, leaves)
        else:
            rows = self.catalogue.in_scope(scope)
            allowed = np.zeros(len(self.catalogue), np.bool_)
            allowed[rows[matching(self.catalogue, rows, conditions, leaves)]] = True
        lasting = is_plain(conditions) and not self.catalogue.timed
        return View(self.catalogue, self.vectors, allowed, conditions.now, conditions.now, lasting)

    def _leaves(self, scope: Scope, given: Given) -> Leaves:
        leaves = {name: Leaf.of(self.catalogue, values) for name, values in given.values.items()}
        for name, kept in given.kept.items():
            if kept.catalogue is not self.catalogue:
                raise TierUnavailable("the long-term index took another form meanwhile: ask again")
            leaves[name] = kept.leaf()
        if given.sessions is not None:
            leaves["session_id"] = Leaf.of_sessions(self.catalogue, scope, given.sessions)
        return leaves

    def _whole(self, scope: Scope, now: float) -> View:
        """Everything of the tenant that the scope shows and that is valid."""
        known = self._views.get(scope.audiences)
        if known is not None and known.since <= now < known.until:
            return known
        view = View.plain(self.catalogue, self.vectors, self.catalogue.shown(scope.audiences), now)
        if known is not None or len(self._views) < _VIEWS:
            self._views[scope.audiences] = view
        return view

    def _remove(self, item: ItemId) -> None:
        row = self.catalogue.row(item)
        if row is not None:
            self._disown(row)
            self.catalogue.remove(item)

    def _put(self, facts: ItemFacts) -> None:
        fresh = self.catalogue.row(facts.item) is None
        if not fresh:
            self.fields.edited(facts.item)
        row = self.catalogue.put(facts, self._terms(facts.text))
        if not fresh and is_memory(facts.item):  # an edited text must not be found by its old vectors
            self._disown(row)
            self.catalogue.set_vectors(row, 0, 0)
            self.edits += 1
            self.pending += 1
        self.pending += fresh

    def _disown(self, row: int) -> None:
        """The item's vectors are no one's from now on: no search finds them."""
        count = int(self.catalogue.column("vectors")[row])
        if count:
            self.owners.disown(int(self.catalogue.column("first_vector")[row]), count)
        else:
            self.pending -= 1

    def _add_vectors(self, found: Sequence[SegmentVector]) -> None:
        by_item: dict[ItemId, dict[int, bytes]] = {}
        for vector in found:  # two changes of one batch may name the same segment
            by_item.setdefault(vector.item, {})[vector.ordinal] = vector.vector
        rows = {item: self.catalogue.row(item) for item in by_item}
        counts = self.catalogue.column("vectors")
        # An item that has its vectors already got them from a recall that could not wait: the same, embedded earlier.
        known = [(r, by_item[item]) for item, r in rows.items() if r is not None and counts[r] != len(by_item[item])]
        if not known:
            return
        first = len(self.vectors)
        raw = b"".join(segments[ordinal] for _, segments in known for ordinal in sorted(segments))
        self.vectors.add(np.frombuffer(raw, "<f2").reshape(-1, self.vectors.dimensions).astype(np.float32))
        for row, segments in known:
            if counts[row]:  # fewer than it has by now
                self._views = {}
            self._disown(row)
            self.owners.own(first, len(segments), row)
            self.catalogue.set_vectors(row, first, len(segments))
            first += len(segments)

    def _terms(self, text: str) -> int:
        """The length of a text in terms; that of a long one is estimated from its beginning."""
        return round(len(self.lexical.analyze(text[:_MEASURED])) * max(1.0, len(text) / _MEASURED))


class _Compaction:
    """Vectors of what was removed or replaced give back their room."""

    name = "compact"
    costly = True

    def __init__(self, index: TenantIndex) -> None:
        self._index = index
        self._kept = index.owners.owned()
        self._before = len(index.vectors)
        self._vectors = index.vectors.keeping(self._kept)

    def prepare(self) -> None:
        self._vectors.prepare()

    def finish(self) -> bool:
        done = self._vectors.finish()
        if done:
            self._index.compacted(self._kept, self._before)
        return done


def document(facts: ItemFacts) -> LexicalDocument:
    text = indexed_text(facts.agent_id, facts.text)
    return LexicalDocument(facts.item, facts.session_key, facts.audience, text)
