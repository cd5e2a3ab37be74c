"""What do the codecs, the disk and sparse reading keep of what full attention over exact KV says?

On the same weights, teacher-forced: the hand-wired recall model and its twins (outliers in the keys, a thin margin, and
a deep one whose two layers lie where INT4 really holds them in 4 bits) answer which value followed a key in a long
noise. Every codec, and exact KV that came back from the disk after a restart, is asked the same as a cold run: the
right answers, the answers of the cold run, and how far the distributions are apart. Keys that had several values are a
control beside it: there the answer is a majority, and a mixture of many places.

Retention on the same weights; no score of a real model.

    python -m benchmarks.kv_fidelity --quick
    python -m benchmarks.kv_fidelity --lengths 2048 131072 --twins hand-wired
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress
from rich.table import Table

from benchmarks import sparse_fidelity
from benchmarks.asking import answered, in_engine, settle
from benchmarks.machine import SEED, out, write_result
from benchmarks.statistics import bootstrap_ratio, wilson
from benchmarks.twins import TWINS, Twin, opened
from model_runtime.generators.checkpoint import Checkpoint
from model_runtime.generators.runtime import Runtime, RuntimeOptions
from model_runtime.kv.shape import BLOCK

CONTEXTS = {2_048: 20, 8_192: 6, 32_768: 2, 131_072: 1}
"""By length in tokens: how many. Each is asked for every key."""
QUICK_CONTEXTS = {1_024: 1}
PAIRS, FREQUENT = 64, 8
OCCURRENCES = 24
"""Of a key of the control; a little more than half with one value."""
TARGETS = {"int8": 0.995, "int4": 0.98}


@dataclass(frozen=True, slots=True)
class Task:
    """`tokens`: whole blocks. `values[i]` followed `keys[i]` at `depths[i]` (0 to 1); the last ones are the control."""

    tokens: tuple[int, ...]
    keys: tuple[int, ...]
    values: tuple[int, ...]
    depths: tuple[float, ...]


def recall_task(length: int, seed: int) -> Task:
    """Bytes: keys stand where their pairs are and nowhere else; 256 is the first token of every text."""
    draw = random.Random(f"{seed} {length}")
    order = draw.sample(range(256), 256)
    keys, others = order[: PAIRS + FREQUENT], order[PAIRS + FREQUENT :]
    tokens = [256, *draw.choices(others, k=length - 1)]
    values = [draw.choice(others) for _ in keys]
    places = draw.sample(range(1, length - 1, 2), PAIRS + FREQUENT * OCCURRENCES)
    for key, value, place in zip(keys[:PAIRS], values, places, strict=False):
        tokens[place : place + 2] = [key, value]
    rest = iter(places[PAIRS:])
    for key, value in zip(keys[PAIRS:], values[PAIRS:], strict=True):
        rival = draw.choice([other for other in others if other != value])
        for n in range(OCCURRENCES):
            place = next(rest)
            tokens[place : place + 2] = [key, value if n < OCCURRENCES // 2 + 2 else rival]
    return Task(tuple(tokens), tuple(keys), tuple(values), tuple(place / length for place in places[: len(keys)]))


def ask(runtime: Runtime, task: Task, codec: str) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Logits [keys, vocabulary] after each key; the keys before it are part of its prompt."""
    rows = []
    for n in range(len(task.keys)):
        found = answered(runtime, (*task.tokens, *task.keys[: n + 1]), codec, most=1)
        rows.append(found.logits[-1])
    return np.stack(rows)


def measure(checkpoint: Checkpoint, task: Task, codecs: Sequence[str], progress: Any) -> dict[str, Any]:
    """Logits by codec; "restarted": exact KV from the disk of a runtime that was closed."""
    found = {}
    for codec in codecs:
        with tempfile.TemporaryDirectory(prefix="stratamem-bench-") as name:
            with _runtime(checkpoint, Path(name), len(task.tokens)) as runtime:
                found[codec] = ask(runtime, task, codec)
                settle(runtime)
            if codec == "exact":
                with _runtime(checkpoint, Path(name), len(task.tokens)) as runtime:
                    found["restarted"] = ask(runtime, task, codec)
                    from_disk = in_engine(runtime, lambda one=runtime: one.cache.counts.hits["disk"])
                    if from_disk < len(task.tokens):
                        raise RuntimeError(f"only {from_disk} tokens came from the disk")
        progress()
    return found


def _runtime(checkpoint: Checkpoint, folder: Path, tokens: int) -> Any:
    room = (tokens // BLOCK + 16) * checkpoint.shape.block_bytes
    return opened(RuntimeOptions(checkpoint.name, folder, room, room, 2 * room), checkpoint)


def compare(tasks: Sequence[Task], cold: Sequence[Any], other: Sequence[Any], part: slice) -> dict[str, Any]:
    """Of the keys in `part`: right answers against those of the cold run, and the distance of the distributions."""
    values = np.concatenate([np.array(task.values)[part] for task in tasks])
    depths = np.concatenate([np.array(task.depths)[part] for task in tasks])
    exact, kept = (np.concatenate([rows[part] for rows in logits]).astype(np.float64) for logits in (cold, other))
    right, was_right = kept.argmax(-1) == values, exact.argmax(-1) == values
    same = kept.argmax(-1) == exact.argmax(-1)
    divergence = _divergence(exact, kept)
    low, high = bootstrap_ratio(right, was_right, SEED)
    by_depth = [right[(depths * 10).astype(int) == tenth] for tenth in range(10)]
    return {
        "asked": len(values),
        "right": round(float(right.mean()), 4),
        "right_exact": round(float(was_right.mean()), 4),
        "ratio": round(float(right.sum() / max(was_right.sum(), 1)), 4),
        "ratio_95": [round(low, 4), round(high, 4)],
        "same_answer": round(float(same.mean()), 4),
        "same_answer_95": [round(bound, 4) for bound in wilson(int(same.sum()), len(same))],
        "kl_mean": float(f"{divergence.mean():.3g}"),
        "kl_p99": float(f"{np.quantile(divergence, 0.99):.3g}"),
        "right_by_depth": [round(float(tenth.mean()), 3) if len(tenth) else None for tenth in by_depth],
    }


def _divergence(exact: Any, kept: Any) -> Any:
    """Kullback-Leibler, in nats, of each row."""
    p, q = (rows - rows.max(-1, keepdims=True) for rows in (exact, kept))
    p, q = (rows - np.log(np.exp(rows).sum(-1, keepdims=True)) for rows in (p, q))
    return (np.exp(p) * (p - q)).sum(-1)


def measure_twin(name: str, twin: Twin, contexts: dict[int, int], folder: Path, progress: Any) -> dict[str, Any]:
    checkpoint = twin.load(folder)
    found: dict[str, Any] = {}
    for length, count in contexts.items():
        tasks = [recall_task(length, SEED + n) for n in range(count)]
        begun = time.monotonic()
        logits = [measure(checkpoint, task, ("exact", *twin.codecs), progress) for task in tasks]
        cold = [one["exact"] for one in logits]
        parts = {"recall": slice(0, PAIRS), "control": slice(PAIRS, None)}
        restarted = [np.array_equal(one["exact"], one["restarted"]) for one in logits]
        found[str(length)] = {
            "restarted_same_bits": f"{sum(restarted)} of {len(restarted)}",
            **{
                codec: {
                    part: compare(tasks, cold, [one[codec] for one in logits], where) for part, where in parts.items()
                }
                for codec in ("restarted", *twin.codecs)
            },
            "seconds": round(time.monotonic() - begun),
        }
        out.print(f"{name}, {length:,} tokens: {found[str(length)]['seconds']} s")
    return found


def verdict(twins: dict[str, Any], sparse: dict[str, Any]) -> dict[str, Any]:
    """The worst of all twins and lengths."""
    rows = [row for twin in twins.values() for row in twin.values()]
    bits = [row["restarted_same_bits"].split(" of ") for row in rows]
    missed = sum(int(there) - int(same) for same, there in bits)
    found: dict[str, Any] = {"restarted runs with other bits": {"found": missed, "target": 0, "met": not missed}}
    for codec, target in TARGETS.items():
        ratios = [row[codec]["recall"]["ratio"] for row in rows if codec in row]
        if ratios:
            found[codec] = {"found": min(ratios), "target": target, "met": min(ratios) >= target}
    return found | sparse["targets"]


def show(body: dict[str, Any]) -> None:
    headings = ("twin", "tokens", "kept", "asked", "right ÷ exact", "95 %", "same answer", "KL", "control: same answer")
    table = Table(*headings, title_justify="left")
    for name, lengths in body["twins"].items():
        for length, row in lengths.items():
            for codec in (codec for codec in ("restarted", "int8", "int4") if codec in row):
                one, control = row[codec]["recall"], row[codec]["control"]
                ratio = " to ".join(map(str, one["ratio_95"]))
                cells = (one["asked"], one["ratio"], ratio, one["same_answer"], one["kl_mean"], control["same_answer"])
                table.add_row(name, f"{int(length):,}", codec, *map(str, cells))
    out.print(table)
    sparse_fidelity.show(body["sparse"])
    out.print(body["targets"])


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    contexts = QUICK_CONTEXTS if options.quick else {n: CONTEXTS.get(n, 1) for n in options.lengths or CONTEXTS}
    body: dict[str, Any] = {"load_before": os.getloadavg()[0], "twins": {}}
    plan = {
        name: {n: count for n, count in contexts.items() if options.lengths or n <= TWINS[name].longest}
        for name in options.twins
    }
    steps = sum(count * (1 + len(TWINS[name].codecs)) for name, lengths in plan.items() for count in lengths.values())
    with (
        tempfile.TemporaryDirectory(prefix="stratamem-bench-") as folder,
        Progress(console=out) as progress,
    ):
        bar = progress.add_task("codecs", total=steps)
        for name, lengths in plan.items():
            body["twins"][name] = measure_twin(
                name, TWINS[name], lengths, Path(folder, name.replace(" ", "-")), lambda: progress.advance(bar)
            )
        body["sparse"] = sparse_fidelity.measure(Path(folder, "sparse"), options.quick, progress)
    body["targets"] = verdict(body["twins"], body["sparse"])
    path = write_result("kv_fidelity" + ("_quick" if options.quick else ""), body)
    show(body)
    out.print(str(path))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kv_fidelity", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="one short context a twin: does everything run?")
    parser.add_argument("--lengths", type=int, nargs="+", help=f"tokens; {' '.join(map(str, CONTEXTS))}")
    parser.add_argument("--twins", nargs="+", choices=TWINS, default=list(TWINS))
    options = parser.parse_args(arguments)
    if any(length % BLOCK or length < 1_024 for length in options.lengths or ()):
        parser.error(f"lengths are multiples of {BLOCK} from 1,024 on")
    return options


if __name__ == "__main__":
    main()
