"""How often is a memory marked as repeating another that says something else, and how often is a repetition missed?

Texts of BENCH_DATA are put in slightly other words that say the same (a repetition that is not marked is missed) and
are changed by as little so that they say something else (marked: wrong). Real neighbours, the nearest other text of
the set, are counted apart: nobody has said which of them are repetitions.
"""

import argparse
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.machine import SEED, out, write_result
from benchmarks.reworded import SAME, Change, different
from benchmarks.sets import Scorers, Selection, tasks_of
from benchmarks.statistics import wilson
from memory.services.likeness import may_be_same, near, signatures
from memory.services.settings import MemorySettings
from model_runtime.embedders import embedder

SETS = ("locomo", "prefeval-explicit", "qmsum", "scifact")
TEXTS, QUICK = 250, 20
THRESHOLDS = (0.85, 0.9, 0.93, 0.95, 0.97)
CHOSEN: float = MemorySettings().near_duplicate


@dataclass(frozen=True, slots=True)
class Pair:
    kind: str
    same: bool | None
    """None: a real neighbour, of which nobody has said so."""
    one: str
    other: str
    cosine: float
    signed: bool
    """Its signature is near enough for its vectors to be compared."""

    def marked(self, threshold: float, words: bool) -> bool:
        near_enough = self.signed and self.cosine >= threshold
        return near_enough and (not words or may_be_same(self.one, self.other))


def texts_of(name: str, scorers: Scorers, wanted: int) -> list[str]:
    """Different ones of 6 to 120 words."""
    items = [item.event["content"] for task in tasks_of(name, scorers, Selection()) for item in task.items]
    fitting = sorted({" ".join(text.split()) for text in items if 6 <= len(text.split()) <= 120})
    return random.Random(SEED).sample(fitting, min(wanted, len(fitting)))


def changed(texts: Sequence[str], changes: dict[str, Change]) -> list[tuple[str, str, str]]:
    """(kind, text, as it was changed) where there was something to change."""
    found = []
    for kind, change in changes.items():
        for place, text in enumerate(texts):
            other = change(text, random.Random(f"{SEED} {kind} {place}"))
            if other is not None and other != text:
                found.append((kind, text, other))
    return found


def measure(model: Any, texts: Sequence[str]) -> list[Pair]:
    same, others = changed(texts, SAME), changed(texts, different(texts))
    wanted = list(dict.fromkeys([*texts, *(other for _, _, other in (*same, *others))]))
    vectors = model.embed(wanted)
    vectors = vectors.astype(np.float16).astype(np.float32)
    place = {text: at for at, text in enumerate(wanted)}
    signed = signatures(vectors)

    def pair(kind: str, says: bool | None, one: str, other: str) -> Pair:
        a, b = place[one], place[other]
        alike = len(near(int(signed[a]), signed[b : b + 1], 1)) == 1
        return Pair(kind, says, one, other, float(vectors[a] @ vectors[b]), alike)

    cosines = vectors[: len(texts)] @ vectors[: len(texts)].T
    np.fill_diagonal(cosines, -1)
    neighbours = [
        ("nearest other text", text, texts[int(row.argmax())]) for text, row in zip(texts, cosines, strict=True)
    ]
    return [
        pair(kind, says, *two)
        for says, found in ((True, same), (False, others), (None, neighbours))
        for kind, *two in found
    ]


def counted(pairs: Sequence[Pair], threshold: float, words: bool) -> dict[str, Any]:
    """Of pairs that say the same what is missed, of the others what is marked."""
    missed = bool(pairs[0].same)
    hits = sum(pair.marked(threshold, words) != missed for pair in pairs)
    low, high = wilson(hits, len(pairs))
    name = "missed" if missed else "marked"
    return {"pairs": len(pairs), name: round(hits / len(pairs), 4), "interval": [round(low, 4), round(high, 4)]}


def summary(pairs: Sequence[Pair]) -> dict[str, Any]:
    by_kind: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_kind.setdefault(pair.kind, []).append(pair)
    groups = {
        "says the same": [pair for pair in pairs if pair.same],
        "says something else": [pair for pair in pairs if pair.same is False],
        "nearest other text": by_kind.pop("nearest other text"),
    }
    near_enough = [pair for pair in pairs if pair.cosine >= CHOSEN]
    return {
        "at": {
            str(threshold): {
                name: {
                    "vectors and words": counted(group, threshold, True),
                    "vectors alone": counted(group, threshold, False),
                }
                for name, group in groups.items()
            }
            for threshold in THRESHOLDS
        },
        "by_kind": {kind: counted(group, CHOSEN, True) for kind, group in by_kind.items()},
        "lost_by_signatures": round(sum(not p.signed for p in near_enough) / max(1, len(near_enough)), 4),
    }


def show(body: dict[str, Any]) -> None:
    table = Table("cosine", "missed", "marked wrongly", "… without words", "nearest other text marked")
    for threshold, groups in body["all"]["at"].items():
        same, other, real = (groups[name] for name in ("says the same", "says something else", "nearest other text"))
        cells = (same["vectors and words"]["missed"], other["vectors and words"]["marked"])
        more = (other["vectors alone"]["marked"], real["vectors and words"]["marked"])
        table.add_row(threshold, *(f"{share:.3f}" for share in (*cells, *more)))
    out.print(table)
    for kind, found in body["all"]["by_kind"].items():
        out.print(kind, {name: value for name, value in found.items() if name != "interval"})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.near_duplicates", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="a few texts: does everything run?")
    parser.add_argument("--texts", type=int, help=f"of each set; default {TEXTS}")
    options = parser.parse_args(arguments)
    scorers, wanted = Scorers.found(), options.texts or (QUICK if options.quick else TEXTS)
    model = embedder.load("minilm")
    body: dict[str, Any] = {"load_before": os.getloadavg()[0], "threshold": CHOSEN, "texts_of_each_set": wanted}
    pairs: list[Pair] = []
    for name in SETS:
        if texts := texts_of(name, scorers, wanted):
            of_set = measure(model, texts)
            body[name] = summary(of_set)
            pairs += of_set
    body["all"] = summary(pairs)
    path = write_result("near_duplicates" + ("_quick" if options.quick else ""), body)
    show(body)
    out.print(str(path))


if __name__ == "__main__":
    main()
