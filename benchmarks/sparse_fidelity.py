"""Is a needle found when at most a sixteenth of the blocks is read? Beside it what sparse reading finds hard.

A needle lies in text of few letters: the bounds of 32 keys say nothing where any 32 of them reach everywhere. Many
needles in one text are harder than one: the pages of the others have wide bounds too. The control asks what follows
most often: it must count all of them, and a sixteenth is a sample.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from rich.table import Table

from benchmarks.asking import answered
from benchmarks.machine import SEED, out
from benchmarks.statistics import wilson
from benchmarks.twins import TWINS, opened
from model_runtime.generators.runtime import Runtime, RuntimeOptions
from model_runtime.kv.retrieval import Retrieval, SparsePolicy
from model_runtime.kv.shape import BLOCK

DEPTHS, QUICK_DEPTHS = {16_384: 10, 32_768: 5}, {16_384: 2}
"""By length in tokens: at how many depths one needle is looked for."""
LETTERS = 8
NEEDLE_TOKENS, NEEDLES = 12, 20
"""Each has tokens of its own."""
KEYS, FOLLOWERS = 16, 4
TARGET, TARGET_READ = 0.99, 1 / 16


@dataclass(frozen=True, slots=True)
class Question:
    """`token` ends the prompt; `most` tokens are asked. `block`: where what followed lies; `depth` from 0 to 1."""

    token: int
    most: int
    block: int | None = None
    depth: float | None = None


def haystack(length: int, depths: Sequence[float], seed: int) -> tuple[list[int], list[Question]]:
    """A needle at each of the depths. The first block holds none: it is always read."""
    draw = random.Random(f"{seed} {length}")
    tokens = [draw.randrange(LETTERS) for _ in range(length + 19)]
    questions = []
    for n, depth in enumerate(depths):
        at = BLOCK + int(depth * (length - BLOCK - NEEDLE_TOKENS))
        first = LETTERS + n * NEEDLE_TOKENS
        tokens[at : at + NEEDLE_TOKENS] = range(first, first + NEEDLE_TOKENS)
        questions.append(Question(first, NEEDLE_TOKENS - 1, at // BLOCK, round(depth, 2)))
    return tokens, questions


def spread(count: int) -> list[float]:
    return [n / (count - 1) for n in range(count)]


def frequent(length: int, seed: int) -> tuple[list[int], list[Question]]:
    """Keys that stand everywhere, each before one of four others in random shares."""
    draw = random.Random(f"{seed} {length} control")
    shares = [[draw.uniform(1, 1.3) for _ in range(FOLLOWERS)] for _ in range(KEYS)]
    tokens = []
    for _ in range(length // 2 + 9):
        key = draw.randrange(KEYS)
        tokens += [key, KEYS + FOLLOWERS * key + draw.choices(range(FOLLOWERS), shares[key])[0]]
    return tokens, [Question(key, 3) for key in range(KEYS)]


def measure(folder: Path, quick: bool, progress: Any) -> dict[str, Any]:
    """By length, then by text."""
    checkpoint = TWINS["hand-wired"].load(folder)
    found: dict[str, Any] = {"lengths": {}}
    for length, depths in (QUICK_DEPTHS if quick else DEPTHS).items():
        room = (6 * length // BLOCK + 16) * checkpoint.shape.block_bytes
        options = RuntimeOptions(checkpoint.name, folder / "kv", room, room, 0, sparse=_policy(length))
        rows = found["lengths"][str(length)] = {}
        with opened(options, checkpoint) as runtime:
            texts = {
                "one needle": [haystack(length, [depth], SEED) for depth in spread(depths)],
                "many needles": [haystack(length, spread(NEEDLES), SEED)],
                "control": [frequent(length, SEED)],
            }
            for name, contexts in texts.items():
                plan = [(context, one) for context, questions in contexts for one in questions]
                described = f"{name} in {length:,} tokens"
                rows[name] = _summary([_asked(runtime, *one) for one in progress.track(plan, description=described)])
    return found | {"targets": _verdict(found["lengths"])}


def _policy(length: int) -> SparsePolicy:
    """The first block, and so many more that at most a sixteenth is read."""
    return SparsePolicy(dense_tokens=BLOCK, window_tokens=0, top_k=max(1, length // BLOCK // 16 - 1), dense_layers=1)


def _asked(runtime: Runtime, context: Sequence[int], question: Question) -> dict[str, Any]:
    """`same`: of the tokens after the first, which is computed with the prompt, those that full attention gives too."""
    choose, hits = Retrieval.choose, []

    def recorded(self: Retrieval, layer: int, q: Any, blocks: int, length: int) -> Sequence[int]:
        chosen = choose(self, layer, q, blocks, length)
        if layer >= self.policy.dense_layers and self._active:
            hits.append(question.block in chosen)
        return chosen

    prompt, before = (*context, question.token), dict(runtime.stats()["sparse"])
    with mock.patch.object(Retrieval, "choose", recorded):
        sparse = answered(runtime, prompt, "exact", most=question.most, policy="sparse", sparse=True)
    after = runtime.stats()["sparse"]
    dense = answered(runtime, prompt, "exact", most=question.most)
    pairs = list(zip(sparse.tokens[1:], dense.tokens[1:], strict=True))
    return {
        "depth": question.depth,
        "same": sum(a == b for a, b in pairs),
        "asked": len(pairs),
        "hits": sum(hits),
        "chosen": len(hits),
        "read": after["blocks_read"] - before["blocks_read"],
        "there": after["blocks_there"] - before["blocks_there"],
        "fallbacks": after["fallbacks"] - before["fallbacks"],
        "coverage": sparse.done.coverage,
    }


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    same, asked = (sum(row[name] for row in rows) for name in ("same", "asked"))
    chosen, there_ = (sum(row[name] for row in rows) for name in ("chosen", "there"))
    coverage = [row["coverage"] for row in rows if row["coverage"] is not None]
    return {
        "asked": asked,
        "same_as_dense": round(same / asked, 4),
        "same_as_dense_95": [round(bound, 4) for bound in wilson(same, asked)],
        "missed_at_depths": [row["depth"] for row in rows if row["same"] < row["asked"] and row["depth"] is not None],
        "hit_at_k": round(sum(row["hits"] for row in rows) / chosen, 4)
        if chosen and rows[0]["depth"] is not None
        else None,
        "of_blocks_read": round(sum(row["read"] for row in rows) / there_, 4) if there_ else None,
        "mass_covered": round(sum(coverage) / len(coverage), 4) if coverage else None,
        "fallbacks": sum(row["fallbacks"] for row in rows),
    }


def _verdict(lengths: dict[str, Any]) -> dict[str, Any]:
    needles = [row["one needle"] for row in lengths.values()]
    same, read = min(row["same_as_dense"] for row in needles), max(row["of_blocks_read"] or 1.0 for row in needles)
    return {
        "sparse": {"found": same, "target": TARGET, "met": same >= TARGET},
        "sparse: of the blocks read": {"found": read, "target": TARGET_READ, "met": read <= TARGET_READ},
    }


def show(found: dict[str, Any]) -> None:
    names = ("asked", "same_as_dense", "hit_at_k", "of_blocks_read", "mass_covered", "fallbacks")
    table = Table("tokens", "question", *names, title_justify="left")
    for length, row in found["lengths"].items():
        for question, one in row.items():
            table.add_row(f"{int(length):,}", question, *(str(one[name]) for name in names))
    out.print(table)
