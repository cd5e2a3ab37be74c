"""Is a needle found when at most a sixteenth of the blocks is read? Beside it what sparse reading can't answer.

The needle lies in text of few letters: the bounds of 32 keys say nothing where any 32 of them reach everywhere. The
control asks which letter follows most often: it must count all of them, and a sixteenth is a sample.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from rich.table import Table

from benchmarks.asking import answered
from benchmarks.machine import out
from benchmarks.statistics import wilson
from benchmarks.twins import TWINS, opened
from model_runtime.generators import job
from model_runtime.generators.runtime import RuntimeOptions
from model_runtime.kv.shape import BLOCK

LENGTHS, QUICK_LENGTHS = (16_384, 65_536), (16_384,)
DEPTHS, QUICK_DEPTHS = 10, 2
NEEDLES = 3
"""By depth."""
LETTERS = 8
NEEDLE = tuple(range(200, 212))
TARGET, TARGET_READ = 0.99, 1 / 16


def there() -> bool:
    """Whether this version of the runtime can leave blocks out."""
    return "sparse" in job.Job.__dataclass_fields__


def haystack(length: int, depth: float, draw: random.Random) -> tuple[tuple[int, ...], int]:
    """Ends with the needle's first token; the block of the needle."""
    tokens = [draw.randrange(LETTERS) for _ in range(length + 19)]
    at = BLOCK + int(depth * (length - 3 * BLOCK - len(NEEDLE)))
    tokens[at : at + len(NEEDLE)] = NEEDLE
    return (*tokens, NEEDLE[0]), at // BLOCK


def frequent(length: int, draw: random.Random) -> tuple[int, ...]:
    """Ends with a key that stood everywhere: twelve followers in random shares."""
    key, followers = 100, range(101, 113)
    weights = [draw.uniform(1, 2) for _ in followers]
    tokens = [token for _ in range(length // 2 + 9) for token in (key, draw.choices(followers, weights)[0])]
    return (*tokens, key, tokens[1], key)


def measure(folder: Path, quick: bool, progress: Any) -> dict[str, Any]:
    """Empty, with a word why, where the runtime has no sparse reading."""
    if not there():
        return {"measured": False, "why": "this version of the runtime reads every block"}
    checkpoint = TWINS["hand-wired"].load(folder)
    depths = QUICK_DEPTHS if quick else DEPTHS
    found: dict[str, Any] = {"measured": True, "lengths": {}}
    for length in QUICK_LENGTHS if quick else LENGTHS:
        plan = [depth / (depths - 1) for depth in range(depths) for _ in range(1 if quick else NEEDLES)]
        room = (length // BLOCK + 16) * checkpoint.shape.block_bytes
        options = RuntimeOptions(checkpoint.name, folder / "kv", room, room, 0, **{"sparse": _policy(length)})
        with opened(options, checkpoint) as runtime:
            rows = []
            for n, depth in enumerate(progress.track(plan, description=f"needles in {length:,}")):
                prompt, block = haystack(length, depth, random.Random(f"{length} {n}"))
                rows.append(_asked(runtime, prompt, len(NEEDLE), block) | {"depth": round(depth, 2)})
            control = [
                _asked(runtime, frequent(length, random.Random(f"{length} {n}")), 2, None)
                for n in range(len(plan) // 3 or 1)
            ]
        found["lengths"][str(length)] = {"needles": _summary(rows), "control": _summary(control)}
    return found | {"targets": _verdict(found["lengths"])}


def _policy(length: int) -> Any:
    """A block in thirty-two, beside the first one."""
    from importlib import import_module

    policy = import_module("model_runtime.kv.retrieval").SparsePolicy
    return policy(dense_tokens=BLOCK, window_tokens=0, top_k=max(1, length // BLOCK // 16 - 2), dense_layers=1)


def _asked(runtime: Any, prompt: Sequence[int], most: int, block: int | None) -> dict[str, Any]:
    """`same`: of the tokens after the first, which is computed with the prompt, those that full attention gives too."""
    from importlib import import_module

    retrieval = import_module("model_runtime.kv.retrieval").Retrieval
    choose, hits = retrieval.choose, []

    def recorded(self: Any, layer: int, q: Any, blocks: int, length: int) -> Any:
        chosen = choose(self, layer, q, blocks, length)
        if layer >= self.policy.dense_layers and self._active:
            hits.append(block in chosen)
        return chosen

    before = dict(runtime.stats()["sparse"])
    with mock.patch.object(retrieval, "choose", recorded):
        sparse = answered(runtime, prompt, "exact", most=most, policy="sparse", sparse=True)
    after = runtime.stats()["sparse"]
    dense = answered(runtime, prompt, "exact", most=most)
    pairs = list(zip(sparse.tokens[1:], dense.tokens[1:], strict=True))
    return {
        "same": sum(a == b for a, b in pairs),
        "asked": len(pairs),
        "right": sum(a == b for a, b in zip(dense.tokens, NEEDLE[1:], strict=False)),
        "hits": sum(hits),
        "chosen": len(hits),
        "read": after["blocks_read"] - before["blocks_read"],
        "there": after["blocks_there"] - before["blocks_there"],
        "fallbacks": after["fallbacks"] - before["fallbacks"],
        "coverage": sparse.done.coverage,  # type: ignore[attr-defined]
    }


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    same, asked = (sum(row[name] for row in rows) for name in ("same", "asked"))
    chosen, there_ = (sum(row[name] for row in rows) for name in ("chosen", "there"))
    coverage = [row["coverage"] for row in rows if row["coverage"] is not None]
    return {
        "asked": asked,
        "same_as_dense": round(same / asked, 4),
        "same_as_dense_95": [round(bound, 4) for bound in wilson(same, asked)],
        "worst_depth": min((row["same"] / row["asked"], row.get("depth")) for row in rows),
        "hit_at_k": round(sum(row["hits"] for row in rows) / chosen, 4) if chosen else None,
        "of_blocks_read": round(sum(row["read"] for row in rows) / there_, 4) if there_ else None,
        "mass_covered": round(sum(coverage) / len(coverage), 4) if coverage else None,
        "fallbacks": sum(row["fallbacks"] for row in rows),
    }


def _verdict(lengths: dict[str, Any]) -> dict[str, Any]:
    needles = [row["needles"] for row in lengths.values()]
    same, read = min(row["same_as_dense"] for row in needles), max(row["of_blocks_read"] or 1.0 for row in needles)
    return {
        "sparse": {"found": same, "target": TARGET, "met": same >= TARGET},
        "sparse: of the blocks read": {"found": read, "target": TARGET_READ, "met": read <= TARGET_READ},
    }


def show(found: dict[str, Any]) -> None:
    if not found["measured"]:
        out.print(f"sparse: {found['why']}")
        return
    names = ("asked", "same_as_dense", "hit_at_k", "of_blocks_read", "mass_covered", "fallbacks")
    table = Table("tokens", "question", *names, title_justify="left")
    for length, row in found["lengths"].items():
        for question, one in row.items():
            table.add_row(f"{int(length):,}", question, *(str(one[name]) for name in names))
    out.print(table)
