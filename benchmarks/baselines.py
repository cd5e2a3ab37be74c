"""What do pure dense and pure BM25 find in the same items?"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.service import Floats, StoringEmbedder
from benchmarks.sets import Scorers, Task
from memory.domain.segments import cut

SYSTEMS = ("stratamem", "dense", "bm25")


@dataclass(slots=True)
class Answers:
    """What each system answered: ranked item ids by qid, of one task. `words`: (ids, words) of the long answer."""

    ranked: dict[str, dict[str, list[Any]]] = field(default_factory=lambda: {name: {} for name in SYSTEMS})
    words: dict[str, dict[str, list[tuple[set[Any], int]]]] = field(
        default_factory=lambda: {name: {} for name in SYSTEMS}
    )
    milliseconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Baselines:
    """Pure dense: exact, the best segment counts. Pure BM25: the scorer's own, over its own form of the text."""

    def __init__(self, scorers: Scorers, embedder: StoringEmbedder) -> None:
        self._scorers = scorers
        self._embedder = embedder
        self._segments: dict[str, list[str]] = {}

    def prepare(self, task: Task, progress: Callable[[int], None]) -> None:
        """Computes and stores the vectors of a task."""
        texts = [segment for item in task.items for segment in self.cut(item.event["content"])]
        self._embedder.embed(texts + [query["text"] for query in task.queries], progress)

    def answer(self, task: Task, places: int, answers: Answers) -> None:
        dense = self._dense(task)
        bm25 = self._scorers.locomo.BM25([item.text for item in task.items])
        for place, query in enumerate(task.queries):
            order = np.argsort(-dense[place], kind="stable")[:places].tolist()
            for name, ranked in (("dense", order), ("bm25", bm25.rank(query["text"], places))):
                found = [task.items[at] for at in ranked]
                answers.ranked[name][query["qid"]] = [item.id for item in found]
                answers.words[name][query["qid"]] = [({x.id}, word_count(x.event["content"])) for x in found]

    def _dense(self, task: Task) -> Floats:
        """[queries, items]"""
        segments = [self.cut(item.event["content"]) for item in task.items]
        queries = [query["text"] for query in task.queries]
        vectors = self._embedder.embed([s for cut_ in segments for s in cut_] + queries)
        best = np.full((len(queries), len(segments)), -np.inf, np.float32)
        asked = np.stack([vectors[query] for query in queries])
        for place, cut_ in enumerate(segments):
            if cut_:
                best[:, place] = (asked @ np.stack([vectors[s] for s in cut_]).T).max(1)
        return best

    def cut(self, text: str) -> list[str]:
        if text not in self._segments:
            spans = cut(text, self._embedder.models.tokenizer.spans(text))
            self._segments[text] = [text[span.start : span.end] for span in spans]
        return self._segments[text]


def word_count(text: str) -> int:
    return len(text.split())
