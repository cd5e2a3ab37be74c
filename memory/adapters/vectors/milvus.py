"""How do vectors live in a Milvus, for those who outgrow one machine? One collection for each index, by its rows.

A row's number is its primary key. The scope becomes a filter that Milvus applies before it ranks: ranges of rows, the
rows by name, or all but a few; where it is none of these, more and more hits are asked for until enough are in scope.
What Milvus finds is ranked by the vectors themselves, which it keeps as float32 (milvus-lite knows no float16).
`pymilvus` is imported when the first index is opened, since it takes two seconds. What the server can't do, for now or
at all, is TierUnavailable.
"""

import importlib.util
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory.adapters.files import check_seal, remove_others, replaced
from memory.adapters.vectors.checks import as_mask, as_query, as_rows, as_vectors, ranked
from memory.domain.errors import IndexDamaged, TierUnavailable
from memory.domain.ids import new_id
from memory.ports.indexes import RowHits, Rows
from memory.ports.models import Vectors

_PREFIX = "stratamem"
_BATCH = 2_000
"""Rows in one request: 3 MB at d=384, far below gRPC's 64."""
_MOST = 16_384
"""Hits that Milvus gives at most."""
_NAMED = 8_192
"""Rows that a filter names at most: 64 kB."""
_RANGES = 64
_TIES = 1_024
"""Asked for when a tie may cross the border, so that equal scores come by rising row."""
_TIED = 1e-6
_TIMEOUT = 30.0
"""Seconds for one request, with all its repetitions."""


class Connection:
    """To one server; opened at the first question. Safe for threads."""

    def __init__(self, uri: str, token: str) -> None:
        self._uri = uri
        self._token = token
        self._client: Any = None

    def ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Raises TierUnavailable."""
        from pymilvus.exceptions import MilvusException

        client = self.client()
        try:
            return getattr(client, method)(*arguments, timeout=_TIMEOUT, **named)
        except MilvusException as error:
            raise TierUnavailable(f"Milvus: {error.message}") from error

    def client(self) -> Any:
        if self._client is None:
            from pymilvus import MilvusClient
            from pymilvus.exceptions import MilvusException

            try:
                self._client = MilvusClient(uri=self._uri, token=self._token, timeout=_TIMEOUT)
            except MilvusException as error:
                raise TierUnavailable(f"Milvus at {self._uri}: {error.message}") from error
        return self._client


class MilvusIndex:
    """Readers may run side by side; a writer must run alone."""

    def __init__(self, milvus: Connection, folder: Path, dimensions: int, collection: str = "", size: int = 0) -> None:
        self._milvus = milvus
        self._folder = folder
        self._dimensions = dimensions
        self._size = size
        self._blank = 0
        self._numbering = 0
        self._collection = collection or self._created()

    @property
    def dimensions(self) -> int:
        return self._dimensions

    def __len__(self) -> int:
        return self._size

    def add(self, vectors: Vectors) -> None:
        checked = as_vectors(vectors, self.dimensions).astype(np.float16).astype(np.float32)
        self._insert(self._collection, self._size, checked)
        self._size += len(checked)

    def search(self, query: Vectors, k: int, allowed: NDArray[np.bool_] | None = None) -> RowHits:
        query = as_query(query, self.dimensions)
        mask = np.ones(self._size, np.bool_) if allowed is None else as_mask(allowed, self._size)
        candidates = int(np.count_nonzero(mask))
        k = min(k, candidates)
        if k <= 0:
            return RowHits(np.zeros(0, np.int64), np.zeros(0, np.float32))
        condition = condition_of(mask)
        if condition is None:
            rows = self._widened(query, k, mask)
        else:
            rows = self._nearest(query, k, candidates, condition)
        if len(rows) < k:
            return self._scanned(query, k, np.flatnonzero(mask))
        return ranked(rows, self.scores(query, rows), k)

    def scores(self, query: Vectors, rows: Rows) -> NDArray[np.float32]:
        products = np.vecdot(self.vectors(rows), as_query(query, self.dimensions))
        return np.asarray(products, np.float32)

    def vectors(self, rows: Rows) -> Vectors:
        """Rows that were blanked are not there: they are zeros."""
        checked = as_rows(rows, self._size)
        found = np.zeros((len(checked), self.dimensions), np.float32)
        wanted, places = np.unique(checked, return_inverse=True)
        once = np.zeros((len(wanted), self.dimensions), np.float32)
        for start in range(0, len(wanted), _BATCH):
            part = wanted[start : start + _BATCH]
            answers = self._milvus.ask("get", self._collection, ids=part.tolist(), output_fields=["row", "vector"])
            for answer in answers:
                once[np.searchsorted(wanted, answer["row"])] = answer["vector"]
        found[:] = once[places]
        return found

    def blank(self, rows: Rows) -> None:
        """Mutates every snapshot as well: there is one collection."""
        checked = np.unique(as_rows(rows, self._size))
        for start in range(0, len(checked), _BATCH):
            self._milvus.ask("delete", self._collection, ids=checked[start : start + _BATCH].tolist())
        self._blank = self._size - self._counted(self._collection, self._size) if len(checked) else self._blank

    def keeping(self, rows: Rows) -> "_Keeping":
        return _Keeping(self, as_rows(rows, self._size))

    def upkeep(self) -> None:
        """Milvus builds and compacts its own indexes."""
        return None

    def details(self) -> dict[str, int]:
        return {}

    def snapshot(self) -> "_Snapshot":
        return _Snapshot(self._milvus, self._collection, self._size, self._blank)

    def _created(self) -> str:
        client = self._milvus.client()
        from pymilvus import DataType

        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("row", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.dimensions)
        index = client.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
        name = f"{_prefix_of(self._folder)}{new_id().replace('-', '')}"
        # An acknowledged event is found at once: a search waits for what was written before it.
        asked = {"schema": schema, "index_params": index, "consistency_level": "Strong"}
        self._milvus.ask("create_collection", name, **asked)
        return name

    def _insert(self, collection: str, first: int, vectors: Vectors) -> None:
        for start in range(0, len(vectors), _BATCH):
            rows = [{"row": first + start + n, "vector": v} for n, v in enumerate(vectors[start : start + _BATCH])]
            self._milvus.ask("insert", collection, rows)

    def _counted(self, collection: str, below: int) -> int:
        answer = self._milvus.ask("query", collection, filter=f"row < {below}", output_fields=["count(*)"])
        return int(answer[0]["count(*)"])

    def _asked(self, query: Vectors, limit: int, condition: str) -> tuple[Rows, NDArray[np.float32]]:
        (hits,) = self._milvus.ask(
            "search",
            self._collection,
            data=[query],
            anns_field="vector",
            limit=limit,
            filter=condition,
            output_fields=["row"],
        )
        found = [(hit["row"], hit["distance"]) for hit in hits]
        return np.array([row for row, _ in found], np.int64), np.array([score for _, score in found], np.float32)

    def _nearest(self, query: Vectors, k: int, candidates: int, condition: str) -> Rows:
        rows = np.zeros(0, np.int64)
        for wanted in (k + 1, max(16 * k, _TIES), _MOST):
            wanted = min(wanted, candidates, _MOST)
            rows, scores = self._asked(query, wanted, condition)
            if wanted in (candidates, _MOST) or (len(rows) > k and scores[k - 1] - scores[-1] > _TIED):
                break
        return rows

    def _widened(self, query: Vectors, k: int, mask: NDArray[np.bool_]) -> Rows:
        """Fewer than `k` when even the most hits that Milvus gives have too few in scope."""
        limit = min(_MOST, 8 * k)
        while True:
            rows, _ = self._asked(query, limit, "")
            allowed = rows[mask[rows]]
            if len(allowed) >= k or limit == _MOST or len(rows) < limit:
                return allowed
            limit = min(_MOST, 4 * limit)

    def _scanned(self, query: Vectors, k: int, rows: Rows) -> RowHits:
        """Every vector in scope comes over the network: right, and slow. Only where filters and widening gave up."""
        best = RowHits(np.zeros(0, np.int64), np.zeros(0, np.float32))
        for start in range(0, len(rows), _BATCH):
            page = rows[start : start + _BATCH]
            both = np.concatenate([best.rows, page])
            best = ranked(both, np.concatenate([best.scores, self.scores(query, page)]), k)
        return best


class _Keeping:
    """The kept rows go into a collection of their own; the old one is dropped by `discard`."""

    name = "compact"
    costly = True

    def __init__(self, index: MilvusIndex, kept: Rows) -> None:
        self._index = index
        self._kept = kept
        self._before = len(index)
        self._numbering = index._numbering
        self._made = ""

    def prepare(self) -> None:
        self._made = self._index._created()
        self._copy(self._kept, 0)

    def finish(self) -> bool:
        index, kept = self._index, len(self._kept)
        if index._numbering != self._numbering:
            return False
        self._copy(np.arange(self._before, len(index)), kept)
        moved = np.concatenate([self._kept, np.arange(self._before, len(index))])
        gone = np.flatnonzero(~index.vectors(moved).any(axis=1))
        index._collection, index._size = self._made, len(moved)
        index._numbering += 1
        index._blank = 0
        index.blank(gone)  # some were blanked while the others were copied
        return True

    def _copy(self, rows: Rows, first: int) -> None:
        for start in range(0, len(rows), _BATCH):
            vectors = self._index.vectors(rows[start : start + _BATCH])
            self._index._insert(self._made, first + start, vectors)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    milvus: Connection | None
    collection: str
    size: int
    blank: int

    def write(self, folder: Path) -> tuple[str, ...]:
        assert self.milvus is not None
        self.milvus.ask("flush", self.collection)
        body = {"collection": self.collection, "size": self.size, "blank": self.blank}
        name = f"milvus-{new_id()}.json"
        with replaced(folder / name, sealed=True) as draft:
            draft.write_text(json.dumps(body))
        return (name,)


class MilvusIndexes:
    """`uri`: of a server or cluster, or the path of a file for milvus-lite."""

    def __init__(self, uri: str, token: str = "") -> None:
        """Raises TierUnavailable without pymilvus. Connects when the first index is made or loaded."""
        if importlib.util.find_spec("pymilvus") is None:
            raise TierUnavailable("STRATAMEM_LONGTERM__VECTORS=milvus needs pymilvus: pip install -e '.[milvus]'")
        self._milvus = Connection(uri, token)

    def create(self, folder: Path, dimensions: int) -> MilvusIndex:
        return MilvusIndex(self._milvus, folder, dimensions)

    def load(self, folder: Path, names: Sequence[str], dimensions: int) -> MilvusIndex:
        if len(names) != 1:
            raise IndexDamaged("not one file about a collection", path=str(folder), files=list(names))
        check_seal(folder / names[0])
        body = _read(folder / names[0])
        self._check(body, dimensions)
        index = MilvusIndex(self._milvus, folder, dimensions, body.collection, body.size)
        index._blank = body.blank
        # What came after the save is removed: the feed tells of it again.
        self._milvus.ask("delete", body.collection, filter=f"row >= {body.size}")
        if index._counted(body.collection, body.size) != body.size - body.blank:
            raise IndexDamaged("the collection has lost rows", collection=body.collection)
        return index

    def discard(self, folder: Path, keep: Collection[str]) -> None:
        """Drops every collection that was made for this folder and that no kept file names."""
        named = {_read(folder / name).collection for name in keep if (folder / name).is_file()}
        for collection in self._milvus.ask("list_collections"):
            if collection.startswith(_prefix_of(folder)) and collection not in named:
                self._milvus.ask("drop_collection", collection)
        remove_others(folder, keep)

    def _check(self, body: "_Snapshot", dimensions: int) -> None:
        if not self._milvus.ask("has_collection", body.collection):
            raise IndexDamaged("the collection is not there", collection=body.collection)
        fields = self._milvus.ask("describe_collection", body.collection)["fields"]
        if [int(field["params"]["dim"]) for field in fields if field["name"] == "vector"] != [dimensions]:
            raise IndexDamaged("a collection of other vectors", collection=body.collection)


def condition_of(mask: NDArray[np.bool_]) -> str | None:
    """The scope in Milvus' words; None: they would be too many."""
    borders = np.flatnonzero(np.diff(mask, prepend=False, append=False)).reshape(-1, 2)
    if len(borders) == 1 and (borders == (0, len(mask))).all():
        return ""
    if len(borders) <= _RANGES:
        return " or ".join(f"(row >= {begin} and row < {end})" for begin, end in borders.tolist())
    rows, others = np.flatnonzero(mask), np.flatnonzero(~mask)
    if len(rows) <= _NAMED:
        return f"row in {rows.tolist()}"
    return f"row not in {others.tolist()}" if len(others) <= _NAMED else None


def _prefix_of(folder: Path) -> str:
    """What the names of a folder's collections begin with. The folder's own name is used once in the world."""
    return f"{_PREFIX}_{re.sub('[^0-9A-Za-z]', '_', folder.name)}_"


def _read(path: Path) -> _Snapshot:
    """Raises IndexDamaged."""
    try:
        with path.open("rb") as file:
            body, _ = json.JSONDecoder().raw_decode(file.read().decode("utf-8", "replace"))
        return _Snapshot(None, str(body["collection"]), int(body["size"]), int(body["blank"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IndexDamaged("not a file about a collection", path=str(path)) from error
