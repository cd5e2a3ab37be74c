"""What was put since the last commit? A small inverted index in memory, searched beside the files.

A commit to disk takes 20-70 ms; a reader must find an acknowledged event at once. The tail also says which items
it has touched: whatever lies under it (an older tail, the files) holds outdated text for these.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from memory.domain.ids import ItemId
from memory.ports.indexes import LexicalDocument, LexicalScope


def session_number(session_key: int | None) -> int:
    """0 is a document without a session, so that every key, 0 too, is something else."""
    return 0 if session_key is None else session_key + 1


@dataclass(frozen=True, slots=True)
class Entry:
    """`counts`: how often the document has each term, `length` in all. `session`: its `session_number`."""

    session: int
    audience: str
    counts: Counter[str]
    length: int

    @classmethod
    def of(cls, document: LexicalDocument, terms: list[str]) -> "Entry":
        return cls(session_number(document.session_key), document.audience, Counter(terms), len(terms))


@dataclass(frozen=True, slots=True)
class Visible:
    """A scope as the index asks it: one set look-up a document."""

    sessions: frozenset[int] | None
    audiences: frozenset[str]

    @classmethod
    def of(cls, scope: LexicalScope) -> "Visible":
        keys = scope.session_keys
        sessions = None if keys is None else frozenset({0, *map(session_number, keys)})
        return cls(sessions, scope.audiences)

    def holds(self, session: int, audience: str) -> bool:
        return audience in self.audiences and (self.sessions is None or session in self.sessions)


class Posting(NamedTuple):
    item: ItemId
    frequency: int
    length: int


@dataclass(frozen=True, slots=True)
class Gathered:
    """What one tail has for a query, in scope: `documents` in all, and the postings of each term."""

    documents: int
    postings: dict[str, list[Posting]]


@dataclass(slots=True)
class Tail:
    """Not safe for threads: its owner holds a lock around every call."""

    entries: dict[ItemId, Entry] = field(default_factory=dict)
    touched: set[ItemId] = field(default_factory=set)
    terms: int = 0
    _postings: dict[str, dict[ItemId, int]] = field(default_factory=dict)
    _groups: Counter[tuple[int, str]] = field(default_factory=Counter)

    def put(self, item: ItemId, entry: Entry) -> None:
        self.remove(item)
        self.entries[item] = entry
        self.terms += entry.length
        self._groups[entry.session, entry.audience] += 1
        for term, frequency in entry.counts.items():
            self._postings.setdefault(term, {})[item] = frequency

    def remove(self, item: ItemId) -> None:
        self.touched.add(item)
        entry = self.entries.pop(item, None)
        if entry is None:
            return
        self.terms -= entry.length
        self._groups[entry.session, entry.audience] -= 1
        for term in entry.counts:
            of_term = self._postings[term]
            del of_term[item]
            if not of_term:
                del self._postings[term]

    def gather(self, terms: Iterable[str], scope: Visible, hidden: Collection[ItemId] = ()) -> Gathered:
        """The postings of these terms in scope, less the `hidden` items (a set: touched by a newer tail)."""
        documents = sum(count for group, count in self._groups.items() if scope.holds(*group))
        for item in hidden:
            entry = self.entries.get(item)
            documents -= entry is not None and scope.holds(entry.session, entry.audience)
        found = {term: self._of_term(term, scope, hidden) for term in terms}
        return Gathered(documents, {term: postings for term, postings in found.items() if postings})

    def _of_term(self, term: str, scope: Visible, hidden: Collection[ItemId]) -> list[Posting]:
        found: list[Posting] = []
        for item, frequency in self._postings.get(term, {}).items():
            entry = self.entries[item]
            if item not in hidden and scope.holds(entry.session, entry.audience):
                found.append(Posting(item, frequency, entry.length))
        return found
