"""What do the files of a tantivy index answer? One immutable view between two commits, safe beside itself.

tantivy scores with the document frequencies of the whole index. Here each term is boosted by idf(scope) over
idf(index), so a document gets what it would get if there were nothing but the scope.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

import numpy as np
import tantivy
from numpy.typing import NDArray
from tantivy import Occur, Query

from memory.adapters.lexical.analysis import ANALYSIS
from memory.adapters.lexical.bm25 import single_idf
from memory.adapters.lexical.generations import documents_counted, verify
from memory.adapters.lexical.tail import Entry, Visible
from memory.domain.errors import IndexDamaged
from memory.domain.ids import ItemId
from memory.ports.indexes import Items

# Up to here a union of postings, which a search walks lazily: 0.1 ms for one session of 2,000. A term set reads
# all its postings first (0.9 ms there), which is 2-7 times cheaper from some hundred sessions on.
_UNION = 64

# A count a term costs what the scope holds, one aggregation what the index holds: even at 1 % (10 terms, 100K).
_SMALL_SCOPE = 1 / 100

# A scope clause makes tantivy score every document that has one of the words, instead of skipping those that can't
# be among the best: 32 ms instead of 7 for a million. So where all but a hundredth of so many documents are in scope
# (some are private, or were edited since the last commit) all are asked, counted, and the others dropped.
_MANY = 10_000
_NEARLY = 0.99
_MORE = 32

# Scopes whose size is remembered: one an agent.
_SCOPES = 1_024

# A score is a float32: powers of two up to here add up exactly.
_BITS = 20

# "whitespace" is built in: a filter of an aggregation doesn't know the tokenizers that are registered on an index.
SCHEMA = (
    tantivy.SchemaBuilder()
    .add_unsigned_field("item", indexed=True, fast=True)
    .add_unsigned_field("session", indexed=True)
    .add_unsigned_field("length", fast=True)
    .add_text_field("audience", tokenizer_name="raw", index_option="basic")
    .add_text_field(ANALYSIS, tokenizer_name="whitespace", index_option="freq")
    .build()
)


def document(item: ItemId, entry: Entry) -> tantivy.Document:
    """Holds the terms themselves, as often as they stand: nothing is analysed twice, no text is kept."""
    made = tantivy.Document()
    made.add_unsigned("item", item)
    made.add_unsigned("session", entry.session)
    made.add_unsigned("length", entry.length)
    made.add_text("audience", entry.audience)
    made.add_text(ANALYSIS, " ".join(entry.counts.elements()))
    return made


def item_query(items: Collection[ItemId]) -> Query:
    """For deletions: tantivy's `delete_documents_by_term` takes a number for a signed one and deletes nothing."""
    return _any("item", items)


def create(generation: Path) -> tantivy.Index:
    return _prepared(tantivy.Index(SCHEMA, str(generation), reuse=False))


def open_checked(generation: Path) -> tantivy.Index:
    """Raises IndexDamaged: files missing, cut off or changed, another schema or analysis."""
    verify(generation)
    try:
        index = _prepared(tantivy.Index.open(str(generation)))
        index.searcher()
    except (ValueError, OSError) as error:
        raise IndexDamaged("tantivy can't open the index", path=str(generation)) from error
    except BaseException as error:
        # a Rust panic is no Exception, so that nobody swallows it by mistake: here it means the files
        if type(error).__name__ != "PanicException":
            raise
        raise IndexDamaged("tantivy panicked over the index", path=str(generation)) from error
    if index.schema != SCHEMA:
        raise IndexDamaged("another schema", path=str(generation))
    return index


def _prepared(index: tantivy.Index) -> tantivy.Index:
    index.config_reader("manual")
    index.reload()
    return index


class Reach(Enum):
    """How much of the files is in a scope: ALL, NEARLY all of many documents, or a PART."""

    ALL = auto()
    NEARLY = auto()
    PART = auto()


@dataclass(frozen=True, slots=True)
class Asked:
    """A scope as a query over the files, and how many documents are in it. few: of few sessions."""

    query: Query
    documents: int
    reach: Reach
    few: bool


class Committed:
    def __init__(self, index: tantivy.Index, generation: Path) -> None:
        self._searcher = index.searcher()
        self._counted = documents_counted(generation)
        self._known_scopes: dict[frozenset[str], int] = {}
        mean = self._searcher.aggregate(Query.all_query(), {"length": {"avg": {"field": "length"}}})
        self.average = float(mean["length"]["value"] or 0.0)
        """Terms a document. tantivy's own average still counts what was deleted and not merged away yet."""

    def __len__(self) -> int:
        return self._searcher.num_docs

    def holding(self, items: Collection[ItemId]) -> frozenset[ItemId]:
        """Which of these items have a document here."""
        if not items or not len(self):
            return frozenset()
        hits = self._searcher.search(item_query(items), len(items), count=False).hits
        return frozenset(self._items([address for _, address in hits]).tolist())

    def of_session(self, number: int) -> list[ItemId]:
        if not len(self):
            return []
        hits = self._searcher.search(_any("session", [number]), len(self), count=False).hits
        return self._items([address for _, address in hits]).tolist()  # type: ignore[no-any-return]

    def lengths(self, items: Collection[ItemId]) -> dict[ItemId, int]:
        """Of those that are there: their number of terms."""
        if not items or not len(self):
            return {}
        hits = self._searcher.search(item_query(items), len(items), count=False).hits
        addresses = [address for _, address in hits]
        lengths = np.array(self._searcher.fast_field_values("length", addresses), np.int64)
        return dict(zip(self._items(addresses).tolist(), lengths.tolist(), strict=True))

    def holds_term(self, term: str) -> bool:
        return self._searcher.doc_freq(ANALYSIS, term) > 0

    def ask(self, scope: Visible, hidden: frozenset[ItemId]) -> Asked:
        """`hidden`: items that a tail has touched."""
        clauses = [(Occur.Must, _any("audience", scope.audiences))]
        if scope.sessions is not None:
            clauses.append((Occur.Must, _any("session", scope.sessions)))
        shown = Query.const_score_query(Query.boolean_query(clauses), 0.0)
        documents = self._documents(scope, shown)
        few = scope.sessions is not None and len(scope.sessions) <= _UNION
        if not hidden:
            return Asked(shown, documents, self._reach(documents), few)
        clauses.append((Occur.MustNot, _any("item", hidden)))
        query = Query.const_score_query(Query.boolean_query(clauses), 0.0)
        left = documents - len(hidden)
        if self._reach(left) is Reach.NEARLY:
            return Asked(query, left, Reach.NEARLY, few)
        return Asked(query, self._count(query), Reach.PART, few)

    def _reach(self, documents: int) -> Reach:
        if documents == self._counted:
            return Reach.ALL
        many = self._counted >= _MANY and documents >= _NEARLY * self._counted
        return Reach.NEARLY if many else Reach.PART

    def _documents(self, scope: Visible, query: Query) -> int:
        """These files never change: a whole tenant's scope is counted once (0.8 ms at 100,000 documents)."""
        if scope.sessions is not None:
            return self._count(query)
        known = self._known_scopes.get(scope.audiences)
        if known is None:
            if len(self._known_scopes) >= _SCOPES:
                self._known_scopes.clear()
            known = self._known_scopes[scope.audiences] = self._count(query)
        return known

    def frequencies(self, terms: Iterable[str], asked: Asked) -> Counter[str]:
        """In how many documents of the scope each term stands."""
        known = {term: total for term in terms if (total := self._searcher.doc_freq(ANALYSIS, term))}
        if not known or not asked.documents:
            return Counter()
        if asked.reach is not Reach.PART:
            return Counter({term: min(total, asked.documents) for term, total in known.items()})
        if asked.few and asked.documents <= self._counted * _SMALL_SCOPE:
            return Counter({term: self._count(_both(asked.query, _term(term))) for term in known})
        return self._aggregated(list(known), asked)

    def _aggregated(self, terms: list[str], asked: Asked) -> Counter[str]:
        filters = {str(n): {"filter": f"{ANALYSIS}:{json.dumps(t, ensure_ascii=False)}"} for n, t in enumerate(terms)}
        found: dict[str, Any] = self._searcher.aggregate(asked.query, filters)
        return Counter({term: int(found[str(n)]["doc_count"]) for n, term in enumerate(terms)})

    def best(self, weights: Mapping[str, float], asked: Asked, limit: int) -> tuple[Items, NDArray[np.float32]]:
        """At most `limit` items and their scores, best first. `weights`: how much each term counts in the scope."""
        clauses = [(Occur.Should, boosted) for t, w in weights.items() if (boosted := self._boosted(t, w))]
        if not clauses or not asked.documents:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        words = Query.boolean_query(clauses)
        if asked.reach is Reach.NEARLY:
            return self._filtered(words, asked.query, limit)
        query = words if asked.reach is Reach.ALL else _both(asked.query, words)
        return self._hits(query, min(limit, asked.documents))

    def _filtered(self, words: Query, scope: Query, limit: int) -> tuple[Items, NDArray[np.float32]]:
        """What is out of scope is dropped afterwards, and more is asked for until there are enough."""
        wanted = limit + limit // 4 + _MORE
        while True:
            items, scores = self._hits(words, min(wanted, len(self)))
            inside = self._inside(items, scope)
            if np.count_nonzero(inside) >= limit or len(items) < wanted:
                return items[inside][:limit], scores[inside][:limit]
            wanted *= 4

    def _hits(self, query: Query, limit: int) -> tuple[Items, NDArray[np.float32]]:
        hits = self._searcher.search(query, limit, count=False).hits
        scores = np.array([score for score, _ in hits], np.float32)
        return self._items([address for _, address in hits]), scores

    def _inside(self, items: Items, scope: Query) -> NDArray[np.bool_]:
        if not len(items):
            return np.zeros(0, np.bool_)
        shown, _ = self._hits(_both(scope, item_query(items.tolist())), len(items))
        return np.isin(items, shown)

    def matches(self, items: Sequence[ItemId], terms: Sequence[str]) -> NDArray[np.bool_]:
        """bool [items, terms]: which of these items have which term. Each term scores a power of two."""
        found = np.zeros((len(items), len(terms)), np.bool_)
        places = {item: place for place, item in enumerate(items)}
        wanted = Query.const_score_query(item_query(items), 0.0)
        for start in range(0, len(terms) if items else 0, _BITS):
            part = [
                (Occur.Should, Query.const_score_query(_term(term), float(1 << bit)))
                for bit, term in enumerate(terms[start : start + _BITS])
            ]
            query = Query.boolean_query([(Occur.Must, wanted), *part])
            hits = self._searcher.search(query, len(items), count=False).hits
            bits = np.array([score for score, _ in hits]).astype(np.int64)
            rows = [places[item] for item in self._items([address for _, address in hits]).tolist()]
            found[rows, start : start + len(part)] = (bits[:, None] >> np.arange(len(part))) & 1
        return found

    def _boosted(self, term: str, weight: float) -> Query | None:
        total = self._searcher.doc_freq(ANALYSIS, term)
        own = single_idf(self._counted, total) if total else 0.0
        return Query.boost_query(_term(term), weight / own) if own else None

    def _items(self, addresses: list[tantivy.DocAddress]) -> Items:
        return np.array(self._searcher.fast_field_values("item", addresses), np.int64)

    def _count(self, query: Query) -> int:
        return int(self._searcher.search(query, 1, count=True).count)  # type: ignore[attr-defined]  # not in the stub


def _term(term: str) -> Query:
    return Query.term_query(SCHEMA, ANALYSIS, term, index_option="freq")


def _both(scope: Query, words: Query) -> Query:
    return Query.boolean_query([(Occur.Must, scope), (Occur.Must, words)])


def _any(name: str, values: Collection[Any]) -> Query:
    if len(values) > _UNION:
        return Query.term_set_query(SCHEMA, name, list(values))
    ones = [(Occur.Should, Query.term_query(SCHEMA, name, value, index_option="basic")) for value in values]
    return Query.boolean_query(ones)
