"""What is the right answer? BM25 by the book, over every document: the baseline of the tests.

Exact lengths, document frequencies of the scope, the average length of the whole index. Linear in the documents.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memory.adapters.files import replaced
from memory.adapters.lexical.analysis import Analyzer
from memory.adapters.lexical.bm25 import K1, B, idf, saturation
from memory.adapters.lexical.tail import Entry, Visible, session_number
from memory.domain.errors import IndexDamaged
from memory.domain.ids import ItemId
from memory.ports.indexes import LexicalDocument, LexicalHits, LexicalScope

_FILE = "documents.json"


class ScanIndex:
    """Not for threads. `commit` writes all documents as one JSON file of their term counts.

    Without a folder it lives in memory alone, and `commit` only forgets what was uncommitted.
    """

    def __init__(self, folder: Path | None = None, k1: float = K1, b: float = B) -> None:
        self._path = None if folder is None else folder / _FILE
        self._k1, self._b = k1, b
        self._analyzer = Analyzer()
        self._entries: dict[ItemId, Entry] = {} if self._path is None else _read(self._path)
        self._touched: set[ItemId] = set()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def uncommitted(self) -> int:
        return len(self._touched)

    def analyze(self, text: str) -> list[str]:
        return self._analyzer.terms(text)

    def put(self, documents: Sequence[LexicalDocument]) -> None:
        for document in documents:
            self._entries[document.item] = Entry.of(document, self.analyze(document.text))
            self._touched.add(document.item)

    def remove(self, items: Sequence[ItemId]) -> None:
        for item in items:
            if self._entries.pop(item, None) is not None:
                self._touched.add(item)

    def search(self, terms: Sequence[str], k: int, scope: LexicalScope) -> LexicalHits:
        wanted, visible = Counter(terms), self._visible(Visible.of(scope))
        idfs = {term: self._idf(term, visible) for term in wanted}
        average = self._average()
        found = {item: self._score(wanted, idfs, entry, average) for item, entry in visible.items()}
        found = {item: score for item, score in found.items() if score > 0}
        if scope.accept is not None and found:
            accepted = scope.accept(np.array(list(found), np.int64))
            found = {item: found[item] for item, yes in zip(list(found), accepted, strict=True) if yes}
        best = sorted(found, key=lambda item: (-found[item], item))[: max(k, 0)]
        matches = [[term in visible[item].counts for term in wanted] for item in best]
        return LexicalHits(
            items=np.array(best, np.int64),
            scores=np.array([found[item] for item in best], np.float32),
            matches=np.array(matches, np.bool_).reshape(len(best), len(wanted)),
            term_weights=np.array(list(idfs.values()), np.float32),
        )

    def _visible(self, scope: Visible) -> dict[ItemId, Entry]:
        return {item: e for item, e in self._entries.items() if scope.holds(e.session, e.audience)}

    def _idf(self, term: str, visible: dict[ItemId, Entry]) -> float:
        having = sum(term in entry.counts for entry in visible.values())
        return idf(max(len(visible), 1), having)

    def _score(self, wanted: Counter[str], idfs: dict[str, float], entry: Entry, average: float) -> float:
        return sum(
            times * idfs[term] * saturation(entry.counts[term], entry.length, average, self._k1, self._b)
            for term, times in wanted.items()
            if term in entry.counts
        )

    def _average(self) -> float:
        return sum(entry.length for entry in self._entries.values()) / max(len(self._entries), 1)

    def commit(self) -> None:
        documents = {item: [e.session, e.audience, e.counts, e.length] for item, e in self._entries.items()}
        if self._path is not None:
            with replaced(self._path) as draft:
                draft.write_text(json.dumps(documents))
        self._touched.clear()

    def of_session(self, session_key: int) -> list[ItemId]:
        number = session_number(session_key)
        return [item for item, entry in self._entries.items() if entry.session == number]

    def rewriting(self) -> "_Rewrite":
        return _Rewrite(self)

    def missing(self, documents: Sequence[LexicalDocument]) -> list[ItemId]:
        lengths = {item: entry.length for item, entry in self._entries.items()}
        return [d.item for d in documents if lengths.get(d.item) != len(self.analyze(d.text))]

    def holds_term(self, term: str) -> bool:
        return self._path is not None and any(term in entry.counts for entry in _read(self._path).values())

    def close(self) -> None:
        """Nothing is held open."""


class _Rewrite:
    def __init__(self, index: ScanIndex) -> None:
        self._index = index
        self._made = ScanIndex()
        self._before = dict(index._entries)

    def add(self, documents: Sequence[LexicalDocument]) -> None:
        self._made.put(documents)

    def finish(self) -> None:
        now = self._index._entries
        gone = self._before.keys() - now.keys()
        since = {item: entry for item, entry in now.items() if self._before.get(item) is not entry}
        self._index._entries = {i: e for i, e in self._made._entries.items() if i not in gone} | since
        self._index.commit()
        self._index._touched = {*gone, *since}

    def cancel(self) -> None:
        """Nothing was written."""


class ScanIndexes:
    def open(self, folder: Path) -> ScanIndex:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise IndexDamaged("not a folder", path=str(folder)) from error
        return ScanIndex(folder)


def _read(path: Path) -> dict[ItemId, Entry]:
    """Raises IndexDamaged for a folder with other content, or a file that is none of ours."""
    if not path.exists():
        if any(path.parent.iterdir()):
            raise IndexDamaged("the folder holds something else", path=str(path.parent))
        return {}
    try:
        stored = json.loads(path.read_bytes())
        return {int(i): Entry(int(s), str(a), Counter(c), int(n)) for i, (s, a, c, n) in stored.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise IndexDamaged("not a file of term counts", path=str(path)) from error
