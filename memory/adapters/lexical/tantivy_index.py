"""Which texts have these words? tantivy on disk, a tail in memory in front of it, one BM25 over both.

    readers ──> [active tail] hides [frozen tail, while a commit runs] hides [committed files]

A put goes to the active tail and is found at once (a commit to disk takes 20-70 ms). A commit freezes the tail,
writes it, and exchanges files and frozen tail in one step under the lock: readers see a document in one of them,
never in both or neither. Puts and removes go on while a commit or a rewrite runs.
"""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tantivy

from memory.adapters.lexical import generations
from memory.adapters.lexical.analysis import Analyzer
from memory.adapters.lexical.committed import Committed, create, document, item_query, open_checked
from memory.adapters.lexical.search import Found, Search
from memory.adapters.lexical.tail import Entry, Tail, Visible, session_number
from memory.domain.errors import TierUnavailable
from memory.domain.ids import ItemId
from memory.ports.indexes import LexicalDocument, LexicalHits, LexicalScope

_COMMIT_BYTES = 15_000_000  # tantivy's minimum, held only while a commit runs
_REWRITE_BYTES = 50_000_000


@dataclass(slots=True)
class _Layers:
    """What readers see; changed and read under the lock."""

    committed: Committed
    frozen: Tail = field(default_factory=Tail)
    active: Tail = field(default_factory=Tail)
    hidden: frozenset[ItemId] = frozenset()
    """the committed items that a tail has touched"""

    def hide(self) -> None:
        self.hidden = self.committed.holding(self.active.touched | self.frozen.touched)

    def __len__(self) -> int:
        frozen = sum(item not in self.active.touched for item in self.frozen.entries)
        return len(self.committed) - len(self.hidden) + frozen + len(self.active.entries)

    def of_session(self, number: int) -> list[ItemId]:
        found = {item for item in self.committed.of_session(number) if item not in self.hidden}
        for tail in (self.frozen, self.active):
            found = {item for item in found if item not in tail.touched}
            found |= {item for item, entry in tail.entries.items() if entry.session == number}
        return sorted(found)

    def lengths(self, items: Collection[ItemId]) -> dict[ItemId, int]:
        """Of those that are there: their number of terms."""
        found = self.committed.lengths([item for item in items if item not in self.hidden])
        for tail in (self.frozen, self.active):
            found = {item: length for item, length in found.items() if item not in tail.touched}
            found |= {item: tail.entries[item].length for item in items if item in tail.entries}
        return found

    def find(self, terms: set[str], scope: Visible) -> Found:
        tails = (self.active, self.frozen)
        gathered = (self.active.gather(terms, scope), self.frozen.gather(terms, scope, self.active.touched))
        average = self.committed.average
        if not len(self.committed):
            average = sum(t.terms for t in tails) / max(sum(len(t.entries) for t in tails), 1)
        return Found(self.committed, self.hidden, gathered, average)


class TantivyIndex:
    """Safe for threads: searches beside searches and beside one writer. Opened by `TantivyIndexes`.

    The average document length is that of the committed documents, for the tail too, so that both are comparable
    (nothing committed yet: of the tail). The scope's own average is not known to tantivy.
    """

    def __init__(self, folder: Path, generation: Path, index: tantivy.Index) -> None:
        self._folder, self._generation = folder, generation
        self._index: tantivy.Index | None = index
        self._analyzer = Analyzer()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._layers = _Layers(Committed(index, generation))

    def __len__(self) -> int:
        with self._lock:
            return len(self._layers)

    @property
    def uncommitted(self) -> int:
        with self._lock:
            return len(self._layers.active.touched | self._layers.frozen.touched)

    def analyze(self, text: str) -> list[str]:
        return self._analyzer.terms(text)

    def put(self, documents: Sequence[LexicalDocument]) -> None:
        entries = [(document.item, self._entry(document)) for document in documents]
        with self._lock:
            self._opened()
            layers = self._layers
            for item, entry in entries:
                layers.active.put(item, entry)
            layers.hidden |= layers.committed.holding([item for item, _ in entries])

    def remove(self, items: Sequence[ItemId]) -> None:
        with self._lock:
            self._opened()
            layers = self._layers
            committed = layers.committed.holding(items)
            layers.hidden |= committed
            for item in items:
                if item in committed or item in layers.active.entries or item in layers.frozen.entries:
                    layers.active.remove(item)

    def search(self, terms: Sequence[str], k: int, scope: LexicalScope) -> LexicalHits:
        visible = Visible.of(scope)
        with self._lock:
            self._opened()
            found = self._layers.find(set(terms), visible)
        return Search(found, visible, terms).hits(k, scope.accept)

    def commit(self) -> None:
        """Raises TierUnavailable when tantivy can't write; nothing is lost then and it may be called again."""
        with self._writing:
            index = self._opened()
            with self._lock:
                frozen = self._freeze()
            with self._thawing():
                if frozen.touched:
                    _write(index, frozen.entries, frozen.touched, _COMMIT_BYTES)
                    index.reload()
                self._exchange(index, self._generation)

    def of_session(self, session_key: int) -> list[ItemId]:
        with self._lock:
            self._opened()
            return self._layers.of_session(session_number(session_key))

    def rewriting(self) -> "_Rewrite":
        """Waits for a commit that runs. Raises TierUnavailable, as `commit`; so do the rewrite's own methods."""
        self._writing.acquire()
        try:
            self._opened()
            with self._lock:
                self._freeze()
            with self._thawing():
                return _Rewrite(self, generations.draft(self._folder))
        except BaseException:
            self._writing.release()
            raise

    def missing(self, documents: Sequence[LexicalDocument]) -> list[ItemId]:
        wanted = {document.item: len(self.analyze(document.text)) for document in documents}
        with self._lock:
            self._opened()
            lengths = self._layers.lengths(wanted)
        return [item for item, length in wanted.items() if lengths.get(item) != length]

    def holds_term(self, term: str) -> bool:
        with self._lock:
            self._opened()
            return self._layers.committed.holds_term(term)

    def close(self) -> None:
        """Waits for a commit that runs. What was not committed is gone; any later call raises TierUnavailable."""
        with self._writing, self._lock:
            self._index = None

    def _opened(self) -> tantivy.Index:
        if self._index is None:
            raise TierUnavailable("the lexical index is closed", path=str(self._folder))
        return self._index

    def _entry(self, document: LexicalDocument) -> Entry:
        return Entry.of(document, self._analyzer.terms(document.text))

    def _freeze(self) -> Tail:
        layers = self._layers
        layers.frozen, layers.active = layers.active, Tail()
        return layers.frozen

    def _exchange(self, index: tantivy.Index, generation: Path) -> None:
        """The files now hold what the frozen tail held: what was put since comes on top of them."""
        committed = Committed(index, generation)
        with self._lock:
            self._index, self._generation = index, generation
            layers = self._layers
            layers.committed, layers.frozen = committed, Tail()
            layers.hide()

    @contextmanager
    def _thawing(self) -> Iterator[None]:
        """Gives the frozen tail back when writing it failed, so that the next commit takes it along."""
        try:
            yield
        except (ValueError, OSError) as error:
            self._thaw()
            raise TierUnavailable("the lexical index can't be written", path=str(self._folder)) from error
        except BaseException:
            self._thaw()
            raise

    def _thaw(self) -> None:
        with self._lock:
            layers = self._layers
            newer = layers.active
            layers.active, layers.frozen = layers.frozen, Tail()
            for item in newer.touched:
                layers.active.remove(item)
            for item, entry in newer.entries.items():
                layers.active.put(item, entry)
            layers.hide()


class _Rewrite:
    """Holds the index's writing lock until it is over, in whichever thread that is."""

    def __init__(self, index: TantivyIndex, draft: Path) -> None:
        self._index = index
        self._draft: Path | None = draft
        self._writer = create(draft).writer(_REWRITE_BYTES, 1)

    def add(self, documents: Sequence[LexicalDocument]) -> None:
        for made in documents:
            self._writer.add_document(document(made.item, self._index._entry(made)))

    def finish(self) -> None:
        assert self._draft is not None
        try:
            with self._index._thawing():
                self._writer.commit()
                self._writer.wait_merging_threads()
                generation = generations.publish(self._draft)
                self._index._exchange(open_checked(generation), generation)
        finally:
            self._end()

    def cancel(self) -> None:
        if self._draft is None:
            return
        try:
            self._writer.rollback()
            self._writer.wait_merging_threads()
            self._index._thaw()
        finally:
            self._end()

    def _end(self) -> None:
        """A draft that was not published is deleted when the index is opened, or written anew."""
        self._draft = None
        self._index._writing.release()


class TantivyIndexes:
    def open(self, folder: Path) -> TantivyIndex:
        generation = generations.newest(folder)
        if generation is None:
            draft = generations.draft(folder)
            create(draft)
            generation = generations.publish(draft)
        return TantivyIndex(folder, generation, open_checked(generation))


def _write(index: tantivy.Index, entries: Mapping[ItemId, Entry], touched: set[ItemId], memory: int) -> None:
    """Deletes what was touched, known or not: a commit that is tried again then adds nothing twice."""
    writer = index.writer(memory, 1)
    try:
        if touched:
            writer.delete_documents_by_query(item_query(touched))
        for item, entry in entries.items():
            writer.add_document(document(item, entry))
        writer.commit()
    finally:
        writer.wait_merging_threads()  # releases the writer's memory and its lock on the folder
