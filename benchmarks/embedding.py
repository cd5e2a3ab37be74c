"""How much faster does the packaged model embed in int8, and what of recall is kept?

Both precisions of one model take turns on one thread, over LoCoMo's turns; then the service answers LoCoMo's questions
once with each, over REST.
"""

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.baselines import Baselines
from benchmarks.machine import out, write_result
from benchmarks.recall_quality import measure as answered
from benchmarks.service import MODELS, StoringEmbedder, percentiles
from benchmarks.sets import Scorers, Selection, tasks_of
from memory.adapters.models.inprocess import load_models
from model_runtime.embedders.embedder import SentenceEmbedder, load
from model_runtime.embedders.precision import Precision

SEED = 1
TEXTS, QUESTIONS, ROUNDS = 1_000, 100, 4
QUICK_TEXTS, QUICK_QUESTIONS, QUICK_ROUNDS = 100, 10, 2
PRECISIONS = (Precision.FLOAT32, Precision.INT8)
SPEED_TARGET, RECALL_TARGET = 1.5, 0.99


def seconds(model: SentenceEmbedder, texts: Sequence[str]) -> float:
    """CPU seconds of one thread: steadier than the clock."""
    begun = time.thread_time()
    model.embed(texts)
    return time.thread_time() - begun


def asked_ms(model: SentenceEmbedder, questions: Sequence[str]) -> list[float]:
    """Milliseconds by the clock, one question at a time."""
    took = []
    for question in questions:
        begun = time.perf_counter()
        model.embed([question])
        took.append(1_000 * (time.perf_counter() - begun))
    return took


def speed(texts: Sequence[str], questions: Sequence[str], rounds: int) -> dict[str, Any]:
    """Ratios are medians over the rounds; the order is reversed every other round."""
    models = {precision: load("minilm", precision, MODELS) for precision in PRECISIONS}
    for model in models.values():
        model.prepare_thread()
        model.embed(texts[:64])
    tokens = sum(map(int, load_models("minilm").tokenizer.count(texts)))
    found: dict[Precision, list[float]] = {precision: [] for precision in PRECISIONS}
    asked: dict[Precision, list[float]] = {precision: [] for precision in PRECISIONS}
    for number in range(rounds):
        for precision in PRECISIONS if number % 2 else PRECISIONS[::-1]:
            found[precision].append(seconds(models[precision], texts))
            asked[precision] += asked_ms(models[precision], questions)
    plain, small = (models[precision].embed(texts) for precision in PRECISIONS)
    likeness = (plain * small).sum(axis=1)
    faster = [one / other for one, other in zip(found[Precision.FLOAT32], found[Precision.INT8], strict=True)]
    return {
        "texts": len(texts),
        "tokens_per_second": {p.value: round(tokens / float(np.median(took))) for p, took in found.items()},
        "faster": round(float(np.median(faster)), 2),
        "faster_by_round": [round(value, 2) for value in faster],
        "question_ms": {p.value: percentiles(took) for p, took in asked.items()},
        "cosine_to_float32": {"mean": round(float(likeness.mean()), 4), "least": round(float(likeness.min()), 4)},
    }


def recall(scorers: Scorers, selection: Selection) -> dict[str, Any]:
    """recall@10 over REST, and of pure dense, by precision."""
    found: dict[str, Any] = {}
    for precision in PRECISIONS:
        models = load_models("minilm", precision=precision, exports=MODELS)
        try:
            tasks = tasks_of("locomo", scorers, selection)
            settings = {"STRATAMEM_EMBEDDER_PRECISION": precision.value}
            body = answered("locomo", tasks, scorers, Baselines(scorers, StoringEmbedder(models)), False, settings)
        finally:
            models.embedder.close()
        found[precision.value] = {system: body[system]["overall"]["recall@10"] for system in ("stratamem", "dense")} | {
            "queries": body["queries"],
            "failed": len(body["failed"]),
            "index_seconds": body["index_seconds"],
        }
    kept = {s: round(found["int8"][s] / found["float32"][s], 4) for s in ("stratamem", "dense")}
    return {**found, "kept": kept}


def verdict(body: dict[str, Any]) -> dict[str, Any]:
    faster, kept = body["speed"]["faster"], body["recall"]["kept"]["stratamem"]
    return {
        "faster": {"found": faster, "target": SPEED_TARGET, "met": faster >= SPEED_TARGET},
        "recall_kept": {"found": kept, "target": RECALL_TARGET, "met": kept >= RECALL_TARGET},
    }


def show(body: dict[str, Any]) -> None:
    table = Table("precision", "tokens/s", "question p50 ms", "recall@10", "pure dense", title_justify="left")
    for precision in PRECISIONS:
        rate, asked = body["speed"]["tokens_per_second"][precision], body["speed"]["question_ms"][precision]
        found = body["recall"][precision]
        table.add_row(precision.value, *map(str, (rate, asked["p50"], found["stratamem"], found["dense"])))
    out.print(table)
    out.print(body["targets"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedding", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few texts, one conversation: does everything run?")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the service is stopped as well
    scorers, load_before = Scorers.found(), os.getloadavg()[0]
    selection = Selection(tasks=1) if options.quick else Selection()
    tasks = tasks_of("locomo", scorers, Selection())
    several = [item.text for task in tasks for item in task.items]
    texts = random.Random(SEED).sample(several, QUICK_TEXTS if options.quick else TEXTS)
    questions = [query["text"] for query in tasks[0].queries][: QUICK_QUESTIONS if options.quick else QUESTIONS]
    body: dict[str, Any] = {"load_before": load_before, "seed": SEED}
    body["speed"] = speed(texts, questions, QUICK_ROUNDS if options.quick else ROUNDS)
    body["recall"] = recall(scorers, selection)
    body["targets"] = verdict(body)
    path = write_result("embedding_quick" if options.quick else "embedding", body)
    show(body)
    out.print(str(path))


if __name__ == "__main__":
    main()
