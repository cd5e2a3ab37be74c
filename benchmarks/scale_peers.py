"""How far do others get with the same vectors in the same time? Each in a process of its own, with its own libraries.

longterm_scale.py makes the environment for them and asks one after the other; FOLDER holds vectors.npy, texts.json and
questions.npy. Nothing of ours is imported. Nobody has to embed: every text and question comes with its vector.

    python benchmarks/scale_peers.py PEER FOLDER SIZE SECONDS
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

BEST = 10
USERS = 300
EACH = 10
_LAST = 500
"""Inserts that a percentile is of."""
_FIRST = 10_000
"""Inserts of how large a store the last ones are compared with."""
_SEARCH_SECONDS = 60.0


class Store(Protocol):
    def add(self, numbers: "range", owner: str) -> None:
        """Texts `numbers` with their vectors."""

    def search(self, question: Any, owner: str) -> list[int]:
        """The numbers of the best ten."""


class Data:
    def __init__(self, folder: Path) -> None:
        self.vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        self.texts: list[str] = json.loads((folder / "texts.json").read_text("utf-8"))
        self.questions = np.load(folder / "questions.npy").astype(np.float32)

    def vector(self, number: int) -> Any:
        return self.vectors[number % len(self.vectors)].astype(np.float32)

    def text(self, number: int) -> str:
        return f"{number} {self.texts[number % len(self.texts)]}"


class Flat:
    """FAISS, every vector in float32, scanned. What belongs to others is taken out of the best afterwards."""

    batch = 1_000

    def __init__(self, data: Data, folder: Path) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self._data = data
        self._index = faiss.IndexFlatIP(data.vectors.shape[1])
        self._owners: list[str] = []

    def add(self, numbers: range, owner: str) -> None:
        self._index.add(np.stack([self._data.vector(number) for number in numbers]))
        self._owners += [owner] * len(numbers)

    def search(self, question: Any, owner: str) -> list[int]:
        _, found = self._index.search(question[np.newaxis], BEST)
        return [int(row) for row in found[0] if row >= 0 and self._owners[row] == owner]


class Mem0:
    batch = 1

    def __init__(self, data: Data, folder: Path, provider: str, more: dict[str, Any]) -> None:
        os.environ |= {"MEM0_TELEMETRY": "False", "MEM0_DIR": str(folder), "OPENAI_API_KEY": "not used"}
        from mem0 import Memory

        self._data, self._given = data, {}
        where = {"path": str(folder / provider), "embedding_model_dims": int(data.vectors.shape[1]), **more}
        self._memory = Memory.from_config(
            {
                "vector_store": {"provider": provider, "config": where},
                "history_db_path": str(folder / "history.db"),
            }
        )
        self._memory.embedding_model = self  # what it asks for is a vector that we have

    def embed(self, text: str, action: str | None = None) -> list[float]:
        vector: list[float] = self._given[text].tolist()
        return vector

    def embed_batch(self, texts: list[str], action: str | None = None) -> list[list[float]]:
        return [self.embed(text) for text in texts]

    def add(self, numbers: range, owner: str) -> None:
        for number in numbers:
            text = self._data.text(number)
            self._given = {text: self._data.vector(number)}
            self._memory.add(text, user_id=owner, infer=False)

    def search(self, question: Any, owner: str) -> list[int]:
        self._given = {"?": question}
        found = self._memory.search("?", top_k=BEST, filters={"user_id": owner}, threshold=0.0)
        return [int(one["memory"].split(" ", 1)[0]) for one in found["results"]]


class LangGraph:
    batch = 1

    def __init__(self, data: Data, folder: Path) -> None:
        from langgraph.store.memory import InMemoryStore

        self._data, self._given = data, {}
        dimensions = int(data.vectors.shape[1])
        self._store = InMemoryStore(index={"dims": dimensions, "embed": self._embed, "fields": ["text"]})

    def _embed(self, texts: Any) -> list[list[float]]:
        return [self._given[text].tolist() for text in texts]

    def add(self, numbers: range, owner: str) -> None:
        for number in numbers:
            text = self._data.text(number)
            self._given = {text: self._data.vector(number)}
            self._store.put((owner,), str(number), {"text": text})

    def search(self, question: Any, owner: str) -> list[int]:
        self._given = {"?": question}
        return [int(item.key) for item in self._store.search((owner,), query="?", limit=BEST)]


PEERS: dict[str, Callable[[Data, Path], Any]] = {
    "faiss_flat": Flat,
    "langgraph_inmemory": LangGraph,
    "mem0_faiss": lambda data, folder: Mem0(data, folder, "faiss", {"distance_strategy": "inner_product"}),
    "mem0_qdrant": lambda data, folder: Mem0(data, folder, "qdrant", {"on_disk": True}),
}


def filled(store: Any, size: int, seconds: float) -> dict[str, Any]:
    """Adds until there are `size` or the time is over."""
    begun, taken, number = time.perf_counter(), [], 0
    first: list[float] = []
    while number < size and time.perf_counter() - begun < seconds:
        numbers = range(number, min(size, number + store.batch))
        started = time.perf_counter()
        store.add(numbers, "all")
        taken.append((time.perf_counter() - started) * 1_000 / len(numbers))
        number = numbers.stop
        if number <= min(_FIRST, size) and len(taken) >= 10:
            first = taken[-_LAST:]
        if sys.stderr.isatty() and number % 1_000 == 0:
            print(f"\r{number:,} of {size:,}", end="", file=sys.stderr)
    return {
        "memories": number,
        "seconds": round(time.perf_counter() - begun, 1),
        "insert_ms": {f"p95_up_to_{_FIRST}": percentile(first), "p95_of_the_last": percentile(taken[-_LAST:])},
    }


def asked(store: Any, data: Data, size: int) -> dict[str, Any]:
    """The best of the first `size` texts, compared with all inner products."""
    taken, shares, begun = [], [], time.perf_counter()
    everything = data.vectors[:size].astype(np.float32)
    for question in data.questions:
        if time.perf_counter() - begun > _SEARCH_SECONDS:
            break
        started = time.perf_counter()
        found = store.search(question, "all")
        taken.append(1_000 * (time.perf_counter() - started))
        right = np.argpartition(-(everything @ question), min(BEST, size - 1))[:BEST]
        shares.append(len(set(found) & set(right.tolist())) / min(BEST, size))
    return {
        "questions": len(taken),
        "search_ms": {"p50": percentile(taken, 50), "p95": percentile(taken)},
        "recall_at_10": round(float(np.mean(shares)), 4) if shares else None,
    }


def crowd(store: Any, data: Data, seconds: float) -> dict[str, Any]:
    """Many users with few memories, as many as come within the time: each asks for as many as it has."""
    begun, users = time.perf_counter(), 0
    while users < USERS and time.perf_counter() - begun < seconds:
        store.add(range(users * EACH, (users + 1) * EACH), f"user-{users}")
        users += 1
    got = []
    for user in range(users):  # asked is for the middle of its own: mem0 never shows what has a cosine below zero
        question = np.mean([data.vector(number) for number in range(user * EACH, (user + 1) * EACH)], axis=0)
        got.append(len(store.search(question / np.linalg.norm(question), f"user-{user}")))
    return {"users": users, "asked": EACH, "got_mean": round(float(np.mean(got)), 2), "got_least": min(got)}


def percentile(milliseconds: list[float], place: int = 95) -> float | None:
    return round(float(np.percentile(milliseconds, place)), 3) if milliseconds else None


def resident() -> int:
    """Bytes of this process in memory; 0 where that can't be seen."""
    status = Path("/proc/self/status")
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines()) if status.exists() else {}
    return int(lines.get("VmRSS", "0 kB").split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=list(PEERS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("size", type=int)
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    data = Data(options.folder)
    with tempfile.TemporaryDirectory(prefix="stratamem-peer-") as name:
        store = PEERS[options.peer](data, Path(name))
        before = resident()
        body = filled(store, options.size, options.seconds)
        body["bytes_per_memory"] = round((resident() - before) / max(body["memories"], 1))
        body |= asked(store, data, body["memories"])
    with tempfile.TemporaryDirectory(prefix="stratamem-peer-") as name:
        body["crowd"] = crowd(PEERS[options.peer](data, Path(name)), data, options.seconds)
    print(json.dumps(body))


if __name__ == "__main__":
    main()
