"""Is a text in any file of the data folder? Every byte is looked at, archives are opened, word indexes are asked."""

import io
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import tantivy

from memory.adapters.lexical.analysis import ANALYSIS
from memory.domain.traces import Look, Marks

_CHUNK = 8 << 20
_DATABASE = ("-wal", "-shm", "-journal")


def looks(folder: Path, wanted: Sequence[Marks]) -> list[Look]:
    """One for each kind of file, then one for each word index. What a process is writing at this moment may move."""
    files: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            files[_store(path.relative_to(folder))].append(path)
    found = [_of_files(store, folder, paths, wanted) for store, paths in sorted(files.items())]
    return found + [_of_words(folder, meta.parent, wanted) for meta in sorted(folder.rglob("meta.json"))]


def _store(path: Path) -> str:
    """`index/<node>/<tenant>/lexical/…` is the words, and so on."""
    first = path.parts[0]
    if first == "index":
        if "lexical" in path.parts:
            return "index: words, as bytes"
        return "index: vectors" if any(part.startswith("vectors-") for part in path.parts) else "index: catalogue"
    if first in ("kv", "models", "receipts"):
        return {"kv": "KV", "models": "models", "receipts": "receipts"}[first]
    if path.suffix == ".db" or path.name.endswith(_DATABASE):
        return f"database file {path.name}"
    return "other files"


def _of_files(store: str, folder: Path, paths: Sequence[Path], wanted: Sequence[Marks]) -> Look:
    size, found = 0, []
    for path in paths:
        try:
            for where, content in _contents(path, max(mark.longest for mark in wanted)):
                size += len(content)
                name = str(path.relative_to(folder)) + where
                found += [f"{name}: {mark.text!r} as {form}" for mark in wanted for form in mark.found_in(content)]
        except FileNotFoundError:
            continue  # it was replaced while we looked: its successor is looked at next time
    return Look(store, f"{len(paths)} files, {size:,} bytes", tuple(dict.fromkeys(found)))


def _contents(path: Path, overlap: int) -> Iterator[tuple[str, bytes]]:
    """In pieces that overlap, and of an archive each member as it is when it is read."""
    before = b""
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            content = before + piece
            yield "", content
            before = content[-overlap:]
    if path.suffix == ".npz":
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            for member in archive.namelist():
                yield f"!{member}", archive.read(member)


def _of_words(folder: Path, place: Path, wanted: Sequence[Marks]) -> Look:
    """Its dictionary is compressed, so it is asked; its document store has no text as long as no field is stored."""
    index = tantivy.Index.open(str(place))
    searcher = index.searcher()
    found = [
        f"{place.relative_to(folder)}: {mark.text!r} as the terms {' '.join(mark.terms)}"
        for mark in wanted
        if mark.terms and all(searcher.doc_freq(ANALYSIS, term) for term in mark.terms) and _together(index, mark)
    ]
    every = searcher.search(tantivy.Query.all_query(), 10_000).hits
    stored = [address for _, address in every if searcher.doc(address).to_dict()]
    if stored:
        found.append(f"{place.relative_to(folder)}: {len(stored)} documents are stored with their fields")
    documents = f"{searcher.num_docs:,} documents, {searcher.num_segments} segments, no field is stored"
    return Look(f"words of {place.parent.parent.name[:8]}", documents, tuple(found))


def _together(index: tantivy.Index, mark: Marks) -> bool:
    """All of the terms in one document. Of a single term it is enough that the dictionary has it, from a document that
    was removed."""
    if len(mark.terms) == 1:
        return True
    each = [(tantivy.Occur.Must, tantivy.Query.term_query(index.schema, ANALYSIS, term)) for term in mark.terms]
    return bool(index.searcher().search(tantivy.Query.boolean_query(each), 1).hits)
