"""When a question comes back, is its evidence still in the tier? The service's policy beside LRU, LFU, FIFO, random.

LoCoMo, BEAM 100K and QMSum replayed through a semantic tier that holds 50, 25 or 10 % of a conversation's segments.
Each question is asked at two moments after its evidence: the first feeds the policies as a read, the second is scored.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from rich.table import Table

from benchmarks.baselines import Baselines
from benchmarks.machine import SEED, out, write_result
from benchmarks.replay import asked, kept, stream_of
from benchmarks.service import StoringEmbedder, packaged_models
from benchmarks.sets import Scorers, Selection, Task, tasks_of
from benchmarks.statistics import bootstrap_mean
from memory.domain.moves import PolicyName

SETS = ("locomo", "beam-100K", "qmsum")
SHARES = (0.5, 0.25, 0.1)
ROUNDS = 4
"""Replays of each conversation, each with moments of its own: a question's score is their mean."""
OURS = PolicyName.LRU_SIMILARITY

Scores = NDArray[np.float64]


def measure(name: str, tasks: Sequence[Task], baselines: Baselines, embedder: StoringEmbedder) -> dict[str, Any]:
    scores: dict[PolicyName, dict[float, list[Scores]]] = {p: {share: [] for share in SHARES} for p in PolicyName}
    segments = 0
    with Progress(console=out) as progress:
        bar = progress.add_task(name, total=len(tasks))
        for task in tasks:
            stream, questions = stream_of(task, baselines, embedder)
            rounds = [asked(stream, questions, f"{SEED}/{task.scope}/{number}") for number in range(ROUNDS)]
            segments += len(stream.segments)
            for policy in PolicyName:
                for share in SHARES:
                    capacity = max(1, round(share * len(stream.segments)))
                    found = [kept(stream, asks, capacity, policy) for asks in rounds]
                    scores[policy][share].append(np.mean(found, axis=0))
            progress.advance(bar)
    joined = {p: {share: np.concatenate(found) for share, found in of.items()} for p, of in scores.items()}
    return {"conversations": len(tasks), "segments": segments} | summary(joined)


def summary(scores: dict[PolicyName, dict[float, Scores]]) -> dict[str, Any]:
    """By policy: what is kept at each capacity and on their mean; how much more ours keeps, question by question."""
    mean = {policy: np.mean(list(of.values()), axis=0) for policy, of in scores.items()}
    by_share = {p: {f"{share:g}": of for share, of in scores[p].items()} | {"mean": mean[p]} for p in scores}
    return {
        "questions": len(mean[OURS]),
        "kept": {p.value: {share: _about(found) for share, found in of.items()} for p, of in by_share.items()},
        "more_than": {
            p.value: {share: _about(by_share[OURS][share] - found) for share, found in of.items()}
            for p, of in by_share.items()
            if p is not OURS
        },
    }


def _about(scores: Scores) -> dict[str, float]:
    low, high = bootstrap_mean(scores, SEED)
    return {"mean": round(float(scores.mean()), 4), "low": round(low, 4), "high": round(high, 4)}


def targets(sets: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Above each of the others on the mean of the capacities."""
    found = {}
    for name, body in sets.items():
        best = max((p for p in body["kept"] if p != OURS), key=lambda p: body["kept"][p]["mean"]["mean"])
        ours, other = (body["kept"][p]["mean"]["mean"] for p in (OURS, best))
        found[name] = {"found": ours, "target": f"above {other} ({best})", "met": ours > other}
    return found


def show(sets: dict[str, Any]) -> None:
    table = Table("set", "questions", "policy", *(f"{share:.0%}" for share in SHARES), "mean", "ours is above by")
    for name, body in sets.items():
        for policy, by_share in body["kept"].items():
            cells = (f"{one['mean']:.3f}" for one in by_share.values())
            more = body["more_than"].get(policy, {}).get("mean")
            above = f"{more['mean']:.3f} ({more['low']:.3f} to {more['high']:.3f})" if more else ""
            table.add_row(name, str(body["questions"]), policy, *cells, above)
    out.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eviction_quality", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="one conversation a set: does everything run?")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--most", nargs="+", metavar="SET=N", default=[], help="so many conversations of a set only")
    options = parser.parse_args(arguments)
    scorers, load_before = Scorers.found(), os.getloadavg()[0]
    models = packaged_models()
    embedder = StoringEmbedder(models)
    baselines = Baselines(scorers, embedder)
    most = {name: int(count) for name, _, count in (one.partition("=") for one in options.most)}
    sets: dict[str, Any] = {}
    try:
        for name in options.sets:
            if tasks := tasks_of(name, scorers, Selection(tasks=1 if options.quick else most.get(name))):
                sets[name] = measure(name, tasks, baselines, embedder)
    finally:
        models.embedder.close()
    body = {"load_before": load_before, "rounds": ROUNDS, "sets": sets, "targets": targets(sets)}
    path = write_result("eviction_quality_quick" if options.quick else "eviction_quality", body)
    show(sets)
    out.print(str(path))


if __name__ == "__main__":
    main()
